"""Habits that the figures share with scanpy: show and save, and the current figure of pyplot."""

import subprocess
import sys
import threading
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pytest
from _pl_data import cells
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from test_pl_style import HISTORY, IMPORTANCE

import diffvae as dv
from diffvae.pipeline._folder import write_figures
from diffvae.pl._style import apart_from_pyplot


def pixels(figure):
    with BytesIO() as file:
        figure.savefig(file, format="rgba")
        return np.frombuffer(file.getvalue(), np.uint8)


def draw(**options):
    return dv.pl.history(HISTORY, **options)


SCRIPT = """
import numpy as np
import diffvae as dv
from anndata import AnnData
adata = AnnData(np.eye(9), obsm={"X_diffvae_tsne": np.random.default_rng(0).normal(size=(9, 2))})
adata.obs["diffvae_cluster"] = list("aaabbbccc")
ax = dv.pl.tsne(adata)
import matplotlib.pyplot as plt
plt.savefig("by_pyplot.png")
ax.figure.savefig("by_figure.png")
"""


def test_a_script_saves_the_figure_by_pyplot(tmp_path):
    subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], cwd=tmp_path, check=True)
    one, two = (plt.imread(tmp_path / f"by_{name}.png") for name in ("pyplot", "figure"))
    assert np.array_equal(one, two)
    assert (one[..., :3].std(axis=2) > 0.1).sum() > 100  # colours, on a page that is not blank


def test_the_newest_figure_is_the_current_one():
    first, second = draw(), draw()
    assert plt.gcf() is second.figure
    assert [plt.figure(n) for n in plt.get_fignums()] == [first.figure, second.figure]
    assert np.array_equal(pixels(plt.gcf()), pixels(draw().figure))


def test_figures_of_the_user_stay_theirs():
    figure = Figure()
    draw(ax=figure.add_subplot())
    assert plt.get_fignums() == []


def test_an_error_leaves_no_figure():
    with pytest.raises(ValueError, match="nothing"):
        draw(terms=["nothing"])
    assert plt.get_fignums() == []


@pytest.mark.parametrize("where", ["apart", "thread"])
def test_figures_that_pyplot_does_not_know(where):
    if where == "apart":
        with apart_from_pyplot():
            draw()
    else:
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()
    assert plt.get_fignums() == []


def test_a_backend_that_cannot_run_is_no_error(monkeypatch):
    def missing(*args, **options):
        raise ImportError("Cannot load backend 'TkAgg'")

    monkeypatch.setattr(plt, "figure", missing)
    assert isinstance(draw(), Axes)


def test_saved_figures_are_closed(tmp_path):
    for i in range(3):
        draw(save=tmp_path / f"{i}.png")
    assert plt.get_fignums() == []
    assert len(list(tmp_path.iterdir())) == 3


def test_a_pipeline_draws_apart_from_pyplot(tmp_path, monkeypatch):
    monkeypatch.setattr(plt, "figure", None)  # it would fail
    write_figures({"a": draw, "b": draw}, tmp_path)
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("name", "files"), [("a", ["a.png", "a.svg"]), ("a.pdf", ["a.pdf"]), ("k.2", ["k.2.png", "k.2.svg"])]
)
def test_save_writes_what_pl_save_writes(tmp_path, name, files):
    assert isinstance(draw(save=tmp_path / "new" / name), Axes)
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == files
    kinds = [file.rsplit(".", 1)[1] for file in files]
    for file in dv.pl.save(draw(), tmp_path / "by" / files[0].rsplit(".", 1)[0], formats=kinds):
        assert file.read_bytes() == (tmp_path / "new" / file.name).read_bytes()


def test_show_shows_and_save_closes_afterwards(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append((plt.get_fignums(), len(list(tmp_path.iterdir())))))
    draw()
    draw(show=False)
    assert shown == []
    plt.close("all")
    draw(show=True)
    plt.close("all")
    draw(show=True, save=tmp_path / "a.png")
    assert shown == [([1], 0), ([1], 1)]
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"show": "yes"}, "show is 'yes'; pass True"), ({"save": True}, "save is True; pass the path"),
     ({"save": ""}, "save is ''; pass the path")],
)  # fmt: skip
def test_wrong_arguments_draw_nothing(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw(**options)
    assert plt.get_fignums() == []


def test_a_notebook_shows_a_figure_once(monkeypatch):
    ax = draw()
    assert ax._repr_png_().startswith(b"\x89PNG")  # pyplot shows nothing by itself with Agg
    with mpl.rc_context({"interactive": True}):  # as in a notebook
        assert ax._repr_png_() is None
        plt.close(ax.figure)  # as the end of the cell does
        assert ax._repr_png_().startswith(b"\x89PNG")
        monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
        assert draw(show=True)._repr_png_() is None
    with apart_from_pyplot():
        assert draw()._repr_png_().startswith(b"\x89PNG")


def test_every_figure_has_the_arguments():
    import inspect

    for name in set(dv.pl.__all__) - {"save"}:
        function = getattr(dv.pl, name)
        parameters = inspect.signature(function).parameters
        assert parameters["show"].default is parameters["save"].default is None, name
        assert "save\n        " in function.__doc__, name
    assert isinstance(dv.pl.importance(IMPORTANCE, show=False), Axes)


def test_maps_by_several_columns():
    adata = cells()
    axes = dv.pl.tsne(adata, color=["diffvae_cluster", "CD3D", 3], title=["A", "B", "C"])
    assert axes.shape == (3,)
    assert len({ax.figure for ax in axes}) == 1
    assert [ax.get_title(loc="left") for ax in axes] == ["A", "B", "C"]
    assert axes[0].get_legend() is not None
    alone = dv.pl.tsne(adata, color="CD3D").collections[-1]
    assert np.array_equal(axes[1].collections[-1].get_array(), alone.get_array())
    assert dv.pl.tsne(adata, color=["CD3D"]).shape == (1,)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"color": []}, "list of 0"), ({"color": ["CD3D"], "title": "one"}, "title None or a list"),
     ({"color": ["CD3D", "no gene"]}, "no gene")],
)  # fmt: skip
def test_wrong_lists(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        dv.pl.tsne(cells(), **options)
    assert plt.get_fignums() == []
