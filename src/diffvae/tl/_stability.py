"""How many clusters? As many as come back when a part of the cells is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

N_SUBSAMPLES = 5
SUBSAMPLE_SHARE = 0.8
TOLERANCE = 0.9

Clustering = Callable[[np.ndarray], Callable[[float], np.ndarray]]
"""Takes cells x dimensions; gives a function from a candidate (number of clusters, resolution) to labels."""


def stability(
    clustering: Clustering, x: np.ndarray, candidates: Sequence[float], rng: np.random.Generator
) -> list[float]:
    """Return for each candidate the mean adjusted Rand index between partitions of random subsamples.

    Five subsamples of 80 % of the cells are clustered from scratch and compared in pairs on the cells they share. A
    candidate that leaves some subsample in one piece has no stability (NaN): one piece always agrees with itself.
    """
    size = max(2, int(SUBSAMPLE_SHARE * len(x)))
    drawn = [np.sort(rng.choice(len(x), size, replace=False)) for _ in range(N_SUBSAMPLES)]
    fitted = [clustering(x[rows]) for rows in drawn]
    scores = []
    for candidate in candidates:
        labels = [fit(candidate) for fit in fitted]
        if min(len(np.unique(found)) for found in labels) < 2:
            scores.append(float("nan"))
            continue
        pairs = [(i, j) for i in range(N_SUBSAMPLES) for j in range(i)]
        scores.append(float(np.mean([_agreement(drawn[i], labels[i], drawn[j], labels[j]) for i, j in pairs])))
    return scores


def _agreement(rows: np.ndarray, labels: np.ndarray, other_rows: np.ndarray, other_labels: np.ndarray) -> float:
    _, mine, theirs = np.intersect1d(rows, other_rows, assume_unique=True, return_indices=True)
    return float(adjusted_rand_score(labels[mine], other_labels[theirs]))


def choose(
    clustering: Clustering, x: np.ndarray, candidates: Sequence[float], rng: np.random.Generator
) -> tuple[float, pd.DataFrame]:
    """Return the finest candidate that is nearly as stable as the most stable one, and the table behind it.

    Stability by itself prefers few clusters, so not the maximum is taken but the last candidate with at least 90 % of
    it. Beside each stands the same for a Gaussian cloud of the same covariance, which has no clusters.

    References
    ----------
    Ben-Hur, Elisseeff, Guyon 2002; von Luxburg, Clustering stability: an overview, 2010.
    """
    table = pd.DataFrame({"candidate": candidates, "stability": stability(clustering, x, candidates, rng)})
    table["null_stability"] = stability(clustering, structureless(x, rng), candidates, rng)
    good = table["stability"] >= TOLERANCE * table["stability"].max()
    chosen = float(table.loc[good if good.any() else slice(None), "candidate"].max())
    table["chosen"] = table["candidate"] == chosen
    return chosen, table


def structureless(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a Gaussian cloud with the mean and covariance of x: the same data without clusters (the null)."""
    covariance = np.atleast_2d(np.cov(x.T))
    return rng.multivariate_normal(x.mean(axis=0), covariance, size=len(x), method="eigh").astype(x.dtype)
