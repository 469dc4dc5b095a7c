import numpy as np
import pytest
from _pl_data import assert_legible, perturbation

import diffvae as dv


def title(ax):
    return ax.get_title(loc="left")


def heading(ax):
    return ax.figure.get_suptitle()


def written(ax):
    return [t.get_text() for t in ax.texts]


def test_one_map_per_target_and_step():
    axes = dv.pl.conversions(perturbation())
    assert axes.shape == (2, 3)
    assert title(axes[0, 1]) == "B, 1 sd:\n5 of 20 (chance 10%)"
    assert title(axes[1, 2]) == "C long name, 2 sd:\n15 of 20 (chance 10%)"
    assert [len(c.get_offsets()) for c in axes[0, 1].collections] == [20, 15, 5]
    assert heading(axes[0, 0]) == "A: cells converted by each shift"
    assert_legible(axes[0, 0])


def test_maps_that_are_asked_for():
    many = perturbation(targets=tuple("BCDE"))
    axes = dv.pl.conversions(many, target=["D", "B"], n_sd=2)
    assert [title(ax).split(":")[0] for ax in axes.flat] == ["D, 2 sd", "B, 2 sd"]
    axes = dv.pl.conversions(many, n_sd=1)  # two a row, not three and one
    assert axes.shape == (4, 1)
    assert axes[0, 0].get_subplotspec().get_gridspec().get_geometry() == (2, 2)
    assert dv.pl.conversions(many, n_sd=1, ncols=3)[0, 0].get_subplotspec().get_gridspec().ncols == 3


def test_one_map():
    ax = dv.pl.converted(perturbation(), "B", 2)
    assert title(ax) == "A to B, 2 sd: 15 of 20 (chance 10%)"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "converts (15)", "doesn't convert (5)", "other types (20)",
    ]  # fmt: skip
    assert_legible(ax)
    assert title(dv.pl.converted(perturbation(methods=("none",)), "B", None, title=None)) == "A to B, 2 sd: 0 of 20"


def test_curves_have_lines_stars_and_the_null():
    axes = dv.pl.conversion_curves(perturbation())
    assert axes.shape == (2,)
    assert [title(ax) for ax in axes] == ["B", "C long name"]
    lines = {line.get_color(): line for line in axes[0].lines if line.get_marker() == "None"}
    np.testing.assert_allclose(lines["#D55E00"].get_ydata(), [0, 0, 0.25, 0.75])
    np.testing.assert_allclose(lines["#777777"].get_ydata(), [0.1, 0.1, 0.1])
    stars = [line.get_xdata().tolist() for line in axes[0].lines if line.get_marker() == "*"]
    assert stars == [[], [2.0], [2.0]]  # nothing is tested without a shift
    (band,) = axes[0].collections
    assert band.get_datalim(axes[0].transData).bounds == pytest.approx((0.5, 0, 1.5, 0.2))
    assert len(axes[0].figure.legends[0].get_texts()) == 5
    assert_legible(axes[0])


def test_curves_of_one_target_without_a_null():
    (ax,) = dv.pl.conversion_curves(perturbation(methods=("none",)), targets="B")
    assert not ax.collections
    assert [t.get_text() for t in ax.figure.legends[0].get_texts()] == ["decoded only, no shift"]
    assert_legible(ax)


def test_no_cell_converts():
    nothing = perturbation(shares=(0, 0, 0, 0))
    axes = dv.pl.conversions(nothing)
    assert heading(axes[0, 0]) == "A: no shift converts any cell"
    assert title(axes[0, 2]) == "B, 2 sd:\n0 of 20 (chance 10%)"
    curves = dv.pl.conversion_curves(nothing)
    assert heading(curves[0]) == "A: no shift converts any cell"
    ax = dv.pl.plasticity(nothing)
    assert title(ax) == "No cells converted beyond chance by 1 sd"
    assert written(ax) == ["−10", "−10"]
    for drawn in (axes[0, 0], curves[0], ax):
        assert_legible(drawn)


def test_plasticity_has_numbers_stars_and_a_diagonal():
    ax = dv.pl.plasticity(perturbation(sources=("A", "B"), targets=("B", "A", "C")), n_sd=2)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["A", "B", "C"]
    assert written(ax) == ["65*"] * 4
    assert sorted(p.get_xy() for p in ax.patches) == [(-0.5, -0.5), (0.5, 0.5)]
    assert title(ax) == "Cells converted beyond chance by 2 sd, in %"
    assert "hatched: not tried" in ax.get_xlabel()
    assert_legible(ax)


def test_plasticity_of_many_types_keeps_the_stars():
    names = tuple(f"progenitor-like cell {i}" for i in range(18))
    ax = dv.pl.plasticity(perturbation(sources=names, targets=names, methods=("shift",)), n_sd=2)
    assert set(written(ax)) == {"*"}
    assert_legible(ax)


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda p: dv.pl.converted(p, "Z"), "A to Z by 'shift' was not tried; there are: A to B, A to C long name"),
        (lambda p: dv.pl.conversion_curves(p, source="Z"), "Z to B by 'shift' was not tried"),
        (lambda p: dv.pl.conversions(p, n_sd=0.7), "n_sd is 0.7; this perturbation has 0, 0.5, 1, 2"),
        (lambda p: dv.pl.conversions(p, ncols=0), "ncols is 0; it must be None or a whole number of 1 or more"),
    ],
)
def test_errors_are_sentences(draw, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw(perturbation())


def test_map_is_missing():
    without_map = perturbation()
    del without_map.adata.obsm["X_diffvae_tsne"]
    for draw in (dv.pl.conversions, lambda p: dv.pl.converted(p, "B")):
        with pytest.raises(ValueError, match=r"obsm\['X_diffvae_tsne'\] is missing; run diffvae\.tl\.tsne"):
            draw(without_map)
