"""Cells on disk: one AnnData file or several with the same genes, whose matrices are read in slices of rows."""

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

from diffvae import _keys
from diffvae._core.io.backed_file import BackedFile
from diffvae._core.io.backed_matrix import BackedMatrix, select_genes, stack
from diffvae._core.io.plain_tables import Changes, plain_table
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

OnDisk: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""An AnnData file (.h5ad, .zarr), or several with the same genes: the shards of an atlas."""


def is_on_disk(data: Any) -> bool:
    """Return whether data are files or an AnnData that is backed by a file."""
    return isinstance(data, str | os.PathLike | list | tuple | BackedAnnData) or bool(getattr(data, "isbacked", False))


def open_store(data: Any, gene_symbols: str | None = None) -> BackedAnnData:
    """Open cells on disk: a file, a list of files, or a backed AnnData, which is read from its file.

    Genes are named by the column ``gene_symbols`` of ``var``, if one is given.
    """
    if isinstance(data, BackedAnnData):
        return data
    if isinstance(data, str | os.PathLike):
        return BackedAnnData([BackedFile(Path(data), gene_symbols)])
    if isinstance(data, list | tuple):
        return BackedAnnData([BackedFile(path, gene_symbols) for path in _distinct(data)])
    if data.is_view:
        raise DataError("adata is a part of a file; write those cells to a separate file: adata.copy('part.h5ad').")
    store = BackedAnnData([BackedFile(Path(str(data.filename)))])
    if not _is_unchanged(data, store):
        raise DataError(
            "adata was changed since its file was opened, and cells on disk are read from the file; write it first: "
            "adata.write_h5ad('changed.h5ad'), and give that file."
        )
    return store if gene_symbols is None else BackedAnnData([BackedFile(Path(str(data.filename)), gene_symbols)])


def _distinct(data: Sequence[Any]) -> list[Path]:
    """Return the paths in a list; a repeated file raises DataError."""
    paths: dict[Path, Path] = {}
    for given in data:
        if not isinstance(given, str | os.PathLike):
            raise DataError(
                f"A list must hold files, but this one holds an object of type {type(given).__name__}; give the files, "
                "or concatenate several AnnData first: anndata.concat([...])."
            )
        place = Path(given).expanduser().resolve()
        if place in paths:
            raise DataError(f"{str(given)!r} is given twice; give each file once.")
        paths[place] = Path(given)
    return list(paths.values())


def _is_unchanged(adata: AnnData, store: BackedAnnData) -> bool:
    """Return whether a backed AnnData has the names, tables and layers of its file."""
    for given, stored in ((adata.obs, store.obs), (adata.var, store.var)):
        table = plain_table(given, "obs", Changes())
        if not table.index.astype(str).equals(stored.index) or set(table) != set(stored):
            return False
        if not table[list(stored)].set_axis(stored.index, axis=0).equals(stored):
            return False
    return set(adata.layers) == set(store.layers)


@dataclass(frozen=True)
class _Raw:
    """``adata.raw`` on disk."""

    read: Callable[[], BackedMatrix]
    var: pd.DataFrame

    @cached_property
    def X(self) -> BackedMatrix:
        """The matrix; it is opened on first use, so that one that can't be read by rows does no harm before."""
        return self.read()

    @property
    def n_vars(self) -> int:
        return len(self.var)

    @property
    def var_names(self) -> pd.Index:
        return self.var.index


