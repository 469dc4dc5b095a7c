"""Expression matrices in loom files: loompy, SCENIC, velocyto, the Human Cell Atlas."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from diffvae._errors import DataError, quoted

CELLS: tuple[str, ...] = (
    "CellID",
    "obs_names",
    "cell_names",
    "CellName",
    "cell_id",
    "Cell_ID",
    "Barcode",
    "barcode",
    "cellid",
    "index",
)
GENES: tuple[str, ...] = (
    "Gene",
    "var_names",
    "gene_names",
    "GeneName",
    "gene_name",
    "Gene_Name",
    "Symbol",
    "symbol",
    "gene_symbols",
)
GENES += ("featurekey", "Accession", "ensembl_ids", "gene_ids", "GeneID", "index")
"""Attributes with names, the first of them that there is; anndata, scVelo, loompy and others call them differently."""
_IDS = ("Accession", "ensembl_ids", "gene_ids", "GeneID", "EnsemblID")
BLOCK = 512
"""Genes that are read at once."""


def read_loom(path: Path) -> AnnData:
    """Read a ``.loom`` file: genes in rows, cells in columns, by definition of the format.

    ``X`` is the main matrix, or that of spliced molecules if there is one (velocyto, kallisto | bustools), as in
    anndata. The others become layers. A warning says which matrix is used if there are several.

    Parameters
    ----------
    path
        The file; the package loompy is not needed.

    Raises
    ------
    DataError
        If it holds no matrix, or no names of genes.
    """
    with h5py.File(path) as file:
        main = file.get("matrix")
        if not isinstance(main, h5py.Dataset) or main.ndim != 2:
            raise DataError(f"{str(path)!r} is HDF5, but not a loom file: it holds {', '.join(map(repr, file))}.")
        layers = {name: _values(layer) for name, layer in file.get("layers", {}).items() if layer.shape == main.shape}
        x, used = _values(main), "matrix"
        if "spliced" in layers:
            layers["matrix"], x, used = x, layers.pop("spliced"), "spliced"
        elif x.nnz == 0 and layers:
            used = next(iter(layers))
            x = layers.pop(used)
        obs, obsm = _attributes(file.get("col_attrs", {}), main.shape[1])
        var, _ = _attributes(file.get("row_attrs", {}), main.shape[0])
    gene_key = next((key for key in GENES if key in var), None)
    if gene_key is None:
        raise DataError(
            f"{str(path)!r} has no names of genes: its rows have the attributes {quoted(list(var)) or 'none'}; "
            "call one of them 'Gene'."
        )
    cell_key = next((key for key in CELLS if key in obs), None)
    names = var[gene_key].astype(str)
    var = var.drop(columns=gene_key).set_index(pd.Index(names.to_numpy(), dtype=str))
    ids = next((key for key in _IDS if key in var), None)
    if ids is not None and ids != "gene_ids" and "gene_ids" not in var:
        var = var.rename(columns={ids: "gene_ids"})
    if cell_key is not None:
        cells = obs[cell_key].astype(str).to_numpy()
        obs = obs.drop(columns=cell_key).set_index(pd.Index(cells, dtype=str))
    else:
        obs.index = obs.index.astype(str)
    if layers or used != "matrix":
        warnings.warn(
            f"{str(path)!r} holds several matrices: X is {used!r}, the layers are {quoted(layers) or 'none'}. Another "
            "one is used by its name as the layer.",
            UserWarning,
            stacklevel=4,
        )
    adata = AnnData(x, obs=obs, var=var, layers=layers, obsm=obsm)
    adata.var_names_make_unique()
    return adata


def _values(matrix: Any) -> sp.csr_matrix:
    """Return a matrix of genes x cells as cells x genes."""
    blocks = [
        sp.csr_matrix(np.asarray(matrix[i : i + BLOCK]), dtype=np.float32) for i in range(0, matrix.shape[0], BLOCK)
    ]
    if not blocks:
        return sp.csr_matrix((matrix.shape[1], 0), dtype=np.float32)
    return sp.vstack(blocks, format="csr").T.tocsr()


def _attributes(group: Any, n: int) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return attributes of one value per cell or gene, and those of several numbers (maps)."""
    columns: dict[str, Any] = {}
    several: dict[str, np.ndarray] = {}
    for name, data in group.items():
        if not isinstance(data, h5py.Dataset) or data.shape[:1] != (n,):
            continue
        values = data[()]
        if values.dtype.names is not None:  # SCENIC: regulons, embeddings
            if all(values.dtype[field].kind in "biuf" for field in values.dtype.names):
                several[f"X_{name}"] = np.column_stack([values[field] for field in values.dtype.names])
        elif values.ndim == 1:
            columns[name] = _strings(values) if values.dtype.kind in "OS" else values
        elif values.ndim == 2 and values.dtype.kind in "biuf":
            several[name if name.startswith("X_") else f"X_{name}"] = values
    return pd.DataFrame(columns, index=pd.RangeIndex(n)), several


def _strings(values: np.ndarray) -> list[str]:
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
