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
        if self.path.suffix not in (".h5ad", ".zarr"):
            raise DataError(
                f"{str(path)!r} can't be read piece by piece, only .h5ad and .zarr can; read it into memory and write "
                "it as .h5ad first."
            )
        try:
            with self.opened() as file:
                self.keys = frozenset(_keys_of(file))
                obs = file["obs"]
                self.n_obs = int(obs[obs.attrs["_index"]].shape[0])
            self.var: pd.DataFrame = self.element("var")
        except Exception as error:  # as many kinds as there are ways for a file to be broken
            text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise DataError(
                f"{str(path)!r} can't be read; it may be damaged, cut off, or no AnnData ({text})."
            ) from error

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Open the file: a group of h5py or zarr."""
        if self.path.suffix == ".zarr":
            import zarr

            yield zarr.open_group(self.path, mode="r")
            return
        import h5py

        with h5py.File(self.path, "r") as file:
            yield file

    def element(self, key: str) -> Any:
        """Read something whole: a table, a column, a dictionary."""
        import anndata as ad

        with self.opened() as file:
            return ad.io.read_elem(file[key])

    def rows(self, key: str) -> Rows:
        """Return a matrix by its place: ranges of the arrays of a CSR matrix, or of a dense one.

        A range of ``data`` and ``indices`` is one read each. Row numbers, which anndata's own sparse datasets and the
        loaders built on them take, are read row by row, and several times slower.
        """
        with self.opened() as file:
            node = file[key]
            kind = node.attrs.get("encoding-type", "array")
            if kind == "csr_matrix":
                n_cells, n_genes = map(int, node.attrs["shape"])
                pointers = np.asarray(node["indptr"][...]).astype(np.int64, copy=False)
                read = partial(self._sparse_spans, key, pointers, n_genes)
                return Rows((n_cells, n_genes), True, int(pointers[-1]), node["data"].dtype, read)
            if kind != "array" or len(node.shape) != 2:
                raise DataError(
                    f"{key!r} in {str(self.path)!r} is kept as {kind}, of which rows can't be read piece by piece; "
                    "write it by rows first: adata.X = adata.X.tocsr()."
                )
            shape = (int(node.shape[0]), int(node.shape[1]))
            return Rows(shape, False, shape[0] * shape[1], node.dtype, partial(self._dense_spans, key))

    def _sparse_spans(self, key: str, pointers: np.ndarray, n_genes: int, spans: Sequence[tuple[int, int]]) -> Any:
        from scipy import sparse

        ranges = [(int(pointers[start]), int(pointers[stop])) for start, stop in spans]
        with self.opened() as file:
            data, indices = file[key]["data"], file[key]["indices"]
            values = np.concatenate([data[a:b] for a, b in ranges])
            columns = np.concatenate([indices[a:b] for a, b in ranges]).astype(np.int32, copy=False)
        lengths = np.concatenate([np.diff(pointers[start : stop + 1]) for start, stop in spans])
        own = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return sparse.csr_matrix((values, columns, own), shape=(len(lengths), n_genes))

    def _dense_spans(self, key: str, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        with self.opened() as file:
            return joined([np.asarray(file[key][start:stop]) for start, stop in spans])


def _keys_of(file: Any) -> Iterator[str]:
    for group in ("obs", "var", "layers", "uns", f"uns/{_keys.UNS}", "raw"):
        if group in file:
            yield from (f"{group}/{name}" for name in file[group])
    yield from file
