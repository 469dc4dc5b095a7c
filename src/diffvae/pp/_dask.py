"""Rows on disk as scanpy reads them: through Dask, one block after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from diffvae._errors import DataError
from diffvae._rows import Rows


def as_dask(x: Rows) -> Any:
    """Return a Dask array whose blocks are read when they are computed.

    In double precision: Dask's sums have the type of the values, and those of a million cells need it.
    """
    dask, da = _dask()

    def wide(start: int, stop: int) -> Any:
        return x.read(start, stop).astype(np.float64)

    meta, read = wide(0, 1)[:0], dask.delayed(wide, pure=False)
    parts = [da.from_delayed(read(a, b), (b - a, x.shape[1]), meta=meta, dtype=np.float64) for a, b in x.cuts()]
    return da.concatenate(parts)


@contextmanager
def one_block_at_a_time(x: Any) -> Iterator[None]:
    """Compute what is on disk in the calling thread: memory holds one block, and sums are added in one order."""
    if not isinstance(x, Rows):
        yield
        return
    dask, _ = _dask()
    with dask.config.set(scheduler="synchronous"):
        yield


def _dask() -> tuple[Any, Any]:
    try:
        import dask
        import dask.array as da
    except ImportError as error:
        raise DataError(
            "Choosing variable genes of cells on disk needs Dask: pip install 'diffvae[stream]'."
        ) from error
    return dask, da
