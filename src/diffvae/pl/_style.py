"""Shared by all figures: colours, style, Axes and panels, colour bars, and saving to files."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import wraps
from io import BytesIO
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Final, ParamSpec, TypeVar
from weakref import WeakSet

import numpy as np
from matplotlib import colormaps, get_backend, is_interactive, rc_context, rcParams
from matplotlib._pylab_helpers import Gcf
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, is_color_like, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox

P = ParamSpec("P")
R = TypeVar("R")
File = str | os.PathLike[str]

# The first seven are Okabe and Ito's, with a darker yellow (visible on white) and without black (used for text). The
# other 25 were chosen greedily: each maximises the OKLab distance to white, to GREY and to the colours before it,
# where the distance is the smallest of those in normal, deuteranopic and protanopic vision (Machado et al. 2009).
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
    """Return magma reversed (dark is high), its light end turned grey so that zero is visible on white."""
    steps = []
    for i in range(64):
        t = i / 63
        colour = colormaps["magma_r"](0.1 + 0.8 * t)[:3]
        full = min(1.0, t / 0.4)
        steps.append([full * c + (1 - full) * _luma(colour) for c in colour])
    return LinearSegmentedColormap.from_list("diffvae_sequential", steps)


SEQUENTIAL: Final = _sequential()
DIVERGING: Final = colormaps["coolwarm"]


def is_unassigned(name: str) -> bool:
    """Return whether a category means "no category"; its cells are drawn in grey behind the others."""
    return name.strip().lower() in _UNASSIGNED


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts "2" before "10".

    Examples
    --------
    >>> sorted(["c10", "c2", "c1"], key=natural_key)
    ['c1', 'c2', 'c10']
    """
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p]


def colours(categories: Sequence[str], palette: Palette | None = None) -> dict[str, str]:
    """Return the colour of each category.

    A category's colour depends only on its position in `categories`, so figures that are given the same categories
    agree. "unassigned" and similar categories are grey and are not counted. The first 32 colours are distinct; further
    categories repeat them in lighter shades.

    Parameters
    ----------
    categories
        All categories in order, including empty ones.
    palette
        Dictionary category -> colour (categories not in it keep their default), or one colour per category.

    Examples
    --------
    >>> colours(["B", "T", "unassigned", "NK"])
    {'B': '#0072b2', 'T': '#e69f00', 'unassigned': '#bdbdbd', 'NK': '#009e73'}
    """
    if isinstance(palette, str):
        raise ValueError(f"palette is {palette!r}; pass a list of colours or a dictionary category -> colour.")
    assigned = [c for c in categories if not is_unassigned(c)]
    result = {c: to_hex(GREY) for c in categories} | {c: _nth(i) for i, c in enumerate(assigned)}
    if palette is None:
        return result
    if isinstance(palette, Mapping):
        chosen = {str(k): v for k, v in palette.items() if str(k) in result}
    elif len(palette) < len(categories):
        raise ValueError(
            f"palette has {len(palette)} colours for {len(categories)} categories; "
            "pass one per category or a dictionary category -> colour."
        )
    else:
        chosen = dict(zip(categories, palette, strict=False))
    for category, colour in chosen.items():
        if not is_color_like(colour):
            raise ValueError(f"palette gives {category!r} the colour {colour!r}, which is not a matplotlib colour.")
    return result | {c: to_hex(v) for c, v in chosen.items()}


def _nth(i: int) -> str:
    lighter, place = divmod(i, len(CATEGORIES))
    white = 1 - 0.6**lighter
    return to_hex([c + (1 - c) * white for c in to_rgb(CATEGORIES[place])])


def ink_on(colour: Sequence[float]) -> str:
    """Return the text colour, dark or white, with the better contrast on `colour`."""
    return INK if _luma(colour) > 0.55 else "white"


WIDTH: Final = 6.0
"""Width of every new figure in inches: half a slide, so that text needs no rescaling there."""
TEXT: Final = 9.0
"""Smallest text size in points."""
TITLE: Final = 11.0
LINE: Final = 1.4 * TEXT
"""Line spacing of legends in points."""

