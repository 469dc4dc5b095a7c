"""Training curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from diffvae.pl import _style, _text

_SPLITS = {"train": "-", "validation": (0, (4, 1.5))}
_NAMES = {
    "loss": "loss",
    "nll": "reconstruction (nll)",
    "kl": "KL divergence",
    "mmd": "MMD",
    "covariance": "covariance of means",
    "mse": "squared error",
    "links": "links (nll)",
    "auc": "AUC of hidden links",
    "average_precision": "average precision of hidden links",
}
_UNITS = {
    "mmd": "squared distance", "covariance": "sum of squares", "mse": "per cell", "auc": "1 is perfect",
    "average_precision": "1 is perfect",
}  # fmt: skip
_SCORES = ("auc", "average_precision")
"""Higher is better; the other terms are losses."""


@_style.plotted
def history(
    model: Any,
    *,
    terms: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes:
    """Draw training curves of each term of the loss: training solid, validation dashed, best epoch dotted.

    Lines connect across epochs without a value: a graph model evaluates its hidden links only every tenth epoch. Scores
    of links, for which higher is better, come last and have a linear axis.

    Parameters
    ----------
    model
        A trained model, or its ``history``: a data frame with a row per epoch and columns ``train_<term>`` and
        ``validation_<term>``.
    terms
        Terms to draw, such as "loss" or ["nll", "kl"]; None for all. Each has its own panel, because terms differ by
        orders of magnitude. The axis is logarithmic where a term falls more than tenfold.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title with the best epoch.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    The Axes. With several terms they hold the title and the legend, and the panels are ``ax.child_axes``, in the order
    of `terms`.

    Examples
    --------
    >>> import pandas as pd
    >>> import diffvae as dv
    >>> frame = pd.DataFrame({"train_loss": [3.0, 2.0, 1.0], "validation_loss": [3.0, 2.5, 2.6]})
    >>> dv.pl.history(frame).get_title(loc="left")
    'Validation loss is lowest at epoch 1: 2.5 nats per cell'
    """
    frame = model if isinstance(model, pd.DataFrame) else getattr(model, "history", None)
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"model is a {type(model).__name__} without a history; pass a trained model or its history.")
    if frame.empty:
        raise ValueError("the history has no epochs; run model.train(adata) first.")
    parts = [str(c).split("_", 1) for c in frame]
    available = list(dict.fromkeys(p[1] for p in parts if len(p) == 2 and p[0] in _SPLITS))
    available.sort(key=lambda t: t in _SCORES)
    wanted = [terms] if isinstance(terms, str) else list(terms) if terms is not None else available
    unknown = [t for t in wanted if t not in available]
    if unknown or not wanted:
        raise ValueError(
            f"terms is {', '.join(unknown) or 'empty'}; the history has {', '.join(available) or 'none'} "
            "(from columns train_<term> and validation_<term>)."
        )

    rows = -(-len(wanted) // 2)
    ax = _style.axes_or_new(ax, 3.4 if len(wanted) == 1 else 0.7 + 2.1 * rows)
    panels = [ax] if len(wanted) == 1 else _panels(ax, len(wanted), rows)
    best = _best(frame)
    for i, (term, panel) in enumerate(zip(wanted, panels, strict=True)):
        _curves(panel, frame, term, _style.CATEGORIES[i % len(_style.CATEGORIES)], best)
        if len(panels) > 1:
            panel.set_title(_NAMES.get(term, term.replace("_", " ")), fontsize=10, weight="normal", pad=4)
        if i + 2 >= len(panels) or len(panels) == 1:
            panel.set_xlabel("epoch")
    splits = [s for s in _SPLITS if any(f"{s}_{t}" in frame for t in wanted)]
    keys = [Line2D([], [], color=_style.INK, linestyle=_SPLITS[s]) for s in splits]
    if best is not None:
        keys.append(Line2D([], [], color=_style.INK, linestyle=":", lw=1.2))
        splits.append("lowest validation loss")
    _text.legend_below(ax, keys, splits)
    _text.title(ax, title if title is not None else _caption(frame, best, wanted), pad=6 if len(panels) == 1 else 22)
    return ax


def _best(frame: pd.DataFrame) -> Any:
    """Return the epoch of the lowest validation loss."""
    loss = frame.get("validation_loss")
    return None if loss is None or loss.isna().all() else loss.idxmin()


def _caption(frame: pd.DataFrame, best: Any, wanted: Sequence[str]) -> str:
    if best is not None:
        value = frame.loc[best, "validation_loss"]
        return f"Validation loss is lowest at epoch {best}: {value:,.4g} {_unit(frame, 'loss')}"
    epochs = "1 epoch" if len(frame) == 1 else f"{len(frame)} epochs"
    return f"Training over {epochs}: " + ", ".join(_NAMES.get(t, t) for t in wanted)


def _unit(frame: pd.DataFrame, term: str) -> str:
    """Return the unit of a term; a graph model's loss is per (weighted) pair of cells."""
    of_links = term == "links" or (term == "loss" and "train_links" in frame)
    return "nats per pair" if of_links else _UNITS.get(term, "nats per cell")


def _panels(ax: Axes, n: int, rows: int) -> list[Axes]:
    """Divide `ax` into `n` inset panels, two per row, which follow its position and size."""
    ax.axis("off")
    gap, between = 0.18, 0.44 / max(rows, 2)
    high = (1 - between * (rows - 1)) / rows
    return [
        ax.inset_axes(((i % 2) * (0.5 + gap / 2), 1 - high - (i // 2) * (high + between), 0.5 - gap / 2, high))
        for i in range(n)
    ]


def _curves(ax: Axes, frame: pd.DataFrame, term: str, colour: str, best: Any) -> None:
    drawn = []
    for split, line in _SPLITS.items():
        if (name := f"{split}_{term}") in frame:
            values = frame[name].to_numpy(float)
            known = np.isfinite(values)
            drawn.append(values[known])
            ax.plot(
                frame.index[known], values[known], linestyle=line, color=colour, ms=4,
                marker="o" if 2 * known.sum() < len(values) or len(values) == 1 else None,
            )  # fmt: skip
    if best is not None:
        ax.axvline(best, color=_style.INK, linestyle=":", linewidth=1.2, zorder=1)
    every = np.concatenate(drawn)
    if term not in _SCORES and every.size and every.min() > 0 and every.max() > 10 * every.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0) if every.max() < 200 * every.min() else (1.0,)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_ylabel(_unit(frame, term))
