import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from diffvae import tl
from diffvae.pp import DataError

PAIRS = [("a", "a"), ("a", "b"), ("a", "c"), ("b", "b"), ("b", "c"), ("c", "c")]


def cells(types, edges, key="cell_graph") -> ad.AnnData:
    edges = np.asarray(edges)
    graph = sparse.csr_matrix((np.ones(len(edges)), edges.T), shape=(len(types), len(types)))
    obs = pd.DataFrame({"type": pd.Categorical(list(types))}, index=[f"cell {i}" for i in range(len(types))])
    return ad.AnnData(obs=obs, obsp={key: graph})


def drawn(seed, own=0.0, n_cells=300, n_links=1500) -> ad.AnnData:
    """Return cells of three types; a share of the links, own, stays within types, the rest goes anywhere."""
    rng = np.random.default_rng(seed)
    types = rng.choice(["a", "b", "c"], n_cells, p=[0.6, 0.3, 0.1])
    start, end = rng.integers(n_cells, size=(2, n_links))
    for i in np.flatnonzero(rng.random(n_links) < own):
        end[i] = rng.choice(np.flatnonzero(types == types[start[i]]))
    return cells(types, np.column_stack([start, end]))


def row(table, type_1, type_2):
    return table[(table["type_1"] == type_1) & (table["type_2"] == type_2)].iloc[0]


def test_expectations_by_hand():
    # a ring of 0, 1 (a), 2, 3 (b). Its three graphs, the three rings, are equally likely; a and a are neighbours, and b
    # and b with them, in two of the three: the a-b links are 2 in two of them and 4 in one
    table = tl.link_table(cells("aabb", [(0, 1), (1, 2), (2, 3), (3, 0)]), "type", graphs=["cell_graph"], n_null=1000)
    assert table[["type_1", "type_2"]].values.tolist() == [["a", "a"], ["a", "b"], ["b", "b"]]
    assert table["n_links"].tolist() == [1, 2, 1]
    assert table["n_cells_1"].tolist() == [2, 2, 2]
    assert table["expected"].to_numpy() == pytest.approx([2 / 3, 8 / 3, 2 / 3], abs=0.05)
    assert table["null_sd"].to_numpy() == pytest.approx([2**0.5 / 3, 8**0.5 / 3, 2**0.5 / 3], abs=0.05)
    assert table["p_enriched"].to_numpy() == pytest.approx([2 / 3, 1, 2 / 3], abs=0.05)
    assert table["p_depleted"].to_numpy() == pytest.approx([1, 2 / 3, 1], abs=0.05)
    assert table["p_value"].tolist() == [1, 1, 1]
    a = row(table, "a", "a")
    assert a["log2_ratio"] == pytest.approx(np.log2(1.5 / (a["expected"] + 0.5)))
    assert a["z"] == pytest.approx((1 - a["expected"]) / a["null_sd"])


def test_expected_links_follow_degrees():
    adata = drawn(0)
    table = tl.link_table(adata, "type", graphs=["cell_graph"])
    graph = adata.obsp["cell_graph"] + adata.obsp["cell_graph"].T
    graph.setdiag(0)
    degree = (graph.toarray() > 0).sum(1)
    ends = {t: degree[adata.obs["type"] == t].sum() for t in "abc"}
    assert table["n_links"].sum() == degree.sum() / 2
    for s, t in PAIRS:  # of 2m ends, d_s and d_t: d_s d_t / 2m links, half of that within a type
        by_degree = ends[s] * ends[t] / degree.sum() / (2 if s == t else 1)
        assert row(table, s, t)["expected"] == pytest.approx(by_degree, rel=0.05)


def test_large_counts_have_normal_p_values_and_small_ones_those_of_the_null():
    table = tl.link_table(drawn(1), "type", graphs=["cell_graph"], n_null=100)
    large = row(table, "a", "b")
    assert large["expected"] > 5
    assert large["p_enriched"] == pytest.approx(
        stats.norm.sf((large["n_links"] - 0.5 - large["expected"]) / large["null_sd"])
    )
    assert table["p_value"].to_numpy() == pytest.approx(
        np.minimum(1, 2 * table[["p_enriched", "p_depleted"]].min(axis=1))
    )
    # one cell of its own type: links with itself can't be, so every null graph has as many, none
    lonely = drawn(1)
    lonely.obs["type"] = ["z", *lonely.obs["type"].astype(str)[1:]]
    alone = row(tl.link_table(lonely, "type", graphs=["cell_graph"], n_null=20), "z", "z")
    assert (alone["n_links"], alone["expected"], alone["p_value"], alone["log2_ratio"]) == (0, 0, 1, 0)
    assert np.isnan(alone["z"])


