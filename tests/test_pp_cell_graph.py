import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from diffvae._core import neighbors
from diffvae.datasets import simulate_differentiation
from diffvae.pp import DataError, cell_graph, prepare

# Two rising cells, two falling ones, one with its peak in the middle. r(a, b) = 0.98, r(c, d) = 0.98,
# r(a, e) = 0 and r(b, e) = -0.19, r(c, e) = 0, r(d, e) = 0.19: e chooses d.
HAND = np.array([[1.0, 2, 3], [1, 2, 4], [3, 2, 1], [4, 3, 1], [1, 2, 1]])
NAMES = ["a", "b", "c", "d", "e"]


def by_hand(x=HAND):
    types = ["up", "up", "down", "down", "peak"][: len(x)]
    return AnnData(x.copy(), obs=pd.DataFrame({"type": types}, index=NAMES[: len(x)]))


def edges(adata, key="cell_graph"):
    upper = sp.triu(adata.obsp[key]).tocoo()
    return {"".join(sorted((adata.obs_names[i], adata.obs_names[j]))) for i, j in zip(*upper.coords, strict=True)}


PAPER = {"k": 1, "metric": "pearson"}


def graph_of(adata, **options):
    values = {} if "use_rep" in options else {"use_rep": "X"}
    return cell_graph(adata, copy=True, **PAPER | values | options)


def random_cells(n=80, n_genes=30, seed=0):
    x = np.random.default_rng(seed).poisson(1.0, (n, n_genes)).astype(np.float32)
    return AnnData(x, obs=pd.DataFrame(index=[f"cell {i}" for i in range(n)]))


def test_worked_by_hand():
    adata = by_hand()
    assert cell_graph(adata, **PAPER, use_rep="X") is None
    assert edges(adata) == {"ab", "cd", "de"}
    record = adata.uns["diffvae"]["cell_graph"]
    expected = {"k": 1, "metric": "pearson", "use_rep": "X", "mutual": False, "n_edges": 3, "n_components": 2}
    assert expected.items() <= record.items()
    assert (record["n_isolated"], record["n_prior_edges"], record["n_dropped"]) == (0, 0, 0)
    assert np.isnan(record["recall"])
    assert not record["approximate"]
    assert edges(graph_of(adata, mutual=True)) == {"ab", "cd"}
    assert graph_of(adata, mutual=True).uns["diffvae"]["cell_graph"]["n_isolated"] == 1


@pytest.mark.parametrize("metric", ["pearson", "cosine", "euclidean"])
def test_graph_is_symmetric_and_simple(metric):
    graph = graph_of(random_cells(), k=3, metric=metric).obsp["cell_graph"]
    assert (graph.format, graph.dtype, graph.has_sorted_indices) == ("csr", np.float32, True)
    assert (graph != graph.T).nnz == 0
    assert not graph.diagonal().any()
    assert (graph.data == 1).all()
    assert np.diff(graph.indptr).min() >= 3


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_neighbours_by_pearson_are_those_of_corrcoef(form):
    adata = random_cells()
    r = np.corrcoef(adata.X) - 2 * np.eye(80)
    chosen = np.zeros((80, 80), dtype=bool)
    np.put_along_axis(chosen, np.argsort(-r, axis=1)[:, :2], True, axis=1)
    adata.layers["unit"] = form(adata.X)
    cell_graph(adata, 2, "pearson", layer="unit")
    assert ((adata.obsp["cell_graph"].toarray() > 0) == (chosen | chosen.T)).all()
    cell_graph(adata, 2, "pearson", layer="unit", mutual=True, key_added="mutual")
    assert ((adata.obsp["mutual"].toarray() > 0) == (chosen & chosen.T)).all()
    assert set(adata.uns["diffvae"]) == {"cell_graph", "mutual"}


