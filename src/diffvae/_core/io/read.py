"""Reading expression matrices from files of all common formats."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anndata as ad
from anndata import AnnData

from diffvae._core.io.backed import named_by, unreadable
from diffvae._core.io.memory import refuse_what_cannot_be_held
from diffvae._core.io.salvage import salvage
from diffvae._core.io.storable import copy_of, make_storable
from diffvae._core.io.text import read_10x_folder, read_mtx, read_table
from diffvae._errors import DataError

IN_MEMORY = "AnnData in memory"
"""Source in a summary, for cells that were given in memory."""
TABLES = tuple(kind + packed for kind in (".csv", ".tsv", ".txt") for packed in ("", ".gz"))
_KNOWN = ".h5ad, 10x .h5, a 10x folder with matrix.mtx(.gz), .mtx(.gz), .csv, .tsv or .txt (.gz), .loom, .zarr"


def read(path: str | os.PathLike[str], *, transpose: bool | None = None) -> AnnData:
    r"""Read an expression matrix, cells x genes.

    Parameters
    ----------
    path
        ``.h5ad``; 10x Genomics ``.h5``; a folder with ``matrix.mtx(.gz)``, ``barcodes.tsv(.gz)`` and
        ``genes.tsv`` or ``features.tsv.gz``; ``.mtx(.gz)``; ``.csv``, ``.tsv`` or ``.txt``, also ``.gz``,
        with cell names in the first column and gene names in the first line; ``.loom``; ``.zarr``.
    transpose
        Swap rows and columns, for files with genes in rows. By default a table that clearly has genes in rows raises a
        DataError; False reads it as it is.

    Returns
    -------
    AnnData
        In memory. Tables are float32, and sparse where more than half of the values are zero.

    Notes
    -----
    The peak memory of reading a table is 1.1 times that of the dense float32 matrix if most values are zeros (4.6 bytes
    per value) and 2.3 times if none is (9.4), measured on 40,000 x 1,000 values. HDF5 and zarr files that would take
    more than the free memory are refused before they are read, text of more than twice the free memory while it is
    read.

    Raises
    ------
    DataError
        If the file does not exist or can't be read, or the package for it is missing.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "cells.csv"
    >>> _ = file.write_text("cell,Gata1,Spi1\nc1,3,0\nc2,0,5\n")
    >>> read(file).to_df().loc["c2", "Spi1"].item()
    5.0
    """
    path = Path(os.path.expanduser(path))
    left_out: list[str] = []
    _require_readable(path)
    name = path.name.lower()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about formats and names
            if name.endswith(TABLES) and path.is_file():
                return read_table(path, transpose=transpose)
            if name.endswith((".mtx", ".mtx.gz")):
                adata = read_mtx(path)
            elif path.is_dir() and not _is_zarr(path):
                adata = read_10x_folder(path)
            else:
                reader = _library(path)
                refuse_what_cannot_be_held(path)
                adata = _read_by(reader, path, left_out)
    except MemoryError as error:
        raise DataError(
            f"{str(path)!r} needs more memory than there is ({str(error).rstrip('.') or 'size unknown'}); take fewer "
            "cells, or store it sparse."
        ) from error
    if left_out:
        warnings.warn(
            f"Parts of {path.name!r} can't be read and were left out: {', '.join(left_out)}.", UserWarning, stacklevel=2
        )
    return adata.T.copy() if transpose else adata


def _is_zarr(path: Path) -> bool:
    return path.name.lower().endswith(".zarr") or any((path / name).exists() for name in (".zgroup", "zarr.json"))


def _library(path: Path) -> Callable[[Path], AnnData]:
    """Return the function of a library that reads a file."""
    name = path.name.lower()
    if path.is_dir():
        return ad.io.read_zarr
    if name.endswith(".h5ad"):
        return ad.io.read_h5ad
    if name.endswith(".h5"):
        return _read_10x_h5
    if name.endswith(".loom"):
        return ad.io.read_loom
    raise DataError(f"{str(path)!r} has an unknown format. Known formats: {_KNOWN}.{_advice(name)}")


def _require_readable(path: Path) -> None:
    """Raise DataError unless a path is a file or folder that can be read."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise DataError(f"There is no file or folder {str(path)!r}.") from None
    except OSError as error:  # no permission, a name that is too long, a cycle of links
        raise DataError(f"{str(path)!r} can't be reached ({error.strerror}); name another file.") from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise DataError(
            f"{str(path)!r} is neither a file nor a folder but a pipe or a device; save it as a file first."
        )
    if not os.access(path, os.R_OK):
        raise DataError(f"You have no permission to read {str(path)!r}; ask for it (chmod u+r makes a file readable).")
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise DataError(f"{str(path)!r} is empty (0 bytes).")


