"""How far a method is from each other one, with intervals."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.markers import CARETLEFT, CARETRIGHT
from matplotlib.ticker import MaxNLocator

from diffvae import _measures
from diffvae.pl import _text
from diffvae.pl._palette import CATEGORIES, INK
from diffvae.pl._style import TEXT, TITLE, axes_or_new, check_axes, slot, styled

_COLOURS: Final = {1: CATEGORIES[0], -1: CATEGORIES[5], 0: "#7A7A7A"}
"""The reference is better, worse, or neither for sure."""
_DOT: Final[dict[str, Any]] = {"ls": "", "marker": "o", "ms": 4.5, "color": "#A6A6A6", "mec": "white", "mew": 0.4}
WIDER: Final = 3.0
"""Times the largest difference: the farthest that the axis reaches."""


@styled
def method_differences(
    paired: pd.DataFrame,
    per_dataset: pd.DataFrame | None = None,
    *,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw how far the reference is from each other method, with the interval of the mean difference.

    Parameters
    ----------
    paired
        Rows of :func:`diffvae.benchmark.compare` of one measure and setting: one per other method.
    per_dataset
        The same with ``per_dataset=True``: each data set becomes a grey dot.
    ax
        Axes to draw into; None makes a figure, 6 inches wide.
    title
        Says what is seen; None counts the methods that are surely better and worse.

    Returns
    -------
    The Axes. Right of a row stand the data sets that the reference wins, ties and loses. A method without a pair is
    left out. An interval that ends in an arrow goes on beyond the axis.

    Raises
    ------
    ValueError
        If a method has several rows, or none has a pair.

    Examples
    --------
    >>> import pandas as pd
    >>> import diffvae as dv
    >>> setting = {"n_latent": 50, "space": "latent", "clusterer": "kmeans", "k_given": True, "clustering_seed": 0}
    >>> table = pd.DataFrame(
    ...     {"dataset": "tree", "method": name, "seed": seed, "ari": ari + seed**2 / 500, **setting}
    ...     for name, ari in (("DiffVAE", 0.6), ("PCA", 0.5)) for seed in range(5)
    ... )
    >>> dv.pl.method_differences(dv.benchmark.compare(table)).get_title(loc="left")
    'DiffVAE is better than PCA'
    """
    check_axes(ax)
    rows = paired[paired["n_pairs"] > 0].reset_index(drop=True)
    twice = rows["method"].value_counts()
    if rows.empty or twice.max() > 1 or rows["metric"].nunique() > 1:
        raise ValueError(
            "paired has no method with a pair; see its column n_dropped."
            if rows.empty
            else f"paired has {twice.iloc[0]} rows of {twice.index[0]!r}; choose one measure and setting, such as "
            "paired[(paired['n_latent'] == 50) & (paired['space'] == 'latent') & (paired['clusterer'] == 'kmeans')]."
        )
    metric, reference = str(rows["metric"][0]), str(rows["reference"][0])
    names = list(map(str, rows["method"]))
    several = bool(rows["n_datasets"].max() > 1)
    sides = [_side(row.low, row.high, metric) for row in rows.itertuples()]
    wide, tall = slot(ax, 0)
    pitch = 26.0 if ax is None else min(26.0, max(tall - 140, 40) / len(names))
    ax = axes_or_new(ax, (pitch * len(names) + 140) / 72)
    ax.axvline(0, color=INK, linewidth=1.0, zorder=1)
    for y, (row, side) in enumerate(zip(rows.to_dict("records"), sides, strict=True)):
        _row(ax, y, row, side)
        if several:
            _beside(ax, y, f"{row['wins']} / {row['ties']} / {row['losses']}")
            if per_dataset is not None:
                own = per_dataset.loc[per_dataset["method"] == row["method"], "difference"].dropna()
                ax.plot(own, np.full(len(own), y + 0.3), zorder=2, **_DOT)
    if several:
        ax.annotate(
            "win / tie\n/ loss", (1.0, 1.0), xycoords="axes fraction", xytext=(6, 3), textcoords="offset points",
            va="bottom", ha="left", fontsize=TEXT, annotation_clip=False, linespacing=1.0,
        )  # fmt: skip
    _text.row_labels(ax, names, room=0.28 * wide, pitch=pitch)
    ax.set_ylim(len(names) - 0.4, -0.6)
    _limits(ax, rows, sides)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.spines["left"].set_visible(False)
    setting = {k: rows[k][0] for k in _measures.setting_of(metric) if k in rows}
    label = f"{_text.shorten(reference, 0.4 * wide, 10)} minus the other method: {_measures.metric_name(metric)}"
    lines = [_text.wrap(label, 0.75 * wide, size=10), _text.wrap(_measures.setting_name(setting), 0.75 * wide, size=10)]
    ax.set_xlabel(_text.plain("\n".join(lines)), linespacing=1.3)
    below = 18 + 14 * ax.get_xlabel().count("\n") + 14
    _keys(ax, sides, several and per_dataset is not None, below)
    _text.title(ax, title if title is not None else _told(reference, names, sides), pad=32.0 if several else 6.0)
    return ax