# DejaVu Sans ships with matplotlib, so figures look the same on every machine.
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
    """Return a context manager that applies the style and then restores rcParams."""
    context: AbstractContextManager[None] = rc_context(_RC)
    return context


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a plotting function: check its argument `ax`, and apply the style while it draws."""

    @wraps(function)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        ax = kwargs.get("ax")
        if ax is not None and not isinstance(ax, Axes):
            raise ValueError(f"ax is a {type(ax).__name__}; pass one matplotlib Axes (such as axes[0]) or None.")
        with style():
            return function(*args, **kwargs)

    return drawn


_apart: ContextVar[bool] = ContextVar("apart", default=False)
_shown: WeakSet[Figure] = WeakSet()
"""Figures that a call with show=True has shown."""


@contextmanager
def apart_from_pyplot() -> Iterator[None]:
    """Draw figures that pyplot doesn't know: those of a pipeline, which are many, go to files and need no window."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def plotted(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public plotting function: as `styled`, and do what its arguments `show` and `save` say.

    A new figure becomes the current one of pyplot when it is complete, so that an error leaves no half of a figure. One
    that is only saved does not, nor one drawn within `apart_from_pyplot`.
    """
    in_style = styled(function)

    @wraps(function)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        show, file = kwargs.pop("show", None), kwargs.pop("save", None)
        if not (show is None or isinstance(show, bool)):
            raise ValueError(f"show is {show!r}; pass True, False or None.")
        if file is not None and not (isinstance(file, str | os.PathLike) and Path(file).name):
            raise ValueError(f"save is {file!r}; pass the path of a file, with or without a suffix.")
        made = in_style(*args, **kwargs)
        figure = np.ravel(np.asarray(made, dtype=object))[0].figure.figure
        if kwargs.get("ax") is None and (show or file is None):
            _register(figure)
        if isinstance(file, str | os.PathLike):
            path = Path(file)
            kind = path.suffix.removeprefix(".").lower()
            with style():
                _write(
                    figure, path.with_suffix("") if kind in _METADATA else path, [kind] if kind in _METADATA else KINDS
                )
        if show:
            from matplotlib import pyplot

            pyplot.show()
            _shown.add(figure)
        if file is not None and kwargs.get("ax") is None:  # a figure of the user's stays open
            _close(figure)
        return made

    return drawn


def _register(figure: Figure) -> None:
    """Make a figure the current one of pyplot, unless that could do harm: in another thread, or without a display."""
    if _apart.get() or threading.current_thread() is not threading.main_thread():
        return
    try:
        from matplotlib import pyplot

        pyplot.figure(FigureClass=lambda *args, **options: figure)
    except ImportError:  # such as a chosen backend that needs a display where there is none
        return


def _close(figure: Figure) -> None:
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(figure)


def _shown_otherwise(figure: Figure) -> bool:
    """Return whether a figure is shown already, or pyplot will show it when the cell of the notebook ends."""
    held = any(manager.canvas.figure is figure for manager in Gcf.get_all_fig_managers())
    return figure in _shown or (held and (is_interactive() or "inline" in get_backend()))


class NotebookAxes(Axes):
    """Axes that a notebook displays as an image, unless pyplot displays their figure."""

    def _repr_png_(self) -> bytes | None:
        if _shown_otherwise(self.figure.figure):
            return None
        with style(), BytesIO() as png:
            self.figure.figure.savefig(png, format="png", dpi=110, bbox_inches="tight")
            return png.getvalue()


def axes_or_new(ax: Axes | None, height: float) -> Axes:
    """Return `ax` in the style, or the Axes of a new figure of `WIDTH` x `height` inches."""
    if ax is None:
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        ax = figure.add_subplot(axes_class=NotebookAxes)
    # Axes made by the caller carry the caller's rcParams.
    ax.tick_params(labelsize=TEXT, color=INK, labelcolor=INK, width=0.8, length=3)
    ax.set_facecolor("white")
    ax.grid(False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(color=INK, linewidth=0.8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(fontsize=10, color=INK)
    return ax


def slot(ax: Axes | None, height: float) -> tuple[float, float]:
    """Return the width and height in points of the grid cell of `ax`, which also holds its labels."""
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
    """Run the layout engine, so that the positions of the Axes are final."""
    with _texts_measured_once(figure):
        _execute_layout(figure)


def _execute_layout(figure: Figure) -> None:
    engine = figure.get_layout_engine()
    if engine is None:
        figure.draw_without_rendering()
    else:
        engine.execute(figure)


@contextmanager
def _texts_measured_once(figure: Figure) -> Iterator[None]:
    """Measure each text of a figure once per resolution and kind of file; a layout alone does so up to ten times.

    Matplotlib has no cache for it, so that these texts, not their class, get a method of their own for the time.
    """
    texts = [t for t in figure.findobj(Text) if not (t.get_wrap() or t.get_transform_rotates_text())]
    for text in texts:
        vars(text)["_get_layout"] = _remembering(text)
    try:
        yield
    finally:
        for text in texts:
            del vars(text)["_get_layout"]


def _remembering(text: Text) -> Callable[[Any], Any]:
    measure, known = text._get_layout, {}  # type: ignore[attr-defined]

    def layout(renderer: Any) -> Any:
        key = (text.get_text(), text.figure.dpi, type(renderer))
        if key not in known:
            known[key] = measure(renderer)
        return known[key]

    return layout


def axes_size(ax: Axes) -> tuple[float, float]:
    """Return the width and height in points of `ax` without its labels, after layout."""
    figure = ax.figure
    lay_out(figure.figure)
    box = ax.get_position(original=True)
    width, height = (72 * v / figure.dpi for v in figure.bbox.size)
    return width * box.width, height * box.height


def fit_height(ax: Axes, height: float, rows: int = 1) -> None:
    """Resize the figure so that `ax`, one of `rows` Axes in its column, is `height` points high.

    Figures made by the caller keep their size.
    """
    if isinstance(ax, NotebookAxes):
        figure = ax.figure.figure
        for _ in range(1 if figure.axes == [ax] else 2):  # the height of a colour bar is a share of its Axes'
            figure.set_figheight(figure.get_figheight() + rows * (height - axes_size(ax)[1]) / 72)


def matrix_axes(ax: Axes | None, n_rows: int) -> tuple[Axes, float]:
    """Return Axes for a matrix of `n_rows` rows, and their height in points."""
    if ax is not None:
        ax = axes_or_new(ax, 0)
        return ax, axes_size(ax)[1]
    height = n_rows * float(np.clip(180 / n_rows, 21, 26))
    return axes_or_new(None, height / 72 + 4), height


def colour_bar(
    ax: Axes | Sequence[Axes],
    drawn: ScalarMappable,
    label: str,
    *,
    values: np.ndarray | None = None,
    percent: bool = False,
    right: bool = False,
) -> None:
    """Draw the colour bar below `ax` or to its right; an arrow marks an end that some of `values` exceed."""
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
    figure = (ax if isinstance(ax, Axes) else ax[0]).figure
    bar = figure.colorbar(drawn, ax=ax, extend=extend, **place)
    bar.set_label(label)
    bar.outline.set_visible(False)
    if percent:
        axis = bar.ax.yaxis if right else bar.ax.xaxis
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


MAX_Q: Final = 0.05
"""Results with a lower q-value get a star."""


class Panels(np.ndarray):
    """Array of the Axes of one figure, which a notebook displays as an image."""

    def _repr_png_(self) -> bytes | None:
        png: bytes | None = self.flat[0]._repr_png_()
        return png


def new_figure(n: int, ncols: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a new figure with `n` panels, each `height` inches high including its labels."""
    rows = -(-n // ncols)
    figure = Figure(figsize=(WIDTH, rows * height + 0.95), layout="constrained")
    panels = [figure.add_subplot(rows, ncols, i + 1, axes_class=NotebookAxes) for i in range(n)]
    return figure, [axes_or_new(panel, 0) for panel in panels]


def figure_title(figure: Figure, title: str) -> None:
    """Write the title above all panels."""
    figure.suptitle(title.replace("$", r"\$"), wrap=True, x=0.01, ha="left", fontsize=TITLE, weight="bold", color=INK)


def finish(figure: Figure, title: str, keys: Sequence[Any], names: Sequence[str]) -> None:
    """Write a title above all panels and a legend below them; the figure grows with the legend."""
    ncols = 2 if len(names) > 3 else 3
    rows = -(-len(names) // ncols)
    figure.set_figheight(figure.get_figheight() + max(0, rows - 3) * LINE / 72)
    figure_title(figure, title)
    figure.legend(
        keys, names, loc="outside lower center", ncols=ncols, fontsize=TEXT,
        handletextpad=0.5, columnspacing=1.5, labelspacing=0.3,
    )  # fmt: skip
    if rows > 3:  # constrained layout needs two passes to make room for a tall legend
        lay_out(figure)


def panel_title(ax: Axes, text: str, pad: float = 4.0) -> None:
    """Set the title of one of several panels."""
    ax.set_title(text.replace("$", r"\$"), fontsize=10, weight="normal", loc="left", pad=pad)


def array(panels: Sequence[Axes]) -> np.ndarray:
    """Return panels as the array that functions with several panels return."""
    axes = np.empty(len(panels), dtype=object)
    axes[:] = panels
    return axes.view(Panels)


def share(value: float) -> str:
    """Return a percentage such as "3%", and "<1%" instead of rounding a positive share to "0%".

    Examples
    --------
    >>> share(0.0), share(0.004), share(0.034)
    ('0%', '<1%', '3%')
    """
    return "<1%" if 0 < value < 0.01 else f"{value:.0%}"


# Without dates and random ids the same figure gives the same file.
_METADATA: Final[dict[str, dict[str, None]]] = {
    "png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}, "ps": {"CreationDate": None}, "eps": {},
}  # fmt: skip


KINDS: Final = ("png", "svg")
DPI: Final = 200


@styled
def save(
    figure: Axes | Figure,
    path: str | os.PathLike[str],
    *,
    formats: Sequence[str] = KINDS,
    dpi: float = DPI,
) -> list[Path]:
    """Save a figure, one file per format, and close it.

    The same figure gives the same bytes: the files hold no dates and no random ids. Each file is written under a
    temporary name and then renamed, so that an error leaves no incomplete file behind.

    Parameters
    ----------
    figure
        The figure, or any Axes in it.
    path
        Path without a suffix. Missing parent folders are created.
    formats
        Any of "png", "svg", "pdf", "ps" and "eps".
    dpi
        Resolution of png files, and of the cells on maps, which are pixels in all formats. Text in svg files is stored
        as outlines and needs no fonts.

    Returns
    -------
    The paths of the files.

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
        raise ValueError(f"figure is a {type(figure).__name__}; pass a matplotlib Axes or Figure.")
    formats = [formats] if isinstance(formats, str) else list(formats)
    unknown = [f for f in formats if f not in _METADATA]
    if unknown or not formats:
        raise ValueError(f"formats is {unknown or formats}; choose from {', '.join(_METADATA)}.")
    path = Path(path)
    if path.suffix.lstrip(".") in _METADATA:
        raise ValueError(f"path is {str(path)!r}; leave out the suffix and name the format in formats=.")
    files = _write(drawn, path, formats, dpi)
    _close(drawn)
    return files


def _write(figure: Figure, path: Path, formats: Sequence[str], dpi: float = DPI) -> list[Path]:
    """Write the files of a figure under temporary names, then rename them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporaries: dict[Path, Path] = {}
    try:
        for kind in formats:
            handle, name = mkstemp(prefix=f".{path.name}-", suffix=f".{kind}", dir=path.parent)
            os.close(handle)
            temporaries[path.with_name(f"{path.name}.{kind}")] = temporary = Path(name)
            os.chmod(temporary, 0o666 & ~_umask())
        with rc_context(_IN_FILES), _texts_measured_once(figure), _laid_out(figure, dpi) as box:
            for kind, temporary in zip(formats, temporaries.values(), strict=True):
                options: dict[str, Any] = {"pil_kwargs": {"compress_level": 3}} if kind == "png" else {}
                figure.savefig(temporary, format=kind, dpi=dpi, bbox_inches=box, metadata=_METADATA[kind], **options)
        for target, temporary in temporaries.items():
            os.replace(temporary, target)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
    return list(temporaries)


_IN_FILES: Final = {
    "svg.hashsalt": "diffvae", "svg.fonttype": "path", "pdf.fonttype": 42, "figure.autolayout": False,
    "figure.constrained_layout.use": False,
}  # fmt: skip


@contextmanager
def _laid_out(figure: Figure, dpi: float) -> Iterator[Bbox]:
    """Lay a figure out once for all its files, and yield the part of it that is not empty, in inches."""
    canvas, engine, resolution = figure.canvas, figure.get_layout_engine(), figure.dpi
    FigureCanvasAgg(figure)  # becomes the canvas of the figure: one without a window that would be resized
    try:
        figure.dpi = dpi
        _execute_layout(figure)
        figure.set_layout_engine(None)  # with "none", matplotlib draws once more before it writes
        yield figure.get_tightbbox().padded(rcParams["savefig.pad_inches"])
    finally:
        figure.set_layout_engine(engine)
        figure.dpi = resolution
        figure.set_canvas(canvas)


def _umask() -> int:
    """Return the process's umask; mkstemp ignores it and makes files that only their owner can read."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
