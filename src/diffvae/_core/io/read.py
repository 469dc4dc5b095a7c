"""Reading expression matrices from files of all common formats."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import anndata as ad
from anndata import AnnData

from diffvae._core.io.backed_file import named_by
from diffvae._core.io.features import excel_dates
from diffvae._core.io.loom import read_loom
from diffvae._core.io.memory import refuse_what_cannot_be_held
from diffvae._core.io.modalities import only_genes
from diffvae._core.io.mtx import read_folder, read_mtx
from diffvae._core.io.openable import MATRICES, TABLES, require_openable, unreadable
from diffvae._core.io.orientation import odd_cells
from diffvae._core.io.salvage import salvage
from diffvae._core.io.storable import copy_of, make_storable
from diffvae._core.io.table import read_table
from diffvae._errors import DataError, quoted

IN_MEMORY = "AnnData in memory"
"""Source in a summary, for cells that were given in memory."""


def read(path: str | os.PathLike[str], *, transpose: bool | None = None, genome: str | None = None) -> AnnData:
    r"""Read an expression matrix, cells x genes.

    Parameters
    ----------
    path
        ``.h5ad``; 10x Genomics ``.h5``; a folder with ``matrix.mtx(.gz)``, ``barcodes.tsv(.gz)`` and
        ``genes.tsv`` or ``features.tsv.gz``, or with the files of STARsolo, kallisto | bustools, alevin-fry or Parse;
        ``.mtx(.gz)``, with the names in files beside it; ``.csv``, ``.tsv`` or ``.txt``, also ``.gz``, with names of
        cells in the first column and of genes in the first line; ``.loom``; ``.zarr``.
    transpose
        Swap rows and columns, for files with genes in rows.

        *Tables.* True and False are always obeyed. By default a table that clearly has genes in rows, or whose names
        contradict each other or tell nothing, raises a DataError.

        *Matrix Market files.* Files of names that fit the lengths of the margins decide, and the matrix is returned as
        cells x genes; an option that contradicts them is left aside with a warning. It decides if the matrix has no
        names, or is square and its names fit both ways; by default such a matrix raises a DataError.

        *Other formats* know which margin holds the cells; True swaps them.
    genome
        Genome of the genes to keep, of a 10x ``.h5`` of Cell Ranger 2 with several.

    Returns
    -------
    AnnData
        In memory. Tables are float32, and sparse where more than half of the values are zero. Their columns of text,
        and those that describe genes or cells by their name, are in ``obs`` or ``var``; a warning names them. What else
        is no gene and no cell, :func:`load` sets aside.

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
    require_openable(path)
    name = path.name.lower()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*names are not unique")  # AnnData's; prepare makes them unique
            if name.endswith(TABLES) and path.is_file():
                return read_table(path, transpose=transpose)
            if name.endswith(MATRICES) and path.is_file():
                return read_mtx(path, transpose=transpose)
            if path.is_dir() and not _is_zarr(path):
                return read_folder(path, transpose=transpose)
        reader = _library(path, genome)
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


def _library(path: Path, genome: str | None) -> Callable[[Path], AnnData]:
    """Return the function of a library that reads a file."""
    name = path.name.lower()
    if path.is_dir():
        return _read_mudata if (path / "mod").is_dir() else ad.io.read_zarr
    if name.endswith(".h5ad"):
        return ad.io.read_h5ad
    if name.endswith(".h5mu"):
        return _read_mudata
    if name.endswith(".h5"):
        return partial(_read_10x_h5, genome=genome)
    return read_loom  # the last of the known formats


