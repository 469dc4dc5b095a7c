"""Matrices of cells x genes, sparse or dense, in memory or on disk, read in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from diffvae._core.io.backed import BackedAnnData
from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae._errors import DataError, quoted

BLOCK = 2**20
"""Values in one block: 8 MB in float64."""


def source(layer: str | None) -> str:
    """Return the name of the matrix in a message."""
    return "adata.X" if layer is None else f"adata.layers[{layer!r}]"


def matrix_of(adata: AnnData | BackedAnnData, layer: str | None) -> Any:
    """Return ``adata.X`` or a layer without a copy: a numeric array, CSR or CSC matrix, or a BackedMatrix."""
    if isinstance(adata, BackedAnnData):
        return adata.matrix(layer)
    if not isinstance(adata, AnnData):
        raise DataError(f"adata is of type {type(adata).__name__}; give an AnnData object.")
    if adata.isbacked:
        raise DataError("adata is backed by a file; read it into memory with adata.to_memory() first.")
    layers = f"it has the layers {quoted(adata.layers)}" if len(adata.layers) else "it has no layers"
    if layer is not None and layer not in adata.layers:
        raise DataError(f"adata.layers[{layer!r}] is missing; {layers}.")
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        raise DataError(f"adata.X is missing; {layers}{': choose one with layer=...' if len(adata.layers) else '.'}")
    if not sp.issparse(x):
        if not isinstance(x, np.ndarray):
            raise DataError(
                f"{source(layer)} is of type {type(x).__name__}; "
                "read it into memory as a numpy array or a scipy.sparse matrix first."
            )
        if np.ma.is_masked(x):
            raise DataError(
                f"{source(layer)} is a masked array with {np.ma.count_masked(x):,} values masked; "
                "fill them, e.g. with x.filled(0) if masked means not detected."
            )
        x = np.asarray(x)
    elif x.format not in ("csr", "csc"):
        x = x.tocsr()
    if x.dtype.kind not in "buif":
        raise DataError(
            f"{source(layer)} holds values of type {x.dtype}, not numbers; "
            "convert them, e.g. with adata.X = adata.X.astype('float32')."
        )
    return x


def is_sparse(x: Any) -> bool:
    """Return whether a matrix, in memory or on disk, is sparse."""
    return x.sparse if isinstance(x, BackedMatrix) else sp.issparse(x)


def n_stored(x: Any) -> int:
    """Return the number of stored values."""
    if isinstance(x, BackedMatrix):
        return x.n_values
    return x.nnz if sp.issparse(x) else x.size


def blocks(x: Any) -> Iterator[tuple[slice, slice, Any]]:
    """Yield (rows, columns, float64 copy of that block), along the axis that is cheap to slice."""
    if isinstance(x, BackedMatrix):
        for rows, block in x.blocks(BLOCK):
            block = block.astype(np.float64)
            if sp.issparse(block):
                block.sum_duplicates()
            yield rows, slice(0, x.shape[1]), block
        return
    by_columns = x.format == "csc" if sp.issparse(x) else x.flags.f_contiguous and not x.flags.c_contiguous
    axis = 1 if by_columns else 0
    step = max(1, BLOCK * x.shape[axis] // max(n_stored(x), 1))
    everything = slice(0, x.shape[1 - axis])
    for start in range(0, x.shape[axis], step):
        part = slice(start, min(start + step, x.shape[axis]))
        block = (x[:, part] if by_columns else x[part]).astype(np.float64)
        if sp.issparse(block):
            block.sum_duplicates()
        yield (everything, part, block) if by_columns else (part, everything, block)


def values(block: Any) -> np.ndarray:
    """Return the stored values of a block: all values if it is dense, without zeros if it is sparse."""
    return block.data if sp.issparse(block) else block.ravel()


def gene_range(x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each gene, including zeros that are not stored."""
    limits = GeneRange(x.shape[1])
    for _, columns, block in blocks(x):
        limits.update(block, columns)
    return limits.low, limits.high


class GeneRange:
    """The smallest and the largest value of each gene in the blocks so far."""

    def __init__(self, n_genes: int) -> None:
        self.low, self.high = np.full(n_genes, np.inf), np.full(n_genes, -np.inf)

    def update(self, block: Any, columns: slice = slice(None)) -> None:
        """Add a block of one or more cells."""
        low, high = block.min(axis=0), block.max(axis=0)
        if sp.issparse(low):
            low, high = low.toarray().ravel(), high.toarray().ravel()
        np.minimum(self.low[columns], low, out=self.low[columns])
        np.maximum(self.high[columns], high, out=self.high[columns])


def as_float32(x: Any) -> Any:
    """Return a writable float32 copy: CSR without stored zeros, or a C-ordered array."""
    if not sp.issparse(x):
        return np.array(x, dtype=np.float32, order="C")
    # a csr_matrix also from a csr_array, which scanpy 1.11 can't normalise
    x = sp.csr_matrix(x, dtype=np.float32, copy=True)
    x.sum_duplicates()
    x.eliminate_zeros()
    return x
