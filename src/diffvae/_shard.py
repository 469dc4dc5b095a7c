"""One AnnData file on disk, of which tables are read whole and matrices in runs of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae._errors import DataError
from diffvae._rows import Rows, joined


class Shard:
    """One file; it is open only while something is read from it.

    Attributes
    ----------
    keys
        Places of what diffvae may read: ``"X"``, ``"layers/unit"``, ``"obs/cell_type"``, ...
    n_obs
        Cells.
    var
        The table of genes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        if not self.path.exists():
            raise DataError(f"There is no file or folder {str(path)!r}.")
        if self.path.suffix.lower() not in (".h5ad", ".zarr"):
            raise DataError(
                f"{str(path)!r} can't be read piece by piece, only .h5ad and .zarr can; read it into memory and write "
                "it as .h5ad first."
            )
        with self.opened() as file:
            self.keys = frozenset(_keys_of(file))
            obs = file["obs"]
            names = obs[obs.attrs["_index"]]
            # names that may be missing are kept in two arrays
            self.n_obs = int((names if hasattr(names, "shape") else names["values"]).shape[0])
        self.var = self.table("var")

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Open the file, a group of h5py or zarr, and say it in a sentence where it can't be read."""
        try:
            if self.path.suffix.lower() == ".zarr":
                import zarr

                yield zarr.open_group(self.path, mode="r")
                return
            import h5py

            with h5py.File(self.path, "r") as file:
                yield file
        except (DataError, MemoryError):
            raise
        except Exception as error:  # as many kinds as there are ways for a file to be broken
            text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise DataError(
                f"{str(self.path)!r} can't be read; it may be damaged, cut off, or no AnnData ({text})."
            ) from error

    def element(self, key: str) -> Any:
        """Read something whole: a column, a dictionary."""
        import anndata as ad

        with self.opened() as file:
            return ad.io.read_elem(file[key])

    def table(self, key: str) -> pd.DataFrame:
        """Read a table; its names become plain strings, whatever kind of them the file has."""
        found = self.element(key)
        return found.set_axis(found.index.astype(str).astype(object), axis=0)

    def rows(self, key: str) -> Rows:
        """Return a matrix by its place: ranges of the arrays of a CSR matrix, or of a dense one.

        A range of ``data`` and ``indices`` is one read each. Row numbers, which anndata's own sparse datasets and the
        loaders built on them take, are read row by row, and several times slower.
        """
        with self.opened() as file:
            node = file[key]
            kind, (n_cells, n_genes) = _form(node)
            if kind == "csr_matrix":
                pointers = np.asarray(node["indptr"][...]).astype(np.int64, copy=False)
                there = min(node["data"].shape[0], node["indices"].shape[0])
                if len(pointers) != n_cells + 1 or pointers[0] != 0 or (np.diff(pointers) < 0).any():
                    raise self._damaged(key, f"its rows don't add up to {n_cells:,} cells")
                if there < pointers[-1]:
                    raise self._damaged(key, f"{pointers[-1]:,} values are announced, {there:,} are there")
                read = partial(self._sparse_spans, key, pointers, n_genes)
                return Rows((n_cells, n_genes), True, int(pointers[-1]), node["data"].dtype, read, pointers)
            if kind != "array":
                raise DataError(
                    f"{key!r} in {str(self.path)!r} is kept as {kind}, of which rows can't be read piece by piece; "
                    f"write it by rows first: {_by_rows(key)}."
                )
            return Rows((n_cells, n_genes), False, n_cells * n_genes, node.dtype, partial(self._dense_spans, key))

    def _sparse_spans(self, key: str, pointers: np.ndarray, n_genes: int, spans: Sequence[tuple[int, int]]) -> Any:
        from scipy import sparse

        ranges = [(int(pointers[start]), int(pointers[stop])) for start, stop in spans]
        with self.opened() as file:
            data, indices = file[key]["data"], file[key]["indices"]
            values = np.concatenate([data[a:b] for a, b in ranges])
            columns = np.concatenate([indices[a:b] for a, b in ranges])
        if columns.size and not 0 <= columns.min() <= columns.max() < n_genes:  # scipy would read beyond its arrays
            raise self._damaged(key, f"gene numbers go from {columns.min()} to {columns.max()}, of {n_genes:,} genes")
        columns = columns.astype(np.int32, copy=False)
        lengths = np.concatenate([np.diff(pointers[start : stop + 1]) for start, stop in spans])
        own = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return sparse.csr_matrix((values, columns, own), shape=(len(lengths), n_genes))

    def _dense_spans(self, key: str, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        with self.opened() as file:
            return joined([np.asarray(file[key][start:stop]) for start, stop in spans])

    def _damaged(self, key: str, what: str) -> DataError:
        return DataError(f"{str(self.path)!r} is damaged: in {key!r} {what}; make it again, or copy it again.")


def _form(node: Any) -> tuple[str, tuple[int, int]]:
    """Return how a matrix is kept, and its shape."""
    old = node.attrs.get("h5sparse_format")  # of anndata before 0.7
    kind = f"{old}_matrix" if old is not None else str(node.attrs.get("encoding-type", "array"))
    shape = node.shape if hasattr(node, "shape") else node.attrs["shape" if old is None else "h5sparse_shape"]
    if len(shape) != 2:
        raise DataError(f"{node.name!r} has {len(shape)} dimensions; a matrix of cells x genes has two.")
    return kind, (int(shape[0]), int(shape[1]))


def _by_rows(key: str) -> str:
    """Return what to type so that a matrix is kept by rows."""
    if key == "raw/X":
        return "raw = adata.raw.to_adata(); raw.X = raw.X.tocsr(); adata.raw = raw"
    place = "adata.X" if key == "X" else f"adata.layers[{key.removeprefix('layers/')!r}]"
    return f"{place} = {place}.tocsr()"


def _keys_of(file: Any) -> Iterator[str]:
    for group in ("obs", "var", "layers", "uns", f"uns/{_keys.UNS}", "raw"):
        if group in file:
            yield from (f"{group}/{name}" for name in file[group])
    yield from file
