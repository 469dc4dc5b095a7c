"""One training of a reproduction: a preset on one split, with its clusters and genes, conversions and links."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random, metrics, pp, tl
from diffvae._core.anndata import result
from diffvae._core.graphs import edges_of
from diffvae._errors import DataError
from diffvae.benchmark.reproduction._subject import Subject
from diffvae.pipeline import _links
from diffvae.tl import _minimal_genes
from diffvae.train import TrainingError

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, DiffVAE

N_PERMUTATIONS = 500
WIDER = 20
"""Genes per dimension in the longer gene lists."""
MAX_Q = {"paper": 1.0, "code": 1.0, "default": 0.05}
"""The paper uses the top dimensions whether enriched or not; the default preset uses only enriched dimensions."""

STEPS = (0.5, 1.0)
"""Lambda, in standard deviations."""
N_DIMS = 5
"""Number of top dimensions that are shifted."""
N_RANDOM, PER_TARGET = 200, 25
"""Random directions: at least 200, and at least 25 per target, so that a single target can reach q < 0.05."""
MIN_PROBABILITY = 0.5
CLASSIFIER_EPOCHS = 300
"""The largest number of epochs, as in the paper."""
SCORES = ("n_test", "accuracy", "balanced_accuracy", "baseline")
"""Of a classifier on held-out cells: their number, and the accuracy of always the most frequent type (baseline)."""
SHIFT: dict[str, dict[str, Any]] = {
    "paper": {"direction": "plus", "sd_from": "all"},
    "code": {"direction": "plus", "sd_from": "group"},
    "default": {"direction": "signed", "sd_from": "all"},
}
"""Sign and standard deviation of the shift: the paper always shifts upwards; its code uses the progenitors' sd."""
GENES: dict[str, dict[str, Any]] = {
    "paper": {"method_genes": "paper", "stable": False, "eliminate": False},
    "code": {"method_genes": "paper", "stable": False, "eliminate": False},
    "default": {"method_genes": "effect"},
}
"""What is copied into a cell, the decoded values or the effect of the shift, and how many genes: the paper counts those
at which the cell first flips; by default genes that the cell does not need are removed."""

K = {preset: int(_links.GRAPHS[preset]["k"]) for preset in ("paper", "default")}
"""Number of most similar cells to which each cell is joined."""
TOP_K = _links.TOP_K
"""Number of most probable links per cell."""
PEARSON_CELLS = 4000
"""More cells than this are sampled for the comparison with |Pearson|, whose matrix is cells x cells."""


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def n_random(subject: Subject) -> int:
    """Return the number of random directions per target."""
    return max(N_RANDOM, PER_TARGET * len(subject.targets))


@_quiet()
def prepare(subject: Subject, seed: int) -> AnnData:
    """Return the cells with the split of one training, the same for every preset."""
    adata = pp.prepare(subject.adata, n_top_genes=subject.n_top_genes, rng=seed, copy=True)
    assert adata is not None
    adata.raw = None  # saves memory
    return adata


@_quiet()
def train(
    prepared: AnnData, subject: Subject, preset: str, max_epochs: int | None, seed: int
) -> tuple[AnnData, DiffVAE]:
    """Return a trained model and a copy of the cells with latent representation and map."""
    from diffvae.model import DiffVAE
    from diffvae.tl import _tsne

    adata = prepared.copy()
    model = DiffVAE(preset, n_latent=subject.settings.n_latent)
    model.train(adata, max_epochs=max_epochs, batch_size=subject.settings.batch_size, rng=seed, progress=False)
    tl.embed(adata, model)
    tl.tsne(adata, n_jobs=1, rng=seed)
    del adata.obsp[_tsne.AFFINITIES]
    return adata, model


@_quiet()
def identify(trained: tuple[AnnData, DiffVAE], subject: Subject, preset: str, seed: int) -> dict[str, Any]:
    """Cluster the map as the paper does, match the clusters to the types, and find their dimensions and genes.

    Returns
    -------
    ``map``, ``clusters`` (of each cell), ``overlap`` (with its expectation under permuted labels), ``types``,
    ``genes`` (per cluster and reading), ``clustering``, and ``note`` if something could not be computed.
    """
    adata, model = trained
    labels = subject.labels
    use_rep = _keys.LATENT if subject.clusterer == "leiden" else _keys.TSNE
    number: int | str = len(subject.types) if subject.clusterer == "kmeans" else "auto"
    tl.cluster(adata, subject.clusterer, n_clusters=number, use_rep=use_rep, rng=seed)
    stored = adata.uns[_keys.UNS]["cluster"]
    clusters = adata.obs[_keys.CLUSTER].astype(str).to_numpy()
    found: dict[str, Any] = {
        "map": np.asarray(adata.obsm[_keys.TSNE]).round(3).tolist(),
        "clusters": clusters.tolist(),
        "clustering": {k: v for k, v in stored.items() if isinstance(v, str | int | float)},
        "n_genes": adata.n_vars,
        "active_dimensions": int(metrics.active_dimensions(np.asarray(adata.obsm[_keys.LATENT]))),
        "overlap": None,
        "types": [],
    }
    mapping = {}
    if labels is not None:
        known = np.array([label is not None for label in labels])
        names = labels[known].astype(str)
        overlap = metrics.overlap(names, clusters[known])
        null = metrics.expected_overlap(names, clusters[known], n_permutations=N_PERMUTATIONS, rng=seed)
        found["overlap"] = {
            "overlap": overlap.share,
            "expected": null.mean,
            "expected_sd": null.sd,
            "p_value": null.p_value,
            "n_clusters": int(stored["n_clusters"]),
            "ari": metrics.adjusted_rand_index(names, clusters[known]),
        }
        found["types"] = _records(overlap.table[overlap.table["type"] != ""])
        mapping = overlap.mapping
    try:
        return found | {"genes": _genes(adata, model, subject, preset, mapping, seed), "note": ""}
    except DataError as error:  # for example when there is only one cluster
        return found | {"genes": [], "note": f"No genes: {error}"}


