"""Scores of a run against reference labels, with principal components as baseline and permuted labels as null."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from diffvae import _keys, _random, metrics
from diffvae._core.anndata import groups
from diffvae._core.components import principal_components
from diffvae._core.io.matrix import matrix_of
from diffvae._core.runtime import StepLog
from diffvae.pipeline._folder import Verdict, sentences

if TYPE_CHECKING:
    from anndata import AnnData

N_SEEDS = 10
N_NEIGHBORS = 15

VERDICT: Verdict = (
    (lambda n: n["PCA"] >= n["DiffVAE"], "PCA scores at least as well on '{score}': {PCA:.3f} against {DiffVAE:.3f}."),
    (
        lambda n: 0 < n["DiffVAE"] - n["PCA"] <= n["sd"],
        "DiffVAE is no better than PCA on '{score}': {DiffVAE:.3f} against {PCA:.3f}, within one standard deviation "
        "({sd:.3f}) of the repeats.",
    ),
)
"""Conditions on the means of a score, and the sentences that they add."""


def score_labels(adata: AnnData, label_key: str, *, layer: str | None = None, rng: _random.Rng = 0) -> pd.DataFrame:
    """Compare the latent space and the clusters of a run with reference labels.

    Parameters
    ----------
    adata
        With ``obsm["X_diffvae"]`` and ``obs["diffvae_cluster"]``.
    label_key
        Reference labels in ``obs``; cells without a label are left out.
    layer
        Layer from which the baseline is computed: 50 principal components of log-normalised expression, the usual
        representation in scanpy. By default ``adata.X``, as :func:`diffvae.pp.prepare` leaves it.
    rng
        Seed.

    Returns
    -------
    One row per method and score: ``method`` ("DiffVAE", "PCA", "null"), ``score``, ``mean``, ``sd`` and ``n`` (repeats
    of k-means or of the permutation; the sd of a single value is NaN). The null scores the same clusters against
    permuted labels.
    """
    labelled = adata.obs[label_key].notna().to_numpy()
    labels = groups(adata[labelled], label_key)
    names = np.asarray(labels)
    k = len(labels.categories)
    z = np.asarray(adata.obsm[_keys.LATENT])
    rows = []
    for method, x in (("DiffVAE", z), ("PCA", principal_components(matrix_of(adata, layer), rng))):
        rows += [(method, name, *_summary(values)) for name, values in _of_space(x[labelled], names, k, rng).items()]
    clusters = np.asarray(groups(adata, _keys.CLUSTER))[labelled]
    permuter = _random.generator(rng, "permuted labels")
    shuffled = [permuter.permutation(names) for _ in range(N_SEEDS)]
    for method, references in (("DiffVAE", [names]), ("null", shuffled)):
        for name, function in _OF_CLUSTERS.items():
            rows.append((method, name, *_summary([function(r, clusters) for r in references])))
    return pd.DataFrame(rows, columns=["method", "score", "mean", "sd", "n"])


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
    """Say on which scores the baseline is better, or as good within one standard deviation of the repeats."""
    wide = scores[scores["method"].isin(["DiffVAE", "PCA"])].pivot(index="score", columns="method")
    sds = wide["sd"].max(axis=1).fillna(0.0)  # a score without repeats has none
    rows = [{"score": name, "sd": sds[name], **means} for name, means in wide["mean"].dropna().iterrows()]
    return [sentence for row in rows for sentence in sentences(VERDICT, row)]


def score(adata: AnnData, label_key: str | None, seed: int, log: StepLog) -> pd.DataFrame | None:
    """Score the cells as a step of a run; None without labels."""
    if label_key is None:
        return None
    with log.step("score against labels and PCA"):
        return score_labels(adata, label_key, rng=seed)
