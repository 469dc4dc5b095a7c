"""Mixture of uncommitted cells and of cells on straight paths to other types, in a whitened space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffvae import _random
from diffvae._core.neighbors import nearest

N_STEPS = 10
"""Midpoints on each path."""
START = 0.7
"""Share of the core at the start."""
LEAST_VARIANCE = 0.25
MAX_ITERATIONS = 200
STOP = 1e-5
"""Change of the shares at which the iterations stop."""
LEAST_CORE, VANISHED = 0.01, 0.1
"""Limit of the core's share in the fit that shows whether there is a core, and the share below which there is none.

On 13 simulated trees, with the calls of all targets and of later ones, it was .2 or more in all pools but five, two of
which had a third of their cells called although none had begun.
"""
NEAREST_SHARE, NEAREST_CELLS = 0.2, 10
"""The cells of a type nearest to the source: this share, and at least this number."""
SMOOTHED = 15
"""Neighbours within a type over which its cells' direction is averaged."""


@dataclass(frozen=True)
class Paths:
    """A fitted mixture.

    Attributes
    ----------
    posterior
        Cells x paths: probability that a cell is on each path; the rest to 1 is the core.
    progress
        Cells x paths: expected place on the path, from 0 (core) to 1 (the nearest cells of the type).
    core
        Share of the core.
    at_limit
        Whether the share is at its lower limit.
    variance
        tau, of the core in each dimension.
    centre, ends
        m0, and F_T of each path (paths x dimensions).
    shares
        Share of each path.
    """

    posterior: np.ndarray
    progress: np.ndarray
    core: float
    at_limit: bool
    variance: float
    centre: np.ndarray
    ends: np.ndarray
    shares: np.ndarray

    def drawn_without_fate(self, n: int, n_targets: int, rng: np.random.Generator) -> np.ndarray:
        """Draw cells of the core and of the paths after the first ``n_targets``: nobody has begun towards a target."""
        weights = np.concatenate([[self.core], self.shares[n_targets:]])
        path = rng.choice(len(weights), size=n, p=weights / weights.sum())
        ends = np.vstack([self.centre, self.ends[n_targets:]])[path]
        place = self.centre + rng.random((n, 1)) * (ends - self.centre)
        return place + np.sqrt(self.variance) * rng.standard_normal(place.shape)


def path_ends(y: np.ndarray, types: np.ndarray, source: str, names: list[str], rng: _random.Rng = 0) -> np.ndarray:
    """Return F_T, paths x dimensions: the mean of the cells of each type that are nearest to the source.

    They are the fifth of its cells with the least y . (mean of T - mean of the source), smoothed within the type.
    """
    centre, ends = y[types == source].mean(axis=0), []
    for name in names:
        cells = y[types == name]
        along = cells @ (cells.mean(axis=0) - centre)
        k = min(SMOOTHED, len(cells) - 1)
        if k:
            near = nearest(cells, k, metric="euclidean", rng=rng).indices
            along = (along + np.where(near >= 0, along[near], 0).sum(axis=1)) / (1 + (near >= 0).sum(axis=1))
        n = min(len(cells), max(NEAREST_CELLS, int(np.ceil(NEAREST_SHARE * len(cells)))))
        ends.append(cells[np.argsort(along, kind="stable")[:n]].mean(axis=0))
    return np.array(ends)


def projected(pool: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return progenitors and path ends as coordinates in the span of F_T - m."""
    basis, size, _ = np.linalg.svd((ends - pool.mean(axis=0)).T, full_matrices=False)
    basis = basis[:, size > 1e-9 * max(size.max(), 1e-300)]
    return pool @ basis, ends @ basis


def fit_paths(x: np.ndarray, ends: np.ndarray, min_core: float) -> Paths:
    """Fit shares, centre and variance of the mixture by EM; the equation is that of :func:`diffvae.tl.commitment`."""
    (n, d), n_paths = x.shape, len(ends)
    s = (np.arange(N_STEPS) + 0.5) / N_STEPS
    centre, squares = x.mean(axis=0), (x**2).sum(axis=1)[:, None]
    variance = max(float(((x - centre) ** 2).sum() / max(d * n, 1)), LEAST_VARIANCE)
    shares = np.concatenate([[START], np.full(n_paths, (1 - START) / n_paths)])
    for _ in range(MAX_ITERATIONS):
        places = np.vstack([centre, (centre + s[None, :, None] * (ends - centre)[:, None]).reshape(-1, d)])
        prior = np.concatenate([shares[:1], np.repeat(shares[1:] / N_STEPS, N_STEPS)])
        distances = np.maximum(squares - 2 * x @ places.T + (places**2).sum(axis=1), 0)
        log = np.log(np.maximum(prior, 1e-300)) - distances / (2 * variance)
        r = np.exp(log - log.max(axis=1, keepdims=True))
        r /= r.sum(axis=1, keepdims=True)
        core, paths = r[:, 0], r[:, 1:].reshape(n, n_paths, N_STEPS)
        new = np.concatenate([[core.mean()], paths.sum(axis=2).mean(axis=0)])
        at_limit = bool(new[0] < min_core)
        if at_limit:
            new = np.concatenate([[min_core], new[1:] / new[1:].sum() * (1 - min_core)])
        left = paths @ (1 - s)  # cells x paths, weight of what the core contributes to their places
        towards = (paths @ ((1 - s) * s)).sum(axis=0)
        total = core.sum() + (paths @ (1 - s) ** 2).sum()
        centre = (core @ x + left.sum(axis=1) @ x - towards @ ends) / total
        variance = max(float((core @ ((x - centre) ** 2).sum(axis=1)) / max(d * core.sum(), 1e-12)), LEAST_VARIANCE)
        change, shares = np.abs(new - shares).max(), new
        if change < STOP:
            break
    posterior = paths.sum(axis=2)
    progress = (paths @ s) / np.maximum(posterior, 1e-12)
    return Paths(posterior, progress, float(shares[0]), at_limit, variance, centre, ends, shares[1:])


def call_cells(
    x: np.ndarray, ends: np.ndarray, n_targets: int, max_q: float, min_core: float
) -> tuple[Paths, np.ndarray, bool]:
    """Return the fit, the path of each called cell (or -1), and whether all calls are withheld.

    They are if the core is kept at its lower limit and vanishes without the limit: then its cells lie on a path as
    well, and nothing says which of the two groups has not begun.
    """
    fit = fit_paths(x, ends, min_core)
    called = most_cells(fit.posterior, max_q, n_targets)
    # a lower limit as low says that most cells may have begun: then a core that vanishes is no surprise
    withheld = fit.at_limit and min_core > VANISHED and fit_paths(x, ends, min(LEAST_CORE, min_core)).core < VANISHED
    return fit, np.full_like(called, -1) if withheld else called, withheld


def most_cells(posterior: np.ndarray, max_q: float, n_targets: int) -> np.ndarray:
    """Return the path of each called cell, and -1: the longest list whose expected false share is at most max_q.

    Only cells whose most probable path is one of the first ``n_targets`` are listed.
    """
    best, wrong = posterior.argmax(axis=1), 1 - posterior.max(axis=1)
    candidates = np.flatnonzero(best < n_targets)
    order = candidates[np.argsort(wrong[candidates], kind="stable")]
    allowed = np.flatnonzero(np.cumsum(wrong[order]) <= max_q * np.arange(1, len(order) + 1))
    called = np.full(len(posterior), -1)
    if len(allowed):
        listed = order[: allowed[-1] + 1]
        called[listed] = best[listed]
    return called
