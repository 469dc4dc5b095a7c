"""Which genes vary, from their moments alone: scanpy's flavour "seurat" for cells that stay on disk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from diffvae._rows import Rows

N_BINS = 20
"""Bins of genes by their mean expression, within which their dispersions are compared; scanpy's own number."""


def ranking(x: Rows, genes: np.ndarray, codes: np.ndarray, n_top_genes: int) -> pd.DataFrame:
    """Return what ``scanpy.pp.highly_variable_genes`` returns of some genes, in one pass however many batches.

    Scanpy takes a matrix of one batch after the other, each in passes of its own.

    Parameters
    ----------
    x
        Log-normalised expression, cells x genes.
    genes
        Numbers of the genes that are ranked.
    codes
        Batch of each cell, from 0; negative for cells that have no say.
    n_top_genes
        How many a batch chooses.
    """
    sums, squares = (total[:, genes] for total in _totals(x, codes))
    sizes = np.bincount(codes[codes >= 0])
    means = sums / sizes[:, None]
    variances = (squares / sizes[:, None] - means**2) * (sizes / (sizes - 1))[:, None]
    if len(sizes) == 1:
        return _of_batch(means[0], variances[0], n_top_genes)
    columns = ["dispersions", "dispersions_norm", "highly_variable"]
    found = []
    for mean, variance in zip(means, variances, strict=True):
        expressed = np.flatnonzero(mean > 0)
        table = pd.DataFrame(0.0, index=range(len(genes)), columns=columns)
        table.loc[expressed] = _of_batch(mean[expressed], variance[expressed], n_top_genes)[columns].to_numpy(float)
        found.append(table)
    every = pd.concat(found).groupby(level=0)
    together = every[["dispersions", "dispersions_norm"]].mean()
    together["highly_variable_nbatches"] = every["highly_variable"].sum()
    return together


def _totals(x: Rows, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and sums of squares of exp(x) - 1, batches x genes: 16 bytes for each gene of each batch."""
    sums, squares = np.zeros((2, codes.max() + 1, x.shape[1]))
    for rows, block in x.blocks():
        present, at = np.unique(codes[rows], return_inverse=True)
        members = sp.csr_matrix((np.ones(len(at)), (at, np.arange(len(at)))))  # batches of the block x its cells
        own = present >= 0
        # squared in single precision and summed in double, as scanpy does
        expression = np.expm1(block)
        square = expression.multiply(expression) if sp.issparse(block) else np.square(expression)
        for total, values in ((sums, expression), (squares, square)):
            of_batches: Any = members @ values
            total[present[own]] += (of_batches.toarray() if sp.issparse(of_batches) else of_batches)[own]
    return sums, squares


def _of_batch(mean: np.ndarray, variance: np.ndarray, n_top_genes: int) -> pd.DataFrame:
    """Return the dispersions of one batch's genes, among genes of like mean, and which are its choice."""
    mean = np.where(mean == 0, 1e-12, mean)
    dispersion = variance / mean
    dispersion[dispersion == 0] = np.nan
    table = pd.DataFrame({"means": np.log1p(mean), "dispersions": np.log(dispersion)})
    bins = pd.cut(table["means"], bins=N_BINS)
    like = table["dispersions"].groupby(bins, observed=True)
    average, spread = like.transform("mean"), like.transform("std")
    alone = spread.isna()  # a gene without others in its bin gets 1
    table["dispersions_norm"] = (table["dispersions"] - average.where(~alone, 0)) / spread.where(~alone, average)
    known = np.sort(table["dispersions_norm"].dropna())
    table["highly_variable"] = table["dispersions_norm"] >= known[-min(n_top_genes, len(known))]
    return table
