"""How many clusters? As many as come back when a part of the cells is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

N_SUBSAMPLES = 5
SUBSAMPLE_SHARE = 0.8
N_CLOUDS = 8
N_CLOUD_SUBSAMPLES = 3
"""Subsamples of each cloud: fewer than of the data, since the clouds are most of the cost."""

Clustering = Callable[[np.ndarray], Callable[[float], np.ndarray]]
"""Takes cells x dimensions; gives a function from a candidate (number of clusters, resolution) to labels."""


def stability(
    clustering: Clustering,
    x: np.ndarray,
    candidates: Sequence[float],
    rng: np.random.Generator,
    n_subsamples: int = N_SUBSAMPLES,
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each candidate how well its partition comes back in random subsamples: mean and standard deviation.

    Subsamples of 80 % of the cells (five) are clustered from scratch and each is compared, by the adjusted Rand index,
    with the partition of all cells, the one that would be reported: comparing subsamples with each other alone misses
    clusters that split only where all cells are there. A candidate that leaves the cells or some subsample in one piece
    has no stability (NaN): one piece always agrees with itself.
    """
    size = max(2, int(SUBSAMPLE_SHARE * len(x)))
    drawn = [np.sort(rng.choice(len(x), size, replace=False)) for _ in range(n_subsamples)]
    fit_all = clustering(x)
    fitted = [clustering(x[rows]) for rows in drawn]
    scores = np.full((len(candidates), n_subsamples), np.nan)
    for i, candidate in enumerate(candidates):
        whole = fit_all(candidate)
        parts = [fit(candidate) for fit in fitted]
        if min(len(np.unique(found)) for found in (whole, *parts)) > 1:
            scores[i] = [adjusted_rand_score(whole[rows], part) for rows, part in zip(drawn, parts, strict=True)]
    return scores.mean(axis=1), scores.std(axis=1)


def choose(
    clustering: Clustering, x: np.ndarray, candidates: Sequence[float], rng: np.random.Generator
) -> tuple[float, pd.DataFrame, float]:
    r"""Return the candidate whose stability exceeds that of cells without clusters by most, its table and its p-value.

    Stability by itself prefers few clusters, on any data. So the same is done on Gaussian clouds of the same mean and
    covariance, which have no clusters, and the stability S is corrected for their mean as the adjusted Rand index is
    for chance:

    .. math:: excess = (S - \bar S_{null}) / (1 - \bar S_{null})

    The largest excess decides, between equal ones the finer partition. Candidates that leave a cloud in one piece, or
    at which all clouds are perfectly stable, have none (NaN) and count only if all have none; then the most stable one
    is taken.

    The best of many candidates exceeds the mean of the clouds also where there are no clusters. So each cloud chooses
    too, against the mean of the others, and of B clouds those that reach at least the excess of the data are counted:

    .. math:: p = (1 + \#\{b : \max excess_b \ge \max excess\}) / (1 + B)

    It is NaN where the data have no excess.

    References
    ----------
    Dudoit and Fridlyand 2002 (comparison with a reference without clusters); Hennig 2007 (stability); von Luxburg,
    Clustering stability: an overview, 2010.
    """
    mean, sd = stability(clustering, x, candidates, rng)
    clouds = np.array(
        [stability(clustering, structureless(x, rng), candidates, rng, N_CLOUD_SUBSAMPLES)[0] for _ in range(N_CLOUDS)]
    )
    null = clouds.mean(axis=0)
    table = pd.DataFrame({"candidate": candidates, "stability": mean, "sd": sd, "null_stability": null})
    table["excess"] = _excess(mean, null)
    decisive = table["stability"] if table["excess"].isna().all() else table["excess"]
    best = table.loc[decisive >= decisive.max() - 1e-9, "candidate"]
    chosen = float(best.max()) if len(best) else float(min(candidates))
    table["chosen"] = table["candidate"] == chosen
    return chosen, table, _p_value(float(table["excess"].max()), clouds)


def _excess(stability: np.ndarray, null: np.ndarray) -> np.ndarray:
    room = np.where(null < 1, 1 - null, np.nan)
    return (stability - null) / room


def _p_value(reached: float, clouds: np.ndarray) -> float:
    """Return the share of the clouds, and the data, that reach the excess of the data."""
    if np.isnan(reached):
        return float("nan")
    others = [np.delete(clouds, i, axis=0) for i in range(len(clouds))]
    excess = np.array([_excess(own, rest.mean(axis=0)) for own, rest in zip(clouds, others, strict=True)])
    largest = np.where(np.isnan(excess), -np.inf, excess).max(axis=1)
    return float(1 + (largest >= reached - 1e-9).sum()) / (1 + len(clouds))


def structureless(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a Gaussian cloud with the mean and covariance of x: the same data without clusters (the null)."""
    covariance = np.atleast_2d(np.cov(x.T))
    return rng.multivariate_normal(x.mean(axis=0), covariance, size=len(x), method="eigh").astype(x.dtype)