def test_links_within_types_are_found():
    table = tl.link_table(drawn(0, own=0.3), "type", graphs=["cell_graph"])
    for s, t in PAIRS:
        found = row(table, s, t)
        assert found["q_value"] < 0.01
        assert (found["z"] > 0) == (s == t) == (found["log2_ratio"] > 0)
        assert found["p_enriched" if s == t else "p_depleted"] == found["p_value"] / 2


def test_random_graphs_have_few_false_positives():
    adatas = [drawn(seed, n_links=400) for seed in range(20)]
    tables = [tl.link_table(a, "type", graphs=["cell_graph"], n_null=100, rng=i) for i, a in enumerate(adatas)]
    assert sum((table["q_value"] < 0.05).any() for table in tables) <= 3
    tables = pd.concat(tables)
    # 120 p-values, six from each graph that are not independent
    assert (tables["p_value"] < 0.05).mean() < 0.1
    assert 0.3 < tables["p_value"].mean() < 0.7
    assert abs(tables["z"].mean()) < 0.3
    assert tables["z"].std() == pytest.approx(1, abs=0.25)


def test_only_presence_counts_and_only_once():
    adata = cells("aabbab", [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (0, 5)])
    graph = adata.obsp["cell_graph"]
    adata.obsp["weighted"] = (graph + 3 * graph.T + sparse.eye(6)) * 0.1
    adata.obsp["dense"] = graph.toarray() > 0
    expected = tl.link_table(adata, "type", graphs=["cell_graph"])["n_links"].tolist()
    assert tl.link_table(adata, "type", graphs=["weighted"])["n_links"].tolist() == expected
    assert tl.link_table(adata, "type", graphs="dense")["n_links"].tolist() == expected


def test_two_graphs_and_corrections_within_each():
    adata = drawn(0, own=0.2)
    adata.obsp["diffvae_called_links"] = drawn(5).obsp["cell_graph"]
    table = tl.link_table(adata, "type")
    assert table["graph"].tolist() == ["cell_graph"] * 6 + ["diffvae_called_links"] * 6
    for _, part in table.groupby("graph"):
        assert part["q_value"].to_numpy() == pytest.approx(stats.false_discovery_control(part["p_value"]))
    # a graph's numbers do not depend on which others stand beside it
    alone = tl.link_table(adata, "type", graphs=["diffvae_called_links"])
    pd.testing.assert_frame_equal(alone, table[6:].reset_index(drop=True))


def test_same_seed_same_table():
    options = {"graphs": ["cell_graph"], "n_null": 20}
    first, again, other = (tl.link_table(drawn(0), "type", rng=seed, **options) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert (first["expected"] != other["expected"]).any()
    assert (first["n_links"] == other["n_links"]).all()


def test_order_of_categories_is_kept_and_the_table_can_be_written(tmp_path):
    adata = drawn(0)
    adata.obs["type"] = adata.obs["type"].cat.reorder_categories(["c", "a", "b"])
    table = tl.link_table(adata, "type", graphs=["cell_graph"], n_null=5)
    assert list(table["type_1"] + table["type_2"]) == ["cc", "ca", "cb", "aa", "ab", "bb"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    stored = ad.read_h5ad(tmp_path / "cells.h5ad").uns["diffvae"]
    assert stored["link_table"].to_numpy().tolist() == table.to_numpy().tolist()
    assert stored["link_table_params"]["n_null"] == 5
    assert list(stored["link_table_params"]["graphs"]) == ["cell_graph"]


def test_a_star_has_no_null_to_stand_out_from():
    table = tl.link_table(cells("abbbb", [(0, i) for i in range(1, 5)]), "type", graphs=["cell_graph"])
    assert table["n_links"].tolist() == table["expected"].tolist() == [0, 4, 0]
    assert table["z"].isna().all()
    assert (table["p_value"] == 1).all()


@pytest.mark.parametrize(
    ("adata", "options", "sentence"),
    [
        (drawn(0), {}, r"'diffvae_called_links'\] is missing; run diffvae.tl.links\(adata, model\)"),
        (drawn(0), {"graphs": ["mine"]}, r"'mine'\] is missing; there are: cell_graph"),
        (cells("ab", [(0, 1)], "other"), {}, r"run diffvae.pp.cell_graph\(adata\) first"),
        (cells("ab", [(0, 0)]), {"graphs": ["cell_graph"]}, "has no edge between two cells"),
        (cells("aa", [(0, 1)]), {"graphs": ["cell_graph"]}, "has only one type"),
        (drawn(0), {"n_null": 1}, "n_null is 1; it must be a whole number of 2 or more"),
        (drawn(0), {"graphs": []}, "graphs is empty"),
    ],
)
def test_what_cannot_be_counted_is_refused_before_anything_is_written(adata, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        tl.link_table(adata, "type", **options)
    assert "diffvae" not in adata.uns


def test_a_graph_that_is_not_finite_is_refused():
    adata = drawn(0)
    adata.obsp["cell_graph"].data[0] = np.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        tl.link_table(adata, "type", graphs=["cell_graph"])