def test_default_is_the_cosine_of_fifty_principal_components():
    adata = random_cells(100, 70)
    x = adata.X - adata.X.mean(axis=0)
    u, s, _ = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    y = (u * s)[:, :50]
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    chosen = np.zeros((100, 100), dtype=bool)
    np.put_along_axis(chosen, np.argsort(-(y @ y.T - 2 * np.eye(100)), axis=1)[:, :15], True, axis=1)
    assert cell_graph(adata) is None
    assert ((adata.obsp["cell_graph"].toarray() > 0) == (chosen | chosen.T)).all()
    record = adata.uns["diffvae"]["cell_graph"]
    assert (record["k"], record["metric"], record["use_rep"]) == (15, "cosine", "pca")
    assert not adata.obsm  # a user's X_pca is neither read nor replaced


def test_default_has_fewer_hubs_than_correlation():
    adata = simulate_differentiation(500, 500, rng=1)
    prepare(adata)
    correlated = cell_graph(adata, 5, "pearson", layer="unit", copy=True).uns["diffvae"]["cell_graph"]["hub_share"]
    assert cell_graph(adata, copy=True).uns["diffvae"]["cell_graph"]["hub_share"] < 0.5 * correlated


def test_representation():
    adata = by_hand()
    adata.obsm["X_pca"] = np.array([[0.0], [10], [1], [11], [13]])
    assert edges(graph_of(adata, use_rep="X_pca", metric="euclidean")) == {"ac", "bd", "de"}


def test_order_of_the_cells_does_not_matter():
    adata = random_cells()
    order = np.random.default_rng(1).permutation(80)
    graph, permuted = (graph_of(a, k=2).obsp["cell_graph"] for a in (adata, adata[order]))
    assert (graph[order][:, order] != permuted).nnz == 0


def test_approximate_graph_says_its_recall_and_repeats():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 20))[rng.integers(8, size=600)] + 0.4 * rng.normal(size=(600, 20))
    adata = AnnData(x.astype(np.float32))
    one, two = graph_of(adata, exact_limit=100, rng=3), graph_of(adata, exact_limit=100, rng=3)
    assert (one.obsp["cell_graph"] != two.obsp["cell_graph"]).nnz == 0
    record = one.uns["diffvae"]["cell_graph"]
    assert record["approximate"]
    assert record["recall"] == two.uns["diffvae"]["cell_graph"]["recall"] > 0.9
    exact = graph_of(adata).obsp["cell_graph"]
    assert one.obsp["cell_graph"].multiply(exact).nnz > 0.9 * exact.nnz


def matrix(*pairs):
    known = np.zeros((5, 5))
    for i, j in pairs:
        known[NAMES.index(i), NAMES.index(j)] = 7
    return known


@pytest.mark.parametrize(
    "prior",
    [
        matrix("ac", "be"),
        matrix("ac", "ca", "eb", "aa"),
        sp.csr_matrix(matrix("ac", "be")),
        sp.csc_array(matrix("ac", "be")),
        [("a", "c"), ("b", "e"), ("c", "a"), ("a", "c"), ("d", "d")],
        np.array([["a", "c"], ["b", "e"]]),
        (pair for pair in [("a", "c"), ("b", "e")]),
        pd.DataFrame({"one": ["a", "b"], "other": ["c", "e"]}),
        "clones",
        ["clones", [("a", "c")]],
        [matrix("ac"), pd.DataFrame([["b", "e"]])],
    ],
    ids=range(11),
)
def test_prior_in_every_form(prior):
    adata = by_hand()
    adata.obsp["clones"] = sp.csr_matrix(matrix("ac", "be"))
    alone = graph_of(adata, prior=prior, combine="replace", k=99) if not hasattr(prior, "send") else None
    if alone is not None:
        assert edges(alone) == {"ac", "be"}
        record = alone.uns["diffvae"]["cell_graph"]
        assert (record["n_edges"], record["n_prior_edges"], record["n_components"], record["n_isolated"]) == (
            2,
            2,
            3,
            1,
        )
        assert "k" not in record
    both = graph_of(adata, prior=prior)
    assert edges(both) == {"ab", "cd", "de", "ac", "be"}
    assert both.obsp["cell_graph"].data.tolist() == [1.0] * 10


