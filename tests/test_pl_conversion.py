import numpy as np
import pytest
from _pl_data import assert_legible, perturbation
from matplotlib.patches import FancyArrowPatch

import diffvae as dv


def title(ax):
    return ax.get_title(loc="left")


def heading(ax):
    return ax.figure.get_suptitle()


def written(ax):
    return [t.get_text() for t in ax.texts]


def test_one_map_per_target_at_the_step_that_reaches_it():
    axes = dv.pl.conversions(perturbation())
    assert axes.shape == (2, 1)
    assert [title(ax) for ax in axes.flat] == [
        "B, step 1: 15 of 20 (chance 10%)", "C long name, step 1:\n15 of 20 (chance 10%)",
    ]  # fmt: skip
    assert [len(c.get_offsets()) for c in axes[0, 0].collections] == [20, 5, 15]
    assert heading(axes[0, 0]) == "A: cells converted by the smallest step that reaches each type"
    assert_legible(axes[0, 0])


def test_types_that_are_not_reached_are_said():
    found = perturbation(targets=("B", "C"))
    found.table.loc[found.table["target"] == "C", "excess_agreed"] = 0.4  # the judges do not agree
    axes = dv.pl.conversions(found)
    assert title(axes[1, 0]).startswith("C, not reached: ")  # at the step that comes nearest
    assert heading(axes[0, 0]).endswith("the smallest step that reaches each type, or comes nearest")
    found.table["excess_agreed"] = 0.4
    assert heading(dv.pl.conversions(found)[0, 0]) == "A: no type is reached by steps up to 2 of the distance"


def test_maps_that_are_asked_for():
    many = perturbation(targets=tuple("BCDE"))
    axes = dv.pl.conversions(many, target=["D", "B"], step=2)
    assert [title(ax).split(":")[0] for ax in axes.flat] == ["D, step 2", "B, step 2"]
    axes = dv.pl.conversions(many, step=(0.5, 2))
    assert axes.shape == (4, 2)
    assert [len(ax.collections[2].get_offsets()) for ax in axes[0]] == [5, 16]
    axes = dv.pl.conversions(many, step=1)  # two a row, not three and one
    assert axes[0, 0].get_subplotspec().get_gridspec().get_geometry() == (2, 2)
    assert dv.pl.conversions(many, step=1, ncols=3)[0, 0].get_subplotspec().get_gridspec().ncols == 3


def test_one_map():
    ax = dv.pl.converted(perturbation(), "B", 2)
    assert title(ax) == "A to B, step 2: 16 of 20 (chance 10%)"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "converts (16)", "doesn't convert (4)", "other types (20)",
    ]  # fmt: skip
    assert_legible(ax)
    assert title(dv.pl.converted(perturbation(), "B")) == "A to B, step 1: 15 of 20 (chance 10%)"
    assert title(dv.pl.converted(perturbation(methods=("none",)), "B", title=None)) == "A to B, step 2: 0 of 20"


@pytest.fixture(scope="module")
def stems():
    """Stem cells that become either of two types, with a map of the latent representation."""
    cells = dv.datasets.simulate_differentiation(120, 40, tree={"stem": ["red", "white"]}, effect=4)
    dv.pp.prepare(cells)
    model = dv.model.PCA(n_latent=5).train(cells)
    dv.tl.embed(cells, model)
    dv.tl.tsne(cells, n_iter=50, n_jobs=1)
    classifier = dv.model.CellStateClassifier().train(cells, "cell_type", max_epochs=30, progress=False)
    return dv.tl.perturb(
        cells, model, classifier, source="stem", method="mean", step=(0.5, 1.0), n_random=5, progress=False
    )


def drawn(ax):
    return [np.asarray(c.get_offsets()) for c in ax.collections]


def arrows(ax):
    return [p for p in ax.patches if isinstance(p, FancyArrowPatch)]


