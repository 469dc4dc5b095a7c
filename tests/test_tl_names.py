"""Names that abstain: presence of markers, parts of clusters, mixtures of two types."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from diffvae.tl import _annotate, _markers, annotate
from diffvae.tl._names import averages, compose, marker_scores, mixtures, sentence, split, way_to

MARKERS = {t: [f"{t}{i}" for i in range(6)] for t in ("T", "NK", "B")}
GENES = [*MARKERS["T"], *MARKERS["NK"], *MARKERS["B"], *(f"g{i}" for i in range(300))]


def cells(types, clusters, seed=0, on=0.7, background=0.05):
    """Log expression of cells; "T+B" has the markers of both types. Genes of no type are in a third of the cells."""
    rng = np.random.default_rng(seed)
    rate = np.full((len(types), len(GENES)), background)
    rate[:, 18:] = 0.3
    for row, name in enumerate(types):
        for t in str(name).split("+"):
            rate[row, [GENES.index(g) for g in MARKERS.get(t, [])]] = on
    x = (rng.random(rate.shape) < rate) * rng.uniform(1, 2, rate.shape)
    adata = ad.AnnData(x.astype(np.float32), var=pd.DataFrame(index=GENES))
    adata.obs_names = [f"c{i}" for i in range(len(types))]
    adata.obs["type"] = np.asarray(types, str)
    adata.obs["diffvae_cluster"] = pd.Categorical(np.asarray(clusters, str))
    return adata


def names_of(adata, **options):
    annotate(adata, MARKERS, **({"n_permutations": 500} | options))
    return adata.obs["diffvae_cell_type"].astype(str)


def table_of(adata):
    return adata.uns["diffvae"]["annotation"].set_index("group")


def test_nk_cells_inside_a_t_cluster_are_named_one_by_one():
    adata = cells(np.repeat(["T", "NK", "B"], [150, 60, 100]), np.repeat(["0", "1"], [210, 100]))
    names, types = names_of(adata), adata.obs["type"]
    assert (names == types).mean() > 0.85
    assert ((names != types) & names.isin(MARKERS)).mean() < 0.03
    table = table_of(adata)
    assert table.loc["0", "cell_type"] == "T / NK"
    assert not table.loc["0", "confident"]
    assert table.loc["0", "types"].startswith("T ")
    assert table.loc["1", "cell_type"] == "B"
    whole = names_of(adata, split=False)
    assert whole.groupby(adata.obs["diffvae_cluster"], observed=True).nunique().tolist() == [1, 1]


def test_markers_above_the_other_clusters_are_not_enough_if_they_are_absent():
    types = np.repeat(["T", "NK", "none"], [60, 60, 60])
    faint = cells(types, types)
    rng = np.random.default_rng(1)
    b = [GENES.index(g) for g in MARKERS["B"]]
    faint.X[np.ix_(types == "none", b)] = (rng.random((60, 6)) < 0.08) * 1.5
    faint.X[np.ix_(types != "none", b)] = 0.0
    assert set(names_of(faint)[types == "none"]) == {"unassigned"}
    table = table_of(faint)
    assert table.loc["none", "best"] == "B"  # its markers lie above the others, and still do not name it
    assert table.loc["none", "n_up"] == 6
    assert table.loc["none", "reason"] != ""
    faint.X[np.ix_(types == "none", b)] = (rng.random((60, 6)) < 0.6) * 1.5
    assert (names_of(faint)[types == "none"] == "B").mean() > 0.9


@pytest.mark.parametrize(("share_of_both", "kind"), [(8, "doublets"), (90, "transition")])
def test_cells_with_the_markers_of_two_types_are_mixed(share_of_both, kind):
    types = np.repeat(["T", "B", "NK", "T+B"], [100, 100, 60, share_of_both])
    adata = cells(types, types)
    doubled = types == "T+B"
    adata.X[np.ix_(doubled, range(18, 318))] += cells(types, types, seed=1).X[np.ix_(doubled, range(18, 318))]
    names = names_of(adata)
    assert (names[doubled] == "mixed: T / B").mean() > 0.75
    assert not names[~doubled].str.startswith("mixed").any()
    assert table_of(adata).loc["T+B", ["cell_type", "mixture"]].tolist() == ["mixed: T / B", kind]
    mixed = adata.uns["diffvae"]["annotation_mixtures"]
    assert mixed["kind"].tolist() == [kind]
    assert mixed["genes_ratio"].iloc[0] > 1.2


def test_mixtures_worked_by_hand():
    of_cell = np.array(["A"] * 40 + ["B"] * 40 + ["mixed: A / B"] * 6 + ["unassigned"] * 14, object)
    genes = np.where(of_cell == "mixed: A / B", 30.0, 20.0)
    score = np.where(of_cell == "mixed: A / B", 0.4, 0.1)
    row = mixtures(of_cell, genes, score).iloc[0]
    # 2 x .4 x .4 x 20 % of 100 cells; 30 / 20 genes
    assert row.tolist() == ["mixed: A / B", 6, "doublets", 6, 1.5, 0.4]
    few_genes = mixtures(of_cell, np.full(100, 20.0), score)
    low_score = mixtures(of_cell, genes, np.full(100, 0.1))
    many = of_cell.copy()
    many[86:] = "mixed: A / B"
    for table in (few_genes, low_score, mixtures(many, np.where(many == "A", 20.0, 30.0), None)):
        assert table["kind"].tolist() == ["transition"]
    assert sentence(mixtures(of_cell, genes, None)) == (
        "6 cells have the markers of two types: all look like doublets (A / B)."
    )
    assert sentence(mixtures(of_cell[:80], genes[:80], None)) == ""


def test_the_way_from_one_type_to_another_worked_by_hand():
    start, end = np.array([0.0, 1.0, 0.0, 0.0]), np.array([2.0, 2.0, 0.1, 4.0])
    x = np.array([[1.0, 1.5, 9.0, 0.0], [3.0, 0.0, 9.0, 4.0]])
    # of the genes 0 to 2 the last does not tell them apart: (1/2 + 1/2) / 2, and (1 + 0) / 2
    np.testing.assert_allclose(way_to(x, start, end, np.array([0, 1, 2])), [0.5, 0.5])
    np.testing.assert_allclose(way_to(x, start, end, np.array([0, 1, 3])), [1 / 3, 2 / 3])
    assert way_to(x, start, end, np.array([0, 2])).tolist() == [0, 0]  # one gene tells nothing


def test_a_cell_that_contradicts_its_neighbours_loses_the_name():
    types = np.repeat(["T", "B", "NK"], 60)
    adata = cells(types, types)
    adata.X[0] = cells(["B"], ["T"], seed=5, on=1.0).X[0]
    names = names_of(adata)
    assert names.iloc[0] == "unassigned"
    assert (names[1:60] == "T").mean() > 0.9


def test_names_of_clusters_are_composed_of_those_of_cells():
    def of(**counts):
        return compose(np.array([name.replace("_", " ") for name, n in counts.items() for _ in range(n)], object))

    assert of(T=90, NK=10) == "T"
    assert of(T=89, NK=11) == "T / NK"
    assert of(T=40, NK=5, unassigned=46) == "unassigned" != of(T=46, unassigned=46)
    assert of(T=80, NK=12, B=8) == "T / NK"
    assert compose(np.array(["mixed: T / B"] * 6 + ["T"] * 4, object)) == "mixed: T / B"


def test_parts_stay_within_clusters_and_suspects_are_apart():
    rng = np.random.default_rng(0)
    z, codes = rng.normal(size=(1000, 3)), np.repeat([0, 1, 2], [940, 52, 8])
    suspect = np.arange(1000) % 25 == 0
    part = split(z, codes, suspect, 0)
    assert (np.unique(part) == np.arange(part.max() + 1)).all()
    of = pd.DataFrame({"part": part, "code": np.where(suspect, 3, codes)})
    assert (of.groupby("part")["code"].nunique() == 1).all()
    assert of[of["code"] == 0]["part"].nunique() <= 20
    assert np.bincount(part)[: part.max()].min() >= 7  # the cluster of eight has one cell that is suspected
    np.testing.assert_array_equal(part, split(z, codes, suspect, 0))


def test_averages_and_marker_scores_worked_by_hand():
    x = np.array([[2.0, 0.0], [0.0, 0.0], [4.0, 1.0]])
    mean, detected = averages(x, np.array([0, 0, 1]))
    np.testing.assert_allclose(mean, [[1, 0], [4, 1]])
    np.testing.assert_allclose(detected, [[0.5, 0], [1, 1]])
    genes = pd.DataFrame({"gene": ["a", "b"], "position": [0, 1], "weight": [1.0, 1.0], "sign": [1.0, 1.0]})
    np.testing.assert_allclose(marker_scores(x, {"t": genes}).ravel(), [0.25, 0, 1])


def test_types_of_which_the_data_have_two_markers_of_twelve_name_nothing():
    types = np.repeat(["T", "NK", "B"], 50)
    adata = cells(types, types)
    sets = MARKERS | {"B": [*MARKERS["B"][:2], *(f"nowhere{i}" for i in range(10))]}
    annotate(adata, sets, n_permutations=500)
    assert "B" not in set(adata.obs["diffvae_cell_type"])


def test_clusters_without_a_name_have_top_genes():
    types = np.repeat(["T", "NK", "B"], 50)
    adata = cells(types, types)
    with pytest.warns(UserWarning, match="so no cluster is named"):
        annotate(adata, "auto")
    table = table_of(adata)
    assert (table["cell_type"] == "unassigned").all()
    assert set(table.loc["T", "top_genes"].split(",")) <= set(MARKERS["T"])
    assert (table["top_genes"] != "").all()


def test_a_name_of_two_types_agrees_with_each_and_a_slash_in_a_name_is_no_joint():
    names, weighed = pd.Series(["A / B", "mixed: A / B", "A", "unassigned"]), pd.Series(["A", "B", "B", "A"])
    agreed = _annotate._agree(names, weighed)
    assert agreed[:3].tolist() == [True, True, False]
    assert agreed.isna().tolist() == [False, False, False, True]
    _, table = _markers.read_markers({"NK / T": ["a", "b"]})
    assert table["cell_type"].unique().tolist() == ["NK/T"]
