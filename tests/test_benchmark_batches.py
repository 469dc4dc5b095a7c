"""The artificial batches of ``benchmarks/batches.py``, whose truth must be what the script says."""

import importlib.util
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "batches.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("batches", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cells():
    x = np.tile(np.repeat([0, 1, 8], 20), (900, 1))
    types = pd.DataFrame({"type": ["A", "B", "C"] * 300}, index=[str(i) for i in range(900)])
    return ad.AnnData(sparse.csr_matrix(x.astype(np.float32)), obs=types)


def test_cells_are_divided_evenly_and_a_type_is_missing_from_the_first_batch(script, cells):
    found = script.artificial_batches(cells, 3)
    assert found.obs["batch"].value_counts().to_dict() == {"batch_1": 300, "batch_2": 300, "batch_3": 300}
    found = script.artificial_batches(cells, 3, missing_type=("type", "B"))
    table = pd.crosstab(found.obs["type"], found.obs["batch"])
    assert table.loc["B", "batch_1"] == 0
    assert table.loc["B"].sum() == 300
    assert (table.loc[["A", "C"]] > 70).all(axis=None)


def test_each_gene_has_a_scale_of_its_own_in_each_batch(script, cells):
    found = script.artificial_batches(cells, 2, scale_sd=0.5, dropout=0.0, rng=1)
    x, batch = found.X.toarray(), found.obs["batch"].to_numpy()
    scale = np.array([x[batch == b].mean(axis=0) for b in ("batch_1", "batch_2")])[:, 40:] / 8
    assert np.log(scale).std() == pytest.approx(0.5, abs=0.12)
    assert np.median(scale) == pytest.approx(1, abs=0.2)
    assert abs(np.corrcoef(np.log(scale))[0, 1]) < 0.5
    assert (x[:, :20] == 0).all()
    assert (x == np.rint(x)).all()
    # the counts of a cell scatter no more than a binomial draw of 8 does
    within = np.array([x[batch == "batch_1"][:, g].var() for g in range(40, 60)])
    assert within.max() < 8 * 0.3
    assert (found.layers["original"] != cells.X).nnz == 0


def test_dropout_takes_small_counts_of_later_batches(script, cells):
    found = script.artificial_batches(cells, 2, scale_sd=0.0, dropout=0.3, rng=1)
    lost = pd.DataFrame(found.X.toarray() == 0).groupby(found.obs["batch"].to_numpy()).mean()
    assert lost.loc["batch_1", 20:].max() == 0
    assert lost.loc["batch_2", 20:39].mean() == pytest.approx(0.3, abs=0.02)
    assert lost.loc["batch_2", 40:].mean() == pytest.approx(0.3 * np.exp(-7), abs=0.002)


def test_the_seed_decides(script, cells):
    first, again, other = (script.artificial_batches(cells, rng=rng) for rng in (0, 0, 1))
    assert (first.X != again.X).nnz == 0
    assert first.obs["batch"].equals(again.obs["batch"])
    assert (first.X != other.X).nnz > 0
    assert "batch" not in cells.obs


def test_a_table_has_both_sides_and_the_cells_without_effects(script):
    from diffvae import datasets

    def small(seed):
        adata = datasets.simulate_differentiation(300, 200, rng=seed)
        return script.artificial_batches(adata, 2, scale_sd=1.0, rng=seed), "cell_type", "batch"

    script.N_LATENT = 10
    table = script.measure("small", {"small": small}, {"PCA": script.all_methods()["PCA"]}, 0).set_index("method")
    assert list(table.index) == ["PCA, no batches", "PCA"]
    assert table.loc["PCA, no batches", "ilisi"] > 0.8 > 0.3 > table.loc["PCA", "ilisi"]
    assert table.loc["PCA, no batches", "batch_r2"] < 0.05 < table.loc["PCA", "batch_r2"]
    assert table[["knn_purity", "ari_leiden", "ari_leiden_k"]].notna().all(axis=None)
