"""Do the cells fit into memory, or do they stay on disk? Decided by their size, and said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from diffvae._errors import DataError
from diffvae._io_size import free_memory, unpacked
from diffvae._store import is_on_disk, open_store

COPIES = 6
"""Times that a run has the matrix in memory: as it came, all genes as logs, the kept ones in three forms, a copy."""
SHARE = 0.5
"""Of the free memory that a run may take; the rest is for others and for what grows beside the matrix."""
MANY_CELLS = 200_000
"""Cells beyond which maps, clusters and graphs of all of them take hours, however much memory there is."""


def stays_on_disk(data: Any, backed: bool | None, *, layer: str | None = None, transpose: bool | None = None) -> str:
    """Return why cells are read from disk block by block, as a sentence; empty where they are read into memory.

    Parameters
    ----------
    data
        Cells in memory, a file, or a list of files; None for the bundled ones.
    backed
        What the user wants; None decides by size.
    layer
        Matrix whose size counts.
    transpose
        As in :func:`diffvae._io.read`: rows of what must be turned round can't be read.
    """
    several = isinstance(data, list | tuple) and len(data) > 1
    if backed is False and several:
        raise ValueError("Several files are read from disk, as one; write them into one file to have it in memory.")
    if backed and (data is None or not is_on_disk(data)):
        raise ValueError("There is no file to read piece by piece: the cells are in memory.")
    if data is None or not is_on_disk(data) or backed is False:
        return ""
    if transpose and (backed or several):
        raise ValueError("Genes in rows can't be read piece by piece; write the cells in rows first, as .h5ad.")
    if backed or several or getattr(data, "isbacked", False):
        return "The cells stay on disk and are read in blocks, as asked for."
    path = Path(os.path.expanduser(data[0] if isinstance(data, list | tuple) else data))
    if transpose or path.suffix not in (".h5ad", ".zarr"):
        return ""
    try:
        matrix = open_store(path).matrix(layer)
    except DataError:
        return ""  # what reads the file whole may do better, or says what is wrong with it
    # reading holds all that is in the file, other layers and graphs of cells too
    needed, free = max(COPIES * len(matrix) * matrix.bytes_per_row, unpacked(path)), free_memory()
    size = f"{matrix.shape[0]:,} cells x {matrix.shape[1]:,} genes"
    if needed > SHARE * free:
        return (
            f"{size} would take about {needed / 2**30:.1f} GiB of memory, of which {free / 2**30:.1f} GiB are free: "
            "they stay on disk and are read in blocks."
        )
    if len(matrix) > MANY_CELLS:
        return f"{size} are more than {MANY_CELLS:,} cells: they stay on disk and are read in blocks."
    return ""
