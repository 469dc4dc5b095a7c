import json

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import diffvae as dv
from diffvae.datasets import _simulate
from diffvae.datasets._tree import activation, adjacency, nested, parents_of, path_to

SMALL = {"stem": {"early": ["red", "white"], "late": None}}


@pytest.fixture(scope="module")
def default():
    return dv.datasets.simulate_differentiation()


def simulate(*size, **options):
    return dv.datasets.simulate_differentiation(*(size or (60, 80)), **options)


def test_activation_by_hand():
    on = activation(np.array([0.0, 0.25, 0.5, 0.75, 1.0]), np.array([0.0, 0.5]), np.array([1.0, 0.75]))
    np.testing.assert_allclose(on, [[0, 0], [0.15625, 0], [0.5, 0], [0.84375, 1], [1, 1]])


def test_tree_by_hand():
    parents = parents_of(SMALL)
    assert parents == {"stem": None, "early": "stem", "red": "early", "white": "early", "late": "stem"}
    assert path_to(parents, "white") == ["stem", "early", "white"]
    assert nested(parents) == {"stem": {"early": {"red": {}, "white": {}}, "late": {}}}
    table = adjacency(parents)
    assert table.to_numpy().sum() == 4
    assert table.loc["early", "red"]
    assert not table.loc["red", "early"]


cyclic: dict = {"a": {}}
cyclic["a"]["b"] = cyclic


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": None, "b": None}, "one root"),
        ({}, "one root"),
        (["a"], "one root"),
        ({"a": ["b", "b"]}, "'b' occurs in the tree twice"),
        ({"a": {"b": ["a"]}}, "'a' occurs in the tree twice"),
        (cyclic, "'a' occurs in the tree twice"),
        ({"a": ["b/c"]}, "can't name a cell type"),
        ({"a": [1]}, "can't name a cell type"),
        ({"a": {"b": 3}}, "children of 'b' are 3"),
        ({"a": "bc"}, "children of 'a' are 'bc'"),
        ("blood", "'hematopoiesis' or a nested mapping"),
    ],
)
def test_bad_trees(tree, message):
    with pytest.raises(ValueError, match=message):
        simulate(tree=tree)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_batches": 0}, "n_batches is 0"),
        ({"n_batches": 1.5}, "n_batches is 1.5"),
        ({"n_drivers": 0}, "n_drivers is 0"),
        ({"n_drivers": 40}, "fewer n_drivers"),
        ({"housekeeping": 1.0}, "leaves 0 genes"),
        ({"dropout": 1.2}, "dropout is 1.2; it must be a number of at least 0 and at most 1"),
        ({"effect": -1.0}, "effect is -1.0; it must be a number of at least 0"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"library_size": 0}, "library_size is 0; it must be a number above 0"),
        ({"dispersion": 0.0}, "dispersion is 0.0; it must be a number above 0"),
        ({"abundance": {"HSPC": 1.0}}, "exactly the types of the tree"),
        ({"tree": ["a"]}, "one root"),
        ({"tree": {"a": ["b"]}, "abundance": {"a": 1, "b": -1}}, "positive number"),
        ({"rng": -1}, "rng is -1"),
        ({"n_cells": 0}, "n_cells is 0"),
        ({"n_genes": 5}, "more n_genes"),
    ],
)
def test_bad_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        dv.datasets.simulate_differentiation(**{"n_cells": 60, "n_genes": 80} | options)


def test_counts_and_annotation(default):
    assert default.shape == (1000, 1000)
    assert sparse.isspmatrix_csr(default.X)
    assert default.X.dtype == np.float32
    assert default.X.has_canonical_format
    assert (default.X.data == np.round(default.X.data)).all()
    assert default.X.data.min() >= 1  # no zeros stored
    assert default.obs["cell_type"].nunique() == 8
    assert default.obs["pseudotime"].between(0, 1).all()
    assert list(default.obs["batch"].cat.categories) == ["batch_1"]
    assert "batch_effect" not in default.varm
    assert default.obs_names.is_unique
    assert default.var_names.is_unique
    assert 0.3 < default.X.nnz / 1e6 < 0.6


