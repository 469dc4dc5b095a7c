import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from diffvae.pl import _text
from diffvae.pl._style import axes_or_new


def test_width_is_what_gets_drawn():
    figure = Figure(dpi=288)
    drawn = figure.text(0, 0, "CD8+/CD45RA+ Naive", fontsize=9).get_window_extent().width * 72 / 288
    assert _text.width("CD8+/CD45RA+ Naive") == pytest.approx(drawn, rel=0.03)


@given(st.text("abc _-/XYZ0189", min_size=1, max_size=60), st.floats(30, 200), st.integers(1, 3))
def test_wrapped_text_fits(text, room, lines):
    wrapped = _text.wrap(text, room, lines=lines)
    assert wrapped.count("\n") < lines
    assert _text.width(wrapped) <= room


def test_short_text_stays_as_it_is():
    assert _text.wrap("NK", 50) == _text.shorten("NK", 50) == "NK"


def test_names_stay_apart_when_shortened():
    assert _text.shorten("progenitor cells of kind A", 90) != _text.shorten("progenitor cells of kind B", 90)


def test_dollars_are_no_mathematics():
    assert _text.plain("a$b$") == r"a\$b\$"


def column_rotations(names):
    ax = axes_or_new(None, 3)
    _text.column_labels(ax, names)
    return {label.get_rotation() for label in ax.get_xticklabels()}


def test_columns_turn_only_where_they_must():
    assert column_rotations(["1", "2"]) == {0}
    assert column_rotations(["a name that is much longer than its column"] * 6) == {90}
