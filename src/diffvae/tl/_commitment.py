"""Which progenitors are committed to a type, by their links?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, hypergeom

from diffvae import _keys, _random
from diffvae._core import graphs, neighbors
from diffvae._core.anndata import groups, representation, require_unique_names, result, results
from diffvae._core.io.matrix import matrix_of
from diffvae._core.validate import Number, Rule, check
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

RULES: dict[str, Rule] = {"max_q": Number("(0, 1)")}


def commitment(
    adata: AnnData,
    source: str,
    groupby: str,
    *,
    targets: Sequence[str] | None = None,
    layer: str | None = _keys.UNIT,
    max_q: float = 0.05,
    rng: _random.Rng = 0,
) -> pd.DataFrame:
    r"""Call each progenitor by the types to which Graph-DiffVAE links it: the paper's closing hypothesis, tested.

    A call says that a progenitor has more links to a type than progenitors usually have. The links of a cell are its
    ``top_k`` cells (:func:`links`) with the largest :math:`\cos(z^*_i, z^*_j)`, in both directions. The length of z*
    reflects how many links a cell has, not its fate, and is left out. The null permutes the links of all progenitors
    and keeps the number of links of each progenitor and type. If progenitors have M links, S_T of them to type T, and
    one progenitor has d links, k_T of them to type T, then

    .. math:: p_T = P(K \ge k_T), \qquad K \sim \mathrm{Hypergeometric}(M,\; S_T,\; d)

    with Benjamini-Hochberg over all progenitors and types. The types with q below ``max_q`` give the call:
    ``uncommitted`` (none), ``biased: T``, ``bipotent: T1/T2``, ``multipotent: T1/T2/T3``, ordered by share of links.

    The null assumes independent links, but links of a kNN graph are correlated: about a tenth of the progenitors from
    one Gaussian cloud next to another type are called although they have no fate. A single progenitor is never called.

    The same calls are made without a model, on the graph of the ``top_k`` cells with the highest Pearson correlation.
    On simulated cells the model finds twice as many committed cells as Pearson at the same false discovery rate;
    neighbours by PCA find the same number with fewer false calls (``benchmarks/commitment_truth.py``). Links show that
    expression is similar; they do not prove a fate.

    Parameters
    ----------
    adata
        After :func:`links`.
    source
        Progenitor type.
    groupby
        Types in ``obs``.
    targets
        Mature types; None for all types but the source.
    layer
        Expression for the Pearson neighbours; None for X.
    max_q
        Types with a smaller q-value give the call.
    rng
        Seed of the approximate neighbour search above 20,000 cells.

    Returns
    -------
    One row per progenitor: ``cell``, ``call``, ``confidence`` (1 - the largest q in the call; NaN if
    uncommitted), ``strongest`` (the type with the smallest q, significant or not; NaN without links to a type), and the
    same for the Pearson neighbours: ``call_pearson``, ``confidence_pearson``, ``strongest_pearson``. Also written to
    ``uns["diffvae"]["commitment"]``; ``"commitment_types"`` has ``n_links``, ``expected``, ``share``, ``p_value`` and
    ``q_value`` of each progenitor, type and graph. ``obs["diffvae_commitment"]`` and
    ``obs["diffvae_commitment_confidence"]`` have the calls, and NaN for other cells.

    Raises
    ------
    DataError
        If the links or a type are missing.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.pp.cell_graph(adata, k=3)
    >>> model = dv.model.GraphDiffVAE(n_latent=10, hidden=32).train(adata, max_epochs=5, progress=False)
    >>> _ = dv.tl.links(adata, model)
    >>> len(dv.tl.commitment(adata, "CD34+", "cell_type"))
    13
    """
    check(RULES, max_q=max_q)
    require_unique_names(adata)
    types = groups(adata, groupby)
    names = [str(c) for c in types.categories]
    to = [t for t in names if t != source] if targets is None else list(dict.fromkeys(targets))
    for name in (source, *to):
        if name not in names:
            raise DataError(f"{name!r} is not a type of adata.obs[{groupby!r}]; the types are: {', '.join(names)}.")
    if source in to or not to:
        raise DataError(f"targets is {to}; it must be one or more types other than {source!r}.")
    rows = np.flatnonzero(types.codes == names.index(source))
    member = np.asarray(types.codes[:, None] == [names.index(t) for t in to], dtype=np.int64)
    k = result(adata, "links")["top_k"]
    spaces = {
        "predicted": (representation(adata, _keys.LINK_PLACES), "cosine"),
        "pearson": (matrix_of(adata, layer), "pearson"),
    }
    tables = {name: link_mass(x, metric, k, rows, member, rng) for name, (x, metric) in spaces.items()}
    calls = pd.DataFrame({"cell": adata.obs_names[rows]})
    for suffix, table in zip(("", "_pearson"), tables.values(), strict=True):
        for column, values in name_cells(table, to, max_q).items():
            calls[column + suffix] = values
    long = [_tidy(name, calls["cell"], to, table) for name, table in tables.items()]
    for key, column in ((_keys.COMMITMENT, "call"), (_keys.COMMITMENT_CONFIDENCE, "confidence")):
        adata.obs[key] = pd.Series(calls[column].to_numpy(), index=adata.obs_names[rows]).reindex(adata.obs_names)
    adata.obs[_keys.COMMITMENT] = adata.obs[_keys.COMMITMENT].astype("category")
    results(adata)["commitment"] = calls
    results(adata)["commitment_types"] = pd.concat(long, ignore_index=True)
    results(adata)["commitment_params"] = {"source": source, "groupby": groupby, "targets": to, "max_q": max_q}
    return calls


def link_mass(
    x: Any, metric: str, k: int, rows: np.ndarray, member: np.ndarray, rng: _random.Rng = 0
) -> dict[str, np.ndarray]:
    """Return the links to the k nearest cells and their significance, each an array progenitors x targets.

    ``rows`` are the progenitors; ``member`` is 1 for the cells of each target, cells x targets.
    """
    indices = neighbors.nearest(x, k, metric=metric, rng=rng).indices
    n = len(indices)
    pairs = np.stack([np.repeat(np.arange(n), k), indices.ravel()], axis=1)[indices.ravel() >= 0]
    links = graphs.graph_of(pairs, n)[rows].astype(np.int64)
    degree = np.asarray(links.sum(1)).reshape(-1, 1)
    n_links = np.asarray(links @ member)
    total, reached = int(degree.sum()), n_links.sum(0)[None, :]
    p = np.where(n_links > 0, hypergeom.sf(n_links - 1, total, reached, degree), 1.0)
    return {
        "n_links": n_links,
        "expected": degree * reached / max(total, 1),
        "share": n_links / np.maximum(degree, 1),
        "p_value": p,
        "q_value": false_discovery_control(p.ravel()).reshape(p.shape),
    }


def name_cells(table: dict[str, np.ndarray], targets: Sequence[str], max_q: float) -> dict[str, Any]:
    """Return call, confidence and strongest type of each progenitor, from :func:`link_mass`."""
    calls, confidence, strongest = [], [], []
    for share, q, n_links in zip(table["share"], table["q_value"], table["n_links"], strict=True):
        called = [i for i in np.argsort(-share, kind="stable") if q[i] < max_q]
        prefix = {0: "uncommitted", 1: "biased: ", 2: "bipotent: "}.get(len(called), "multipotent: ")
        calls.append(prefix + "/".join(targets[i] for i in called))
        confidence.append(1 - max(q[i] for i in called) if called else np.nan)
        strongest.append(targets[int(np.argmin(q))] if n_links.any() else "")
    # categorical, because h5ad cannot store NaN among strings
    types = pd.Categorical(strongest, categories=list(targets))
    return {"call": calls, "confidence": confidence, "strongest": types}


def _tidy(graph: str, cells: pd.Series, targets: Sequence[str], table: dict[str, np.ndarray]) -> pd.DataFrame:
    frame = pd.DataFrame({"graph": graph, "cell": np.repeat(cells, len(targets)), "type": np.tile(targets, len(cells))})
    return frame.assign(**{name: values.ravel() for name, values in table.items()}).reset_index(drop=True)