def _genes(
    adata: AnnData, model: DiffVAE, subject: Subject, preset: str, mapping: dict[str, str], seed: int
) -> list[dict[str, Any]]:
    """Return the ranked genes of each cluster by both readings of the decoder, in short and long lists."""
    n_dims, n_top = subject.reading
    tl.latent_dimensions(adata, n_top=n_dims, max_q=MAX_Q[preset])
    tl.gene_weights(adata, model, rng=seed)
    rows = []
    for each in (n_top, WIDER):
        table = tl.high_weight_genes(adata, n_dims=n_dims, n_genes=each, copy=True)
        for cluster in sorted(set(adata.obs[_keys.CLUSTER].astype(str))):
            about = {"cluster": cluster, "type": mapping.get(cluster, "")}
            for reading in ("weights", "jacobian"):
                ranked = table[(table["group"] == cluster) & (table["ranking"] == reading)].sort_values("rank")
                genes = ranked["gene"].astype(str).tolist()
                rows.append(about | {"reading": reading, "per_dimension": each, "genes": genes})
    return rows


@_quiet()
def classify_mature(prepared: AnnData, subject: Subject, max_epochs: int | None, seed: int) -> dict[str, Any]:
    """Train the paper's classifier, of the mature types alone.

    It sees expression and no latent representation, so that it is the same for every preset.

    Returns
    -------
    ``classifier`` (its :data:`SCORES`), and ``note`` if it could not be trained.
    """
    assert subject.label_key is not None
    mature = prepared.obs[subject.label_key].astype("string").isin(subject.mature).to_numpy(dtype=bool)
    try:
        return {"classifier": _scores(_classifier(prepared[mature].copy(), subject, max_epochs, seed)), "note": ""}
    except DataError as error:
        return {"classifier": None, "note": f"No classifier of the mature types: {error}"}


def _classifier(adata: AnnData, subject: Subject, max_epochs: int | None, seed: int) -> CellStateClassifier:
    """Return a classifier of the types of these cells."""
    from diffvae.model import CellStateClassifier

    assert subject.label_key is not None
    epochs = max_epochs or CLASSIFIER_EPOCHS
    return CellStateClassifier().train(adata, subject.label_key, max_epochs=epochs, rng=seed, progress=False)


def _scores(classifier: CellStateClassifier) -> dict[str, float]:
    """Return the scores of a classifier on held-out cells."""
    measured = classifier.evaluation
    numbers: dict[str, float] = {"n_test": int(measured.per_type["n_test"].sum())}
    return numbers | {name: getattr(measured, name) for name in SCORES[1:]}


@_quiet()
def run_perturbation(
    trained: tuple[AnnData, DiffVAE], subject: Subject, preset: str, max_epochs: int | None, seed: int, to_draw: bool
) -> dict[str, Any]:
    """Train the classifier, shift the progenitors towards every other type, and find the fewest genes (Figure 3).

    Returns
    -------
    ``classifier`` (its :data:`SCORES`), ``conversions`` (rows of :func:`diffvae.tl.perturb`), ``minimal`` (per
    target the number of genes of each converted cell), ``trajectories`` and ``map`` if ``to_draw``, and ``note`` if
    something could not be computed.
    """
    adata, model = trained
    assert subject.source is not None
    found: dict[str, Any] = {"classifier": None, "conversions": [], "minimal": [], "trajectories": [], "note": ""}
    asked: dict[str, Any] = {"source": subject.source, "n_dims": N_DIMS, "min_probability": MIN_PROBABILITY}
    asked |= {"rng": seed, "progress": False}
    try:
        classifier = _classifier(adata, subject, max_epochs, seed)
        shifted = tl.perturb(
            adata, model, classifier, target=subject.targets, n_sd=STEPS, method=("shift", "mean", "expression_mean"),
            n_random=n_random(subject), **SHIFT[preset], **asked,
        )  # fmt: skip
    except DataError as error:
        return found | {"note": f"Nothing was perturbed: {error}"}
    found["classifier"] = _scores(classifier)
    found["conversions"] = _records(shifted.table)
    for target in shifted.targets:
        # on the same shifted cells, so that conversions and genes belong together
        least = _minimal_genes.find_minimal(
            shifted, target, step=max(STEPS), allowed=_minimal_genes.allowed_genes(model.gene_names, None), rng=seed,
            progress=False, **GENES[preset],
        )  # fmt: skip
        flipped = {row["genes"]: row["flipped"] for row in _records(least.baselines)}
        found["minimal"].append(
            {
                "target": target,
                "converted": least.counts["converted"],
                "flipped": least.counts["flipped"],
                "n_genes": [int(n) for n in least.cells["n_genes"]],
                "flipped_by_de_genes": flipped["differentially expressed"],
                "flipped_by_random_genes": flipped["random"],
            }
        )
        if to_draw:
            path = shifted.trajectory(target)
            rows, probability, first = path.rows.tolist(), path.probability.round(4).tolist(), path.is_top.tolist()
            found["trajectories"].append({"target": target, "rows": rows, "probability": probability, "first": first})
    if to_draw:
        found["map"] = np.asarray(adata.obsm[_keys.TSNE]).round(3).tolist()
    return found


