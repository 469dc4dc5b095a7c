"""Figure 4 for one training: the graph that goes into Graph-DiffVAE, the links that come out, and Pearson's."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae import _keys, _linking, _links, _random
from diffvae._adata import result
from diffvae._errors import DataError
from diffvae.benchmark._reproduce_subject import Subject
from diffvae.benchmark._reproduce_train import _records
from diffvae.train import TrainingError

if TYPE_CHECKING:
    from anndata import AnnData

K = {"paper": 1, "default": _linking.K}
"""Most similar cells to which each is joined."""
PEARSON_CELLS = 4000
"""More cells than this are sampled for the comparison with |Pearson|, whose matrix is cells x cells."""


def link(
    prepared: AnnData, subject: Subject, preset: str, max_epochs: int | None, seed: int, edges: bool
) -> dict[str, Any]:
    r"""Join similar cells, train, predict links, and count them between types.

    Returns
    -------
    ``table`` (rows of :func:`diffvae.tl.link_table`), ``figures`` (numbers of links, AUC on hidden edges), ``within``
    (share of links within a type: input graph, predicted links, as many pairs of highest \|r\|), with ``edges`` both
    graphs as pairs of rows, and ``note`` if something could not be done.
    """
    assert subject.label_key is not None
    known = np.flatnonzero(subject.adata.obs[subject.label_key].notna())
    adata = prepared[known].copy()
    found: dict[str, Any] = {"table": [], "figures": {}, "within": {}, "edges": {}, "note": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            linked = _linking.link(
                adata, groupby=subject.label_key, k=K[preset], preset=preset, max_epochs=max_epochs, seed=seed,
                progress=False,
            )  # fmt: skip
        except (DataError, TrainingError) as error:
            return found | {"note": f"No links were predicted: {error}"}
    assert linked.types is not None
    kept = ("threshold", "n_input", "n_called", "n_new", "validation_auc", "pearson_auc", "precision", "recall")
    found["table"] = _records(linked.types)
    found["figures"] = {k: v for k, v in linked.summary["links"].items() if k in kept}
    graphs = {key: _links.edges_of(adata.obsp[key]) for key in (_keys.CELL_GRAPH, _keys.CALLED_LINKS)}
    codes = adata.obs[subject.label_key].astype("category").cat.codes.to_numpy()
    found["within"] = {
        "input": _within(graphs[_keys.CELL_GRAPH], codes),
        "predicted": _within(graphs[_keys.CALLED_LINKS], codes),
        "pearson": _pearson_within(adata, codes, len(graphs[_keys.CALLED_LINKS]), seed),
        "chance": float((np.bincount(codes) / len(codes)) @ (np.bincount(codes) / len(codes))),
    }
    if edges:
        found["edges"] = {key: known[pairs].tolist() for key, pairs in graphs.items()}
        found["places"] = np.asarray(adata.obsm[_keys.GRAPH_TSNE]).round(3).tolist()
        found["threshold"] = float(result(adata, "links")["threshold"])
    return found


def _within(pairs: np.ndarray, codes: np.ndarray) -> float | None:
    """Return the share of pairs whose cells have one type."""
    return float((codes[pairs[:, 0]] == codes[pairs[:, 1]]).mean()) if len(pairs) else None


def _pearson_within(adata: AnnData, codes: np.ndarray, n_links: int, seed: int) -> float | None:
    r"""Return the share within a type of the pairs of highest \|r\|, as many per pair of cells as there are links."""
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
        return None
    first = np.argpartition(-strength, min(wanted, len(strength)) - 1)[:wanted]
    return float((codes[rows[upper[0][first]]] == codes[rows[upper[1][first]]]).mean())