class BackedAnnData:
    """Cells on disk with the attributes of an AnnData, each of which is read on access.

    Several files are one data set with the genes that all files have, matched by name and in the order of the first
    file. If names of cells are repeated in several files, the name of the file is appended.

    Attributes
    ----------
    notes
        Sentences about decisions in joining several files; :meth:`warn` gives them as warnings.
    """

    def __init__(self, shards: Sequence[BackedFile]) -> None:
        if not shards:
            raise DataError("The list of files is empty; give at least one .h5ad or .zarr file.")
        self.shards = list(shards)
        self.notes: list[str] = []
        self._n_warned = 0
        self.notes += dict.fromkeys(shard.left_out for shard in self.shards if shard.left_out)
        self._note_changes()
        self.var_names, self._places = self._match()
        self.n_obs = sum(shard.n_obs for shard in self.shards)
        self.shape = (self.n_obs, len(self.var_names))

    def warn(self, stacklevel: int = 3) -> None:
        """Give each new note as a warning."""
        for note in self.notes[self._n_warned :]:
            warnings.warn(note, UserWarning, stacklevel=stacklevel)
        self._n_warned = len(self.notes)

    def _note_changes(self) -> None:
        self.notes += [sentence for shard in self.shards for sentence in shard.changes()]

    def parts(self) -> list[BackedAnnData]:
        """Return a BackedAnnData, with all its genes, for each file that has cells."""
        return [BackedAnnData([shard]) for shard in self.shards if shard.n_obs]

    @property
    def name(self) -> str:
        """The name of the source in a summary."""
        first = self.shards[0].path.name
        return first if len(self.shards) == 1 else f"{first} and {len(self.shards) - 1} more"

    def _match(self) -> tuple[pd.Index, list[np.ndarray | None]]:
        """Return the genes that all files have, and their positions in each file (None: the same)."""
        all_names = [shard.var.index for shard in self.shards]
        for shard, names in zip(self.shards, all_names, strict=True):
            if not names.is_unique and not all(other.equals(names) for other in all_names):
                raise DataError(
                    f"{shard.path.name!r} has gene names that occur more than once, so they can't be matched with "
                    "those of other files; make them unique (adata.var_names_make_unique()) and write it again."
                )
        names, places = _match_names(all_names)
        most = max(map(len, all_names))
        if len(names) < 0.5 * most:
            raise DataError(
                f"The {len(self.shards)} files have {len(names):,} genes in common, of up to {most:,}; give "
                "files whose genes are named in the same way."
            )
        if len(names) < most:
            self.notes.append(
                f"The {len(self.shards)} files have {len(names):,} genes in common; the other genes (of up to "
                f"{most:,}) were left out."
            )
        return names, places

    @property
    def n_vars(self) -> int:
        return self.shape[1]

    @cached_property
    def var(self) -> pd.DataFrame:
        """The table of genes, with the columns that are equal in all files."""
        tables = [
            shard.var if at is None else shard.var.loc[self.var_names]
            for shard, at in zip(self.shards, self._places, strict=True)
        ]
        return _same_columns(tables)

    @cached_property
    def obs(self) -> pd.DataFrame:
        """The table of cells in memory; names take 100 bytes per cell.

        Of several files, the column ``"file"`` has the name of each cell's, unless the files have such a column.
        """
        tables = [shard.table("obs") for shard in self.shards]
        self._note_changes()
        obs = _stack_tables(tables, self.notes)
        if not obs.index.is_unique and all(table.index.is_unique for table in tables):
            obs.index = _add_file_names([table.index for table in tables], [shard.path for shard in self.shards])
            self.notes.append("The name of the file was appended to names of cells that occur in several files.")
        if len(tables) > 1 and _keys.FILE not in obs:
            names = _file_names([shard.path for shard in self.shards])
            codes = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
            obs[_keys.FILE] = pd.Categorical(np.array(names, object)[codes])
        return obs

    @property
    def obs_names(self) -> pd.Index:
        return self.obs.index

    def obs_column(self, key: str) -> pd.Series | None:
        """Return one column of obs without reading the others; None if a file lacks it."""
        if self._some_lack(f"obs/{key}", f"obs[{key!r}] is missing in {{}} and was ignored."):
            return None
        return pd.concat([pd.Series(np.asarray(shard.element(f"obs/{key}"))) for shard in self.shards])

    def _some_lack(self, key: str, note: str) -> bool:
        """Return whether a file lacks an element; if only some lack it, add a note with their names."""
        names = [repr(shard.path.name) for shard in self.shards if key not in shard.keys]
        if 0 < len(names) < len(self.shards):
            self.notes.append(note.format(", ".join(names)))
        return bool(names)

    @property
    def layers(self) -> list[str]:
        """Names of the layers that all files have."""
        shared = frozenset.intersection(*(shard.keys for shard in self.shards))
        return sorted(key.removeprefix("layers/") for key in shared if key.startswith("layers/"))

    @cached_property
    def uns(self) -> dict[str, Any]:
        """The record of ``pp.prepare`` (``uns["diffvae"]["prepare"]``), if it is the same for all files."""
        key = f"uns/{_keys.UNS}/prepare"
        if not all(key in shard.keys for shard in self.shards):
            return {}
        records = [shard.element(key) for shard in self.shards]
        agree = all(record.get("target_sum") == records[0].get("target_sum") for record in records)
        return {_keys.UNS: {"prepare": records[0]}} if agree else {}

    @property
    def is_prepared(self) -> bool:
        """Whether the cells were prepared by ``pp.prepare``."""
        return _keys.UNIT in self.layers and "prepare" in self.uns.get(_keys.UNS, {})

    def matrix(self, layer: str | None) -> BackedMatrix:
        """Return ``X`` or a layer."""
        key = "X" if layer is None else f"layers/{layer}"
        if layer is not None and layer not in self.layers:
            present = ", ".join(map(repr, self.layers)) or "none"
            way_out = "run diffvae.pp.prepare first" if layer == _keys.UNIT else f"there are: {present}"
            raise DataError(f"layers[{layer!r}] is missing in {self.name}; {way_out}.")
        for shard in self.shards:
            if key not in shard.keys:
                raise DataError(f"{shard.path.name!r} has no X; name the layer that holds the expression values.")
        limits = {_keys.UNIT_MIN, _keys.UNIT_MAX}
        scaled = any(limits <= set(shard.var) for shard in self.shards)
        if layer == _keys.UNIT and scaled and not limits <= set(self.var):
            raise DataError(
                f"The {len(self.shards)} files were scaled by different limits, so their layers['unit'] can't be "
                "joined; prepare the original files together: diffvae.pp.prepare([...], out='prepared.h5ad')."
            )
        return self._stacked(key, self._places)

    def _stacked(self, key: str, places: Sequence[np.ndarray | None]) -> BackedMatrix:
        """Return the matrices of all files stacked by cells, with the genes at the given positions."""
        parts = []
        for shard, at in zip(self.shards, places, strict=True):
            part = shard.rows(key)
            if part.dtype.kind not in "biuf":
                raise DataError(f"{key} of {shard.path.name!r} holds {part.dtype}, not numbers; convert it first.")
            parts.append(part if at is None else select_genes(part, at))
        return stack(parts)

    @cached_property
    def raw(self) -> _Raw | None:
        """The matrix of all genes, if all files have it; genes are matched by name."""
        if self._some_lack("raw/X", "adata.raw is missing in {} and was left out."):
            return None
        tables = [shard.raw_var() for shard in self.shards]
        self._note_changes()
        same = all(table.index.equals(tables[0].index) for table in tables)
        if not same and not all(table.index.is_unique for table in tables):
            self.notes.append("adata.raw was left out: its gene names occur more than once and differ between files.")
            return None
        names, places = _match_names([table.index for table in tables])
        most = max(map(len, tables))
        if len(names) < most:
            self.notes.append(
                f"adata.raw has {len(names):,} genes that all files have; the others (of up to {most:,}) were left out."
            )
        var = tables[0] if same else _same_columns([table.loc[names] for table in tables])
        return _Raw(lambda: self._stacked("raw/X", places), var)

    def take(self, rows: np.ndarray) -> AnnData:
        """Read some cells into memory, in the order of the files: X, layers, raw, obs, var and the record of prepare.

        Layers and raw that can't be read by rows are left out with a warning.
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


def _readable(what: str, read: Callable[[], BackedMatrix]) -> BackedMatrix | None:
    """Return a matrix, or None with a warning: an optional matrix must not stop a run after hours of training."""
    try:
        return read()
    except DataError as error:
        warnings.warn(f"{what} was left out: {error}", UserWarning, stacklevel=3)
        return None


def _match_names(names: Sequence[pd.Index]) -> tuple[pd.Index, list[np.ndarray | None]]:
    """Return the names that occur in all, in the order of the first, and their positions in each (None: the same)."""
    shared = names[0]
    if all(other.equals(shared) for other in names):
        return shared, [None] * len(names)
    for other in names[1:]:
        shared = shared[shared.isin(other)]
    return shared, [None if other.equals(shared) else other.get_indexer(shared) for other in names]


def _same_columns(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the columns that are equal in all tables of the same genes."""
    first = tables[0]
    return first[
        [c for c in first if all(c in t and t[c].astype(object).equals(first[c].astype(object)) for t in tables)]
    ]


