"""A search of hyper-parameters: its trials, and what mattered."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

from diffvae.pl import _text
from diffvae.pl._style import CATEGORIES, GREY, INK, axes_or_new, check_axes, styled


class TuningResult(Protocol):
    """What :func:`tuning` reads of the result of ``diffvae.benchmark.tune``."""

    @property
    def trials(self) -> pd.DataFrame: ...
    @property
    def confirmation(self) -> pd.DataFrame: ...
    @property
    def summary(self) -> dict[str, Any]: ...


BLUE, ORANGE = CATEGORIES[0], CATEGORIES[5]


@styled
def tuning(tuned: TuningResult, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the trials of a search in their order, and what became of the best one when it was trained again.

    Dots are complete trials, crosses such as were ended early (their last loss), the diamond is the default, and the
    line is the best so far. On the right, default and best with other seeds and held-out cells, a line for each seed:
    where the best of the trials owed its rank to luck, it falls back there. What lies far beyond the rest stands as a
    triangle at the edge.

    Parameters
    ----------
    tuned
        From :func:`diffvae.benchmark.tune`.
    ax
        Axes to draw into; None makes a new figure, 6 inches wide.
    title
        Title; None writes one.

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
    check_axes(ax)
    trials = tuned.trials
    label, minimise = tuned.summary["objective"]["label"], tuned.summary["objective"]["minimise"]
    best = tuned.summary["best_trial"]
    done = trials[trials["state"].isin(["complete", "pruned"]) & trials["value"].notna()]
    complete = done[done["state"] == "complete"]
    again = tuned.confirmation

    ax = axes_or_new(ax, 3.4)
    ends = np.concatenate([complete["value"], again["value"].dropna()]).astype(float)
    low, high = _limits(ends, np.concatenate([ends, done["value"]]), minimise)
    for frame, marker, colour, size in (
        (done[done["state"] == "pruned"], "x", GREY, 5),
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
    ax.step(*steps, where="post", color=INK, lw=1.2, zorder=1)
    ax.set(ylim=_padded(low, high), ylabel=_text.wrap(label, 165, size=10), xlabel="trial")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(again):
        _again(ax, again, end, best)
    _key(ax, done, beyond=None if done["value"].between(low, high).all() else "^" if minimise else "v")
    _text.title(ax, title if title is not None else _say(tuned, best))
    return ax


def _limits(ends: np.ndarray, all_: np.ndarray, minimise: bool) -> tuple[float, float]:
    """Return the range that is drawn, by the values of whole trainings.

    On the bad side it ends three times the middle half beyond that; a training that was ended early has no final value.
    """
    q1, q3 = np.quantile(ends, [0.25, 0.75])
    reach = 3 * (q3 - q1) or np.inf
    low, high = float(all_.min()), float(all_.max())
    return (low, min(high, q3 + reach)) if minimise else (max(low, q1 - reach), high)


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _again(ax: Axes, again: pd.DataFrame, end: int, best: int) -> None:
    """Draw default and best with other seeds to the right of the trials, a line for each seed."""
    step = max(1.0, 0.12 * (end + 1))
    wide = again.pivot(index="repeat", columns="configuration", values="value")
    places = {name: end + (1.5 + i) * step for i, name in enumerate(("default", "best")) if name in wide}
    ax.axvline(end + 0.75 * step, color=GREY, lw=0.8)
    if len(places) == 2:
        for values in wide[list(places)].to_numpy():
            ax.plot(list(places.values()), values, color=GREY, lw=1, zorder=1)
    for name, x in places.items():
        colour, marker = (ORANGE, "D") if name == "default" else (BLUE, "o")
        ax.plot(np.full(len(wide), x), wide[name], ls="", marker=marker, color=colour, ms=5, alpha=0.7)
        ax.plot([x - 0.3 * step, x + 0.3 * step], [wide[name].mean()] * 2, color=INK, lw=1.8)
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
        entries.append((Line2D([], [], ls="", marker="x", color=GREY, ms=5, mew=1.5), "ended early"))
    if beyond is not None:
        entries.append((Line2D([], [], ls="", marker=beyond, color=GREY, ms=6), "beyond"))
    entries.append((Line2D([], [], color=INK, lw=1.2), "best so far"))
    _text.legend_below(ax, [key for key, _ in entries], [name for _, name in entries])


def _say(tuned: TuningResult, best: int) -> str:
    n = len(tuned.trials)
    if best == 0:
        return f"None of {n} trials beats the default"
    wide = tuned.confirmation.pivot(index="repeat", columns="configuration", values="value")
    if wide.empty:
        return f"Trial {best} is the best of {n}; not trained again"
    sign = -1 if tuned.summary["objective"]["minimise"] else 1
    better = int((sign * (wide["best"] - wide["default"]) > 0).sum())
    kept = "" if tuned.summary["chosen_trial"] else ": no gain"
    return f"Trial {best} beats the default with {better} of {_seeds(len(wide))}{kept}"


@styled
def importance(table: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw which share of the variation between trials each parameter explains, beside what chance gives.

    Parameters
    ----------
    table
        ``importance`` of what :func:`diffvae.benchmark.tune` returns.
    ax
        Axes to draw into; None makes a new figure, 6 inches wide.
    title
        Says what is seen; None names the parameters that explain more than chance.

    Returns
    -------
    The Axes: bars beyond the limit of chance (a black line; see :func:`diffvae.benchmark.tune`) are blue, others grey.

    Examples
    --------
    >>> import diffvae as dv
    >>> columns = ["parameter", "importance", "chance", "chance_95", "n_trials"]
    >>> table = pd.DataFrame([("lr", 0.9, 0.4, 0.6, 20), ("hidden", 0.1, 0.2, 0.3, 20)], columns=columns)
    >>> dv.pl.importance(table).get_title(loc="left")
    'Beyond chance in 20 trials: learning rate'
    """
    check_axes(ax)
    if missing := {"parameter", "importance", "chance_95", "n_trials"} - set(table):
        raise ValueError(f"the table has no column {sorted(missing)[0]!r}; give the importance that tune returns.")
    ax = axes_or_new(ax, 1.15 + 0.28 * len(table))
    sure = (table["importance"] > table["chance_95"]).to_numpy()
    rows = np.arange(len(table))
    ax.barh(rows, table["importance"], height=0.6, color=np.where(sure, BLUE, GREY))
    for row, limit in zip(rows, table["chance_95"], strict=True):
        ax.plot([limit, limit], [row - 0.42, row + 0.42], color=INK, lw=1.5)
    ax.set(ylim=(len(table) - 0.5, -0.5), xlim=(0, 1), xlabel="share of the variation between trials")
    _text.row_labels(ax, [_NAMES.get(p, p) for p in table["parameter"]], pitch=20)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    key = Line2D([], [], color=INK, lw=1.5, ls="", marker="|", ms=11, mew=1.5)
    _text.legend_below(ax, [key], [_LIMIT])
    _text.title(ax, title if title is not None else _say_importance(table, sure))
    return ax


_LIMIT = "limit of chance: 1 in 20 searches without effect has a bar beyond"
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


def _say_importance(table: pd.DataFrame, sure: np.ndarray) -> str:
    n = int(table["n_trials"].iloc[0])
    if not sure.any():
        return f"Beyond chance in {n} trials: no parameter"
    names = ", ".join(_NAMES.get(p, p) for p in table["parameter"][sure])
    return f"Beyond chance in {n} trials: {names}"
