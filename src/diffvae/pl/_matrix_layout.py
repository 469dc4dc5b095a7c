"""Where the panels of matrices of cells x cells go, their types' names, and their key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from diffvae.pl import _text
from diffvae.pl._cell_order import spread
from diffvae.pl._palette import INK
from diffvae.pl._style import TEXT, WIDTH, NotebookAxes, axes_or_new

STRIP, _GAP, _HEAD, _BAR, _TOP, _EDGE = 6.0, 22.0, 38.0, 46.0, 24.0, 20.0
"""Points: strip of types, space between panels, title of a panel, colour bar with its label, title of the figure, and
space right of the panels."""
_PITCH, _LINE = 1.3 * TEXT, 1.5 * TEXT
"""Points from a name to the next, beside a panel and in the legend."""


class Place(NamedTuple):
    """Where the key goes, in points."""

    left: float
    down: float
    room: float
    across: bool
    """Below the panels, scales side by side; otherwise in the place of a last panel."""
    side: float
    """Of a panel."""


def layout(n: int, types: Sequence[str]) -> tuple[Figure, list[Axes], Place]:
    """Return a figure of `n` square panels, two a row, and where their key goes.

    All in points: squares beside strips and labels are easier to place than to ask a layout engine for.
    """
    wide, label = 72 * WIDTH, min(max(map(_text.width, types)), 96.0) + 22
    beside = n % 2 == 1
    side = (wide - label - 2 * STRIP - _GAP - _EDGE) / 2
    rows = -(-n // 2)
    row = side + _HEAD + STRIP
    listed = 1 + max(0, len(types) - _named(side))
    # beside the last panel, the key may reach below it
    below = max(0.0, 14 + 2 * _BAR + _LINE * listed - side) if beside else 24 + _BAR + _LINE * -(-listed // 2)
    tall = _TOP + rows * row + below + 8
    figure = Figure(figsize=(WIDTH, tall / 72))
    lefts = [label + STRIP, wide - side - _EDGE]
    panels = []
    for i in range(n):
        down = _TOP + _HEAD + STRIP + (i // 2) * row + side
        box = (lefts[i % 2] / wide, 1 - down / tall, side / wide, side / tall)
        panels.append(axes_or_new(figure.add_axes(box, axes_class=NotebookAxes), 0))
    if beside:
        return figure, panels, Place(lefts[1], _TOP + (rows - 1) * row + _HEAD, side, False, side)
    return figure, panels, Place(lefts[0], _TOP + rows * row, wide - _EDGE - lefts[0], True, side)


def _named(side: float) -> int:
    """Return how many names there's room for beside a panel."""
    return max(1, int(side / _PITCH) + 1)


def mark_types(ax: Axes, sizes: Sequence[tuple[str, int]], of: dict[str, str], *, named: bool) -> list[str]:
    """Mark the types of the cells: strips along the matrix, lines between them, names; return those without one."""
    counts = np.array([n for _, n in sizes])
    ends = np.cumsum(counts) / counts.sum()
    starts = np.concatenate([[0.0], ends[:-1]])
    box = ax.get_position()
    wide, tall = 72 * box.width * WIDTH, 72 * box.height * ax.figure.figure.get_figheight()
    for (name, _), a, b in zip(sizes, starts, ends, strict=True):
        for place in ((-STRIP / wide, 1 - b, STRIP / wide, b - a), (a, 1, b - a, STRIP / tall)):
            _box(ax, place, of[name])
    for v in ends[:-1]:
        ax.axhline(v, color=INK, linewidth=0.3, alpha=0.5)
        ax.axvline(v, color=INK, linewidth=0.3, alpha=0.5)
    shown = np.sort(np.argsort(-counts, kind="stable")[: _named(tall)])
    if named:
        middles = (starts + ends)[shown] / 2 * tall
        places = spread(middles, _PITCH, 0, tall)
        room = 72 * box.x0 * WIDTH - STRIP - 18
        for i, middle, place in zip(shown, middles, places, strict=True):
            x0, x1 = -(STRIP + 1) / wide, -(STRIP + 12) / wide
            line = Line2D(
                [x0, x0 - 3 / wide, x1], [1 - middle / tall, 1 - middle / tall, 1 - place / tall],
                color=INK, linewidth=0.5, transform=ax.transAxes, clip_on=False,
            )  # fmt: skip
            ax.add_artist(line)
            text = _text.plain(_text.shorten(sizes[i][0], room))
            ax.text(x1 - 2 / wide, 1 - place / tall, text, ha="right", va="center", transform=ax.transAxes)
    return [sizes[i][0] for i in range(len(sizes)) if i not in set(shown.tolist())]


def _box(ax: Axes, place: tuple[float, float, float, float], colour: str) -> None:
    """Fill a box, given in the coordinates of the Axes, outside of them."""
    left, bottom, wide, tall = place
    box = Rectangle((left, bottom), wide, tall, color=colour, linewidth=0, transform=ax.transAxes, clip_on=False)
    ax.add_patch(box)


def draw_key(
    figure: Figure,
    place: Place,
    bars: Sequence[tuple[ScalarMappable, str, str]],
    types: Sequence[tuple[str, str]],
    exact: bool,
) -> None:
    """Draw scales of colours, and the types that have no name beside the strip."""
    left, down, room, across, _ = place
    wide, tall = 72 * WIDTH, 72 * figure.get_figheight()
    each = (room - 24) / 2 if across else room
    for i, (drawn, label, extend) in enumerate(bars):
        x, y = (left + i * (each + 24), down + 14) if across else (left, down + 8 + i * _BAR)
        bar_ax = figure.add_axes((x / wide, 1 - (y + 7) / tall, each / wide, 7 / tall))
        bar = figure.colorbar(drawn, cax=bar_ax, orientation="horizontal", extend=extend)
        bar.set_label(label, fontsize=TEXT, color=INK, labelpad=1)
        bar.outline.set_visible(False)
        if isinstance(drawn.norm, LogNorm):
            bar.set_ticks(_log_ticks(*drawn.get_clim()))
            bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g}%"))
            bar.ax.xaxis.set_minor_locator(NullLocator())
        else:
            bar.ax.xaxis.set_major_locator(MaxNLocator(4))
        bar.ax.tick_params(labelsize=TEXT, length=2, pad=2)
    keys = [Patch(color=INK)] * exact + [Patch(color=c) for _, c in types]
    names = ["a link"] * exact + [t for t, _ in types]
    if keys:
        top = down + (14 + _BAR if across else 4 + len(bars) * _BAR)
        figure.legend(
            keys, [_text.plain(_text.shorten(t, each - 24)) for t in names], loc="upper left", ncols=2 if across else 1,
            bbox_to_anchor=(left / wide, 1 - top / tall), borderaxespad=0, handlelength=0.9, labelspacing=0.25,
        )  # fmt: skip


def _log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two, at most five, as evenly as can be on a logarithmic scale.

    Examples
    --------
    >>> _log_ticks(0.01, 0.6), _log_ticks(0.03, 0.3), _log_ticks(0.06, 0.09)
    ([0.01, 0.03, 0.1, 0.3], [0.05, 0.1, 0.2], [0.09])
    """
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{d}e{k}") for k in decades for d in digits if low <= float(f"{d}e{k}") <= high]
        if len(ticks) <= 5:
            break
    return ticks or [high]
