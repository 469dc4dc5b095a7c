"""In which type does a random walk through the graph of cells end?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from diffvae import _keys, _random
from diffvae._core import graphs
from diffvae._core.anndata import graph as stored_graph
from diffvae._core.anndata import groups, require_unique_names, results
from diffvae._core.neighbors import nearest
from diffvae._core.validate import Flag, Number, Rule, Whole, check
from diffvae._errors import DataError
from diffvae.pp._whiten import components, whitened

if TYPE_CHECKING:
    from anndata import AnnData

K = 30
ALPHA = 0.9
ALL = "all"
"""Name of the group of all progenitors."""
TOLERANCE = 1e-8
"""Relative residual at which the solve stops."""
RULES: dict[str, Rule] = {
    "k": Whole(1),
    "alpha": Number("(0, 1)"),
    "n_bootstraps": Whole(0),
    "all_cells": Flag(),
}


def fates(
    adata: AnnData,
    source: str,
    groupby: str,
    *,
    targets: Sequence[str] | None = None,
    earlier: Sequence[str] | None = None,
    graph: str | None = None,
    use_rep: str | None = None,
    k: int = K,
    alpha: float = ALPHA,
    all_cells: bool = False,
    n_bootstraps: int = 0,
    split_by: str | None = None,
    key_added: str = _keys.FATES,
    rng: _random.Rng = 0,
) -> pd.DataFrame:
    r"""Rank progenitors by the probability that a random walk from them ends in each mature type.

    .. math:: B = \alpha (I - \alpha Q)^{-1} R, \qquad P = D^{-1} W

    with W the symmetric graph of cells, D its degrees, Q the steps of P among the cells through which the walk passes
    (the progenitors, and types that are neither targets nor ``earlier``: those in between), and R (these cells x types)
    the summed steps to each target. Before every step the walk stops with probability :math:`1 - \alpha`; it also ends
    in cells of earlier types. So a row sums to less than 1; divide by the sum for shares.
    :math:`D^{1/2} (I - \alpha Q) D^{-1/2}` is symmetric and positive definite with a condition number of at most
    :math:`(1 + \alpha) / (1 - \alpha)`. Conjugate gradients therefore need the same few iterations for any number of
    cells, and time and memory are linear in cells.

    By default W joins the 30 nearest cells by Euclidean distance in principal components that are whitened within all
    types but the source (:func:`diffvae.pp.whiten`). The values rank cells. They are no probabilities of what a cell
    becomes: use :func:`commitment` to call cells. On simulated trees they rank the progenitors that have begun towards
    a type better than links or unwhitened neighbours do (``benchmarks/commitment_truth.py``).

    Parameters
    ----------
    adata
        Cells prepared by :func:`diffvae.pp.prepare`, or any log-normalised cells.
    source
        Progenitor type.
    groupby
        Types in ``obs``.
    targets
        Types in which the walk is counted; None for all but ``source`` and ``earlier``. Name the mature types alone to
        see through a stage between them and the source.
    earlier
        Types upstream of the source. They end a walk (not with ``all_cells``), but are never fates.
    graph
        Key of a graph in ``obsp``, such as ``"cell_graph"`` or ``"diffvae_called_links"``; its nonzero entries are
        edges. None for the graph described above.
    use_rep
        Key in ``obsm`` whose Euclidean neighbours make the graph instead, as it is; None for whitened components.
    k
        Neighbours of each cell in that graph.
    alpha
        Probability to go on.
    all_cells
        Whether the walk also passes through earlier types, and all cells have values. Cells of a target then have 1
        for their own type.
    n_bootstraps
        Bootstraps for standard errors: each gives every cell an exponential weight, and a step to it is as likely as
        the weight says (Bayesian bootstrap of the cells that make up the graph).
    split_by
        Column of ``obs`` that groups the progenitors, such as ``"diffvae_commitment"``: the mean values of each group
        are written into ``uns["diffvae"]["fate_table"]``.
    key_added
        Key in ``obsm``; the standard errors have the ending ``_se``.
    rng
        Seed of the components, the approximate neighbours above 10,000 cells, and the bootstraps.

    Returns
    -------
    B, cells x targets, with cell names as index: the progenitors, or all cells. Writes ``obsm[key_added]`` (float64,
    NaN for cells without values), ``obsm[key_added + "_se"]`` with bootstraps, and ``uns["diffvae"]["fates"]``:
    ``names`` of the columns, the parameters, ``hub_share`` (share of the edges that touch the most linked 1 % of the
    cells) and ``n_unreached`` (cells from which no target can be reached).

    With ``split_by``, ``uns["diffvae"]["fate_table"]`` has one row per group of progenitors (``all`` first) and target:
    ``group``, ``n_cells``, ``type``, the mean ``probability`` over the group, its standard error ``se`` over the
    bootstraps (NaN with fewer than 2), ``pca`` (the mean on the graph of the k nearest cells by Euclidean distance in
    the principal components, without whitening), and ``null`` and ``null_sd``: mean and standard deviation of a group
    of that size drawn at random from the progenitors.

    Raises
    ------
    DataError
        If a type or the graph is missing, or two roles name the same type.

    References
    ----------
    Lange et al., CellRank for directed single-cell fate mapping, Nature Methods 19:159 (2022).

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.simulate_differentiation(300, 100)
    >>> dv.pp.prepare(adata)
    >>> table = dv.tl.fates(adata, "MEP", "cell_type", targets=["Erythrocyte", "Thrombocyte"], earlier=["HSPC"])
    >>> table.columns.tolist()
    ['Erythrocyte', 'Thrombocyte']
    >>> bool(table.sum(axis=1).between(0, 1).all())
    True
    """
    check(RULES, k=k, alpha=alpha, n_bootstraps=n_bootstraps, all_cells=all_cells)
    require_unique_names(adata)
    if graph is not None and use_rep is not None:
        raise ValueError("graph and use_rep are both given; the graph is either stored or made of neighbours.")
    if split_by is not None and split_by not in list(adata.obs):
        raise DataError(f"split_by is {split_by!r}; the columns of adata.obs are: {', '.join(adata.obs)}.")
    types, to, before = roles(adata, source, groupby, targets, earlier)
    names = np.asarray(types, dtype=object)
    if split_by is not None and (adata.obs[split_by][names == source].astype(str) == ALL).any():
        raise DataError(f"adata.obs[{split_by!r}] has a group {ALL!r}, the name of all progenitors; rename the group.")
    member = (names[:, None] == np.array(to, dtype=object)).astype(float)
    # a way to a mature type may lead through types in between
    walks = ~member.any(axis=1) & (all_cells | ~np.isin(names, before))
    shown = walks if all_cells else names == source
    x = None
    if graph is None:
        x = components(adata, use_rep, rng=rng)
        links = _made(x, types, source, use_rep is None, k, rng)
    else:
        links = stored_graph(adata, graph)
    values = np.full(member.shape, np.nan)
    found = absorption(links, walks, member, alpha)
    values[walks] = found
    values[~shown] = np.nan
    table = pd.DataFrame(values, index=adata.obs_names, columns=to)
    errors, weights, drawn = None, [], []
    if n_bootstraps:
        draw = _random.generator(rng, "fates", "bootstrap")
        for _ in range(n_bootstraps):
            weights.append(draw.standard_exponential(adata.n_obs))
            drawn.append(absorption(links, walks, member, alpha, weights[-1]))
            weights[-1] = weights[-1][walks]
        errors = np.full(member.shape, np.nan)
        errors[walks] = np.std(drawn, axis=0, ddof=1) if n_bootstraps > 1 else np.nan
        errors[walks & ~shown] = np.nan
    if all_cells:
        table[~walks] = member[~walks]
        if errors is not None:
            errors[~walks] = 0.0
    adata.obsm[key_added] = table.to_numpy()
    adata.obsm.pop(f"{key_added}_se", None)  # of an earlier call
    if errors is not None:
        adata.obsm[f"{key_added}_se"] = errors
    results(adata)["fates"] = {
        "names": to, "source": source, "groupby": groupby, "earlier": before, "alpha": alpha,
        "graph": graph or f"{k} nearest, {use_rep or 'whitened components'}", "all_cells": all_cells,
        "n_bootstraps": n_bootstraps, "key_added": key_added, "hub_share": graphs.hub_share(links),
        "n_unreached": int((unreached(links, walks, member) & shown[walks]).sum()),
    }  # fmt: skip
    results(adata).pop("fate_table", None)
    if split_by is not None:
        plain = neighbor_graph(components(adata, rng=rng) if x is None or use_rep is not None else x, k, rng)
        of = {"probability": found, "pca": absorption(plain, walks, member, alpha)}
        own = names[walks] == source
        results(adata)["fate_table"] = _group_means(of, own, adata.obs[split_by][walks], to, drawn, weights)
    return table if all_cells else table[shown]


def roles(
    adata: AnnData, source: str, groupby: str, targets: Sequence[str] | None, earlier: Sequence[str] | None
) -> tuple[pd.Categorical, list[str], list[str]]:
    """Return the types, the targets and the earlier types; refuse unknown types and types with two roles."""
    types = groups(adata, groupby)
    names = [str(c) for c in types.categories]
    if isinstance(targets, str) or isinstance(earlier, str):
        raise ValueError("targets and earlier are lists of types; write ['Monocyte'], not 'Monocyte'.")
    before = [] if earlier is None else list(dict.fromkeys(earlier))
    to = [t for t in names if t not in (source, *before)] if targets is None else list(dict.fromkeys(targets))
    for name in (source, *to, *before):
        if name not in names:
            raise DataError(f"{name!r} is not a type of adata.obs[{groupby!r}]; the types are: {', '.join(names)}.")
    if source in to or not to:
        raise DataError(f"targets is {to}; it must be one or more types other than {source!r}.")
    if both := [name for name in before if name in to or name == source]:
        raise DataError(f"earlier has {both[0]!r}, which is also the source or a target; a type has one role.")
    return types, to, before


def _made(
    x: np.ndarray, types: pd.Categorical, source: str, whiten: bool, k: int, rng: _random.Rng
) -> sparse.csr_matrix:
    """Return the symmetric graph of the k nearest cells, of whitened components or of a representation as it is."""
    if whiten:
        within = np.asarray(types, dtype=object) != source
        x = whitened(x, np.asarray(types.codes), within)[0]
    return neighbor_graph(x, k, rng)


def _group_means(
    of: dict[str, np.ndarray],
    own: np.ndarray,
    groups_of: pd.Series,
    targets: list[str],
    drawn: list[np.ndarray],
    weights: list[np.ndarray],
) -> pd.DataFrame:
    """Return the mean of each group of progenitors with its standard error, on both graphs, and that of random groups.

    ``own`` says which of the walking cells are progenitors. In each bootstrap cells count by their weight.
    """
    labels = groups_of.astype(object).where(groups_of.notna(), None).to_numpy()
    members = {ALL: own}
    for name in sorted({str(label) for label in labels[own] if label is not None}):
        members[name] = own & np.array([label is not None and str(label) == name for label in labels])
    whole, n = of["probability"][own], int(own.sum())
    tables = []
    for name, member in members.items():
        size = int(member.sum())
        means = [np.average(b[member], axis=0, weights=w[member]) for b, w in zip(drawn, weights, strict=True)]
        finite = np.sqrt((n - size) / max(n - 1, 1) / size)  # a sample without replacement
        tables.append(
            pd.DataFrame(
                {
                    "group": name,
                    "n_cells": size,
                    "type": targets,
                    **{column: values[member].mean(axis=0) for column, values in of.items()},
                    "se": np.std(means, axis=0, ddof=1) if len(means) > 1 else np.nan,
                    "null": whole.mean(axis=0),
                    "null_sd": whole.std(axis=0) * finite,
                }
            )
        )
    columns = ["group", "n_cells", "type", "probability", "se", "pca", "null", "null_sd"]
    return pd.concat(tables, ignore_index=True)[columns]


def neighbor_graph(x: Any, k: int, rng: _random.Rng = 0, metric: str = "euclidean") -> sparse.csr_matrix:
    """Return the symmetric graph of ones that joins each row to its k nearest others."""
    n = x.shape[0]
    k = min(k, n - 1)
    indices = nearest(x, k, metric=metric, rng=rng).indices
    pairs = np.stack([np.repeat(np.arange(n), k), indices.ravel()], axis=1)[indices.ravel() >= 0]
    return graphs.graph_of(pairs, n)


def unreached(graph: sparse.csr_matrix, walks: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return which of the walking cells reach no target, however long the walk.

    Their probability is 0, but it is so too, within rounding, many steps away from every target.
    """
    w = sparse.csr_matrix(graph)[walks]
    piece = connected_components(w[:, walks], directed=False)[1]
    ends = np.asarray((w @ member).sum(axis=1)).ravel() > 0
    return np.bincount(piece, ends)[piece] == 0


def absorption(
    graph: sparse.csr_matrix,
    walks: np.ndarray,
    member: np.ndarray,
    alpha: float = ALPHA,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Return B of the cells through which the walk passes, walking cells x targets.

    ``graph`` is symmetric; ``walks`` says which cells the walk passes through; ``member`` is 1 for the cells of each
    target, cells x targets; ``weights`` multiply the chance of a step to each cell.
    """
    from scipy.sparse.linalg import cg

    w = sparse.csr_matrix(graph, dtype=np.float64)
    if weights is not None:
        w = sparse.diags_array(weights) @ w @ sparse.diags_array(weights)
    w = sparse.csr_matrix(w)[walks]
    degree = np.asarray(w.sum(axis=1)).ravel()
    root = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)  # a cell without edges stays put
    scaled = sparse.diags_array(root)
    among = sparse.csr_matrix(sparse.eye_array(len(degree)) - alpha * (scaled @ w[:, walks] @ scaled))
    steps = alpha * root[:, None] * (w @ member)
    solved = [cg(among, column, rtol=TOLERANCE, atol=0.0)[0] for column in steps.T]
    return np.clip(root[:, None] * np.stack(solved, axis=1), 0.0, 1.0)
