"""Expression in text files: tables, Matrix Market files, and the folders that 10x Genomics writes."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp
from anndata import AnnData

from diffvae._core.io.memory import free_memory, size
from diffvae._errors import DataError

UNREADABLE = (OSError, ValueError, OverflowError, EOFError, zlib.error, csv.Error)
"""Errors of gzip, pandas and scipy on text that is damaged, or no text."""
BLOCK = 2**21
"""Values that are parsed at once: some 60 MB, whatever the size of the table."""
_GENE_CORNER = re.compile(r"^(gene|genes|gene_?(id|name|symbol)s?|symbols?|geneid|ensembl(_?id)?)$", re.IGNORECASE)
_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{6,}")
_BARCODE = re.compile(r"^([A-Za-z0-9]+[_#-])?[ACGT]{10,}([-_.]\w+)?$")
_MATRIX = ("matrix.mtx", "matrix.mtx.gz")


def most_text() -> float:
    """Return how many bytes of text are read at most, unpacked: twice the free memory.

    A value has 2 to 20 characters as text and takes 4 to 8 bytes once read. A gzip file of 50 MB may unpack to 50 GB.
    """
    return 2 * free_memory()


class _Bounded(io.RawIOBase):
    """The text in another file, up to a number of bytes."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self._most, self._n_read = most_text(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._n_read += len(data)
        if b"\0" in data:  # pandas would take it for the end of a name or a number
            raise DataError(
                f"{str(self._path)!r} holds zero bytes, so it is no plain text; save it as text in UTF-8, or give it "
                "the ending of what it is."
            )
        if self._n_read > self._most:
            raise DataError(
                f"{str(self._path)!r} holds more than {size(self._most)} of text, twice the memory that is free; take "
                "fewer cells, or store it as .h5ad on a larger machine."
            )
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def opened(path: Path) -> io.BufferedReader:
    """Open a text file as bytes, unpacked if its name ends in .gz; too many bytes raise a DataError."""
    opening = gzip.open if path.name.lower().endswith(".gz") else open
    return io.BufferedReader(_Bounded(cast(IO[bytes], opening(path, "rb")), path), 2**18)


def read_table(path: Path, *, transpose: bool | None) -> AnnData:
    """Read a table with cell names in the first column and gene names in the first line; see ``_io.read``."""
    header, first, separator = _head(path)
    # R leaves out the corner: one name fewer than there are columns.
    genes = header if len(header) == len(first) - 1 else header[1:]
    corner = "" if len(header) == len(first) - 1 else header[0]
    if not genes:
        raise DataError(f"{str(path)!r} has one column only; columns are separated by commas, tabs or semicolons.")
    if all(_is_number(name) for name in genes):
        raise DataError(
            f"The first line of {str(path)!r} holds numbers ({genes[0]!r}, ...) where gene names should be; "
            "add a line of names."
        )
    rows: list[str] = []
    blocks: list[Any] = []
    for block in _blocks(path, separator, len(genes)):
        if block.shape[1] != len(genes):
            raise DataError(f"{str(path)!r} names {len(genes):,} columns, but its lines have {block.shape[1]:,}.")
        for i, dtype in enumerate(block.dtypes):
            if dtype.kind not in "biuf":
                _refuse_column(path, genes[i], block.iloc[:, i])
        x = block.to_numpy(dtype=np.float32)
        blocks.append(sp.csr_matrix(x) if np.count_nonzero(x) < 0.5 * x.size else x)
        rows += block.index.tolist()
    names = pd.Index(rows, dtype=str)
    if rows and all(map(_is_number, rows)) and not all(float(name).is_integer() for name in rows):
        raise DataError(
            f"The first column of {str(path)!r} ({corner!r}) holds numbers such as {float(rows[0]):g} where "
            "cell names should be; add a column of names in front."
        )
    if transpose is None and (why := _genes_in_rows(corner, names, genes)):
        raise DataError(
            f"{str(path)!r} seems to have genes in rows and cells in columns ({why}); read it with "
            "transpose=True (--transpose), or with transpose=False (--no-transpose) if that is not so."
        )
    matrix = _stacked(blocks)
    adata = AnnData(X=matrix, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=pd.Index(genes, dtype=str)))
    adata.obs_names.name = adata.var_names.name = None
    if not transpose:
        return adata
    adata = adata.T.copy()
    if sp.issparse(adata.X):
        adata.X = adata.X.tocsr()
    return adata


