"""Checks of labels and coordinates that the scores share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray


def as_labels(labels: ArrayLike, name: str = "labels") -> NDArray[np.str_]:
    """Return one string per cell; a missing value raises ValueError."""
    if np.ndim(labels) != 1 or np.size(labels) == 0:
        raise ValueError(f"{name} has the shape {np.shape(labels)}; give one label per cell.")
    series = pd.Series(labels)
    n_missing = int(series.isna().sum())
    if n_missing:
        raise ValueError(
            f"{name} has {n_missing} missing values among {len(series)}; leave those cells out or name them."
        )
    return series.astype(str).to_numpy(dtype=str)


def as_pair(
    a: ArrayLike, b: ArrayLike, names: tuple[str, str] = ("labels", "clusters")
) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Return two label vectors of the same length."""
    first, second = as_labels(a, names[0]), as_labels(b, names[1])
    if len(first) != len(second):
        raise ValueError(
            f"{names[0]} has {len(first)} cells and {names[1]} has {len(second)}; both need one label per "
            "cell, in the same order."
        )
    return first, second


def as_points(x: Any, n_labels: int | None = None, *, name: str = "x") -> NDArray[np.floating]:
    """Return finite coordinates, cells x dimensions, one row per label (if ``n_labels`` is given)."""
    points = np.asarray(x)
    if points.ndim != 2 or not points.size or not np.issubdtype(points.dtype, np.number):
        raise ValueError(
            f"{name} has the shape {points.shape} and the type {points.dtype}; give a dense numeric array, "
            "cells x dimensions."
        )
    if n_labels is not None and len(points) != n_labels:
        raise ValueError(f"{name} has {len(points)} cells and labels has {n_labels}; both need the same cells.")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(points)).sum())} values that are NaN or infinite.")
    return points