def _advice(name: str) -> str:
    if name.endswith((".rds", ".rda", ".rdata", ".h5seurat")):
        return " Seurat and R objects can be written as .h5ad in R, e.g. by the package zellkonverter."
    if name.endswith((".xls", ".xlsx")):
        return " Save the sheet as .csv first."
    if name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".h5ad.gz")):
        return " Unpack it first."
    return ""


def _read_by(reader: Callable[[Path], AnnData], path: Path, left_out: list[str]) -> AnnData:
    """Return what a library reads from a file; its errors become a DataError.

    Of an AnnData file that can't be read as a whole, the names of parts that can't be read are added to ``left_out``.
    """
    try:
        return reader(path)
    except (DataError, MemoryError):
        raise
    except ImportError as error:
        package = error.name or "the package named above"
        raise DataError(
            f"Reading {path.name!r} needs a package that is not installed: pip install {package}"
        ) from error
    except Exception as error:  # on damaged files, libraries raise errors of any type
        if reader in (ad.io.read_h5ad, ad.io.read_zarr):
            with suppress(Exception):
                return salvage(path, left_out)
        raise unreadable(path, error) from error


def _read_10x_h5(path: Path) -> AnnData:
    import h5py
    import scanpy as sc

    with h5py.File(path) as file:
        if "X" in file and "obs" in file:
            return ad.io.read_h5ad(path)
        # Cell Ranger 3 and later write one group "matrix", earlier versions one for each genome.
        if not any(isinstance(group, h5py.Group) and "barcodes" in group for group in file.values()):
            raise DataError(f"{str(path)!r} is HDF5, but not a 10x matrix: it holds {', '.join(map(repr, file))}.")
    adata = sc.read_10x_h5(path)
    adata.var_names_make_unique()  # some symbols are repeated in every 10x reference
    return adata


def load(
    data: AnnData | str | os.PathLike[str],
    transpose: bool | None,
    *,
    use_raw: bool = False,
    gene_symbols: str | None = None,
) -> tuple[AnnData, str]:
    """Return the cells of a file, or a copy of those in memory, and the name of their source in a summary.

    What an ``.h5ad`` file can't hold is changed with a warning, so that results can be written.
    """
    if isinstance(data, str | os.PathLike):
        return choose(make_storable(read(data, transpose=transpose)), use_raw, gene_symbols), Path(data).name
    adata = make_storable(copy_of(data))
    return choose(adata.T.copy() if transpose else adata, use_raw, gene_symbols), IN_MEMORY


def choose(adata: AnnData, use_raw: bool = False, gene_symbols: str | None = None) -> AnnData:
    """Return cells with the values of ``adata.raw``, if asked for, and genes named by a column of ``var``.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> adata = AnnData(np.ones((1, 2)), var=pd.DataFrame({"symbol": ["Ins1", ""]}, index=["ENS1", "ENS2"]))
    >>> choose(adata, gene_symbols="symbol").var_names.tolist()
    ['Ins1', 'ENS2']
    """
    if use_raw:
        if adata.raw is None:
            raise DataError("use_raw is True, but the cells have no adata.raw; leave it out, or name a layer.")
        adata = adata.raw.to_adata()
    if gene_symbols is not None:
        by_id = dict(zip(adata.var_names.astype(str), named_by(adata.var, gene_symbols), strict=True))
        if adata.raw is not None:
            raw = adata.raw.to_adata()
            raw.var_names = named_by(raw.var, gene_symbols, by_id)
            adata.raw = raw
        adata.var_names = named_by(adata.var, gene_symbols)
    return adata
