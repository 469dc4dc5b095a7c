"""Cells that stay on disk: one AnnData file or several, opened and not read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from diffvae import _keys, _tables
from diffvae._errors import DataError
from diffvae._rows import Rows, picked, stack
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
        return Store([Shard(Path(data))])
    if isinstance(data, list | tuple):
        for one in data:
            if not isinstance(one, str | os.PathLike):
                raise DataError(
                    f"A list names files, but this one holds an object of type {type(one).__name__}; give the files, "
                    "or make one AnnData of several first: anndata.concat([...])."
                )
        paths = [Path(path) for path in data]
        _tables.refuse_twice(paths)
        return Store([Shard(path) for path in paths])
    if data.is_view:
        raise DataError("adata is a part of a file; write those cells to a file of their own: adata.copy('part.h5ad').")
    store = Store([Shard(Path(str(data.filename)))])
    if not _is_as_in_file(data, store):
        raise DataError(
            "adata was changed since its file was opened, and cells on disk are read from the file; write it first: "
            "adata.write_h5ad('changed.h5ad'), and give that file."
        )
    return store


def _is_as_in_file(adata: AnnData, store: Store) -> bool:
    """Return whether names, tables and layers of a backed AnnData are those of its file."""
    for mine, kept in ((adata.obs, store.obs), (adata.var, store.var)):
        if not mine.index.astype(str).equals(kept.index) or set(mine) != set(kept):
            return False
        if not mine[list(kept)].set_axis(kept.index, axis=0).equals(kept):
            return False
    return set(adata.layers) == set(store.layers)


@dataclass(frozen=True)
class _Raw:
    """What ``adata.raw`` is, on disk."""

    read: Callable[[], Rows]
    var: pd.DataFrame

    @cached_property
    def X(self) -> Rows:
        """The matrix; only what needs it is stopped by one that can't be read by rows."""
        return self.read()

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
        What was decided in putting several files together, as sentences; :meth:`tell` warns of them.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        if not shards:
            raise DataError("The list of files is empty; name one .h5ad or .zarr at least.")
        self.shards = list(shards)
        self.notes: list[str] = []
        self._n_told = 0
        self.var_names, self._places = self._match()
        self.n_obs = sum(shard.n_obs for shard in self.shards)
        self.shape = (self.n_obs, len(self.var_names))

    def tell(self, stacklevel: int = 3) -> None:
        """Warn of what was decided in putting several files together, once each."""
        for note in self.notes[self._n_told :]:
            warnings.warn(note, UserWarning, stacklevel=stacklevel)
        self._n_told = len(self.notes)

    def parts(self) -> list[Store]:
        """Return each file that has cells on its own, with all its genes."""
        return [Store([shard]) for shard in self.shards if shard.n_obs]

    @property
    def name(self) -> str:
        """How a summary names the source."""
        first = self.shards[0].path.name
        return first if len(self.shards) == 1 else f"{first} and {len(self.shards) - 1} more"

    def _match(self) -> tuple[pd.Index, list[np.ndarray | None]]:
        """Return the genes that all files have, and where each file has them (None: just so)."""
        all_names = [shard.var.index for shard in self.shards]
        if not all(other.equals(all_names[0]) for other in all_names):
            for shard, others in zip(self.shards, all_names, strict=True):
                if not others.is_unique:
                    raise DataError(
                        f"{shard.path.name!r} has gene names that occur more than once, so they can't be matched with "
                        "those of other files; make them unique (adata.var_names_make_unique()) and write it again."
                    )
        names, places = _tables.places(all_names)
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
        return names, places

    @property
    def n_vars(self) -> int:
        return self.shape[1]

    @cached_property
    def var(self) -> pd.DataFrame:
        """The table of genes; of several files the columns on which all agree."""
        tables = [
            shard.var.loc[self.var_names] if at is not None else shard.var
            for shard, at in zip(self.shards, self._places, strict=True)
        ]
        return _tables.agreed(tables)

    @cached_property
    def obs(self) -> pd.DataFrame:
        """The table of cells, whole: with millions of cells their names take 100 bytes each."""
        tables = [shard.table("obs") for shard in self.shards]
        found = _tables.one_below_the_other(tables, self.notes)
        if not found.index.is_unique and all(table.index.is_unique for table in tables):
            found.index = _tables.told_apart([t.index for t in tables], [shard.path for shard in self.shards])
            self.notes.append("Names of cells that occur in several files were told apart by the file's name.")
        return found

    @property
    def obs_names(self) -> pd.Index:
        return self.obs.index

    def obs_column(self, key: str) -> pd.Series | None:
        """Return one column of obs without reading the others; None where a file lacks it."""
        lacking, all_lack = self._lacking(f"obs/{key}")
        if lacking:
            if not all_lack:
                self.notes.append(f"obs[{key!r}] is missing in {lacking} and was left out of account.")
            return None
        return pd.concat([pd.Series(np.asarray(shard.element(f"obs/{key}"))) for shard in self.shards])

    def _lacking(self, key: str) -> tuple[str, bool]:
        """Return the names of the files that lack something, and whether all do."""
        names = [repr(shard.path.name) for shard in self.shards if key not in shard.keys]
        return ", ".join(names), len(names) == len(self.shards)

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
        scaled = any(limits <= set(shard.var) for shard in self.shards)
        if layer == _keys.UNIT and scaled and not limits <= set(self.var):
            raise DataError(
                f"The {len(self.shards)} files were scaled by different limits, so their layers['unit'] can't be put "
                "together; prepare the data they came from as one: diffvae.pp.prepare([...], out='prepared.h5ad')."
            )
        return self._stacked(key, self._places)

    def _stacked(self, key: str, places: Sequence[np.ndarray | None]) -> Rows:
        """Return the matrices of all files, one below the other, of each the genes at some places."""
        parts = []
        for shard, at in zip(self.shards, places, strict=True):
            part = shard.rows(key)
            if part.dtype.kind not in "biuf":
                raise DataError(f"{key} of {shard.path.name!r} holds {part.dtype}, not numbers; convert it first.")
            parts.append(part if at is None else picked(part, at))
        return stack(parts)

    @cached_property
    def raw(self) -> _Raw | None:
        """The matrix of all genes, where all files have it; genes are matched by name."""
        lacking, all_lack = self._lacking("raw/X")
        if lacking:
            if not all_lack:
                self.notes.append(f"adata.raw is missing in {lacking} and was left out.")
            return None
        tables = [shard.table("raw/var") for shard in self.shards]
        same = all(table.index.equals(tables[0].index) for table in tables)
        if not same and not all(table.index.is_unique for table in tables):
            self.notes.append("adata.raw was left out: its gene names occur more than once and differ between files.")
            return None
        names, places = _tables.places([table.index for table in tables])
        most = max(map(len, tables))
        if len(names) < most:
            self.notes.append(
                f"adata.raw has {len(names):,} genes that all files have; the others (of up to {most:,}) were left out."
            )
        var = tables[0] if same else _tables.agreed([table.loc[names] for table in tables])
        return _Raw(lambda: self._stacked("raw/X", places), var)

    def take(self, rows: np.ndarray) -> AnnData:
        """Read some cells into memory, in the order of the files: X, layers, raw, obs, var and how they came about.

        Layers and raw that can't be read by rows are left out, with a warning.
        """
        import anndata as ad

        chosen = np.sort(rows)
        layers = {name: _readable(f"layers[{name!r}]", partial(self.matrix, name)) for name in self.layers}
        adata = ad.AnnData(
            X=self.matrix(None).at(chosen),
            obs=self.obs.iloc[chosen].copy(),
            var=self.var.copy(),
            layers={name: matrix.at(chosen) for name, matrix in layers.items() if matrix is not None},
            uns=deepcopy(self.uns),
        )
        raw = self.raw
        if raw is not None and (matrix := _readable("adata.raw", lambda: raw.X)) is not None:
            adata.raw = ad.AnnData(matrix.at(chosen), obs=adata.obs[[]], var=raw.var)
        return adata


def _readable(what: str, read: Callable[[], Rows]) -> Rows | None:
    """Return a matrix, or None with a warning: what a run may do without doesn't stop it after hours of training."""
    try:
        return read()
    except DataError as error:
        warnings.warn(f"{what} was left out: {error}", UserWarning, stacklevel=3)
        return None
