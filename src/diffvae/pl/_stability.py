"""Which dimensions come back when the model is trained again, beside random axes and PCA."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from diffvae._core.anndata import result
from diffvae._errors import DataError
from diffvae.pl._style import CATEGORIES, GREY, INK, array, finish, new_figure, panel_title, styled


class StabilityResult(Protocol):
    """What :func:`stability` reads of the result of ``diffvae.benchmark.stability``."""

    @property
    def dimensions(self) -> pd.DataFrame: ...
    @property
    def baseline(self) -> pd.DataFrame: ...
    @property
    def params(self) -> dict[str, Any]: ...


_BLUE: Final = CATEGORIES[0]
_LOOKS: Final[dict[str, dict[str, Any]]] = {
    "in every training": {"marker": "o", "facecolors": _BLUE, "edgecolors": _BLUE},
    "in some": {"marker": "D", "facecolors": CATEGORIES[4], "edgecolors": INK},
    "in none": {"marker": "X", "facecolors": "white", "edgecolors": INK},
}
"""Shapes as well as colours, so that print without colour tells them apart."""


@styled
def stability(found: AnnData | StabilityResult, *, title: str | None = None) -> np.ndarray:
    """Draw how similar each dimension is to its match in further trainings, beside what random axes reach.

    Parameters
    ----------
    found
        What ``diffvae.benchmark.stability`` returned, or cells into which it wrote.
    title
        Title; None writes one.

    Returns
    -------
    Array of Axes of a new figure: the model, and PCA under the same splits where it was tried.
    ``diffvae.pl.save(axes[0], "path")`` writes it. Living dimensions stand in the order of their similarity (absolute
    cosine of their genes, mean over the trainings); a grey bar goes from the mean of the null to its 95th percentile,
    so a dimension is found again where it lies above its bar.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=5).train(adata)
    >>> found = dv.benchmark.stability(adata, model, n=2, cluster_method=None, progress=False)
    >>> [axes.get_title("left") for axes in dv.pl.stability(found)]
    ['PCA: 100% found again']
    """
    tables, parameters = _read(found)
    living = {name: table[table["alive"].astype(bool)] for name, table in tables.items() if len(table)}
    living = {name: table for name, table in living.items() if len(table)}
    if not living:
        raise DataError("No dimension is alive, so there is none to be found again.")
    figure, panels = new_figure(len(living), len(living), 2.7)
    for ax, (name, table) in zip(panels, living.items(), strict=True):
        _draw(ax, table)
        ax.set_xlabel("living dimensions")
        panel_title(ax, f"{name}: {table['recurrence'].mean():.0%} found again")
    panels[0].set_ylabel("similarity to the match")
    for ax in panels[1:]:
        ax.set_yticklabels([])
    n = int(parameters["n"])
    chance = "shuffled genes" if parameters["null"] == "permutation" else "random axes"
    keys = [
        Line2D([], [], ls="", marker=k["marker"], mfc=k["facecolors"], mec=k["edgecolors"], ms=6)
        for k in _LOOKS.values()
    ]
    names = [f"found again {name}" for name in _LOOKS]
    caption = f"Dimensions found again in {n} further training{'s' * (n > 1)}"
    finish(
        figure, title if title is not None else caption,
        [*keys, Line2D([], [], color=GREY, lw=4)], [*names, f"{chance}: mean to 95th percentile"],
    )  # fmt: skip
    return array(panels)


def _read(found: AnnData | StabilityResult) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    if isinstance(found, AnnData):
        stored = result(found, "stability")
        own, baseline, parameters = (stored[key] for key in ("dimensions", "baseline", "params"))
    elif hasattr(found, "baseline") and hasattr(found, "dimensions"):
        own, baseline, parameters = found.dimensions, found.baseline, found.params
    else:
        raise ValueError(
            f"found is a {type(found).__name__}; give an AnnData or what diffvae.benchmark.stability returns."
        )
    return {str(parameters["model"]): pd.DataFrame(own), "PCA, same splits": pd.DataFrame(baseline)}, dict(parameters)


def _draw(ax: Axes, table: pd.DataFrame) -> None:
    table = table.sort_values("similarity", ascending=False)
    place = np.arange(len(table))
    width = float(np.clip(110 / len(table), 1.0, 8.0))
    ax.vlines(place, table["null_similarity"], table["threshold"], color=GREY, linewidth=width, zorder=1)
    recurrence = table["recurrence"].to_numpy(float)
    kinds = {"in every training": recurrence >= 1 - 1e-9, "in none": recurrence <= 1e-9}
    kinds["in some"] = ~(kinds["in every training"] | kinds["in none"])
    for name, look in _LOOKS.items():
        at = kinds[name]
        ax.scatter(place[at], table["similarity"][at], s=24, linewidths=0.7, zorder=3, **look)
    ax.set(ylim=(0, 1.04), xlim=(-1, len(table)))
    ax.set_xticks([])