def _side(low: float, high: float, metric: str) -> int:
    """Return 1 where the reference is better beyond its interval, -1 where it is worse, else 0."""
    above = int(low > 0) - int(high < 0)
    return -above if metric in _measures.LESS_IS_BETTER else above


def _row(ax: Axes, y: float, row: dict[Any, Any], side: int) -> None:
    """Draw difference and interval; the difference is filled where zero is outside."""
    colour = _COLOURS[side]
    ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.4, solid_capstyle="butt", zorder=3)
    face = colour if side else "white"
    ax.plot(row["difference"], y, ls="", marker="D", ms=7, mfc=face, mec=colour, mew=1.6, zorder=4)


def _limits(ax: Axes, rows: pd.DataFrame, sides: list[int]) -> None:
    """Let all differences be seen: intervals of few data sets may be many times as wide, and end in arrows."""
    ax.margins(x=0.06)
    points = np.concatenate([np.atleast_1d(line.get_xdata()) for line in ax.lines if line.get_marker() in ("D", "o")])
    reach = WIDER * float(np.abs(points).max(initial=0.0))
    left, right = ax.get_xlim()
    if not reach or (-reach <= left and right <= reach):
        return
    left, right = max(left, -reach), min(right, reach)
    for y, (low, high, side) in enumerate(zip(rows["low"], rows["high"], sides, strict=True)):
        for end, marker, beyond in ((left, CARETLEFT, low < left), (right, CARETRIGHT, high > right)):
            if beyond:
                ax.plot(end, y, marker=marker, ms=8, color=_COLOURS[side], clip_on=False, zorder=5)
    ax.set_xlim(left, right)


def _beside(ax: Axes, y: float, text: str) -> None:
    ax.annotate(
        text, (1.0, y), xycoords=ax.get_yaxis_transform(), xytext=(6, 0), textcoords="offset points", va="center",
        ha="left", fontsize=TEXT, annotation_clip=False, linespacing=1.0,
    )  # fmt: skip


def _keys(ax: Axes, sides: list[int], sets: bool, below: float) -> None:
    """Say what the marks are."""
    keys, names = [], []
    for side, name in (
        (1, "better: interval without zero"),
        (-1, "worse: interval without zero"),
        (0, "interval with zero"),
    ):
        if side in sides:
            colour = _COLOURS[side]
            line: dict[str, Any] = {
                "marker": "D",
                "ms": 6,
                "mfc": colour if side else "white",
                "mec": colour,
                "mew": 1.6,
            }
            keys.append(Line2D([], [], color=colour, lw=2.4, **line))
            names.append(name)
    if sets:
        keys.append(Line2D([], [], **_DOT))
        names.append("one data set")
    ax.legend(
        keys, names, loc="upper center", bbox_to_anchor=(0.5, 0.0), bbox_transform=_text.moved(ax, 0, -below), ncols=2,
        handletextpad=0.6, columnspacing=1.5, labelspacing=0.3, borderaxespad=0.0,
    )  # fmt: skip


def _told(reference: str, names: list[str], sides: list[int]) -> str:
    """Return the title; one method is named, if its name is short, several are counted."""
    parts = []
    for side, word in ((1, "is better than"), (-1, "is worse than"), (0, "can't be told from")):
        here = [name for name, own in zip(names, sides, strict=True) if own == side]
        if len(here) == 1 and (_text.width(here[0], TITLE, "bold") < 90 or len(names) == 1):
            parts.append(f"{word} {_text.shorten(here[0], 200, TITLE, 'bold')}")
        elif here:
            all_of = f"{'all' if side else 'any of'} {len(here)} methods"
            parts.append(f"{word} {all_of if len(here) == len(names) else f'{len(here)} of {len(names)} methods'}")
    return f"{_text.shorten(reference, 150, TITLE, 'bold')} {', '.join(parts)}"
