"""Scores of a run against reference labels, each beside a baseline and a null."""

from __future__ import annotations

import json
from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random, metrics
from diffvae._core.anndata import groups
from diffvae._core.io.matrix import matrix_of
from diffvae._core.runtime import StepLog, versions
from diffvae.pipeline import _result
from diffvae.pipeline._result import Result

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model
    from diffvae.pipeline._backed import BackedRun
    from diffvae.pipeline._links import Links
    from diffvae.pipeline._perturb import Changes

N_SEEDS = 10
N_NEIGHBORS = 15
N_COMPONENTS = 50
"""Of the baseline; scanpy's own default."""


def score_labels(adata: AnnData, label_key: str, *, layer: str | None = None, rng: _random.Rng = 0) -> pd.DataFrame:
    """Compare the latent space and the clusters of a run with reference labels.

    Parameters
    ----------
    adata
        With ``obsm["X_diffvae"]`` and ``obs["diffvae_cluster"]``.
    label_key
        Reference labels in ``obs``; cells without one are left out.
    layer
        Layer from which the baseline is computed: 50 principal components of log-normalised expression, which is what
        a user of scanpy starts from. By default ``adata.X``, as :func:`diffvae.pp.prepare` leaves it.
    rng
        Seed.

    Returns
    -------
    One row per method and score: ``method`` ("DiffVAE", "PCA", "null"), ``score``, ``mean``, ``sd`` and ``n`` (repeats
    of k-means or of the permutation; the sd of a single value is NaN). The null of clusters are the same clusters on
    permuted labels.
    """
    labelled = adata.obs[label_key].notna().to_numpy()
    labels = groups(adata[labelled], label_key)
    names = np.asarray(labels)
    k = len(labels.categories)
    z = np.asarray(adata.obsm[_keys.LATENT])
    rows = []
    for method, x in (("DiffVAE", z), ("PCA", _baseline(matrix_of(adata, layer), rng))):
        rows += [(method, name, *_summary(values)) for name, values in _of_space(x[labelled], names, k, rng).items()]
    clusters = np.asarray(groups(adata, _keys.CLUSTER))[labelled]
    permuter = _random.generator(rng, "permuted labels")
    shuffled = [permuter.permutation(names) for _ in range(N_SEEDS)]
    for method, references in (("DiffVAE", [names]), ("null", shuffled)):
        for name, function in _OF_CLUSTERS.items():
            rows.append((method, name, *_summary([function(r, clusters) for r in references])))
    return pd.DataFrame(rows, columns=["method", "score", "mean", "sd", "n"])


def _baseline(x: Any, rng: _random.Rng) -> np.ndarray:
    """Return the principal components of the cells, 50 or as many as the data allow."""
    import scanpy as sc

    # the covariance is quick while genes are few beside cells; Lanczos never makes the G x G matrix
    solver = "covariance_eigh" if x.shape[0] > x.shape[1] else "arpack"
    seed = _random.seed(rng, "PCA of the scores") % 2**31
    return sc.pp.pca(x, min(N_COMPONENTS, min(x.shape) - 1), svd_solver=solver, random_state=seed)


_OF_CLUSTERS = {
    "clusters: adjusted Rand index": metrics.adjusted_rand_index,
    "clusters: normalised mutual information": metrics.normalized_mutual_info,
    "clusters: overlap, one to one": lambda labels, clusters: metrics.overlap(labels, clusters).share,
}


def _of_space(x: np.ndarray, names: np.ndarray, k: int, rng: _random.Rng) -> dict[str, list[float]]:
    from diffvae.tl._cluster import kmeans

    scores: dict[str, list[float]] = {}
    if len(names) > N_NEIGHBORS:
        scores[f"kNN purity ({N_NEIGHBORS})"] = [metrics.knn_purity(x, names, n_neighbors=N_NEIGHBORS)]
    if 1 < k < len(names):
        seeds = _random.generator(rng, "k-means of the scores").integers(2**31, size=N_SEEDS)
        partitions = [kmeans(x, k, int(s), n_init=1) for s in seeds]
        scores[f"k-means, k = {k}: adjusted Rand index"] = [metrics.adjusted_rand_index(names, p) for p in partitions]
        scores["silhouette of the labels"] = [metrics.silhouette(x, names, rng=rng)]
    return scores


def _summary(values: list[float]) -> tuple[float, float, int]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"), len(values)


def verdict(scores: pd.DataFrame) -> list[str]:
    """Say where the trivial baseline is better, or as good within one standard deviation of the repeats."""
    sentences = []
    wide = scores[scores["method"].isin(["DiffVAE", "PCA"])].pivot(index="score", columns="method")
    sds = wide["sd"].max(axis=1).fillna(0.0)  # a score without repeats has none
    for name, row in wide["mean"].dropna().iterrows():
        figures = f"{row['PCA']:.3f} against {row['DiffVAE']:.3f}"
        if row["PCA"] >= row["DiffVAE"]:
            sentences.append(f"PCA does at least as well on '{name}': {figures}.")
        elif row["DiffVAE"] - row["PCA"] <= sds[name]:
            sentences.append(
                f"DiffVAE is no better than PCA on '{name}': PCA has {figures}, within one standard deviation "
                f"({sds[name]:.3f}) of the repeats."
            )
    return sentences


GIVEN = "given in memory"
"""What a summary says of a parameter that is no plain value."""


def score(adata: AnnData, label_key: str | None, seed: int, log: StepLog) -> pd.DataFrame | None:
    """Score against the labels, where there are any."""
    if label_key is None:
        return None

    with log.step("score against labels and PCA"):
        return score_labels(adata, label_key, rng=seed)


def finish(
    adata: AnnData,
    model: Model,
    about: dict[str, Any],
    parameters: dict[str, Any],
    log: StepLog,
    scores: pd.DataFrame | None,
    out: str | PathLike[str] | None,
    overwrite: bool,
    changes: Changes | None = None,
    links: Links | None = None,
    backed_run: BackedRun | None = None,
    *,
    command: str | None = None,
    placed: Callable[[], None] = lambda: None,
) -> Result:
    """Put the summary together and write the folder; ``placed`` is called when it is in its place."""
    clusters = _result.cluster_table(adata)
    if backed_run is not None:
        clusters.insert(2, "n_all_cells", backed_run.sizes)
        about = about | {"sample": backed_run.about}
    stored = adata.uns[_keys.UNS]
    summary = about | {
        "command": command,
        "clusters": json.loads(clusters.to_json(orient="records")),
        "clustering": {k: _finite(v) for k, v in stored["cluster"].items() if not isinstance(v, pd.DataFrame)},
        "markers": stored["annotation_params"]["markers"],
        "scores": None if scores is None else json.loads(scores.to_json(orient="records")),
        "verdict": [] if scores is None else verdict(scores),
        "warnings": log.warnings,
        "parameters": {k: v if _plain(v) else GIVEN for k, v in parameters.items() if k != "target"},
        "seconds": log.seconds,
        "versions": versions(),
    }
    stored["run"] = {"source": about["source"], "seed": parameters["seed"], "version": summary["versions"]["diffvae"]}
    result = Result(adata, model, clusters, scores, summary, changes, links)
    if out is not None:
        log.on_step("write")
        label_key = parameters["label_key"]
        _result.write(result, out, label_key=label_key, overwrite=overwrite, backed_run=backed_run, placed=placed)
    return result


def _finite(value: Any) -> Any:
    """Return None for NaN, which JSON can't say."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
