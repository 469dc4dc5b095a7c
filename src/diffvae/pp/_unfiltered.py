"""Barcodes without a cell: how they are noticed, and left out."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from anndata import AnnData

from diffvae._core.io.matrix import blocks, matrix_of
from diffvae._core.words import either
from diffvae._errors import DataError

UNFILTERED = "Looks unfiltered"
"""How the message begins."""
MIN_EMPTY = 0.5
"""Share of the barcodes that are nearly empty."""
DEPTH = 50
"""Ratio of the totals of cells to those of nearly empty barcodes."""
LARGEST_EMPTY = 100
"""Median of the totals of empty droplets, at most; one of 10x holds 1 to 50 molecules."""
BIN = 0.2
"""Width of the bins of the totals, in decades."""
N_TOP = 20
"""Number of barcodes, at least, that hold cells."""


def n_expressed(x: Any) -> np.ndarray:
    """Return the number of expressed genes of each cell."""
    out = np.zeros(x.shape[0], dtype=np.int64)
    for rows, _, block in blocks(x):
        out[rows] += np.asarray((block != 0).sum(axis=1)).ravel()
    return out


def looks_unfiltered(x: Any, totals: np.ndarray) -> str:
    """Return a sentence if most barcodes of a matrix of counts hold no cell, "" otherwise.

    Of a matrix of all barcodes, most have a total below a fiftieth of that of cells, and the histogram of the logs of
    totals has a valley between the two: the knee of the curve of totals by rank. Totals of cells alone have one mode,
    however shallow they are.
    """
    if len(totals) < 5 * N_TOP:
        return ""
    ranked = np.sort(totals)[::-1]
    cells = ranked[max(N_TOP // 2, len(totals) // 500)]
    near = totals < cells / DEPTH
    if near.mean() <= MIN_EMPTY or np.median(totals[near]) > LARGEST_EMPTY or (totals >= cells / 4).sum() < N_TOP:
        return ""
    low = max(float(np.median(totals[near])), 1.0)
    edges = np.arange(np.log10(low), np.log10(ranked[0]) + BIN, BIN)
    counts = np.convolve(np.histogram(np.log10(np.maximum(totals, 1)), edges)[0], np.ones(3), "same")
    above = np.maximum.accumulate(counts[::-1])[::-1]
    valleys = np.flatnonzero((counts < above / 2) & (above >= N_TOP))
    if not len(valleys):
        return ""
    genes = n_expressed(x)
    is_cell = totals >= 10 ** edges[valleys[np.argmin(counts[valleys])] + 1]
    between = min(np.quantile(genes[~is_cell], 0.995) + 1, np.quantile(genes[is_cell], 0.02))
    step = 10 ** max(int(np.log10(between)) - 1, 0)
    least = max(int(between // step * step), 1)
    way_out = either(f"diffvae.pipeline.run(..., min_genes={least})", f"min_genes={least}")
    return (
        f"{UNFILTERED}: {near.mean():.0%} of the {len(totals):,} barcodes are nearly empty (half of these have "
        f"{np.median(totals[near]):,.0f} counts or fewer, the cells about {np.median(totals[is_cell]):,.0f}), so they "
        f"hold no cell. Leave them out with {way_out}, or give the filtered matrix."
    )


def with_genes(adata: AnnData, min_genes: int | None, layer: str | None = None) -> AnnData:
    """Return the cells that express at least ``min_genes`` genes, and warn of the number of the others.

    Examples
    --------
    >>> adata = AnnData(np.array([[1.0, 2.0], [0.0, 3.0]], dtype="float32"))
    >>> with_genes(adata, 1).n_obs
    2
    """
    if min_genes is None:
        return adata
    keep = n_expressed(matrix_of(adata, layer)) >= min_genes
    if not keep.any():
        raise DataError(f"min_genes is {min_genes}, but no cell expresses so many genes; give a smaller number.")
    if keep.all():
        return adata
    warnings.warn(
        f"{(~keep).sum():,} of {len(keep):,} cells express fewer than {min_genes:,} genes and were left out.",
        UserWarning,
        stacklevel=2,
    )
    return adata[keep].copy()
