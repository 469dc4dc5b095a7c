"""What a packed store would take in memory, known from its outline before anything of it is read."""

from __future__ import annotations

import os
from pathlib import Path

from diffvae._errors import DataError
from diffvae._io_text import size


def refuse_what_cannot_be_held(path: Path) -> None:
    """Refuse a file or store whose arrays, unpacked, take more than the memory that is free.

    HDF5 and zarr pack zeros by a factor of a thousand, so that the size of a file says nothing.
    """
    needed, free = unpacked(path), free_memory()
    if needed > free:
        blocks = "have it read in blocks where that is offered (--backed)"
        if _by_columns(path):
            blocks = f"write it by rows (adata.X = adata.X.tocsr()) and {blocks}"
        raise DataError(
            f"{str(path)!r} takes {size(needed)} in memory, of which {size(int(free))} are free; take fewer cells, "
            f"store it sparse, or {blocks}."
        )


def unpacked(path: Path) -> int:
    """Return the bytes of all arrays of an HDF5 file or zarr store, unpacked; 0 for what is neither."""
    if path.is_dir():
        import zarr

        try:
            arrays = zarr.open_group(path, mode="r", use_consolidated=False).members(max_depth=None)
        except Exception:
            return 0  # what reads it says what is wrong with it
        return sum(array.nbytes for _, array in arrays if isinstance(array, zarr.Array))
    import h5py

    total = 0

    def add(_: str, node: object) -> None:
        nonlocal total
        if isinstance(node, h5py.Dataset):
            total += int(node.size or 0) * node.dtype.itemsize

    try:
        with h5py.File(path) as file:
            file.visititems(add)
    except (OSError, RuntimeError):  # the same
        return 0
    return total


def _by_columns(path: Path) -> bool:
    """Return whether X is stored by columns, so that cells can't be read in blocks."""
    try:
        if path.is_dir():
            import zarr

            attributes = zarr.open_group(path, mode="r", use_consolidated=False)["X"].attrs
        else:
            import h5py

            with h5py.File(path) as file:
                attributes = dict(file["X"].attrs)
        return attributes.get("encoding-type") == "csc_matrix"
    except Exception:  # there is no X, say
        return False


def free_memory() -> float:
    """Return the bytes that this process can have, by the system and by the limit of its container."""
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
    except (OSError, ValueError):  # no such limit
        return free
    return min(free, float(max(limit, 0)))
