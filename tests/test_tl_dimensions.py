import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffvae import tl
from diffvae.pp import DataError

# mean 0.75, sd 1.785: D_0 is the four 3s (three of them in a) and the -3 (in b); dimension 1 is dead
Z = np.array([[3, 5], [3, 5], [3, 5], [0, 5], [3, 5], [0, 5], [0, 5], [0, 5], [0, 5], [0, 5], [0, 5], [-3, 5]], float)
GROUP = ["a"] * 4 + ["b"] * 8


def cells(z, groups) -> ad.AnnData:
    obs = pd.DataFrame({"group": groups}, index=[f"cell {i}" for i in range(len(z))])
    return ad.AnnData(obs=obs, obsm={"X_diffvae": np.asarray(z, float)})


def row(table, group, dimension):
    return table[(table["group"] == group) & (table["dimension"] == dimension)].iloc[0]


def test_counts_shares_and_sides_by_hand():
    table = tl.latent_dimensions(cells(Z, GROUP), "group")
    assert len(table) == 4
    a, b = row(table, "a", 0), row(table, "b", 0)
    assert (a["n_cells"], a["n_group"], b["n_cells"], b["n_group"]) == (5, 3, 5, 2)
    assert (a["share"], a["share_high"], a["share_low"]) == (3 / 5, 3 / 4, 0)
    assert (b["share"], b["share_high"], b["share_low"]) == (2 / 5, 1 / 4, 1)
    assert (a["expected_share"], b["expected_share"]) == pytest.approx((4 / 12, 8 / 12))
    assert a["side"] == "+"
    # of D_0, 3 are in a and 2 are not; outside it 1 is and 6 are not; half a cell is added to each
    assert a["odds_ratio"] == pytest.approx((3.5 / 2.5) / (1.5 / 6.5))
    assert b["odds_ratio"] == pytest.approx((2.5 / 3.5) / (6.5 / 1.5))


