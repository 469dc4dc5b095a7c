"""Tables and folders as programs and people write them, of the same few cells."""

import gzip
import io

import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

GENES = ["Gata1", "Spi1", "Mpo", "Elane", "MT-CO1", "RPL3", "Cebpa"]
IDS = [f"ENSG{i:011d}" for i in range(len(GENES))]
CELLS = ["AAACCTGAGCATCATC-1", "AAACCTGAGCTAACTC-1", "AAACGGGTCTTCTGGC-1", "TTTGGGCCCAAATTTG-1", "CCATGGCCATGGCCAT-1"]
PLATE = ["P1_A01", "P1_A02", "P1_B11", "P2_H12", "P2_C03"]
X = np.random.default_rng(3).poisson(1.2, (len(CELLS), len(GENES))).astype(np.float32)
BY_CELL = pd.DataFrame(X.astype(int), index=CELLS, columns=GENES)
BY_GENE = BY_CELL.T


def write(path, content, encoding="utf-8"):
    data = content if isinstance(content, bytes) else content.encode(encoding)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def lines(names):
    return "".join(f"{name}\n" for name in names)


def mtx(path, matrix):
    file = io.BytesIO()
    scipy.io.mmwrite(file, sp.coo_matrix(matrix))
    return write(path, file.getvalue())


def same(adata, cells=CELLS, genes=GENES):
    """Compare with the cells above, in this order."""
    x = adata.X.toarray() if sp.issparse(adata.X) else adata.X
    assert adata.shape == X.shape
    assert adata.obs_names.tolist() == list(cells)
    assert adata.var_names.tolist() == list(genes)
    assert (x == X).all()
    assert adata.X.dtype == np.float32
    return adata