def test_cells_early_on_a_branch_are_called_by_its_parent(default):
    parents = parents_of(json.loads(default.uns["diffvae_truth"]["tree"]))
    obs = default.obs.astype({"cell_type": str, "branch": str})
    early = obs["cell_type"] != obs["branch"]
    assert 0.1 < early.mean() < 0.4
    assert (obs["branch"][early].map(parents) == obs["cell_type"][early]).all()
    none_early = simulate(commitment=0).obs
    assert (none_early["cell_type"].astype(str) == none_early["branch"].astype(str)).all()


def test_pseudotime_grows_with_depth(default):
    time = default.obs.groupby("branch", observed=True)["pseudotime"]
    assert time.max()["HSPC"] <= 1 / 3 <= time.min()["MEP"]
    assert time.max()["MEP"] <= 2 / 3 <= time.min()["Erythrocyte"]
    assert time.max()["Lymphocyte"] <= 2 / 3  # straight from HSPC, so no deeper than MEP


def test_drivers_are_consistent(default):
    drivers, var = default.uns["diffvae_truth"]["drivers"], default.var
    assert not drivers.duplicated(["gene", "branch"]).any()
    assert ((drivers["effect"] > 0) == (drivers["direction"] == "up")).all()
    assert (drivers["onset"] >= 0).all()
    assert (drivers["onset"] < drivers["end"]).all()
    assert (drivers["end"] <= 1).all()
    of_tree = var.loc[drivers["gene"].unique()]
    assert not of_tree["housekeeping"].any()
    assert (of_tree["noise_programme"] == "none").all()
    assert (var["noise_programme"][var["housekeeping"]] == "none").all()
    assert var["housekeeping"].sum() == 200
    assert var["noise_programme"].value_counts().drop("none").tolist() == [40, 40, 40]
    # What falls on leaving HSPC falls on every way out, by what it had risen.
    effect = drivers.set_index(["branch", "gene"])["effect"]
    falling = [
        {gene for gene in effect["HSPC"].index if effect[branch].get(gene) == -effect["HSPC"][gene]}
        for branch in ("MEP", "GMP", "Lymphocyte")
    ]
    assert falling[0] == falling[1] == falling[2]
    assert len(falling[0]) >= 10


def test_drivers_move_and_housekeeping_does_not():
    adata = simulate(3000, 200, noise=0, dropout=0, library_sd=0, rng=3)
    drivers = adata.uns["diffvae_truth"]["drivers"].query("branch == 'GMP'").set_index("gene")
    start = ((adata.obs["branch"] == "GMP") & (adata.obs["pseudotime"] < 0.4)).to_numpy()
    beyond = adata.obs["branch"].isin(["Neutrophil", "Monocyte"]) & (adata.obs["pseudotime"] < 0.72)
    change = np.log(np.asarray(adata.X[beyond.to_numpy()].mean(0)).ravel() + 0.02) - np.log(
        np.asarray(adata.X[start].mean(0)).ravel() + 0.02
    )
    change = pd.Series(change, index=adata.var_names)
    seen = adata.var["base"][drivers.index] > 2
    assert np.corrcoef(drivers["effect"][seen], change[drivers.index][seen])[0, 1] > 0.8
    quiet = change[adata.var["housekeeping"] & (adata.var["base"] > 2)]
    assert abs(quiet.mean()) < 0.1


def test_moments_of_the_negative_binomial():
    adata = simulate(
        4000, 20, tree={"a": []}, effect=0, noise=0, dropout=0, library_sd=0, library_size=400, n_drivers=2
    )
    counts, mean, phi = adata.X.toarray(), adata.var["base"], adata.var["dispersion"]
    np.testing.assert_allclose(counts.mean(0), mean, rtol=0.1)
    np.testing.assert_allclose(counts.var(0), mean + phi * mean**2, rtol=0.3)


