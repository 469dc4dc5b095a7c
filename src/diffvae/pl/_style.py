"""The one style of all figures, applied while a function draws and never left behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from io import BytesIO
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from diffvae.pl._palette import INK

P = ParamSpec("P")
R = TypeVar("R")

WIDTH: Final = 6.0
"""Inches: half a slide. Every figure of ours has this width, so that text keeps its size there."""
TEXT: Final = 9.0
"""Points: the smallest text in any figure."""
TITLE: Final = 11.0

# DejaVu Sans comes with matplotlib: a figure looks the same on every machine, and the widths that we measure
# to keep labels apart are the widths that get drawn.
_RC: Final[dict[str, Any]] = {
    "font.family": ["DejaVu Sans"],
    "font.size": TEXT,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": True,
    "axes.titlesize": TITLE,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": "white",
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.fontsize": TEXT,
    "legend.title_fontsize": TEXT,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "lines.linewidth": 1.8,
    "hatch.linewidth": 0.5,
    "image.aspect": "auto",
    "image.interpolation": "nearest",
}


def style() -> AbstractContextManager[None]:
    """Return a context in which the style holds; on leaving, rcParams are what they were."""
    context: AbstractContextManager[None] = rc_context(_RC)
    return context


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function draw in the style."""

    @wraps(function)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        with style():
            return function(*args, **kwargs)

    return drawn


class NotebookAxes(Axes):
    """Axes that a notebook shows when they are the last line of a cell.

    Our own figures aren't registered with pyplot, so none stays open and nothing needs closing; a notebook
    would show just their name without this.
    """

    def _repr_png_(self) -> bytes:
        with style(), BytesIO() as png:
            self.figure.figure.savefig(png, format="png", dpi=110, bbox_inches="tight")
            return png.getvalue()


def axes_or_new(ax: Axes | None, height: float) -> Axes:
    """Return `ax` in our style, or the Axes of a new figure, `WIDTH` x `height` inches."""
    if ax is None:
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        ax = figure.add_subplot(axes_class=NotebookAxes)
    # Axes made elsewhere carry the style of there: everything that rcParams set too early is set again.
    ax.tick_params(labelsize=TEXT, color=INK, labelcolor=INK, width=0.8, length=3)
    ax.set_facecolor("white")
    ax.grid(False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(color=INK, linewidth=0.8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(fontsize=10, color=INK)
    return ax


def check_axes(ax: object) -> None:
    """Raise unless `ax` is None or one matplotlib Axes."""
    if ax is not None and not isinstance(ax, Axes):
        raise ValueError(f"ax is a {type(ax).__name__}; give one matplotlib Axes (axes[0] of several, say) or None.")


def slot(ax: Axes | None, height: float) -> tuple[float, float]:
    """Return width and height, in points, of the part of the figure that `ax`, with its labels, may fill."""
    if ax is None:
        return 72 * WIDTH, 72 * height
    figure = ax.figure
    width, tall = (72 * v / figure.dpi for v in figure.bbox.size)
    spec = ax.get_subplotspec()
    if spec is None:
        box = ax.get_position()
        return width * box.width, tall * box.height
    rows, columns = spec.get_gridspec().get_geometry()
    return width * len(spec.colspan) / columns, tall * len(spec.rowspan) / rows


def colour_bar(
    ax: Axes,
    drawn: ScalarMappable,
    label: str,
    *,
    values: np.ndarray | None = None,
    percent: bool = False,
    right: bool = False,
) -> None:
    """Draw the scale of colours below `ax`, or to its right; arrows where some of `values` lie beyond it."""
    extend = "neither"
    if values is not None and (shown := values[~np.isnan(values)]).size:
        low, high = drawn.get_clim()
        beyond = bool((shown < low).any()), bool((shown > high).any())
        extend = {(True, False): "min", (False, True): "max", (True, True): "both"}.get(beyond, extend)
    place: dict[str, Any] = (
        {"shrink": 0.5, "aspect": 14, "pad": 0.02}
        if right
        else {"location": "bottom", "shrink": 0.5, "aspect": 22, "pad": 0.03}
    )
    bar = ax.figure.colorbar(drawn, ax=ax, extend=extend, **place)
    bar.set_label(label)
    bar.outline.set_visible(False)
    if percent:
        axis = bar.ax.yaxis if right else bar.ax.xaxis
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
