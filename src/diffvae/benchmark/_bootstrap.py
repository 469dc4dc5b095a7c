"""Intervals of a mean difference, by resampling what was repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffvae import _random


@dataclass(frozen=True)
class Bootstrap:
    r"""Intervals of the mean over data sets of the mean over pairs.

    Data sets are drawn with replacement, then pairs within each that was drawn; of a single data set the pairs alone.
    With few units the means of such draws vary too little: by :math:`\sqrt{(n-1)/n}`, and with normal instead of
    Student's tails, n being the number of what is drawn first. So the distances of their quantiles from the mean are
    multiplied by

    .. math:: \sqrt{n / (n - 1)} \; t_{n-1} / z

    (Hesterberg 2015 corrects the same by moving the quantiles outwards, which can't leave the range of the data). Of
    1500 simulations with 5 pairs of normal differences plain 95 % quantiles held the truth in 84 %, these in 94 %;
    with 8 data sets of 5 pairs and as much variance between data sets as within, 93 and 97 %.

    Attributes
    ----------
    n
        Draws.
    level
        Of confidence.
    rng
        Seed.

    References
    ----------
    Hesterberg 2015, What teachers should know about the bootstrap, The American Statistician 69, 371-386.

    Examples
    --------
    >>> low, high = Bootstrap().interval([np.array([0.1, 0.2, 0.3])])
    >>> low < 0.1 < 0.3 < high  # three pairs say little
    True
    """

    n: int = 2000
    level: float = 0.95
    rng: _random.Rng = 0

    def __post_init__(self) -> None:
        if self.n < 1 or not 0 < self.level < 1:
            raise ValueError(f"n_bootstrap is {self.n} and level {self.level}; give 1 or more, and between 0 and 1.")

    def interval(self, differences: Sequence[np.ndarray], *purpose: str) -> tuple[float, float]:
        """Return low and high of one array of differences per data set; NaN if there is one difference in all."""
        from scipy import special

        sets = [np.asarray(d, float) for d in differences if len(d)]
        n = len(sets) if len(sets) > 1 else sum(map(len, sets))
        if n < 2:
            return np.nan, np.nan
        mean = float(np.mean([d.mean() for d in sets]))
        tails = np.array([0.5 - self.level / 2, 0.5 + self.level / 2])
        wider = np.sqrt(n / (n - 1)) * special.stdtrit(n - 1, tails[1]) / special.ndtri(tails[1])
        drawn = _means(sets, self.n, _random.generator(self.rng, "bootstrap", *purpose))
        low, high = mean + wider * (np.quantile(drawn, tails) - mean)
        return float(low), float(high)


def resampled(differences: Sequence[np.ndarray]) -> str:
    """Say what an interval draws."""
    sizes = [len(d) for d in differences if len(d)]
    if len(sizes) < 2:
        return "trainings" if sum(sizes) > 1 else "nothing"
    return "data sets, then trainings" if max(sizes) > 1 else "data sets"


def _means(sets: list[np.ndarray], n: int, chance: np.random.Generator) -> np.ndarray:
    """Return the mean of each draw."""
    if len(sets) == 1:
        (own,) = sets
        return own[chance.integers(len(own), size=(n, len(own)))].mean(1)
    picks = chance.integers(len(sets), size=(n, len(sets)))
    means = np.empty(picks.shape)
    for i, own in enumerate(sets):
        here = picks == i
        means[here] = own[chance.integers(len(own), size=(int(here.sum()), len(own)))].mean(1)
    return means.mean(1)
