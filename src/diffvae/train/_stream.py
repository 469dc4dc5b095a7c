"""Rows of a matrix that doesn't fit into memory as batches: shuffled by blocks, read while the step computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from diffvae._rows import Rows, ahead
from diffvae.train._data import Source, even_batches

BLOCK = 256
"""Cells that lie next to each other and are read at once; a run of so many costs little more than its bytes."""
WINDOW_BYTES = 64 * 2**20
"""Memory of one window of cells; there are two, the one in use and the one that is being read."""
MIN_BLOCKS = 32
"""Blocks in a window at least, however large its cells: a batch mixes cells of so many places of the file."""
MIN_BLOCK = 32
"""Cells in a block at least: where windows are too small for their blocks, these get smaller first."""


class StreamSource(Source):
    """Rows of a matrix on disk as float32 tensors, with the interface of :class:`diffvae.train.RowSource`.

    An epoch takes the blocks of the file in random order, reads a window of many of them and shuffles the cells of the
    window; the next window is read in a thread meanwhile. If all cells fit into one window, it is read once and the
    batches are those of :class:`RowSource`. Rows of a batch alone are made dense.

    Parameters
    ----------
    matrix
        Cells x genes, of which runs of rows are read.
    device
        Where batches are wanted.
    block
        Cells that are read at once; fewer, down to 32, where 32 blocks of them don't fit into a window.
    window_bytes
        Memory of a window, unless 1,024 cells (32 blocks of 32) take more: 117 MiB where each has 30,000 values that
        are stored whether they are zero or not.

    Examples
    --------
    >>> import tempfile, diffvae as dv
    >>> file = f"{tempfile.mkdtemp()}/cells.h5ad"
    >>> _ = dv.pp.prepare(dv.datasets.pbmc68k_reduced(), copy=True).write_h5ad(file)
    >>> from diffvae._store import open_store
    >>> StreamSource(open_store(file).matrix("unit")).shape
    (700, 765)
    """

    def __init__(
        self,
        matrix: Rows,
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
        self._held: _Window | None = None

    def rows(self, index: np.ndarray) -> Tensor:
        """Return the given rows, dense, on the device: from the window in memory, or read for themselves."""
        if self._held is None and self._fits:
            self._held = self._read(np.arange(len(self)))
        held = self._held
        if held is None or not held.has(index):
            held = self._read(np.unique(index))
        return torch.from_numpy(held.rows(index)).to(self.device)

    def shuffled(self, rows: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the batches of an epoch, each row once."""
        if self._fits:
            return super().shuffled(rows, batch_size, rng)
        order = np.sort(rows)
        blocks = np.split(order, np.flatnonzero(np.diff(order // self.block)) + 1)
        order = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
        # of a block only some rows may be asked for, but all of it is read
        per_window = max(1, int(self.window * len(rows) / (len(blocks) * self.block)) // batch_size)
        batches = even_batches(order, batch_size)
        windows = []
        for first in range(0, len(batches), per_window):
            part = batches[first : first + per_window]
            mixed = rng.permutation(np.concatenate(part))
            windows.append(np.split(mixed, np.cumsum([len(batch) for batch in part])[:-1]))
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
            for batches, held in zip(windows, ahead(reads), strict=True):
                self._held = held
                yield from batches
        finally:
            self._held = None

    def _read(self, rows: np.ndarray) -> _Window:
        """Read rows (ascending) in runs; what lies between two that are near is read along."""
        last = np.flatnonzero(np.diff(rows) > self.block)
        starts, stops = rows[np.r_[0, last + 1]], rows[np.r_[last, len(rows) - 1]] + 1
        spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
        return _Window(np.concatenate([np.arange(*span) for span in spans]), self._matrix.spans(spans))


class _Window:
    """Rows in memory, by their numbers in the file."""

    def __init__(self, numbers: np.ndarray, values: Any) -> None:
        self.numbers, self.values = numbers, values

    def has(self, rows: np.ndarray) -> bool:
        """Return whether all of some rows are here."""
        at = np.searchsorted(self.numbers, rows)
        return bool(at.max(initial=0) < len(self.numbers) and (self.numbers[at] == rows).all())

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Return rows, dense."""
        picked = self.values[np.searchsorted(self.numbers, index)]
        dense = picked.toarray() if sparse.issparse(picked) else picked
        return np.require(dense, np.float32, ["C", "W"])
