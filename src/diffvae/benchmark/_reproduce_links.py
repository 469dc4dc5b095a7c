"""Figure 4 for one training: the graph that goes into Graph-DiffVAE, the links that come out, and Pearson's."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae import _keys, _linking, _links, _random, pp, tl
from diffvae._adata import result
from diffvae._errors import DataError
from diffvae.benchmark._reproduce_subject import Subject
from diffvae.benchmark._reproduce_train import _records
from diffvae.train import TrainingError

if TYPE_CHECKING:
    from anndata import AnnData

K = {"paper": 1, "default": _linking.K}
"""Most similar cells to which each is joined."""
TOP_K = _linking.TOP_K
"""Most probable links that are kept per cell."""
PEARSON_CELLS = 4000
"""More cells than this are sampled for the comparison with |Pearson|, whose matrix is cells x cells."""


def link(
    prepared: AnnData, subject: Subject, preset: str, max_epochs: int | None, seed: int, edges: bool
) -> dict[str, Any]:
    r"""Join similar cells, train, predict links, and count them between types, in one thread.

    Returns
    -------
    ``table`` (rows of :func:`diffvae.tl.link_table`), ``figures`` (numbers of links, AUC on hidden edges), ``within``
    (share of links within a type, and its mean over types: input graph, predicted links, as many pairs of highest
    \|r\|), with ``edges`` both graphs as pairs of rows, probabilities and a map, and ``note`` if something could not be
    done.
    """
    from diffvae.model import GraphDiffVAE

    assert subject.label_key is not None
    known = np.flatnonzero(subject.adata.obs[subject.label_key].notna())
    adata = prepared[known].copy()
    found: dict[str, Any] = {"table": [], "figures": {}, "within": {}, "edges": {}, "note": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            pp.cell_graph(adata, k=K[preset], rng=seed, progress=False)
            model = GraphDiffVAE(preset).train(adata, max_epochs=max_epochs, rng=seed, progress=False)
            called = tl.links(adata, model, min(TOP_K, adata.n_obs - 1), rng=seed)
            drawn = [_keys.CELL_GRAPH, *([_keys.CALLED_LINKS] if len(called) else [])]
            found["table"] = _records(tl.link_table(adata, subject.label_key, graphs=drawn, rng=seed))
        except (DataError, TrainingError) as error:
            return found | {"note": f"No links were predicted: {error}"}
        if edges:
            tl.tsne(adata, use_rep=_keys.GRAPH_LATENT, key_added=_keys.GRAPH_TSNE, n_jobs=1, rng=seed)
    kept = ("threshold", "n_input", "n_called", "n_new", "validation_auc", "precision", "recall")
    found["figures"] = {k: v for k, v in result(adata, "links").items() if k in kept}
    if "validation_auc" in found["figures"]:
        found["figures"]["pearson_auc"] = model.baseline_auc()
    graphs = {key: _links.edges_of(adata.obsp[key]) for key in (_keys.CELL_GRAPH, _keys.CALLED_LINKS)}
    codes = adata.obs[subject.label_key].astype("category").cat.codes.to_numpy()
    ends = {
        "input": codes[graphs[_keys.CELL_GRAPH]],
        "predicted": codes[graphs[_keys.CALLED_LINKS]],
        "pearson": _pearson(adata, codes, len(graphs[_keys.CALLED_LINKS]), seed),
    }
    found["within"] = {name: _within(pairs) for name, pairs in ends.items()}
    found["within"]["chance"] = float(np.square(np.bincount(codes) / len(codes)).sum())
    found["within"] |= {f"{name}_by_type": _within_by_type(pairs, codes.max() + 1) for name, pairs in ends.items()}
    if edges:
        found["edges"] = {key: known[pairs].tolist() for key, pairs in graphs.items()}
        pairs = graphs[_keys.CALLED_LINKS]
        found["probability"] = np.asarray(adata.obsp[_keys.LINKS][*pairs.T]).ravel().round(4).tolist()
        found["cells"] = known.tolist()
        found["places"] = np.asarray(adata.obsm[_keys.GRAPH_TSNE]).round(3).tolist()
    return found


def _within(ends: np.ndarray) -> float | None:
    """Return the share of links, given by the types of their ends, that have the same at both."""
    return float((ends[:, 0] == ends[:, 1]).mean()) if len(ends) else None


def _within_by_type(ends: np.ndarray, n_types: int) -> float | None:
    """Return the mean over types of the share of a type's links that stay within it, 0 for a type without links.

    One large type whose cells are all alike can hold every link; clusters of all types it can't.

    Examples
    --------
    >>> _within_by_type(np.array([[0, 0], [0, 0], [0, 1]]), 3)  # 2 of 3, 0 of 1, no link
    0.2222222222222222
    """
    if not len(ends):
        return None
    same = ends[:, 0] == ends[:, 1]
    inside = np.bincount(ends[same, 0], minlength=n_types)
    touching = np.bincount(ends.ravel(), minlength=n_types) - inside
    return float((inside / np.maximum(touching, 1)).mean())


def _pearson(adata: AnnData, codes: np.ndarray, n_links: int, seed: int) -> np.ndarray:
    r"""Return the types of the pairs of highest \|r\|, as many per pair of cells as there are links."""
    n = len(codes)
    rows = np.arange(n)
    if n > PEARSON_CELLS:
        rows = np.sort(_random.generator(seed, "pearson cells").choice(n, PEARSON_CELLS, replace=False))
    x = adata.layers[_keys.UNIT][rows]
    x = np.asarray(x.toarray() if hasattr(x, "toarray") else x, dtype=np.float32)
    x = x - x.mean(1, keepdims=True)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    upper = np.triu_indices(len(rows), k=1)
    strength = np.abs(x @ x.T)[upper]
    wanted = round(n_links * len(strength) / (n * (n - 1) / 2))
    if not wanted:
        return np.empty((0, 2), dtype=codes.dtype)
    first = np.argpartition(-strength, min(wanted, len(strength)) - 1)[:wanted]
    return np.stack([codes[rows[end[first]]] for end in upper], axis=1)
