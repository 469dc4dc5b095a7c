"""The data sets of a comparison, and its jobs: prepare, train and score, cluster the latent space and t-SNE maps."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random, metrics, pp
from diffvae._core.information import alive_dimensions, informative
from diffvae._core.io import read
from diffvae._core.io.matrix import quoted
from diffvae._errors import DataError
from diffvae.benchmark._clusterers import KGiven, Partition, partitions
from diffvae.benchmark._jobs import Training
from diffvae.benchmark._methods import Method, train_options
from diffvae.benchmark.stability import _matching
from diffvae.metrics import _names
from diffvae.pipeline import _checks
from diffvae.pipeline._scores import N_NEIGHBORS

if TYPE_CHECKING:
    from anndata import AnnData

MIN_TYPE = 10
"""Smallest number of cells of a type that becomes a factor; scores of fewer cells are meaningless."""
PERPLEXITY = 30.0
N_ITER = 500
N_CELLS = 1000
"""Cells over which the dimensions of two trainings are compared."""
DISENTANGLEMENT = ("mig", "dci_disentanglement", "dci_completeness", "dci_informativeness")
RECURRENCE = ("recurrence", "recurrence_active")
INTEGRATION = _names.INTEGRATION
ACTIVE = "active_dimensions"
OF_TRAINING = tuple(m for m in _names.OF_TRAINING if m not in ("training_seconds", *RECURRENCE))
"""Scores of a training, in addition to those of its spaces and of their clusters."""
OF_CLUSTERS = ("ari", "nmi", "overlap")


@dataclass(frozen=True)
class Cells:
    """A data set: raw cells, reference labels (None for unlabelled cells), factors, fingerprint, and its batches.

    ``batch`` and ``batch_key`` are None if the data set lacks the column or has one batch only. A cell of unknown batch
    has None in ``batch``.
    """

    name: str
    adata: AnnData
    labels: np.ndarray
    factors: pd.DataFrame
    batch: np.ndarray | None
    fingerprint: str
    batch_key: str | None = None

    @property
    def labelled(self) -> np.ndarray:
        return np.array([label is not None for label in self.labels])


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
    keys = dict.fromkeys(datasets, label_key) if isinstance(label_key, str) else label_key
    if missing := [name for name in datasets if name not in keys]:
        raise ValueError(f"label_key names no column for {missing[0]!r}; it has {', '.join(map(repr, keys))}.")
    cells = [_cells(str(name), data, keys[name], factors, batch_key) for name, data in datasets.items()]
    if batch_key is not None and not any(batch_key in some.adata.obs for some in cells):
        raise DataError(
            f"obs has no column {batch_key!r} (batch_key) in any data set; {cells[0].name} has "
            f"{quoted(cells[0].adata.obs.columns)}."
        )
    return cells


def _cells(name: str, data: Any, label_key: str, factors: Sequence[str], batch_key: str | None) -> Cells:
    adata, _ = read.load(data, None)
    try:
        _checks.require_labels(adata, label_key)
        require_raw(adata)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    labels = labels_of(adata, label_key)
    present = {}
    for key in dict.fromkeys((*factors, *([batch_key] if batch_key else []))):
        if key in adata.obs and adata.obs[key].dropna().nunique() > 1:
            present[key] = adata.obs[key]
    own_key = batch_key if batch_key in present else None
    batch = None if own_key is None else labels_of(adata, own_key)
    table = pd.DataFrame(present | _indicators(labels), index=adata.obs_names)
    return Cells(name, adata, labels, table, batch, fingerprint_of(adata, pd.Series(labels), table), own_key)


def require_raw(adata: AnnData) -> None:
    """Refuse cells that can't be analysed, and prepared cells, because every training prepares its own copy."""
    pp.check(adata)
    if _keys.UNIT in adata.layers:
        raise DataError(
            "adata is prepared already (it has layers['unit']); give the raw cells, because every training splits and "
            "scales them again."
        )


def labels_of(adata: AnnData, label_key: str) -> np.ndarray:
    """Return the label of each cell as a string, None for a cell without a label."""
    column = adata.obs[label_key]
    return column.astype(object).map(str).where(column.notna(), None).to_numpy(dtype=object)


