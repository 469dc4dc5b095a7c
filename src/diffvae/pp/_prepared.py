"""What prepared cells have, whether they were prepared in memory or on disk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from diffvae import __version__, _keys
from diffvae._errors import DataError
from diffvae._random import Rng, generator
from diffvae._store import Store
from diffvae.pp._check import MIN_CELLS, DataReport
from diffvae.pp._kind import summarise, tell_kind

USUAL = {"n_top_genes": 2000, "layer": None, "batch_key": None}
"""Defaults of ``prepare``: an option that has it is not one that somebody asked for."""


def is_prepared(cells: AnnData | Store) -> bool:
    """Return whether cells went through ``prepare``."""
    return _keys.UNIT in cells.layers and "prepare" in cells.uns.get(_keys.UNS, {})


def options_of(cells: AnnData | Store, **asked: Any) -> dict[str, Any]:
    """Return the options by which prepared cells were prepared; refuse others, which can't be had any more."""
    if not {_keys.UNIT_MIN, _keys.UNIT_MAX} <= set(cells.var):
        raise DataError(
            "The cells have been prepared, but the table of genes lacks 'unit_min' and 'unit_max', by which they were "
            "scaled; give the data that they came from."
        )
    if cells.n_obs < MIN_CELLS:
        raise DataError(f"{cells.n_obs} prepared cells were given; at least {MIN_CELLS} are needed.")
    kept = cells.uns[_keys.UNS]["prepare"]
    # plain values, as JSON takes them
    found = {name: None if name not in kept else np.asarray(kept[name]).item() for name in USUAL}
    for name, value in asked.items():
        if value not in (USUAL[name], found[name]):
            raise DataError(
                f"The cells have been prepared with {name}={found[name]!r}, not {value!r}; leave it out, or give the "
                "data that they came from."
            )
    return found


def draw(n_cells: int, validation_size: float, rng: Rng) -> np.ndarray:
    """Return which cells are set aside (a mask)."""
    n_validation = round(validation_size * n_cells)
    if n_cells - n_validation < 2:
        raise ValueError(
            f"validation_size is {validation_size!r}, which leaves {n_cells - n_validation} of {n_cells} "
            "cells for training; take a smaller share."
        )
    chosen = np.zeros(n_cells, dtype=bool)
    chosen[generator(rng, "split").permutation(n_cells)[:n_validation]] = True
    return chosen


def constant_genes(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return which genes don't vary, by their range (a mask); refuse data in which none does."""
    # Equal up to float32: genes that vary in counts may be constant once cells have equal totals.
    constant = high - low <= 1e-6 * np.abs(high)
    if constant.all():
        raise DataError("No gene varies once every cell has the same total; at least two genes must differ.")
    return constant


def describe(
    obs: pd.DataFrame, var: pd.DataFrame, minimum: np.ndarray, maximum: np.ndarray, is_validation: np.ndarray
) -> None:
    """Write limits and split into the tables of the kept genes and of the cells."""
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
    """Return what is kept in ``uns["diffvae"]["prepare"]``."""
    found = {
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
    # What is None is left out: h5ad files had no way to say it before anndata 0.12.
    return {key: value for key, value in found.items() if value is not None}


def as_counts(x: Any) -> Any:
    """Return counts in their own type, rid of rounding errors; bool and half floats as float32."""
    x = x.tocsr() if sp.issparse(x) else np.ascontiguousarray(x)
    x = x.astype(np.float32 if x.dtype.kind == "b" or x.dtype == np.float16 else x.dtype, copy=True)
    if x.dtype.kind == "f":
        np.rint(x.data if sp.issparse(x) else x, out=x.data if sp.issparse(x) else x)
    return x


def raw_is_better(adata: AnnData | Store) -> bool:
    """Return whether adata.raw holds logs of more genes than X, the genes of X among them."""
    raw = adata.raw
    if raw is None or raw.n_vars <= adata.n_vars or not adata.var_names.isin(raw.var_names).all():
        return False
    summary = summarise(raw.X)
    return not summary.n_bad and tell_kind(raw.X, summary)[0] == "log"
