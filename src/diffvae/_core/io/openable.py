"""Can a file be read at all? Decided before the libraries that read it are imported, which takes seconds."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from diffvae._errors import DataError

TABLES = tuple(kind + packed for kind in (".csv", ".tsv", ".txt") for packed in ("", ".gz"))
MATRICES = (".mtx", ".mtx.gz")
HDF5 = (".h5ad", ".h5mu", ".h5", ".loom")
HDF5_REASON = re.compile(r"Unable to .+? \((.+?)(:.*)?\)")
"""An error of HDF5: what failed, why in a few words, and perhaps after a colon the sizes within the file."""
KNOWN = ".h5ad, 10x .h5, a 10x folder with matrix.mtx(.gz), .mtx(.gz), .csv, .tsv or .txt (.gz), .loom, .zarr, .h5mu"


def require_openable(path: Path) -> None:
    """Raise DataError unless a path is a folder or a file of a known format that can be opened."""
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
    if stat.S_ISDIR(status.st_mode):
        return
    if status.st_size == 0:
        raise DataError(f"{str(path)!r} is empty (0 bytes).")
    name = path.name.lower()
    if name.endswith(HDF5):
        import h5py

        try:
            h5py.File(path).close()
        except OSError as error:
            raise unreadable(path, error) from error
    elif not name.endswith((*TABLES, *MATRICES)):
        raise DataError(f"{str(path)!r} has an unknown format. Known formats: {KNOWN}.{_advice(name)}")


def unreadable(path: Path, error: Exception) -> DataError:
    """Return the error for a file that a library can't read."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if reason := HDF5_REASON.search(text):
        text = reason[1]
    if "unable to lock" in text:
        return DataError(f"{str(path)!r} is being written by another program; wait until it has closed the file.")
    return DataError(
        f"{str(path)!r} can't be read; it may be damaged, truncated, or in another format than its name says ({text})."
    )


def _advice(name: str) -> str:
    if name.endswith((".rds", ".rda", ".rdata", ".h5seurat")):
        return " Seurat and R objects can be written as .h5ad in R, e.g. by the package zellkonverter."
    if name.endswith((".xls", ".xlsx")):
        return " Save the sheet as .csv first."
    if name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".h5ad.gz")):
        return " Unpack it first."
    return ""
