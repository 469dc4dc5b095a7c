"""Human pancreatic islets, GSE85241."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffvae import _keys
from diffvae._errors import DataError
from diffvae.datasets._files import (
    Source,
    check_shape,
    locate,
    log_normalise,
    read_genes_by_cells,
    read_table,
    unique_names,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

SOURCES = {
    "GSE85241_cellsystems_dataset_4donors_updated.csv.gz": Source(
        "https://ftp.ncbi.nlm.nih.gov/geo/series/GSE85nnn/GSE85241/suppl/"
        "GSE85241_cellsystems_dataset_4donors_updated.csv.gz",
        known_hash="sha256:2f253ffb1f6d54f6bb259e862195f5c20ea3f13e00471b9864ff92773658f513",
    )
}
_LABELS = "cell_type_annotation_Cels2016.csv"


def pancreas(
    path: str | Path | None = None,
    *,
    labels: str | Path | None = None,
    min_genes: int = 2500,
    n_top_genes: int | None = 4000,
    check: bool = True,
) -> AnnData:
    """Return the paper's second data set: 2285 human pancreas cells of four donors, 4000 variable genes.

    CEL-Seq2. Cells with more than ``min_genes`` detected genes are normalised to 10,000, log-transformed, and reduced
    to scanpy's most variable genes.

    Parameters
    ----------
    path
        ``GSE85241_cellsystems_dataset_4donors_updated.csv.gz`` (separated by tabs) or its folder. None downloads it
        from GEO into the cache (``DIFFVAE_CACHE``, or the system's default).
    labels
        Table with cell names and cell types, by default ``cell_type_annotation_Cels2016.csv`` in the folder of the
        counts, if it exists. GEO has no labels; this file with the authors' labels of 2126 cells is at
        scrnaseq-public-datasets.s3.amazonaws.com/manual-data/muraro/. Other cells get no label.
    min_genes
        Cells with more detected genes than this are kept; spike-ins do not count.
    n_top_genes
        Most variable genes to keep; ``None`` for all.
    check
        Verify the size.

    Returns
    -------
    AnnData, 2285 x 4000
        ``X``: log-normalised expression (float32, CSR); ``layers["counts"]``: transcripts as published
        (corrected for saturation of the molecular barcodes, so not whole numbers). ``obs``: ``donor``,
        ``plate``, and ``cell_type`` if there are labels. ``var``: ``symbol``, ``chromosome``. ERCC spike-ins
        are left out. ``uns["diffvae_dataset"]``: name, source, progenitors (none).

    Raises
    ------
    DataError
        (a ``ValueError``) If a file is missing, can't be downloaded, or has another form or size.

    Notes
    -----
    Neither the download nor the whole file was tested in development, only the parser, on a small file of the same
    form. The checksum was published by others.

    The paper says neither how it selected 2285 of the 3072 published cells nor how it selected genes. Seurat's
    integration tutorial has 2285 cells of GSE85241 with more than 2500 detected genes, so this rule is expected to give
    the same cells; that was not verified. If the number differs, ``check=False`` reads the file anyway. The genes may
    differ.

    References
    ----------
    Muraro et al. (2016), *A single-cell transcriptome atlas of the human pancreas*, Cell Systems 3:385-394.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pancreas("downloads")  # doctest: +SKIP
    """
    import pandas as pd
    from anndata import AnnData

    (file,) = locate("pancreas", path, SOURCES).values()
    if labels is None and (file.parent / _LABELS).is_file():
        labels = file.parent / _LABELS
    types = None if labels is None else _read_labels(Path(labels))

    counts, cells, genes = read_genes_by_cells(file)
    obs = pd.Series(cells).str.extract(r"^(?P<donor>D\d+)-(?P<plate>\d+)_\d+$").set_index(cells)
    if obs["donor"].isna().any():
        odd = obs.index[obs["donor"].isna()][0]
        raise DataError(f"{file} names a cell {odd!r}; names should read like 'D28-1_1' (donor, plate, well).")
    var = pd.Series(genes).str.extract(r"^(?P<symbol>.*?)(?:__(?P<chromosome>.*))?$").fillna("")
    var.index = unique_names(var["symbol"].to_numpy())
    obs = obs.astype("category")
    if types is not None:
        obs[_keys.LABEL] = types.reindex(obs.index).astype("category")
        if obs[_keys.LABEL].isna().all():
            raise DataError(f"{labels} names none of the cells of {file}; it begins with {types.index[0]!r}.")

    endogenous = ~var["symbol"].str.startswith("ERCC-").to_numpy()
    detected = np.asarray((counts[:, endogenous] > 0).sum(axis=1)).ravel()
    if not (detected > min_genes).any():
        raise DataError(
            f"No cell has more than {min_genes} detected genes, the best {detected.max()}; lower min_genes."
        )
    adata = AnnData(counts, obs=obs, var=var)[detected > min_genes, endogenous].copy()
    adata = log_normalise(adata, n_top_genes)
    adata.uns[_keys.DATASET] = {
        "name": "pancreas",
        "source": "Muraro et al. 2016, doi 10.1016/j.cels.2016.09.002; GEO GSE85241",
        "progenitors": "",
    }
    if check:
        check_shape(adata, "pancreas", 2285, n_top_genes)
    return adata


def _read_labels(path: Path) -> pd.Series:
    """Read cell types by cell name; R has turned the "-" of the names into "."."""
    if not path.is_file():
        raise DataError(f"labels is {path}, which is not a file.")
    types = read_table(path).iloc[:, 0].astype(str)
    types.index = types.index.astype(str).str.replace(r"^(D\d+)\.", r"\1-", regex=True)
    return types[~types.index.duplicated()]
