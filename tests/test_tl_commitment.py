import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

import diffvae as dv
from diffvae import tl
from diffvae.pp import DataError

TARGETS = ["blue", "green", "red"]
COLUMNS = ["cell", "call", "confidence", "strongest", "call_pearson", "confidence_pearson", "strongest_pearson"]
PLAIN, BIASED, BIPOTENT = 40, 6, 3  # progenitors without a fate, with one (red), and with two (red and blue)


def cells(places, types, k, *, seed=0) -> ad.AnnData:
    """Return cells with these places, as diffvae.tl.links leaves them, and expression that says nothing."""
    names = [f"cell {i}" for i in range(len(types))]
    adata = ad.AnnData(np.random.default_rng(seed).random((len(types), 30)).astype(np.float32))
    adata.obs = pd.DataFrame({"type": pd.Categorical(types)}, index=names)
    adata.layers["unit"] = adata.X.copy()
    adata.obsm["X_diffvae_link"] = np.asarray(places, dtype=np.float32)
    adata.uns["diffvae"] = {"links": {"top_k": k}}
    return adata


def planted(seed=0) -> ad.AnnData:
    """Return progenitors around one place, three types around others, and some progenitors among the types."""
    rng = np.random.default_rng(seed)
    stem, red, blue, green = np.eye(12)[:4]
    places = [stem] * PLAIN + [red + 0.05 * stem] * BIASED + [red + blue] * BIPOTENT
    places += [red] * 20 + [blue] * 20 + [green] * 20
    # those between red and blue see both: half of either type lies on their side
    places = np.array(places) + 0.05 * rng.normal(size=(len(places), 12))
    start = PLAIN + BIASED + BIPOTENT
    places[start : start + 6] += 0.8 * blue
    places[start + 20 : start + 26] += 0.8 * red
    types = ["stem"] * start + ["red"] * 20 + ["blue"] * 20 + ["green"] * 20
    return cells(places, types, 8)


def by_chance(seed, n_stem=60, n_others=140) -> ad.AnnData:
    """Return cells whose places and expression have nothing to do with their types."""
    rng = np.random.default_rng(seed)
    types = ["stem"] * n_stem + list(rng.choice(TARGETS, n_others))
    return cells(rng.normal(size=(n_stem + n_others, 6)), types, 15, seed=seed)


def types_of(adata, graph="predicted"):
    table = adata.uns["diffvae"]["commitment_types"]
    return table[table["graph"] == graph]


def test_planted_fates_are_called():
    adata = planted()
    calls = tl.commitment(adata, "stem", "type")
    assert calls.columns.tolist() == COLUMNS
    assert calls["cell"].tolist() == [f"cell {i}" for i in range(PLAIN + BIASED + BIPOTENT)]
    plain, biased, both = np.split(calls["call"].to_numpy(), [PLAIN, PLAIN + BIASED])
    assert set(plain) == {"uncommitted"}
    assert set(biased) == {"biased: red"}
    assert set(both) <= {"bipotent: red/blue", "bipotent: blue/red"}
    named = calls["call"] != "uncommitted"
    assert calls["confidence"].notna().equals(named)
    assert (calls["confidence"][named] > 0.95).all()
    assert (calls["strongest"][PLAIN : PLAIN + BIASED] == "red").all()
    # expression says nothing here, and a type is called on purpose only
    assert (calls["call_pearson"] == "uncommitted").mean() > 0.9


def test_what_is_written_and_where(tmp_path):
    adata = planted()
    before = adata.copy()
    calls = tl.commitment(adata, "stem", "type", max_q=0.1)
    assert set(adata.obs) - set(before.obs) == {"diffvae_commitment", "diffvae_commitment_confidence"}
    own = adata.obs["type"] == "stem"
    assert adata.obs["diffvae_commitment"][own].tolist() == calls["call"].tolist()
    assert isinstance(adata.obs["diffvae_commitment"].dtype, pd.CategoricalDtype)
    assert adata.obs["diffvae_commitment"][~own].isna().all()
    assert adata.obs["diffvae_commitment_confidence"][~own].isna().all()
    assert adata.obs["diffvae_commitment_confidence"][own].equals(
        pd.Series(calls["confidence"].to_numpy(), index=calls["cell"])
    )
    stored = adata.uns["diffvae"]
    pd.testing.assert_frame_equal(stored["commitment"], calls)
    assert stored["commitment_params"] == {"source": "stem", "groupby": "type", "targets": TARGETS, "max_q": 0.1}
    table = stored["commitment_types"]
    assert len(table) == 2 * len(calls) * 3
    assert table["graph"].unique().tolist() == ["predicted", "pearson"]
    assert table["type"].tolist() == TARGETS * (2 * len(calls))
    assert (adata.X == before.X).all()
    assert set(adata.obsm) == set(before.obsm)
    assert calls["strongest"].isna().any()  # a cell without links to any type
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    for name in ("commitment", "commitment_types"):
        pd.testing.assert_frame_equal(
            again.uns["diffvae"][name], stored[name], check_dtype=False, check_index_type=False
        )
    assert list(again.uns["diffvae"]["commitment_params"]["targets"]) == TARGETS
    pd.testing.assert_frame_equal(again.obs, adata.obs)


