"""Human haematopoietic stem and progenitor cells, GSE75478."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffvae import _keys
from diffvae.datasets._files import Source, check_shape, locate, log_normalise, read_genes_by_cells, unique_names

if TYPE_CHECKING:
    from anndata import AnnData

SOURCES = {
    "GSE75478_transcriptomics_raw_filtered_I1.csv.gz": Source(
        "https://ftp.ncbi.nlm.nih.gov/geo/series/GSE75nnn/GSE75478/suppl/GSE75478_transcriptomics_raw_filtered_I1.csv.gz"
    )
}


def human_hsc(path: str | Path | None = None, *, n_top_genes: int | None = 700, check: bool = True) -> AnnData:
    """Return the paper's third data set: 1034 human stem and progenitor cells, 700 variable genes.

    Smart-seq2 of CD34+ bone-marrow cells of the first of two individuals, normalised to 10,000, log-transformed, and
    reduced to scanpy's most variable genes. The cells form a continuum and have no labels.

    Parameters
    ----------
    path
        ``GSE75478_transcriptomics_raw_filtered_I1.csv.gz`` or its folder. None downloads it from GEO into the cache
        (``DIFFVAE_CACHE``, or the system's default).
    n_top_genes
        Most variable genes to keep; ``None`` for all.
    check
        Verify the size.

    Returns
    -------
    AnnData, 1034 x 700
        ``X``: log-normalised expression (float32, CSR); ``layers["counts"]``: reads as published. ``obs``:
        ``individual``. ``var``: ``symbol``, ``ensembl``. Genes are named by symbol, or by Ensembl id if they have none.
        ERCC spike-ins and rows that count unmapped reads are left out. ``uns["diffvae_dataset"]``: name, source,
        progenitors (none, since there are no labels).

    Raises
    ------
    DataError
        (a ``ValueError``) If the file is missing, can't be downloaded, or has another form or size.

    Notes
    -----
    Neither the download nor the whole file was tested in development, only the parser, on a small file of the form that
    other programs read (genes x cells, genes named "SYMBOL (ENSG...)", "?" for no symbol). No checksum is known. The
    file should have the paper's 1034 cells; if it has not, ``check=False`` reads it anyway. The paper doesn't say how
    it selected genes, so they may differ.

    References
    ----------
    Velten et al. (2017), *Human haematopoietic stem cell lineage commitment is a continuous process*, Nature
    Cell Biology 19:271-281.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.human_hsc("downloads")  # doctest: +SKIP
    """
    import pandas as pd
    from anndata import AnnData

    (file,) = locate("human_hsc", path, SOURCES).values()
    counts, cells, genes = read_genes_by_cells(file)
    names = pd.Series(genes)
    var = names.str.extract(r"^(?P<symbol>.*?)\s*(?:\((?P<ensembl>ENS\w+)(?:\.\d+)?\))?$").fillna("")
    var["symbol"] = var["symbol"].where(~var["symbol"].isin(["?", ""]), var["ensembl"])
    endogenous = ~names.str.match("ERCC-|__").to_numpy()
    var.index = unique_names(var["symbol"].to_numpy())
    obs = pd.DataFrame({"individual": pd.Categorical(["I1"] * len(cells))}, index=cells)
    adata = log_normalise(AnnData(counts, obs=obs, var=var)[:, endogenous].copy(), n_top_genes)
    adata.uns[_keys.DATASET] = {
        "name": "human_hsc",
        "source": "Velten et al. 2017, doi 10.1038/ncb3493; GEO GSE75478, individual 1",
        "progenitors": "",
    }
    if check:
        check_shape(adata, "human_hsc", 1034, n_top_genes)
    return adata
