"""How many clusters? As many as come back when a part of the cells is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

N_SUBSAMPLES = 5
SUBSAMPLE_SHARE = 0.8
TOLERANCE = 0.9

Partition = Callable[[np.ndarray, float], np.ndarray]
"""Takes rows and a candidate (number of clusters or resolution), gives labels of these rows."""


def stability(partition: Partition, candidate: float, subsamples: Sequence[np.ndarray]) -> float:
    """Return the mean adjusted Rand index between partitions of random subsamples, on the cells that they share."""
    labels = [partition(rows, candidate) for rows in subsamples]
    scores = []
    for i, rows in enumerate(subsamples):
        for j in range(i):
            _, mine, theirs = np.intersect1d(rows, subsamples[j], assume_unique=True, return_indices=True)
            scores.append(adjusted_rand_score(labels[i][mine], labels[j][theirs]))
    return float(np.mean(scores))


def subsamples(n_cells: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw the subsamples that all candidates share."""
    size = max(2, int(SUBSAMPLE_SHARE * n_cells))
    return [np.sort(rng.choice(n_cells, size, replace=False)) for _ in range(N_SUBSAMPLES)]


def choose(
    partition: Partition, candidates: Sequence[float], n_cells: int, rng: np.random.Generator
) -> tuple[float, pd.DataFrame]:
    """Return the finest candidate that is nearly as stable as the most stable one, and the table behind it.

    Stability by itself prefers few clusters, so not the maximum is taken but the last candidate with at least 90 % of it.

    References
    ----------
    Ben-Hur, Elisseeff, Guyon 2002; von Luxburg, Clustering stability: an overview, 2010.
    """
    drawn = subsamples(n_cells, rng)
    table = pd.DataFrame({"candidate": candidates, "stability": [stability(partition, c, drawn) for c in candidates]})
    good = table["stability"] >= TOLERANCE * table["stability"].max()
    chosen = float(table.loc[good, "candidate"].max())
    table["chosen"] = table["candidate"] == chosen
    return chosen, table


def structureless(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a Gaussian cloud with the mean and covariance of x: the same data without clusters (the null)."""
    covariance = np.atleast_2d(np.cov(x.T))
    return rng.multivariate_normal(x.mean(axis=0), covariance, size=len(x), method="eigh").astype(x.dtype)
