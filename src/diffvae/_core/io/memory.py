"""Memory: whether cells are read into it or stay on disk, and how much is free."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from diffvae._core.io.backed import is_on_disk, open_store
from diffvae._errors import DataError

COPIES = 6
"""Copies of the matrix in a run: the input, all genes log-transformed, the selected ones in three forms, a copy."""
SHARE = 0.5
"""Share of the free memory that the matrix may take; the rest is for other data and programs."""
MANY_CELLS = 200_000
"""Number of cells beyond which maps, clusters and graphs of all cells take hours."""


def stays_on_disk(data: Any, backed: bool | None, *, layer: str | None = None, transpose: bool | None = None) -> str:
    """Return a sentence with the reason why cells are read from disk in blocks; empty if they are read into memory.

    Parameters
    ----------
    data
        Cells in memory, a file, or a list of files; None for the bundled cells.
    backed
        The user's choice; None decides by size.
    layer
        Matrix whose size decides.
    transpose
        As in :func:`diffvae._core.io.read.read`; a matrix that must be transposed can't be read in blocks.
    """
    several = isinstance(data, list | tuple) and len(data) > 1
    if backed is False and several:
        raise ValueError("Several files can only be read from disk; write them into one file to read it into memory.")
    if backed and (data is None or not is_on_disk(data)):
        raise ValueError("The cells are in memory, so they can't be read in blocks; give a file.")
    if data is None or not is_on_disk(data) or backed is False:
        return ""
    if transpose and (backed or several):
        raise ValueError(
            "A matrix with genes in rows can't be read in blocks; write it as .h5ad with cells in rows first."
        )
    if backed or several or getattr(data, "isbacked", False):
        return "The cells stay on disk and are read in blocks, as requested."
    path = Path(os.path.expanduser(data[0] if isinstance(data, list | tuple) else data))
    if transpose or path.suffix not in (".h5ad", ".zarr"):
        return ""
    try:
        matrix = open_store(path).matrix(layer)
    except DataError:
        return ""  # reading the whole file may work, or gives a better message
    # a file is read with all its layers and graphs
    needed, free = max(COPIES * len(matrix) * matrix.bytes_per_row, unpacked(path)), free_memory()
    shape = f"{matrix.shape[0]:,} cells x {matrix.shape[1]:,} genes"
    if needed > SHARE * free:
        return (
            f"{shape} would take about {needed / 2**30:.1f} GiB of memory, of which {free / 2**30:.1f} GiB are free: "
            "they stay on disk and are read in blocks."
        )
    if len(matrix) > MANY_CELLS:
        return f"{shape} are more than {MANY_CELLS:,} cells: they stay on disk and are read in blocks."
    return ""


def refuse_what_cannot_be_held(path: Path) -> None:
    """Refuse an HDF5 file or zarr store whose arrays, unpacked, take more than the free memory.

    Zeros are compressed a thousandfold, so that the size of the file does not show it.
    """
    needed, free = unpacked(path), free_memory()
    if needed > free:
        raise DataError(
            f"{str(path)!r} takes {size(needed)} in memory, of which {size(free)} are free; take fewer cells, store it "
            "sparse and by rows (CSR), or read it in blocks (backed=True) where that is possible."
        )


def unpacked(path: Path) -> int:
    """Return the uncompressed bytes of all arrays of an HDF5 file or zarr store; 0 if it can't be read."""
    try:
        if path.is_dir():
            import zarr

            nodes = zarr.open_group(path, mode="r", use_consolidated=False).members(max_depth=None)
            return sum(node.nbytes for _, node in nodes if isinstance(node, zarr.Array))
        import h5py

        arrays: list[h5py.Dataset] = []
        with h5py.File(path) as file:
            file.visititems(lambda _, node: arrays.append(node) if isinstance(node, h5py.Dataset) else None)
            return sum((array.size or 0) * array.dtype.itemsize for array in arrays)  # size is None if empty
    except (OSError, ValueError, KeyError, RuntimeError):
        return 0  # the reader gives a message


def free_memory() -> float:
    """Return the bytes that this process can allocate, by the system and the limit of its container."""
    free = float("inf")
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = 1024.0 * int(line.split()[1])
    except OSError:  # not Linux
        free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if hasattr(os, "sysconf") else free
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no limit
        return free
    return min(free, float(max(limit, 0)))


def size(n_bytes: float) -> str:
    """Return a number of bytes in a suitable unit.

    Examples
    --------
    >>> [size(n) for n in (12, 2**20, 3 * 2**40)]
    ['12 bytes', '1 MiB', '3,072 GiB']
    """
    power = min(max(int(n_bytes).bit_length() - 1, 0) // 10, 3)
    number = f"{n_bytes / 1024**power:,.1f}".removesuffix(".0")
    return f"{number} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"
