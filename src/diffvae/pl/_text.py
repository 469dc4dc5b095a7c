"""Text in figures: shortened names, titles, row and column labels, legends, and names on a map.

Constrained layout makes room for all text. Names are shortened only to leave room for the data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from diffvae import _keys
from diffvae.pl._style import INK, LINE, TEXT, TITLE, NotebookAxes, axes_size, lay_out, slot

ROW_LABEL: Final = 150.0
"""Largest width of a row label in points."""
_KEY: Final = 26.0
"""Width in points of a legend key with its padding."""


@lru_cache(maxsize=4096)
def width(text: str, size: float = TEXT, weight: str = "normal") -> float:
    """Return the width of a text's longest line in points."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    return max(float(text_to_path.get_text_width_height_descent(s, font, False)[0]) for s in text.split("\n"))


def plain(text: str) -> str:
    """Escape dollar signs, which matplotlib would read as mathematics."""
    return text.replace("$", r"\$")


def shorten(text: str, room: float, size: float = TEXT, weight: str = "normal") -> str:
    """Cut the middle out of a text wider than `room` points; names often differ at their ends.

    Examples
    --------
    >>> shorten("CD8+ T", room=100), shorten("plasmacytoid dendritic cell 2", room=100)
    ('CD8+ T', 'plasmacyto…tic cell 2')
    """
    if width(text, size, weight) <= room:
        return text
    for n in range(min(len(text) - 1, int(room)), 1, -1):  # a letter is wider than a point
        short = f"{text[: (n + 1) // 2]}…{text[len(text) - n // 2 :]}"
        if width(short, size, weight) <= room:
            return short
    return text[:1] + "…"


def wrap(text: str, room: float, *, lines: int = 2, size: float = TEXT, weight: str = "normal") -> str:
    r"""Break a text wider than `room` points into at most `lines` lines, and shorten lines that are still too wide.

    Lines break after white space, "_", "-", "/", "," and ";".

    Examples
    --------
    >>> wrap("CD4+/CD45RA+/CD25- Naive T", room=90)
    'CD4+/CD45RA+/\nCD25- Naive T'
    """
    if width(text, size, weight) <= room:
        return text
    rows = [""]
    for word in re.split(r"(?<=[\s_\-/,;])", text):
        if rows[-1] and width((rows[-1] + word).rstrip(), size, weight) > room and len(rows) < lines:
            rows.append("")
        rows[-1] += word
    return "\n".join(shorten(row.strip(), room, size, weight) for row in rows)


def title(ax: Axes, text: str, pad: float = 6.0) -> None:
    """Set the title `pad` points above `ax`, wrapped to the grid cell of `ax`."""
    ax.set_title("", loc="left")  # a long title in one line would leave no room for the Axes
    figure = ax.figure
    lay_out(figure.figure)  # sets the left edge of the Axes
    spec = ax.get_subplotspec()
    right = 1.0 if spec is None else spec.colspan.stop / spec.get_gridspec().ncols
    room = (figure.bbox.x0 + right * figure.bbox.width - ax.get_window_extent().x0) * 72 / figure.dpi
    ax.set_title(plain(wrap(text, max(room - 4, 100), lines=3, size=TITLE, weight="bold")), loc="left", pad=pad)


def row_labels(
    ax: Axes, names: Sequence[str], *, pitch: float, room: float = ROW_LABEL, at: Sequence[float] | None = None
) -> None:
    """Label rows at 0, 1, ... or at the positions `at`; `pitch` is the row height in points."""
    lines = 2 if pitch >= 2.3 * TEXT else 1
    ax.set_yticks(
        range(len(names)) if at is None else at, [plain(wrap(n, room, lines=lines)) for n in names], linespacing=1.0
    )
    ax.tick_params(axis="y", length=0)


def column_labels(ax: Axes, names: Sequence[str], *, top: bool = False, room: float = 170.0) -> None:
    """Label columns 0, 1, ... below or above the Axes: horizontally if the names fit, otherwise vertically."""
    pitch = axes_size(ax)[0] / max(len(names), 1)
    turned = max(map(width, names), default=0) > pitch - 3
    if turned:
        two = pitch >= 2.4 * TEXT
        names = [wrap(n, 0.6 * room if two else room, lines=1 + two) for n in names]
    ax.set_xticks(range(len(names)), list(map(plain, names)), rotation=90 * turned, linespacing=1.0)
    ax.tick_params(axis="x", length=0, top=top, bottom=not top, labeltop=top, labelbottom=not top)
    ax.xaxis.set_label_position("top" if top else "bottom")  # the title avoids labels on this side


def group_legend(ax: Axes, names: Sequence[str], colours: Sequence[str], marker: str = "o") -> None:
    """Draw a legend of groups to the right of `ax`, or below it if the names are long."""
    key_legend(ax, [Line2D([], [], ls="", marker=marker, color=c, ms=7) for c in colours], names)


