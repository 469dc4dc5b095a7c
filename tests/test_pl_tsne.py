import numpy as np
import pandas as pd
import pytest
from _pl_data import assert_legible, cells
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import diffvae as dv
from diffvae.pl._style import GREY


def legend_texts(ax):
    return [t.get_text() for t in ax.get_legend().get_texts()]


def legend_colours(ax):
    names = [t.rsplit(" (", 1)[0] for t in legend_texts(ax)]
    return dict(zip(names, [to_hex(h.get_color()) for h in ax.get_legend().legend_handles], strict=True))


def dots(ax):
    return ax.collections[-1]


def test_legend_is_ordered_by_size_with_counts():
    adata = cells()
    ax = dv.pl.tsne(adata)
    sizes = adata.obs["diffvae_cluster"].value_counts()
    assert legend_texts(ax) == [f"{g} ({n})" for g, n in sizes.items()]
    assert ax.get_title(loc="left") == "10 clusters in 700 cells"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("t-SNE 1", "t-SNE 2")
    assert ax.get_aspect() == 1


def test_every_cell_is_a_rasterised_dot_at_its_place_in_its_colour():
    adata = cells()
    ax = dv.pl.tsne(adata)
    drawn = pd.DataFrame(dots(ax).get_offsets(), columns=["x", "y"])
    drawn["colour"] = [to_hex(c) for c in dots(ax).get_facecolors()]
    of = legend_colours(ax)
    expected = pd.DataFrame(adata.obsm["X_diffvae_tsne"], columns=["x", "y"])
    expected["colour"] = [of[g] for g in adata.obs["diffvae_cluster"]]
    by = ["x", "y", "colour"]
    pd.testing.assert_frame_equal(
        drawn.sort_values(by, ignore_index=True), expected.sort_values(by, ignore_index=True), check_dtype=False
    )
    assert dots(ax).get_rasterized()


def test_colours_are_the_same_in_all_figures_and_for_a_subset():
    adata = cells()
    whole = legend_colours(dv.pl.tsne(adata))
    part = adata[adata.obs["diffvae_cluster"].isin(["3", "8"])]
    some = part.copy()
    some.obs["diffvae_cluster"] = some.obs["diffvae_cluster"].cat.set_categories([str(i) for i in range(10)])
    assert legend_colours(dv.pl.tsne(some)) == {g: whole[g] for g in ("8", "3")}
    bars = dv.pl.dimension_composition(adata, group="1")
    assert {k: v for k, v in legend_colours(bars).items() if k in whole} == whole


def test_unassigned_is_grey_last_and_behind():
    ax = dv.pl.tsne(cells(), color="diffvae_cell_type")
    assert legend_texts(ax)[-1] == "unassigned (13)"
    assert legend_colours(ax)["unassigned"] == GREY.lower()
    assert {to_hex(c) for c in dots(ax).get_facecolors()[:13]} == {GREY.lower()}
    assert ax.get_title(loc="left") == "9 cell types in 700 cells, 13 unassigned"


def test_missing_values_and_plain_strings():
    adata = cells()
    adata.obs["place"] = ["s2", None, "s10", np.nan] * 175
    ax = dv.pl.tsne(adata, color="place")
    assert legend_texts(ax) == ["s2 (175)", "s10 (175)", "NA (350)"]
    assert list(legend_colours(ax).values()) == ["#0072b2", "#e69f00", GREY.lower()]


def test_gene_comes_from_raw_unless_a_layer_is_named():
    adata = cells()
    adata.layers["twice"] = 2 * adata.raw[:, adata.var_names].X.toarray()
    raw = np.sort(adata.raw[:, "CD3D"].X.toarray().ravel())
    ax = dv.pl.tsne(adata, color="CD3D")
    np.testing.assert_allclose(dots(ax).get_array(), raw)  # drawn from low to high
    np.testing.assert_allclose(dv.pl.tsne(adata, color="CD3D", layer="twice").collections[-1].get_array(), 2 * raw)
    assert ax.get_title(loc="left") == "CD3D in 700 cells"
    assert ax.get_legend() is None
    assert len(ax.figure.axes) == 2


def test_latent_dimension_is_centred_at_zero():
    adata = cells()
    ax = dv.pl.tsne(adata, color=4)
    low, high = dots(ax).get_clim()
    assert low == -high
    assert high == pytest.approx(np.percentile(np.abs(adata.obsm["X_diffvae"][:, 4]), 99))
    assert ax.get_title(loc="left") == "Latent dimension 4 in 700 cells"


