"""The data sets of a comparison: cells with their labels, and the factors that a representation should separate."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random, metrics, pp
from diffvae._core.io import read
from diffvae._errors import DataError
from diffvae.benchmark._clusterers import Partition, partitions
from diffvae.benchmark._jobs import Training
from diffvae.benchmark._methods import Method
from diffvae.metrics import _names
from diffvae.pipeline import _checks
from diffvae.pipeline._scores import N_NEIGHBORS

if TYPE_CHECKING:
    from anndata import AnnData

MIN_TYPE = 10
"""Smallest number of cells of a type that is a factor; scores of fewer cells are meaningless."""


@dataclass(frozen=True)
class Cells:
    """A data set: raw cells, reference labels (None for unlabelled cells), factors, batch, and its fingerprint."""

    name: str
    adata: AnnData
    labels: np.ndarray
    factors: pd.DataFrame
    batch: np.ndarray | None
    fingerprint: str

    @property
    def n_types(self) -> int:
        """Number of different labels."""
        return len({label for label in self.labels if label is not None})


def as_cells(
    datasets: Mapping[str, Any] | Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    label_key: str | Mapping[str, str],
    factors: Sequence[str],
    batch_key: str | None,
) -> list[Cells]:
    """Read and check every data set before anything is computed."""
    if isinstance(datasets, str | os.PathLike):
        datasets = [datasets]
    if not isinstance(datasets, Mapping):
        paths = list(map(Path, datasets))
        datasets = {p.name.removesuffix(p.suffix) or str(p): p for p in paths}
        if len(datasets) < len(paths):
            raise ValueError("Two files have the same name; give a mapping from names to files.")
    if not datasets:
        raise ValueError("No data set was given; name at least one.")
    if not isinstance(label_key, str) and (missing := [name for name in datasets if name not in label_key]):
        raise ValueError(f"label_key names no column for {missing[0]!r}; it has {', '.join(map(repr, label_key))}.")
    keys = dict.fromkeys(datasets, label_key) if isinstance(label_key, str) else label_key
    return [_cells(str(name), data, keys[name], factors, batch_key) for name, data in datasets.items()]


def _cells(name: str, data: Any, label_key: str, factors: Sequence[str], batch_key: str | None) -> Cells:
    adata, _ = read.load(data, None)
    try:
        _checks.require_labels(adata, label_key)
        pp.check(adata)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    if _keys.UNIT in adata.layers:
        raise DataError(
            f"{name}: adata is prepared already (it has layers['unit']); give the raw cells; every training "
            "splits and scales them itself."
        )
    column = adata.obs[label_key]
    labels = column.astype(object).map(str).where(column.notna(), None).to_numpy(dtype=object)
    present = {}
    for key in dict.fromkeys((*factors, *([batch_key] if batch_key else []))):
        if key in adata.obs and adata.obs[key].dropna().nunique() > 1:
            present[key] = adata.obs[key]
    batch = None if batch_key not in present else present[batch_key].astype(str).to_numpy()
    table = pd.DataFrame(present | _indicators(labels), index=adata.obs_names)
    return Cells(name, adata, labels, table, batch, _fingerprint(adata, labels, table))


def _indicators(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return one factor per type, missing for unlabelled cells, so that one dimension per type is the ideal.

    With types as a single factor of many values, the ideal would be one dimension that separates all of them.
    """
    known = np.array([label is not None for label in labels])
    names, counts = np.unique(labels[known].astype(str), return_counts=True)
    unknown = np.array(None, dtype=object)
    one_of = {name: np.where(labels == name, "yes", "no") for name in names[counts >= MIN_TYPE]}
    return {f"is {name}": np.where(known, values, unknown) for name, values in one_of.items()}


def _fingerprint(adata: AnnData, labels: np.ndarray, table: pd.DataFrame) -> str:
    from diffvae.model._features import fingerprint, layer_matrix

    digest = hashlib.sha256(fingerprint(layer_matrix(adata, None)).encode())
    digest.update("\n".join(map(str, adata.var_names)).encode())
    digest.update(pd.Series(labels).to_csv(index=False).encode())
    digest.update(table.to_csv(index=False).encode())
    return digest.hexdigest()[:16]


PERPLEXITY = 30.0
N_ITER = 500
DISENTANGLEMENT = ("mig", "dci_disentanglement", "dci_completeness", "dci_informativeness")
OF_TRAINING = tuple(m for m in _names.OF_TRAINING if m != "training_seconds")
"""Scores of a training, in addition to those of its spaces and of their clusters."""
OF_CLUSTERS = ("ari", "nmi", "overlap")