def fingerprint_of(adata: AnnData, *tables: pd.Series | pd.DataFrame) -> str:
    """Return 16 hexadecimal digits that identify the values, the gene names and further tables."""
    from diffvae.model._features import fingerprint, layer_matrix

    parts = [fingerprint(layer_matrix(adata, None)), *map(str, adata.var_names)]
    parts += [table.to_csv(index=False) for table in tables]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _indicators(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return one factor per type, missing for unlabelled cells, so that one dimension per type scores best.

    If the types were a single factor with many values, one dimension that separates all of them would score best.
    """
    known = np.array([label is not None for label in labels])
    names, counts = np.unique(labels[known].astype(str), return_counts=True)
    unknown = np.array(None, dtype=object)
    one_of = {name: np.where(labels == name, "yes", "no") for name in names[counts >= MIN_TYPE]}
    return {f"is {name}": np.where(known, values, unknown) for name, values in one_of.items()}


def prepare(cells: Cells, seed: int, n_top_genes: int | None) -> AnnData:
    """Return the cells with the split, variable genes and scaling of one training, the same for all methods."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # as_cells has shown them
        return pp.prepare(cells.adata, n_top_genes=n_top_genes, rng=seed, copy=True)


def train(adata: AnnData, cells: Cells, method: Method, n_latent: int, seed: int, wanted: Sequence[str]) -> Training:
    """Train a method on prepared cells and score its latent representation, or note why the training failed."""
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model = method.make(n_latent)
            options = train_options(method, model, cells.batch_key)
            model = model.train(adata, rng=seed, progress=False, **options) or model
            z = np.ascontiguousarray(model.get_latent_representation(), dtype=np.float32)
            seconds = time.perf_counter() - start
            sd = model.get_posterior()[1] if hasattr(model, "get_posterior") else None
    except (ValueError, RuntimeError, ImportError) as error:  # no counts, too few cells, diverged, not installed
        return Training(None, note=" ".join(str(error).split()))
    if z.shape[0] != adata.n_obs or not np.isfinite(z).all():
        return Training(None, note=f"its latent representation is {z.shape} for {adata.n_obs} cells, or not finite.")
    sd = sd if sd is not None and sd.any() else None  # an autoencoder has no posterior
    return Training(z, sd, _matching.has_prior(model), _scores(model, adata, cells, z, seed, wanted), seconds)


def _scores(
    model: Any, adata: AnnData, cells: Cells, z: np.ndarray, seed: int, wanted: Sequence[str]
) -> dict[str, float]:
    scores = dict.fromkeys(OF_TRAINING, float("nan"))
    if "reconstruction_r2" in wanted and hasattr(model, "decode"):
        scores["reconstruction_r2"] = _reconstruction(model, adata, z)
    if set(wanted) & set(DISENTANGLEMENT):
        dci = metrics.dci(z, cells.factors, rng=seed)
        values = metrics.mutual_information_gap(z, cells.factors), dci.disentanglement, dci.completeness
        scores |= zip(DISENTANGLEMENT, (*values, dci.informativeness), strict=True)
    scores["mean_correlation"] = mean_correlation(z)
    if "type_alignment" in wanted:
        known = cells.labelled
        scores["type_alignment"] = metrics.dimension_alignment(z[known], cells.labels[known].astype(str))
    if cells.batch is not None:
        if "batch_alignment" in wanted:
            known = np.array([batch is not None for batch in cells.batch])
            scores["batch_alignment"] = metrics.dimension_alignment(z[known], cells.batch[known].astype(str))
        if set(wanted) & set(INTEGRATION):
            scores |= _integration(z, cells, seed)
    return {name: float(scores[name]) for name in OF_TRAINING if name in wanted}


def _integration(z: np.ndarray, cells: Cells, seed: int) -> dict[str, float]:
    """Score the cells whose type and batch are known, without batches of one cell; nothing if one batch is left."""
    assert cells.batch is not None
    known = cells.labelled & np.array([batch is not None for batch in cells.batch])
    names, size = np.unique(cells.batch[known].astype(str), return_counts=True)
    known &= np.isin(cells.batch, names[size > 1])
    batch, labels = cells.batch[known].astype(str), cells.labels[known].astype(str)
    if len(np.unique(batch)) < 2 or not 2 <= len(np.unique(labels)) < len(labels):
        return {}
    found = metrics.integration(z[known], batch, labels, rng=seed)
    return {name: found[name] for name in INTEGRATION}


def active_dimensions(training: Training) -> float:
    """Count the dimensions that carry information, as a diagnosis does; without a posterior by variance.

    NaN without a prior, which leaves the scale of a dimension arbitrary.
    """
    active = _active(training)
    return float("nan") if active is None else int(active.sum())


def _active(training: Training) -> np.ndarray | None:
    if training.z is None or not training.prior:
        return None
    if training.sd is None:
        return alive_dimensions(training.z, prior=True)
    return informative(training.z, training.sd)


def mean_correlation(z: np.ndarray) -> float:
    """Return the mean absolute correlation of two dimensions, over the pairs that vary; NaN if there are none.

    Examples
    --------
    >>> mean_correlation(np.array([[0.0, 1.0, 5.0], [1.0, 3.0, 5.0], [2.0, 5.0, 5.0]]))
    1.0
    """
    varying = z[:, z.std(axis=0) > 0].astype(np.float64)
    pairs = np.triu_indices(varying.shape[1], 1)
    return float(np.abs(np.atleast_2d(np.corrcoef(varying.T))[pairs]).mean()) if len(pairs[0]) else float("nan")


def recurrence(*arguments: Any) -> list[dict[str, float | None]]:
    """Return for each training which share of its dimensions recurs in the others; None where there is no other.

    The arguments are the trainings of a method on one data set, and its name. Each has its own split, scaling and
    seed. A dimension recurs in another training if it is correlated with its match there more than with that of 95 %
    of random axes of the same space (:mod:`diffvae.benchmark.stability`): 5 % recur by chance. The dimensions are
    compared over the same cells, each with variance 1, because that of a method without prior is arbitrary.
    ``recurrence`` is of all that vary, which counts the noise dimensions of every method; ``recurrence_active`` of
    those that carry information, matched with such, and only for methods with a prior.
    """
    *trainings, name = arguments
    n_cells = max((len(training.z) for training in trainings if training.z is not None), default=0)
    cells = np.sort(_random.generator(0, "recurrence cells", name).permutation(n_cells)[:N_CELLS])
    varying = [None if t.z is None else alive_dimensions(t.z, t.prior) for t in trainings]
    shares = {"recurrence": varying, "recurrence_active": list(map(_active, trainings))}
    found: list[dict[str, float | None]] = [{} for _ in trainings]
    for measure, masks in shares.items():
        spaces = [
            None if mask is None else _matching.of_latent(t.z[cells], mask)
            for t, mask in zip(trainings, masks, strict=True)
        ]
        rng = _random.generator(0, "recurrence null", name)  # the same axes, so that equal masks give equal shares
        for i, space in enumerate(spaces):
            others = [other for j, other in enumerate(spaces) if j != i and other is not None]
            found[i][measure] = None
            if space is not None and others and space.alive.any():
                matches = _matching.match_all(space, others, "latent", "rotation", rng)
                found[i][measure] = float(matches["recurs"].mean())
    return found


def _reconstruction(model: Any, adata: AnnData, z: np.ndarray) -> float:
    """Return R^2 of held-out cells on the unit scale, whatever scale the model was trained on.

    A model of batches decodes each cell in its own batch.
    """
    held_out = (adata.obs[_keys.SPLIT] == "validation").to_numpy()
    if not held_out.any():
        return float("nan")
    unit = adata.layers[_keys.UNIT]
    low, high = (adata.var[key].to_numpy(np.float64) for key in (_keys.UNIT_MIN, _keys.UNIT_MAX))
    design = model.design() if hasattr(model, "design") else None
    own = {} if design is None else {"batch": design[held_out]}
    decoded = model.decode(z[held_out], **own).astype(np.float64)
    if model.features.layer is None:
        decoded = (decoded - low) / np.where(high > low, high - low, 1.0)
    mean = np.asarray(unit[~held_out].mean(axis=0)).ravel()
    return metrics.reconstruction_r2(unit[held_out], decoded, mean)


def affinities(training: Training, seed: int) -> Any:
    """Return the t-SNE affinities that all maps of a training share; None if it failed."""
    from diffvae.tl import _tsne

    if training.z is None:
        return None
    return _tsne.affinities(training.z.astype(np.float64), PERPLEXITY, seed % 2**31, n_jobs=1)


def score_latent(
    training: Training, cells: Cells, clusterers: Sequence[str], k_given: KGiven, n_clusterings: int
) -> list[dict[str, Any]]:
    """Cluster the latent representation repeatedly and score each partition; no rows if the training failed."""
    if training.z is None:
        return []
    return _score_space(training.z, cells, clusterers, k_given, range(n_clusterings), "latent", training.sd)


def score_map(
    p: Any, training: Training, cells: Cells, clusterers: Sequence[str], k_given: KGiven, repeat: int, seed: int
) -> list[dict[str, Any]]:
    """Make one t-SNE map from a random start, and cluster it once with every clusterer."""
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
    k_given: KGiven,
    seeds: Iterable[int],
    space: str,
    sd: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    known = cells.labelled
    names = cells.labels[known].astype(str)
    of_space = {
        "space": space,
        "silhouette": metrics.silhouette(x[known], names, rng=0),
        "knn_purity": metrics.knn_purity(x[known], names, n_neighbors=min(N_NEIGHBORS, len(names) - 1)),
    }
    rows = []
    start = time.perf_counter()
    for partition in partitions(x, len(np.unique(names)), clusterers, k_given, list(seeds), sd):
        seconds = time.perf_counter() - start
        rows.append(of_space | _score_clusters(partition, names, known) | {"clustering_seconds": round(seconds, 4)})
        start = time.perf_counter()
    return rows


def _score_clusters(partition: Partition, names: np.ndarray, known: np.ndarray) -> dict[str, Any]:
    clusters = partition.labels[known]
    overlap = metrics.overlap(names, clusters)
    types = overlap.table[overlap.table["type"] != ""]
    return {
        "clusterer": partition.clusterer,
        "k_given": partition.k_given,
        "clustering_seed": int(partition.clustering_seed),
        "n_clusters": len(pd.unique(partition.labels[partition.labels >= 0])),
        "ari": metrics.adjusted_rand_index(names, clusters),
        "nmi": metrics.normalized_mutual_info(names, clusters),
        "overlap": overlap.share,
        "types": [
            [str(r.type), int(r.n_cells), float(r.recall), None if np.isnan(r.precision) else float(r.precision)]
            for r in types.itertuples()
        ],
    }