def test_converted_cells_are_drawn_where_they_belong(stems):
    axes = dv.pl.conversions(stems, step=1)
    for ax, target in zip(axes.flat, stems.targets, strict=True):
        changed = stems.to_adata(target, 1)
        converts = changed.obs["converted"].to_numpy()
        assert converts.sum() > 5
        new = changed.obsm["X_diffvae_tsne"][converts]
        old = stems.adata[changed.obs["cell"]].obsm["X_diffvae_tsne"]
        rest, left, stays, placed = drawn(ax)
        assert len(rest) == stems.adata.n_obs - len(converts)
        np.testing.assert_allclose(left, old[converts])
        np.testing.assert_allclose(stays, old[~converts])  # who does not convert stays
        np.testing.assert_allclose(placed, new, rtol=1e-4, atol=1e-3)
        goal = stems.adata[stems.adata.obs["cell_type"] == target].obsm["X_diffvae_tsne"].mean(0)
        before, after = (np.linalg.norm(places.mean(0) - goal) for places in (left, placed))
        assert after < before / 2  # they moved to their target
        (arrow,) = arrows(ax)  # not one per cell
        way = arrow.get_path().vertices
        np.testing.assert_allclose(way[0], left.mean(0), atol=1e-3)
        pixels = ax.transData.transform(way) - ax.transData.transform(new.mean(0))
        assert np.linalg.norm(pixels, axis=1).min() < 5  # of the tip, whose outline has a width
    names = [t.get_text() for t in axes[0, 0].figure.legends[0].get_texts()]
    assert names[:2] == ["converts: new place", "converts: old place"]
    assert names[2:] == ["doesn't convert", "other types", "mean way of the converted cells"]
    assert_legible(axes[0, 0])


def test_one_map_shows_the_new_places(stems):
    ax = dv.pl.converted(stems, "red", 1)
    np.testing.assert_array_equal(drawn(ax)[3], drawn(dv.pl.conversions(stems, target="red", step=1)[0, 0])[3])
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names[0] == f"converts: new place ({len(drawn(ax)[3])})"
    assert names[-1] == "mean way of the converted cells"
    assert_legible(ax)


def test_all_panels_are_placed_at_once(stems, monkeypatch):
    place, sizes = dv.tl.tsne_transform, []

    def counted(adata, new, **options):
        sizes.append(len(new))
        return place(adata, new, **options)

    monkeypatch.setattr(dv.tl, "tsne_transform", counted)
    axes = dv.pl.conversions(stems, step=(0.5, 1))
    assert axes.shape == (2, 2)
    assert sizes == [sum(len(drawn(ax)[3]) for ax in axes.flat if arrows(ax))]


def test_known_places_are_not_sought_again(stems, monkeypatch):
    before = dv.pl.conversions(stems, step=1)
    for target in stems.targets:
        monkeypatch.setitem(
            stems._places, (stems.sources[0], target, 1.0), stems.to_adata(target, 1).obsm["X_diffvae_tsne"]
        )
    monkeypatch.setattr(dv.tl, "tsne_transform", None)
    for ax, again in zip(before.flat, dv.pl.conversions(stems, step=1).flat, strict=True):
        for old, new in zip(drawn(ax), drawn(again), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-3)


def test_on_another_map_cells_are_drawn_where_they_were(stems, monkeypatch):
    made = stems.adata.uns["diffvae"]["tsne"]
    monkeypatch.setitem(made, "use_rep", "X_pca")
    before = dv.pl.conversions(stems, step=1)
    monkeypatch.undo()
    monkeypatch.setitem(stems.adata.uns["diffvae"], "tsne", made | {"mark": "of another representation"})
    again = dv.pl.converted(stems, "red", 1)
    xy = stems.adata.obsm["X_diffvae_tsne"]
    for ax in (before[0, 0], again):
        assert len(drawn(ax)) == 3
        assert not arrows(ax)
        assert all((place == xy).all(1).any() for places in drawn(ax) for place in places)
    assert before[0, 0].figure.legends[0].get_texts()[0].get_text() == "converts"


def test_curves_have_lines_a_judge_stars_and_the_null():
    axes = dv.pl.conversion_curves(perturbation())
    assert axes.shape == (2,)
    assert [title(ax) for ax in axes] == ["B", "C long name"]
    lines = {line.get_color(): line for line in axes[0].lines if line.get_marker() == "None"}
    np.testing.assert_allclose(lines["#D55E00"].get_ydata(), [0, 0.25, 0.75, 0.8])
    np.testing.assert_allclose(lines["#777777"].get_ydata(), [0.1, 0.1, 0.1])
    assert lines["#D55E00"].get_linewidth() > 2 * lines["#0072B2"].get_linewidth()  # the first method is bold
    (judge,) = (line for line in axes[0].lines if line.get_marker() == "o")
    np.testing.assert_allclose(judge.get_ydata(), [0, 0.15, 0.65, 0.7])
    (stars,) = (line for line in axes[0].lines if line.get_marker() == "*")
    assert stars.get_xdata().tolist() == [1.0, 2.0]
    (band,) = axes[0].collections
    assert band.get_datalim(axes[0].transData).bounds == pytest.approx((0.5, 0, 1.5, 0.2))
    assert len(axes[0].figure.legends[0].get_texts()) == 6
    assert_legible(axes[0])


