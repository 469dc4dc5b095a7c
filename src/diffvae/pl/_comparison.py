"""Comparisons of methods: scores of every training, and differences between methods with intervals."""

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
from diffvae.pl import _style, _text

_BAND: Final = "#F2F2F2"
_PITCH: Final = 26.0
"""Row height in points."""
_COLOURS: Final = {1: _style.CATEGORIES[0], -1: _style.CATEGORIES[5], 0: "#7A7A7A"}
"""The reference is better, worse, or the interval includes zero."""
_DOT: Final[dict[str, Any]] = {"ls": "", "marker": "o", "ms": 4.5, "color": "#A6A6A6", "mec": "white", "mew": 0.4}
WIDER: Final = 3.0
"""The axis reaches at most this many times the largest difference."""


@_style.plotted
def method_scores(
    table: pd.DataFrame,
    metric: str = "ari",
    *,
    ax: Axes | None = None,
    title: str | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes:
    """Draw the scores of each method on each data set: a dot per training and a bar at their mean.

    Parameters
    ----------
    table
        Rows of ``comparison.table`` (:func:`diffvae.benchmark.run`) with one setting: one number of dimensions, one
        space and one clusterer, as far as the metric depends on them.
    metric
        Column of `table`. A dot is the mean over the clusterings of one training.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title that counts how often each
        method has the highest mean.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    The Axes.

    Raises
    ------
    ValueError
        If the table lacks the metric or has several settings.

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
    setting = _one_setting(table, metric)
    runs = table[table[metric].notna()]
    means = runs.groupby(["dataset", "method", "seed"], sort=False)[metric].mean()
    values_of = {key: part.to_numpy(float) for key, part in means.groupby(level=["dataset", "method"], sort=False)}
    datasets, methods = (list(map(str, runs[c].unique())) for c in ("dataset", "method"))
    colour = _style.colours(methods)
    grouped = len(datasets) > 1
    rows = len(datasets) * (len(methods) + 1) if grouped else len(methods)
    pitch = float(np.clip(370 / rows, 5.5, 13.0)) if grouped else 22.0
    if ax is not None:
        pitch = min(pitch, 0.7 * _style.slot(ax, 0)[1] / rows)
    ax = _style.axes_or_new(ax, rows * pitch / 72 + 4)
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
    _style.fit_height(ax, rows * pitch)
    return ax


def _one_setting(table: pd.DataFrame, metric: str) -> dict[str, Any]:
    """Return the setting, which must be the same in all rows."""
    columns = [c for c in _names.setting_of(metric) if c in table]
    missing = [c for c in ("dataset", "method", "seed", metric) if c not in table]
    if missing or not table[metric].notna().any():
        raise ValueError(f"table has no {', '.join(missing) or metric}; pass rows of the table of a comparison.")
    for column in columns:
        values = list(table[column].unique())
        if len(values) > 1:
            raise ValueError(
                f"table has several values of {column} ({', '.join(map(str, values))}), and "
                f"{_names.metric_name(metric)} depends on it; select one: table[table[{column!r}] == {values[0]!r}]."
            )
    return {c: table[c].iloc[0] for c in columns}


def _training_dots(ax: Axes, values: np.ndarray, y: float, colour: str, size: float) -> None:
    """Draw a dot per training and a bar at their mean."""
    ax.plot(values.mean(), y, ls="", marker="|", ms=0.95 * size, mew=2.0, color=_style.INK, zorder=3)
    ax.plot(
        values, np.full(len(values), y), ls="", marker="o", ms=0.62 * size, mfc=colour, mec="white", mew=0.4,
        alpha=0.85, zorder=2,
    )  # fmt: skip


def _highest(means: pd.Series, metric: str, datasets: Sequence[str]) -> str:
    """Return a title that counts the data sets in which each method has the best mean."""
    less = metric in _names.LESS_IS_BETTER
    of = means.groupby(["dataset", "method"], sort=False).mean()
    best = [of[d].idxmin() if less else of[d].idxmax() for d in datasets]
    word = "lowest" if less else "highest"
    if len(datasets) == 1:
        name = _text.shorten(str(best[0]), 200, _style.TITLE, "bold")
        return f"{name} has the {word} mean: {of[datasets[0]][best[0]]:.3f}"
    counts = pd.Series(best).value_counts(sort=False).sort_values(ascending=False, kind="stable")
    first = [f"{_text.shorten(str(name), 120, _style.TITLE, 'bold')} in {n}" for name, n in counts.items()][:3]
    several = ", ".join([*first, *([f"others in {counts.iloc[3:].sum()}"] if len(counts) > 3 else [])])
    return f"{word.capitalize()} mean: {several} of {len(datasets)} data sets"


@_style.plotted
def method_differences(
    paired: pd.DataFrame,
    per_dataset: pd.DataFrame | None = None,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes:
    """Draw the mean difference between the reference and each other method, with its interval.

    Parameters
    ----------
    paired
        Result of :func:`diffvae.benchmark.compare` for one metric and setting: a row per other method.
    per_dataset
        The same with ``per_dataset=True``, for a grey dot per data set.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title that says which methods are
        better or worse.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    The Axes. The numbers of data sets that the reference wins, ties and loses are on the right. Methods without a pair
    are left out. An interval that ends in an arrow continues beyond the axis.

    Raises
    ------
    ValueError
        If a method has several rows, or no method has a pair.

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
    rows = paired[paired["n_pairs"] > 0].reset_index(drop=True)
    if rows.empty:
        raise ValueError("paired has no method with a pair; see its column n_dropped.")
    counts = rows["method"].value_counts()
    if counts.max() > 1 or rows["metric"].nunique() > 1:
        raise ValueError(
            f"paired has {counts.iloc[0]} rows of {counts.index[0]!r}; select one metric and setting, such as "
            "paired[(paired['n_latent'] == 50) & (paired['space'] == 'latent') & (paired['clusterer'] == 'kmeans')]."
        )
    metric, reference = str(rows["metric"][0]), str(rows["reference"][0])
    names = list(map(str, rows["method"]))
    several = bool(rows["n_datasets"].max() > 1)
    sides = [_side(row.low, row.high, metric) for row in rows.itertuples()]
    ax = _style.axes_or_new(ax, _PITCH * len(names) / 72 + 4)
    ax.axvline(0, color=_style.INK, linewidth=1.0, zorder=1)
    for y, (row, side) in enumerate(zip(rows.to_dict("records"), sides, strict=True)):
        _row(ax, y, row, side)
        if several:
            ax.annotate(
                f"{row['wins']} / {row['ties']} / {row['losses']}", (1.0, y), xycoords=ax.get_yaxis_transform(),
                xytext=(6, 0), textcoords="offset points", va="center", ha="left", fontsize=_style.TEXT,
                annotation_clip=False,
            )  # fmt: skip
            if per_dataset is not None:
                each = per_dataset.loc[per_dataset["method"] == row["method"], "difference"].dropna()
                ax.plot(each, np.full(len(each), y + 0.3), zorder=2, **_DOT)
    if several:
        ax.annotate(
            "win / tie\n/ loss", (1.0, 1.0), xycoords="axes fraction", xytext=(6, 3), textcoords="offset points",
            va="bottom", ha="left", fontsize=_style.TEXT, annotation_clip=False, linespacing=1.0,
        )  # fmt: skip
    _text.row_labels(ax, names, room=120, pitch=_PITCH)
    ax.set_ylim(len(names) - 0.4, -0.6)
    _limits(ax, rows, sides)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.spines["left"].set_visible(False)
    setting = {k: rows[k][0] for k in _names.setting_of(metric) if k in rows}
    wide = 0.75 * _style.slot(ax, 0)[0]
    label = f"{_text.shorten(reference, 0.5 * wide, 10)} minus the other method: {_names.metric_name(metric)}"
    lines = [_text.wrap(text, wide, size=10) for text in (label, _names.setting_name(setting))]
    ax.set_xlabel(_text.plain("\n".join(lines)), linespacing=1.3)
    _differences_key(ax, sides, several and per_dataset is not None)
    _text.title(ax, title if title is not None else _verdict(reference, names, sides), pad=32.0 if several else 6.0)
    _style.fit_height(ax, _PITCH * len(names))
    return ax


def _side(low: float, high: float, metric: str) -> int:
    """Return 1 if the interval shows the reference to be better, -1 if worse, and 0 if it includes zero."""
    above = int(low > 0) - int(high < 0)
    return -above if metric in _names.LESS_IS_BETTER else above


def _row(ax: Axes, y: float, row: dict[Any, Any], side: int) -> None:
    """Draw a difference and its interval; the marker is filled if the interval excludes zero."""
    colour = _COLOURS[side]
    ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.4, solid_capstyle="butt", zorder=3)
    face = colour if side else "white"
    ax.plot(row["difference"], y, ls="", marker="D", ms=7, mfc=face, mec=colour, mew=1.6, zorder=4)


def _limits(ax: Axes, rows: pd.DataFrame, sides: list[int]) -> None:
    """Fit the x axis to the differences; much wider intervals, as with few data sets, end in arrows."""
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


def _differences_key(ax: Axes, sides: list[int], sets: bool) -> None:
    """Draw the legend of the markers."""
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
    """Return a title that names a method if it is alone and its name is short, and otherwise counts methods."""
    parts = []
    for side, word in ((1, "is better than"), (-1, "is worse than"), (0, "does not differ clearly from")):
        here = [name for name, other in zip(names, sides, strict=True) if other == side]
        if len(here) == 1 and (len(here[0]) <= 12 or len(names) == 1):
            parts.append(f"{word} {_text.shorten(here[0], 200, _style.TITLE, 'bold')}")
        elif here:
            all_of = f"{'all' if side else 'any of'} {len(here)} methods"
            parts.append(f"{word} {all_of if len(here) == len(names) else f'{len(here)} of {len(names)} methods'}")
    return f"{_text.shorten(reference, 150, _style.TITLE, 'bold')} {', '.join(parts)}"