@pytest.mark.parametrize(
    ("drop", "left"),
    [
        (["up"], {"cd", "de"}),
        ("up", {"cd", "de"}),
        ([("down", "down")], {"ab", "de"}),
        ([("peak", "down")], {"ab", "cd"}),
        ([("down", "peak"), "up"], {"cd"}),
        ([("up", "down")], {"ab", "cd", "de"}),
    ],
)
def test_drop(drop, left):
    adata = graph_of(by_hand(), drop=drop, groupby="type")
    assert edges(adata) == left
    assert adata.uns["diffvae"]["cell_graph"]["n_dropped"] == 3 - len(left)


def test_constant_cells_stay_alone():
    adata = by_hand(np.vstack([HAND[:3], [[2, 2, 2], [0, 0, 0]]]))
    with pytest.warns(UserWarning, match=r"2 of 5 cells don't vary in adata\.X; they have no neighbours by pearson"):
        out = graph_of(adata)
    assert np.diff(out.obsp["cell_graph"].indptr)[3:].tolist() == [0, 0]
    assert out.uns["diffvae"]["cell_graph"]["n_isolated"] == 2
    with pytest.raises(DataError, match=r"All, or all but one, of the 5 cells don't vary in adata\.X"):
        graph_of(AnnData(np.ones((5, 3))))


def test_uns_goes_through_h5ad(tmp_path):
    adata = graph_of(by_hand(), prior=[("a", "c")], drop=["peak"], groupby="type")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    back = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert (back.obsp["cell_graph"] != adata.obsp["cell_graph"]).nnz == 0
    before, after = adata.uns["diffvae"]["cell_graph"], back.uns["diffvae"]["cell_graph"]
    assert set(before) == set(after)
    assert all(before[key] == after[key] for key in before if key != "recall")
    assert np.isnan(after["recall"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 0}, "k is 0; it must be a whole number of 1 or more"),
        ({"k": 1.5}, "k is 1.5; it must be a whole number"),
        ({"k": 5}, "k is 5, but each of the 5 cells has 4 others"),
        ({"metric": "inner"}, "metric is 'inner'; it must be 'cosine', 'pearson' or 'euclidean'"),
        ({"combine": "and"}, "combine is 'and'; it must be 'union' or 'replace'"),
        ({"combine": "replace"}, "combine is 'replace', but there is no prior"),
        ({"combine": "replace", "prior": np.zeros((5, 5))}, "no edges: the prior has none"),
        ({"use_rep": "X_pca"}, r"adata\.obsm\['X_pca'\] is missing"),
        ({"prior": "clones"}, r"adata\.obsp\['clones'\] is missing; there are: none"),
        ({"prior": np.zeros((5, 4))}, r"prior has the shape \(5, 4\).*for each of 5 cells"),
        ({"prior": np.full((5, 5), np.nan)}, "prior holds NaN"),
        ({"prior": [("a", "y"), ("z", "y")]}, "prior names 2 cells that are not in adata.obs_names: 'y', 'z'"),
        ({"prior": pd.DataFrame([["a", "b", 1]])}, "prior is a table with 3 columns"),
        ({"prior": 3}, "prior is of type int"),
        ({"drop": ["up"]}, r"drop has types \('up'\), but groupby is missing"),
        ({"drop": ["HSC"], "groupby": "type"}, r"drop has 'HSC', but adata\.obs\['type'\] has 'down', 'peak', 'up'"),
        ({"drop": [3], "groupby": "type"}, "drop holds 3; each entry"),
        ({"drop": ["up", "down"], "groupby": "type"}, "no edges: drop removes all 3"),
        ({"drop": ["up"], "groupby": "kind"}, r"adata\.obs\['kind'\] is missing"),
    ],
)
def test_sentences(options, sentence):
    adata = by_hand()
    with pytest.raises(ValueError, match=sentence):
        cell_graph(adata, **PAPER | {"use_rep": "X"} | options)
    assert not adata.obsp
    assert not adata.uns


