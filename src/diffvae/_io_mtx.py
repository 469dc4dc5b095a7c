"""Matrix Market files, alone or with the names of cells and genes beside them as 10x Genomics writes them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import scipy.io
import scipy.sparse as sp
from anndata import AnnData

from diffvae._errors import DataError
from diffvae._io_text import memory, opened, size

_MATRIX = ("matrix.mtx", "matrix.mtx.gz")


def read_mtx(path: Path) -> AnnData:
    """Read one ``.mtx(.gz)``: genes x cells if it is 10x's, else cells x genes without names."""
    if path.name.endswith(_MATRIX) and _beside(path, "barcodes.tsv") and _beside(path, "features.tsv", "genes.tsv"):
        return _read_10x(path)
    return AnnData(_matrix(path))


def read_10x_folder(folder: Path) -> AnnData:
    """Read ``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv`` or ``genes.tsv``, packed or not.

    Names may have a prefix in common, as in GEO: ``GSM123_matrix.mtx.gz``, ``GSM123_barcodes.tsv.gz``, ...
    """
    found = sorted(file for file in folder.iterdir() if file.name.endswith(_MATRIX))
    if len(found) > 1:
        names = ", ".join(repr(file.name) for file in found)
        raise DataError(f"Folder {str(folder)!r} holds several matrices ({names}); name one of these files.")
    if found:
        return _read_10x(found[0])
    inner = [file.parent for file in folder.glob("*/*matrix.mtx*")]
    inner += [file for pattern in ("*.h5ad", "*.h5", "*.loom", "*.zarr") for file in folder.glob(pattern)]
    hint = f" Perhaps you mean {str(sorted(inner)[0])!r}." if inner else ""
    raise DataError(f"Folder {str(folder)!r} holds no matrix.mtx or matrix.mtx.gz, and is no .zarr either.{hint}")


def _matrix(path: Path) -> sp.csr_matrix:
    """Read the matrix itself, once its first lines have been found to be possible."""
    with opened(path) as file:
        line = next((line for line in file if not line.startswith(b"%") and line.strip()), b"")
    shape = [int(number) for number in line.split()]
    # Lines have 4 bytes at the least ("1 1" and its end), and gzip packs 1032 bytes into one at the most. In memory a
    # value takes a row, a column and itself, 8 bytes each at first.
    n_values = shape[2] if len(shape) == 3 else shape[0] * shape[1]
    room = path.stat().st_size * (1032 if path.name.lower().endswith(".gz") else 1)
    if n_values * (4 if len(shape) == 3 else 2) > room + 4:
        raise DataError(
            f"{str(path)!r} says that it holds {n_values:,} values, but it has {size(path.stat().st_size)}, too few "
            "for them; it is cut off or damaged, so get it again."
        )
    needed = 24 * n_values + 8 * max(shape[:2])
    if needed > memory():
        raise DataError(
            f"{str(path)!r} says that it is {shape[0]:,} x {shape[1]:,} with {n_values:,} values: that takes "
            f"{size(needed)} to read, and this machine has {size(memory())}; take fewer cells, or a larger machine."
        )
    with opened(path) as file:
        return sp.csr_matrix(scipy.io.mmread(file), dtype="float32")


def _beside(matrix: Path, *names: str) -> Path | None:
    prefix = matrix.name.removesuffix(".gz").removesuffix("matrix.mtx")
    files = [matrix.with_name(prefix + name + packed) for name in names for packed in ("", ".gz")]
    return next((file for file in files if file.exists()), None)


def _names(matrix: Path, *names: str, n: int) -> pd.DataFrame:
    file = _beside(matrix, *names)
    if file is None:
        wanted = " or ".join(f"{name}(.gz)" for name in names)
        raise DataError(f"{str(matrix)!r} has no {wanted} beside it.")
    # Genes may be called "NA" or "nan"; quotes are part of names.
    with opened(file) as lines:
        table = pd.read_csv(lines, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)
    if len(table) != n:
        raise DataError(f"{str(file)!r} has {len(table):,} lines, but {matrix.name!r} has {n:,} to name.")
    return table


def _read_10x(matrix: Path) -> AnnData:
    adata = AnnData(_matrix(matrix)).T.copy()
    genes = _names(matrix, "features.tsv", "genes.tsv", n=adata.n_vars)
    adata.obs_names = _names(matrix, "barcodes.tsv", n=adata.n_obs)[0].to_numpy()
    adata.var_names = genes[min(1, genes.shape[1] - 1)].to_numpy()
    adata.var["gene_ids"] = genes[0].to_numpy()
    if genes.shape[1] > 2:
        # Antibodies and guides are no genes.
        adata.var["feature_types"] = genes[2].to_numpy()
        adata = adata[:, genes[2].to_numpy() == "Gene Expression"].copy()
    adata.var_names_make_unique()
    adata.X = adata.X.tocsr()
    return adata
