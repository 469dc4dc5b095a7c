"""How hard is the simulated tree: k-means on principal components against the true types.

Prints the adjusted Rand index that the docstring of ``diffvae.datasets.simulate_differentiation`` publishes.
Run it as ``python benchmarks/simulation_difficulty.py``; it takes about half a minute on two cores.
"""

from __future__ import annotations

import numpy as np
import scanpy as sc
from anndata import AnnData
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from diffvae.datasets import simulate_differentiation

SIMULATIONS, KMEANS_SEEDS, COMPONENTS = 5, 10, 50


def scores(adata: AnnData) -> np.ndarray:
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=COMPONENTS, mask_var=None, random_state=0)
    truth = adata.obs["cell_type"]
    n_types = truth.nunique()
    return np.array(
        [
            adjusted_rand_score(
                truth, KMeans(n_types, n_init=1, random_state=seed).fit_predict(adata.obsm["X_pca"])
            )
            for seed in range(KMEANS_SEEDS)
        ]
    )


def main() -> None:
    table = np.array([scores(simulate_differentiation(rng=seed)) for seed in range(SIMULATIONS)])
    for seed, row in enumerate(table):
        print(f"simulation {seed}: ARI {row.mean():.3f} (sd over k-means seeds {row.std(ddof=1):.3f})")
    print(f"mean ARI of k-means on PCA-{COMPONENTS}: {table.mean():.3f} ({table.mean(axis=1).std(ddof=1):.3f} between simulations)")


if __name__ == "__main__":
    main()