def test_dropout_loses_rare_counts_only():
    options = {"effect": 0, "noise": 0, "library_sd": 0, "n_drivers": 2, "tree": {"a": []}, "dispersion": 0.01}
    kept = simulate(3000, 40, dropout=0, library_size=200, **options)
    lost = simulate(3000, 40, dropout=1, library_size=200, **options)
    rare, common = kept.var["base"] < 0.7, kept.var["base"] > 7
    ratio = np.asarray(lost.X.mean(0) / kept.X.mean(0)).ravel()
    expected = 1 - np.exp(-kept.var["base"])
    np.testing.assert_allclose(ratio[common], 1, atol=0.05)
    np.testing.assert_allclose(ratio[rare], expected[rare], atol=0.15)


def test_library_size():
    adata = simulate(2000, 40, effect=0, noise=0, dropout=0, library_size=500, library_sd=0.5, n_drivers=2)
    assert adata.obs["library_size"].mean() == pytest.approx(500, rel=0.05)
    assert np.log(adata.obs["library_size"]).std() == pytest.approx(0.5, rel=0.05)
    total = np.asarray(adata.X.sum(1)).ravel()
    assert np.corrcoef(total, adata.obs["library_size"])[0, 1] > 0.7


def test_abundances_are_kept_to_the_cell():
    adata = simulate(100, 80, tree=SMALL, abundance={"stem": 5, "early": 2, "red": 1, "white": 1, "late": 1})
    assert adata.obs["branch"].value_counts().to_dict() == {"stem": 50, "early": 20, "red": 10, "white": 10, "late": 10}
    assert adata.uns["diffvae_dataset"]["progenitors"] == "stem"


def test_noise_programmes_ignore_the_tree_and_move_their_genes(default):
    stress = default.obs.groupby("branch", observed=True)["stress"].mean()
    assert stress.std() < 0.06
    log = np.log1p(default.X.toarray() / default.obs["library_size"].to_numpy()[:, None] * 1e3)
    mine = (default.var["noise_programme"] == "stress").to_numpy()
    score = log[:, mine].mean(1)
    assert np.corrcoef(score, default.obs["stress"])[0, 1] > 0.5
    others = log[:, default.var["housekeeping"].to_numpy()].mean(1)
    assert abs(np.corrcoef(others, default.obs["stress"])[0, 1]) < 0.2
    cycling = default.obs["cell_cycle"].notna()
    assert cycling.mean() == pytest.approx(0.4, abs=0.05)


def test_batches_shift_genes():
    adata = simulate(1500, 100, n_batches=3, batch_effect=0.8, effect=0, noise=0, dropout=0, n_drivers=2)
    assert list(adata.obs["batch"].cat.categories) == ["batch_1", "batch_2", "batch_3"]
    shift = adata.varm["batch_effect"]
    assert shift.shape == (100, 3)
    rate = pd.DataFrame(adata.X.toarray() / adata.obs[["library_size"]].to_numpy(), columns=adata.var_names)
    log = np.log(rate.groupby(adata.obs["batch"].to_numpy()).mean())
    seen = adata.var["base"] > 5
    change = (log.loc["batch_2"] - log.loc["batch_1"])[seen]
    expected = (shift["batch_2"] - shift["batch_1"])[seen]
    np.testing.assert_allclose(change, expected, atol=0.3)


def test_same_seed_same_numbers(default):
    again, other = dv.datasets.simulate_differentiation(), dv.datasets.simulate_differentiation(rng=1)
    assert (default.X != again.X).nnz == 0
    pd.testing.assert_frame_equal(default.obs, again.obs)
    pd.testing.assert_frame_equal(default.uns["diffvae_truth"]["drivers"], again.uns["diffvae_truth"]["drivers"])
    assert (default.X != other.X).nnz > 0
    handed = np.random.default_rng(5)
    first, second = simulate(rng=handed), simulate(rng=handed)
    assert (first.X != second.X).nnz > 0


