"""Methods beside each other: every training of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from diffvae import _measures
from diffvae.pl import _text
from diffvae.pl._palette import INK, colours
from diffvae.pl._style import TEXT, TITLE, axes_or_new, check_axes, slot, styled

_BAND: Final = "#F2F2F2"


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
        Axes to draw into; None makes a figure, 6 inches wide.
    title
        Says what is seen; None says which method has the highest mean how often.

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
    wide, tall = slot(ax, 0)
    plan = _text.legend_plan(methods, (wide, 0.0))._replace(right=False) if grouped else None
    room_below = 100 + (plan.height if plan else 0)
    pitch = float(np.clip(370 / rows, 5.5, 13.0)) if grouped else 22.0
    if ax is not None:
        pitch = min(pitch, max(tall - room_below, 40) / rows)
    ax = axes_or_new(ax, (rows * pitch + room_below) / 72)
    room = 0.3 * wide
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
        lines = 2 if step * pitch > 2.4 * TEXT else 1
        ax.set_yticks(centres, [_text.plain(_text.wrap(n, room, lines=lines)) for n in datasets], linespacing=1.0)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(datasets) * step - 1, -1)
    else:
        _text.row_labels(ax, methods, room=room, pitch=pitch)
        ax.set_ylim(len(methods) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    name = _measures.metric_name(metric)
    where = _measures.setting_name(setting)
    ax.set_xlabel(f"{name}, each training; bars: means\n{where}".rstrip(), linespacing=1.3)
    ax.spines["left"].set_visible(False)
    if plan is not None:
        _text.legend(ax, plan, [colour[m] for m in methods], "o", below=44)
    _text.title(ax, title if title is not None else _highest(means, metric, datasets))
    return ax


def _one_setting(table: pd.DataFrame, metric: str) -> dict[str, Any]:
    """Return the setting of all rows."""
    columns = [c for c in _measures.setting_of(metric) if c in table]
    missing = [c for c in ("dataset", "method", "seed", metric) if c not in table]
    if missing or not table[metric].notna().any():
        raise ValueError(f"table has no {', '.join(missing) or metric}; give rows of the table of a comparison.")
    for column in columns:
        values = list(table[column].unique())
        if len(values) > 1:
            raise ValueError(
                f"table has {column} {', '.join(map(str, values))}, and {_measures.metric_name(metric)} depends on it; "
                f"choose one: table[table[{column!r}] == {values[0]!r}]."
            )
    return {c: table[c].iloc[0] for c in columns}


def _training_dots(ax: Axes, values: np.ndarray, y: float, colour: str, size: float) -> None:
    """Draw a dot per training, the bar of their mean behind."""
    ax.plot(values.mean(), y, ls="", marker="|", ms=0.95 * size, mew=2.0, color=INK, zorder=3)
    ax.plot(
        values, np.full(len(values), y), ls="", marker="o", ms=0.62 * size, mfc=colour, mec="white", mew=0.4,
        alpha=0.85, zorder=2,
    )  # fmt: skip


def _highest(means: pd.Series, metric: str, datasets: Sequence[str]) -> str:
    """Return the title: which method has the best mean, and in how many data sets."""
    less = metric in _measures.LESS_IS_BETTER
    of = means.groupby(["dataset", "method"], sort=False).mean()
    best = [of[d].idxmin() if less else of[d].idxmax() for d in datasets]
    word = "lowest" if less else "highest"
    if len(datasets) == 1:
        name = _text.shorten(str(best[0]), 200, TITLE, "bold")
        return f"{name} has the {word} mean: {of[datasets[0]][best[0]]:.3f}"
    counts = pd.Series(best).value_counts(sort=False).sort_values(ascending=False, kind="stable")
    first = [f"{_text.shorten(str(name), 120, TITLE, 'bold')} in {n}" for name, n in counts.items()][:3]
    told = ", ".join([*first, *([f"others in {counts.iloc[3:].sum()}"] if len(counts) > 3 else [])])
    return f"{word.capitalize()} mean: {told} of {len(datasets)} data sets"
