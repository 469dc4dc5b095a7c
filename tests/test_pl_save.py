import stat

import pytest
from _pl_data import cells
from matplotlib import pyplot as plt
from matplotlib.text import Text

import diffvae as dv
from diffvae.pl._style import lay_out


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_same_figure_same_bytes(tmp_path, kind):
    one, two = (dv.pl.save(dv.pl.tsne(cells()), tmp_path / n, formats=[kind])[0].read_bytes() for n in "ab")
    assert one == two
    assert len(one) > 1000


def test_svg_has_pixels_for_dots_and_outlines_for_text(tmp_path):
    text = dv.pl.save(dv.pl.tsne(cells()), tmp_path / "a", formats="svg")[0].read_text()
    assert text.count("<image") == 1
    assert "<text" not in text
    assert "dc:date" not in text


def test_names_folders_and_permissions(tmp_path):
    files = dv.pl.save(dv.pl.tsne(cells()).figure, tmp_path / "new" / "k.2")
    assert [f.name for f in files] == ["k.2.png", "k.2.svg"]
    assert sorted(f.name for f in (tmp_path / "new").iterdir()) == ["k.2.png", "k.2.svg"]
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(files[0].stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_closes_the_figure_of_the_user(tmp_path):
    figure, ax = plt.subplots()
    dv.pl.save(dv.pl.tsne(cells(), ax=ax), tmp_path / "a", dpi=50)
    assert not plt.fignum_exists(figure.number)


def test_failure_leaves_what_was_there(tmp_path, monkeypatch):
    (file,) = dv.pl.save(dv.pl.tsne(cells()), tmp_path / "a", formats=["png"], dpi=30)
    before = file.read_bytes()
    ax = dv.pl.tsne(cells())
    written = ax.figure.savefig

    def fails_for_svg(path, **options):
        if options["format"] == "svg":
            raise OSError("disk full")
        written(path, **options)

    monkeypatch.setattr(ax.figure, "savefig", fails_for_svg)
    with pytest.raises(OSError, match="disk full"):
        dv.pl.save(ax, tmp_path / "a")
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("figure", "path", "formats", "sentence"),
    [
        (None, "a", ["png"], "figure is a NoneType; pass a matplotlib Axes or Figure"),
        ("ax", "a", ["gif"], r"formats is \['gif'\]; choose from png, svg"),
        ("ax", "a", [], r"formats is \[\]; choose from"),
        ("ax", "a.png", ["png"], r"path is '.*a\.png'; leave out the suffix"),
    ],
)
def test_errors_come_before_anything_is_written(tmp_path, figure, path, formats, sentence):
    with pytest.raises(ValueError, match=sentence):
        dv.pl.save(dv.pl.tsne(cells()) if figure else None, tmp_path / path, formats=formats)
    assert list(tmp_path.iterdir()) == []


def test_saving_a_panel_leaves_the_figure_of_the_user_open(tmp_path):
    figure, axes = plt.subplots(1, 2)
    dv.pl.tsne(cells(), ax=axes[0], save=tmp_path / "panel.PNG")
    assert plt.fignum_exists(figure.number)
    assert [path.name for path in tmp_path.iterdir()] == ["panel.png"]


def test_a_layout_measures_each_text_once_and_leaves_it_as_it_was(monkeypatch):
    ax = dv.pl.tsne(cells())
    measured = []
    measure = Text._get_layout
    monkeypatch.setattr(Text, "_get_layout", lambda text, renderer: measured.append(text) or measure(text, renderer))
    lay_out(ax.figure)
    places = [text.get_window_extent().bounds for text in ax.figure.findobj(Text)]
    once = len(set(map(id, measured)))
    assert once > 5
    measured.clear()
    lay_out(ax.figure)
    assert len(measured) == len(set(map(id, measured)))
    assert [text.get_window_extent().bounds for text in ax.figure.findobj(Text)] == places
    assert not any("_get_layout" in vars(text) for text in ax.figure.findobj(Text))
