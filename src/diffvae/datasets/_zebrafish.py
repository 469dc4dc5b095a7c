"""Zebrafish blood, as published with the code of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffvae import _keys
from diffvae._errors import DataError
from diffvae.datasets._files import Source, check_blobs, check_shape, locate, read_table, unique_names

if TYPE_CHECKING:
    from anndata import AnnData

_FOLDER = "https://raw.githubusercontent.com/ioanabica/DiffVAE/9c268d006c41807c154b6acc347724fc2a6b8151/data/Zebrafish/"
SOURCES = {
    "GE_mvg.csv": Source(f"{_FOLDER}GE_mvg.csv", git_blob="170d909b87417a49abf4f50dacc2fe02152ea64d"),
    "CV_genes.csv": Source(f"{_FOLDER}CV_genes.csv", git_blob="44a9111664e1a5dbd6ff34cfe4a8b4c45ec5f119"),
    "Annotation_File.csv": Source(f"{_FOLDER}Annotation_File.csv", git_blob="9bae756229080b4c72f271d0e8336a23bb0f59ca"),
}
_TYPES = {"Thrombocytes": 425, "Neutrophils": 336, "Monocytes": 264, "HSPC": 245, "Erythrocytes": 152}


def zebrafish(path: str | Path | None = None, *, check: bool = True) -> AnnData:
    """Return the paper's main data set: 1422 zebrafish blood cells of five types, 1845 variable genes.

    Smart-seq2 of kidney cells of reporter lines, log-normalised and reduced to the most variable genes by its
    authors.

    Parameters
    ----------
    path
        Folder with ``GE_mvg.csv``, ``CV_genes.csv`` and ``Annotation_File.csv``. None downloads them from the
        repository ioanabica/DiffVAE (commit 9c268d0) into the cache (``DIFFVAE_CACHE``, or the system's default).
    check
        Verify the files by their git blob ids, the size, and the number of cells of each type.

    Returns
    -------
    AnnData, 1422 x 1845
        ``X``: log-normalised expression (float32, CSR). ``obs["cell_type"]``: Erythrocytes, HSPC, Monocytes,
        Neutrophils or Thrombocytes; ``obs["pseudotime"]``; the other columns of the annotation (``State``,
        ``Tg_Detailed``, ...). ``var``: ``symbol``, ``ensembl``, ``chromosome``, ``biotype``. Genes are named by symbol,
        the 20 without one by Ensembl id; six symbols are shared by 16 genes, which get "-1", "-2", ... appended.
        ``uns["diffvae_dataset"]``: name, source, progenitors (HSPC).

    Raises
    ------
    DataError
        (a ``ValueError``) If a file is missing, can't be downloaded or is not the published one, or the three don't
        match.

    Notes
    -----
    Neither the download nor the expression matrix was tested in development, only the published gene and annotation
    files with an artificial matrix of the same form.

    The expression matrix has no names. Its rows are the annotation's and its columns the gene file's, in order, as in
    the authors' code.

    References
    ----------
    Athanasiadis et al. (2017), *Single-cell RNA-sequencing uncovers transcriptional states and fate
    decisions in haematopoiesis*, Nature Communications 8:2045. Bica et al. (2020), Scientific Reports
    10:9790.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.zebrafish("downloads/zebrafish")  # doctest: +SKIP
    """
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    files = locate("zebrafish", path, SOURCES)
    if check:
        check_blobs(files, SOURCES)
    obs = read_table(files["Annotation_File.csv"]).rename_axis(None)
    genes = read_table(files["CV_genes.csv"])
    for column, table, name in (("Type", obs, "Annotation_File.csv"), ("gene", genes, "CV_genes.csv")):
        if column not in table:
            raise DataError(f"{files[name]} has no column {column!r}; it has {', '.join(map(str, table.columns))}.")
    fields = genes["gene"].str.split(",", expand=True)
    if fields.shape[1] != 4:
        raise DataError(
            f"{files['CV_genes.csv']}: {genes['gene'].iloc[0]!r} should read 'ensembl,symbol,chromosome,biotype'."
        )
    try:
        values = pd.read_csv(files["GE_mvg.csv"], header=None, dtype=np.float32).to_numpy()
    except ValueError as error:
        raise DataError(f"{files['GE_mvg.csv']} is not a table of numbers without header: {error}.") from error
    if values.shape != (len(obs), len(fields)):
        raise DataError(
            f"The files don't match: GE_mvg.csv is {values.shape[0]} x {values.shape[1]}, but "
            f"Annotation_File.csv names {len(obs)} cells and CV_genes.csv {len(fields)} genes."
        )
    if not np.isfinite(values).all():
        raise DataError(f"{files['GE_mvg.csv']} has missing or infinite values.")

    var = fields.set_axis(["ensembl", "symbol", "chromosome", "biotype"], axis=1)
    var.index = unique_names(var["symbol"].where(var["symbol"] != "", var["ensembl"]).to_numpy())
    obs = obs.rename(columns={"Type": _keys.LABEL, "Pseudotime": _keys.PSEUDOTIME})
    obs[_keys.LABEL] = obs[_keys.LABEL].astype("category")
    adata = AnnData(sparse.csr_matrix(values), obs=obs, var=var)
    adata.uns[_keys.DATASET] = {
        "name": "zebrafish",
        "source": "Athanasiadis et al. 2017, doi 10.1038/s41467-017-02305-6; "
        "files of ioanabica/DiffVAE, commit 9c268d0",
        "progenitors": "HSPC",
    }
    if check:
        check_shape(adata, "zebrafish", 1422, 1845)
        n_cells = adata.obs[_keys.LABEL].value_counts().to_dict()
        if n_cells != _TYPES:
            raise DataError(f"zebrafish: the types are {n_cells}, not {_TYPES}; check=False reads them anyway.")
    return adata
