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
    "mse": "squared error",
    "links": "links (nll)",
    "auc": "AUC of hidden links",
    "average_precision": "average precision of hidden links",
}
_UNITS = {"mmd": "squared distance", "mse": "per cell", "auc": "1 is perfect", "average_precision": "1 is perfect"}
_SCORES = ("auc", "average_precision")
"""Not losses: more is better."""


@_style.styled
def history(
    model: Any,
    *,
    terms: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw how each term of the loss went down: training solid, validation dashed, the best epoch dotted.

    Epochs without a value (a graph model looks at its hidden links in every tenth only) are drawn through. Scores of
    links, of which more is better, come last and have a linear axis.

    Parameters
    ----------
    model
        A trained model (its ``history`` is drawn) or such a data frame: a row per epoch, columns
        ``train_<term>`` and ``validation_<term>``.
    terms
        Terms to draw, "loss" or ["nll", "kl"], say. None: all. Terms differ in scale by orders of magnitude,
        so each gets a panel of its own, with a logarithmic axis where it falls more than tenfold.
    ax
        Axes to draw into; None makes a new figure, 6 inches wide.
    title
        Title; None names the epoch of the lowest validation loss.

    Returns
    -------
    The Axes. If there are several terms it is the frame, which bears the title and the legend, and the panels
    are in ``ax.child_axes``, in the order of `terms`.

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
        raise ValueError(f"model is a {type(model).__name__} without a history; give a trained model or its history.")
    if frame.empty:
        raise ValueError("the history has no epochs; run model.train(adata) first.")
    parts = [str(c).split("_", 1) for c in frame]
    there = list(dict.fromkeys(p[1] for p in parts if len(p) == 2 and p[0] in _SPLITS))
    there.sort(key=lambda t: t in _SCORES)
    wanted = [terms] if isinstance(terms, str) else list(terms) if terms is not None else there
    unknown = [t for t in wanted if t not in there]
    if unknown or not wanted:
        raise ValueError(
            f"the history has no term {', '.join(unknown) or 'at all'}; it has "
            f"{', '.join(there) or 'none'} (columns are called train_<term> and validation_<term>)."
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
        keys, splits = (
            [*keys, Line2D([], [], color=_style.INK, linestyle=":", lw=1.2)],
            [*splits, "lowest validation loss"],
        )
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
    """Return in what a term is measured; a graph model's links are losses per (weighted) pair of cells."""
    of_links = term == "links" or (term == "loss" and "train_links" in frame)
    return "nats per pair" if of_links else _UNITS.get(term, "nats per cell")


def _panels(ax: Axes, n: int, rows: int) -> list[Axes]:
    """Divide the frame of `ax` into `n` panels, two a row; they move and shrink with it."""
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
