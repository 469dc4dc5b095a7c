"""Comparisons of methods: the scores of every training, and the differences between methods with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.markers import CARETLEFT, CARETRIGHT
from matplotlib.ticker import MaxNLocator

from diffvae.metrics import _names
from diffvae.pl import _text
from diffvae.pl._style import CATEGORIES, INK, TEXT, TITLE, axes_or_new, check_axes, colours, fit_height, slot, styled

_BAND: Final = "#F2F2F2"
_PITCH: Final = 26.0
"""Points from one method to the next."""
_COLOURS: Final = {1: CATEGORIES[0], -1: CATEGORIES[5], 0: "#7A7A7A"}
"""The reference is better, worse, or the interval includes zero."""
_DOT: Final[dict[str, Any]] = {"ls": "", "marker": "o", "ms": 4.5, "color": "#A6A6A6", "mec": "white", "mew": 0.4}
WIDER: Final = 3.0
"""The axis reaches at most this many times the largest difference."""


@styled
def method_scores(
    table: pd.DataFrame,
    metric: str = "ari",
    *,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a score of each method on each data set: every training a dot, their mean a bar.

    Parameters
    ----------
    table
        Rows of ``comparison.table`` (:func:`diffvae.benchmark.run`) of one setting: one number of dimensions, space and
        clusterer, as far as the measure depends on them.
    metric
        Column. A dot is the mean over the clusterings of one training.
    ax
        Axes to draw into; None makes a new figure, 6 inches wide.
    title
        Title; None says how often each method has the highest mean.

    Returns
    -------
    The Axes.

    Raises
    ------
    ValueError
        If the table lacks the measure, or has several settings.

    Examples
    --------
    >>> import pandas as pd
    >>> import diffvae as dv
    >>> setting = {"n_latent": 50, "space": "latent", "clusterer": "kmeans", "k_given": True}
    >>> table = pd.DataFrame(
    ...     {"dataset": "tree", "method": name, "seed": seed, "ari": ari + seed / 50, **setting}
    ...     for name, ari in (("DiffVAE", 0.6), ("PCA", 0.5)) for seed in range(5)
    ... )
    >>> dv.pl.method_scores(table).get_title(loc="left")
    'DiffVAE has the highest mean: 0.640'
    """
    check_axes(ax)
    setting = _one_setting(table, metric)
    runs = table[table[metric].notna()]
    means = runs.groupby(["dataset", "method", "seed"], sort=False)[metric].mean()
    values_of = {key: part.to_numpy(float) for key, part in means.groupby(level=["dataset", "method"], sort=False)}
    datasets, methods = (list(map(str, runs[c].unique())) for c in ("dataset", "method"))
    colour = colours(methods)
    grouped = len(datasets) > 1
    rows = len(datasets) * (len(methods) + 1) if grouped else len(methods)
    pitch = float(np.clip(370 / rows, 5.5, 13.0)) if grouped else 22.0
    if ax is not None:
        pitch = min(pitch, 0.7 * slot(ax, 0)[1] / rows)
    ax = axes_or_new(ax, rows * pitch / 72 + 4)
    step = len(methods) + 1
    for d, dataset in enumerate(datasets):
        if grouped and d % 2 == 0:
            ax.axhspan(d * step - 1, (d + 1) * step - 1, color=_BAND, linewidth=0, zorder=0)
        for m, method in enumerate(methods):
            if (dataset, method) in values_of:
                y = d * step + m if grouped else m
                _training_dots(ax, values_of[dataset, method], y, colour[method], min(pitch, 13.0))
    if grouped:
        centres = [d * step + (len(methods) - 1) / 2 for d in range(len(datasets))]
        _text.row_labels(ax, datasets, pitch=step * pitch, at=centres)
        ax.set_ylim(len(datasets) * step - 1, -1)
    else:
        _text.row_labels(ax, methods, pitch=pitch)
        ax.set_ylim(len(methods) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    name = _names.metric_name(metric)
    where = _names.setting_name(setting)
    ax.set_xlabel(f"{name}, each training; bars: means\n{where}".rstrip(), linespacing=1.3)
    ax.spines["left"].set_visible(False)
    if grouped:
        keys = [Line2D([], [], ls="", marker="o", color=colour[m], ms=7) for m in methods]
        _text.legend_below(ax, keys, methods)
    _text.title(ax, title if title is not None else _highest(means, metric, datasets))
    fit_height(ax, rows * pitch)
    return ax


def _one_setting(table: pd.DataFrame, metric: str) -> dict[str, Any]:
    """Return the setting of all rows."""
    columns = [c for c in _names.setting_of(metric) if c in table]
    missing = [c for c in ("dataset", "method", "seed", metric) if c not in table]
    if missing or not table[metric].notna().any():
        raise ValueError(f"table has no {', '.join(missing) or metric}; give rows of the table of a comparison.")
    for column in columns:
        values = list(table[column].unique())
        if len(values) > 1:
            raise ValueError(
                f"table has {column} {', '.join(map(str, values))}, and {_names.metric_name(metric)} depends on it; "
                f"choose one: table[table[{column!r}] == {values[0]!r}]."
            )
    return {c: table[c].iloc[0] for c in columns}


def _training_dots(ax: Axes, values: np.ndarray, y: float, colour: str, size: float) -> None:
    """Draw a dot per training, and a bar at their mean."""
    ax.plot(values.mean(), y, ls="", marker="|", ms=0.95 * size, mew=2.0, color=INK, zorder=3)
    ax.plot(
        values, np.full(len(values), y), ls="", marker="o", ms=0.62 * size, mfc=colour, mec="white", mew=0.4,
        alpha=0.85, zorder=2,
    )  # fmt: skip


def _highest(means: pd.Series, metric: str, datasets: Sequence[str]) -> str:
    """Return the title: which method has the best mean, and in how many data sets."""
    less = metric in _names.LESS_IS_BETTER
    of = means.groupby(["dataset", "method"], sort=False).mean()
    best = [of[d].idxmin() if less else of[d].idxmax() for d in datasets]
    word = "lowest" if less else "highest"
    if len(datasets) == 1:
        name = _text.shorten(str(best[0]), 200, TITLE, "bold")
        return f"{name} has the {word} mean: {of[datasets[0]][best[0]]:.3f}"
    counts = pd.Series(best).value_counts(sort=False).sort_values(ascending=False, kind="stable")
    first = [f"{_text.shorten(str(name), 120, TITLE, 'bold')} in {n}" for name, n in counts.items()][:3]
    several = ", ".join([*first, *([f"others in {counts.iloc[3:].sum()}"] if len(counts) > 3 else [])])
    return f"{word.capitalize()} mean: {several} of {len(datasets)} data sets"


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
        Axes to draw into; None makes a new figure, 6 inches wide.
    title
        Title; None counts the methods whose interval shows that they are better or worse.

    Returns
    -------
    The Axes. To the right of each row are the numbers of data sets that the reference wins, ties and loses. Methods
    without a pair are left out. An interval that ends in an arrow continues beyond the axis.

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
    ax = axes_or_new(ax, _PITCH * len(names) / 72 + 4)
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
    _text.row_labels(ax, names, room=120, pitch=_PITCH)
    ax.set_ylim(len(names) - 0.4, -0.6)
    _limits(ax, rows, sides)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.spines["left"].set_visible(False)
    setting = {k: rows[k][0] for k in _names.setting_of(metric) if k in rows}
    wide = 0.75 * slot(ax, 0)[0]
    label = f"{_text.shorten(reference, 0.5 * wide, 10)} minus the other method: {_names.metric_name(metric)}"
    lines = [_text.wrap(text, wide, size=10) for text in (label, _names.setting_name(setting))]
    ax.set_xlabel(_text.plain("\n".join(lines)), linespacing=1.3)
    _differences_key(ax, sides, several and per_dataset is not None)
    _text.title(ax, title if title is not None else _verdict(reference, names, sides), pad=32.0 if several else 6.0)
    fit_height(ax, _PITCH * len(names))
    return ax


def _side(low: float, high: float, metric: str) -> int:
    """Return 1 if the interval shows that the reference is better, -1 if it shows that it is worse, otherwise 0."""
    above = int(low > 0) - int(high < 0)
    return -above if metric in _names.LESS_IS_BETTER else above


def _row(ax: Axes, y: float, row: dict[Any, Any], side: int) -> None:
    """Draw the difference and its interval; the mark is filled if the interval excludes zero."""
    colour = _COLOURS[side]
    ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.4, solid_capstyle="butt", zorder=3)
    face = colour if side else "white"
    ax.plot(row["difference"], y, ls="", marker="D", ms=7, mfc=face, mec=colour, mew=1.6, zorder=4)


