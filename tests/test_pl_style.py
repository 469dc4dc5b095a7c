"""What holds for every figure."""

import subprocess
import sys
from functools import partial

import matplotlib as mpl
import pandas as pd
import pytest
from _comparison_data import comparison
from _pl_data import assert_legible, cells, minimal, perturbation
from _pl_links_data import called
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import diffvae as dv

HISTORY = pd.DataFrame(
    {"train_loss": [9.0, 5, 4], "validation_loss": [9.5, 6, 7], "train_kl": [0.0, 1, 2], "validation_kl": [0.1, 1, 2]},
    index=pd.RangeIndex(1, 4, name="epoch"),
)
IMPORTANCE = pd.DataFrame({"parameter": ["lr"], "importance": 0.9, "chance_95": 0.5, "n_trials": 20})
FIGURES = {
    "tsne": dv.pl.tsne,
    "tsne on data": partial(dv.pl.tsne, legend="on data"),
    "gene": partial(dv.pl.tsne, color="CD3D"),
    "dimension": partial(dv.pl.tsne, color=3),
    "latent_dimensions": dv.pl.latent_dimensions,
    "odds_ratio": partial(dv.pl.latent_dimensions, value="odds_ratio"),
    "dimension_composition": partial(dv.pl.dimension_composition, group="2"),
    "gene_heatmap": dv.pl.gene_heatmap,
    "overlap": partial(dv.pl.overlap, groupby="diffvae_cluster"),
}
"""Figures of an AnnData."""
OTHERS = {
    "history": lambda **k: dv.pl.history(HISTORY, **k),
    "converted": lambda **k: dv.pl.converted(perturbation(), "B", **k),
    "plasticity": lambda **k: dv.pl.plasticity(perturbation(), **k),
    "gene_counts": lambda **k: dv.pl.gene_counts(minimal(), **k),
    "minimal_genes": lambda **k: dv.pl.minimal_genes(minimal(), **k),
    "importance": lambda **k: dv.pl.importance(IMPORTANCE, **k),
    "method_scores": lambda **k: dv.pl.method_scores(comparison(n_latent=(50,), spaces=("latent",),
        clusterers=(("kmeans", True),)).table, **k),
}  # fmt: skip
"""Figures of other results."""
ARRAYS = {
    "adjacency": lambda a: dv.pl.adjacency(a, "type"),
    "links": lambda a: dv.pl.links(a, "type"),
    "link_table": dv.pl.link_table,
    "commitment": dv.pl.commitment,
}
"""Figures of several panels of an AnnData with links."""
PERTURBATIONS = {
    "conversions": lambda p: dv.pl.conversions(p)[0, 0],
    "converted": lambda p: dv.pl.converted(p, "B"),
    "conversion_curves": lambda p: dv.pl.conversion_curves(p)[0],
    "plasticity": dv.pl.plasticity,
}


def settings():
    # "backend" is left out: reading it makes matplotlib choose one.
    return {key: mpl.rcParams[key] for key in mpl.rcParams if key != "backend"}


def assert_unchanged(adata, before):
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    for slot in ("obsm", "obsp", "layers", "uns"):
        assert getattr(adata, slot).keys() == getattr(before, slot).keys()
    for name, table in before.uns["diffvae"].items():
        if isinstance(table, pd.DataFrame):
            pd.testing.assert_frame_equal(adata.uns["diffvae"][name], table)


@pytest.mark.parametrize("name", [*FIGURES, *OTHERS])
def test_new_figures_are_legible_and_leave_nothing_behind(name):
    before = settings()
    if name in FIGURES:
        adata, untouched = cells(), cells()
        ax = FIGURES[name](adata)
        assert_unchanged(adata, untouched)
    else:
        ax = OTHERS[name]()
    assert isinstance(ax, Axes)
    assert settings() == before
    assert [plt.figure(n) for n in plt.get_fignums()] == [ax.figure]
    assert ax.figure.get_size_inches()[0] == 6
    assert ax.get_title(loc="left")
    assert_legible(ax)