def test_types_missing_from_batches():
    asked = {"n_batches": 3, "rng": 2}
    whole = dv.datasets.simulate_differentiation(600, 200, **asked)
    missing = {"batch_1": ["Neutrophil", "HSPC"], "batch_3": ["HSPC"]}
    adata = dv.datasets.simulate_differentiation(600, 200, **asked, missing=missing)
    table = pd.crosstab(adata.obs["batch"], adata.obs["cell_type"])
    assert table.loc["batch_1", ["Neutrophil", "HSPC"]].tolist() == [0, 0]
    assert table.loc["batch_3", "HSPC"] == 0
    assert (table.to_numpy() == 0).sum() == 3
    # the cells are the same and are only moved
    unchanged = ["cell_type", "branch", "pseudotime", "cell_cycle", "stress"]
    pd.testing.assert_frame_equal(adata.obs[unchanged], whole.obs[unchanged])
    moved = adata.obs["batch"] != whole.obs["batch"]
    assert set(whole.obs.loc[moved, "cell_type"]) == {"Neutrophil", "HSPC"}
    assert set(adata.obs.loc[moved & (adata.obs["cell_type"] == "Neutrophil"), "batch"]) == {"batch_2", "batch_3"}
    pd.testing.assert_frame_equal(adata.varm["batch_effect"], whole.varm["batch_effect"])
    pd.testing.assert_series_equal(adata.obs.loc[~moved, "library_size"], whole.obs.loc[~moved, "library_size"])
    nothing = dv.datasets.simulate_differentiation(600, 200, **asked, missing={"batch_2": []})
    assert (nothing.X != whole.X).nnz == 0
    again = dv.datasets.simulate_differentiation(600, 200, **asked, missing=missing)
    assert (again.X != adata.X).nnz == 0


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ({"batch_4": ["HSPC"]}, "missing names the batch 'batch_4'; the batches are 'batch_1', 'batch_2', 'batch_3'"),
        ({"batch_1": ["B cell"]}, r"missing\['batch_1'\] names the type 'B cell'; the types are 'HSPC', 'MEP'"),
        ({"batch_1": "HSPC"}, r"missing\['batch_1'\] is 'HSPC'; give a list of types"),
        (
            {f"batch_{i}": ["GMP", "MEP"][: i > 1 or 2] for i in (1, 2, 3)},
            "missing takes 'GMP' from every batch; leave",
        ),
    ],
)
def test_impossible_missing_types_are_refused(missing, sentence):
    with pytest.raises(ValueError, match=sentence):
        dv.datasets.simulate_differentiation(100, 200, n_batches=3, missing=missing)


def test_numpy_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is the point
    simulate()
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002 - the global state is the point


def test_many_blocks_give_the_distribution_of_one(monkeypatch):
    one = simulate(400, 80)
    monkeypatch.setattr(_simulate, "_BLOCK", 80 * 7)
    many = simulate(400, 80)
    pd.testing.assert_frame_equal(one.obs, many.obs)
    assert many.X.shape == one.X.shape
    assert many.X.sum() == pytest.approx(one.X.sum(), rel=0.05)
    by_gene = [np.asarray(a.X.sum(0)).ravel() for a in (one, many)]
    assert np.corrcoef(*by_gene)[0, 1] > 0.98


def test_file_and_back(tmp_path):
    adata = simulate(tree=SMALL, n_batches=2)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert (adata.X != back.X).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, back.obs)
    pd.testing.assert_frame_equal(adata.var, back.var)
    pd.testing.assert_frame_equal(adata.varm["batch_effect"], back.varm["batch_effect"])
    truth, again = adata.uns["diffvae_truth"], back.uns["diffvae_truth"]
    pd.testing.assert_frame_equal(truth["drivers"], again["drivers"])
    pd.testing.assert_frame_equal(truth["lineage"], again["lineage"])
    assert json.loads(again["tree"]) == {"stem": {"early": {"red": {}, "white": {}}, "late": {}}}
    assert back.uns["diffvae_dataset"] == adata.uns["diffvae_dataset"]


def test_pca_neither_solves_nor_misses_it(default):
    import scanpy as sc
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    adata = default.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=50, random_state=0)
    truth = adata.obs["cell_type"]
    clusters = [KMeans(8, n_init=1, random_state=s).fit_predict(adata.obsm["X_pca"]) for s in range(3)]
    assert 0.45 < np.mean([adjusted_rand_score(truth, c) for c in clusters]) < 0.75
