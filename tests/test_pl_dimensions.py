import numpy as np
import pandas as pd
import pytest
from _pl_data import cells
from anndata import AnnData

import diffvae as dv


def small() -> AnnData:
    """Three groups of 2, 3 and 5 cells; two dimensions a group, chosen on the diagonal but out of order."""
    adata = AnnData(np.ones((10, 1)))
    adata.obs["diffvae_cluster"] = pd.Categorical(list("aabbbccccc"))
    share = {("a", 2): 0.75, ("a", 0): 0.25, ("a", 1): 0.0, ("b", 0): 0.5, ("b", 1): 0.25, ("b", 2): 0.25}
    share |= {("c", 1): 0.75, ("c", 0): 0.25, ("c", 2): 0.0}
    rows = [(g, d, 4, s, 4.0**i, "+" if d else "-") for i, ((g, d), s) in enumerate(share.items())]
    table = pd.DataFrame(rows, columns=["group", "dimension", "n_cells", "share", "odds_ratio", "side"])
    table["rank"] = table.groupby("group")["share"].rank(ascending=False, method="first").astype(int)
    table["chosen"] = table["rank"] == 1
    adata.uns["diffvae"] = {"latent_dimensions": table}
    return adata


def ticks(axis):
    return [t.get_text() for t in axis.get_ticklabels()]


def test_heat_map_is_block_diagonal_with_sides_on_it():
    ax = dv.pl.latent_dimensions(small())
    assert (ticks(ax.yaxis), ticks(ax.xaxis)) == (["a", "b", "c"], ["2", "0", "1"])
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.75, 0.25, 0], [0.25, 0.5, 0.25], [0, 0.25, 0.75]])
    assert {(*t.get_position(), t.get_text()) for t in ax.texts} == {(0, 0, "+"), (1, 1, "−"), (2, 2, "+")}
    assert ax.get_title(loc="left") == "Latent dimensions that encode each cluster"


def test_odds_ratios_are_centred_at_zero_and_infinite_ones_shown():
    adata = small()
    adata.uns["diffvae"]["latent_dimensions"].loc[0, "odds_ratio"] = np.inf
    ax = dv.pl.latent_dimensions(adata, value="odds_ratio")
    low, high = ax.images[0].get_clim()
    assert low == -high == -6
    assert np.isfinite(np.asarray(ax.images[0].get_array())).all()


def test_only_chosen_dimensions_that_fit():
    adata = cells()
    columns = ticks(dv.pl.latent_dimensions(adata).xaxis)
    assert 10 <= len(columns) <= 34
    assert len(columns) == len(set(columns))
    table = adata.uns["diffvae"]["latent_dimensions"]
    first = ticks(dv.pl.latent_dimensions(adata, n_top=1).xaxis)
    assert set(first) == {str(d) for d in table.loc[table["rank"] == 1, "dimension"]}


def test_ranks_need_not_be_consecutive_and_a_group_may_have_none():
    adata = small()
    table = adata.uns["diffvae"]["latent_dimensions"]
    table["chosen"] = (table["group"] == "c") & (table["dimension"] == 2)
    assert ticks(dv.pl.latent_dimensions(adata, n_top=1).xaxis) == ["2"]
    with pytest.raises(ValueError, match=r"No dimension is chosen for group 'a'; run .*max_q=1"):
        dv.pl.dimension_composition(adata, group="a")
    table["chosen"] = False
    with pytest.raises(ValueError, match="No dimension is chosen for any group"):
        dv.pl.latent_dimensions(adata)


def test_composition_adds_up_and_chance_is_the_share_of_all_cells():
    adata = small()
    adata.uns["diffvae"]["latent_dimensions"]["chosen"] = True
    ax = dv.pl.dimension_composition(adata, group="c")
    widths = np.array([[bar.get_width() for bar in part] for part in ax.containers])
    np.testing.assert_allclose(widths.sum(0), 1)
    np.testing.assert_allclose(widths[0], [0.75, 0.25, 0])  # the group itself, its best dimension first
    assert ticks(ax.yaxis) == ["1 (+)", "0 (−)", "2 (+)"]
    (chance,) = ax.lines
    assert list(chance.get_xdata()) == [0.5, 0.5]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["c (5)", "b (3)", "a (2)"]
    assert [t.get_text() for t in ax.texts] == ["4", "4", "4", "cells", "50% of all cells"]
    assert ax.get_title(loc="left") == "Cluster c: outlying cells of its 3 dimensions"


def test_number_of_dimensions_and_a_number_as_group():
    ax = dv.pl.dimension_composition(cells(), group=4, n_dims=3)
    assert len(ax.get_yticks()) == 3
    assert ax.get_title(loc="left").startswith("Cluster 4")


@pytest.mark.parametrize(
    "draw", [dv.pl.latent_dimensions, lambda a, **k: dv.pl.dimension_composition(a, group="0", **k)]
)
def test_errors_are_sentences(draw):
    adata = cells()
    with pytest.raises(ValueError, match=r"has groups that adata\.obs\['k3'\] lacks \(.*\); run diffvae"):
        draw(adata, groupby="k3")
    del adata.uns["diffvae"]["latent_dimensions"]["side"]
    with pytest.raises(ValueError, match=r"has no column side; run diffvae\.tl\.latent_dimensions"):
        draw(adata)
    del adata.uns["diffvae"]["latent_dimensions"]
    with pytest.raises(ValueError, match=r"\['latent_dimensions'\] is missing; run diffvae\.tl\.latent_dimensions"):
        draw(adata)
    with pytest.raises(ValueError, match=r"adata\.obs\['nothing'\] is missing"):
        draw(cells(), groupby="nothing")


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda a: dv.pl.latent_dimensions(a, value="q"), "value is 'q'; it must be 'share' or 'odds_ratio'"),
        (lambda a: dv.pl.latent_dimensions(a, n_top=0), "n_top is 0"),
        (lambda a: dv.pl.dimension_composition(a, group="z"), "group is 'z'; the groups are 0, 1"),
        (lambda a: dv.pl.dimension_composition(a, group="1", n_dims=0), "n_dims is 0"),
    ],
)
def test_wrong_options(draw, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw(cells())


def test_table_survives_a_file(tmp_path):
    import anndata

    adata = cells()
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert ticks(dv.pl.latent_dimensions(again).xaxis) == ticks(dv.pl.latent_dimensions(adata).xaxis)
