"""A matrix of cells x genes on disk that is read in slices of rows, and optionally transformed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp

T = TypeVar("T")

BLOCK_VALUES = 2**22
"""Stored values in one block of a pass: 32 MB with their column numbers."""


@dataclass(frozen=True)
class BackedMatrix:
    """Cells x genes on disk; slices of rows are read as a CSR matrix or an array.

    Attributes
    ----------
    shape
        Cells x genes.
    sparse
        Whether slices are CSR matrices.
    n_values
        Approximate number of stored values; it determines how many rows are read at once.
    dtype
        Type of the values.
    reader
        ``reader([(start, stop), ...])`` reads slices of rows, stacked into one matrix.
    pointers
        Number of stored values before each row of a sparse matrix, and in total, so that blocks have similar numbers of
        values. None: all rows count the same.
    """

    shape: tuple[int, int]
    sparse: bool
    n_values: int
    dtype: np.dtype
    reader: Callable[[Sequence[tuple[int, int]]], Any]
    pointers: np.ndarray | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def bytes_per_row(self) -> float:
        """Average memory of a row: values, and column numbers if it is sparse."""
        values = self.n_values / max(self.shape[0], 1) if self.sparse else self.shape[1]
        return max(1.0, values * (self.dtype.itemsize + 4 * self.sparse))

    def read(self, start: int, stop: int) -> Any:
        """Return the rows from start to stop (not included)."""
        return self.read_slices([(start, stop)])

    def read_slices(self, spans: Sequence[tuple[int, int]]) -> Any:
        """Return several slices of rows as one matrix, without rows if there are no slices."""
        return self.reader([(start, min(stop, self.shape[0])) for start, stop in spans] or [(0, 0)])

    def sample(self, n_rows: int, rng: np.random.Generator, run: int = 256) -> tuple[np.ndarray, Any]:
        """Return about ``n_rows`` rows, in runs from random positions, or all rows if there are no more.

        The first result is their numbers.
        """
        starts = np.arange(0, self.shape[0], run)
        if self.shape[0] > n_rows:
            starts = np.sort(rng.permutation(starts)[: max(1, n_rows // run)])
        rows = (starts[:, None] + np.arange(run)).ravel()
        return rows[rows < self.shape[0]], self.read_slices([(start, start + run) for start in starts.tolist()])

    def map(self, change: Callable[[Any], Any], n_genes: int | None = None) -> BackedMatrix:
        """Return a matrix whose slices are transformed when they are read; a sparse one must stay sparse."""
        shape = (self.shape[0], self.shape[1] if n_genes is None else n_genes)
        n_values = self.n_values * shape[1] // max(self.shape[1], 1)

        def reader(spans: Sequence[tuple[int, int]]) -> Any:
            return change(self.reader(spans))

        return replace(self, shape=shape, n_values=n_values, dtype=np.dtype(np.float32), reader=reader)

    def cuts(self, values: int = BLOCK_VALUES) -> list[tuple[int, int]]:
        """Return (start, stop) of the blocks of a pass over all rows, with about ``values`` stored values each."""
        if self.pointers is not None and self.n_values:
            # pointers refer to the file, of which this may be a selection of genes
            return _cuts(self.pointers, max(1, values * int(self.pointers[-1]) // self.n_values))
        step = max(1, values * self.shape[0] // max(self.n_values if self.sparse else self.shape[0] * self.shape[1], 1))
        return [(start, min(start + step, self.shape[0])) for start in range(0, self.shape[0], step)]

    def blocks(self, values: int = BLOCK_VALUES) -> Iterator[tuple[slice, Any]]:
        """Yield (rows, block) over all rows, in order; the next block is read in a thread."""
        cuts = self.cuts(values)
        read_ahead = prefetch([partial(self.read, *cut) for cut in cuts])
        for (start, stop), block in zip(cuts, read_ahead, strict=True):
            yield slice(start, stop), block

    def at(self, rows: np.ndarray) -> Any:
        """Return scattered rows (ascending) in memory, from one pass over all blocks."""
        parts = [self.read(0, 0)]
        for part, block in self.blocks():
            first, last = np.searchsorted(rows, [part.start, part.stop])
            if first < last:
                parts.append(block[rows[first:last] - part.start])
        return joined(parts)

    @cached_property
    def survey(self) -> Survey:
        """Range, finiteness and digests of all values, from one pass."""
        return _survey(self)


def _cuts(pointers: np.ndarray, values: int) -> list[tuple[int, int]]:
    """Return slices of rows with at most ``values`` values, or of a single row."""
    cuts, start, n_rows = [], 0, len(pointers) - 1
    while start < n_rows:
        within = int(np.searchsorted(pointers, pointers[start] + values, side="right")) - 1
        stop = max(within, start + 1)
        cuts.append((start, stop))
        start = stop
    return cuts


@dataclass(frozen=True)
class Survey:
    """Range of the values, whether all are finite, and digests that identify the matrix."""

    finite: bool
    smallest: float
    largest: float
    digests: tuple[str, ...]


def _survey(rows: BackedMatrix) -> Survey:
    import hashlib

    finite, smallest, largest = True, np.inf, -np.inf
    digests = [hashlib.sha256() for _ in range(3 if rows.sparse else 1)]
    for _, block in rows.blocks():
        values = block.data if rows.sparse else block
        finite = finite and bool(np.isfinite(values).all())
        if values.size:
            smallest, largest = min(smallest, float(values.min())), max(largest, float(values.max()))
        for digest, part in zip(digests, _digested(block), strict=True):
            digest.update(part)
    if rows.sparse or not np.isfinite(smallest):  # zeros that are not stored
        smallest, largest = min(smallest, 0.0), max(largest, 0.0)
    return Survey(finite, smallest, largest, tuple(d.hexdigest() for d in digests))


def _digested(matrix: Any) -> tuple[memoryview, ...]:
    """Return the bytes that identify a matrix; those of consecutive blocks are those of the whole matrix."""
    if not sp.issparse(matrix):
        return (np.ascontiguousarray(matrix).data,)
    lengths, indices = np.diff(matrix.indptr).astype(np.int64), matrix.indices.astype(np.int32, copy=False)
    return lengths.data, np.ascontiguousarray(indices).data, np.ascontiguousarray(matrix.data).data


def select_genes(rows: BackedMatrix, at: np.ndarray) -> BackedMatrix:
    """Return the genes at some positions."""

    def change(block: Any) -> Any:
        chosen = block[:, at]
        if sp.issparse(chosen):
            chosen.sort_indices()
        return chosen

    return replace(rows.map(change, len(at)), dtype=rows.dtype)


def stack(parts: Sequence[BackedMatrix]) -> BackedMatrix:
    """Return matrices with the same genes stacked by rows, in the type that holds the values of all."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([len(part) for part in parts])
    starts = ends - [len(part) for part in parts]

    def read(spans: Sequence[tuple[int, int]]) -> Any:
        pieces = []
        for i, inside in _by_part(spans, starts.tolist(), ends.tolist()) or [(0, [(0, 0)])]:
            # a file takes the type of its first block, so each block must have the type of the whole
            piece = parts[i].read_slices(inside).astype(dtype, copy=False)
            pieces.append(sp.csr_matrix(piece) if sparse and not parts[i].sparse else piece)
        return joined(pieces)

    sparse = any(part.sparse for part in parts)
    dtype = np.result_type(*(part.dtype for part in parts))
    shape = (int(ends[-1]), parts[0].shape[1])
    return BackedMatrix(
        shape, sparse, sum(part.n_values for part in parts), dtype, read, _pointers(parts) if sparse else None
    )


