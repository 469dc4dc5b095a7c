"""Text that fits: measured in points before it is drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.transforms import ScaledTranslation, Transform

from diffvae.pl._style import TEXT, TITLE

LINE = 1.25
"""Height of a line in units of the text's size."""


@lru_cache(maxsize=4096)
def width(text: str, size: float = TEXT, weight: str = "normal") -> float:
    """Return the width in points of the longest line of a text."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    lines = text.replace(r"\$", "$").split("\n")
    return max(float(text_to_path.get_text_width_height_descent(s, font, False)[0]) for s in lines)


def plain(text: str) -> str:
    """Keep a name with dollar signs from being read as mathematics."""
    return text.replace("$", r"\$")


def shorten(text: str, room: float, size: float = TEXT, weight: str = "normal") -> str:
    """Take out of the middle of a text what doesn't fit into `room` points (ends tell names apart).

    Examples
    --------
    >>> shorten("CD8+ T", room=100), shorten("plasmacytoid dendritic cell 2", room=100)
    ('CD8+ T', 'plasmacyto…tic cell 2')
    """
    if width(text, size, weight) <= room:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        if width(short, size, weight) <= room:
            return short
    return text[:1] + "…"


def wrap(text: str, room: float, *, lines: int = 2, size: float = TEXT, weight: str = "normal") -> str:
    r"""Break a text into at most `lines` lines, each at most `room` points wide.

    Lines break after blanks, "_", "-", "/" and ","; what is too long even so is shortened in the middle.

    Examples
    --------
    >>> wrap("CD4+/CD45RA+/CD25- Naive T", room=90)
    'CD4+/CD45RA+/\nCD25- Naive T'
    """
    if width(text, size, weight) <= room:
        return text
    words = [w for w in re.split(r"(?<=[\s_\-/,;])", text) if w]
    done: list[str] = []
    line = ""
    for i, word in enumerate(words):
        if width((line + word).rstrip(), size, weight) <= room or not line:
            line += word
        elif len(done) < lines - 1:
            done.append(line)
            line = word
        else:
            line += "".join(words[i:])
            break
    return "\n".join(shorten(s.strip(), room, size, weight) for s in [*done, line])


def title(ax: Axes, text: str, pad: float = 6.0) -> None:
    """Set the title, broken where the figure, or the Axes' part of it, ends; `pad` points above the Axes."""
    ax.set_title(plain(text), loc="left", pad=pad)
    figure = ax.figure
    figure.figure.draw_without_rendering()  # the layout decides where the Axes are
    left = ax.get_window_extent().x0
    spec = ax.get_subplotspec()
    right = figure.bbox.x1
    if spec is not None and (columns := spec.get_gridspec().ncols) > spec.colspan.stop:
        right = figure.bbox.x0 + figure.bbox.width * spec.colspan.stop / columns
    room = max((right - left) * 72 / figure.dpi - 4, 100)
    ax.set_title(plain(wrap(text, room, lines=3, size=TITLE, weight="bold")), loc="left", pad=pad)


def row_labels(ax: Axes, names: Sequence[str], *, room: float, pitch: float) -> None:
    """Label rows 0, 1, ... from the top; `pitch` is the height of a row in points."""
    lines = max(1, min(2, int(pitch / (TEXT * 1.15))))
    ax.set_yticks(range(len(names)), [plain(wrap(n, room, lines=lines)) for n in names], linespacing=1.0)
    ax.tick_params(axis="y", length=0)


class ColumnPlan(NamedTuple):
    """Labels of columns: upright where they fit, turned where they don't."""

    labels: list[str]
    turned: int
    """Degrees."""
    height: float
    """Points."""


def column_plan(names: Sequence[str], pitch: float, room: float = 210.0) -> ColumnPlan:
    """Decide how to write names on columns `pitch` points wide; `room` is the most height they may take."""
    if max(map(width, names), default=0) <= pitch - 4:
        return ColumnPlan(list(names), 0, TEXT * LINE)
    lines = 2 if pitch >= 2.4 * TEXT else 1
    labels = [wrap(n, room if lines == 1 else 0.6 * room, lines=lines) for n in names]
    return ColumnPlan(labels, 90, max(map(width, labels)))


def column_labels(ax: Axes, plan: ColumnPlan, *, top: bool = False) -> None:
    """Label columns 0, 1, ... below or above them."""
    ax.set_xticks(range(len(plan.labels)), [plain(s) for s in plan.labels], rotation=plan.turned, linespacing=1.0)
    ax.tick_params(axis="x", length=0, top=top, bottom=not top, labeltop=top, labelbottom=not top)
    ax.xaxis.set_label_position("top" if top else "bottom")  # the title keeps clear of labels on this side


class LegendPlan(NamedTuple):
    """Where a legend goes: decided before the figure gets its size."""

    right: bool
    """To the right of the data; otherwise below."""
    columns: int
    labels: list[str]
    """Broken in two where they must be."""
    height: float
    """Points."""


def legend_plan(labels: Sequence[str], room: tuple[float, float]) -> LegendPlan:
    """Decide where a legend of these labels goes in a figure of width and height `room` (points)."""
    key, line = 22.0, TEXT * LINE * 1.12
    wide = key + max(map(width, labels))
    fits = max(1, int((room[1] - 40) / line))
    columns = -(-len(labels) // fits)
    if columns * wide <= 0.4 * room[0]:
        return LegendPlan(True, columns, list(labels), min(len(labels), fits) * line)
    columns = max(1, min(len(labels), int(room[0] / wide)))
    if columns == 1 and len(labels) > 2:
        columns = 2
    labels = [wrap(s, room[0] / columns - key - 4) for s in labels]
    rows = -(-len(labels) // columns)
    tall = sum(max(s.count("\n") + 1 for s in labels[i::rows]) for i in range(rows))
    return LegendPlan(False, columns, labels, tall * line)


def moved(ax: Axes, right: float, up: float) -> Transform:
    """Return the coordinates of `ax` (0..1), moved by so many points."""
    return ax.transAxes + ScaledTranslation(right / 72, up / 72, ax.figure.dpi_scale_trans)


def legend(
    ax: Axes,
    plan: LegendPlan,
    colours: Sequence[str],
    marker: str,
    *,
    below: float = 0.0,
    beside: float = 0.0,
) -> None:
    """Draw a planned legend outside `ax`, clear of the `below` and `beside` points under and right of it."""
    keys = [Line2D([], [], ls="", marker=marker, color=c, ms=7) for c in colours]
    # A label that begins with "_" would be left out: the blank keeps it.
    texts = [plain(f" {s}" if s.startswith("_") else s) for s in plan.labels]
    place: dict[str, Any] = (
        {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        if plan.right
        else {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0)}
    )
    transform = moved(ax, beside, 0) if plan.right else moved(ax, 0, -below)
    ax.legend(
        keys, texts, ncols=plan.columns, handletextpad=0.3, columnspacing=1.0, labelspacing=0.25,
        handlelength=1.2, borderaxespad=0.4,
        bbox_transform=transform, **place,
    )  # fmt: skip