def test_sentences_on_the_data():
    with pytest.raises(DataError, match=r"layers\['unit'\] is missing; run diffvae\.pp\.prepare\(adata\) first"):
        cell_graph(by_hand(), 1, layer="unit")
    with pytest.raises(DataError, match=r"k is 15, but each of the 5 cells has 4 others; give a smaller k\."):
        cell_graph(by_hand())
    with pytest.raises(DataError, match=r"adata\.X has 5 cells and 1 genes; a graph needs 2 of each"):
        cell_graph(by_hand()[:, :1], 1)
    for same in (np.ones((30, 300)), sp.csr_matrix(np.ones((30, 300)))):
        with pytest.raises(DataError, match=r"All cells have the same values in adata\.X"):
            cell_graph(AnnData(same), 3)
    adata = by_hand()
    adata.X[0, 0] = np.nan
    for options in ({}, {"layer": "x"}):
        adata.layers["x"] = adata.X
        with pytest.raises(DataError, match=r"holds 1 values that are NaN or infinite; diffvae\.pp\.check"):
            cell_graph(adata, 1, **options)
    with pytest.warns(UserWarning, match="not unique"):
        twice = AnnData(HAND, obs=pd.DataFrame(index=["a", "a", "c", "d", "e"]))
    with pytest.raises(DataError, match=r"adata\.obs_names has duplicates.*obs_names_make_unique"):
        cell_graph(twice, 1, prior=[("c", "d")])


def test_names_that_look_like_numbers_are_names():
    adata = by_hand()
    adata.obs_names = [str(100 + i) for i in range(5)]
    for prior in (pd.DataFrame({"a": [100, 101], "b": [102, 103]}), [(100, 102), (101, 103)]):
        found = graph_of(adata, prior=prior, combine="replace").obsp["cell_graph"]
        assert np.argwhere(found.toarray()).tolist() == [[0, 2], [1, 3], [2, 0], [3, 1]]


def of_batches(missing=False):
    adata = simulate_differentiation(500, 300, tree={"stem": ["red", "white"]}, n_batches=2, batch_effect=0.6, rng=0)
    if missing:
        adata = adata[~((adata.obs["cell_type"] == "red") & (adata.obs["batch"] == "batch_1"))].copy()
    prepare(adata)
    return adata


def purity(adata, by):
    """Return the shares of the edges within a type, and between batches."""
    kind, batch = (adata.obs[name].astype(str).to_numpy() for name in ("cell_type", "batch"))
    graph = cell_graph(adata, 4, "pearson", layer="unit", balance_by=by, copy=True)
    one, other = graph.obsp["cell_graph"].nonzero()
    assert graph.uns["diffvae"]["cell_graph"].get("balance_by") == by
    return (kind[one] == kind[other]).mean(), (batch[one] != batch[other]).mean()


def test_balanced_edges_join_batches_and_are_purer():
    plain, balanced = (purity(of_batches(), by) for by in (None, "batch"))
    assert balanced[0] > plain[0]
    assert balanced[1] > 0.2 > 0.01 > plain[1]


def test_edges_of_a_type_that_a_batch_lacks_are_left_out(monkeypatch):
    adata = of_batches(missing=True)
    kept = purity(adata, "batch")
    monkeypatch.setattr(neighbors, "RETURNED", 10_000)  # every neighbour is returned
    assert kept[0] > purity(adata, "batch")[0] + 0.02


def test_a_batch_with_too_few_cells_for_its_share_is_said():
    adata = random_cells()
    adata.obs["batch"] = ["tiny"] * 2 + ["rest"] * 78
    with pytest.raises(DataError, match=r"Batch 'tiny' of adata.obs\['batch'\] has 2 cells, but each cell takes 2"):
        graph_of(adata, k=4, balance_by="batch")
    assert graph_of(adata, k=2, balance_by="batch").obsp["cell_graph"].nnz
