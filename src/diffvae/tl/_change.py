"""How far a cell must move along a direction for its expression to change by a given amount."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

FACTORS = np.array([0, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4.5, 7], np.float32)
"""Multiples of a direction at which cells are decoded."""
AT_ONCE = 1024
"""Cells that are decoded at once: so few that their expression stays in the cache of the processor."""
GROUPS = (0, 9, 10, 13)
"""Bounds of the factors that are tried together: most cells have changed enough at the smaller ones."""


def lengths(change: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the Euclidean length of changes of expression, on the scale of log-normalised values."""
    scaled = change * scale
    return np.sqrt(np.einsum("...g,...g->...", scaled, scaled))


def change_curve(
    moved: Callable[[np.ndarray, np.ndarray], np.ndarray], n_cells: int, scale: np.ndarray, most: float = np.inf
) -> np.ndarray:
    r"""Return how much the expression of each cell changes at each factor, cells x factors, as a running maximum.

    Parameters
    ----------
    moved
        Maps numbers of cells, and factors (cells x factors), to expression, cells x factors x genes.
    n_cells
        Number of cells.
    scale
        Factor of each gene to the scale of log-normalised expression.
    most
        Largest change that is of interest: where a cell has changed more, larger factors have infinity.
    """
    curve = np.full((n_cells, len(FACTORS)), np.inf)
    at_once = max(1, AT_ONCE // GROUPS[1])
    for start in range(0, n_cells, at_once):
        cells = np.arange(start, min(start + at_once, n_cells))
        before = None
        for first, end in pairwise(GROUPS):
            y = moved(cells, np.broadcast_to(FACTORS[first:end], (len(cells), end - first)))
            before = y[:, :1] if before is None else before
            curve[cells, first:end] = lengths(y - before, scale)
            on = curve[cells, :end].max(axis=1) <= most
            if not on.any():
                break
            cells, before = cells[on], before[on]
    return np.maximum.accumulate(curve, axis=1)


def bracket(curve: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where curves that never fall have the wanted values, by linear interpolation: rows x wanted.

    The first result is the number of the column before, the second the share of the way to the next one, 1 for values
    beyond the last column.
    """
    low = np.minimum((curve[:, None] <= wanted[:, None]).sum(axis=2) - 1, curve.shape[1] - 2).clip(0)
    below, above = (np.take_along_axis(curve, at, axis=1) for at in (low, low + 1))
    share = np.divide(wanted - below, above - below, out=np.zeros(low.shape), where=above > below)
    return low, np.where(wanted >= above, 1, share)


def factors_for(curve: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the factors at which the changes are as wanted, cells x steps, by linear interpolation.

    A cell that does not change as much at the largest factor gets that one. No change is always the factor 0, also
    for a cell that does not change along the direction.
    """
    low, share = bracket(curve, wanted)
    factors = FACTORS[low] + share * (FACTORS[low + 1] - FACTORS[low])
    return np.where(np.asarray(wanted) > 0, factors, 0).astype(np.float32)
