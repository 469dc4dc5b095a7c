"""A second opinion on the type of changed cells, of another kind than the classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffvae import _random
from diffvae._core.runtime import in_one_thread

N_COMPONENTS = 30
N_NEIGHBORS = 15
FIT_CELLS = 20_000
"""Largest number of cells from which the judge learns."""
BLOCK = 4096


@dataclass(frozen=True)
class Judge:
    """Multinomial logistic regression on principal components, and the nearest real cells there.

    Attributes
    ----------
    classes
        Names of the types.
    accuracy
        Share of held-out cells whose type the regression finds.
    """

    classes: tuple[str, ...]
    accuracy: float
    _scale: np.ndarray
    _offset: np.ndarray
    _axes: np.ndarray
    _regression: Any
    _search: Any
    _codes: np.ndarray

    @classmethod
    @in_one_thread
    def of(
        cls, x: np.ndarray, codes: np.ndarray, classes: tuple[str, ...], scale: np.ndarray, rng: _random.Rng
    ) -> Judge:
        """Learn from real cells.

        Parameters
        ----------
        x
            Cells x genes.
        codes
            Number of each cell's type; -1 where it is unknown.
        classes
            Names of the types.
        scale
            Factor of each gene to the scale of log-normalised expression.
        rng
            Seed; its split of the cells is not that of the classifier.
        """
        from sklearn.decomposition import PCA
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import NearestNeighbors

        random = _random.generator(rng, "judge")
        rows = random.permutation(np.flatnonzero(codes >= 0))[:FIT_CELLS]
        values, types = x[rows] * scale, codes[rows]
        n = min(N_COMPONENTS, len(rows) - 1, x.shape[1])
        pca = PCA(n, svd_solver="randomized", random_state=int(random.integers(2**31))).fit(values)
        scores = (values - pca.mean_) @ pca.components_.T
        held_out = np.arange(len(rows)) >= 0.7 * len(rows)
        axes = pca.components_.T / scores.std(axis=0).max()  # of size one, for the solver
        scores = (values - pca.mean_) @ axes
        regression = LogisticRegression(max_iter=500).fit(scores[~held_out], types[~held_out])
        right = regression.predict(scores[held_out]) == types[held_out]
        search = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(rows)), algorithm="brute").fit(scores)
        offset = (pca.mean_ @ axes).astype(np.float32)
        return cls(classes, float(right.mean()), scale, offset, axes.astype(np.float32), regression, search, types)

    def scores(self, y: np.ndarray) -> np.ndarray:
        """Return changed cells on the components."""
        return y @ (self._scale[:, None] * self._axes) - self._offset

    def probability(self, y: np.ndarray) -> np.ndarray:
        """Return the probability of each type by the regression, cells x types; 0 for types that it has not seen."""
        found = np.zeros((len(y), len(self.classes)), np.float32)
        if len(y):
            found[:, self._regression.classes_] = self._regression.predict_proba(self.scores(y))
        return found

    def nearest(self, y: np.ndarray) -> np.ndarray:
        """Return the number of the type of most of the 15 nearest real cells; of equal numbers, the first type."""
        found = np.empty(len(y), int)
        for i in range(0, len(y), BLOCK):
            near = self._codes[self._search.kneighbors(self.scores(y[i : i + BLOCK]), return_distance=False)]
            counts = np.stack([(near == code).sum(axis=1) for code in range(len(self.classes))], axis=1)
            found[i : i + BLOCK] = counts.argmax(axis=1)
        return found
