"""The real data set that comes with scanpy, and a table of all data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffvae import _keys

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def pbmc68k_reduced() -> AnnData:
    """Return 700 blood cells of ten types, bundled with scanpy.

    A sample of 68,000 mononuclear cells of one donor, with the 765 genes that scanpy selected. It needs no download and
    is the default of ``diffvae run``.

    Returns
    -------
    AnnData, 700 x 765
        ``X`` is log-normalised expression (float32, CSR): scanpy's ``.raw``, not its scaled ``X``. ``obs["cell_type"]``
        is the most similar of ten sorted populations, as assigned by the authors, so that related T-cell types overlap.
        ``obs`` also has ``n_genes``, ``n_counts``, ``percent_mito`` and ``phase``; ``uns["diffvae_dataset"]`` names the
        source and the progenitors (13 CD34+ cells). Embeddings and clusters of the file are left out.

    References
    ----------
    Zheng et al. (2017), *Massively parallel digital transcriptional profiling of single cells*, Nature
    Communications 8:14049.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> adata.shape, adata.obs["cell_type"].nunique()
    ((700, 765), 10)
    """
    import scanpy as sc
    from anndata import AnnData
    from scipy import sparse

    bundled = sc.datasets.pbmc68k_reduced()
    obs = bundled.obs[["bulk_labels", "n_genes", "n_counts", "percent_mito", "phase"]]
    obs = obs.rename(columns={"bulk_labels": _keys.LABEL}).rename_axis(None)
    obs[_keys.LABEL] = obs[_keys.LABEL].astype("category")
    x = sparse.csr_matrix(bundled.raw.X, dtype=np.float32)
    adata = AnnData(x, obs=obs, var=bundled.raw.var[[]].rename_axis(None))
    adata.uns[_keys.DATASET] = {
        "name": "pbmc68k_reduced",
        "source": "scanpy.datasets.pbmc68k_reduced; Zheng et al. 2017, doi 10.1038/ncomms14049",
        "progenitors": "CD34+",
    }
    return adata


_COLUMNS = ("name", "cells", "genes", "description", "source", "access", "exercised")
_PARSER = "parser only, on small files of the same form; never the download"
_DATASETS = (
    ("pbmc68k_reduced", 700, 765, "human blood, ten types, log-normalised",
     "Zheng et al. 2017; scanpy", "bundled", "yes"),
    ("simulate_differentiation", 1000, 1000,
     "counts from a branching tree with known truth; any size, the default is shown", "simulated", "simulated", "yes"),
    ("zebrafish", 1422, 1845, "zebrafish blood, five types, log-normalised; the paper's main set",
     "Athanasiadis et al. 2017; github.com/ioanabica/DiffVAE", "download", _PARSER),
    ("pancreas", 2285, 4000, "human pancreas, four donors, labels in a separate file; the paper's second set",
     "Muraro et al. 2016; GEO GSE85241", "download", _PARSER),
    ("human_hsc", 1034, 700, "human stem and progenitor cells, no labels; the paper's third set",
     "Velten et al. 2017; GEO GSE75478", "download", _PARSER),
)  # fmt: skip


def list_datasets() -> pd.DataFrame:
    """Return a table of the data sets in ``diffvae.datasets``.

    Returns
    -------
    DataFrame
        One row per set: ``name`` (of the function), ``cells``, ``genes``, ``description``, ``source``, ``access``
        ("bundled", "simulated" or "download") and ``exercised`` (what was tested in development).

    Examples
    --------
    >>> import diffvae as dv
    >>> dv.datasets.list_datasets().set_index("name")["access"]["zebrafish"]
    'download'
    """
    import pandas as pd

    return pd.DataFrame(_DATASETS, columns=list(_COLUMNS))
