import numpy as np
import pandas as pd
import pytest
from _graph_data import TINY
from _model_data import counts
from anndata import AnnData
from scipy import sparse

import diffvae as dv
from diffvae import benchmark, pp
from diffvae._core import graphs
from diffvae._errors import DataError
from diffvae.benchmark._links import _task, graph_diffvae, halves

ONE = {"n_seeds": 1, "progress": False}
COLUMNS = ["seed", "method", "negatives", "auc", "average_precision", "n_links", "seconds"]


def homogeneous(n_cells=400, n_genes=120):
    """Return cells that differ by Poisson noise only."""
    rng = np.random.default_rng(0)
    return AnnData(rng.poisson(rng.gamma(4, 3, n_genes), (n_cells, n_genes)).astype(np.float32))


def random(adata, rng):
    chance = np.random.default_rng(rng)
    return lambda pairs: chance.random(len(pairs))


# Halves


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_halves_of_the_counts_add_up(form):
    adata = counts(n_cells=150)
    whole = adata.X.copy()
    adata.X = form(adata.X)
    one, other = halves(adata, "counts", rng=1)
    assert one.var_names.tolist() == adata.var_names.tolist()
    assert other.obs_names.tolist() == one.obs_names.tolist() == adata.obs_names.tolist()
    first, second = (h[:, adata.var_names].layers["counts"] for h in (one, other))
    first, second = (x.toarray() if sparse.issparse(x) else x for x in (first, second))
    assert (first + second == whole).all()
    assert first.sum() / whole.sum() == pytest.approx(0.5, abs=0.02)
    assert (first >= 0).all()
    assert (first == np.round(first)).all()
    x = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
    assert (x == whole).all()  # what was given stays as it was
    assert not adata.layers


def test_halves_of_poisson_counts_are_independent():
    one, other = halves(homogeneous(), "counts")
    first, second = (np.log(np.asarray(h[:, one.var_names].layers["counts"]) + 1) for h in (one, other))
    r = np.array([np.corrcoef(first[:, g], second[:, g])[0, 1] for g in range(first.shape[1])])
    assert abs(r.mean()) < 4 / np.sqrt(400 * len(r))  # four standard errors
    assert r.std() == pytest.approx(1 / np.sqrt(400), rel=0.25)


def test_halves_of_the_genes_are_disjoint():
    adata = counts(n_cells=60)
    one, other = halves(adata, "genes")
    assert not set(one.var_names) & set(other.var_names)
    assert set(one.var_names) | set(other.var_names) == set(adata.var_names)
    assert one.n_vars == other.n_vars == 20
    assert "unit" in one.layers
    assert "unit" in other.layers
    assert set(halves(adata, "genes", rng=1)[0].var_names) != set(one.var_names)


def test_auto_takes_counts_where_there_are_counts():
    adata = counts(n_cells=60)
    assert halves(adata, "auto")[0].n_vars == 40
    logged = adata.copy()
    logged.X = np.log1p(1000 * logged.X / logged.X.sum(1, keepdims=True))
    assert halves(logged, "auto")[0].n_vars == 20
    logged.layers["raw"] = adata.X
    assert halves(logged, "auto", layer="raw")[0].n_vars == 40


@pytest.mark.parametrize("change", [lambda x: np.log1p(x), lambda x: x - 1])
def test_what_is_no_count_is_not_thinned(change):
    adata = counts(n_cells=60)
    adata.X = change(adata.X)
    with pytest.raises(DataError, match="split='counts' needs counts, whole numbers of 0 or more; pass split='genes'"):
        benchmark.links(adata, split="counts", methods=["Pearson"], **ONE)


