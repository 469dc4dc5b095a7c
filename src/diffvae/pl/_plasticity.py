"""Between which types cells can be moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from diffvae.pl import _text
from diffvae.pl._palette import DIVERGING, GREY, ink_on
from diffvae.pl._panels import MAX_Q, check_perturbation
from diffvae.pl._style import TEXT, axes_or_new, check_axes, colour_bar, slot, styled

if TYPE_CHECKING:
    from diffvae.tl import Perturbation


@styled
def plasticity(
    perturbation: Perturbation,
    *,
    n_sd: float | None = 1.0,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw sources x targets: the share of cells converted beyond chance, in per cent.

    Parameters
    ----------
    perturbation
        From ``diffvae.tl.perturb``, best with several sources.
    n_sd
        Step; None for the largest.
    ax
        Axes to draw into; None makes a figure, 6 inches wide.
    title
        Says what is seen; None writes it.

    Returns
    -------
    The Axes. Where there is no room for numbers, there are only the stars.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> found = dv.tl.perturb(adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_random=10)
    >>> [label.get_text() for label in dv.pl.plasticity(found, n_sd=2).get_yticklabels()]
    ['CD34+']
    """
    check_axes(ax)
    check_perturbation(perturbation)
    step = perturbation.n_sd[perturbation.step(n_sd)]
    frame = perturbation.plasticity(step)
    # Types that are both stand in one order, so that the diagonal is a diagonal.
    frame = frame[[s for s in frame.index if s in frame] + [t for t in frame if t not in frame.index]]
    starred = (perturbation.plasticity(step, value="q_value")[frame.columns] < MAX_Q).to_numpy()
    values = frame.to_numpy(float)
    rows, columns = list(map(str, frame.index)), list(map(str, frame.columns))
    wide, tall = slot(ax, 0)
    label = min(max(map(_text.width, rows)) + 9, 0.32 * wide)
    across = (wide - label - 30) / len(columns)
    feet = _text.column_plan(columns, across)
    high = 26.0 if ax is None else min(26.0, max(tall - feet.height - 130, 40) / len(rows))

    ax = axes_or_new(ax, (high * len(rows) + feet.height + 135) / 72)
    most = float(np.nanmax(np.abs(values), initial=0.05))
    image = ax.imshow(values, vmin=-most, vmax=most, cmap=DIVERGING, aspect="auto")
    per_cent = np.char.mod("%d", np.round(100 * np.nan_to_num(values)).astype(int))
    written = np.char.add(np.char.replace(per_cent, "-", "−"), np.where(starred, "*", ""))
    numbers = max(_text.width(t, weight="bold") for t in written.flat) <= across - 2 and high >= TEXT * 1.2
    for (y, x), value in np.ndenumerate(values):
        if np.isnan(value):
            box = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=GREY, edgecolor="white", hatch="////", linewidth=0)
            ax.add_patch(box)
        elif told := str(written[y, x] if numbers else "*" * int(starred[y, x])):
            red, green, blue, _ = image.to_rgba(value)
            weight = "bold" if starred[y, x] else "normal"
            ax.text(x, y, told, color=ink_on((red, green, blue)), ha="center", va="center", weight=weight)
    _text.row_labels(ax, rows, room=label - 6, pitch=high)
    _text.column_labels(ax, feet)
    ax.set(ylabel="source")
    key = (
        f"* more than chance (q < {MAX_Q:g})"
        if starred.any()
        else f"none is sure to be more than chance (q < {MAX_Q:g})"
    )
    ax.set_xlabel("target\n" + key + "   hatched: not tried" * bool(np.isnan(values).any()), linespacing=1.3)
    ax.spines[:].set_visible(False)
    colour_bar(ax, image, "cells converted beyond chance", percent=True)
    told = (
        f"Cells converted beyond chance by {step:g} sd, in %"
        if (values > 0).any()
        else f"No type converts beyond chance by {step:g} sd"
    )
    _text.title(ax, title if title is not None else told)
    return ax
