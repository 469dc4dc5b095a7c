"""How many clusters? As many as come back when a part of the cells is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

N_SUBSAMPLES = 5
SUBSAMPLE_SHARE = 0.8

Clustering = Callable[[np.ndarray], Callable[[float], np.ndarray]]
"""Takes cells x dimensions; gives a function from a candidate (number of clusters, resolution) to labels."""


def stability(
    clustering: Clustering, x: np.ndarray, candidates: Sequence[float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each candidate how well its partition comes back in random subsamples: mean and standard deviation.

    Five subsamples of 80 % of the cells are clustered from scratch and each is compared, by the adjusted Rand index,
    with the partition of all cells, the one that would be reported: comparing subsamples with each other alone misses
    clusters that split only where all cells are there. A candidate that leaves the cells or some subsample in one piece
    has no stability (NaN): one piece always agrees with itself.
    """
    size = max(2, int(SUBSAMPLE_SHARE * len(x)))
    drawn = [np.sort(rng.choice(len(x), size, replace=False)) for _ in range(N_SUBSAMPLES)]
    fit_all = clustering(x)
    fitted = [clustering(x[rows]) for rows in drawn]
    scores = np.full((len(candidates), N_SUBSAMPLES), np.nan)
    for i, candidate in enumerate(candidates):
        whole = fit_all(candidate)
        parts = [fit(candidate) for fit in fitted]
        if min(len(np.unique(found)) for found in (whole, *parts)) > 1:
            scores[i] = [adjusted_rand_score(whole[rows], part) for rows, part in zip(drawn, parts, strict=True)]
    return scores.mean(axis=1), scores.std(axis=1)


def choose(
    clustering: Clustering, x: np.ndarray, candidates: Sequence[float], rng: np.random.Generator
) -> tuple[float, pd.DataFrame]:
    r"""Return the candidate whose stability exceeds that of cells without clusters by most, and the table behind it.

    Stability by itself prefers few clusters, on any data. So the same is done on a Gaussian cloud of the same mean and
    covariance, which has no clusters, and the stability S is corrected for it as the adjusted Rand index is for chance:

    .. math:: excess = (S - S_{null}) / (1 - S_{null})

    The largest excess decides, between equal ones the finer partition. Candidates that leave the cloud in one piece, or
    at which it is perfectly stable, have none (NaN) and count only if all have none; then the most stable one is taken.

    References
    ----------
    Dudoit and Fridlyand 2002 (comparison with a reference without clusters); Hennig 2007 (stability); von Luxburg,
    Clustering stability: an overview, 2010.
    """
    mean, sd = stability(clustering, x, candidates, rng)
    table = pd.DataFrame({"candidate": candidates, "stability": mean, "sd": sd})
    table["null_stability"] = stability(clustering, structureless(x, rng), candidates, rng)[0]
    room = (1 - table["null_stability"]).where(table["null_stability"] < 1)
    table["excess"] = (table["stability"] - table["null_stability"]) / room
    decisive = table["stability"] if table["excess"].isna().all() else table["excess"]
    best = table.loc[decisive >= decisive.max() - 1e-9, "candidate"]
    chosen = float(best.max()) if len(best) else float(min(candidates))
    table["chosen"] = table["candidate"] == chosen
    return chosen, table


def structureless(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a Gaussian cloud with the mean and covariance of x: the same data without clusters (the null)."""
    covariance = np.atleast_2d(np.cov(x.T))
    return rng.multivariate_normal(x.mean(axis=0), covariance, size=len(x), method="eigh").astype(x.dtype)
