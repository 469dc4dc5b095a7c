"""How far a cell must move along a direction for its expression to change by a given amount."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

FACTORS = np.array([0, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4.5, 7], np.float32)
"""Multiples of a direction at which cells are decoded."""
AT_ONCE = 4096
"""Cells that are decoded at once; limits the memory."""


def lengths(change: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the Euclidean length of changes of expression, on the scale of log-normalised values."""
    return np.linalg.norm(change * scale, axis=-1)


def change_curve(moved: Callable[[slice, np.ndarray], np.ndarray], n_cells: int, scale: np.ndarray) -> np.ndarray:
    r"""Return how much the expression of each cell changes at each factor, cells x factors, as a running maximum.

    Parameters
    ----------
    moved
        Maps a slice of the cells, and factors (cells x factors), to expression, cells x factors x genes.
    n_cells
        Number of cells.
    scale
        Factor of each gene to the scale of log-normalised expression.
    """
    curve = np.zeros((n_cells, len(FACTORS)))
    at_once = max(1, AT_ONCE // len(FACTORS))
    for start in range(0, n_cells, at_once):
        part = slice(start, min(start + at_once, n_cells))
        y = moved(part, np.broadcast_to(FACTORS, (part.stop - start, len(FACTORS))))
        curve[part] = lengths(y - y[:, :1], scale)
    return np.maximum.accumulate(curve, axis=1)


def factors_for(curve: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the factors at which the changes are as wanted, cells x steps, by linear interpolation.

    A cell that does not change as much at the largest factor gets that one. No change is always the factor 0, also
    for a cell that does not change along the direction.
    """
    factors = np.stack([np.interp(wanted, row, FACTORS) for row in curve])
    return np.where(np.asarray(wanted) > 0, factors, 0).astype(np.float32)
