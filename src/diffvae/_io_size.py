"""What a packed store would take in memory, known from its outline before anything of it is read."""

from __future__ import annotations

from pathlib import Path

from diffvae._errors import DataError
from diffvae._io_text import size
from diffvae._size import free_memory


def refuse_what_cannot_be_held(path: Path) -> None:
    """Refuse a file or store whose arrays, unpacked, take more than the memory that is free.

    HDF5 and zarr pack zeros by a factor of a thousand, so that the size of a file says nothing.
    """
    needed, free = unpacked(path), free_memory()
    if needed > free:
        raise DataError(
            f"{str(path)!r} takes {size(needed)} in memory, of which {size(int(free))} are free; take fewer cells, "
            "store it sparse, or have it read in blocks where that is offered (--backed)."
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
