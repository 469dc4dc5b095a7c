"""Tables of genes x cells in text files, and what makes an AnnData of the published size of them."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae import _keys
from diffvae._errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

_ROWS = 2000
"""Rows parsed at a time: the whole table as text or float64 would be the largest thing in memory."""


def read_table(path: Path) -> pd.DataFrame:
    """Read a small comma- or tab-separated table whose first column names the rows."""
    import pandas as pd

    return pd.read_csv(path, **_layout(path))


def read_genes_by_cells(path: Path) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Read a text table of genes x cells; return the values as cells x genes, cell names and gene names."""
    import pandas as pd
    from scipy import sparse

    blocks, genes, cells = [], [], np.empty(0)
    with pd.read_csv(path, chunksize=_ROWS, **_layout(path)) as chunks:
        for chunk in chunks:
            try:
                values = chunk.to_numpy(dtype=np.float32)
            except ValueError as error:
                raise DataError(f"{path} has something that is not a number among its values: {error}.") from error
            if not np.isfinite(values).all() or (values < 0).any():
                raise DataError(f"{path} has missing, infinite or negative values; counts are none of these.")
            blocks.append(sparse.csr_matrix(values))
            genes.append(chunk.index.astype(str).to_numpy(dtype=object))
            cells = chunk.columns.to_numpy(dtype=object)
    return sparse.csr_matrix(sparse.vstack(blocks).T), cells, np.concatenate(genes)


def _layout(path: Path) -> dict[str, Any]:
    """Say how pandas must read a table: separator, and whether the column of row names has a name itself."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            first, second = file.readline(), file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as a text table: {error}.") from error
    separator = "\t" if "\t" in first + second else ","
    widths = [len(next(csv.reader([line], delimiter=separator), [])) for line in (first, second)]
    if widths[1] < 2 or widths[1] - widths[0] not in (0, 1):
        raise DataError(
            f"{path} is no table with row names: its first two lines have {widths[0]} and {widths[1]} fields."
        )
    # R writes no header above the row names: then pandas takes them by itself, and must not be told.
    return {"sep": separator, "index_col": 0 if widths[0] == widths[1] else None}


def unique_names(names: np.ndarray) -> pd.Index:
    """Return names with "-1", "-2", ... appended to the second and later of a kind, as AnnData does."""
    import pandas as pd
    from anndata.utils import make_index_unique

    index = pd.Index(names.astype(str))
    return index if index.is_unique else make_index_unique(index)


def log_normalise(adata: AnnData, n_top_genes: int | None) -> AnnData:
    """Keep the counts as a layer, log-normalise ``X`` over all genes, then keep the most variable ones."""
    import scanpy as sc

    sc.pp.filter_genes(adata, min_cells=1)
    adata.layers[_keys.COUNTS] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.uns.pop("log1p", None)  # it says no more than that log1p ran, and is lost in part by h5ad
    if n_top_genes is not None and n_top_genes < adata.n_vars:
        variable = sc.pp.highly_variable_genes(adata, n_top_genes=n_top_genes, inplace=False)["highly_variable"]
        adata = adata[:, variable.to_numpy()].copy()
    return adata


def check_shape(adata: AnnData, dataset: str, cells: int, genes: int | None) -> None:
    """Refuse a data set that has not the published size (genes None: any number of them)."""
    wanted = (cells, adata.n_vars if genes is None else genes)
    if adata.shape != wanted:
        raise DataError(
            f"{dataset}: the files give {adata.n_obs} cells x {adata.n_vars} genes where the paper has "
            f"{wanted[0]} x {wanted[1]}. They are other files, or selected in another way; check=False reads "
            "them as they are."
        )
