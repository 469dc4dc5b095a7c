"""Log-normalisation and choice of variable genes, in memory by scanpy, on disk by the same formulas."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from diffvae._core.io.backed import BackedAnnData
from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae._core.io.matrix import as_float32, blocks, quoted
from diffvae._errors import DataError
from diffvae.pp._check import MIN_CELLS, Kind

N_BINS = 20
"""Bins of mean expression within which dispersions are standardised, as in scanpy."""


def ranking(x: BackedMatrix, genes: np.ndarray, codes: np.ndarray, n_top_genes: int) -> pd.DataFrame:
    """Return the table of ``scanpy.pp.highly_variable_genes`` (flavour "seurat") from one pass over cells on disk.

    Parameters
    ----------
    x
        Log-normalised expression, cells x genes.
    genes
        Numbers of the genes to rank.
    codes
        Batch of each cell, from 0; negative for cells that are left out.
    n_top_genes
        Number of genes that each batch chooses.
    """
    sums, squares = (total[:, genes] for total in _totals(x, codes))
    sizes = np.bincount(codes[codes >= 0])
    means = sums / sizes[:, None]
    variances = (squares / sizes[:, None] - means**2) * (sizes / (sizes - 1))[:, None]
    if len(sizes) == 1:
        return _of_batch(means[0], variances[0], n_top_genes)
    columns = ["dispersions", "dispersions_norm", "highly_variable"]
    tables = []
    for mean, variance in zip(means, variances, strict=True):
        expressed = np.flatnonzero(mean > 0)
        table = pd.DataFrame(0.0, index=range(len(genes)), columns=columns)
        table.loc[expressed] = _of_batch(mean[expressed], variance[expressed], n_top_genes)[columns].to_numpy(float)
        tables.append(table)
    by_gene = pd.concat(tables).groupby(level=0)
    combined = by_gene[["dispersions", "dispersions_norm"]].mean()
    combined["highly_variable_nbatches"] = by_gene["highly_variable"].sum()
    return combined


def _totals(x: BackedMatrix, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and sums of squares of exp(x) - 1, batches x genes: 16 bytes for each gene of each batch."""
    sums, squares = np.zeros((2, codes.max() + 1, x.shape[1]))
    for rows, block in x.blocks():
        present, at = np.unique(codes[rows], return_inverse=True)
        members = sp.csr_matrix((np.ones(len(at)), (at, np.arange(len(at)))))  # batches of the block x its cells
        ranked = present >= 0
        # squared in single precision and summed in double, as scanpy does
        expression = np.expm1(block)
        square = expression.multiply(expression) if sp.issparse(block) else np.square(expression)
        for total, values in ((sums, expression), (squares, square)):
            sums_of_block: Any = members @ values
            dense = sums_of_block.toarray() if sp.issparse(sums_of_block) else sums_of_block
            total[present[ranked]] += dense[ranked]
    return sums, squares


def _of_batch(mean: np.ndarray, variance: np.ndarray, n_top_genes: int) -> pd.DataFrame:
    """Return dispersions of the genes of one batch, standardised among genes of similar mean, and the top genes."""
    mean = np.where(mean == 0, 1e-12, mean)
    dispersion = variance / mean
    dispersion[dispersion == 0] = np.nan
    table = pd.DataFrame({"means": np.log1p(mean), "dispersions": np.log(dispersion)})
    bins = pd.cut(table["means"], bins=N_BINS)
    binned = table["dispersions"].groupby(bins, observed=True)
    average, spread = binned.transform("mean"), binned.transform("std")
    alone = spread.isna()  # the only gene of a bin gets 1
    table["dispersions_norm"] = (table["dispersions"] - average.where(~alone, 0)) / spread.where(~alone, average)
    known = np.sort(table["dispersions_norm"].dropna())
    table["highly_variable"] = table["dispersions_norm"] >= known[-min(n_top_genes, len(known))]
    return table


def log_normalise(x: Any, kind: Kind, target_sum: float) -> Any:
    """Return log(1 + target_sum x / total of the cell) as a float32 copy; logs are only copied.

    Cells without expression keep their zeros.
    """
    x = as_float32(x)
    if kind == "log":
        return x
    import scanpy as sc

    adata = AnnData(X=x)
    with warnings.catch_warnings():
        # scanpy warns of cells without counts; so does the report
        warnings.simplefilter("ignore", UserWarning)
        sc.pp.normalize_total(adata, target_sum=target_sum)
        sc.pp.log1p(adata)
    return adata.X


