"""Hyper-parameter search: its trials, and the importance of each parameter."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

from diffvae.pl import _style, _text


class TuningResult(Protocol):
    """Attributes of the result of ``diffvae.benchmark.tune`` that :func:`tuning` reads."""

    @property
    def trials(self) -> pd.DataFrame: ...
    @property
    def confirmation(self) -> pd.DataFrame: ...
    @property
    def summary(self) -> dict[str, Any]: ...


BLUE, ORANGE = _style.CATEGORIES[0], _style.CATEGORIES[5]


@_style.plotted
def tuning(
    tuned: TuningResult,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes:
    """Draw the trials of a search in order, and how the default and the best trial compare when trained again.

    Dots are complete trials, crosses are trials that were ended early (at their last loss), the diamond is the default,
    and the line is the best value so far. On the right, the default and the best trial are compared with other seeds
    and held-out cells, one line per seed; a trial that was best by luck falls back there. Triangles at the edge mark
    values far outside the range of the others.

    Parameters
    ----------
    tuned
        From :func:`diffvae.benchmark.tune`.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title that says what is drawn.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    The Axes.

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(60, 40)
    >>> found = dv.benchmark.tune(cells, n_trials=2, n_repeats=1, max_epochs=2, progress=False)
    >>> dv.pl.tuning(found).get_xlabel()
    'trial, and default and best with 1 other seed'
    """
    trials = tuned.trials
    label, minimise = tuned.summary["objective"]["label"], tuned.summary["objective"]["minimise"]
    best = tuned.summary["best_trial"]
    done = trials[trials["state"].isin(["complete", "pruned"]) & trials["value"].notna()]
    complete = done[done["state"] == "complete"]
    again = tuned.confirmation

    ax = _style.axes_or_new(ax, 3.4)
    ends = np.concatenate([complete["value"], again["value"].dropna()]).astype(float)
    low, high = _limits(ends, np.concatenate([ends, done["value"]]), minimise)
    for frame, marker, colour, size in (
        (done[done["state"] == "pruned"], "x", _style.GREY, 5),
        (complete[~complete["default"]], "o", BLUE, 5),
        (complete[complete["default"]], "D", ORANGE, 7),
    ):
        inside = frame["value"].between(low, high)
        ax.plot(frame["trial"][inside], frame["value"][inside], ls="", marker=marker, color=colour, ms=size, mew=1.5)
        edge, arrow = (high, "^") if minimise else (low, "v")
        if (beyond := frame["trial"][~inside]).size:
            ax.plot(beyond, np.full(len(beyond), edge), ls="", marker=arrow, color=colour, ms=6, clip_on=False)
    so_far = complete["value"].cummin() if minimise else complete["value"].cummax()
    end = int(trials["trial"].max())
    steps = np.append(complete["trial"], end), np.append(so_far, so_far.iloc[-1])
    ax.step(*steps, where="post", color=_style.INK, lw=1.2, zorder=1)
    ax.set(ylim=_padded(low, high), ylabel=_text.wrap(label, 165, size=10), xlabel="trial")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(again):
        _confirmation(ax, again, end)
    _key(ax, done, beyond=None if done["value"].between(low, high).all() else "^" if minimise else "v")
    _text.title(ax, title if title is not None else _caption(tuned, best))
    return ax


def _limits(ends: np.ndarray, all_: np.ndarray, minimise: bool) -> tuple[float, float]:
    """Return the range of the y axis.

    On the bad side it ends three interquartile ranges of the complete trainings (`ends`) beyond their quartile.
    """
    q1, q3 = np.quantile(ends, [0.25, 0.75])
    reach = 3 * (q3 - q1) or np.inf
    low, high = float(all_.min()), float(all_.max())
    return (low, min(high, q3 + reach)) if minimise else (max(low, q1 - reach), high)


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _confirmation(ax: Axes, again: pd.DataFrame, end: int) -> None:
    """Draw the default and the best trial with other seeds to the right of the trials, a line per seed."""
    step = max(1.0, 0.12 * (end + 1))
    wide = again.pivot(index="repeat", columns="configuration", values="value")
    places = {name: end + (1.5 + i) * step for i, name in enumerate(("default", "best")) if name in wide}
    ax.axvline(end + 0.75 * step, color=_style.GREY, lw=0.8)
    if len(places) == 2:
        for values in wide[list(places)].to_numpy():
            ax.plot(list(places.values()), values, color=_style.GREY, lw=1, zorder=1)
    for name, x in places.items():
        colour, marker = (ORANGE, "D") if name == "default" else (BLUE, "o")
        ax.plot(np.full(len(wide), x), wide[name], ls="", marker=marker, color=colour, ms=5, alpha=0.7)
        ax.plot([x - 0.3 * step, x + 0.3 * step], [wide[name].mean()] * 2, color=_style.INK, lw=1.8)
    ticks = [t for t in MaxNLocator(5, integer=True).tick_values(0, end) if 0 <= t <= end]
    names = [f"{t:g}" for t in ticks] + list(places)
    ax.xaxis.set_major_locator(FixedLocator([*ticks, *places.values()]))
    ax.set_xticklabels(names)
    ax.set_xlim(-0.04 * (end + 1) - 0.3, max(places.values()) + 0.6 * step)
    ax.set_xlabel(f"trial, and default and best with {_seeds(len(wide))}")


def _seeds(n: int) -> str:
    return f"{n} other seed" + "s" * (n != 1)


def _key(ax: Axes, done: pd.DataFrame, beyond: str | None) -> None:
    entries: list[tuple[Any, str]] = [
        (Line2D([], [], ls="", marker="D", color=ORANGE, ms=6), "default"),
        (Line2D([], [], ls="", marker="o", color=BLUE, ms=5), "complete"),
    ]
    if (done["state"] == "pruned").any():
        entries.append((Line2D([], [], ls="", marker="x", color=_style.GREY, ms=5, mew=1.5), "ended early"))
    if beyond is not None:
        entries.append((Line2D([], [], ls="", marker=beyond, color=_style.GREY, ms=6), "beyond"))
    entries.append((Line2D([], [], color=_style.INK, lw=1.2), "best so far"))
    _text.legend_below(ax, [key for key, _ in entries], [name for _, name in entries])


def _caption(tuned: TuningResult, best: int) -> str:
    n = len(tuned.trials)
    if best == 0:
        return f"None of {n} trials beats the default"
    wide = tuned.confirmation.pivot(index="repeat", columns="configuration", values="value")
    if wide.empty:
        return f"Trial {best} is the best of {n}; not trained again"
    sign = -1 if tuned.summary["objective"]["minimise"] else 1
    better = int((sign * (wide["best"] - wide["default"]) > 0).sum())
    gain = "" if tuned.summary["chosen_trial"] else ": no gain"
    return f"Trial {best} beats the default with {better} of {_seeds(len(wide))}{gain}"


@_style.plotted
def importance(
    table: pd.DataFrame,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes:
    """Draw the share of the variation between trials that each parameter explains, and the limit of chance.

    Parameters
    ----------
    table
        ``importance`` of the result of :func:`diffvae.benchmark.tune`.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title with the parameters that
        explain more than chance.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    The Axes. A black line is the limit of chance (see :func:`diffvae.benchmark.tune`). Bars beyond it are blue, others
    grey.

    Examples
    --------
    >>> import diffvae as dv
    >>> columns = ["parameter", "importance", "chance", "chance_95", "n_trials"]
    >>> table = pd.DataFrame([("lr", 0.9, 0.4, 0.6, 20), ("hidden", 0.1, 0.2, 0.3, 20)], columns=columns)
    >>> dv.pl.importance(table).get_title(loc="left")
    'Beyond chance in 20 trials: learning rate'
    """
    if missing := {"parameter", "importance", "chance_95", "n_trials"} - set(table):
        raise ValueError(f"the table has no column {sorted(missing)[0]!r}; pass the importance of the result of tune.")
    ax = _style.axes_or_new(ax, 1.15 + 0.28 * len(table))
    significant = (table["importance"] > table["chance_95"]).to_numpy()
    rows = np.arange(len(table))
    ax.barh(rows, table["importance"], height=0.6, color=np.where(significant, BLUE, _style.GREY))
    for row, limit in zip(rows, table["chance_95"], strict=True):
        ax.plot([limit, limit], [row - 0.42, row + 0.42], color=_style.INK, lw=1.5)
    ax.set(ylim=(len(table) - 0.5, -0.5), xlim=(0, 1), xlabel="share of the variation between trials")
    _text.row_labels(ax, [_NAMES.get(p, p) for p in table["parameter"]], pitch=20)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    key = Line2D([], [], color=_style.INK, lw=1.5, ls="", marker="|", ms=11, mew=1.5)
    _text.legend_below(ax, [key], [_LIMIT])
    _text.title(ax, title if title is not None else _importance_caption(table, significant))
    return ax


_LIMIT = "limit of chance: without any effect 1 in 20 searches has a bar beyond it"
_NAMES = {
    "hidden": "hidden widths",
    "n_latent": "latent dimensions",
    "lr": "learning rate",
    "batch_size": "batch size",
    "kl_weight": "KL weight",
    "mmd_weight": "MMD weight",
    "mmd_kernel": "MMD kernel",
    "input_dropout": "input dropout",
}


def _importance_caption(table: pd.DataFrame, significant: np.ndarray) -> str:
    n = int(table["n_trials"].iloc[0])
    if not significant.any():
        return f"Beyond chance in {n} trials: no parameter"
    names = ", ".join(_NAMES.get(p, p) for p in table["parameter"][significant])
    return f"Beyond chance in {n} trials: {names}"
