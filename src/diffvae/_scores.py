"""Scores of a run against reference labels, each beside a baseline and a null."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random, metrics
from diffvae._adata import groups
from diffvae.pp._matrix import matrix_of

if TYPE_CHECKING:
    from anndata import AnnData

N_SEEDS = 10
N_NEIGHBORS = 15
N_COMPONENTS = 50
"""Of the baseline; scanpy's own default."""


def score(adata: AnnData, label_key: str, *, layer: str | None = None, rng: _random.Rng = 0) -> pd.DataFrame:
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
    from diffvae.tl._partitions import kmeans

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
