import numpy as np
from scipy import sparse

import diffvae as dv


def test_pbmc_is_log_normalised_and_labelled():
    adata = dv.datasets.pbmc68k_reduced()
    assert adata.shape == (700, 765)
    assert sparse.isspmatrix_csr(adata.X)
    assert adata.X.dtype == np.float32
    assert adata.X.min() == 0  # scanpy's own X is scaled and has negatives
    assert adata.X.max() < 10
    assert list(adata.obs) == ["cell_type", "n_genes", "n_counts", "percent_mito", "phase"]
    assert (adata.obs["cell_type"] == adata.uns["diffvae_dataset"]["progenitors"]).sum() == 13
    assert adata.raw is None
    assert list(adata.uns) == ["diffvae_dataset"]
    for part in (adata.obsm, adata.varm, adata.obsp, adata.layers):
        assert len(part) == 0
    assert list(adata.var_names[:2]) == ["HES4", "TNFRSF4"]


def test_pbmc_is_new_each_time():
    first = dv.datasets.pbmc68k_reduced()
    first.X.data[:] = 99
    first.obs["cell_type"] = "x"
    assert dv.datasets.pbmc68k_reduced().X.max() < 10


def test_list_names_every_data_set():
    table = dv.datasets.list_datasets()
    assert set(table["name"]) == set(dv.datasets.__all__) - {"list_datasets"}
    assert set(table["access"]) == {"bundled", "simulated", "download"}
    downloads = table[table["access"] == "download"]
    assert downloads["exercised"].str.contains("never the download").all()
    assert table[["cells", "genes"]].to_numpy().tolist()[2:] == [[1422, 1845], [2285, 4000], [1034, 700]]