def _limits(ax: Axes, rows: pd.DataFrame, sides: list[int]) -> None:
    """Show all differences; intervals that are many times wider, as with few data sets, end in arrows."""
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


def _differences_key(ax: Axes, sides: list[int], sets: bool) -> None:
    """Explain the marks in a legend."""
    keys, names = [], []
    for side, name in (
        (1, "better: interval without zero"),
        (-1, "worse: interval without zero"),
        (0, "interval with zero"),
    ):
        if side in sides:
            colour = _COLOURS[side]
            face = colour if side else "white"
            keys.append(Line2D([], [], color=colour, lw=2.4, marker="D", ms=6, mfc=face, mec=colour, mew=1.6))
            names.append(name)
    if sets:
        keys.append(Line2D([], [], **_DOT))
        names.append("one data set")
    _text.legend_below(ax, keys, names)


def _verdict(reference: str, names: list[str], sides: list[int]) -> str:
    """Return the title, which names a single method if its name is short, and counts several."""
    parts = []
    for side, word in ((1, "is better than"), (-1, "is worse than"), (0, "doesn't clearly differ from")):
        here = [name for name, own in zip(names, sides, strict=True) if own == side]
        if len(here) == 1 and (len(here[0]) <= 12 or len(names) == 1):
            parts.append(f"{word} {_text.shorten(here[0], 200, TITLE, 'bold')}")
        elif here:
            all_of = f"{'all' if side else 'any of'} {len(here)} methods"
            parts.append(f"{word} {all_of if len(here) == len(names) else f'{len(here)} of {len(names)} methods'}")
    return f"{_text.shorten(reference, 150, TITLE, 'bold')} {', '.join(parts)}"