def test_links_expectation_and_p_by_hand():
    # six cells on a circle, in degrees; each chooses the one nearest: 0-1, 2-3, 4-3, 5-4
    angles = np.deg2rad([0, 5, 90, 100, 115, 135])
    places = np.column_stack([np.cos(angles), np.sin(angles)])
    # how long a place is, a cell's popularity, says nothing of its direction
    adata = cells(places * [[1], [9], [1], [2], [5], [1]], ["stem", "red", "stem", "red", "stem", "blue"], 1)
    tl.commitment(adata, "stem", "type")
    table = types_of(adata).set_index(["cell", "type"])
    # progenitors are 0 (linked to 1), 2 (to 3) and 4 (to 3 and 5): M = 4 links, S_red = 3, S_blue = 1
    assert table["n_links"].unstack()[["red", "blue"]].values.tolist() == [[1, 0], [1, 0], [1, 1]]
    assert table["expected"].unstack()[["red", "blue"]].to_numpy() == pytest.approx(
        np.array([[0.75, 0.25], [0.75, 0.25], [1.5, 0.5]])
    )
    assert table["share"].unstack()[["red", "blue"]].values.tolist() == [[1, 0], [1, 0], [0.5, 0.5]]
    # cell 4 has 2 of the 4 links: both miss the one to blue in C(3, 2) of C(4, 2) = 6 deals, 1 - 3/6; red is sure
    p = table["p_value"].unstack()[["red", "blue"]]
    assert p.to_numpy() == pytest.approx(np.array([[0.75, 1], [0.75, 1], [1, 0.5]]))
    q = stats.false_discovery_control(types_of(adata)["p_value"])
    assert table["q_value"].to_numpy() == pytest.approx(q)


def test_hypergeometric_p_of_every_cell():
    adata = by_chance(3)
    tl.commitment(adata, "stem", "type")
    places = adata.obsm["X_diffvae_link"]
    distance = cdist(places, places, "cosine")
    np.fill_diagonal(distance, np.inf)
    links = np.zeros(distance.shape, bool)
    np.put_along_axis(links, np.argsort(distance, axis=1)[:, :15], True, axis=1)
    links = (links | links.T)[:60]
    n_links = np.stack([links[:, adata.obs["type"] == t].sum(1) for t in TARGETS], axis=1)
    table = types_of(adata)
    assert table["n_links"].to_numpy().reshape(60, 3).tolist() == n_links.tolist()
    degree = links.sum(1)
    for row, (cell, name) in enumerate([(i, t) for i in range(60) for t in range(3)]):
        expected = stats.hypergeom(degree.sum(), n_links[:, name].sum(), degree[cell]).sf(n_links[cell, name] - 1)
        assert table["p_value"].iloc[row] == pytest.approx(expected, abs=1e-12)
    assert table["p_value"].between(0, 1).all()
    total = table.groupby("type")[["n_links", "expected"]].sum()
    assert total["expected"].to_numpy() == pytest.approx(total["n_links"].to_numpy())


def test_pearson_neighbours_are_of_the_layer():
    adata = planted()
    adata.layers["mine"] = adata.X * 0
    adata.layers["mine"][:, :12] = adata.obsm["X_diffvae_link"]  # expression that says what the places say
    calls = tl.commitment(adata, "stem", "type", layer="mine")
    assert set(calls["call_pearson"][:PLAIN]) == {"uncommitted"}
    assert set(calls["call_pearson"][PLAIN : PLAIN + BIASED]) == {"biased: red"}
    adata.X = adata.layers["mine"]
    pd.testing.assert_frame_equal(tl.commitment(adata, "stem", "type", layer=None), calls)


def test_chance_gives_few_false_calls():
    tables = [tl.commitment(by_chance(seed), "stem", "type") for seed in range(8)]
    false = pd.concat(tables)
    assert len(false) == 8 * 60
    assert (false["call"] != "uncommitted").mean() < 0.01
    assert (false["call_pearson"] != "uncommitted").mean() < 0.01