def test_halves_are_those_of_their_seed():
    first, again, other = (halves(counts(n_cells=60), "counts", rng=seed)[0].layers["counts"] for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


# Links to find, and pairs to tell them from


@pytest.mark.parametrize("split", ["counts", "genes"])
def test_links_to_find_are_unknown_and_negatives_are_unlinked(split):
    adata = counts(n_cells=150)
    codes = np.arange(150) % 2
    kinds = ["uniform", "degree", "within_type"]
    first, linked, unlinked = _task(adata, split, None, 5, "cosine", 0.2, kinds, codes, 3)
    second = halves(adata, split, rng=3)[1]
    pp.cell_graph(second, k=5, progress=False)
    halved = first.copy()
    pp.cell_graph(halved, k=5, progress=False)
    assert "cell_graph" not in first.obsp  # it has the hidden edges
    mine, known, others = (
        {tuple(p) for p in graphs.edges_of(g).tolist()}
        for g in (halved.obsp["cell_graph"], first.obsp["known_links"], second.obsp["cell_graph"])
    )
    assert known < mine
    assert len(known) == round(0.8 * len(mine))
    assert {tuple(p) for p in linked.tolist()} == others - known
    assert (others - known) & mine  # those that were hidden, and found again
    assert list(unlinked) == kinds
    for pairs in unlinked.values():
        assert len(pairs) == len(linked)
        assert not {tuple(p) for p in pairs.tolist()} & (mine | others)
    one, other = unlinked["within_type"].T
    assert (codes[one] == codes[other]).all()


def test_a_method_gets_the_first_half_and_what_may_be_known():
    adata = counts(n_cells=100)
    adata.obs["type"] = ["a", "b"] * 50
    seen = []

    def method(half, rng):
        seen.append((half, rng))
        return lambda pairs: pairs[:, 0] * 1.0

    table = benchmark.links(adata, methods={"mine": method}, label_key="type", n_seeds=2, progress=False)
    assert table.columns.tolist() == COLUMNS
    assert table["method"].unique().tolist() == ["mine"]
    assert table["negatives"].tolist() == ["uniform", "degree", "within_type"] * 2
    for half, rng in seen:
        first = halves(adata, "counts", rng=rng)[0]
        assert (half.layers["counts"] == first.layers["counts"]).all()
        assert "unit" in half.layers
        pp.cell_graph(first, progress=False)
        known = half.obsp["known_links"]
        assert (known != known.T).nnz == 0
        assert known.nnz // 2 == round(0.9 * (first.obsp["cell_graph"].nnz // 2))
        assert known.multiply(first.obsp["cell_graph"]).nnz == known.nnz
    assert seen[0][1] != seen[1][1]


# Scores


def test_who_knows_the_answer_scores_one_and_who_guesses_a_half():
    adata = counts(n_cells=200)

    def oracle(half, rng):
        second = halves(adata, "counts", rng=rng)[1]
        pp.cell_graph(second, progress=False)
        return lambda pairs: second.obsp["cell_graph"][pairs[:, 0], pairs[:, 1]].A1

    def contrary(half, rng):
        score = oracle(half, rng)
        return lambda pairs: -score(pairs)

    table = benchmark.links(
        adata, methods={"oracle": oracle, "contrary": contrary, "random": random}, n_seeds=3, progress=False
    )
    by = table.groupby("method")
    assert (by["auc"].min()["oracle"], by["average_precision"].min()["oracle"]) == (1, 1)
    assert by["auc"].max()["contrary"] == 0
    assert by["auc"].mean()["random"] == pytest.approx(0.5, abs=0.03)
    assert by["average_precision"].mean()["random"] == pytest.approx(0.5, abs=0.03)
    assert (table["n_links"] > 300).all()
    assert (table["seconds"] >= 0).all()


def test_cells_without_structure_have_no_links_to_find():
    table = benchmark.links(homogeneous(200), methods=["Pearson", "PCA, distance"], n_seeds=2, progress=False)
    assert table.query("negatives == 'degree'")["auc"].to_numpy() == pytest.approx(0.5, abs=0.06)


def test_expression_finds_links_of_planted_types():
    rng = np.random.default_rng(0)
    loadings = rng.gamma(0.4, 1.0, (5, 60))[np.arange(200) % 5]
    adata = AnnData(rng.poisson(6 * loadings + 0.2).astype(np.float32))
    adata.obs["type"] = [f"t{i % 5}" for i in range(200)]
    names = ["Pearson", "PCA, distance", "PCA, cosine", "common neighbours", "popularity"]
    table = benchmark.links(adata, methods=names, label_key="type", k=5, **ONE).set_index(["negatives", "method"])
    for name in names[:4]:
        assert table.loc[("uniform", name), "auc"] > 0.7
        # within a type the cells differ by noise alone, and there is nothing to find
        assert table.loc[("within_type", name), "auc"] == pytest.approx(0.5, abs=0.06)
    assert table.loc[("uniform", "popularity"), "auc"] < 0.6


def test_models_are_methods(monkeypatch):
    tiny = {"Graph": lambda adata, rng: graph_diffvae(adata, rng, **TINY)}
    table = benchmark.links(counts(n_cells=100), methods=tiny, **ONE)
    assert table["auc"].between(0, 1).all()
    train = dv.model.DiffVAE.train
    monkeypatch.setattr(dv.model.DiffVAE, "train", lambda *cells, **options: train(*cells, max_epochs=2, **options))
    table = benchmark.links(counts(n_cells=100), methods="DiffVAE, distance", **ONE)
    assert table["method"].unique().tolist() == ["DiffVAE, distance"]
    assert table["auc"].between(0, 1).all()


def test_same_seed_same_table():
    options = {"methods": ["Pearson", "PCA, distance"], "n_seeds": 2, "progress": False}
    first, again, other = (
        benchmark.links(counts(n_cells=100), rng=seed, **options).drop(columns="seconds") for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, again)
    assert (first["auc"] != other["auc"]).any()
    assert first.query("seed == 0")["auc"].tolist() != first.query("seed == 1")["auc"].tolist()
    # a method's scores do not depend on which others stand beside it, and the first repeats not on their number
    alone = benchmark.links(counts(n_cells=100), methods=["PCA, distance"], **ONE).drop(columns="seconds")
    part = first.query("method == 'PCA, distance' and seed == 0")
    pd.testing.assert_frame_equal(alone, part.reset_index(drop=True))


def test_summary_by_hand():
    rows = [
        (0, "a", "uniform", 0.6, 0.5),
        (0, "b", "uniform", 0.9, 0.7),
        (0, "a", "degree", 0.5, 0.5),
        (1, "a", "uniform", 0.8, 0.6),
        (1, "b", "uniform", 0.9, 0.9),
        (1, "a", "degree", 0.7, 0.5),
    ]
    found = benchmark.link_summary(pd.DataFrame(rows, columns=COLUMNS[:5]))
    assert found.columns.tolist() == [
        "negatives", "method", "auc", "auc_sd", "average_precision", "average_precision_sd", "n_seeds",
    ]  # fmt: skip
    assert found[["negatives", "method"]].values.tolist() == [["degree", "a"], ["uniform", "b"], ["uniform", "a"]]
    assert found["auc"].to_numpy() == pytest.approx([0.6, 0.9, 0.7])
    assert found["auc_sd"].to_numpy() == pytest.approx([0.02**0.5, 0, 0.02**0.5])
    assert found["average_precision"].to_numpy() == pytest.approx([0.5, 0.8, 0.55])
    assert found["average_precision_sd"].to_numpy() == pytest.approx([0, 0.02**0.5, 0.005**0.5])
    assert found["n_seeds"].tolist() == [2, 2, 2]
    assert benchmark.link_summary(pd.DataFrame(rows[:3], columns=COLUMNS[:5]))["auc_sd"].isna().all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"split": "half"}, "split is 'half'; it must be 'auto', 'counts' or 'genes'"),
        ({"n_seeds": 0}, "n_seeds is 0; it must be a whole number of 1 or more"),
        ({"methods": ["PCA"]}, r"methods are \['PCA'\]; they are one or more of 'GraphDiffVAE', 'Pearson', 'PCA, dist"),
        ({"methods": []}, r"methods are \[\]; they are one or more of"),
        ({"methods": {}}, r"methods are \[\]; they are one or more of"),
        ({"label_key": "type"}, r"obs\['type'\] is missing"),
        ({"layer": "spliced"}, r"layers\['spliced'\] is missing"),
        ({"k": 0}, "k is 0; it must be a whole number of 1 or more"),
        ({"k": 100}, "k is 100, but each of the 100 cells has 99 others"),
        ({"test_size": 1.0}, "test_size is 1.0; it must be a number of at least 0 and below 1"),
    ],
)
def test_bad_arguments_are_refused_before_any_method_runs(options, sentence):
    ran = []

    def method(adata, rng):
        ran.append(adata)
        return lambda pairs: np.zeros(len(pairs))

    with pytest.raises(ValueError, match=sentence):
        benchmark.links(counts(n_cells=100), **{"methods": {"mine": method}, **ONE} | options)
    assert not ran


def test_methods_of_a_user_stand_beside_the_known_ones():
    methods = benchmark.link_methods()
    assert {"GraphDiffVAE", "Pearson", "popularity"} <= set(methods)
    table = benchmark.links(counts(n_cells=100), methods={"mine": random, "Pearson": methods["Pearson"]}, **ONE)
    assert table["method"].unique().tolist() == ["mine", "Pearson"]
