"""A second opinion on the type of changed cells, of another kind than the classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffvae import _random
from diffvae._core.runtime import in_one_thread

N_COMPONENTS = 30
N_NEIGHBORS = 15
FIT_CELLS, RARE = 10_000, 50
"""Of more cells than the first the judge learns from a sample, with at least the second of each type."""
LEARN = 0.7
"""Share of each type from which the regression learns; the rest is held out."""
BLOCK = 4096


@dataclass(frozen=True)
class Judge:
    """Multinomial logistic regression on principal components, and the nearest real cells there.

    Attributes
    ----------
    classes
        Names of the types.
    accuracy
        Share of held-out cells whose type the regression finds; NaN if the types are too small to hold out any.
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
        rows = random.permutation(np.flatnonzero(codes >= 0))
        place = pd.Series(rows).groupby(codes[rows]).cumcount().to_numpy()  # of a cell within its type
        size = np.bincount(codes[rows], minlength=len(classes))
        rows = rows[place < np.maximum(size * min(1.0, FIT_CELLS / len(rows)), RARE)[codes[rows]]]
        values, types = x[rows] * scale, codes[rows]
        n = min(N_COMPONENTS, len(rows) - 1, x.shape[1])
        pca = PCA(n, svd_solver="randomized", random_state=int(random.integers(2**31))).fit(values)
        scores = (values - pca.mean_) @ pca.components_.T
        place = pd.Series(types).groupby(types).cumcount().to_numpy()
        held_out = place >= np.ceil(LEARN * np.bincount(types, minlength=len(classes)))[types]  # every type is learnt
        axes = pca.components_.T / max(scores.std(axis=0).max(), 1e-12)  # of size one, for the solver
        scores = (values - pca.mean_) @ axes
        regression = LogisticRegression(max_iter=500).fit(scores[~held_out], types[~held_out])
        right = regression.predict(scores)[held_out] == types[held_out]
        search = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(rows)), algorithm="brute").fit(scores)
        offset = (pca.mean_ @ axes).astype(np.float32)
        accuracy = float(right.mean()) if len(right) else np.nan
        return cls(classes, accuracy, scale, offset, axes.astype(np.float32), regression, search, types)

    def scores(self, y: np.ndarray) -> np.ndarray:
        """Return changed cells on the components."""
        return y @ (self._scale[:, None] * self._axes) - self._offset

    def probability(self, y: np.ndarray) -> np.ndarray:
        """Return the probability of each type by the regression, cells x types; 0 for types that it has not seen."""
        return self._probability(self.scores(y))

    def nearest(self, y: np.ndarray) -> np.ndarray:
        """Return the number of the type of most of the 15 nearest real cells; of equal numbers, the first type."""
        return self._nearest(self.scores(y))

    def types(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of the most probable type by the regression, and what :meth:`nearest` returns."""
        scores = self.scores(y)
        return self._probability(scores).argmax(axis=1), self._nearest(scores)

    def _probability(self, scores: np.ndarray) -> np.ndarray:
        found = np.zeros((len(scores), len(self.classes)), np.float32)
        if len(scores):
            found[:, self._regression.classes_] = self._regression.predict_proba(scores)
        return found

    def _nearest(self, scores: np.ndarray) -> np.ndarray:
        found = np.empty(len(scores), int)
        for i in range(0, len(scores), BLOCK):
            near = self._codes[self._search.kneighbors(scores[i : i + BLOCK], return_distance=False)]
            counts = np.stack([(near == code).sum(axis=1) for code in range(len(self.classes))], axis=1)
            found[i : i + BLOCK] = counts.argmax(axis=1)
        return found