def test_targets_may_be_some_of_the_types():
    adata = planted()
    tl.commitment(adata, "stem", "type")
    every = types_of(adata).set_index(["cell", "type"])
    calls = tl.commitment(adata, "stem", "type", targets=["blue", "green", "blue"])
    assert adata.uns["diffvae"]["commitment_params"]["targets"] == ["blue", "green"]
    some = types_of(adata).set_index(["cell", "type"])
    assert some.index.get_level_values("type").unique().tolist() == ["blue", "green"]
    same = ["n_links", "expected", "share", "p_value"]  # q-values are over other tests
    pd.testing.assert_frame_equal(some[same].sort_index(), every.loc[some.index, same].sort_index())
    assert set(calls["call"][PLAIN : PLAIN + BIASED]) == {"uncommitted"}
    assert "biased: blue" in set(calls["call"][PLAIN + BIASED :])
    assert not calls["call"].str.contains("red").any()


def test_a_larger_q_calls_no_fewer():
    adata = planted()
    strict, lenient = (tl.commitment(adata, "stem", "type", max_q=q)["call"] for q in (1e-9, 0.5))
    assert set(strict) == {"uncommitted"}
    assert (lenient != "uncommitted").sum() >= BIASED + BIPOTENT


def test_multipotent():
    rng = np.random.default_rng(0)
    stem, *types = np.eye(20)[:4]
    places = np.array([stem] * 60 + [sum(types)] + [sum(types) + t for t in types for _ in range(6)])
    names = ["stem"] * 61 + list(np.repeat(TARGETS, 6))
    adata = cells(places + 0.02 * rng.normal(size=places.shape), names, 18)
    calls = tl.commitment(adata, "stem", "type")
    assert calls["call"].iloc[60].startswith("multipotent: ")
    assert sorted(calls["call"].iloc[60].removeprefix("multipotent: ").split("/")) == TARGETS


def test_permuted_cells_have_permuted_calls():
    adata = planted()
    calls = tl.commitment(adata, "stem", "type").set_index("cell")
    other = planted()[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    again = tl.commitment(other, "stem", "type").set_index("cell")
    assert again.index.tolist() != calls.index.tolist()
    pd.testing.assert_frame_equal(again.loc[calls.index], calls)
    assert (
        adata.obs["diffvae_commitment"]
        .astype(object)
        .equals(other.obs["diffvae_commitment"].astype(object)[adata.obs_names])
    )


def test_progenitors_linked_to_each_other_only_are_uncommitted():
    rng = np.random.default_rng(0)
    places = np.repeat(np.eye(6)[:2], [20, 20], axis=0) + 0.05 * rng.normal(size=(40, 6))
    calls = tl.commitment(cells(places, ["stem"] * 20 + ["red"] * 20, 5), "stem", "type")
    assert set(calls["call"]) == {"uncommitted"}
    assert calls["confidence"].isna().all()
    assert calls["strongest"].isna().all()
    adata = planted()
    adata.uns["diffvae"]["links"]["top_k"] = 1000  # all are linked to all
    assert set(tl.commitment(adata, "stem", "type")["call"]) == {"uncommitted"}


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("stem", "kind"), {}, r"obs\['kind'\] is missing; there are: type"),
        (("root", "type"), {}, "'root' is not a type of adata.obs.'type'.; the types are: blue, green, red, stem"),
        (("stem", "type"), {"targets": ["pink"]}, "'pink' is not a type"),
        (
            ("stem", "type"),
            {"targets": ["stem"]},
            "targets is .'stem'.; it must be one or more types other than 'stem'",
        ),
        (("stem", "type"), {"targets": []}, "it must be one or more types other than"),
        (("stem", "type"), {"max_q": 0}, "max_q is 0; it must be a number above 0 and below 1"),
        (("stem", "type"), {"max_q": 1.0}, "max_q is 1.0"),
        (("stem", "type"), {"layer": "spliced"}, "spliced"),
    ],
)
def test_errors_are_sentences_and_write_nothing(arguments, options, sentence):
    adata = planted()
    with pytest.raises(ValueError, match=sentence):
        tl.commitment(adata, *arguments, **options)
    assert list(adata.obs) == ["type"]
    assert list(adata.uns["diffvae"]) == ["links"]


def test_links_come_first():
    adata = planted()
    del adata.obsm["X_diffvae_link"]
    with pytest.raises(DataError, match=r"'X_diffvae_link'\] is missing; run diffvae.tl.links\(adata, model\) first"):
        tl.commitment(adata, "stem", "type")
    with pytest.raises(DataError, match=r"\['links'\] is missing; run diffvae.tl.links\(adata, model\) first"):
        tl.commitment(dv.pp.prepare(dv.datasets.pbmc68k_reduced(), copy=True), "CD34+", "cell_type")
    adata = planted()
    adata.obs["type"] = adata.obs["type"].astype(object)
    adata.obs.loc["cell 3", "type"] = None
    with pytest.raises(DataError, match="1 cells without a value; name or drop them"):
        tl.commitment(adata, "stem", "type")