@pytest.mark.parametrize("draw", ARRAYS.values(), ids=ARRAYS)
def test_arrays_are_shown_and_leave_nothing_behind(draw):
    before, adata = settings(), called(["uncommitted"] * 4, ["uncommitted"] * 4)
    untouched = adata.copy()
    axes = draw(adata)
    assert axes._repr_png_().startswith(b"\x89PNG")
    assert settings() == before
    assert [plt.figure(n) for n in plt.get_fignums()] == [axes.flat[0].figure]
    assert_unchanged(adata, untouched)
    with pytest.raises(ValueError, match="adata is a DataFrame; pass an AnnData"):
        draw(pd.DataFrame())


@pytest.mark.parametrize("draw", PERTURBATIONS.values(), ids=PERTURBATIONS)
def test_figures_of_a_perturbation(draw):
    before = settings()
    assert draw(perturbation()).figure.get_size_inches()[0] == 6
    assert settings() == before
    with pytest.raises(ValueError, match=r"perturbation is a DataFrame; pass the result of diffvae\.tl\.perturb"):
        draw(pd.DataFrame())


@pytest.mark.parametrize("name", [*FIGURES, *OTHERS])
def test_given_axes_whatever_the_surrounding_style(name):
    draw = partial(FIGURES[name], cells()) if name in FIGURES else OTHERS[name]
    with mpl.rc_context({"axes.grid": True, "axes.facecolor": "red", "xtick.labelsize": 4, "axes.titlesize": 30}):
        figure = Figure(figsize=(12, 8), layout="constrained")
        axes = figure.subplots(1, 2)
        assert draw(ax=axes[0], title="Mine") is axes[0]
        assert axes[0].get_title(loc="left") == "Mine"
        assert axes[0].get_facecolor() == (1, 1, 1, 1)
        assert tuple(figure.get_size_inches()) == (12, 8)
        axes[1].set_axis_off()
        assert_legible(axes[0])
    with pytest.raises(ValueError, match=r"ax is a ndarray; pass one matplotlib Axes"):
        draw(ax=axes)


@pytest.mark.parametrize("name", [n for n in FIGURES if n != "overlap"])
def test_wrong_adata_gets_a_sentence(name):
    with pytest.raises(ValueError, match="adata is a DataFrame; pass an AnnData"):
        FIGURES[name](pd.DataFrame())
    with pytest.raises(ValueError, match="adata has no cells"):
        FIGURES[name](cells()[:0])


@pytest.mark.parametrize("groupby", ["k3", "long25"])
@pytest.mark.parametrize("name", ["tsne", "latent_dimensions", "dimension_composition", "gene_heatmap", "overlap"])
def test_legible_with_few_and_many_groups_and_long_names(name, groupby):
    adata = cells(groupby)
    options = {
        "tsne": {"color": groupby},
        "overlap": {"reference": "long10", "groupby": groupby},
        "dimension_composition": {"groupby": groupby, "group": adata.obs[groupby].cat.categories[1]},
    }
    ax = getattr(dv.pl, name)(adata, **options.get(name, {"groupby": groupby}))
    assert ax.figure.get_size_inches()[0] == 6
    assert_legible(ax)


def test_notebook_shows_the_axes():
    png = dv.pl.history(HISTORY)._repr_png_()
    assert png.startswith(b"\x89PNG")


def test_import_is_quiet_and_light():
    # "backend" is left out: reading it imports pyplot.
    code = (
        "import sys, matplotlib as m; rc = m.rcParams; was = {k: rc[k] for k in rc if k != 'backend'}; "
        "import diffvae.pl; assert all(rc[k] == v for k, v in was.items()); "
        "print([n for n in ('torch', 'scanpy', 'matplotlib.pyplot') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
