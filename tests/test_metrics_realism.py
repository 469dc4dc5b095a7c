"""Whether artificial cells can be told from real ones."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from diffvae.metrics import realism


def cells(n, seed, genes=15):
    rng = np.random.default_rng(seed)
    return np.log1p(rng.poisson(np.linspace(0.2, 3, genes), (n, genes)))


def test_cells_of_the_same_distribution_are_at_chance_and_agree():
    table = realism(cells(800, 0), cells(400, 1))
    assert list(table) == ["artificial", "real"]
    assert table.loc["n_cells"].tolist() == [400, 400]
    assert table.loc["auc"].between(0.42, 0.58).all()
    assert (table.loc[["mean_correlation", "sd_correlation", "zeros_correlation"]] > 0.95).all(axis=None)
    assert table.loc["sd_ratio"].between(0.9, 1.1).all()
    assert table.index.name == "measure"


def test_means_without_noise_are_told_apart():
    real = cells(800, 0)
    table = realism(real, np.tile(real.mean(axis=0), (400, 1)))
    assert table.loc["auc", "artificial"] > 0.99
    assert table.loc["sd_ratio", "artificial"] < 1e-6
    assert np.isnan(table.loc["zeros_correlation", "artificial"])
    assert table.loc["zeros_error", "artificial"] == pytest.approx((real == 0).mean(), abs=0.03)


def test_values_by_hand():
    real, artificial = np.zeros((40, 2)), np.zeros((20, 2))
    real[:, 0], artificial[:, 0] = 1, 3
    artificial[:10, 1] = 2  # half of the cells
    found = realism(real, artificial)["artificial"]
    assert found["mean_error"] == pytest.approx((2 + 1) / 2)
    assert found["sd_error"] == pytest.approx((0 + 1) / 2)
    assert found["zeros_error"] == pytest.approx((0 + 0.5) / 2)


def test_shares_of_types():
    real, made = np.repeat(["a", "b"], 100), np.repeat(["a", "c"], 50)
    table = realism(cells(200, 0), cells(100, 1), real, made)
    assert table.loc["type_error", "artificial"] == pytest.approx(0.5, abs=0.11)
    assert table.loc["type_error", "real"] < 0.2
    assert realism(cells(200, 0), cells(100, 1), ["a"] * 200, ["a"] * 100).loc["type_error", "artificial"] == 0


def test_cells_without_a_type_are_left_out_of_the_shares():
    real, made = np.array(["a", "b", None, np.nan], object).repeat(50), ["a"] * 50 + [None] * 50
    table = realism(cells(200, 0), cells(100, 1), pd.Series(real), made)
    assert table.loc["type_error", "artificial"] == pytest.approx(0.5, abs=0.15)  # 100% of a, among real cells 50%
    table = realism(cells(200, 0), cells(100, 1), real, [None] * 100)
    assert np.isnan(table.loc["type_error", "artificial"])
    assert table.loc["type_error", "real"] < 0.3


@pytest.mark.parametrize(
    "form",
    [sparse.coo_matrix, sparse.csc_array, sparse.lil_matrix, sparse.dia_matrix, pd.DataFrame, np.ndarray.tolist],
)
def test_any_matrix_counts_the_same(form):
    real, artificial = cells(60, 0), cells(30, 1)
    assert realism(form(real), form(artificial)).equals(realism(real, artificial))


def test_a_matrix_in_an_open_file(tmp_path):
    real, artificial = cells(60, 0), cells(30, 1)
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        assert realism(file.create_dataset("x", data=real), artificial).equals(realism(real, artificial))


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (None, "real is of type NoneType"),
        ([[1, 2], [3]], "real is of type list"),
        (cells(50, 0)[0], r"real is of type ndarray, with the shape \(15,\)"),
        (cells(50, 0).astype(str), "values of type <U"),
        (np.ma.masked_equal(cells(50, 0), 0), "real is a masked array with"),
        (ad.AnnData(cells(50, 0)), "real is of type AnnData; give its matrix, such as adata.X"),
    ],
)
def test_what_is_no_matrix_is_refused(bad, sentence):
    with pytest.raises(ValueError, match=sentence):
        realism(bad, cells(50, 1))


def test_sparse_and_dense_agree_and_the_seed_decides():
    real, artificial = cells(100, 0), cells(100, 1)
    table = realism(real, artificial, rng=3)
    assert realism(sparse.csr_matrix(real), sparse.csr_matrix(artificial), rng=3).equals(table)
    assert not realism(real, artificial, rng=4).equals(table)
    assert realism(real, artificial, max_cells=20).loc["n_cells", "artificial"] == 20


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((cells(50, 0), cells(50, 1, genes=9)), "give cells x genes of the same genes"),
        ((cells(50, 0), cells(9, 1)), "50 real and 9 artificial cells; at least 20 real and 10 artificial"),
        ((cells(50, 0), cells(50, 1), ["a"] * 50), "belong together; give both or none"),
        ((cells(50, 0), cells(50, 1), ["a"] * 49, ["a"] * 50), "labels has 49 values for 50 cells"),
        ((np.full((50, 2), np.nan), cells(50, 1, genes=2)), "NaN or infinite"),
    ],
)
def test_bad_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        realism(*arguments)
