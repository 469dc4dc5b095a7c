"""Difficulty of the simulated tree: k-means on principal components, compared with the true types.

Prints the figures in the docstring of ``diffvae.datasets.simulate_differentiation``: the adjusted Rand index of
k-means, and as an upper bound the accuracy of a classifier trained with labels. It takes about a minute on two cores:
``python benchmarks/simulation_difficulty.py``.
"""

from __future__ import annotations

import numpy as np
import scanpy as sc
from anndata import AnnData
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import cross_val_score

from diffvae.datasets import simulate_differentiation

SIMULATIONS, KMEANS_SEEDS, COMPONENTS = 5, 10, 50


def principal_components(counts: AnnData) -> np.ndarray:
    adata = counts.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=COMPONENTS, random_state=0)
    return adata.obsm["X_pca"]


def kmeans_scores(z: np.ndarray, truth: np.ndarray) -> np.ndarray:
    k = len(np.unique(truth))
    clusters = (KMeans(k, n_init=1, random_state=seed).fit_predict(z) for seed in range(KMEANS_SEEDS))
    return np.array([adjusted_rand_score(truth, cluster) for cluster in clusters])


def measure(**options: float) -> tuple[list[float], list[float]]:
    ari, accuracy = [], []
    for seed in range(SIMULATIONS):
        adata = simulate_differentiation(rng=seed, **options)
        z, truth = principal_components(adata), adata.obs["cell_type"].to_numpy()
        ari.append(float(kmeans_scores(z, truth).mean()))
        accuracy.append(float(cross_val_score(LogisticRegression(max_iter=500), z, truth, cv=5).mean()))
    return ari, accuracy


def main() -> None:
    for name, options in (("defaults", {}), ("noise=0", {"noise": 0.0})):
        ari, accuracy = measure(**options)
        each = ", ".join(f"{score:.3f}" for score in ari)
        print(f"{name}: ARI of k-means on PCA-{COMPONENTS} {np.mean(ari):.3f} ({each})")
        print(f"{name}: accuracy of logistic regression on the same, 5-fold {np.mean(accuracy):.3f}")


if __name__ == "__main__":
    main()
