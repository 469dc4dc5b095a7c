"""One AnnData file on disk, whose matrices are read in slices of rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae._core.io.backed_matrix import BackedMatrix, joined, select_genes
from diffvae._core.io.modalities import choose_genome, feature_kinds, left_out
from diffvae._core.io.openable import unreadable
from diffvae._core.io.plain_tables import Changes, plain_table
from diffvae._core.io.salvage import Unreadable, encoding_of, read_table
from diffvae._errors import DataError


def named_by(var: pd.DataFrame, column: str, others: Mapping[str, str] | None = None) -> pd.Index:
    """Return the names of genes by a column of ``var``; genes without an entry keep their name.

    ``others`` has the new names by the old ones for a table that lacks the column.
    """
    old = var.index.astype(str)
    if column not in var:
        if others is not None:
            return pd.Index([others.get(name, name) for name in old], dtype=object)
        raise DataError(
            f"gene_symbols is {column!r}, which is no column of adata.var; the columns are: "
            f"{', '.join(map(str, var)) or 'none'}."
        )
    symbols = var[column]
    if pd.api.types.is_numeric_dtype(symbols.dtype):
        raise DataError(f"gene_symbols is {column!r}, but adata.var[{column!r}] holds numbers; name another column.")
    texts = symbols.astype(object).where(symbols.notna(), "").astype(str).str.strip()
    return pd.Index(np.where(texts == "", old, texts), dtype=object)


class BackedFile:
    """One AnnData file, which is open only while it is read.

    Attributes
    ----------
    keys
        Elements that diffvae may read: ``"X"``, ``"layers/unit"``, ``"obs/cell_type"``, ...
    n_obs
        Number of cells.
    var
        The table of genes, named by the column ``gene_symbols`` if one is given.
    """

    def __init__(self, path: Path, gene_symbols: str | None = None) -> None:
        self.path, self.gene_symbols, self._changes = path.expanduser(), gene_symbols, Changes()
        if not self.path.exists():
            raise DataError(f"There is no file or folder {str(path)!r}.")
        if self.path.suffix.lower() not in (".h5ad", ".zarr"):
            raise DataError(
                f"{str(path)!r} can't be read in blocks, only .h5ad and .zarr can; read it into memory and write it as "
                ".h5ad first."
            )
        with self.opened() as file:
            groups = ("obs", "var", "layers", "uns", f"uns/{_keys.UNS}", "raw")
            inside = (f"{group}/{name}" for group in groups if group in file for name in file[group])
            self.keys = frozenset([*inside, *file])
            obs = file["obs"]
            if "_index" not in obs.attrs:
                raise DataError(
                    f"{str(path)!r} is of an anndata before 0.7, whose files can't be read in blocks; read it into "
                    "memory and write it again."
                )
            names = obs[obs.attrs["_index"]]
            # nullable strings are stored as two arrays
            self.n_obs = int((names if hasattr(names, "shape") else names["values"]).shape[0])
        self.left_out = ""
        self._genes: dict[str, np.ndarray | None] = {}
        self.var = self._only_genes("var")
        self._names: dict[str, str] = {}
        if gene_symbols is not None:
            self._names = dict(zip(self.var.index, named_by(self.var, gene_symbols), strict=True))
            self.var = self._named(self.var)

    def _named(self, genes: pd.DataFrame) -> pd.DataFrame:
        if self.gene_symbols is None:
            return genes
        return genes.set_axis(named_by(genes, self.gene_symbols, self._names), axis=0)

    def _only_genes(self, key: str) -> pd.DataFrame:
        """Read a table of features without those that are no genes, whose values are left out, too."""
        table = self.table(key)
        kinds = feature_kinds(table)
        genes = np.flatnonzero(kinds == "")
        self._genes[key] = None if len(genes) == len(table) else genes
        if key == "var":
            choose_genome(table.iloc[genes], None)
            self.left_out = left_out(table, kinds)
        return table.iloc[genes]

    def raw_var(self) -> pd.DataFrame:
        """Read the table of the genes of ``raw``, named as those of ``var`` are."""
        return self._named(self._only_genes("raw/var"))

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Open the file as a group of h5py or zarr; errors of these libraries become a DataError."""
        try:
            if self.path.suffix.lower() == ".zarr":
                import zarr

                yield zarr.open_group(self.path, mode="r")
                return
            import h5py

            with h5py.File(self.path, "r") as file:
                yield file
        except DataError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise unreadable(self.path, error) from error

    def element(self, key: str) -> Any:
        """Read a whole element: a column, a table, a dictionary."""
        import anndata as ad

        with self.opened() as file:
            node = file[key]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of files of earlier versions
                    return ad.io.read_elem(node)
            except Exception as error:  # anndata's error for an unknown encoding is not public
                raise unreadable(self.path, error) from error

    def table(self, key: str) -> pd.DataFrame:
        """Read a table, which becomes one that can be written; its index becomes plain strings."""
        table = plain_table(self._table(key), key.replace("/", "."), self._changes)
        return table.set_axis(table.index.astype(str).astype(object), axis=0)

    def _table(self, key: str) -> pd.DataFrame:
        """Read a table as it is stored, by columns if a part can't be read."""
        try:
            return self.element(key)
        except DataError as error:
            left_out: list[str] = []
            with self.opened() as file:
                try:
                    table = read_table(file[key], key.replace("/", "."), left_out)
                except Unreadable:
                    raise error from None
            for part in left_out:
                self._changes.note(part, "left out, for it can't be read")
            return table

    def changes(self) -> list[str]:
        """Return a sentence on what was changed in the tables since the last call, if anything was."""
        changes, self._changes = self._changes, Changes()
        return [f"{self.path.name}: {changes}"] if changes else []

    def rows(self, key: str) -> BackedMatrix:
        """Return a matrix of cells x genes, CSR or dense, whose rows are read from slices of the stored arrays."""
        rows, genes = self._rows(key), self._genes.get("raw/var" if key.startswith("raw/") else "var")
        return rows if genes is None else select_genes(rows, genes)

    def _rows(self, key: str) -> BackedMatrix:
        """Return a matrix with all its features.

        A slice of ``data`` and ``indices`` is one read each. anndata's sparse datasets and the loaders built on them
        read row by row, several times slower.
        """
        with self.opened() as file:
            node = file[key]
            form, (n_cells, n_genes) = _form(node)
            if form == "csr_matrix":
                pointers = np.asarray(node["indptr"][...]).astype(np.int64, copy=False)
                n_stored = min(node["data"].shape[0], node["indices"].shape[0])
                if len(pointers) != n_cells + 1 or pointers[0] != 0 or (np.diff(pointers) < 0).any():
                    raise self._damaged(key, f"its rows don't add up to {n_cells:,} cells")
                if n_stored < pointers[-1]:
                    raise self._damaged(key, f"{pointers[-1]:,} values are announced, {n_stored:,} are stored")
                read = partial(self._sparse_spans, key, pointers, n_genes)
                return BackedMatrix((n_cells, n_genes), True, int(pointers[-1]), node["data"].dtype, read, pointers)
            if form != "array":
                raise DataError(
                    f"{key!r} in {str(self.path)!r} is stored as {form}, of which rows can't be read in blocks; "
                    f"store it by rows first: {_by_rows(key)}."
                )
            return BackedMatrix(
                (n_cells, n_genes), False, n_cells * n_genes, node.dtype, partial(self._dense_spans, key)
            )

    def _sparse_spans(self, key: str, pointers: np.ndarray, n_genes: int, spans: Sequence[tuple[int, int]]) -> Any:
        from scipy import sparse

        ranges = [(int(pointers[start]), int(pointers[stop])) for start, stop in spans]
        with self.opened() as file:
            data, indices = file[key]["data"], file[key]["indices"]
            values = np.concatenate([data[a:b] for a, b in ranges])
            columns = np.concatenate([indices[a:b] for a, b in ranges])
        if (
            columns.size and not 0 <= columns.min() <= columns.max() < n_genes
        ):  # scipy does not check and would read beyond its arrays
            raise self._damaged(key, f"gene numbers go from {columns.min()} to {columns.max()}, of {n_genes:,} genes")
        columns = columns.astype(np.int32, copy=False)
        lengths = np.concatenate([np.diff(pointers[start : stop + 1]) for start, stop in spans])
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return sparse.csr_matrix((values, columns, starts), shape=(len(lengths), n_genes))

    def _dense_spans(self, key: str, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        with self.opened() as file:
            return joined([np.asarray(file[key][start:stop]) for start, stop in spans])

    def _damaged(self, key: str, what: str) -> DataError:
        return DataError(f"{str(self.path)!r} is damaged: in {key!r} {what}; create or copy it again.")


def _form(node: Any) -> tuple[str, tuple[int, int]]:
    """Return how a matrix is stored, and its shape."""
    old = node.attrs.get("h5sparse_format")  # anndata before 0.7
    form = f"{old}_matrix" if old is not None else encoding_of(node) or "array"
    shape = node.shape if hasattr(node, "shape") else node.attrs["shape" if old is None else "h5sparse_shape"]
    if len(shape) != 2:
        raise DataError(f"{node.name!r} has {len(shape)} dimensions; a matrix of cells x genes has two.")
    return form, (int(shape[0]), int(shape[1]))


def _by_rows(key: str) -> str:
    """Return the code that converts a matrix to rows (CSR)."""
    if key == "raw/X":
        return "raw = adata.raw.to_adata(); raw.X = raw.X.tocsr(); adata.raw = raw"
    place = "adata.X" if key == "X" else f"adata.layers[{key.removeprefix('layers/')!r}]"
    return f"{place} = {place}.tocsr()"
