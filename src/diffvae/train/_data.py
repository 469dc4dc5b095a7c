"""Rows of a matrix as batches on a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

RESIDENT_LIMIT = 2 * 2**30
"""Bytes of dense float32 up to which a matrix is kept whole on the device."""


class Source(ABC):
    """Rows of a matrix as batches; where the rows are is the subclass's affair.

    Attributes
    ----------
    device
        Where batches are.
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
        """Return row numbers in their order, cut into blocks: for passes that don't shuffle."""
        return [np.arange(i, min(i + batch_size, len(self))) for i in range(0, len(self), batch_size)]


class RowSource(Source):
    """Rows of a cells x genes matrix, dense or sparse, as float32 tensors.

    Up to ``resident_limit`` bytes the matrix is made dense once and stays on the device, so that a batch is one
    gather. A larger sparse one stays sparse and only the rows of a batch are made dense.

    Parameters
    ----------
    matrix
        numpy array or scipy sparse matrix, cells x genes.
    device
        Where batches are wanted.
    resident_limit
        Bytes.

    Examples
    --------
    >>> RowSource(np.eye(3), "cpu").rows(np.array([2, 0])).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    def __init__(
        self,
        matrix: Any,
        device: str | torch.device = "cpu",
        *,
        resident_limit: int = RESIDENT_LIMIT,
    ) -> None:
        self.device = torch.device(device)
        self.shape = matrix.shape
        self._sparse: sparse.csr_matrix | None = None
        if sparse.issparse(matrix) and 4 * self.shape[0] * self.shape[1] > resident_limit:
            self._sparse = matrix.tocsr()
        else:
            dense = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
            # torch shares the memory of an array and warns of one that is read-only
            self._dense = torch.from_numpy(np.require(dense, np.float32, ["C", "W"])).to(self.device)

    def rows(self, index: np.ndarray) -> Tensor:
        """Return the given rows, dense, on the device."""
        if self._sparse is not None:
            return torch.from_numpy(self._sparse[index].toarray().astype(np.float32, copy=False)).to(self.device)
        return self._dense.index_select(0, torch.from_numpy(index).to(self.device, non_blocking=True))


def even_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cut rows into the fewest batches of at most ``batch_size`` whose sizes differ by one at most.

    A short last batch would weigh each of its cells more, and one cell alone has neither a batch norm nor an
    unbiased MMD: of an odd number in pairs, the last three stay together.

    Examples
    --------
    >>> [len(b) for b in even_batches(np.arange(257), 128)]
    [86, 86, 85]
    """
    fewest = -(-len(order) // batch_size)
    return np.array_split(order, max(1, min(fewest, len(order) // 2)))
