"""AnnData files that are written block by block."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from diffvae._core.io import folders
from diffvae._errors import OutputError

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae._core.io.backed import BackedAnnData

CHUNK = 2**14
"""Values of a sparse matrix in a compressed chunk, those of about 100 cells."""
DENSE_CHUNK_ROWS, DENSE_CHUNK_BYTES = 128, 2**20
"""Largest number of cells and of bytes in a compressed chunk of a dense matrix."""


class AnnDataWriter:
    """An open file to which blocks are appended: ``append("layers/unit", block)``; see :func:`adata_writer`."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._hdf5 = not hasattr(group, "store")
        self._written: set[str] = set()

    def append(self, key: str, block: Any) -> None:
        """Append cells to a matrix; its blocks are all CSR, or all arrays."""
        import anndata as ad

        if sparse.issparse(block):
            block = sparse.csr_matrix(block)
        if key not in self._written:
            if key in self._group:
                del self._group[key]
            self._write(key, block, **self._options(block))
            self._written.add(key)
            return
        stored = (self._group[key]["data"] if sparse.issparse(block) else self._group[key]).dtype
        if not np.can_cast(block.dtype, stored):  # HDF5 would truncate large values silently
            raise TypeError(f"{key} is written as {stored}, which doesn't hold all values of {block.dtype}.")
        if sparse.issparse(block):
            ad.io.sparse_dataset(self._group[key]).append(block)
        else:
            array = self._group[key]
            n = array.shape[0]
            array.resize((n + len(block), *array.shape[1:]))
            array[n:] = block

    def _options(self, block: Any) -> dict[str, Any]:
        # pointers of more than 2^31 values need 64 bits
        options: dict[str, Any] = {"indptr_dtype": np.int64} if sparse.issparse(block) else {}
        if not self._hdf5:
            return options
        options |= {"compression": "gzip", "compression_opts": 1}
        if sparse.issparse(block):
            return options | {"chunks": (CHUNK,)}
        width = max(1, int(np.prod(block.shape[1:])) * block.dtype.itemsize)
        rows = max(1, min(DENSE_CHUNK_ROWS, DENSE_CHUNK_BYTES // width))
        return options | {"maxshape": (None, *block.shape[1:]), "chunks": (rows, *block.shape[1:])}

    def put(self, key: str, value: Any) -> None:
        """Write or replace a table or a dictionary."""
        self._write(key, value)

    def _write(self, key: str, value: Any, **options: Any) -> None:
        import anndata as ad

        *parents, name = key.split("/")
        group = self._group["/".join(parents)] if parents else self._group
        ad.io.write_elem(group, name, value, dataset_kwargs=options)


@contextmanager
def adata_writer(path: str | os.PathLike[str], skeleton: AnnData) -> Iterator[AnnDataWriter]:
    """Yield a writer for a file with the tables of a skeleton; the file appears under its name if the block succeeds.

    Parameters
    ----------
    path
        ``.h5ad`` or ``.zarr``.
    skeleton
        AnnData with obs, var and uns; appended matrices replace its matrices.
    """
    path = Path(path).expanduser()
    if path.suffix == ".zarr":
        import zarr

        path.parent.mkdir(parents=True, exist_ok=True)
        with folders.folder_in_one_step(path) as part:
            skeleton.write_zarr(part)
            yield AnnDataWriter(zarr.open_group(part, mode="r+", use_consolidated=False))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zarr warns that other programs may not support it
                zarr.consolidate_metadata(str(part))
        return
    import h5py

    with folders.in_one_step(path) as part:
        skeleton.write_h5ad(part)
        with h5py.File(part, "r+") as opened:
            yield AnnDataWriter(opened)


def refuse_out(path: str | os.PathLike[str], overwrite: bool = False, cells: BackedAnnData | None = None) -> Path:
    """Return the path of an AnnData file to write, or raise OutputError.

    Refused are other formats, existing files unless ``overwrite``, folders that are not zarr stores, and the files from
    which the cells are read, since the output may lack their expression.
    """
    path = Path(path).expanduser()
    if path.suffix not in (".h5ad", ".zarr"):
        raise OutputError(
            f"out is {str(path)!r}; cells are written as .h5ad or .zarr, so its name must end in one of these."
        )
    if path.exists() and not overwrite:
        raise OutputError(f"{str(path)!r} is there already; name another file, or remove it first.")
    if cells is not None and path.exists() and any(path.samefile(shard.path) for shard in cells.shards):
        raise OutputError(f"{str(path)!r} holds the cells themselves; name another file.")
    if path.suffix == ".zarr" and path.exists() and not _is_store(path):
        raise OutputError(f"{str(path)!r} is no zarr store, so it isn't replaced; name another.")
    return path


def _is_store(path: Path) -> bool:
    """Return whether a folder is a zarr store (version 2 or 3), or empty."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    return not names or not names.isdisjoint({".zgroup", "zarr.json"})