def _stack_tables(tables: Sequence[pd.DataFrame], notes: list[str]) -> pd.DataFrame:
    """Return all tables stacked by rows, with the columns that all have."""
    if len(tables) == 1:
        return tables[0]
    shared = [c for c in tables[0] if all(c in table for table in tables)]
    lost = dict.fromkeys(c for table in tables for c in table if c not in shared)
    if lost:
        notes.append(f"Columns of obs that some files lack were left out: {', '.join(map(repr, lost))}.")
    columns: dict[Any, Any] = {}
    for c in shared:
        columns[c], note = _stack_columns([table[c] for table in tables])
        if note:
            notes.append(f"obs[{c!r}] {note}.")
    return pd.DataFrame(columns, index=tables[0].index.append([table.index for table in tables[1:]]))


def _stack_columns(parts: Sequence[pd.Series]) -> tuple[Any, str]:
    """Return one column made of several, and a note if values had to be converted."""
    filled = [part for part in parts if part.notna().any()]  # a column without values fits any type
    types = {str(part.dtype): part.dtype for part in filled}
    if filled and all(isinstance(part.dtype, pd.CategoricalDtype) for part in filled):
        if len({part.cat.categories.dtype for part in filled}) == 1:
            same = all(part.dtype == filled[0].dtype for part in filled)
            union = pd.api.types.union_categoricals(filled, ignore_order=not same).dtype
            lost = not same and any(part.cat.ordered for part in filled)
            note = "has different ordered categories in each file; they lost their order" if lost else ""
            return pd.concat([part.astype(union) for part in parts]).array, note
    elif len({part.dtype for part in parts}) == 1 or all(_is_number(part) for part in parts):
        return pd.concat(parts).array, ""
    texts = [np.where(part.isna(), None, part.astype(str).astype(object)) for part in parts]
    was_text = all(pd.api.types.infer_dtype(part.dropna().astype(object)) == "string" for part in filled)
    note = "" if was_text else f"has different types ({', '.join(types)}) and was converted to text"
    return pd.Categorical(np.concatenate(texts)), note


def _is_number(part: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(part.dtype) and not pd.api.types.is_bool_dtype(part.dtype)


def _file_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of files without their endings; with their folders or numbers where names are repeated."""
    paths = [path.resolve() for path in paths]
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}_{path.stem}" for path in paths]
    return names if len(set(names)) == len(names) else [str(i) for i in range(1, len(paths) + 1)]


def _add_file_names(names: Sequence[pd.Index], paths: Sequence[Path]) -> pd.Index:
    """Return unique names of cells: with the name of their file appended, or also of its folder, or its number."""
    paths = [path.resolve() for path in paths]
    by_file = [path.stem for path in paths]
    by_folder = [f"{path.parent.name}_{path.stem}" for path in paths]
    by_number = [str(i) for i in range(1, len(paths) + 1)]
    for suffixes in (by_file, by_folder, by_number):
        unique = pd.Index(np.concatenate([part + f"-{suffix}" for part, suffix in zip(names, suffixes, strict=True)]))
        if unique.is_unique:
            break
    return unique