def prepare(cells: Cells, seed: int, n_top_genes: int | None) -> AnnData:
    """Return the cells for all methods, with the split, variable genes and scaling of one training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # shown once, when the data are checked
        return pp.prepare(cells.adata, n_top_genes=n_top_genes, rng=seed, copy=True)


def train(adata: AnnData, cells: Cells, method: Method, n_latent: int, seed: int, wanted: Sequence[str]) -> Training:
    """Train a method on prepared cells and score its latent representation, or note why the training failed."""
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model = method.make(n_latent)
            model = model.train(adata, rng=seed, progress=False, **method.options) or model
            z = np.ascontiguousarray(model.get_latent_representation(), dtype=np.float32)
        seconds = time.perf_counter() - start
        if z.shape[0] != adata.n_obs or not np.isfinite(z).all():
            raise ValueError(f"its latent representation is {z.shape} for {adata.n_obs} cells, or not finite.")
        return Training(z, _scores(model, adata, cells, z, seed, wanted), seconds)
    except (ValueError, RuntimeError, ImportError) as error:  # no counts, too few cells, diverged, not installed
        return Training(None, note=" ".join(str(error).split()))


def _scores(
    model: Any, adata: AnnData, cells: Cells, z: np.ndarray, seed: int, wanted: Sequence[str]
) -> dict[str, float]:
    from diffvae.model import PCA, AutoEncoder

    scores = dict.fromkeys(OF_TRAINING, float("nan"))
    if not isinstance(model, PCA | AutoEncoder):  # without a prior the scale of a dimension is arbitrary
        scores["active_dimensions"] = metrics.active_dimensions(z)
    labelled = np.array([label is not None for label in cells.labels])
    if "reconstruction_r2" in wanted and hasattr(model, "decode"):
        scores["reconstruction_r2"] = _reconstruction(model, adata, z)
    if set(wanted) & set(DISENTANGLEMENT):
        scores["mig"] = metrics.mutual_information_gap(z, cells.factors)
        found = metrics.dci(z, cells.factors, rng=seed)
        scores["dci_disentanglement"] = found.disentanglement
        scores["dci_completeness"] = found.completeness
        scores["dci_informativeness"] = found.informativeness
    if "type_alignment" in wanted:
        scores["type_alignment"] = metrics.dimension_alignment(z[labelled], cells.labels[labelled].astype(str))
    if "batch_alignment" in wanted and cells.batch is not None:
        scores["batch_alignment"] = metrics.dimension_alignment(z, cells.batch)
    return {name: float(scores[name]) for name in OF_TRAINING if name in wanted}


def _reconstruction(model: Any, adata: AnnData, z: np.ndarray) -> float:
    """Return R^2 of held-out cells on the unit scale, independent of the scale used in training."""
    held_out = (adata.obs[_keys.SPLIT] == "validation").to_numpy()
    if not held_out.any():
        return float("nan")
    unit = adata.layers[_keys.UNIT]
    low, high = (adata.var[key].to_numpy(np.float64) for key in (_keys.UNIT_MIN, _keys.UNIT_MAX))
    decoded = model.decode(z[held_out]).astype(np.float64)
    if model.features.layer is None:
        decoded = (decoded - low) / np.where(high > low, high - low, 1.0)
    mean = np.asarray(unit[~held_out].mean(axis=0)).ravel()
    return metrics.reconstruction_r2(unit[held_out], decoded, mean)


def affinities(training: Training, seed: int) -> Any:
    """Return the t-SNE affinities of a training, shared by all its maps; None if it failed."""
    from diffvae.tl import _tsne

    if training.z is None:
        return None
    return _tsne.affinities(training.z.astype(np.float64), PERPLEXITY, seed % 2**31, n_jobs=1)


def score_latent(
    training: Training, cells: Cells, clusterers: Sequence[str], k_given: Sequence[bool], n_clusterings: int
) -> list[dict[str, Any]]:
    """Cluster the latent representation repeatedly and score each partition; nothing if the training failed."""
    if training.z is None:
        return []
    return _score_space(training.z, cells, clusterers, k_given, range(n_clusterings), "latent")


def score_map(
    p: Any, training: Training, cells: Cells, clusterers: Sequence[str], k_given: Sequence[bool], repeat: int, seed: int
) -> list[dict[str, Any]]:
    """Make one t-SNE map from its own random start, and cluster it once with every clusterer."""
    from diffvae.tl import _tsne

    if training.z is None:
        return []
    state = _random.seed(seed, "benchmark map", str(repeat)) % 2**31
    x = training.z.astype(np.float64)
    y = np.asarray(_tsne.layout(p, x, init="random", n_iter=N_ITER, random_state=state, n_jobs=1), np.float32)
    return _score_space(y, cells, clusterers, k_given, [repeat], "tsne")


def _score_space(
    x: np.ndarray,
    cells: Cells,
    clusterers: Sequence[str],
    k_given: Sequence[bool],
    seeds: Sequence[int],
    space: str,
) -> list[dict[str, Any]]:
    labelled = np.array([label is not None for label in cells.labels])
    names = cells.labels[labelled].astype(str)
    of_space = {
        "silhouette": metrics.silhouette(x[labelled], names, rng=0),
        "knn_purity": metrics.knn_purity(x[labelled], names, n_neighbors=min(N_NEIGHBORS, len(names) - 1)),
    }
    rows = []
    start = time.perf_counter()
    for found in partitions(x, cells.n_types, clusterers, k_given, list(seeds)):
        seconds = time.perf_counter() - start
        rows.append(_row(found, names, labelled, space) | of_space | {"clustering_seconds": round(seconds, 4)})
        start = time.perf_counter()
    return rows


def _row(found: Partition, names: np.ndarray, labelled: np.ndarray, space: str) -> dict[str, Any]:
    clusters = found.labels[labelled]
    overlap = metrics.overlap(names, clusters)
    types = overlap.table[overlap.table["type"] != ""]
    return {
        "space": space,
        "clusterer": found.clusterer,
        "k_given": found.k_given,
        "clustering_seed": int(found.clustering_seed),
        "n_clusters": len(pd.unique(found.labels[found.labels >= 0])),
        "ari": metrics.adjusted_rand_index(names, clusters),
        "nmi": metrics.normalized_mutual_info(names, clusters),
        "overlap": overlap.share,
        "types": [
            [str(r.type), int(r.n_cells), float(r.recall), None if np.isnan(r.precision) else float(r.precision)]
            for r in types.itertuples()
        ],
    }
