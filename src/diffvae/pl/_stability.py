"""Stability: latent dimensions found again in repeated trainings, compared with random axes and PCA."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from diffvae._core.anndata import result
from diffvae._errors import DataError
from diffvae.pl import _style


class StabilityResult(Protocol):
    """What :func:`stability` reads of the result of ``diffvae.benchmark.stability``."""

    @property
    def dimensions(self) -> pd.DataFrame: ...
    @property
    def baseline(self) -> pd.DataFrame: ...
    @property
    def params(self) -> dict[str, Any]: ...


_BLUE: Final = _style.CATEGORIES[0]
_LOOKS: Final[dict[str, dict[str, Any]]] = {
    "in every training": {"marker": "o", "facecolors": _BLUE, "edgecolors": _BLUE},
    "in some": {"marker": "D", "facecolors": _style.CATEGORIES[4], "edgecolors": _style.INK},
    "in none": {"marker": "X", "facecolors": "white", "edgecolors": _style.INK},
}
"""Shapes differ as well as colours, for print without colour."""


@_style.plotted
def stability(
    found: AnnData | StabilityResult,
    *,
    title: str | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> np.ndarray:
    """Draw the similarity of each dimension to its match in repeated trainings, compared with random axes.

    Parameters
    ----------
    found
        Result of ``diffvae.benchmark.stability``, or the AnnData that holds it.
    title
        Title; None writes one.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    Array of Axes of a new figure, one for the model and, if it was tried, one for PCA with the same splits; save it
    with ``diffvae.pl.save(axes[0], "path")``. Living dimensions are sorted by similarity: the absolute cosine of their
    gene weights, averaged over trainings. A grey bar extends from the mean of the null to its 95th percentile; a
    dimension above its bar is found again.

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
        raise DataError("No dimension is alive, so there is nothing to draw.")
    figure, panels = _style.new_figure(len(living), len(living), 2.7)
    for ax, (name, table) in zip(panels, living.items(), strict=True):
        _draw(ax, table)
        ax.set_xlabel("living dimensions")
        _style.panel_title(ax, f"{name}: {table['recurrence'].mean():.0%} found again")
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
    caption = f"Dimensions found again in {n} repeated training{'s' * (n > 1)}"
    _style.finish(
        figure, title if title is not None else caption,
        [*keys, Line2D([], [], color=_style.GREY, lw=4)], [*names, f"{chance}: mean to 95th percentile"],
    )  # fmt: skip
    return _style.array(panels)


def _read(found: AnnData | StabilityResult) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    if isinstance(found, AnnData):
        stored = result(found, "stability")
        dimensions, baseline, parameters = (stored[key] for key in ("dimensions", "baseline", "params"))
    elif hasattr(found, "baseline") and hasattr(found, "dimensions"):
        dimensions, baseline, parameters = found.dimensions, found.baseline, found.params
    else:
        raise ValueError(
            f"found is a {type(found).__name__}; pass an AnnData or the result of diffvae.benchmark.stability."
        )
    return {str(parameters["model"]): pd.DataFrame(dimensions), "PCA, same splits": pd.DataFrame(baseline)}, dict(
        parameters
    )


def _draw(ax: Axes, table: pd.DataFrame) -> None:
    table = table.sort_values("similarity", ascending=False)
    place = np.arange(len(table))
    width = float(np.clip(110 / len(table), 1.0, 8.0))
    ax.vlines(place, table["null_similarity"], table["threshold"], color=_style.GREY, linewidth=width, zorder=1)
    recurrence = table["recurrence"].to_numpy(float)
    kinds = {"in every training": recurrence >= 1 - 1e-9, "in none": recurrence <= 1e-9}
    kinds["in some"] = ~(kinds["in every training"] | kinds["in none"])
    for name, look in _LOOKS.items():
        at = kinds[name]
        ax.scatter(place[at], table["similarity"][at], s=24, linewidths=0.7, zorder=3, **look)
    ax.set(ylim=(0, 1.04), xlim=(-1, len(table)))
    ax.set_xticks([])
