"""Columns of obs that a network sees beside expression: batches, and other covariates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffvae._core.io.matrix import quoted
from diffvae._core.words import either
from diffvae._errors import DataError

MIN_CELLS = 3
"""Fewest cells of a level: fewer have neither a mean that is worth removing nor neighbours of their own."""


@dataclass(frozen=True)
class Covariates:
    """The columns of ``obs`` that a network sees, and how they become numbers.

    A categorical column becomes one number (0 or 1) per level, a continuous one its standard score. A cell whose level
    was not in the training is taken as average: each level gets 1 / (number of levels), and a missing number the mean.

    Attributes
    ----------
    batch_key
        The column whose effect is removed from the latent representation; None with other covariates only.
    levels
        Categorical column to its levels; that of the batches comes first.
    continuous
        Continuous column to mean and standard deviation over the cells of the training.
    n_trained
        Number of batches of the training; those to which a model was adapted later come after them, and do not count in
        the average. None without batches.
    """

    batch_key: str | None
    levels: Mapping[str, tuple[str, ...]]
    continuous: Mapping[str, tuple[float, float]]
    n_trained: int | None = None

    @classmethod
    def of(cls, cells: Any, batch_key: str | None, covariates: Sequence[str] = ()) -> Covariates | None:
        """Read levels and moments from ``cells.obs``, or refuse them; None if no column is named."""
        covariates = (covariates,) if isinstance(covariates, str) else tuple(covariates)
        keys = dict.fromkeys(([] if batch_key is None else [batch_key]) + list(covariates))
        if batch_key is not None and batch_key in covariates:
            raise ValueError(f"{batch_key!r} (batch_key) is among the covariates as well; give it once.")
        if not keys:
            return None  # without reading obs, which may be on disk
        obs, levels, continuous = cells.obs, {}, {}
        for key in keys:
            argument = "batch_key" if key == batch_key else "covariates"
            if key not in obs:
                raise DataError(f"obs has no column {key!r} ({argument}); it has {quoted(obs.columns) or 'none'}.")
            column = obs[key]
            if missing := int(column.isna().sum()):
                raise DataError(
                    f"obs[{key!r}] ({argument}) is missing for {missing:,} cells; give them a value, or leave it out."
                )
            if key != batch_key and _is_continuous(column):
                continuous[key] = _moments(column, key)
            else:
                levels[key] = _levels(column, key, argument)
        return cls(batch_key, levels, continuous, None if batch_key is None else len(levels[batch_key]))

    @property
    def batches(self) -> tuple[str, ...]:
        """Names of the batches."""
        return () if self.batch_key is None else self.levels[self.batch_key]

    @property
    def keys(self) -> list[str]:
        """The columns of ``obs``."""
        return [*self.levels, *self.continuous]

    @property
    def width(self) -> int:
        """Numbers per cell."""
        return sum(map(len, self.levels.values())) + len(self.continuous)

    def average(self, n: int) -> np.ndarray:
        """Return the numbers of n average cells, cells x :attr:`width`."""
        shares = [np.full(len(levels), 1 / len(levels)) for levels in self.levels.values()]
        if self.n_trained is not None:
            shares[0] = np.where(np.arange(len(self.batches)) < self.n_trained, 1 / self.n_trained, 0.0)
        return np.tile(np.concatenate([*shares, np.zeros(len(self.continuous))]).astype(np.float32), (n, 1))

    def design(self, obs: pd.DataFrame) -> np.ndarray:
        """Return the numbers of cells, cells x :attr:`width`, float32; warn of what was not in the training."""
        design, start = self.average(len(obs)), 0
        for key, levels in self.levels.items():
            if key in obs:
                values = names_of(obs[key])
                codes = pd.Index(levels).get_indexer(pd.Index(values))
                known = np.flatnonzero(codes >= 0)
                design[known, start : start + len(levels)] = 0
                design[known, start + codes[known]] = 1
                if len(known) < len(obs):
                    unknown = values[codes < 0]
                    warnings.warn(
                        f"{len(unknown):,} cells have values in obs[{key!r}] that the model was not trained on "
                        f"({quoted(unknown.unique()[:3])}); they are taken as average. Train on them, or adapt the "
                        f"model to their batch: {either('model.adapt(adata)', 'adapt=True')}.",
                        UserWarning,
                        stacklevel=4,
                    )
            start += len(levels)
        for key, (mean, sd) in self.continuous.items():
            if key in obs:
                design[:, start] = np.nan_to_num((_numbers(obs[key], key) - mean) / sd)
            start += 1
        if missing := [key for key in self.keys if key not in obs]:
            warnings.warn(
                f"obs has no column {quoted(missing)}, on which the model was trained; the cells are taken as average "
                "in it. Add the column if you know it.",
                UserWarning,
                stacklevel=4,
            )
        return design

    def in_average_batch(self, obs: pd.DataFrame) -> np.ndarray:
        """Return the numbers of cells as :meth:`design` does, but of the average batch."""
        design = self.design(obs.assign(**{str(self.batch_key): self.batches[0]}))
        design[:, : len(self.batches)] = 1 / len(self.batches)
        return design

    def codes(self, design: np.ndarray) -> np.ndarray | None:
        """Return the number of each cell's batch; None without batches."""
        return None if self.batch_key is None else design[:, : len(self.batches)].argmax(axis=1)

    def of_batch(self, batch: Any, n: int, own: np.ndarray | None = None) -> np.ndarray:
        """Return the numbers of n cells of a named batch, or of one named batch per cell.

        All else is average, or as in the numbers ``own`` of the cells. A float array is taken as the numbers
        themselves.
        """
        if isinstance(batch, np.ndarray) and batch.dtype.kind == "f":
            if batch.shape != (n, self.width):
                raise ValueError(f"batch has the shape {batch.shape}; it must be {n} points x {self.width} covariates.")
            return batch.astype(np.float32, copy=False)
        names = names_of(pd.Series([batch] * n if np.ndim(batch) == 0 else list(batch))).tolist()
        if len(names) != n:
            raise ValueError(f"batch names {len(names)} batches for {n} points; give one, or one for each point.")
        if unknown := sorted(set(names) - set(self.batches)):
            raise ValueError(
                f"{unknown[0]!r} is not a batch of this model; its batches are {quoted(self.batches) or 'none'}."
            )
        design = self.average(n) if own is None else own.copy()
        design[:, : len(self.batches)] = np.equal.outer(np.array(names, object), np.array(self.batches, object))
        return design

    def as_json(self) -> dict[str, Any]:
        """Return what a saved model holds."""
        return {
            "batch_key": self.batch_key,
            "levels": dict(self.levels),
            "continuous": dict(self.continuous),
            "n_trained": self.n_trained,
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Covariates:
        """Restore what :meth:`as_json` returned; ValueError or TypeError if it is damaged."""
        levels = {str(key): tuple(map(str, names)) for key, names in dict(table["levels"]).items()}
        continuous = {str(key): (float(mean), float(sd)) for key, (mean, sd) in dict(table["continuous"]).items()}
        batch_key = table["batch_key"]
        if batch_key is not None and batch_key != next(iter(levels), None):
            raise ValueError("the batches of the model are not its first covariate")
        if any(len(set(names)) < len(names) or not names for names in levels.values()):
            raise ValueError("levels of a covariate are missing or occur more than once")
        if not np.isfinite([*continuous.values()]).all() or any(sd <= 0 for _, sd in continuous.values()):
            raise ValueError("the moments of a covariate are not finite")
        n_trained = table["n_trained"]
        if (n_trained is None) != (batch_key is None) or (n_trained and not 1 <= n_trained <= len(levels[batch_key])):
            raise ValueError("the number of batches of the training does not fit the batches")
        return cls(batch_key, levels, continuous, n_trained)


def names_of(column: pd.Series) -> pd.Series:
    """Return the values of a column as names: 1.0 is 1, since pandas reads whole numbers as either."""
    if not pd.api.types.is_numeric_dtype(column.dtype):
        column = column.astype(object).infer_objects()  # categories may be numbers
    if pd.api.types.is_float_dtype(column.dtype):
        return column.map("{:.15g}".format)
    return column.astype(str)


def _is_continuous(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _moments(column: pd.Series, key: str) -> tuple[float, float]:
    values = _numbers(column, key)
    if values.std() == 0:
        raise DataError(f"obs[{key!r}] (covariates) is {values[0]:g} in every cell; leave it out.")
    return float(values.mean()), float(values.std())


def _numbers(column: pd.Series, key: str) -> np.ndarray:
    """Return a continuous covariate as numbers, NaN where it is missing."""
    try:
        values = column.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"obs[{key!r}] (covariates) must hold numbers, as in the training of the model ({error})."
        ) from None
    if np.isinf(values).any():
        raise DataError(f"obs[{key!r}] (covariates) holds infinite values; replace them.")
    return values


def _levels(column: pd.Series, key: str, argument: str) -> tuple[str, ...]:
    if column.nunique() > 1 and pd.api.types.is_float_dtype(column) and (column != column.round()).any():
        example = column[column != column.round()].iloc[0]
        raise DataError(
            f"obs[{key!r}] ({argument}) holds numbers such as {example:.4g}, not names; give it as a covariate, or "
            "name the column of the batches."
        )
    sizes = names_of(column).value_counts()
    if len(sizes) < 2:
        raise DataError(f"obs[{key!r}] ({argument}) is {sizes.index[0]!r} in every cell; leave it out.")
    if len(sizes) > len(column) / MIN_CELLS:
        raise DataError(
            f"obs[{key!r}] ({argument}) has {len(sizes):,} values in {len(column):,} cells, so it does not group them; "
            "name another column."
        )
    if sizes.min() < MIN_CELLS:
        raise DataError(
            f"obs[{key!r}] ({argument}) is {sizes.index[-1]!r} in only {sizes.min()} "
            f"cell{'s' if sizes.min() > 1 else ''}; at least {MIN_CELLS} are needed. Remove these cells, or join them "
            "with another group."
        )
    return tuple(sorted(sizes.index))