def _blocks(path: Path, separator: str, n_genes: int) -> Iterator[pd.DataFrame]:
    """Yield the table below its first line, some rows at a time, cell names as the index."""
    with (
        opened(path) as file,
        pd.read_csv(
            file,
            sep=separator,
            header=None,
            skiprows=1,
            skipinitialspace=True,
            low_memory=False,
            chunksize=max(1, BLOCK // n_genes),
            converters={0: str},  # a cell may be called 007 or NA, which an index_col would change
        ) as table,
    ):
        for block in table:
            yield block.set_index(0)


def _refuse_column(path: Path, name: str, column: pd.Series) -> None:
    odd = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
    shown = column if odd.empty else odd  # pandas takes whole numbers of 20 digits and more for text
    raise DataError(
        f"Column {name!r} of {str(path)!r} is not numeric: it holds {shown.iloc[0]!r} in row "
        f"{shown.index[0]!r}. Leave out columns that are not genes."
    )


def _stacked(blocks: list[Any]) -> Any:
    """Return the blocks below each other, sparse if more than half of all values are zero."""
    n_values = sum(block.shape[0] * block.shape[1] for block in blocks)
    n_nonzero = sum(block.nnz if sp.issparse(block) else np.count_nonzero(block) for block in blocks)
    if n_nonzero < 0.5 * n_values:
        return sp.vstack([sp.csr_matrix(block) for block in blocks], format="csr")
    return np.vstack([block.toarray() if sp.issparse(block) else block for block in blocks])


def _head(path: Path) -> tuple[list[str], list[str], str]:
    """Return the fields of the first two lines, and what separates them."""
    # utf-8-sig: Excel puts a byte order mark in front.
    with io.TextIOWrapper(opened(path), encoding="utf-8-sig") as file:
        lines = [line.rstrip("\r\n") for line in islice(file, 2)]
    if len(lines) < 2:
        raise DataError(
            f"{str(path)!r} has {len(lines)} line(s); a line of gene names and one for each cell are needed."
        )
    separator = max("\t,; ", key=lines[1].count)
    header, first = (next(csv.reader([line], delimiter=separator)) for line in lines)
    return [name.strip() for name in header], first, separator


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _genes_in_rows(corner: str, rows: pd.Index, columns: list[str]) -> str | None:
    """Return what shows that genes are in rows; None where it isn't certain."""
    if _GENE_CORNER.match(corner):
        return f"the first column is called {corner!r}"
    if sum(bool(_ENSEMBL.match(name)) for name in rows) > 0.5 * len(rows):
        return f"the rows have names such as {rows[0]!r}"
    if sum(bool(_BARCODE.match(name)) for name in columns) > 0.5 * len(columns):
        return f"the columns have names such as {columns[0]!r}"
    return None


def read_mtx(path: Path) -> AnnData:
    """Read one ``.mtx(.gz)``: genes x cells with names if it is 10x's, else cells x genes without names."""
    if path.name.endswith(_MATRIX) and _beside(path, "barcodes.tsv") and _beside(path, "features.tsv", "genes.tsv"):
        return _read_10x(path)
    return AnnData(_matrix(path))


def read_10x_folder(folder: Path) -> AnnData:
    """Read ``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv`` or ``genes.tsv``, packed or not.

    Names may have a prefix in common, as in GEO: ``GSM123_matrix.mtx.gz``, ``GSM123_barcodes.tsv.gz``, ...
    """
    found = sorted(file for file in folder.iterdir() if file.name.endswith(_MATRIX))
    if len(found) > 1:
        names = ", ".join(repr(file.name) for file in found)
        raise DataError(f"Folder {str(folder)!r} holds several matrices ({names}); name one of these files.")
    if found:
        return _read_10x(found[0])
    inner = [file.parent for file in folder.glob("*/*matrix.mtx*")]
    inner += [file for pattern in ("*.h5ad", "*.h5", "*.loom", "*.zarr") for file in folder.glob(pattern)]
    hint = f" Perhaps you mean {str(sorted(inner)[0])!r}." if inner else ""
    raise DataError(f"Folder {str(folder)!r} holds no matrix.mtx or matrix.mtx.gz, and is no .zarr either.{hint}")


def _matrix(path: Path) -> sp.csr_matrix:
    with opened(path) as file:
        return sp.csr_matrix(scipy.io.mmread(file), dtype="float32")


def _beside(matrix: Path, *names: str) -> Path | None:
    prefix = matrix.name.removesuffix(".gz").removesuffix("matrix.mtx")
    files = [matrix.with_name(prefix + name + packed) for name in names for packed in ("", ".gz")]
    return next((file for file in files if file.exists()), None)


def _names(matrix: Path, *names: str, n: int) -> pd.DataFrame:
    file = _beside(matrix, *names)
    if file is None:
        wanted = " or ".join(f"{name}(.gz)" for name in names)
        raise DataError(f"{str(matrix)!r} has no {wanted} beside it.")
    # Genes may be called "NA" or "nan"; quotes are part of names.
    with opened(file) as lines:
        table = pd.read_csv(lines, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)
    if len(table) != n:
        raise DataError(f"{str(file)!r} has {len(table):,} lines, but {matrix.name!r} has {n:,} to name.")
    return table


def _read_10x(matrix: Path) -> AnnData:
    adata = AnnData(_matrix(matrix)).T.copy()
    genes = _names(matrix, "features.tsv", "genes.tsv", n=adata.n_vars)
    adata.obs_names = _names(matrix, "barcodes.tsv", n=adata.n_obs)[0].to_numpy()
    adata.var_names = genes[min(1, genes.shape[1] - 1)].to_numpy()
    adata.var["gene_ids"] = genes[0].to_numpy()
    if genes.shape[1] > 2:
        # Antibodies and guides are no genes.
        adata.var["feature_types"] = genes[2].to_numpy()
        adata = adata[:, genes[2].to_numpy() == "Gene Expression"].copy()
    adata.var_names_make_unique()
    adata.X = adata.X.tocsr()
    return adata
