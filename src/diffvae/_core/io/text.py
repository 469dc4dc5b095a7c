"""Expression matrices in text files: tables, Matrix Market files, 10x Genomics folders."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp
from anndata import AnnData

from diffvae._core.io.backed import unreadable
from diffvae._core.io.memory import free_memory, size
from diffvae._errors import DataError

BLOCK = 2**21
"""Values that are parsed at once, about 60 MB."""
_GENE_CORNER = re.compile(r"^(gene|genes|gene_?(id|name|symbol)s?|symbols?|geneid|ensembl(_?id)?)$", re.IGNORECASE)
_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{6,}")
_BARCODE = re.compile(r"^([A-Za-z0-9]+[_#-])?[ACGT]{10,}([-_.]\w+)?$")
_MATRIX = ("matrix.mtx", "matrix.mtx.gz")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the errors of gzip, pandas and scipy on damaged text into a DataError."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, OverflowError, EOFError, zlib.error, csv.Error) as error:
        raise unreadable(path, error) from error


class _LimitedText(io.RawIOBase):
    """Text of at most twice the free memory.

    A value has 2 to 20 characters as text and takes 4 to 8 bytes in memory. A gzip file of 50 MB may unpack to 50 GB.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self._limit, self._n_read = 2 * free_memory(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._n_read += len(data)
        if b"\0" in data:  # pandas would end a name or a number there
            raise DataError(
                f"{str(self._path)!r} holds zero bytes, so it is no plain text; save it as UTF-8 text, or give it "
                "the file name extension of its format."
            )
        if self._n_read > self._limit:
            raise DataError(
                f"{str(self._path)!r} holds more than {size(self._limit)} of text, twice the memory that is free; take "
                "fewer cells, or store it as .h5ad on a larger machine."
            )
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def opened(path: Path) -> io.BufferedReader:
    """Open a text file as bytes, unpacked if its name ends in .gz; too much text raises a DataError."""
    opening = gzip.open if path.name.lower().endswith(".gz") else open
    return io.BufferedReader(_LimitedText(cast(IO[bytes], opening(path, "rb")), path), 2**18)


def read_table(path: Path, *, transpose: bool | None) -> AnnData:
    """Read a table with cell names in the first column and gene names in the first line; see :func:`read`."""
    header, first, separator = _head(path)
    # R writes no name for the first column
    genes = header if len(header) == len(first) - 1 else header[1:]
    if not genes:
        raise DataError(
            f"{str(path)!r} has at most one column in its first line; separate columns by commas, tabs or semicolons."
        )
    corner = "" if len(header) == len(first) - 1 else header[0]
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
            "transpose=True, or with transpose=False if that is not so."
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
        _reading(path),
        opened(path) as file,
        pd.read_csv(
            file,
            sep=separator,
            header=None,
            skiprows=1,
            skipinitialspace=True,
            low_memory=False,
            chunksize=max(1, BLOCK // n_genes),
            converters={0: str},  # names such as 007 or NA, which index_col would change
        ) as table,
    ):
        for block in table:
            yield block.set_index(0)


def _refuse_column(path: Path, name: str, column: pd.Series) -> None:
    odd = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
    shown = column if odd.empty else odd  # pandas reads whole numbers of 20 digits and more as text
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
    with _reading(path), io.TextIOWrapper(opened(path), encoding="utf-8-sig") as file:  # Excel writes a byte order mark
        lines = [line.rstrip("\r\n") for line in islice(file, 2)]
    if len(lines) < 2:
        raise DataError(
            f"{str(path)!r} has {len(lines)} line(s); a line of gene names and one for each cell are needed."
        )
    separator = max("\t,; ", key=lines[1].count)
    with _reading(path):
        header, first = (next(csv.reader([line], delimiter=separator)) for line in lines)
    return [name.strip() for name in header], first, separator


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _genes_in_rows(corner: str, rows: pd.Index, columns: list[str]) -> str | None:
    """Return the evidence that genes are in rows; None if it is not certain."""
    if _GENE_CORNER.match(corner):
        return f"the first column is called {corner!r}"
    if sum(bool(_ENSEMBL.match(name)) for name in rows) > 0.5 * len(rows):
        return f"the rows have names such as {rows[0]!r}"
    if sum(bool(_BARCODE.match(name)) for name in columns) > 0.5 * len(columns):
        return f"the columns have names such as {columns[0]!r}"
    return None


def read_mtx(path: Path) -> AnnData:
    """Read a ``.mtx(.gz)`` file: genes x cells with names in 10x folders, otherwise cells x genes without names."""
    if (
        path.name.endswith(_MATRIX)
        and _companion(path, "barcodes.tsv")
        and _companion(path, "features.tsv", "genes.tsv")
    ):
        return _read_10x(path)
    return AnnData(_matrix(path))


def read_10x_folder(folder: Path) -> AnnData:
    """Read ``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv`` or ``genes.tsv``, with or without ``.gz``.

    The names may share a prefix, as in GEO: ``GSM123_matrix.mtx.gz``, ``GSM123_barcodes.tsv.gz``, ...
    """
    matrices = sorted(file for file in folder.iterdir() if file.name.endswith(_MATRIX))
    if len(matrices) > 1:
        names = ", ".join(repr(file.name) for file in matrices)
        raise DataError(f"Folder {str(folder)!r} holds several matrices ({names}); give one of these files.")
    if matrices:
        return _read_10x(matrices[0])
    inner = [file.parent for file in folder.glob("*/*matrix.mtx*")]
    inner += [file for pattern in ("*.h5ad", "*.h5", "*.loom", "*.zarr") for file in folder.glob(pattern)]
    hint = f" Perhaps you mean {str(sorted(inner)[0])!r}." if inner else ""
    raise DataError(f"Folder {str(folder)!r} holds no matrix.mtx or matrix.mtx.gz, and is no .zarr either.{hint}")


def _matrix(path: Path) -> sp.csr_matrix:
    with _reading(path), opened(path) as file:
        return sp.csr_matrix(scipy.io.mmread(file), dtype="float32")


def _companion(matrix: Path, *names: str) -> Path | None:
    prefix = matrix.name.removesuffix(".gz").removesuffix("matrix.mtx")
    files = [matrix.with_name(prefix + name + packed) for name in names for packed in ("", ".gz")]
    return next((file for file in files if file.exists()), None)


def _names(matrix: Path, *names: str, n: int) -> pd.DataFrame:
    file = _companion(matrix, *names)
    if file is None:
        needed = " or ".join(f"{name}(.gz)" for name in names)
        raise DataError(f"{str(matrix)!r} has no {needed} beside it.")
    with _reading(file), opened(file) as lines:  # names may be "NA" or "nan", or contain quotes
        table = pd.read_csv(lines, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)
    if len(table) != n:
        raise DataError(f"{str(file)!r} has {len(table):,} lines, but {matrix.name!r} needs {n:,} names.")
    return table


def _read_10x(matrix: Path) -> AnnData:
    adata = AnnData(_matrix(matrix)).T.copy()
    genes = _names(matrix, "features.tsv", "genes.tsv", n=adata.n_vars)
    adata.obs_names = _names(matrix, "barcodes.tsv", n=adata.n_obs)[0].to_numpy()
    adata.var_names = genes[min(1, genes.shape[1] - 1)].to_numpy()
    adata.var["gene_ids"] = genes[0].to_numpy()
    if genes.shape[1] > 2:
        adata.var["feature_types"] = genes[2].to_numpy()
        adata = adata[:, genes[2].to_numpy() == "Gene Expression"].copy()  # without antibodies and guides
    adata.var_names_make_unique()
    adata.X = adata.X.tocsr()
    return adata
