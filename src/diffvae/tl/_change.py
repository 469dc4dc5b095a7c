"""How far a cell must move along a direction for its expression to change by a given amount."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

FACTORS = np.array([0, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 4.5, 7], np.float32)
"""Multiples of a direction at which cells are decoded."""
AT_ONCE = 4096
"""Cells that are decoded at once; limits the memory."""

Decode = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps points of the latent space (or of expression), and the cells from which they come, to expression."""


def lengths(change: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the Euclidean length of changes of expression, on the scale of log-normalised values."""
    return np.linalg.norm(change * scale, axis=-1)


def change_curve(decode: Decode, z: np.ndarray, delta: np.ndarray, rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
    r"""Return :math:`|dec(z + f \Delta) - dec(z)|` for each cell and factor f, cells x factors, as a running maximum.

    Parameters
    ----------
    decode
        See :data:`Decode`.
    z
        Cells x dimensions.
    delta
        The direction, one for all cells (dimensions) or one for each (cells x dimensions).
    rows
        Numbers of the cells, for ``decode``.
    scale
        Factor of each gene to the scale of log-normalised expression.
    """
    delta = np.broadcast_to(delta, z.shape)
    curve = np.zeros((len(z), len(FACTORS)))
    at_once = max(1, AT_ONCE // len(FACTORS))
    for start in range(0, len(z), at_once):
        part = slice(start, start + at_once)
        points = z[part, None] + FACTORS[:, None] * delta[part, None]  # cells x factors x dimensions
        decoded = decode(points.reshape(-1, z.shape[1]), np.repeat(rows[part], len(FACTORS)))
        decoded = decoded.reshape(*points.shape[:2], -1)
        curve[part] = lengths(decoded - decoded[:, :1], scale)
    return np.maximum.accumulate(curve, axis=1)


def factors_for(curve: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the factors at which the changes are as wanted, cells x steps, by linear interpolation.

    A cell that does not change as much at the largest factor gets that one. No change is always the factor 0, also
    for a cell that does not change along the direction.
    """
    factors = np.stack([np.interp(wanted, row, FACTORS) for row in curve])
    return np.where(np.asarray(wanted) > 0, factors, 0).astype(np.float32)
