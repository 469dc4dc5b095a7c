"""What integration did: how well batches are mixed and types kept, beside PCA without integration."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from diffvae._core.anndata import result
from diffvae.pl import _style, _text

_PITCH: Final = 27.0
"""Row height in points."""
_LATENT: Final = _style.CATEGORIES[0]
_PCA: Final = "#8A8A8A"
_COLUMNS: Final = ("side", "score", "pca", "latent", "permuted")


@_style.plotted
def integration(
    data: AnnData | pd.DataFrame, *, title: str | None = None, show: bool | None = None, save: _style.File | None = None
) -> np.ndarray:
    """Draw each score of integration before and after: a line from PCA without integration to the latent space.

    Parameters
    ----------
    data
        An AnnData after ``diffvae.tl.integration``, or the table that it returns.
    title
        Title. None: the mean score of each side before and after.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    Array of the Axes: "batches mixed" on the left and, if types were given, "types kept" on the right. All axes go from
    0 to 1, and 1 is best. A small bar is the score after a permutation: of the batches, the best that mixing can
    reach; of the types, what chance keeps.

    Raises
    ------
    DataError
        If the AnnData has no scores of integration.
    ValueError
        If the table lacks a column or a row.

    Examples
    --------
    >>> import pandas as pd
    >>> import diffvae as dv
    >>> rows = [("batches mixed", "iLISI", 0.1, 0.6, 0.9), ("types kept", "kNN purity", 0.9, 0.88, 0.2)]
    >>> panels = dv.pl.integration(pd.DataFrame(rows, columns=["side", "score", "pca", "latent", "permuted"]))
    >>> [panel.get_title(loc="left") for panel in panels]
    ['Batches mixed', 'Types kept']
    """
    table = pd.DataFrame(result(data, "integration")["table"]) if isinstance(data, AnnData) else data
    if missing := [c for c in _COLUMNS if c not in table]:
        raise ValueError(f"data has no column {missing[0]!r}; pass the table of diffvae.tl.integration.")
    if table.empty:
        raise ValueError("data has no scores; pass the table of diffvae.tl.integration.")
    sides = list(dict.fromkeys(table["side"].astype(str)))
    rows = max(table["side"].value_counts())
    figure, panels = _style.new_figure(len(sides), len(sides), rows * _PITCH / 72 + 0.75)
    for ax, side in zip(panels, sides, strict=True):
        _side(ax, table[table["side"].astype(str) == side], side, rows)
    mean = table.groupby("side", sort=False, observed=True)[["pca", "latent"]].mean()
    said = [f"{side}: {row['pca']:.2f} → {row['latent']:.2f}" for side, row in mean.iterrows()]
    caption = title if title is not None else _capital(", ".join(said) + " (mean scores)")
    keys = [
        Line2D([], [], ls="", marker="o", ms=7, mfc="white", mec=_PCA, mew=1.8),
        Line2D([], [], ls="", marker="o", ms=8, color=_LATENT),
        Line2D([], [], ls="", marker="|", ms=11, mew=1.6, color=_style.INK),
    ]
    best = "permuted: best mixing" + (" (left), chance (right)" if len(sides) > 1 else "")
    _style.finish(figure, caption, keys, ["PCA, no integration", "latent space", best])
    return _style.array(panels)


def _side(ax: Axes, table: pd.DataFrame, side: str, rows: int) -> None:
    """Draw the scores of one side."""
    ax.set_xlim(-0.03, 1.03)
    ax.vlines([0.25, 0.5, 0.75, 1.0], -0.6, rows - 0.4, color="#E3E3E3", linewidth=0.7, zorder=0)
    whole: dict[str, Any] = {"clip_on": False}  # a marker at 0 or 1
    for y, row in enumerate(table.to_dict("records")):
        ax.hlines(y, *sorted((row["pca"], row["latent"])), color=_LATENT, linewidth=2.2, alpha=0.45, zorder=1)
        ax.plot(row["permuted"], y, ls="", marker="|", ms=13, mew=1.6, color=_style.INK, zorder=2, **whole)
        ax.plot(row["pca"], y, ls="", marker="o", ms=7, mfc="white", mec=_PCA, mew=1.8, zorder=3, **whole)
        ax.plot(row["latent"], y, ls="", marker="o", ms=8, color=_LATENT, zorder=4, **whole)
    _text.row_labels(ax, [str(name) for name in table["score"]], pitch=_PITCH, room=82)
    ax.set_ylim(rows - 0.4, -0.6)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.set_xlabel("better →", loc="right")
    ax.spines["left"].set_visible(False)
    _style.panel_title(ax, _capital(side))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
