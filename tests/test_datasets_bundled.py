import time

import numpy as np
import pytest
from scipy import sparse

import diffvae as dv
from diffvae.datasets import _bundled


@pytest.fixture(scope="module")
def islets():
    return dv.datasets.pancreas_endocrinogenesis()


def test_pancreas_endocrinogenesis_has_counts_and_all_stages(islets):
    assert islets.shape == (2000, 1007)
    assert sparse.isspmatrix_csr(islets.X)
    assert islets.X.dtype == np.float32
    assert islets.X.max() > 255  # the high bytes are read too
    assert dv.pp.check(islets).kind == "counts"
    assert islets.obs_names.is_unique
    assert islets.var_names.is_unique
    sizes = islets.obs["cell_type"].value_counts()
    assert sizes[["Delta", "Epsilon"]].to_dict() == {"Delta": 70, "Epsilon": 142}  # all there are
    assert sizes.sum() == 2000
    assert set(sizes.index) == {name for key in ("source", "target", "earlier") for name in _bundled.DEMO[key]}
    assert islets.uns["diffvae_dataset"]["progenitors"] == "Ngn3 high EP"
    assert (islets.obs["n_counts"] >= islets.X.sum(axis=1).A1).all()


def test_the_hormones_are_where_they_belong(islets):
    """Types, genes and cells stand in one order: each type has the highest mean of its hormone or regulator."""
    genes = {
        "Alpha": "Gcg",
        "Beta": "Ins1",
        "Delta": "Sst",
        "Epsilon": "Ghrl",
        "Ngn3 high EP": "Neurog3",
        "Ductal": "Sox9",
    }
    means = islets[:, list(genes.values())].to_df().groupby(islets.obs["cell_type"].to_numpy()).mean()
    assert means.idxmax().to_dict() == {gene: name for name, gene in genes.items()}


def test_markers_and_regulators_are_bundled(islets):
    known = set(islets.var_names)
    assert {
        "Neurog3",
        "Pax4",
        "Arx",
        "Pdx1",
        "Nkx6-1",
        "Nkx2-2",
        "Mafb",
        "Isl1",
        "Fev",
        "Insm1",
        "Hhex",
        "Rfx6",
    } <= known
    markers = dv.tl.load_markers("islet-mouse")
    of = markers[markers["cell_type"].isin(["Alpha cell", "Beta cell", "Delta cell"]) & (markers["direction"] == "up")]
    assert of[of["gene"].isin(known)].groupby("cell_type").size().min() >= 5


def test_the_bundled_file_is_small_and_fast():
    file = _bundled.files("diffvae.datasets") / "pancreas_endocrinogenesis.npz"
    assert len(file.read_bytes()) < 1_000_000
    start = time.process_time()
    first = dv.datasets.pancreas_endocrinogenesis()
    assert time.process_time() - start < 1
    first.X.data[:] = 99  # new each time
    assert dv.datasets.pancreas_endocrinogenesis().X.max() > 1000


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
    assert table[["cells", "genes"]].to_numpy().tolist()[3:] == [[1422, 1845], [2285, 4000], [1034, 700]]
