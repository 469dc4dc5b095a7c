"""The real data set that is always there: scanpy ships it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffvae import _keys

if TYPE_CHECKING:
    from anndata import AnnData


def pbmc68k_reduced() -> AnnData:
    """Return 700 blood cells of ten types, bundled with scanpy.

    A sample of the 68,000 mononuclear cells of one donor, with the 765 genes that scanpy kept. It needs no
    download and is the default of ``diffvae run``.

    Returns
    -------
    AnnData, 700 x 765
        ``X`` is log-normalised expression (float32, CSR): scanpy's ``.raw``, not its scaled ``X``.
        ``obs["cell_type"]`` holds the labels, which the authors gave by the most similar of ten sorted
        populations, so that neighbouring T-cell types overlap. ``obs`` also has ``n_genes``, ``n_counts``,
        ``percent_mito`` and ``phase``; ``uns["diffvae_dataset"]`` names the source and the progenitors,
        which are the 13 CD34+ cells. Embeddings and clusters that came with the file are dropped.

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
    adata = AnnData(
        sparse.csr_matrix(bundled.raw.X, dtype=np.float32),
        obs=obs,
        var=bundled.raw.var[[]].rename_axis(None),
    )
    adata.uns[_keys.DATASET] = {
        "name": "pbmc68k_reduced",
        "source": "scanpy.datasets.pbmc68k_reduced; Zheng et al. 2017, doi 10.1038/ncomms14049",
        "progenitors": "CD34+",
    }
    return adata
