"""What prepared cells carry: the record of their preparation, and how it is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from diffvae import __version__, _keys
from diffvae._core.io.backed import BackedAnnData
from diffvae._errors import DataError
from diffvae._random import Rng, generator
from diffvae.pp._check import (
    MIN_CELLS,
    DataReport,
    detect_kind,
    summarise,
)

USUAL = {"n_top_genes": 2000, "layer": None, "batch_key": None}
"""Defaults of ``prepare``; an option with another value was chosen by the user."""


def is_prepared(cells: AnnData | BackedAnnData) -> bool:
    """Return whether cells went through ``prepare``."""
    return _keys.UNIT in cells.layers and "prepare" in cells.uns.get(_keys.UNS, {})


def options_of(cells: AnnData | BackedAnnData, **asked: Any) -> dict[str, Any]:
    """Return those options with which cells were prepared; refuse requests for others."""
    if not {_keys.UNIT_MIN, _keys.UNIT_MAX} <= set(cells.var):
        raise DataError(
            "The cells have been prepared, but adata.var lacks their scaling, 'unit_min' and 'unit_max'; give the "
            "original data."
        )
    if cells.n_obs < MIN_CELLS:
        raise DataError(f"{cells.n_obs} prepared cells were given; at least {MIN_CELLS} are needed.")
    stored = cells.uns[_keys.UNS]["prepare"]
    options = {name: np.asarray(stored[name]).item() if name in stored else None for name in asked}
    for name, value in asked.items():
        if value not in (USUAL[name], options[name]):
            how = f"without {name}, not with" if options[name] is None else f"with {name}={options[name]!r}, not"
            raise DataError(f"The cells have been prepared {how} {value!r}; leave it out, or give the original data.")
    return options


def draw_validation(n_cells: int, validation_size: float, rng: Rng) -> np.ndarray:
    """Return which cells are for validation (a mask)."""
    n_validation = round(validation_size * n_cells)
    if n_cells - n_validation < 2:
        raise ValueError(
            f"validation_size is {validation_size!r}, which leaves {n_cells - n_validation} of {n_cells} "
            "cells for training; give a smaller share."
        )
    chosen = np.zeros(n_cells, dtype=bool)
    chosen[generator(rng, "split").permutation(n_cells)[:n_validation]] = True
    return chosen


def constant_genes(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return which genes don't vary, by their range (a mask); refuse data in which no gene varies."""
    # Equal up to float32: genes that vary in counts may be constant after normalisation.
    constant = high - low <= 1e-6 * np.abs(high)
    if constant.all():
        raise DataError("No gene varies after all cells are normalised to one total; give cells that differ.")
    return constant


def describe(
    obs: pd.DataFrame, var: pd.DataFrame, minimum: np.ndarray, maximum: np.ndarray, is_validation: np.ndarray
) -> None:
    """Write limits and split into the tables of genes and cells."""
    var["highly_variable"] = True
    var[_keys.UNIT_MIN], var[_keys.UNIT_MAX] = minimum, maximum
    split = np.where(is_validation, "validation", "train")
    obs[_keys.SPLIT] = pd.Categorical(split, categories=["train", "validation"])


def record(
    report: DataReport,
    *,
    n_top_genes: int | None,
    target_sum: float,
    layer: str | None,
    batch_key: str | None,
    validation_size: float,
    rng: Rng,
    keep: np.ndarray,
    constant: np.ndarray,
    minimum: np.ndarray,
    maximum: np.ndarray,
    clipped: float,
    warned: list[str],
) -> dict[str, Any]:
    """Return the content of ``uns["diffvae"]["prepare"]``."""
    entries = {
        "n_top_genes": n_top_genes,
        "target_sum": None if report.kind == "log" else float(target_sum),
        "layer": layer,
        "batch_key": batch_key,
        "kind": report.kind,
        "reason": report.reason,
        "validation_size": validation_size,
        "rng": int(rng) if not isinstance(rng, np.random.Generator) else "generator",
        "n_cells": report.n_cells,
        "n_genes": report.n_genes,
        "n_genes_kept": int(keep.sum()),
        "n_constant_genes": int(constant.sum()),
        "n_constant_in_training": int((minimum == maximum).sum()),
        "validation_clipped_share": clipped,
        "warnings": np.array(warned, dtype=object),
        "version": __version__,
    }
    # h5ad files can't hold None before anndata 0.12
    return {key: value for key, value in entries.items() if value is not None}


def as_counts(x: Any) -> Any:
    """Return counts in their type, rounded to whole numbers; bool and half floats become float32."""
    x = x.tocsr() if sp.issparse(x) else np.ascontiguousarray(x)
    x = x.astype(np.float32 if x.dtype.kind == "b" or x.dtype == np.float16 else x.dtype, copy=True)
    if x.dtype.kind == "f":
        np.rint(x.data if sp.issparse(x) else x, out=x.data if sp.issparse(x) else x)
    return x


def raw_is_better(adata: AnnData | BackedAnnData) -> bool:
    """Return whether adata.raw holds logs of all genes of X and of others."""
    raw = adata.raw
    if raw is None or raw.n_vars <= adata.n_vars or not adata.var_names.isin(raw.var_names).all():
        return False
    summary = summarise(raw.X)
    return not summary.n_bad and detect_kind(raw.X, summary)[0] == "log"