def key_legend(ax: Axes, keys: Sequence[Any], names: Sequence[str]) -> None:
    """Draw a legend of any keys to the right of `ax`, or below it if the names are long."""
    wide, tall = slot(ax, 0)
    columns = -(-len(names) // max(1, int((tall - 40) / LINE)))
    if columns * (max(map(width, names)) + _KEY) <= 0.4 * wide:
        ax.set_anchor("E")
        _legend(ax, keys, names, columns, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    else:
        legend_below(ax, keys, names)


def legend_below(ax: Axes, keys: Sequence[Any], names: Sequence[str], ncols: int | None = None) -> None:
    """Draw a legend below `ax` and its x-axis labels; a new figure grows by the height of the legend."""
    room = slot(ax, 0)[0] - 16
    widths = [width(name) + _KEY for name in names]
    if ncols is None and sum(widths) <= room:
        ncols = len(names)
    else:
        ncols = ncols or min(len(names), max(2, int(room / max(widths))))
        names = [wrap(name, room / ncols - _KEY) for name in names]
    if isinstance(ax, NotebookAxes):
        rows = -(-len(names) // ncols)
        lines = sum(max(name.count("\n") + 1 for name in names[i::rows]) for i in range(rows))
        ax.figure.figure.set_figheight(ax.figure.figure.get_figheight() + lines * LINE / 72)
    ax.set_anchor("S")
    boxes = [box for a in ax.child_axes or [ax] if (box := a.xaxis.get_tightbbox()) is not None]
    lowest = min([ax.bbox.y0, *(box.y0 for box in boxes)])
    down = ScaledTranslation(0, (lowest - ax.bbox.y0) / ax.figure.dpi - 4 / 72, ax.figure.dpi_scale_trans)
    spec = ax.get_subplotspec()
    middle = 0.5 if spec is None else (spec.colspan.start + spec.colspan.stop) / 2 / spec.get_gridspec().ncols
    _legend(
        ax, keys, names, ncols, loc="upper center", bbox_to_anchor=(middle, 0.0),
        bbox_transform=blended_transform_factory(ax.figure.transSubfigure, ax.transAxes + down),
    )  # fmt: skip


def _legend(ax: Axes, keys: Sequence[Any], names: Sequence[str], columns: int, **place: Any) -> None:
    # matplotlib skips labels that begin with "_"
    texts = [plain(f" {name}" if name.startswith("_") else name) for name in names]
    ax.legend(
        keys, texts, ncols=columns, handletextpad=0.4, columnspacing=1.2, labelspacing=0.3, handlelength=1.4,
        borderaxespad=0.4, fontsize=TEXT, **place,
    )  # fmt: skip


def group_names(ax: Axes, xy: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> bool:
    """Write the name of each group next to its cells on a map, and return whether all names fit.

    A thin line joins each name to the cell at the centre of its group. If two names would overlap, none is drawn.

    Parameters
    ----------
    ax
        Axes of the map.
    xy
        Cells x 2, in data coordinates.
    groups
        Group of each cell.
    names
        Groups to be named.
    """
    from adjustText import adjust_text

    if not names:
        return False
    ax.margins(0.14)
    texts = []
    for name in names:
        members = xy[groups == name]
        x, y = members[np.argmin(np.hypot(*(members - np.median(members, axis=0)).T))]
        texts.append(
            ax.text(
                x, y, plain(wrap(name, 110)), ha="center", va="center", fontsize=TEXT, linespacing=1.0, zorder=5,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
        )  # fmt: skip
    steps = np.ptp(xy, axis=0) / 25
    cells = steps * np.unique(np.round(xy / np.where(steps > 0, steps, 1)), axis=0)
    # a limit on iterations rather than on seconds makes the result reproducible
    _, lines = adjust_text(
        texts, *cells.T, ax=ax, iter_lim=400, force_static=(1, 1), force_text=(0.5, 0.5), expand=(1.15, 1.4),
        arrowprops={"arrowstyle": "-", "lw": 0.7, "color": INK, "zorder": 4},
    )  # fmt: skip
    boxes = [text.get_window_extent() for text in texts]
    clear = not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    if not clear:
        for artist in [*texts, *lines]:
            artist.remove()
        ax.margins(0.05)
    return clear


_MAPS: Final = {
    "X_umap": "UMAP",
    "X_pca": "PC",
    _keys.LATENT: "latent dimension",
}


def map_axes(ax: Axes, basis: str) -> None:
    """Give a map equal scales and axis names but no ticks, since distances on a map mean little."""
    ax.set_aspect("equal", adjustable="box")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    name = "t-SNE" if "tsne" in basis else _MAPS.get(basis, basis.removeprefix("X_"))
    ax.set_xlabel(plain(f"{name} 1"), loc="left", labelpad=2)
    ax.set_ylabel(plain(f"{name} 2"), loc="bottom", labelpad=2)
