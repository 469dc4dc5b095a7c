"""Tables like those of benchmark.run with known differences between the methods."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from diffvae.benchmark._comparison import Comparison

LEVELS = {"DiffVAE": 0.60, "VAE": 0.55, "AE": 0.58, "PCA": 0.50}
CLUSTERERS = (("kmeans", True), ("dbscan", False), ("gmm", True), ("leiden", True), ("leiden", False))
OFFSET = {"kmeans": 0.0, "dbscan": -0.3, "gmm": -0.02, "leiden": 0.03}


def comparison(
    levels: Mapping[str, float | Mapping[str, float]] = LEVELS,
    *,
    datasets: Sequence[str] = ("tree",),
    n_latent: Sequence[int] = (20, 50, 100),
    clusterers: Sequence[tuple[str, bool]] = CLUSTERERS,
    spaces: Sequence[str] = ("latent", "tsne"),
    n_trainings: int = 5,
    n_clusterings: int = 3,
    spread: float = 0.02,
    jitter: float = 0.005,
    every_measure: bool = False,
    rng: int = 0,
) -> Comparison:
    """Return runs whose ARI is the level of the method (and data set) plus noise per training and clustering."""
    random = np.random.default_rng(rng)
    rows, types = [], []
    for d, dataset in enumerate(datasets):
        split = random.normal(0, spread, n_trainings)  # a split that is hard for one method is hard for all
        for method, level in levels.items():
            mean_ari = level[dataset] if isinstance(level, Mapping) else level
            for dims in n_latent:
                for seed in range(n_trainings):
                    base = mean_ari + split[seed] + random.normal(0, spread)
                    training = {
                        "active_dimensions": float(dims), "mig": base / 5, "batch_alignment": np.nan,
                        "training_seconds": 3.0 * (1 + len(method)),
                    }  # fmt: skip
                    if every_measure:
                        measures = ("reconstruction_r2", "dci_disentanglement", "dci_completeness",
                              "dci_informativeness", "type_alignment")  # fmt: skip
                        training |= {name: base / (2 + i) for i, name in enumerate(measures)}
                    for space in spaces:
                        for clusterer, k_given in clusterers:
                            fixed = clusterer == "dbscan" and space == "latent"
                            for repeat in range(1 if fixed else n_clusterings):
                                ari = base + OFFSET[clusterer] + 0.02 * (space == "tsne") + random.normal(0, jitter)
                                key = {
                                    "dataset": dataset, "method": method, "n_latent": dims, "seed": seed,
                                    "clustering_seed": repeat, "space": space, "clusterer": clusterer,
                                    "k_given": k_given,
                                }  # fmt: skip
                                ari = float(np.clip(ari, 0, 1))
                                rows.append(
                                    key | {"n_clusters": 7 + d, "ari": ari, "nmi": ari / 2 + 0.4, "overlap": ari}
                                    | {"silhouette": base / 3, "knn_purity": float(np.clip(base + 0.2, 0, 1))}
                                    | training | {"clustering_seconds": 0.2, "versions": "diffvae 0.1.0, numpy 2.0"}
                                )  # fmt: skip
                                for name, n in (("common", 900), ("rare one", 40), ("less", 160)):
                                    scores = {"recall": ari if n > 100 else ari / 2, "precision": ari / 3}
                                    types.append(key | {"type": name, "n_cells": n} | scores)
    return Comparison(pd.DataFrame(rows), pd.DataFrame(types))
