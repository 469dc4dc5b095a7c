"""Is an edited cell still a cell that could be?"""

from __future__ import annotations

import numpy as np

N_NEIGHBORS = 5


def plausibility(edited: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean Euclidean distance of each edited cell to its nearest real ones, and the usual such distance.

    Parameters
    ----------
    edited, real
        Cells x genes; ``real`` are those of the target type.

    Returns
    -------
    One distance per edited cell, and one per real cell to the nearest others of its type.
    """
    from sklearn.neighbors import NearestNeighbors

    n = min(N_NEIGHBORS, len(real) - 1)
    neighbours = NearestNeighbors(n_neighbors=n, algorithm="brute").fit(real)
    usual = neighbours.kneighbors()[0].mean(1)
    if not len(edited):
        return np.zeros(0), usual
    return neighbours.kneighbors(edited)[0].mean(1), usual