def test_numbers_with_gaps_and_constant_numbers():
    adata = cells()
    adata.obs["some"] = np.where(np.arange(700) < 10, np.nan, 5.0)
    ax = dv.pl.tsne(adata, color="some")
    assert ax.get_title(loc="left") == "some in 690 cells"
    assert [len(c.get_offsets()) for c in ax.collections] == [10, 690]
    adata.obs["none"] = np.nan
    assert dv.pl.tsne(adata, color="none").get_title(loc="left") == "none in 0 cells"


def test_rare_gene_is_seen():
    adata = cells()
    adata.layers["one"] = np.zeros(adata.shape)
    adata.layers["one"][0, 0] = 3
    ax = dv.pl.tsne(adata, color=adata.var_names[0], layer="one")
    assert dots(ax).get_clim() == (0, 3)


def test_dots_get_smaller_with_more_cells():
    adata = cells()
    assert dots(dv.pl.tsne(adata)).get_sizes()[0] > dots(dv.pl.tsne(adata[[*range(700)] * 20])).get_sizes()[0]
    assert dots(dv.pl.tsne(adata, size=3)).get_sizes()[0] == 3


def test_names_on_the_map_are_clear_of_each_other_and_the_same_in_every_run():
    adata = cells()
    ax, again = (dv.pl.tsne(adata, color="cell_type", legend="on data") for _ in range(2))
    assert ax.get_legend() is None
    names = [t.get_text().replace("\n", "").replace(" ", "") for t in ax.texts]
    assert sorted(names) == sorted(g.replace(" ", "") for g in adata.obs["cell_type"].cat.categories)
    assert_legible(ax)
    assert [t.get_position() for t in ax.texts] == [t.get_position() for t in again.texts]


def test_a_map_without_a_named_group_has_a_legend():
    adata = cells()
    adata.obs["none"] = "unassigned"
    assert legend_texts(dv.pl.tsne(adata, color="none", legend="on data")) == ["unassigned (700)"]


def test_names_that_have_no_room_become_a_legend():
    ax = Figure(figsize=(3, 3), layout="constrained").add_subplot()
    dv.pl.tsne(cells(), color="long10", legend="on data", ax=ax)
    assert len(ax.texts) == 0
    assert len(legend_texts(ax)) == 10


def test_legend_may_be_left_out():
    assert dv.pl.tsne(cells(), legend=False).get_legend() is None
    ax = dv.pl.tsne(cells(), color="CD3D", legend=False)
    assert len(ax.figure.axes) == 1


def test_awkward_names():
    adata = cells()
    adata.obs["odd"] = pd.Categorical(np.resize(["_hidden", "a$b$", "two\nlines", "é µ"], 700))
    ax = dv.pl.tsne(adata, color="odd", title="$x$ is not maths")
    assert legend_texts(ax) == [" _hidden (175)", r"a\$b\$ (175)", "two\nlines (175)", "é µ (175)"]
    assert_legible(ax)


def test_one_cell():
    assert dv.pl.tsne(cells()[:1]).get_title(loc="left") == "1 cluster in 1 cell"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"basis": "X_none"}, r"adata\.obsm\['X_none'\] is missing; there are: X_pca"),
        ({"color": "cd3d"}, r"'cd3d' is neither in adata\.obs nor among the genes of adata; did you mean CD3D"),
        ({"color": 50}, r"color is dimension 50; the latent space has dimensions 0 to 49"),
        ({"color": None}, r"color is None; it must be a column of adata\.obs, a gene or a latent dimension"),
        ({"color": "CD3D", "layer": "unit"}, r"adata\.layers\['unit'\] is missing"),
        ({"legend": "right"}, "legend is 'right'; it must be True or False or 'on data'"),
    ],
)
def test_errors_are_sentences(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dv.pl.tsne(cells(), **change)


@pytest.mark.parametrize(("slot", "key", "step"), [
    ("obsm", "X_diffvae_tsne", r"diffvae\.tl\.tsne\(adata\)"),
    ("obs", "diffvae_cluster", r"diffvae\.tl\.cluster\(adata\)"),
])  # fmt: skip
def test_a_step_left_out_is_named(slot, key, step):
    adata = cells()
    del getattr(adata, slot)[key]
    with pytest.raises(ValueError, match=rf"adata\.{slot}\['{key}'\] is missing; run {step} first\."):
        dv.pl.tsne(adata)
