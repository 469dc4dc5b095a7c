"""Files of the published sets: finding, downloading, checking and reading them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae import _keys
from diffvae._errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse


@dataclass(frozen=True)
class Source:
    """Address of a published file, and a checksum if one is known."""

    url: str
    known_hash: str | None = None
    """Checksum in pooch's form ("sha256:...")."""
    git_blob: str | None = None
    """Git blob id, for a file from a git repository."""


def locate(dataset: str, path: str | Path | None, sources: Mapping[str, Source]) -> dict[str, Path]:
    """Return the path of every file of a data set; files are downloaded only if ``path`` is None.

    ``path`` is the folder with the files under their published names (with or without ``.gz``), or the file itself if
    there is only one.
    """
    if path is None:
        return {name: download(dataset, name, source) for name, source in sources.items()}
    path = Path(path)
    if path.is_file() and len(sources) == 1:
        return dict.fromkeys(sources, path)
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; give the one that holds {', '.join(sources)}.")
    files = {name: _in_folder(path, name) for name in sources}
    missing = [name for name, file in files.items() if file is None]
    if missing:
        addresses = "; ".join(sources[name].url for name in missing)
        raise DataError(f"{path} lacks {', '.join(missing)}; get it from {addresses}, or leave path out to download.")
    return {name: file for name, file in files.items() if file is not None}


def _in_folder(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / name.removesuffix(".gz"), folder / f"{name}.gz")
    return next((file for file in candidates if file.is_file()), None)


def download(dataset: str, name: str, source: Source) -> Path:
    """Return a file from the cache; it is downloaded if it is missing.

    The cache is pooch's for "diffvae" (on Linux ``~/.cache/diffvae``), or the folder in ``DIFFVAE_CACHE``.
    """
    import pooch

    key = f"{dataset}/{name}"
    store = pooch.create(
        path=pooch.os_cache("diffvae"),
        base_url="",
        registry={key: source.known_hash},
        urls={key: source.url},
        env="DIFFVAE_CACHE",
        retry_if_failed=2,
    )
    try:
        return Path(store.fetch(key))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{source.url} could not be downloaded: {error}. Download the file yourself and give its folder as path=."
        ) from error


def git_blob_id(content: bytes) -> str:
    """Return the git blob id: the SHA-1 of "blob", the length, a zero byte and the content.

    Examples
    --------
    >>> git_blob_id(b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def check_blobs(files: Mapping[str, Path], sources: Mapping[str, Source]) -> None:
    """Raise DataError if a file differs from the published one."""
    for name, file in files.items():
        expected = sources[name].git_blob
        if expected and (actual := git_blob_id(file.read_bytes())) != expected:
            raise DataError(
                f"{file} is not the published {name}: its git blob id is {actual}, not {expected}. Delete it and "
                f"get {sources[name].url} again, or read this file with check=False."
            )


def read_table(path: Path) -> pd.DataFrame:
    """Read a small comma- or tab-separated table whose first column names the rows."""
    import pandas as pd

    return pd.read_csv(path, **_layout(path))


def read_genes_by_cells(path: Path) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Read a text table of genes x cells; return the values as cells x genes, cell names and gene names."""
    from scipy import sparse

    from diffvae._core.io import table as tables

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # counters of reads, which are no genes of these sets
        table = tables.read_table(path, transpose=True)
    values = sparse.csr_matrix(table.X)
    if not np.isfinite(values.data).all() or (values.data < 0).any():
        raise DataError(f"{path} has missing, infinite or negative values; counts have none.")
    return values, table.obs_names.to_numpy(dtype=object), table.var_names.to_numpy(dtype=object)


def _layout(path: Path) -> dict[str, Any]:
    """Return options for ``pandas.read_csv``: the separator, and which column has the row names."""
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
            f"{path} is not a table with row names: its first two lines have {widths[0]} and {widths[1]} fields."
        )
    # R writes no header above row names; pandas then recognises them without index_col
    return {"sep": separator, "index_col": 0 if widths[0] == widths[1] else None}


def unique_names(names: np.ndarray) -> pd.Index:
    """Return unique names: AnnData's "-1", "-2", ... are appended to repeated ones."""
    import pandas as pd
    from anndata.utils import make_index_unique

    index = pd.Index(names.astype(str))
    return index if index.is_unique else make_index_unique(index)


def log_normalise(adata: AnnData, n_top_genes: int | None) -> AnnData:
    """Store the counts as a layer, log-normalise ``X`` over all genes and select the most variable genes."""
    import scanpy as sc

    sc.pp.filter_genes(adata, min_cells=1)
    adata.layers[_keys.COUNTS] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.uns.pop("log1p", None)  # it holds no information, and h5ad loses part of it
    if n_top_genes is not None and n_top_genes < adata.n_vars:
        variable = sc.pp.highly_variable_genes(adata, n_top_genes=n_top_genes, inplace=False)["highly_variable"]
        adata = adata[:, variable.to_numpy()].copy()
    return adata


def check_shape(adata: AnnData, dataset: str, cells: int, genes: int | None) -> None:
    """Raise DataError unless a data set has the published size (``genes=None``: any number of genes)."""
    expected = (cells, adata.n_vars if genes is None else genes)
    if adata.shape != expected:
        raise DataError(
            f"{dataset}: the files give {adata.n_obs} cells x {adata.n_vars} genes where the paper has "
            f"{expected[0]} x {expected[1]}. The files or their selection differ; check=False reads them anyway."
        )
