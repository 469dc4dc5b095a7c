"""Cells that stay on disk: one AnnData file or several, opened and not read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae._errors import DataError
from diffvae._rows import Rows, joined, picked, stack
from diffvae._shard import Shard

if TYPE_CHECKING:
    from anndata import AnnData

OnDisk: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A file or store of AnnData (.h5ad, .zarr), or several with the same genes: one atlas in many shards."""


def is_on_disk(data: Any) -> bool:
    """Return whether data are named by files, or an AnnData that is backed by one."""
    return isinstance(data, str | os.PathLike | list | tuple | Store) or bool(getattr(data, "isbacked", False))


def open_store(data: Any) -> Store:
    """Open cells on disk; an AnnData that is backed stands for its file."""
    if isinstance(data, Store):
        return data
    if isinstance(data, str | os.PathLike):
        return Store([Path(data)])
    if isinstance(data, list | tuple):
        return Store([Path(path) for path in data])
    if data.is_view:
        raise DataError("adata is a part of a file; write those cells to a file of their own: adata.copy('part.h5ad').")
    return Store([Path(str(data.filename))])


@dataclass(frozen=True)
class _Raw:
    """What ``adata.raw`` is, on disk."""

    X: Rows
    var: pd.DataFrame

    @property
    def n_vars(self) -> int:
        return len(self.var)

    @property
    def var_names(self) -> pd.Index:
        return self.var.index


