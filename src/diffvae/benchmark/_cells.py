"""The data sets of a comparison: cells with their labels, and the factors that a representation should separate."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _io, _keys, _preconditions, pp
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

MIN_TYPE = 10
"""Smallest number of cells of a type that is a factor; scores of fewer cells are meaningless."""


@dataclass(frozen=True)
class Cells:
    """A data set: raw cells, reference labels (None for unlabelled cells), factors, batch, and its fingerprint."""

    name: str
    adata: AnnData
    labels: np.ndarray
    factors: pd.DataFrame
    batch: np.ndarray | None
    fingerprint: str

    @property
    def n_types(self) -> int:
        """Number of different labels."""
        return len({label for label in self.labels if label is not None})


def as_cells(
    datasets: Mapping[str, Any] | Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    label_key: str | Mapping[str, str],
    factors: Sequence[str],
    batch_key: str | None,
) -> list[Cells]:
    """Read and check every data set before anything is computed."""
    if isinstance(datasets, str | os.PathLike):
        datasets = [datasets]
    if not isinstance(datasets, Mapping):
        paths = list(map(Path, datasets))
        datasets = {p.name.removesuffix(p.suffix) or str(p): p for p in paths}
        if len(datasets) < len(paths):
            raise ValueError("Two files have the same name; give a mapping from names to files.")
    if not datasets:
        raise ValueError("No data set was given; name at least one.")
    if not isinstance(label_key, str) and (missing := [name for name in datasets if name not in label_key]):
        raise ValueError(f"label_key names no column for {missing[0]!r}; it has {', '.join(map(repr, label_key))}.")
    keys = dict.fromkeys(datasets, label_key) if isinstance(label_key, str) else label_key
    return [_cells(str(name), data, keys[name], factors, batch_key) for name, data in datasets.items()]


def _cells(name: str, data: Any, label_key: str, factors: Sequence[str], batch_key: str | None) -> Cells:
    adata, _ = _io.load(data, None)
    try:
        _preconditions.require_labels(adata, label_key)
        pp.check(adata)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    if _keys.UNIT in adata.layers:
        raise DataError(
            f"{name}: adata is prepared already (it has layers['unit']); give the raw cells; every training "
            "splits and scales them itself."
        )
    column = adata.obs[label_key]
    labels = column.astype(object).map(str).where(column.notna(), None).to_numpy(dtype=object)
    present = {}
    for key in dict.fromkeys((*factors, *([batch_key] if batch_key else []))):
        if key in adata.obs and adata.obs[key].dropna().nunique() > 1:
            present[key] = adata.obs[key]
    batch = None if batch_key not in present else present[batch_key].astype(str).to_numpy()
    table = pd.DataFrame(present | _indicators(labels), index=adata.obs_names)
    return Cells(name, adata, labels, table, batch, _fingerprint(adata, labels, table))


def _indicators(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return one factor per type, missing for unlabelled cells, so that one dimension per type is the ideal.

    With types as a single factor of many values, the ideal would be one dimension that separates all of them.
    """
    known = np.array([label is not None for label in labels])
    names, counts = np.unique(labels[known].astype(str), return_counts=True)
    unknown = np.array(None, dtype=object)
    one_of = {name: np.where(labels == name, "yes", "no") for name in names[counts >= MIN_TYPE]}
    return {f"is {name}": np.where(known, values, unknown) for name, values in one_of.items()}


def _fingerprint(adata: AnnData, labels: np.ndarray, table: pd.DataFrame) -> str:
    from diffvae.model._input import fingerprint, layer_matrix

    digest = hashlib.sha256(fingerprint(layer_matrix(adata, None)).encode())
    digest.update("\n".join(map(str, adata.var_names)).encode())
    digest.update(pd.Series(labels).to_csv(index=False).encode())
    digest.update(table.to_csv(index=False).encode())
    return digest.hexdigest()[:16]