def _pointers(parts: Sequence[BackedMatrix]) -> np.ndarray:
    """Return the approximate number of stored values before each row of stacked matrices."""
    lengths = []
    for part in parts:
        if part.pointers is None:  # all rows count the same
            lengths.append(np.full(len(part), part.n_values // max(len(part), 1)))
        else:  # scaled to the selected genes
            lengths.append(np.diff(part.pointers) * part.n_values // max(int(part.pointers[-1]), 1))
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))])


def _by_part(
    spans: Sequence[tuple[int, int]], starts: list[int], ends: list[int]
) -> list[tuple[int, list[tuple[int, int]]]]:
    """Return the parts and their slices that make up slices of the whole; consecutive slices of a part are grouped."""
    slices: list[tuple[int, tuple[int, int]]] = [
        (i, (max(start, first) - first, min(stop, last) - first))
        for start, stop in spans
        for i, (first, last) in enumerate(zip(starts, ends, strict=True))
        if max(start, first) < min(stop, last)
    ]
    return [(i, [run for _, run in group]) for i, group in groupby(slices, key=lambda run: run[0])]


def joined(pieces: Sequence[Any]) -> Any:
    """Return matrices in memory with the same genes, stacked by rows."""
    if len(pieces) == 1:
        return pieces[0]
    return sp.vstack(pieces, format="csr") if sp.issparse(pieces[0]) else np.concatenate(pieces)


def prefetch(tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield the results of tasks in order; a thread computes the next result while the last one is used.

    Two results are in memory at any time.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="reading ahead") as reader:
        pending = None
        for task in tasks:
            following = reader.submit(task)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