def _read_by(reader: Callable[[Path], AnnData], path: Path, left_out: list[str]) -> AnnData:
    """Return what a library reads from a file; its errors become a DataError.

    Of an AnnData file that can't be read as a whole, the names of parts that can't be read are added to ``left_out``.
    """
    try:
        if reader is read_loom:  # its warnings are ours
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*names are not unique")
                return reader(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about formats and names
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


def _read_10x_h5(path: Path, genome: str | None) -> AnnData:
    """Read a 10x matrix with all its features; of Cell Ranger 2, which has a group for each genome, one genome."""
    import h5py
    import scanpy as sc

    with h5py.File(path) as file:
        if "X" in file and "obs" in file:
            return ad.io.read_h5ad(path)
        # Cell Ranger 3 and later write one group "matrix", earlier versions one for each genome.
        groups = [name for name, group in file.items() if isinstance(group, h5py.Group) and "barcodes" in group]
        if not groups:
            raise DataError(f"{str(path)!r} is HDF5, but not a 10x matrix: it holds {', '.join(map(repr, file))}.")
    if "matrix" in groups:
        adata = sc.read_10x_h5(path, gex_only=False)
    else:
        if genome is None and len(groups) > 1:
            raise DataError(f"{path.name!r} has several genomes, {quoted(groups)}; choose one of them (genome).")
        if genome is not None and genome not in groups:
            raise DataError(f"genome is {genome!r}, but {path.name!r} has {quoted(groups)}.")
        adata = sc.read_10x_h5(path, genome=genome)
    adata.var_names_make_unique()  # some symbols are repeated in every 10x reference
    return adata


RNA = ("rna", "gex", "gene expression", "gene_expression", "rna-seq", "scrna", "transcriptome")
"""Names of the modality of RNA in a MuData file, in lower case."""


def _read_mudata(path: Path) -> AnnData:
    """Read the RNA modality of a MuData file, with the annotation of its cells that all modalities share."""
    import h5py
    import zarr

    with nullcontext(zarr.open_group(path, mode="r")) if path.is_dir() else h5py.File(path) as file:
        modalities = list(file["mod"])
        found = [name for name in modalities if name.lower() in RNA]
        if len(found) != 1 and len(modalities) > 1:
            raise DataError(
                f"{path.name!r} has the modalities {quoted(modalities)}; {len(found)} of them are called rna or gex. "
                "Write the one with gene expression to a .h5ad file: mdata['NAME'].write_h5ad('rna.h5ad')."
            )
        adata: AnnData = ad.io.read_elem(file["mod"][(found or modalities)[0]])
        shared = ad.io.read_elem(file["obs"])
    shared = shared.loc[:, [":" not in str(column) and column not in adata.obs for column in shared]]
    adata.obs = adata.obs.join(shared)
    return adata


def load(
    data: AnnData | str | os.PathLike[str],
    transpose: bool | None,
    *,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    genome: str | None = None,
) -> tuple[AnnData, str]:
    """Return the cells of a file, or a copy of those in memory, and the name of their source in a summary.

    What an ``.h5ad`` file can't hold is changed with a warning, so that results can be written.
    """
    if isinstance(data, str | os.PathLike):
        adata = make_storable(read(data, transpose=transpose, genome=genome))
        return choose(adata, use_raw, gene_symbols, genome), Path(data).name
    adata = make_storable(copy_of(data))
    return choose(adata.T.copy() if transpose else adata, use_raw, gene_symbols, genome), IN_MEMORY


def choose(
    adata: AnnData, use_raw: bool = False, gene_symbols: str | None = None, genome: str | None = None
) -> AnnData:
    """Return cells with their genes only; values of ``adata.raw`` and names of a column of ``var`` if asked for.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> adata = AnnData(np.ones((1, 2)), var=pd.DataFrame({"symbol": ["Ins1", ""]}, index=["ENS1", "ENS2"]))
    >>> choose(adata, gene_symbols="symbol").var_names.tolist()
    ['Ins1', 'ENS2']
    """
    if use_raw:
        if adata.raw is None:
            raise DataError("use_raw is True, but the cells have no adata.raw; leave it out.")
        adata = adata.raw.to_adata()
    adata, notes = only_genes(adata, genome, by_values=True)
    if notes:
        warnings.warn(" ".join(notes), UserWarning, stacklevel=3)
    _warn_of_names(adata)
    if gene_symbols is not None:
        by_id = dict(zip(adata.var_names.astype(str), named_by(adata.var, gene_symbols), strict=True))
        if adata.raw is not None:
            raw = adata.raw.to_adata()
            raw.var_names = named_by(raw.var, gene_symbols, by_id)
            adata.raw = raw
        adata.var_names = named_by(adata.var, gene_symbols)
    return adata


def _warn_of_names(adata: AnnData) -> None:
    """Warn of rows that are not named as the other cells are, and of genes that are named as dates."""
    if odd := odd_cells(adata.obs_names.tolist()):
        warnings.warn(
            f"{quoted(odd)} are taken as cells, but are not named as the other cells are. Leave them out if they are "
            "none.",
            UserWarning,
            stacklevel=4,
        )
    if dates := excel_dates(adata.var_names.tolist()):
        warnings.warn(
            f"{len(dates):,} gene names are dates ({quoted(dates)}): a spreadsheet has changed symbols such as MARCH1, "
            "SEPT2 or DEC1. They stay as they are, but are not the names of these genes any more; take the file from "
            "before it was opened in the spreadsheet.",
            UserWarning,
            stacklevel=4,
        )
