"""Known factors of the cells that scores of disentanglement ask for: labels or numbers, each with its own gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from diffvae.metrics._labels import as_labels

Factors: TypeAlias = pd.DataFrame | Mapping[str, ArrayLike]


@dataclass(frozen=True)
class Factor:
    """One factor over the cells that have a value of it.

    Attributes
    ----------
    name
        Of the factor.
    cells
        Positions of those cells.
    values
        Their values: codes from 0 to ``n_labels - 1``, or numbers.
    n_labels
        Distinct labels, at least 2; 0 for a factor of numbers.
    """

    name: str
    cells: NDArray[np.intp]
    values: NDArray[Any]
    n_labels: int

    def take(self, chosen: NDArray[np.intp]) -> Factor:
        """Return the factor over some of its cells, given by position among them; labels are numbered anew."""
        values = self.values[chosen]
        if not self.n_labels:
            return replace(self, cells=self.cells[chosen], values=values)
        names, codes = np.unique(values, return_inverse=True)
        return replace(self, cells=self.cells[chosen], values=codes, n_labels=len(names))


def as_factors(factors: Factors, n_cells: int) -> list[Factor]:
    """Return the factors; refuse those that take one value only, since nothing can be said about them."""
    if not isinstance(factors, pd.DataFrame | Mapping):
        raise ValueError(
            f"factors is of the type {type(factors).__name__}; give a DataFrame with one column per factor or a "
            "dictionary from names to values."
        )
    if not len(factors.keys()):
        raise ValueError("factors is empty; give at least one, with one value per cell.")
    return [_as_factor(str(name), values, n_cells) for name, values in factors.items()]


def _as_factor(name: str, values: ArrayLike, n_cells: int) -> Factor:
    if np.ndim(values) != 1 or np.size(values) != n_cells:
        raise ValueError(f"factor {name!r} has the shape {np.shape(values)} and z has {n_cells} cells; give one each.")
    series = pd.Series(values).reset_index(drop=True)
    series = series[series.notna()]
    is_number = pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_bool_dtype(series)
    if series.nunique() < 2:
        raise ValueError(
            f"factor {name!r} has {series.nunique()} distinct values among {len(series)} cells that have one; a factor "
            "that never varies can't be encoded: leave it out."
        )
    cells = series.index.to_numpy()
    if not is_number:
        labels, codes = np.unique(as_labels(series, f"factor {name!r}"), return_inverse=True)
        return Factor(name, cells, codes, len(labels))
    numbers = series.to_numpy(dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"factor {name!r} holds {int((~np.isfinite(numbers)).sum())} infinite values.")
    return Factor(name, cells, numbers, 0)


def held_out(factor: Factor, test_size: float, rng: np.random.Generator) -> tuple[Factor, Factor]:
    """Split the cells of a factor into those that train and those that test, label by label.

    Labels with too few cells for one in the test part are left out of both, so that both know the same labels. The
    draw does not depend on the labels' names.
    """
    if not 0 < test_size < 1:
        raise ValueError(f"test_size is {test_size}; give a share between 0 and 1.")
    codes = factor.values if factor.n_labels else np.zeros(len(factor.values), dtype=np.intp)
    drawn = rng.permutation(len(codes))
    drawn = drawn[np.argsort(codes[drawn], kind="stable")]
    counts = np.bincount(codes)
    n_test = (counts * test_size).astype(np.intp)
    own = codes[drawn]
    tests = np.arange(len(codes)) - (np.cumsum(counts) - counts)[own] < n_test[own]
    train, test = factor.take(drawn[~tests & (n_test[own] > 0)]), factor.take(drawn[tests])
    if factor.n_labels and test.n_labels < 2:
        raise ValueError(
            f"factor {factor.name!r} has {test.n_labels} labels with the {int(np.ceil(1 / test_size))} cells or more "
            f"that a held-out share of {test_size:.3g} takes; two are needed: merge labels or leave the factor out."
        )
    if not factor.n_labels and (not len(test.values) or np.ptp(test.values) == 0):
        raise ValueError(
            f"factor {factor.name!r} does not vary over its {len(test.values)} held-out cells; give more cells or "
            "leave it out."
        )
    return train, test


def skill(test: Factor, predicted: NDArray[Any]) -> float:
    r"""Return how far predictions of held-out values are from chance (0) towards the truth (1).

    .. math:: \frac{\bar r - 1 / K}{1 - 1 / K} \qquad\text{or}\qquad 1 - \frac{\sum_i (v_i - \hat v_i)^2}
        {\sum_i (v_i - \bar v)^2}

    with :math:`\bar r` the recall averaged over the K labels, or for numbers.
    """
    if not test.n_labels:
        deviation = test.values - test.values.mean()
        return float(1 - ((test.values - predicted) ** 2).sum() / (deviation**2).sum())
    right = np.bincount(test.values, predicted == test.values, test.n_labels)
    recall = right / np.bincount(test.values, minlength=test.n_labels)
    return float((recall.mean() - 1 / test.n_labels) / (1 - 1 / test.n_labels))
