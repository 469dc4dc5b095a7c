"""What every figure shares: colours, the one style, Axes and panels, colour bars, files."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from io import BytesIO
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, is_color_like, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

P = ParamSpec("P")
R = TypeVar("R")

# Okabe and Ito's seven colours (yellow darkened to be visible on white, black reserved for text), then 25 found
# greedily: each is the sRGB colour farthest in OKLab from those before it, from white and from GREY. The distance
# is the smallest of those in normal, deuteranopic and protanopic vision (Machado et al. 2009).
# fmt: off
CATEGORIES: Final = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#E3D21B",
    "#78003C", "#480CA8", "#906CFC", "#6C5418", "#B41878", "#00CC78", "#186060", "#1848CC", "#48306C",
    "#00E4F0", "#9C6048", "#84E490", "#3C90D8", "#F0546C", "#603000", "#54489C", "#6060D8", "#906C90",
    "#FC84FC", "#908448", "#C078FC", "#843C48", "#C00018", "#FC9C6C", "#CC9CB4",
)
# fmt: on
GREY: Final = "#BDBDBD"
INK: Final = "#262626"

NOT_AVAILABLE: Final = "NA"
_UNASSIGNED = {"", "-1", "na", "nan", "none", "noise", "outlier", "unassigned", "unknown"}

Palette = Mapping[str, str] | Sequence[str]


def _luma(colour: Sequence[float]) -> float:
    return sum(w * c for w, c in zip((0.299, 0.587, 0.114), colour, strict=False))


def _sequential() -> Colormap:
    """Return magma from light to dark, perceptually uniform, with a grey light end so that zero shows on white."""
    steps = []
    for i in range(64):
        t = i / 63
        colour = colormaps["magma_r"](0.1 + 0.8 * t)[:3]
        full = min(1.0, t / 0.4)
        steps.append([full * c + (1 - full) * _luma(colour) for c in colour])
    return LinearSegmentedColormap.from_list("diffvae_sequential", steps)


SEQUENTIAL: Final = _sequential()
# Light grey in the middle shows on white.
DIVERGING: Final = colormaps["coolwarm"]


def is_unassigned(name: str) -> bool:
    """Whether a category says that a cell has no category; it is drawn grey, behind and last."""
    return name.strip().lower() in _UNASSIGNED


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which "2" comes before "10".

    Examples
    --------
    >>> sorted(["c10", "c2", "c1"], key=natural_key)
    ['c1', 'c2', 'c10']
    """
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p]


def colours(categories: Sequence[str], palette: Palette | None = None) -> dict[str, str]:
    """Return the colour of each category.

    A category's colour depends only on its place among `categories` (categories such as "unassigned" are grey and
    take no place), so it is the same in every figure that is given the same categories. The first 32 colours all
    differ; later ones repeat them in a lighter shade.

    Parameters
    ----------
    categories
        All categories in their order, including those without a cell.
    palette
        Category -> colour (the others keep their default), or one colour per category.

    Examples
    --------
    >>> colours(["B", "T", "unassigned", "NK"])
    {'B': '#0072b2', 'T': '#e69f00', 'unassigned': '#bdbdbd', 'NK': '#009e73'}
    """
    if isinstance(palette, str):
        raise ValueError(f"palette is {palette!r}; give a list of colours or a dictionary category -> colour.")
    assigned = [c for c in categories if not is_unassigned(c)]
    result = {c: to_hex(GREY) for c in categories} | {c: _nth(i) for i, c in enumerate(assigned)}
    if palette is None:
        return result
    if isinstance(palette, Mapping):
        chosen = {str(k): v for k, v in palette.items() if str(k) in result}
    elif len(palette) < len(categories):
        raise ValueError(
            f"palette has {len(palette)} colours for {len(categories)} categories; "
            "give one for each or a dictionary category -> colour."
        )
    else:
        chosen = dict(zip(categories, palette, strict=False))
    for category, colour in chosen.items():
        if not is_color_like(colour):
            raise ValueError(f"palette gives {category!r} the colour {colour!r}, which matplotlib doesn't know.")
    return result | {c: to_hex(v) for c, v in chosen.items()}


def _nth(i: int) -> str:
    lighter, place = divmod(i, len(CATEGORIES))
    white = 1 - 0.6**lighter
    return to_hex([c + (1 - c) * white for c in to_rgb(CATEGORIES[place])])


