import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData, read_h5ad

from diffvae.pp import DataError, from_unit, prepare, unscale

SHARED = Path(__file__).parents[2] / "shared" / "data"


def counts(n_cells=80, n_genes=60, seed=0):
    rng = np.random.default_rng(seed)
    depth = rng.lognormal(0, 0.4, (n_cells, 1))
    state = 1 + 4 * (rng.random((n_cells, 1)) < 0.5) * (rng.random(n_genes) < 0.3)
    return rng.poisson(depth * state * rng.gamma(0.7, 2.0, n_genes) + 0.05).astype(np.float32)


def dense(x):
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def log1p(x, total=1e4):
    return np.log1p(x / x.sum(axis=1, keepdims=True) * total)


def test_by_hand():
    x = np.zeros((10, 3), dtype=np.float32)
    x[:, 0], x[:, 1] = np.arange(1, 11), np.arange(10, 0, -1)
    adata = AnnData(x)
    assert prepare(adata, target_sum=11, validation_size=0) is None
    # Every cell sums to 11, so that the target changes nothing; the third gene doesn't vary.
    np.testing.assert_allclose(dense(adata.X), np.log1p(x[:, :2]), rtol=1e-6)
    np.testing.assert_allclose(adata.var["unit_min"], np.log([2, 2]), rtol=1e-6)
    np.testing.assert_allclose(adata.var["unit_max"], np.log([11, 11]), rtol=1e-6)
    expected = (np.log1p(x[:, 0]) - np.log(2)) / (np.log(11) - np.log(2))
    np.testing.assert_allclose(dense(adata.layers["unit"])[:, 0], expected, atol=1e-6)
    assert (adata.layers["counts"] == x[:, :2]).all()
    assert adata.obs["diffvae_split"].tolist() == ["train"] * 10
    assert adata.raw.shape == (10, 3)


@pytest.mark.parametrize(
    "form",
    [
        np.asarray,
        np.asfortranarray,
        sp.csr_matrix,
        sp.csc_matrix,
        sp.csr_array,
        lambda x: x.astype(np.int64),
        lambda x: x.astype(np.float16),
        lambda x: sp.csr_matrix(x.astype(np.float64)),
        lambda x: sp.csr_matrix(x.astype(np.uint16)),
    ],
)
def test_every_form_gives_the_same(form, tmp_path):
    x = counts()
    expected = prepare(AnnData(x), n_top_genes=30, copy=True)
    given = form(x)
    adata = prepare(AnnData(given.copy()), n_top_genes=30, copy=True)
    assert adata.var_names.equals(expected.var_names)
    np.testing.assert_allclose(dense(adata.X), dense(expected.X), rtol=1e-5)
    np.testing.assert_allclose(dense(adata.layers["unit"]), dense(expected.layers["unit"]), atol=1e-5)
    assert (dense(adata.layers["counts"]) == dense(expected.layers["counts"])).all()
    for matrix in (adata.X, adata.layers["unit"]):
        assert matrix.dtype == np.float32
        assert matrix.format == "csr" if sp.issparse(given) else matrix.flags.c_contiguous
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = read_h5ad(tmp_path / "a.h5ad")
    assert (dense(again.layers["unit"]) == dense(adata.layers["unit"])).all()
    assert again.uns["diffvae"]["prepare"]["kind"] == "counts"


def test_scaling_is_fitted_on_training_cells_and_the_rest_is_cut_off():
    adata = prepare(AnnData(sp.csr_matrix(counts())), n_top_genes=None, rng=1, copy=True)
    train = (adata.obs["diffvae_split"] == "train").to_numpy()
    assert train.sum() == 64
    x, unit = dense(adata.X), dense(adata.layers["unit"])
    np.testing.assert_array_equal(adata.var["unit_min"], x[train].min(axis=0))
    np.testing.assert_array_equal(adata.var["unit_max"], x[train].max(axis=0))
    low, high = x[train].min(axis=0), x[train].max(axis=0)
    outside = (x < low) | (x > high)
    assert not outside[train].any()
    share = adata.uns["diffvae"]["prepare"]["validation_clipped_share"]
    assert share == pytest.approx(outside[~train].mean())
    assert share > 0
    assert unit.min() == 0
    assert unit.max() == 1
    np.testing.assert_allclose(dense(unscale(adata))[~outside], x[~outside], atol=1e-6)


def test_kinds_end_on_one_scale():
    x = counts()
    cpm, logged = per_million(x), log1p(x)
    expected = prepare(AnnData(x), copy=True)
    for other, kind in ((cpm, "normalised"), (logged, "log")):
        adata = prepare(AnnData(other.astype(np.float32)), copy=True)
        assert adata.uns["diffvae"]["prepare"]["kind"] == kind
        assert "counts" not in adata.layers
        np.testing.assert_allclose(dense(adata.X), dense(expected.X), rtol=1e-4, atol=1e-5)
    assert "target_sum" not in adata.uns["diffvae"]["prepare"]


