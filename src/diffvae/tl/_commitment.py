"""Which progenitors have begun to commit, and to what?"""

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
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

MAX_Q = 0.05


def commitment(
    adata: AnnData,
    source: str,
    groupby: str,
    *,
    targets: Sequence[str] | None = None,
    layer: str | None = _keys.UNIT,
    max_q: float = MAX_Q,
    rng: _random.Rng = 0,
) -> pd.DataFrame:
    r"""Call each progenitor by the types to which Graph-DiffVAE links it: the paper's closing hypothesis, tested.

    A progenitor's link mass to a type is the share of its links that reach cells of it. Its links are the ``top_k`` of
    :func:`links` cells with the largest :math:`\cos(z^*_i, z^*_j)`, in both directions: the length of z*, a cell's
    popularity, says nothing of fate and is left out. Under the null the links of all progenitors are dealt out among
    them anew, each keeping its number of links and each type the number of links that it gets (degrees kept): of the M
    links of progenitors, S_T go to type T, and of the d of one progenitor

    .. math:: p_T = P(K \ge k_T), \qquad K \sim \mathrm{Hypergeometric}(M,\; S_T,\; d)

    with q-values (Benjamini-Hochberg) over all progenitors and types. So a call says that a cell has more links to a
    type than progenitors have as a rule. Types with q below ``max_q`` name the cell: ``uncommitted`` without any,
    ``biased: T``, ``bipotent: T1/T2``, ``multipotent: T1/T2/T3``, in the order of link mass.

    The null takes the links of one cell for independent draws, which those of a kNN graph aren't quite: of progenitors
    without any fate, drawn from one Gaussian cloud beside one other type, about a tenth are called. A single progenitor
    has no others to be compared with and is never called.

    The same calls are made on the graph of as many most Pearson-correlated cells, without a model. On simulated cells,
    where the truth is known, the model finds twice as many of the cells that have begun to commit as Pearson does,
    among as many false calls in a hundred; neighbours by PCA find as many with fewer false calls
    (``benchmarks/commitment_truth.py``). Links say that expression is alike; they are no proof of fate.

    Parameters
    ----------
    adata
        After :func:`links`.
    source
        Progenitor type.
    groupby
        Types in ``obs``.
    targets
        Mature types; None for all others.
    layer
        Expression for the Pearson neighbours; None for X.
    max_q
        Largest q-value of a type that names a cell.
    rng
        Seed of the approximate search for neighbours among more than 20,000 cells.

    Returns
    -------
    One row per progenitor: ``cell``, ``call``, ``confidence`` (1 - q of the weakest type in the call; NaN if
    uncommitted), ``strongest`` (the type with the smallest q, significant or not; "" without links to any), and the
    same of the Pearson neighbours: ``call_pearson``, ``confidence_pearson``, ``strongest_pearson``. Also written to
    ``uns["diffvae"]["commitment"]``, beside ``"commitment_types"``: per progenitor, type and graph ``n_links``,
    ``expected``, ``share``, ``p_value``, ``q_value``. ``obs["diffvae_commitment"]`` and
    ``obs["diffvae_commitment_confidence"]`` have the calls; other cells have NaN.

    Raises
    ------
    DataError
        If the links are missing, or there is no such type.

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
    if not 0 < max_q < 1:
        raise ValueError(f"max_q is {max_q}; it is a q-value, between 0 and 1.")
    require_unique_names(adata)
    types = groups(adata, groupby)
    names = [str(c) for c in types.categories]
    wanted = [t for t in names if t != source] if targets is None else list(dict.fromkeys(targets))
    for name in (source, *wanted):
        if name not in names:
            raise DataError(f"{name!r} is no type of adata.obs[{groupby!r}]; the types are: {', '.join(names)}.")
    if source in wanted or not wanted:
        raise DataError(f"The targets of {source!r} must be one or more other types; they are: {', '.join(wanted)}.")
    rows = np.flatnonzero(types.codes == names.index(source))
    member = np.asarray(types.codes[:, None] == [names.index(t) for t in wanted], dtype=np.int64)
    k = result(adata, "links")["top_k"]
    spaces = {
        "predicted": (representation(adata, _keys.LINK_PLACES), "cosine"),
        "pearson": (matrix_of(adata, layer), "pearson"),
    }
    tables = {name: link_mass(x, metric, k, rows, member, rng) for name, (x, metric) in spaces.items()}
    calls = pd.DataFrame({"cell": adata.obs_names[rows]})
    for suffix, table in zip(("", "_pearson"), tables.values(), strict=True):
        for column, values in name_cells(table, wanted, max_q).items():
            calls[column + suffix] = values
    long = [_tidy(name, calls["cell"], wanted, table) for name, table in tables.items()]
    for key, column in ((_keys.COMMITMENT, "call"), (_keys.COMMITMENT_CONFIDENCE, "confidence")):
        adata.obs[key] = pd.Series(calls[column].to_numpy(), index=adata.obs_names[rows]).reindex(adata.obs_names)
    adata.obs[_keys.COMMITMENT] = adata.obs[_keys.COMMITMENT].astype("category")
    results(adata)["commitment"] = calls
    results(adata)["commitment_types"] = pd.concat(long, ignore_index=True)
    results(adata)["commitment_params"] = {"source": source, "groupby": groupby, "targets": wanted, "max_q": max_q}
    return calls


def link_mass(
    x: Any, metric: str, k: int, rows: np.ndarray, member: np.ndarray, rng: _random.Rng = 0
) -> dict[str, np.ndarray]:
    """Return links, expectation, share, p and q of the k nearest cells by a metric, each progenitors x targets.

    ``rows`` are the progenitors, ``member`` says which cells are of which target, cells x targets.
    """
    found = neighbors.nearest(x, k, metric=metric, rng=rng)
    n = len(found.indices)
    there = found.indices.ravel() >= 0
    pairs = np.stack([np.repeat(np.arange(n), k), found.indices.ravel()], axis=1)[there]
    links = graphs.graph_of(pairs, n)[rows].astype(np.int64)
    own = np.asarray(links.sum(1)).reshape(-1, 1)
    n_links = np.asarray(links @ member)
    total, reached = int(own.sum()), n_links.sum(0)[None, :]
    p = np.where(n_links > 0, hypergeom.sf(n_links - 1, total, reached, own), 1.0)
    return {
        "n_links": n_links,
        "expected": own * reached / max(total, 1),
        "share": n_links / np.maximum(own, 1),
        "p_value": p,
        "q_value": false_discovery_control(p.ravel()).reshape(p.shape),
    }


def name_cells(table: dict[str, np.ndarray], targets: Sequence[str], max_q: float) -> dict[str, Any]:
    """Return call, confidence and strongest type of each progenitor."""
    calls, confidence, strongest = [], [], []
    for share, q, n_links in zip(table["share"], table["q_value"], table["n_links"], strict=True):
        named = [i for i in np.argsort(-share, kind="stable") if q[i] < max_q]
        word = {0: "uncommitted", 1: "biased: ", 2: "bipotent: "}.get(len(named), "multipotent: ")
        calls.append(word + "/".join(targets[i] for i in named))
        confidence.append(1 - max(q[i] for i in named) if named else np.nan)
        strongest.append(targets[int(np.argmin(q))] if n_links.any() else "")
    # categories, because h5ad can't hold NaN among strings
    types = pd.Categorical(strongest, categories=list(targets))
    return {"call": calls, "confidence": confidence, "strongest": types}


def _tidy(graph: str, cells: pd.Series, targets: Sequence[str], table: dict[str, np.ndarray]) -> pd.DataFrame:
    frame = pd.DataFrame({"graph": graph, "cell": np.repeat(cells, len(targets)), "type": np.tile(targets, len(cells))})
    return frame.assign(**{name: values.ravel() for name, values in table.items()}).reset_index(drop=True)
