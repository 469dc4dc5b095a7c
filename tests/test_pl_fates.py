"""Fates of progenitors: towards which type each leans, and the bars of their groups."""

import numpy as np
import pandas as pd
import pytest
from _pl_data import assert_legible
from _pl_links_data import LONG, linked
from matplotlib.colors import to_hex, to_rgb

import diffvae as dv
from diffvae.pl._fates import _NONE, colour_of, leaning
from diffvae.pl._style import colours


def cells(n_types=3, name="", size=4, calls=None):
    """Return cells of which those of the first type have fates, the first of them towards the second type."""
    adata = linked(n_types, name, size)
    types = list(adata.obs["type"].cat.categories)
    values = np.full((adata.n_obs, len(types) - 1), np.nan)
    values[:size] = 0.1
    values[0, 0], values[1, -1] = 0.9, 0.5
    adata.obsm["diffvae_fates"] = values
    adata.uns["diffvae"]["fates"] = {
        "names": types[1:], "source": types[0], "groupby": "type", "alpha": 0.9, "key_added": "diffvae_fates",
    }  # fmt: skip
    calls = calls or [f"biased: {types[1]}", *["uncommitted"] * (size - 1)]
    adata.obs["diffvae_commitment"] = pd.Series(calls, index=adata.obs_names[:size]).reindex(adata.obs_names)
    groups = {"all": range(size)} | {c: [i for i in range(size) if calls[i] == c] for c in dict.fromkeys(calls)}
    rows = [
        (group, len(own), t, values[list(own), k].mean(), 0.02, 0.3, values[:size, k].mean(), 0.1)
        for group, own in groups.items()
        for k, t in enumerate(types[1:])
    ]
    columns = ["group", "n_cells", "type", "probability", "se", "pca", "null", "null_sd"]
    adata.uns["diffvae"]["fate_table"] = pd.DataFrame(rows, columns=columns)
    return adata


def drawn(ax):
    """Return place -> colour of the drawn progenitors, and the places that have a ring."""
    colour, rings = {}, set()
    for dots in ax.collections[1:]:
        faces = np.broadcast_to(dots.get_facecolors(), (len(dots.get_offsets()), 4))
        colour |= {tuple(np.round(xy, 6)): to_hex(c) for xy, c in zip(dots.get_offsets(), faces, strict=True)}
        if dots.get_linewidths()[0] > 0:
            rings |= {tuple(np.round(xy, 6)) for xy in dots.get_offsets()}
    return colour, rings


def test_a_cell_leans_to_the_fate_most_above_the_mean():
    # the first fate is the most probable of all three, and yet the last leans to the second
    found = leaning(np.array([[0.9, 0.0], [0.5, 0.0], [0.4, 0.3], [np.nan, np.nan]]), 0.9)
    assert found.fate.tolist() == [0, -1, 1, -2]
    assert found.strength.tolist() == pytest.approx([0.3 / 0.9, 0, 0.2 / 0.9, 0])
    # the mean over progenitors only
    own = np.array([True, True, False, False])
    assert leaning(np.array([[0.9, 0], [0.1, 0], [0.9, 0.9], [0, 0.0]]), 0.9, own).strength[0] == pytest.approx(
        0.4 / 0.9
    )
    assert leaning(np.full((3, 1), 0.4), 0.9).fate.tolist() == [-1] * 3


def test_the_map_has_the_colours_of_the_types_and_grey_where_nothing_is_above_the_mean():
    adata = cells()
    axes = dv.pl.fates(adata)
    of, xy = colours(["a", "b", "c"]), np.round(adata.obsm["X_diffvae_tsne"], 6)
    colour, rings = drawn(axes[0])
    for cell, fate, above in ((0, "b", 0.9 - 0.3), (1, "c", 0.5 - 0.2)):  # less the mean of the four
        assert colour[tuple(xy[cell])] == to_hex(colour_of(of[fate], np.array([above / 0.9]))[0])
    assert colour[tuple(xy[2])] == colour[tuple(xy[3])] == to_hex(_NONE)
    assert len(colour) == 4
    assert rings == {tuple(xy[0])}
    labels = [t.get_text() for t in axes[0].figure.legends[0].get_texts()]
    assert labels[:3] == ["towards b", "towards c", "uncommitted: none above mean"]
    assert_legible(axes[0])


def test_some_of_the_cells_are_drawn_if_progenitors_are_among_them():
    adata = cells()
    own = adata.obs["type"] == "a"
    axes = dv.pl.fates(adata[own].copy())  # the other types are no categories then
    assert len(drawn(axes[0])[0]) == own.sum()
    with pytest.raises(dv.pp.DataError, match="No cell of 'a' has fates; draw cells among which it is"):
        dv.pl.fates(adata[~own].copy())


def test_colours_go_from_grey_to_that_of_the_type():
    ends = colour_of("#0072B2", np.array([0.0, 0.25, 1.0]))
    assert ends[0] == pytest.approx(to_rgb(_NONE))
    assert ends[2] == pytest.approx(to_rgb("#0072B2"))
    assert ends[1] == pytest.approx((ends[0] + ends[2]) / 2)


def test_bars_are_the_means_with_their_errors_beside_pca_and_all():
    axes = dv.pl.fates(cells())
    bars = [bar for box in axes[1].containers if hasattr(box, "patches") for bar in box.patches]
    table = {"all": (0.3, 0.2), "uncommitted": (0.1, 0.7 / 3), "biased: b": (0.9, 0.1)}
    widths = sorted(round(bar.get_width(), 6) for bar in bars)
    assert widths == pytest.approx(sorted(round(v, 6) for pair in table.values() for v in pair))
    names = [label.get_text() for label in axes[1].get_yticklabels()]
    assert names == ["all (4)", "uncommitted (3)", "biased: b (1)"]
    diamonds = [line.get_xdata()[0] for line in axes[1].lines if line.get_marker() == "D"]
    assert diamonds == pytest.approx([0.3] * 6)
    assert axes[1].get_xlim() == (0, 1)


@pytest.mark.parametrize("name", ["{}", LONG])
@pytest.mark.parametrize("n", [2, 12])
def test_all_figures_are_legible(n, name):
    types = [name.format(i) for i in range(n)]
    calls = [f"biased: {types[1 + i % (n - 1)]}" if i < 8 else "uncommitted" for i in range(12)]
    assert_legible(dv.pl.fates(cells(n, name, 12, calls))[0])


def test_without_standard_errors_and_calls():
    adata = cells()
    del adata.obs["diffvae_commitment"]
    adata.uns["diffvae"]["fate_table"]["se"] = np.nan
    axes = dv.pl.fates(adata, title="My cells")
    assert drawn(axes[0])[1] == set()
    assert axes[0].figure.get_suptitle() == "My cells"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda a: a.uns["diffvae"].pop("fate_table"), "split_by='diffvae_commitment'"),
        (lambda a: a.uns["diffvae"].pop("fates"), r"run diffvae.tl.fates\(adata, source, groupby\) first"),
        (lambda a: a.obsm.pop("diffvae_fates"), r"obsm\['diffvae_fates'\] is missing"),
        (lambda a: a.uns["diffvae"]["fates"].update(names=["b"]), "of different calls"),
        (lambda a: a.obsm.pop("X_diffvae_tsne"), r"obsm\['X_diffvae_tsne'\] is missing"),
    ],
)
def test_errors_are_sentences(spoil, sentence):
    adata = cells()
    spoil(adata)
    with pytest.raises(ValueError, match=sentence):
        dv.pl.fates(adata)