def test_p_values_are_fishers_and_q_values_benjamini_hochbergs():
    rng = np.random.default_rng(0)
    z, groups = rng.normal(size=(60, 4)), rng.choice(["a", "b", "c"], 60)
    z[groups == "a", 2] += 4
    table = tl.latent_dimensions(cells(z, groups), "group")
    outlying = np.abs(z - z.mean(0)) >= z.std(0)
    for _, r in table.iterrows():
        inside, member = outlying[:, r["dimension"]], groups == r["group"]
        counts = [
            [(inside & member).sum(), (inside & ~member).sum()],
            [(~inside & member).sum(), (~inside & ~member).sum()],
        ]
        assert r["p_value"] == pytest.approx(stats.fisher_exact(counts, alternative="greater").pvalue)
    p = np.sort(table["p_value"])
    by_hand = np.minimum.accumulate((p * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
    assert np.sort(table["q_value"]) == pytest.approx(by_hand)
    assert row(table, "a", 2)["chosen"]
    assert row(table, "a", 2)["rank"] == 1


def test_the_zebra_both_sides_belong_to_one_dimension():
    z = np.r_[np.full(10, 4.0), np.full(10, -4.0), np.zeros(60)][:, None]
    table = tl.latent_dimensions(cells(z, ["high"] * 10 + ["low"] * 10 + ["none"] * 60), "group")
    assert [row(table, g, 0)["side"] for g in ("high", "low")] == ["+", "-"]
    assert [row(table, g, 0)["share"] for g in ("high", "low")] == [0.5, 0.5]
    assert [row(table, g, 0)["share_high"] for g in ("high", "low")] == [1, 0]
    assert table.set_index("group")["chosen"].to_dict() == {"high": True, "low": True, "none": False}


def test_a_dead_dimension_is_never_chosen():
    for value in (5.0, 1e6 + 1 / 3):  # also where the mean of equal numbers is not that number, by round-off
        z = Z.copy()
        z[:, 1] = value
        for max_q in (0.05, 1):
            table = tl.latent_dimensions(cells(z, GROUP), "group", max_q=max_q)
            dead = table[table["dimension"] == 1]
            assert not dead["chosen"].any()
            assert (dead["n_cells"] == 0).all()
            assert (dead["p_value"] == 1).all()
    assert not tl.latent_dimensions(cells(np.ones((20, 3)), ["a", "b"] * 10), "group")["chosen"].any()


def test_the_papers_rule_asks_for_no_evidence():
    adata = cells(Z, GROUP)
    assert not tl.latent_dimensions(adata, "group")["chosen"].any()  # twelve cells are not enough for q <= 0.05
    paper = tl.latent_dimensions(adata, "group", max_q=1)
    assert paper.loc[paper["chosen"], ["group", "dimension"]].values.tolist() == [["a", 0], ["b", 0]]


@pytest.mark.parametrize("seed", range(3))
def test_permuted_labels_choose_nothing(seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(200, 20))
    groups = np.repeat(["a", "b", "c", "d"], 50)
    z[groups == "a", :5] += 2
    assert tl.latent_dimensions(cells(z, groups), "group")["chosen"].sum() >= 5
    permuted = tl.latent_dimensions(cells(z, rng.permutation(groups)), "group")
    assert not permuted["chosen"].any()
    assert tl.latent_dimensions(cells(z, rng.permutation(groups)), "group", max_q=1)["chosen"].sum() == 40


def several(n_top=10, **options):
    """Dimensions 0 to 3 mark group a, ever more weakly; 4 marks b."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 0.1, (120, 6))
    for dimension, n in enumerate((30, 25, 20, 15)):
        z[:n, dimension] += 3
        z[60 : 60 + 2 * dimension, dimension] += 3  # and strangers in growing number
    z[30:70, 4] += 3
    return tl.latent_dimensions(cells(z, ["a"] * 30 + ["b"] * 90), "group", n_top=n_top, **options)


def test_ranks_go_by_share_and_n_top_cuts():
    table = several()
    a = table[table["group"] == "a"]
    assert a["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert a["share"].is_monotonic_decreasing
    assert a["dimension"].tolist()[:4] == [0, 1, 2, 3]
    assert a.loc[a["chosen"], "dimension"].tolist() == [0, 1, 2, 3]
    two = several(n_top=2)
    assert two.loc[(two["group"] == "a") & two["chosen"], "dimension"].tolist() == [0, 1]
    assert table["group"].drop_duplicates().tolist() == ["a", "b"]
    # b is three quarters of all cells: by share it ranks its noise high, by evidence only dimension 4 is its own
    one = several(n_top=1)
    assert one.loc[(one["group"] == "b") & one["chosen"], "dimension"].tolist() == [4]
    assert several(rank_by="odds_ratio").query("group == 'a'")["odds_ratio"].is_monotonic_decreasing


def test_unit_and_shift_do_not_matter():
    rng = np.random.default_rng(0)
    z, groups = rng.normal(size=(80, 3)), rng.choice(["a", "b"], 80)
    first = tl.latent_dimensions(cells(z, groups), "group")
    other = tl.latent_dimensions(cells(1e-3 * z + 7, groups), "group")
    pd.testing.assert_frame_equal(first, other)
    flipped = tl.latent_dimensions(cells(-z, groups), "group")
    assert (flipped["share_high"] == first["share_low"]).all()


def test_what_is_written(tmp_path):
    adata = cells(Z, GROUP)
    assert len(tl.latent_dimensions(adata, "group", copy=True)) == 4
    assert not adata.uns
    table = tl.latent_dimensions(adata, "group", n_top=3)
    stored = adata.uns["diffvae"]
    assert stored["latent_dimensions"] is table
    assert stored["latent_dimensions_params"]["groupby"] == "group"
    assert stored["latent_dimensions_params"]["n_top"] == 3
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad").uns["diffvae"]["latent_dimensions"]
    assert back["group"].astype(str).tolist() == table["group"].tolist()
    assert back["chosen"].dtype == bool


def test_groups_keep_their_order():
    adata = cells(Z, pd.Categorical(GROUP, categories=["b", "unused", "a"]))
    assert tl.latent_dimensions(adata, "group")["group"].drop_duplicates().tolist() == ["b", "a"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rank_by": "size"}, "rank_by is 'size'; it must be 'share' or 'odds_ratio'"),
        ({"n_top": 0}, "n_top is 0"),
        ({"n_sd": 0}, "n_sd is 0"),
        ({"max_q": 0}, "max_q is 0; it must be a number above 0 and at most 1"),
        ({"max_q": 5}, "max_q is 5"),
        ({"groupby": "type"}, r"adata.obs\['type'\] is missing; there are: group"),
        ({"groupby": "diffvae_cluster"}, r"run diffvae.tl.cluster\(adata\) first"),
        ({"use_rep": "X_pca"}, r"adata.obsm\['X_pca'\] is missing"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    adata = cells(Z, GROUP)
    with pytest.raises(ValueError, match=sentence):
        tl.latent_dimensions(adata, **{"groupby": "group"} | options)
    assert not adata.uns


def test_groups_that_tell_nothing_are_refused():
    with pytest.raises(DataError, match="only one group"):
        tl.latent_dimensions(cells(Z, ["a"] * 12), "group")
    with pytest.raises(DataError, match="1 cells without a value"):
        tl.latent_dimensions(cells(Z, [None, *GROUP[1:]]), "group")


def test_a_dimension_that_carries_no_information_is_not_chosen():
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b"], [50, 150])
    means = np.column_stack([(groups == "a") + rng.normal(0, 0.2, 200), 0.01 * (groups == "a")])
    adata = ad.AnnData(obs=pd.DataFrame({"group": groups}, index=[f"c{i}" for i in range(200)]))
    adata.obsm["X_diffvae"] = means
    assert set(tl.latent_dimensions(adata, "group").query("chosen")["dimension"]) == {0, 1}
    adata.obsm["X_diffvae_sd"] = np.tile([0.3, 0.99], (200, 1))
    assert set(tl.latent_dimensions(adata, "group").query("chosen")["dimension"]) == {0}