def per_million(x):
    return x / x.sum(axis=1, keepdims=True) * 1e6


def test_target_sum_none_is_the_median_total():
    x = counts()
    adata = prepare(AnnData(x), target_sum=None, copy=True)
    assert adata.uns["diffvae"]["prepare"]["target_sum"] == np.median(x.sum(axis=1))
    np.testing.assert_allclose(np.expm1(dense(adata.raw.X)).sum(axis=1), np.median(x.sum(axis=1)), rtol=1e-4)


def test_genes_are_those_of_scanpy():
    adata = AnnData(sp.csr_matrix(counts(200, 400)), obs=pd.DataFrame({"b": ["x", "y"] * 100}).rename(str))
    expected = adata.copy()
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    for key in (None, "b"):
        table = sc.pp.highly_variable_genes(expected, n_top_genes=50, batch_key=key, inplace=False)
        kept = prepare(adata, n_top_genes=50, batch_key=key, copy=True)
        assert kept.n_vars == 50
        assert set(kept.var_names) == set(expected.var_names[table["highly_variable"].to_numpy(dtype=bool)])


def test_same_seed_same_cells():
    def split(rng):
        return prepare(AnnData(counts()), rng=rng, copy=True).obs["diffvae_split"].tolist()

    assert split(0) == split(0) != split(1)
    assert split(0) == split(0)
    assert sorted(set(split(np.random.default_rng(3)))) == ["train", "validation"]


def test_views_layers_and_what_is_beside_are_kept():
    adata = AnnData(counts(), obs=pd.DataFrame({"t": np.arange(80.0)}).rename(str))
    adata.layers["spliced"] = adata.X * 2
    adata.obsm["X_pca"] = np.ones((80, 2))
    adata.varm["w"] = np.arange(60.0)[:, None]
    adata.uns["mine"] = {"a": 1}
    view = adata[10:70, 5:]
    prepare(view, n_top_genes=20, layer="spliced")
    assert view.shape == (60, 20)
    assert not view.is_view
    assert view.obs["t"].tolist() == list(np.arange(10.0, 70))
    assert (view.varm["w"][:, 0] == view.var_names.astype(float)).all()
    assert (view.layers["counts"] == view.layers["spliced"]).all()
    assert view.uns["mine"] == {"a": 1}
    assert adata.shape == (80, 60)
    assert "diffvae" not in adata.uns
    assert set(adata.layers) == {"spliced"}


def test_copy_leaves_the_input_alone():
    adata = AnnData(sp.csr_matrix(counts()), uns={"diffvae": {"old": 1}})
    before = adata.copy()
    out = prepare(adata, n_top_genes=10, copy=True)
    assert (adata.X != before.X).nnz == 0
    assert adata.uns == before.uns
    assert list(adata.obs) == list(adata.var) == list(adata.layers) == []
    assert list(out.uns["diffvae"]) == ["prepare"]


