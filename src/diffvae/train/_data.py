"""Rows of a matrix as batches on a device, from memory or from disk.

A matrix on disk is shuffled by blocks, and the next blocks are read during the training steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from diffvae._core.io.backed_matrix import BackedMatrix, prefetch

RESIDENT_LIMIT = 2 * 2**30
"""Largest matrix (bytes of dense float32) that is held on the device."""
BLOCK = 256
"""Neighbouring cells that are read at once, enough for the overhead of a read to be small."""
WINDOW_BYTES = 64 * 2**20
"""Memory of a window of cells; there are two, one in use and one being read."""
MIN_BLOCKS = 32
"""Least number of blocks in a window, so that a batch mixes cells from many parts of the file."""
MIN_BLOCK = 32
"""Least number of cells in a block; if a window is too small for its blocks, the blocks get smaller first."""


class Source(ABC):
    """Rows of a matrix as batches, held in memory or on disk by the subclasses.

    Attributes
    ----------
    device
        Device of the batches.
    shape
        Cells x genes.

    Examples
    --------
    >>> source = RowSource(np.eye(4), "cpu")
    >>> isinstance(source, Source), [len(rows) for rows in source.in_order(np.arange(4), 2)]
    (True, [2, 2])
    """

    device: torch.device
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def rows(self, index: np.ndarray) -> Tensor:
        """Return the given rows, dense, on the device."""

    def shuffled(self, rows: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the row numbers of an epoch's batches: each row once, in random order."""
        yield from even_batches(rng.permutation(rows), batch_size)

    def in_order(self, rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Yield batches of rows in their order."""
        yield from even_batches(rows, batch_size)

    def blocks(self, batch_size: int = 4096) -> list[np.ndarray]:
        """Return row numbers in order, divided into blocks."""
        return [np.arange(i, min(i + batch_size, len(self))) for i in range(0, len(self), batch_size)]


class RowSource(Source):
    """Rows of a cells x genes matrix, dense or sparse, as float32 tensors.

    Up to ``resident_limit`` bytes the matrix is made dense once and stays on the device. Of a larger sparse matrix only
    the rows of a batch are made dense.

    Parameters
    ----------
    matrix
        numpy array or scipy sparse matrix, cells x genes.
    device
        Device of the batches.
    resident_limit
        Largest matrix (bytes of dense float32) that is held on the device.

    Examples
    --------
    >>> RowSource(np.eye(3), "cpu").rows(np.array([2, 0])).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    def __init__(
        self, matrix: Any, device: str | torch.device = "cpu", *, resident_limit: int = RESIDENT_LIMIT
    ) -> None:
        self.device = torch.device(device)
        self.shape = matrix.shape
        self._sparse: sparse.csr_matrix | None = None
        if sparse.issparse(matrix) and 4 * self.shape[0] * self.shape[1] > resident_limit:
            self._sparse = matrix.tocsr()
        else:
            dense = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
            # torch warns of read-only arrays
            self._dense = torch.from_numpy(np.require(dense, np.float32, ["C", "W"])).to(self.device)

    def rows(self, index: np.ndarray) -> Tensor:
        """Return the given rows, dense, on the device."""
        if self._sparse is not None:
            return torch.from_numpy(self._sparse[index].toarray().astype(np.float32, copy=False)).to(self.device)
        return self._dense.index_select(0, torch.from_numpy(index).to(self.device, non_blocking=True))


def even_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Divide rows into the fewest batches of at most ``batch_size`` rows, with sizes that differ by at most one.

    The cells of a short last batch would have larger weights, and a single cell has neither a batch norm nor an
    unbiased MMD; so an odd number of cells with ``batch_size=2`` gives one batch of three.

    Examples
    --------
    >>> [len(b) for b in even_batches(np.arange(257), 128)]
    [86, 86, 85]
    """
    fewest = -(-len(order) // batch_size)
    return np.array_split(order, max(1, min(fewest, len(order) // 2)))


class StreamSource(Source):
    """Rows of a matrix on disk as float32 tensors, with the interface of :class:`diffvae.train.RowSource`.

    An epoch takes the blocks of the file in random order and shuffles the cells of a window of many blocks, while a
    thread reads the next window. If all cells fit into one window, it is read once and the batches are those of
    :class:`RowSource`. Only the rows of a batch are made dense.

    Parameters
    ----------
    matrix
        Cells x genes on disk.
    device
        Device of the batches.
    block
        Cells that are read at once; fewer (32 at least) if 32 blocks of them don't fit into a window.
    window_bytes
        Memory of a window. It has at least 1,024 cells (32 blocks of 32), which take 117 MiB with 30,000 dense genes.

    Examples
    --------
    >>> import tempfile, diffvae as dv
    >>> file = f"{tempfile.mkdtemp()}/cells.h5ad"
    >>> _ = dv.pp.prepare(dv.datasets.pbmc68k_reduced(), copy=True).write_h5ad(file)
    >>> from diffvae._core.io.backed import open_store
    >>> StreamSource(open_store(file).matrix("unit")).shape
    (700, 765)
    """

    def __init__(
        self,
        matrix: BackedMatrix,
        device: str | torch.device = "cpu",
        *,
        block: int = BLOCK,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self.device = torch.device(device)
        self.shape = matrix.shape
        window = int(window_bytes / matrix.bytes_per_row)
        self.block = min(block, max(MIN_BLOCK, window // MIN_BLOCKS))
        self.window = max(MIN_BLOCKS * self.block, window)
        self._matrix = matrix
        self._fits = len(self) <= self.window
        self._window: _Window | None = None

    def rows(self, index: np.ndarray) -> Tensor:
        """Return the given rows, dense, on the device; rows outside the window are read from disk."""
        if self._window is None and self._fits:
            self._window = self._read(np.arange(len(self)))
        window = self._window
        if window is None or not window.has(index):
            window = self._read(np.unique(index))
        return torch.from_numpy(window.rows(index)).to(self.device)

    def shuffled(self, rows: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the batches of an epoch, each row once."""
        if self._fits:
            return super().shuffled(rows, batch_size, rng)
        order = np.sort(rows)
        blocks = np.split(order, np.flatnonzero(np.diff(order // self.block)) + 1)
        order = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
        # a block is read whole, even if only some of its rows are needed
        per_window = max(1, int(self.window * len(rows) / (len(blocks) * self.block)) // batch_size)
        batches = even_batches(order, batch_size)
        windows = []
        for first in range(0, len(batches), per_window):
            window = batches[first : first + per_window]
            mixed = rng.permutation(np.concatenate(window))
            windows.append(np.split(mixed, np.cumsum([len(batch) for batch in window])[:-1]))
        return self._through(windows)

    def in_order(self, rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Yield batches of rows in their order."""
        if self._fits:
            return super().in_order(rows, batch_size)
        windows: dict[int, list[np.ndarray]] = {}
        for batch in even_batches(rows, batch_size):
            windows.setdefault(int(batch[0]) // self.window, []).append(batch)
        return self._through(list(windows.values()))

    def _through(self, windows: list[list[np.ndarray]]) -> Iterator[np.ndarray]:
        """Yield the batches of each window while its cells are in memory."""
        reads = (lambda batches=batches: self._read(np.unique(np.concatenate(batches))) for batches in windows)
        try:
            for batches, window in zip(windows, prefetch(reads), strict=True):
                self._window = window
                yield from batches
        finally:
            self._window = None

    def _read(self, rows: np.ndarray) -> _Window:
        """Read rows (ascending) in slices, including the rows between two that are close."""
        last = np.flatnonzero(np.diff(rows) > self.block)
        starts, stops = rows[np.r_[0, last + 1]], rows[np.r_[last, len(rows) - 1]] + 1
        spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
        return _Window(np.concatenate([np.arange(*span) for span in spans]), self._matrix.read_slices(spans))


class _Window:
    """Rows in memory, looked up by their numbers in the file."""

    def __init__(self, numbers: np.ndarray, values: Any) -> None:
        self.numbers, self.values = numbers, values

    def has(self, rows: np.ndarray) -> bool:
        """Return whether all the given rows are in memory."""
        at = np.searchsorted(self.numbers, rows)
        return bool(at.max(initial=0) < len(self.numbers) and (self.numbers[at] == rows).all())

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Return the given rows, dense."""
        picked = self.values[np.searchsorted(self.numbers, index)]
        dense = picked.toarray() if sparse.issparse(picked) else picked
        return np.require(dense, np.float32, ["C", "W"])
