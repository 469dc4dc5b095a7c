"""Which progenitors have begun to commit, and to what?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import false_discovery_control, hypergeom

from diffvae import _keys, _neighbours, _random
from diffvae._adata import groups, result, results
from diffvae._errors import DataError
from diffvae.pp._matrix import matrix_of

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

    A progenitor's link mass to a type is the sum of the probabilities of its top links to cells of it. Under the null
    its links go to random cells, each as popular as it is (degrees kept): of the 2m - d ends of links that are not its
    own, S_T are at cells of type T, and the number of its d links that reach T is hypergeometric,

    .. math:: p_T = P(K \ge k_T), \qquad K \sim \mathrm{Hypergeometric}(2m - d,\; S_T,\; d)

    with q-values (Benjamini-Hochberg) over all progenitors and types. Types with q below ``max_q`` name the cell:
    ``uncommitted`` without any, ``biased: T``, ``bipotent: T1/T2``, ``multipotent: T1/T2/T3``, in the order of link
    mass.

    The same calls are made on the raw graph of as many most Pearson-correlated cells: what the model adds is the
    difference. Links say that expression is alike, and so where a cell might be headed; they are no proof of fate.

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

    Returns ------- One row per progenitor: ``cell``, ``call``, ``confidence`` (1 - q of the weakest type in the call;
    NaN if uncommitted), ``strongest`` (the type with the most link mass beyond expectation, significant or not; NaN
    without links to any), and the same of the Pearson neighbours: ``call_pearson``, ``confidence_pearson``,
    ``strongest_pearson``. Also written to ``uns["diffvae"]["commitment"]``, beside ``"commitment_types"``: per
    progenitor, type and graph ``n_links``, ``expected``, ``share`` of the link mass, ``p_value``, ``q_value``.
    ``obs["diffvae_commitment"]`` and ``obs["diffvae_commitment_confidence"]`` have the calls; other cells have NaN.

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
    types = groups(adata, groupby)
    names = [str(c) for c in types.categories]
    wanted = [t for t in names if t != source] if targets is None else list(dict.fromkeys(targets))
    for name in (source, *wanted):
        if name not in names:
            raise DataError(f"{name!r} is no type of adata.obs[{groupby!r}]; the types are: {', '.join(names)}.")
    if source in wanted or not wanted:
        raise DataError(f"The targets of {source!r} must be one or more other types; they are: {', '.join(wanted)}.")
    if _keys.LINKS not in adata.obsp:
        raise DataError("adata.obsp['diffvae_links'] is missing; run diffvae.tl.links(adata, model) first.")
    rows = np.flatnonzero(types.codes == names.index(source))
    member = np.asarray(types.codes[:, None] == [names.index(t) for t in wanted], dtype=np.float32)
    k = result(adata, "links")["top_k"]
    graphs = {
        "predicted": sparse.csr_matrix(adata.obsp[_keys.LINKS]),
        "pearson": _pearson(matrix_of(adata, layer), k, rng),
    }
    tables = {name: _link_mass(weights, rows, member) for name, weights in graphs.items()}
    calls = pd.DataFrame({"cell": adata.obs_names[rows]})
    for suffix, table in zip(("", "_pearson"), tables.values(), strict=True):
        for column, values in _calls(table, wanted, max_q).items():
            calls[column + suffix] = values
    long = [_tidy(name, calls["cell"], wanted, table) for name, table in tables.items()]
    for key, column in ((_keys.COMMITMENT, "call"), (_keys.COMMITMENT_CONFIDENCE, "confidence")):
        adata.obs[key] = pd.Series(calls[column].to_numpy(), index=adata.obs_names[rows]).reindex(adata.obs_names)
    adata.obs[_keys.COMMITMENT] = adata.obs[_keys.COMMITMENT].astype("category")
    results(adata)["commitment"] = calls
    results(adata)["commitment_types"] = pd.concat(long, ignore_index=True)
    results(adata)["commitment_params"] = {"source": source, "groupby": groupby, "targets": wanted, "max_q": max_q}
    return calls


def _pearson(x: object, k: int, rng: _random.Rng) -> sparse.csr_matrix:
    """Return the graph that joins each cell to its k most correlated cells, without a model."""
    found = _neighbours.nearest(x, k, metric="pearson", rng=rng)
    n = len(found.indices)
    rows, there = np.repeat(np.arange(n), k), found.indices.ravel() >= 0
    entries = found.scores.ravel()[there].clip(min=1e-6), (rows[there], found.indices.ravel()[there])
    one_way = sparse.csr_matrix(entries, shape=(n, n))
    return sparse.csr_matrix(one_way.maximum(one_way.T))


def _link_mass(weights: sparse.csr_matrix, rows: np.ndarray, member: np.ndarray) -> dict[str, np.ndarray]:
    """Return links, expectation, share of the mass, p and q, each progenitors x targets."""
    ones = weights.copy()
    ones.data[:] = 1
    degree = np.asarray(ones.sum(1)).ravel()
    n_links = np.asarray(ones[rows] @ member).round().astype(np.int64)
    mass = np.asarray(weights[rows] @ member, dtype=np.float64)
    total = np.asarray(weights[rows].sum(1), dtype=np.float64).reshape(-1, 1)
    own = degree[rows][:, None].astype(np.int64)
    ends = (degree @ member).astype(np.int64)[None, :]
    free = int(degree.sum()) - own
    p = np.where(n_links > 0, hypergeom.sf(n_links - 1, free, ends, own), 1.0)
    return {
        "n_links": n_links,
        "expected": own * ends / np.maximum(free, 1),
        "share": np.divide(mass, total, out=np.zeros_like(mass), where=total > 0),
        "p_value": p,
        "q_value": false_discovery_control(p.ravel()).reshape(p.shape),
    }


def _calls(table: dict[str, np.ndarray], targets: Sequence[str], max_q: float) -> dict[str, list]:
    """Return call, confidence and strongest type of each progenitor."""
    calls, confidence, strongest = [], [], []
    for share, q, n_links, expected in zip(
        *(table[k] for k in ("share", "q_value", "n_links", "expected")), strict=True
    ):
        named = [i for i in np.argsort(-share, kind="stable") if q[i] < max_q]
        word = {0: "uncommitted", 1: "biased: ", 2: "bipotent: "}.get(len(named), "multipotent: ")
        calls.append(word + "/".join(targets[i] for i in named))
        confidence.append(1 - max(q[i] for i in named) if named else np.nan)
        most = int(np.argmax(share * (n_links > expected)))
        strongest.append(targets[most] if n_links[most] > expected[most] else np.nan)
    return {"call": calls, "confidence": confidence, "strongest": strongest}


def _tidy(graph: str, cells: pd.Series, targets: Sequence[str], table: dict[str, np.ndarray]) -> pd.DataFrame:
    frame = pd.DataFrame({"graph": graph, "cell": np.repeat(cells, len(targets)), "type": np.tile(targets, len(cells))})
    return frame.assign(**{name: values.ravel() for name, values in table.items()}).reset_index(drop=True)
