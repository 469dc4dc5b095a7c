"""Absorption probabilities: by hand, by a dense solve and by walks that are played."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import diffvae as dv
from diffvae import tl
from diffvae.pp import DataError
from diffvae.tl._fates import absorption


def line(types, edges, n=None) -> ad.AnnData:
    n = len(types)
    graph = np.zeros((n, n))
    for i, j in edges:
        graph[i, j] = graph[j, i] = 1
    obs = pd.DataFrame({"type": list(types)}, index=[f"c{i}" for i in range(n)])
    adata = ad.AnnData(np.random.default_rng(0).random((n, 4)).astype(np.float32), obs=obs)
    adata.obsp["mine"] = sparse.csr_matrix(graph)
    return adata


def tree(seed=0) -> ad.AnnData:
    adata = dv.datasets.simulate_differentiation(1000, 300, rng=seed)
    dv.pp.prepare(adata)
    return adata


def test_a_line_by_hand():
    # red - stem - stem - blue; from the left stem cell: half to red at once, else on to the right one
    adata = line(["red", "stem", "stem", "blue"], [(0, 1), (1, 2), (2, 3)])
    table = tl.fates(adata, "stem", "type", graph="mine", alpha=0.9)
    near = 0.45 / (1 - 0.45**2)  # b = .45 + .45 c, c = .45 b
    assert table.index.tolist() == ["c1", "c2"]
    assert table.columns.tolist() == ["blue", "red"]
    assert table.to_numpy() == pytest.approx(np.array([[0.45 * near, near], [near, 0.45 * near]]))
    assert adata.uns["diffvae"]["fates"]["names"] == ["blue", "red"]
    stored = adata.obsm["diffvae_fates"]
    assert stored[1:3] == pytest.approx(table.to_numpy())
    assert np.isnan(stored[[0, 3]]).all()


def test_the_equation_with_a_dense_solve():
    rng = np.random.default_rng(0)
    graph = rng.random((60, 60)) < 0.1
    graph = sparse.csr_matrix(np.triu(graph, 1) + np.triu(graph, 1).T, dtype=float)
    walks = np.arange(60) < 40
    member = (np.arange(60)[:, None] % 3 == [0, 1]) & ~walks[:, None]  # cells of a third kind end the walk
    weights = rng.random(60) + 0.1
    for w in (None, weights):
        p = graph.toarray() * (1 if w is None else w)
        p = p / np.maximum(p.sum(1, keepdims=True), 1e-300)
        q, r = p[np.ix_(walks, walks)], p[walks] @ member
        expected = 0.9 * np.linalg.solve(np.eye(40) - 0.9 * q, r)
        assert absorption(graph, walks, member.astype(float), 0.9, w) == pytest.approx(expected, abs=1e-6)


def test_walks_that_are_played_end_as_often():
    adata = line(["red", "stem", "stem", "stem", "blue", "old"], [(0, 1), (1, 2), (2, 3), (3, 4), (2, 5), (1, 3)])
    table = tl.fates(adata, "stem", "type", earlier=["old"], graph="mine", alpha=0.8)
    graph, rng, ends = adata.obsp["mine"], np.random.default_rng(0), {"red": 0, "blue": 0}
    near, n_walks = [graph[[i]].indices for i in range(6)], 10_000
    for _ in range(n_walks):
        at = 1
        while at in (1, 2, 3) and rng.random() < 0.8:
            at = near[at][rng.integers(len(near[at]))]
        name = adata.obs["type"].iloc[at]
        if name in ends:
            ends[name] += 1
    for name, n in ends.items():
        assert n / n_walks == pytest.approx(table.loc["c1", name], abs=4 * np.sqrt(0.25 / n_walks))


def test_earlier_types_end_a_walk_and_are_no_fates():
    adata = line(["red", "stem", "old", "red"], [(0, 1), (1, 2), (2, 3)])
    table = tl.fates(adata, "stem", "type", earlier=["old"], graph="mine")
    assert table.columns.tolist() == ["red"]
    assert table.loc["c1", "red"] == pytest.approx(0.45)  # not through the old cell


def test_a_walk_passes_through_types_in_between_but_not_through_earlier_ones():
    adata = line(["red", "half", "stem", "old", "red"], [(0, 1), (1, 2), (2, 3), (3, 4)])
    table = tl.fates(adata, "stem", "type", targets=["red"], earlier=["old"], graph="mine", n_bootstraps=2)
    # stem goes to half (.45) or ends in old; half goes to red (.45) or back
    assert table.loc["c2", "red"] == pytest.approx(0.45**2 / (1 - 0.45**2))
    assert table.index.tolist() == ["c2"]
    assert np.isnan(adata.obsm["diffvae_fates"][[0, 1, 3, 4]]).all()
    assert np.isnan(adata.obsm["diffvae_fates_se"][[0, 1, 3, 4]]).all()
    assert tl.fates(adata, "stem", "type", earlier=["old"], graph="mine")["red"].tolist() == [0]  # half is a target


def test_all_cells():
    adata = line(["red", "stem", "old", "blue"], [(0, 1), (1, 2), (2, 3)])
    table = tl.fates(adata, "stem", "type", targets=["red", "blue"], graph="mine", all_cells=True)
    near = 0.45 / (1 - 0.45**2)
    assert table.to_numpy() == pytest.approx(np.array([[1, 0], [near, 0.45 * near], [0.45 * near, near], [0, 1]]))
    assert len(table) == adata.n_obs


def test_cells_without_a_way_have_zero_and_are_counted():
    adata = line(["red", "stem", "stem", "stem"], [(0, 1), (2, 3)])
    table = tl.fates(adata, "stem", "type", graph="mine")
    assert table["red"].tolist() == pytest.approx([0.9, 0, 0])
    assert adata.uns["diffvae"]["fates"]["n_unreached"] == 2


@pytest.mark.parametrize(("n", "alpha"), [(60, 0.9), (12, 0.01)])
def test_cells_far_from_a_target_are_reached(n, alpha):
    adata = line(["red"] + ["stem"] * n, [(i, i + 1) for i in range(n)])
    table = tl.fates(adata, "stem", "type", graph="mine", alpha=alpha)
    assert table["red"].iloc[-1] < 1e-9  # below the precision of the solve
    assert adata.uns["diffvae"]["fates"]["n_unreached"] == 0


def test_nobody_is_earlier():
    adata = line(["red", "stem", "stem", "blue"], [(0, 1), (1, 2), (2, 3)])
    table = tl.fates(adata, "stem", "type", graph="mine", earlier=None)
    pd.testing.assert_frame_equal(tl.fates(adata, "stem", "type", graph="mine", earlier=[]), table)


def test_a_group_with_the_name_of_all_is_refused():
    adata = line(["red", "stem", "stem", "blue"], [(0, 1), (1, 2), (2, 3)])
    adata.obs["half"] = ["all", "all", "right", "all"]
    with pytest.raises(DataError, match="has a group 'all', the name of all progenitors; rename the group"):
        tl.fates(adata, "stem", "type", graph="mine", k=1, split_by="half")
    assert "diffvae_fates" not in adata.obsm
    adata.obs["half"] = ["all", "left", "right", "all"]  # only among others
    tl.fates(adata, "stem", "type", graph="mine", k=1, split_by="half")
    assert adata.uns["diffvae"]["fate_table"]["n_cells"].tolist() == [2, 2, 1, 1, 1, 1]


def test_progenitors_on_a_branch_rank_before_others():
    adata = tree()
    table = tl.fates(adata, "MEP", "cell_type", targets=["Erythrocyte", "Thrombocyte"], earlier=["HSPC"])
    branch = adata.obs.loc[table.index, "branch"].astype(str)
    for name in ("Erythrocyte", "Thrombocyte"):
        begun = (branch == name).to_numpy()
        assert (table[name][begun].to_numpy()[:, None] > table[name][~begun].to_numpy()).mean() > 0.75
    assert table.sum(axis=1).between(0, 1).all()
    assert 0 < adata.uns["diffvae"]["fates"]["hub_share"] < 0.3


def test_bootstraps_give_standard_errors_that_a_later_call_removes():
    adata = tree()
    table = tl.fates(adata, "MEP", "cell_type", n_bootstraps=10, rng=1)
    errors = adata.obsm["diffvae_fates_se"]
    own = (adata.obs["cell_type"] == "MEP").to_numpy()
    assert np.isnan(errors[~own]).all()
    assert (errors[own] >= 0).all()
    assert 0 < errors[own].max() < 0.4
    other = tree()
    pd.testing.assert_frame_equal(tl.fates(other, "MEP", "cell_type", n_bootstraps=10, rng=1), table)
    assert np.array_equal(other.obsm["diffvae_fates_se"], errors, equal_nan=True)
    tl.fates(adata, "MEP", "cell_type")
    assert "diffvae_fates_se" not in adata.obsm


def test_the_table_of_groups_by_hand():
    # red - stem - stem - blue, as above; the third group has no name
    adata = line(["red", "stem", "stem", "blue"], [(0, 1), (1, 2), (2, 3)])
    adata.obs["half"] = pd.Categorical([None, "left", "right", None])
    tl.fates(adata, "stem", "type", graph="mine", k=1, split_by="half", n_bootstraps=1)
    near = 0.45 / (1 - 0.45**2)
    far, middle = 0.45 * near, (near + 0.45 * near) / 2
    table = adata.uns["diffvae"]["fate_table"]
    assert table["group"].tolist() == ["all", "all", "left", "left", "right", "right"]
    assert table["n_cells"].tolist() == [2, 2, 1, 1, 1, 1]
    assert table["type"].tolist() == ["blue", "red"] * 3
    assert table["probability"].tolist() == pytest.approx([middle, middle, far, near, near, far])
    assert table["null"].tolist() == pytest.approx([middle] * 6)
    # of two cells one is drawn at random: its standard deviation is that of the two values
    assert table["null_sd"].tolist() == pytest.approx([0, 0] + [(near - far) / 2] * 4)
    assert table["se"].isna().all()
    tl.fates(adata, "stem", "type", graph="mine")
    assert "fate_table" not in adata.uns["diffvae"]  # of an earlier call


def test_random_groups_have_the_mean_and_spread_that_the_table_says():
    adata = tree()
    values = tl.fates(adata, "MEP", "cell_type", targets=["Erythrocyte"])["Erythrocyte"].to_numpy()
    rng = np.random.default_rng(0)
    means = [rng.choice(values, 30, replace=False).mean() for _ in range(4000)]
    adata.obs["group"] = None
    own = np.flatnonzero((adata.obs["cell_type"] == "MEP").to_numpy())
    adata.obs.iloc[own[:30], adata.obs.columns.get_loc("group")] = "some"
    tl.fates(adata, "MEP", "cell_type", targets=["Erythrocyte"], split_by="group", n_bootstraps=8)
    row = adata.uns["diffvae"]["fate_table"].set_index("group").loc["some"]
    assert row["probability"] == pytest.approx(values[:30].mean())
    assert row["null"] == pytest.approx(np.mean(means), abs=0.01)
    assert row["null_sd"] == pytest.approx(np.std(means), rel=0.06)
    assert 0 < row["se"] < 0.2
    assert row["pca"] != row["probability"]


def test_what_is_written_survives_a_file(tmp_path):
    adata = tree()
    tl.fates(adata, "HSPC", "cell_type", earlier=(), n_bootstraps=2)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert list(again.uns["diffvae"]["fates"]["names"]) == adata.uns["diffvae"]["fates"]["names"]
    assert np.array_equal(again.obsm["diffvae_fates"], adata.obsm["diffvae_fates"], equal_nan=True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"source": "root"}, "'root' is not a type"),
        ({"split_by": ["type"]}, "split_by is .'type'.; the columns of adata.obs are"),
        ({"split_by": "nothing"}, "split_by is 'nothing'; the columns of adata.obs are"),
        ({"targets": ["pink"]}, "'pink' is not a type"),
        ({"earlier": ["red"], "targets": ["red"]}, "earlier has 'red', which is also the source or a target"),
        ({"earlier": ["stem"]}, "earlier has 'stem'"),
        ({"targets": "red"}, "targets and earlier are lists of types"),
        ({"targets": []}, "it must be one or more types"),
        ({"graph": "other"}, r"obsp\['other'\] is missing"),
        ({"use_rep": "X_pca"}, "graph and use_rep are both given"),
        ({"alpha": 1.0}, "alpha is 1.0; it must be a number above 0 and below 1"),
        ({"n_bootstraps": -1}, "n_bootstraps is -1"),
    ],
)
def test_errors_are_sentences(options, sentence):
    adata = line(["red", "stem", "blue"], [(0, 1), (1, 2)])
    with pytest.raises(ValueError, match=sentence):
        tl.fates(adata, **{"source": "stem", "groupby": "type", "graph": "mine", **options})
    assert "diffvae_fates" not in adata.obsm


def test_use_rep_is_taken_as_it_is():
    adata = tree()
    dv.pp.whiten(adata, "cell_type", without=["MEP"])
    given = tl.fates(adata, "MEP", "cell_type", use_rep="X_white")
    made = tl.fates(adata, "MEP", "cell_type")
    assert given.to_numpy() == pytest.approx(made.to_numpy(), abs=0.02)  # float32 may change a neighbour
    assert issubclass(DataError, ValueError)
