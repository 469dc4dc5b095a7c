"""What holds for every figure."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from _pl_data import assert_legible, cells
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import diffvae as dv

HISTORY = pd.DataFrame(
    {"train_loss": [9.0, 5, 4], "validation_loss": [9.5, 6, 7], "train_kl": [0.0, 1, 2], "validation_kl": [0.1, 1, 2]},
    index=pd.RangeIndex(1, 4, name="epoch"),
)
FIGURES = {
    "tsne": lambda a, **k: dv.pl.tsne(a, **k),
    "tsne on data": lambda a, **k: dv.pl.tsne(a, legend="on data", **k),
    "gene": lambda a, **k: dv.pl.tsne(a, color="CD3D", **k),
    "dimension": lambda a, **k: dv.pl.tsne(a, color=3, **k),
    "latent_dimensions": lambda a, **k: dv.pl.latent_dimensions(a, **k),
    "odds_ratio": lambda a, **k: dv.pl.latent_dimensions(a, value="odds_ratio", **k),
    "dimension_composition": lambda a, **k: dv.pl.dimension_composition(a, group="2", **k),
    "gene_heatmap": lambda a, **k: dv.pl.gene_heatmap(a, **k),
    "history": lambda a, **k: dv.pl.history(HISTORY, **k),
    "overlap": lambda a, **k: dv.pl.overlap(a, groupby="diffvae_cluster", **k),
}


def settings():
    # "backend" is left out: reading it makes matplotlib choose one.
    return {key: mpl.rcParams[key] for key in mpl.rcParams if key != "backend"}


@pytest.mark.parametrize("name", FIGURES)
def test_leaves_nothing_behind(name):
    before = settings()
    adata, untouched = cells(), cells()
    ax = FIGURES[name](adata)
    pd.testing.assert_frame_equal(adata.obs, untouched.obs)
    assert adata.uns.keys() == untouched.uns.keys()
    for table in adata.uns["diffvae"]:
        pd.testing.assert_frame_equal(adata.uns["diffvae"][table], untouched.uns["diffvae"][table])
    assert isinstance(ax, Axes)
    assert settings() == before
    assert plt.get_fignums() == []
    assert ax.figure.get_size_inches()[0] == 6
    assert ax.get_title(loc="left")
    assert_legible(ax)


@pytest.mark.parametrize("name", FIGURES)
def test_draws_into_given_axes_whatever_the_surrounding_style(name):
    with mpl.rc_context({"axes.grid": True, "axes.facecolor": "red", "xtick.labelsize": 4, "axes.titlesize": 30}):
        figure, axes = plt.subplots(1, 2, figsize=(12, 8), layout="constrained")
        try:
            size = tuple(figure.get_size_inches())
            assert FIGURES[name](cells(), ax=axes[0], title="Mine") is axes[0]
            assert axes[0].get_title(loc="left") == "Mine"
            assert axes[0].get_facecolor() == (1, 1, 1, 1)
            assert tuple(figure.get_size_inches()) == size
            axes[1].set_axis_off()
            assert_legible(axes[0])
        finally:
            plt.close(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_wrong_axes_get_a_sentence(name):
    with pytest.raises(ValueError, match=r"ax is a ndarray; give one matplotlib Axes"):
        FIGURES[name](cells(), ax=np.empty(2, dtype=object))


@pytest.mark.parametrize("name", [n for n in FIGURES if n not in ("history", "overlap")])
def test_wrong_adata_gets_a_sentence(name):
    with pytest.raises(ValueError, match="adata is a DataFrame; give an AnnData"):
        FIGURES[name](pd.DataFrame())
    with pytest.raises(ValueError, match="adata has no cells"):
        FIGURES[name](cells()[:0])


@pytest.mark.parametrize("name", [n for n in FIGURES if n != "history"])
@pytest.mark.parametrize("groupby", ["k3", "k25", "long25"])
def test_legible_with_few_and_many_groups_and_long_names(name, groupby):
    if name in ("gene", "dimension"):
        return
    adata = cells(groupby)
    if name.startswith("tsne"):
        ax = dv.pl.tsne(adata, color=groupby, legend="on data" if "on" in name else True)
    elif name == "overlap":
        ax = dv.pl.overlap(adata, reference="long10", groupby=groupby)
    elif name == "dimension_composition":
        ax = dv.pl.dimension_composition(adata, group=adata.obs[groupby].cat.categories[1], groupby=groupby)
    else:
        value = {"value": "odds_ratio"} if name == "odds_ratio" else {}
        ax = getattr(dv.pl, "latent_dimensions" if value else name)(adata, groupby=groupby, **value)
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