def ink_on(colour: Sequence[float]) -> str:
    """Return black or white, whichever reads better on a colour."""
    return INK if _luma(colour) > 0.55 else "white"


WIDTH: Final = 6.0
"""Inches: half a slide. Every new figure has this width, so that text keeps its size there."""
TEXT: Final = 9.0
"""Points: the smallest text in any figure."""
TITLE: Final = 11.0
LINE: Final = 1.4 * TEXT
"""Points from a line of a legend to the next."""

# DejaVu Sans comes with matplotlib, so a figure looks the same on every machine.
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
    """Return a context in which the style holds; rcParams are restored on leaving it."""
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

    New figures aren't registered with pyplot, so nothing needs closing; without this method a notebook would only
    print their name.
    """

    def _repr_png_(self) -> bytes:
        with style(), BytesIO() as png:
            self.figure.figure.savefig(png, format="png", dpi=110, bbox_inches="tight")
            return png.getvalue()


def axes_or_new(ax: Axes | None, height: float) -> Axes:
    """Return `ax` in the style, or the Axes of a new figure of `WIDTH` x `height` inches."""
    if ax is None:
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        ax = figure.add_subplot(axes_class=NotebookAxes)
    # Axes that the caller made have the caller's style: set again what rcParams set when they were made.
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
    """Return width and height, in points, of the part of the figure that `ax` and its labels may fill."""
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


def lay_out(figure: Figure) -> None:
    """Put the Axes in their places, as drawing the figure would."""
    engine = figure.get_layout_engine()
    if engine is None:
        figure.draw_without_rendering()
    else:
        engine.execute(figure)


def axes_size(ax: Axes) -> tuple[float, float]:
    """Return width and height of `ax`, without its labels, in points as the layout places it."""
    figure = ax.figure
    lay_out(figure.figure)
    box = ax.get_position(original=True)
    width, height = (72 * v / figure.dpi for v in figure.bbox.size)
    return width * box.width, height * box.height


def fit_height(ax: Axes, height: float, rows: int = 1) -> None:
    """Make a new figure so high that `ax`, one of `rows` Axes in its column, is `height` points high.

    The caller's figures keep their size.
    """
    if isinstance(ax, NotebookAxes):
        figure = ax.figure.figure
        for _ in range(2):  # a legend that fitted into a higher figure may need more room
            figure.set_figheight(figure.get_figheight() + rows * (height - axes_size(ax)[1]) / 72)


def matrix_axes(ax: Axes | None, n_rows: int) -> tuple[Axes, float]:
    """Return Axes for a matrix with `n_rows` rows, and their height in points."""
    if ax is not None:
        ax = axes_or_new(ax, 0)
        return ax, axes_size(ax)[1]
    height = n_rows * float(np.clip(180 / n_rows, 21, 26))
    return axes_or_new(None, height / 72 + 4), height


def colour_bar(
    ax: Axes,
    drawn: ScalarMappable,
    label: str,
    *,
    values: np.ndarray | None = None,
    percent: bool = False,
    right: bool = False,
) -> None:
    """Draw the colour scale below `ax` or to its right, with arrows if some of `values` lie beyond it."""
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


MAX_Q: Final = 0.05
"""Results with a lower q value get a star."""


class Panels(np.ndarray):
    """Array of the Axes of one figure; a notebook shows the figure."""

    def _repr_png_(self) -> bytes:
        png: bytes = self.flat[0]._repr_png_()
        return png


def new_figure(n: int, ncols: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a new figure with `n` panels, each `height` inches high with its labels."""
    rows = -(-n // ncols)
    figure = Figure(figsize=(WIDTH, rows * height + 0.95), layout="constrained")
    panels = [figure.add_subplot(rows, ncols, i + 1, axes_class=NotebookAxes) for i in range(n)]
    return figure, [axes_or_new(panel, 0) for panel in panels]


def finish(figure: Figure, title: str, keys: Sequence[Any], names: Sequence[str]) -> None:
    """Write the title above all panels, and their legend below them; the figure grows if the legend is long."""
    ncols = 2 if len(names) > 3 else 3
    rows = -(-len(names) // ncols)
    figure.set_figheight(figure.get_figheight() + max(0, rows - 3) * LINE / 72)
    figure.suptitle(title.replace("$", r"\$"), wrap=True, x=0.01, ha="left", fontsize=TITLE, weight="bold", color=INK)
    figure.legend(
        keys, names, loc="outside lower center", ncols=ncols, fontsize=TEXT,
        handletextpad=0.5, columnspacing=1.5, labelspacing=0.3,
    )  # fmt: skip


def panel_title(ax: Axes, text: str, pad: float = 4.0) -> None:
    """Write the title of one panel of several."""
    ax.set_title(text.replace("$", r"\$"), fontsize=10, weight="normal", loc="left", pad=pad)


def columns(ncols: int | None, default: int) -> int:
    """Return `ncols`, or the default for None."""
    if ncols is not None and ncols < 1:
        raise ValueError(f"ncols is {ncols}; give at least 1.")
    return default if ncols is None else ncols


def array(panels: Sequence[Axes]) -> np.ndarray:
    axes = np.empty(len(panels), dtype=object)
    axes[:] = panels
    return axes.view(Panels)


def share(value: float) -> str:
    """Return "3%", and "<1%" where that would say 0%.

    Examples
    --------
    >>> share(0.0), share(0.004), share(0.034)
    ('0%', '<1%', '3%')
    """
    return "<1%" if 0 < value < 0.01 else f"{value:.0%}"


def check_perturbation(perturbation: object) -> None:
    if not hasattr(perturbation, "trajectories"):
        raise ValueError(f"perturbation is a {type(perturbation).__name__}; give what diffvae.tl.perturb returns.")


# Without dates and random ids, the same figure gives the same file.
_DATELESS = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "ps": {"CreationDate": None},
    "eps": {},
    "png": {},
}


@styled
def save(
    figure: Axes | Figure,
    path: str | os.PathLike[str],
    *,
    formats: Sequence[str] = ("png", "svg"),
    dpi: float = 200,
) -> list[Path]:
    """Write a figure, one file per format, and close it.

    The same figure gives the same bytes (no dates, no random ids). Each file is written under a temporary name and
    then renamed, so no incomplete file is left behind.

    Parameters
    ----------
    figure
        The figure, or any Axes in it.
    path
        Path without a suffix; its folder is made.
    formats
        Of "png", "svg", "pdf", "ps", "eps".
    dpi
        Resolution of png files and of the dots (which are pixels in all files). Text in svg files is stored as
        outlines, so that it looks the same on every machine.

    Returns
    -------
    The files.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> import diffvae as dv
    >>> ax = dv.pl.history(pd.DataFrame({"train_loss": [3.0, 2.0]}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [file.name for file in dv.pl.save(ax, f"{folder}/loss")]
    ['loss.png', 'loss.svg']
    """
    drawn = figure.figure.figure if isinstance(figure, Axes) else figure
    if not isinstance(drawn, Figure):
        raise ValueError(f"figure is a {type(figure).__name__}; give a matplotlib Axes or Figure.")
    formats = [formats] if isinstance(formats, str) else list(formats)
    wrong = [f for f in formats if f not in _DATELESS]
    if wrong or not formats:
        raise ValueError(f"formats has {wrong or 'nothing'}; give some of {', '.join(_DATELESS)}.")
    path = Path(path)
    if path.suffix.lstrip(".") in _DATELESS:
        raise ValueError(f"path is {str(path)!r}; give it without a suffix, and the suffix in formats.")
    path.parent.mkdir(parents=True, exist_ok=True)

    done: dict[Path, Path] = {}
    try:
        for kind in formats:
            handle, name = mkstemp(prefix=f".{path.name}-", suffix=f".{kind}", dir=path.parent)
            os.close(handle)
            done[path.with_name(f"{path.name}.{kind}")] = temporary = Path(name)
            with rc_context({"svg.hashsalt": "diffvae", "svg.fonttype": "path", "pdf.fonttype": 42}):
                drawn.savefig(temporary, format=kind, dpi=dpi, bbox_inches="tight", metadata=_DATELESS[kind])
            os.chmod(temporary, 0o666 & ~_umask())
        for target, temporary in done.items():
            os.replace(temporary, target)
    finally:
        for temporary in done.values():
            temporary.unlink(missing_ok=True)
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(drawn)
    return list(done)


def _umask() -> int:
    """Return the mask for the permissions of ordinary files; only their owner can read those of mkstemp."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
