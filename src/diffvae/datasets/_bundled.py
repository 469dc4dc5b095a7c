"""The real data sets that need no download, and a table of all data sets."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae import _keys

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

DEMO: dict[str, Any] = {
    "source": ["Ngn3 high EP", "Pre-endocrine"],
    "target": ["Alpha", "Beta", "Delta", "Epsilon"],
    "earlier": ["Ductal", "Ngn3 low EP"],
    "min_core": 0.1,
}
"""What ``diffvae run`` asks of :func:`pancreas_endocrinogenesis`: progenitors, later types, and earlier ones.

Most pre-endocrine cells have begun to differentiate, so few of them need to be uncommitted.
"""


def pancreas_endocrinogenesis() -> AnnData:
    """Return 2,000 cells of the developing mouse pancreas, from duct to hormone cells, bundled with diffvae.

    The default of ``diffvae run``. At day 15.5 of the embryo, ductal cells become endocrine progenitors, which express
    Neurog3, and these become alpha, beta, delta and epsilon cells. The set has all stages of this tree. It needs no
    download.

    Returns
    -------
    AnnData, 2000 x 1007
        ``X``: UMI counts (float32, CSR), exons only. ``obs["cell_type"]``: Ductal, Ngn3 low EP, Ngn3 high EP (EP:
        endocrine progenitor), Pre-endocrine, Alpha, Beta, Delta or Epsilon, as in scVelo's ``pancreas()``; ``obs``
        also has ``S_score`` and ``G2M_score`` (cell cycle) and ``n_counts`` (counts of all genes). Genes are named by
        symbol. ``uns["diffvae_dataset"]``: name, source, progenitors (Ngn3 high EP).

    Notes
    -----
    A part of 3,696 cells and 2,000 genes: all delta and epsilon cells, the others at random; the 1,000 genes that vary
    most among these cells, and the markers and regulators of the islet lineage among the 2,000. Some that everybody
    knows are not among them (Neurod1, Mafa, Irx1, Irx2). The copy comes from the R package SuperCell
    (data/pancreas.rda, commit 5de820e9), and ``docs/bundle_pancreas.py`` made this file of it.

    References
    ----------
    Bastidas-Ponce et al. (2019), *Comprehensive single cell mRNA profiling reveals a detailed roadmap for pancreatic
    endocrinogenesis*, Development 146:dev173849; GEO GSE132188. Bergen et al. (2020), *Generalizing RNA velocity to
    transient cell states through dynamical modeling*, Nature Biotechnology 38:1408-1414.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pancreas_endocrinogenesis()
    >>> adata.shape, adata.obs["cell_type"].nunique()
    ((2000, 1007), 8)
    """
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    with (files("diffvae.datasets") / "pancreas_endocrinogenesis.npz").open("rb") as file, np.load(file) as stored:
        content = {name: stored[name] for name in stored}
    by_gene = content["low"] + 256.0 * content["high"].astype(np.float32)
    obs = pd.DataFrame(
        {
            _keys.LABEL: pd.Categorical.from_codes(content["type_of_cell"], content["types"].astype(str)),
            "S_score": content["S_score"].astype(np.float32),
            "G2M_score": content["G2M_score"].astype(np.float32),
            "n_counts": content["total_spliced_counts_all_genes"].astype(np.int64),
        },
        index=content["cells"].astype(str).astype(object),
    )
    var = pd.DataFrame(index=content["genes"].astype(str).astype(object))
    adata = AnnData(sparse.csr_matrix(by_gene.T, dtype=np.float32), obs=obs, var=var)
    adata.uns[_keys.DATASET] = {
        "name": "pancreas_endocrinogenesis",
        "source": "Bastidas-Ponce et al. 2019, doi 10.1242/dev.173849; GEO GSE132188; by way of GfellerLab/SuperCell",
        "progenitors": DEMO["source"][0],
    }
    return adata


def pbmc68k_reduced() -> AnnData:
    """Return 700 blood cells of ten types, bundled with scanpy.

    A sample of 68,000 mononuclear cells of one donor, with the 765 genes that scanpy selected. It needs no download.

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
    ("pancreas_endocrinogenesis", 2000, 1007, "developing mouse pancreas, eight types from duct to islet, counts",
     "Bastidas-Ponce et al. 2019; GEO GSE132188", "bundled", "yes"),
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