def variable_genes(
    x: Any, constant: np.ndarray, *, n_top_genes: int | None, batch: pd.Series | None
) -> tuple[np.ndarray, list[str]]:
    """Return which genes to keep (a mask), and warnings about the choice.

    Parameters
    ----------
    x
        Log-normalised expression, cells x genes, in memory or on disk.
    constant
        Which genes don't vary; they are never kept.
    n_top_genes
        Number of genes; None for all that vary.
    batch
        Batch of each cell: genes are ranked within batches of 10 cells or more and the ranks combined (scanpy).
    """
    candidates = np.flatnonzero(~constant)
    if n_top_genes is None or n_top_genes >= candidates.size:
        return ~constant, []
    cells, labels, remarks = _voting(batch, x.shape[0])
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # scanpy divides by 0 for genes that don't vary within a batch, which rank last
            warnings.simplefilter("ignore")
            if isinstance(x, BackedMatrix):
                codes = pd.factorize(pd.Series(labels).where(cells), sort=True)[0]  # -1: no say
                table = ranking(x, candidates, codes, n_top_genes)
            else:
                table = _by_scanpy(x[cells][:, candidates], labels[cells], n_top_genes)
    except (IndexError, ValueError):
        # scanpy bins genes by mean expression, which fails for tiny or degenerate data
        remarks.append("Variable genes were chosen by their variance, because their means can't be binned.")
        table = pd.DataFrame({"dispersions": _variance(x, cells)[candidates]})
    # The order of scanpy, with ties broken so that exactly n_top_genes are kept. Values are rounded because the last
    # digits depend on the order of summation: two genes alone in a bin always have 0.7071 and -0.7071.
    if "dispersions_norm" in table:
        table["dispersions_norm"] = table["dispersions_norm"].round(5)
    keys = ["highly_variable_nbatches", "dispersions_norm", "dispersions"]
    order = table.reset_index(drop=True).sort_values(
        [key for key in keys if key in table], ascending=False, na_position="last", kind="stable"
    )
    keep = np.zeros(x.shape[1], dtype=bool)
    keep[candidates[order.index[:n_top_genes]]] = True
    return keep, remarks


def _by_scanpy(part: Any, labels: np.ndarray, n_top_genes: int) -> pd.DataFrame:
    """Return the table of ``scanpy.pp.highly_variable_genes``."""
    import scanpy as sc

    obs = pd.DataFrame({"batch": labels}, index=pd.RangeIndex(len(labels)).astype(str), dtype="category")
    adata = AnnData(X=part, obs=obs, var=pd.DataFrame(index=pd.RangeIndex(part.shape[1]).astype(str)))
    return sc.pp.highly_variable_genes(
        adata,
        n_top_genes=n_top_genes,
        flavor="seurat",
        batch_key="batch" if obs["batch"].nunique() > 1 else None,
        inplace=False,
    )


def _voting(batch: pd.Series | None, n_cells: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the cells in batches that are large enough (a mask), the batch of every cell, and warnings."""
    if batch is None:
        return np.ones(n_cells, dtype=bool), np.full(n_cells, "all"), []
    labels = batch.astype(str).to_numpy()
    names, at, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    cells = sizes[at] >= MIN_CELLS
    if cells.all():
        return cells, labels, []
    small = quoted(names[sizes < MIN_CELLS])
    if not cells.any():
        remark = f"Every batch of {batch.name!r} has fewer than {MIN_CELLS} cells ({small}): batches were ignored."
        return ~cells, np.full(n_cells, "all"), [remark]
    remark = (
        f"Batches of {batch.name!r} with fewer than {MIN_CELLS} cells did not take part in choosing genes: {small}."
    )
    return cells, labels, [remark]


def _variance(x: Any, cells: np.ndarray) -> np.ndarray:
    """Return the variance of each gene in some cells (a mask)."""
    total = squares = np.zeros(x.shape[1])
    for rows, _, block in blocks(x if isinstance(x, BackedMatrix) or not sp.issparse(x) else x.tocsr()):
        chosen = block[cells[rows]]
        total = total + np.asarray(chosen.sum(axis=0)).ravel()
        squares = squares + np.asarray((chosen.multiply(chosen) if sp.issparse(chosen) else chosen**2).sum(0)).ravel()
    return squares / cells.sum() - (total / cells.sum()) ** 2


def batch_of(adata: AnnData | BackedAnnData, batch_key: str | None) -> pd.Series | None:
    """Return the batch of each cell, or None."""
    if batch_key is None:
        return None
    if batch_key not in adata.obs:
        raise DataError(
            f"adata.obs has no column {batch_key!r} (batch_key); it has {quoted(adata.obs.columns) or 'none'}."
        )
    if missing := int(adata.obs[batch_key].isna().sum()):
        raise DataError(
            f"adata.obs[{batch_key!r}] (batch_key) is missing for {missing:,} cells; give them one, or leave it out."
        )
    return adata.obs[batch_key]
