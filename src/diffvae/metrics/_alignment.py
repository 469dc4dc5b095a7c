"""How well single latent dimensions separate one group of cells from all others."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from diffvae._core.validate import Whole, check
from diffvae._random import Rng, generator
from diffvae.metrics._labels import as_labels, as_points


def dimension_alignment(
    z: ArrayLike, labels: ArrayLike, *, adjusted: bool = True, n_permutations: int = 20, rng: Rng = 0
) -> float:
    r"""Compute how well single dimensions separate each type from all other cells.

    .. math:: A = \frac{1}{K} \sum_{t=1}^{K} a_t \qquad a_t = \max_d \left| 2\, \mathrm{AUC}_{td} - 1 \right|
        \qquad A_{\mathrm{adj}} = \frac{A - \mathrm{E}[A]}{1 - \mathrm{E}[A]}

    with :math:`\mathrm{AUC}_{td}` the probability that a cell of type t lies above a cell of another type on dimension
    d; ties count half. High values are good for types and bad for batches. The best of many dimensions separates a
    small type by chance alone. The adjustment subtracts the mean of A under permuted labels, so that chance is 0 and
    representations with different numbers of dimensions can be compared.

    Parameters
    ----------
    z
        Cells x dimensions.
    labels
        Type, or batch, of each cell.
    adjusted
        Whether to adjust for chance; False gives A.
    n_permutations
        Permutations from which the expectation is computed.
    rng
        Seed or generator of the permutations.

    Returns
    -------
    1 if every type has such a dimension, about 0 (also slightly below) at chance level, and 0 if the expectation is 1
    (two cells). Without adjustment, a number in [0, 1].

    Examples
    --------
    >>> z = np.repeat([[3.0, 0.0], [0.0, 2.0]], 50, axis=0)
    >>> dimension_alignment(z, ["T"] * 50 + ["B"] * 50)
    1.0
    >>> dimension_alignment([[1.0], [2.0], [3.0], [4.0]], ["a", "b", "a", "b"], adjusted=False)
    0.5
    """
    check({"n_permutations": Whole(int(adjusted))}, n_permutations=n_permutations)
    table = best_dimensions(z, labels, n_permutations=n_permutations if adjusted else 0, rng=rng)
    value = float(table["alignment"].mean())
    if not adjusted:
        return value
    expected = float(table["expected"].mean())
    return (value - expected) / (1 - expected) if expected < 1 else 0.0


def best_dimensions(z: ArrayLike, labels: ArrayLike, *, n_permutations: int = 20, rng: Rng = 0) -> pd.DataFrame:
    """Find the single dimension that best separates each type from all other cells.

    Parameters
    ----------
    z
        Cells x dimensions.
    labels
        Type, or batch, of each cell.
    n_permutations
        Permutations from which ``expected`` is computed; 0 leaves it NaN.
    rng
        Seed or generator of the permutations.

    Returns
    -------
    One row per type, sorted by name: ``type``, ``n_cells``, ``dimension`` (position; the first of ties), ``side`` ("+"
    if the type's cells lie above the others, "-" if below), ``auc`` (below 0.5 on the side "-"), ``alignment``
    (abs(2 AUC - 1), see :func:`dimension_alignment`) and ``expected`` (its mean under permuted labels).

    Examples
    --------
    >>> z = np.repeat([[3.0, 0.0], [0.0, 0.0], [0.0, -2.0]], 20, axis=0)
    >>> table = best_dimensions(z, ["T"] * 20 + ["B"] * 20 + ["NK"] * 20)
    >>> table[["type", "dimension", "side", "auc"]].values.tolist()
    [['B', 0, '-', 0.25], ['NK', 1, '-', 0.0], ['T', 0, '+', 1.0]]
    """
    check({"n_permutations": Whole(0)}, n_permutations=n_permutations)
    names, codes, ranks = _ranked(z, labels)
    signed = _signed(ranks, codes)
    best = np.abs(signed).argmax(axis=1)
    of_best = signed[np.arange(len(names)), best]
    expected = np.full(len(names), np.nan)
    if n_permutations:
        draw = generator(rng, "best_dimensions")
        shuffled = [np.abs(_signed(ranks, draw.permutation(codes))).max(axis=1) for _ in range(n_permutations)]
        expected = np.mean(shuffled, axis=0)
    return pd.DataFrame(
        {
            "type": names,
            "n_cells": np.bincount(codes),
            "dimension": best,
            "side": np.where(of_best >= 0, "+", "-"),
            "auc": (of_best + 1) / 2,
            "alignment": np.abs(of_best),
            "expected": expected,
        }
    )


def dimension_auc(z: ArrayLike, labels: ArrayLike) -> pd.DataFrame:
    r"""Compute how well every dimension separates every type from all other cells.

    .. math:: \mathrm{AUC}_{td} = \frac{1}{n_t (N - n_t)} \left( \sum_{i \in t} r_{id} - \frac{n_t (n_t + 1)}{2} \right)

    with :math:`r_{id}` the rank of cell i on dimension d; ties have the mean of their ranks. 1 if all cells of the type
    lie above all others, 0 if below, 0.5 without a difference. A type that lies between others can be separable and
    still have 0.5.

    Parameters
    ----------
    z
        N cells x D dimensions.
    labels
        Type, or batch, of each cell.

    Returns
    -------
    Dimensions (rows, by position) x types (columns, by name), each in [0, 1].

    References
    ----------
    Mann and Whitney, On a test of whether one of two random variables is stochastically larger than the other, Annals
    of Mathematical Statistics 18 (1947).

    Examples
    --------
    >>> dimension_auc([[1.0], [2.0], [3.0], [4.0]], ["a", "b", "a", "b"]).loc[0].to_dict()
    {'a': 0.25, 'b': 0.75}
    """
    names, codes, ranks = _ranked(z, labels)
    table = pd.DataFrame((_signed(ranks, codes).T + 1) / 2, columns=names)
    return table.rename_axis(index="dimension", columns="type")


def _ranked(z: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.str_], NDArray[np.intp], NDArray[np.float64]]:
    """Return the types, the type of each cell, and the centred ranks of each dimension."""
    cells = as_labels(labels)
    points = as_points(z, len(cells), name="z")
    names, codes = np.unique(cells, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"labels has one type only, {str(names[0])!r}; there is no other type to compare it with.")
    return names, codes, rankdata(points, axis=0) - (len(cells) + 1) / 2


def _signed(ranks: NDArray[np.float64], codes: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return 2 AUC - 1, types x dimensions."""
    n = len(codes)
    size = np.bincount(codes)
    member = sp.csr_array((np.ones(n), (codes, np.arange(n))), shape=(len(size), n))
    return (2 * (member @ ranks) / (size * (n - size))[:, None]).clip(-1, 1)