class Store:
    """Cells on disk with the attributes of an AnnData that are asked for, each read when it is.

    Of several files the genes that all have are kept, in the order of the first, matched by name; names of cells that
    occur in several files get the name of the file added.

    Attributes
    ----------
    notes
        What was decided in putting several files together, as sentences.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        if not paths:
            raise DataError("The list of files is empty; name one .h5ad or .zarr at least.")
        self.shards = [Shard(path) for path in paths]
        self.notes: list[str] = []
        self.var_names, self._places = self._match()
        self.n_obs = sum(shard.n_obs for shard in self.shards)
        self.shape = (self.n_obs, len(self.var_names))

    @property
    def name(self) -> str:
        """How a summary names the source."""
        first = self.shards[0].path.name
        return first if len(self.shards) == 1 else f"{first} and {len(self.shards) - 1} more"

    def _match(self) -> tuple[pd.Index, list[np.ndarray | None]]:
        """Return the genes that all files have, and where each file has them (None: just so)."""
        all_names = [pd.Index(shard.var.index.astype(str)) for shard in self.shards]
        names = all_names[0]
        if all(other.equals(names) for other in all_names):
            return names, [None] * len(all_names)
        for shard, others in zip(self.shards, all_names, strict=True):
            if not others.is_unique:
                raise DataError(
                    f"{shard.path.name!r} has gene names that occur more than once, so they can't be matched with "
                    "those of other files; make them unique (adata.var_names_make_unique()) and write it again."
                )
        for other in all_names[1:]:
            names = names[names.isin(other)]
        most = max(map(len, all_names))
        if len(names) < 0.5 * most:
            raise DataError(
                f"The {len(self.shards)} files have {len(names):,} genes in common, of up to {most:,}: are they named "
                "in the same way? Give files of the same genes."
            )
        if len(names) < most:
            self.notes.append(
                f"The {len(self.shards)} files have {len(names):,} genes in common; those that some lack (of up to "
                f"{most:,}) were left out."
            )
        return names, [None if other.equals(names) else other.get_indexer(names) for other in all_names]

    @property
    def n_vars(self) -> int:
        return self.shape[1]

    @cached_property
    def var(self) -> pd.DataFrame:
        """The table of genes; of several files the columns on which all agree."""
        tables = [
            shard.var.set_axis(shard.var.index.astype(str)).loc[self.var_names] if at is not None else shard.var
            for shard, at in zip(self.shards, self._places, strict=True)
        ]
        first = tables[0]
        agreed = [
            c for c in first if all(c in t and t[c].astype(object).equals(first[c].astype(object)) for t in tables)
        ]
        return first[agreed]

    @cached_property
    def obs(self) -> pd.DataFrame:
        """The table of cells, whole: with millions of cells their names take 100 bytes each."""
        tables = [shard.element("obs") for shard in self.shards]
        if len(tables) == 1:
            return tables[0]
        found = pd.concat(tables, join="inner")
        for column in found:  # categories that differ between files would come back as strings
            if all(isinstance(table[column].dtype, pd.CategoricalDtype) for table in tables):
                found[column] = pd.api.types.union_categoricals([table[column] for table in tables])
        if not found.index.is_unique and all(table.index.is_unique for table in tables):
            stems = [shard.path.stem for shard in self.shards]
            if len(set(stems)) == len(stems):
                found.index = np.concatenate([t.index + "-" + s for t, s in zip(tables, stems, strict=True)])
                self.notes.append("Names of cells that occur in several files were told apart by the file's name.")
        return found

    @property
    def obs_names(self) -> pd.Index:
        return self.obs.index

    def obs_column(self, key: str) -> pd.Series | None:
        """Return one column of obs without reading the others; None where a file lacks it."""
        if not all(f"obs/{key}" in shard.keys for shard in self.shards):
            return None
        return pd.concat([pd.Series(np.asarray(shard.element(f"obs/{key}"))) for shard in self.shards])

    @property
    def layers(self) -> list[str]:
        """Names of the layers that all files have."""
        shared = frozenset.intersection(*(shard.keys for shard in self.shards))
        return sorted(key.removeprefix("layers/") for key in shared if key.startswith("layers/"))

    @cached_property
    def uns(self) -> dict[str, Any]:
        """What is known of how the values came about: ``uns["diffvae"]["prepare"]``, where it holds for all files."""
        key = f"uns/{_keys.UNS}/prepare"
        if not all(key in shard.keys for shard in self.shards):
            return {}
        found = [shard.element(key) for shard in self.shards]
        agree = all(one.get("target_sum") == found[0].get("target_sum") for one in found)
        return {_keys.UNS: {"prepare": found[0]}} if agree else {}

    @property
    def is_prepared(self) -> bool:
        """Whether the cells went through ``pp.prepare``."""
        return _keys.UNIT in self.layers and "prepare" in self.uns.get(_keys.UNS, {})

    def matrix(self, layer: str | None) -> Rows:
        """Return ``X`` or a layer."""
        key = "X" if layer is None else f"layers/{layer}"
        if layer is not None and layer not in self.layers:
            there = ", ".join(map(repr, self.layers)) or "none"
            way_out = "run diffvae.pp.prepare first" if layer == _keys.UNIT else f"there are: {there}"
            raise DataError(f"layers[{layer!r}] is missing in {self.name}; {way_out}.")
        for shard in self.shards:
            if key not in shard.keys:
                raise DataError(f"{shard.path.name!r} has no X; name the layer that holds the expression values.")
        limits = {_keys.UNIT_MIN, _keys.UNIT_MAX}
        if layer == _keys.UNIT and limits <= set(self.shards[0].var) and not limits <= set(self.var):
            raise DataError(
                f"The {len(self.shards)} files were scaled by different limits, so their layers['unit'] can't be put "
                "together; prepare the data they came from as one: diffvae.pp.prepare([...], out='prepared.h5ad')."
            )
        parts = [
            shard.rows(key) if at is None else picked(shard.rows(key), at)
            for shard, at in zip(self.shards, self._places, strict=True)
        ]
        for shard, part in zip(self.shards, parts, strict=True):
            if part.dtype.kind not in "biuf":
                raise DataError(f"{key} of {shard.path.name!r} holds {part.dtype}, not numbers; convert it first.")
        return stack(parts)

    @cached_property
    def raw(self) -> _Raw | None:
        """The matrix of all genes, where all files have it with the same genes."""
        if not all("raw/X" in shard.keys for shard in self.shards):
            return None
        tables = [shard.element("raw/var") for shard in self.shards]
        if not all(table.index.equals(tables[0].index) for table in tables):
            return None
        return _Raw(stack([shard.rows("raw/X") for shard in self.shards]), tables[0])

    def take(self, rows: np.ndarray) -> AnnData:
        """Read some cells into memory, in the order of the files: X, layers, raw, obs, var and how they came about."""
        import anndata as ad

        chosen = np.sort(rows)
        adata = ad.AnnData(
            X=_gathered(self.matrix(None), chosen),
            obs=self.obs.iloc[chosen].copy(),
            var=self.var.copy(),
            layers={name: _gathered(self.matrix(name), chosen) for name in self.layers},
            uns=deepcopy(self.uns),
        )
        if self.raw is not None:
            adata.raw = ad.AnnData(_gathered(self.raw.X, chosen), obs=adata.obs[[]], var=self.raw.var)
        return adata


def _gathered(matrix: Rows, rows: np.ndarray) -> Any:
    """Read scattered rows: the blocks in which they lie, of which they alone are kept."""
    parts = []
    for part, block in matrix.blocks():
        first, last = np.searchsorted(rows, [part.start, part.stop])
        if first < last:
            parts.append(block[rows[first:last] - part.start])
    return joined(parts)
