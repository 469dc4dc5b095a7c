"""Dimensions of two trainings matched one to one, and the agreement that axes drawn at random would have."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

N_DRAWS = 200
"""Draws of a null per pair of trainings."""
NULLS = ("rotation", "permutation")


class Match(NamedTuple):
    """Which dimension of the other training each dimension of the reference is matched to.

    ``column`` is -1, ``similarity`` and ``sign`` are 0 where the other training has too few dimensions.
    """

    column: np.ndarray
    similarity: np.ndarray
    """Absolute cosine."""
    sign: np.ndarray
    """-1 where the matched dimension points the other way."""


def cosines(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of one array with each row of the other; 0 for a row of zeros.

    Examples
    --------
    >>> cosines(np.array([[3.0, 0.0]]), np.array([[1.0, 0.0], [0.0, -2.0], [-1.0, 0.0]])).tolist()
    [[1.0, 0.0, -1.0]]
    """
    return _unit(reference) @ _unit(other).T


def match(cosine: np.ndarray) -> Match:
    r"""Match rows to columns one to one.

    .. math:: \max_\pi \sum_d |\cos(w_d, w'_{\pi(d)})|

    solved exactly by the Hungarian method. The absolute value, because a dimension and its mirror image say the same.

    Parameters
    ----------
    cosine
        Dimensions of the reference x dimensions of the other training, from :func:`cosines`.

    Returns
    -------
    :class:`Match`, one entry per row.

    Examples
    --------
    >>> found = match(np.array([[0.1, -0.9], [0.8, 0.85]]))
    >>> found.column.tolist(), found.similarity.tolist(), found.sign.tolist()
    ([1, 0], [0.9, 0.8], [-1, 1])
    """
    n = len(cosine)
    column, similarity, sign = np.full(n, -1), np.zeros(n), np.zeros(n, int)
    rows, columns = linear_sum_assignment(np.abs(cosine), maximize=True)
    column[rows] = columns
    similarity[rows] = np.abs(cosine[rows, columns])
    sign[rows] = np.where(cosine[rows, columns] < 0, -1, 1)
    return Match(column, similarity, sign)


def null_similarity(
    reference: np.ndarray, other: np.ndarray, null: str, rng: np.random.Generator, n_draws: int = N_DRAWS
) -> np.ndarray:
    r"""Return the similarities that the same matching finds where there are no dimensions to find again.

    ``"rotation"`` replaces the axes of the other training by random ones of the same latent space,

    .. math:: w'_d \to \sum_e R_{de} w'_e, \qquad R^T R = I

    N(0, I) is the same whichever way it is turned, and a decoder turned with it fits as well: all that sets such a
    training apart is its axes. What all directions of that space share (genes that move whatever one does, the common
    subspace) is in the null, too, and only the choice of the axes is left to be found again. ``"permutation"`` shuffles
    the genes within each dimension, which breaks all of that as well.

    Parameters
    ----------
    reference, other
        Dimensions x genes (or cells), in the units of the latent.
    null
        ``"rotation"`` or ``"permutation"``.
    rng
        Generator.
    n_draws
        Draws.

    Returns
    -------
    Draws x dimensions of the reference: the absolute cosine of each matched pair.
    """
    found = np.zeros((n_draws, len(reference)))
    unit = _unit(reference)
    if null == "permutation":
        own = _unit(other)
        for draw in found:
            draw[:] = match(unit @ rng.permuted(own, axis=1).T).similarity
        return found
    # a rotation needs no look at the genes: inner products of the rows hold all that it turns
    across, gram = unit @ other.T, other @ other.T
    for draw in found:
        turn = _rotation(len(other), rng)
        length = np.sqrt(np.einsum("ij,jk,ik->i", turn, gram, turn, optimize=True).clip(min=0))
        draw[:] = match((across @ turn.T) / np.where(length > 0, length, 1)).similarity
    return found


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def _rotation(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return an orthogonal matrix, uniform among all (Stewart 1980)."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))