def test_curves_of_one_target_without_a_null():
    (ax,) = dv.pl.conversion_curves(perturbation(methods=("none",)), targets="B")
    assert not ax.collections
    assert [t.get_text() for t in ax.figure.legends[0].get_texts()] == [
        "decoded only, no step", "the same, by the judge",
    ]  # fmt: skip
    assert_legible(ax)


def test_labels_follow_the_unit():
    in_sd = perturbation(unit="n_sd")
    for found, label in ((perturbation(), "share of the distance to the target"), (in_sd, "shift (sd)")):
        axes = dv.pl.conversion_curves(found)
        assert axes[0].get_xlabel() == label
        assert axes[0].lines[0].get_xdata().tolist() == [0, 0.5, 1, 2]
    assert title(dv.pl.conversions(in_sd)[0, 0]) == "B, 1 sd: 15 of 20 (chance 10%)"
    assert title(dv.pl.converted(in_sd, "B", 2)) == "A to B, 2 sd: 16 of 20 (chance 10%)"
    assert title(dv.pl.plasticity(in_sd, step=0.5)) == "Cells converted beyond chance by 0.5 sd, in %"


def test_no_cell_converts():
    nothing = perturbation(shares=(0, 0, 0, 0))
    axes = dv.pl.conversions(nothing)
    assert heading(axes[0, 0]) == "A: no step converts any cell"
    assert title(axes[0, 0]) == "B, not reached: 0 of 20 (chance 10%)"
    curves = dv.pl.conversion_curves(nothing)
    assert heading(curves[0]) == "A: no step converts any cell"
    ax = dv.pl.plasticity(nothing)
    said = "No cells converted beyond chance by a change of expression of 4"
    assert title(ax).replace("\n", " ") == said
    assert "no step reaches a target" in ax.get_xlabel()
    assert written(ax) == ["−10", "−10"]
    for drawn in (axes[0, 0], curves[0], ax):
        assert_legible(drawn)


def test_plasticity_has_numbers_stars_and_a_diagonal():
    found = perturbation(sources=("A", "B"), targets=("B", "A", "C"))
    ax = dv.pl.plasticity(found, step=2)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["A", "B", "C"]
    assert written(ax) == ["70*"] * 4
    assert sorted(p.get_xy() for p in ax.patches) == [(-0.5, -0.5), (0.5, 0.5)]
    assert title(ax) == "Cells converted beyond chance by 2 of the distance, in %"
    assert "hatched: not tried" in ax.get_xlabel()
    assert_legible(ax)
    # of B, only step 2 reaches the targets; the map is at the change of step 1
    found.table.loc[(found.table["source"] == "B") & (found.table["step"] <= 1), "excess_agreed"] = 0
    ax = dv.pl.plasticity(found)
    assert written(ax) == ["65*", "65*", "0*", "0*"]
    said = "Cells converted beyond chance by a change of expression of 4, in %"
    assert title(ax).replace("\n", " ") == said
    assert "* reached by some step" in ax.get_xlabel()
    found.table.loc[found.table["source"] == "B", "excess_agreed"] = 0
    assert written(dv.pl.plasticity(found, change=3)) == ["40*", "40*", "0", "0"]


def test_plasticity_of_many_types_keeps_the_stars():
    names = tuple(f"progenitor-like cell {i}" for i in range(18))
    ax = dv.pl.plasticity(perturbation(sources=names, targets=names, methods=("mean",)), step=2)
    assert set(written(ax)) == {"*"}
    assert_legible(ax)


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda p: dv.pl.converted(p, "Z"), "A to Z by 'mean' was not tried; there are: A to B, A to C long name"),
        (lambda p: dv.pl.conversion_curves(p, source="Z"), "Z to B by 'mean' was not tried"),
        (lambda p: dv.pl.conversions(p, step=0.7), "step is 0.7; this perturbation has 0, 0.5, 1, 2"),
        (lambda p: dv.pl.converted(p, "B", 0.7), "step is 0.7; this perturbation has 0, 0.5, 1, 2"),
        (lambda p: dv.pl.plasticity(p, step=0.7), "step is 0.7; this perturbation has 0, 0.5, 1, 2"),
        (lambda p: dv.pl.plasticity(p, change=0), "change is 0; it must be None or a number above 0"),
        (lambda p: dv.pl.plasticity(p, change=1, step=1), "change and step are both given; give one of them"),
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