def test_input_is_as_it_was_when_something_fails(monkeypatch):
    adata = AnnData(counts())
    monkeypatch.setattr("diffvae.pp._prepare.to_unit", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(adata, n_top_genes=10)
    assert adata.shape == (80, 60)
    np.testing.assert_array_equal(adata.X, counts())
    assert not adata.layers
    assert not adata.uns
    assert adata.raw is None


def test_raw_of_more_logged_genes_is_kept():
    full = AnnData(log1p(counts()).astype(np.float32))
    part = full[:, :30].copy()
    part.raw = full
    out = prepare(part, n_top_genes=10, copy=True)
    assert out.shape == (80, 10)
    assert out.raw.shape == (80, 60)
    part.raw = AnnData(counts())
    assert prepare(part, n_top_genes=10, copy=True).raw.shape == (80, 30)


def test_scaled_data_are_refused_with_the_way_out_and_raw_works():
    adata = AnnData(log1p(counts()).astype(np.float32))
    adata.raw = adata.copy()
    adata.X = adata.X - adata.X.mean(axis=0)
    with pytest.raises(DataError, match=r"adata.raw has 60 genes: pass adata.raw.to_adata\(\)"):
        prepare(adata)
    assert prepare(adata.raw.to_adata(), copy=True).shape == (80, 60)


def test_preparing_twice_is_refused():
    adata = AnnData(counts())
    prepare(adata)
    with pytest.raises(DataError, match="has been prepared already"):
        prepare(adata)
    with pytest.raises(DataError, match="has been prepared already"):
        prepare(adata, layer="counts")
    # All genes are still there, and preparing them is right.
    assert prepare(adata.raw.to_adata(), n_top_genes=5, copy=True).n_vars == 5


def test_cells_without_counts_stay_and_are_warned_about():
    x = counts()
    x[3] = 0
    with pytest.warns(UserWarning, match="Cells without any expression: 1; "):
        adata = prepare(AnnData(sp.csr_matrix(x)), copy=True)
    assert not dense(adata.X)[3].any()
    assert np.isfinite(dense(adata.layers["unit"])).all()
    assert len(adata.uns["diffvae"]["prepare"]["warnings"]) == 1


def test_genes_that_occur_twice_get_names_of_their_own():
    names = ["A", "A", *[f"g{i}" for i in range(57)], "A-1"]
    with pytest.warns(UserWarning, match="not unique"):
        adata = AnnData(counts(), var=pd.DataFrame(index=names))
    with pytest.warns(UserWarning, match="Gene names occur more than once: 'A'"):
        prepare(adata, n_top_genes=None)
    assert adata.var_names.is_unique
    assert adata.raw.var_names.is_unique


def test_small_batches_have_no_say():
    adata = AnnData(counts(), obs=pd.DataFrame({"donor": [1] * 40 + [2] * 37 + [3] * 3}).rename(str))
    with pytest.warns(UserWarning, match="fewer than 10 cells did not take part in choosing genes: '3'"):
        assert prepare(adata, n_top_genes=10, batch_key="donor", copy=True).n_vars == 10
    adata.obs["cell"] = adata.obs_names
    with pytest.warns(UserWarning, match="batches were ignored"):
        prepare(adata, n_top_genes=10, batch_key="cell", copy=True)


@pytest.mark.parametrize("seed", range(8))
def test_awkward_data_do_not_break_the_choice_of_genes(seed):
    rng = np.random.default_rng(seed)
    x = [
        (rng.random((12, 40)) < 0.1) * 1.0,
        rng.poisson(0.05, (15, 30)) * 1.0,
        np.repeat(rng.poisson(1.0, (20, 1)), 30, axis=1) * 1.0,
        np.where((g := rng.gamma(0.3, 1e3, (11, 25))) < 100, 0, g),
    ][seed % 4]
    adata = AnnData(x.astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        out = prepare(adata, n_top_genes=7, batch_key=None, copy=True)
    assert out.n_vars == 7


def test_genes_constant_once_depth_is_gone():
    x = np.repeat(np.arange(1, 21)[:, None], 5, axis=1).astype(np.float32)
    with pytest.raises(DataError, match="No gene varies after all cells are normalised to one total"):
        prepare(AnnData(x))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_top_genes": 0}, "n_top_genes is 0; it must be None or a whole number of 1 or more"),
        ({"target_sum": 0}, "target_sum is 0; it must be None or a number above 0"),
        ({"validation_size": 1.0}, "validation_size is 1.0; it must be a number of at least 0 and below 1"),
        ({"validation_size": 0.99}, "leaves 1 of 80 cells for training"),
        ({"batch_key": "donor"}, "adata.obs has no column 'donor'"),
        ({"batch_key": "gap"}, r"adata.obs\['gap'\] \(batch_key\) is missing for 1 cells"),
        ({"layer": "counts"}, r"adata.layers\['counts'\] is missing"),
        ({"rng": -1}, "rng is -1"),
    ],
)
def test_sentences(kwargs, message):
    adata = AnnData(counts(), obs=pd.DataFrame({"gap": [None, *["a"] * 79]}).rename(str))
    with pytest.raises(ValueError, match=message):
        prepare(adata, **kwargs)
    assert adata.shape == (80, 60)
    assert not adata.uns


def test_rounding_errors_of_counts_are_gone():
    adata = prepare(AnnData(counts() + np.float32(1e-5)), copy=True)
    assert (adata.layers["counts"] == np.rint(adata.layers["counts"])).all()


@pytest.mark.parametrize("name", ["paul15", "hsmm_myoblast"])
def test_real_data(name, tmp_path):
    path = SHARED / f"{name}.h5ad"
    if not path.exists():
        pytest.skip(f"{name} is not there")
    adata = read_h5ad(path)
    prepare(adata)
    assert adata.n_vars == 2000
    assert adata.layers["unit"].nnz <= adata.X.nnz
    train = (adata.obs["diffvae_split"] == "train").to_numpy()
    back = from_unit(adata.layers["unit"], adata.var["unit_min"], adata.var["unit_max"])
    assert abs(back - adata.X)[train].max() < 1e-6
    assert adata.uns["diffvae"]["prepare"]["validation_clipped_share"] < 0.01
    adata.write_h5ad(tmp_path / "a.h5ad")