@_quiet()
def run_links(
    prepared: AnnData, subject: Subject, preset: str, max_epochs: int | None, seed: int, to_draw: bool
) -> dict[str, Any]:
    r"""Join similar cells, train Graph-DiffVAE, predict links, and count them between types (Figure 4).

    Returns
    -------
    ``table`` (rows of :func:`diffvae.tl.link_table`), ``figures`` (numbers of links, AUC on hidden edges), ``within``
    (share of links within a type, and its mean over types, of the input graph, of the predicted links, and of the same
    number of pairs with the highest \|r\|); if ``to_draw`` both graphs as pairs of rows, probabilities and a map; and
    ``note`` if something could not be computed.
    """
    from diffvae.model import GraphDiffVAE

    assert subject.label_key is not None
    known = np.flatnonzero(subject.adata.obs[subject.label_key].notna())
    adata = prepared[known].copy()
    found: dict[str, Any] = {"table": [], "figures": {}, "within": {}, "edges": {}, "note": ""}
    try:
        pp.cell_graph(adata, **_links.GRAPHS[preset], rng=seed, progress=False)
        model = GraphDiffVAE(preset).train(adata, max_epochs=max_epochs, rng=seed, progress=False)
        called = tl.links(adata, model, min(TOP_K, adata.n_obs - 1), rng=seed)
        counted = [_keys.CELL_GRAPH, *([_keys.CALLED_LINKS] if len(called) else [])]
        found["table"] = _records(tl.link_table(adata, subject.label_key, graphs=counted, rng=seed))
    except (DataError, TrainingError) as error:
        return found | {"note": f"No links were predicted: {error}"}
    shown = ("threshold", "n_input", "n_called", "n_new", "validation_auc", "precision", "recall")
    found["figures"] = {k: v for k, v in result(adata, "links").items() if k in shown}
    if "validation_auc" in found["figures"]:
        found["figures"]["baseline_auc"] = model.baseline_auc(result(adata, _keys.CELL_GRAPH)["metric"])
    edges = {key: edges_of(adata.obsp[key]) for key in (_keys.CELL_GRAPH, _keys.CALLED_LINKS)}
    codes = adata.obs[subject.label_key].astype("category").cat.codes.to_numpy()
    predicted = edges[_keys.CALLED_LINKS]
    ends = {
        "input": codes[edges[_keys.CELL_GRAPH]],
        "predicted": codes[predicted],
        "pearson": _pearson(adata, codes, len(predicted), seed),
    }
    found["within"] = {name: _within(pairs) for name, pairs in ends.items()}
    found["within"]["chance"] = float(np.square(np.bincount(codes) / len(codes)).sum())
    found["within"] |= {f"{name}_by_type": _within_by_type(pairs, codes.max() + 1) for name, pairs in ends.items()}
    if to_draw:
        tl.tsne(adata, use_rep=_keys.GRAPH_LATENT, key_added=_keys.GRAPH_TSNE, n_jobs=1, rng=seed)
        found["edges"] = {key: known[pairs].tolist() for key, pairs in edges.items()}
        found["probability"] = np.asarray(adata.obsp[_keys.LINKS][*predicted.T]).ravel().round(4).tolist()
        found["cells"] = known.tolist()
        found["map"] = np.asarray(adata.obsm[_keys.GRAPH_TSNE]).round(3).tolist()
    return found


def _within(ends: np.ndarray) -> float | None:
    """Return the share of links, given by the types of their ends, that join cells of the same type."""
    return float((ends[:, 0] == ends[:, 1]).mean()) if len(ends) else None


def _within_by_type(ends: np.ndarray, n_types: int) -> float | None:
    """Return the mean over types of the share of a type's links that are within it, 0 for a type without links.

    The share over all links can be high if one large type of similar cells has nearly all links; this mean cannot.

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
    r"""Return the types of the ``n_links`` pairs of highest \|r\|; of a sample of many cells, fewer."""
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


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows of plain numbers and strings, None for a missing value."""
    clean = table.astype(object).where(table.notna(), None)
    return [
        {k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in clean.to_dict("records")
    ]
