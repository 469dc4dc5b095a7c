"""Latent dimensions and the groups that they encode."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from diffvae import _keys
from diffvae._core.validate import Choice, Optional, Rule, Whole, check
from diffvae._errors import DataError
from diffvae.pl import _data, _style, _text

_TABLE = "latent_dimensions"
_SIDES = {"+": "+", "-": "−"}
RULES: dict[str, Rule] = {"value": Choice("share", "odds_ratio"), "n_top": Optional(Whole(1)), "n_dims": Whole(1)}


@_style.plotted
def latent_dimensions(
    adata: AnnData,
    *,
    groupby: str = _keys.CLUSTER,
    value: Literal["share", "odds_ratio"] = "share",
    n_top: int | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes:
    r"""Draw a heat map of groups x latent dimensions: how strongly each dimension encodes each group.

    Let :math:`D_k` be the cells at least one standard deviation from the mean of dimension k (equation 3 of the paper).
    Colour is the share :math:`|D_k \cap C| / |D_k|` of these cells that belong to group C, or the log2 odds ratio of
    membership in :math:`D_k` and in C (0 is chance).

    Parameters
    ----------
    adata
        With ``uns["diffvae"]["latent_dimensions"]``, from ``diffvae.tl.latent_dimensions``.
    groupby
        Column of ``obs`` for which the table was computed.
    value
        "share", or "odds_ratio", which does not favour large groups.
    n_top
        Number of dimensions per group, best first, among those chosen for it. None: as many as stay legible.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title that says what is drawn.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    The Axes. Columns are dimensions chosen for at least one group, ordered by the group that ranks them highest, so
    that the chosen entries run down the diagonal. "+" and "−" mark chosen entries and give the side of the mean on
    which the group lies.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> dv.tl.embed(adata, model)
    >>> _ = dv.tl.latent_dimensions(adata, "cell_type")
    >>> ax = dv.pl.latent_dimensions(adata, groupby="cell_type")
    """
    _data.check_adata(adata)
    check(RULES, value=value, n_top=n_top)
    table = _data.table(adata, _TABLE, ["group", "dimension", value, "side", "rank", "chosen"], groupby)
    rows = [g for g in _data.groups(adata, groupby).cat.categories if g in set(table["group"])]
    label = min(max(map(_text.width, rows)), _text.ROW_LABEL)
    most = max(1, int((_style.slot(ax, 0)[0] - label - 20) / (_style.TEXT * 1.4)))
    dimensions = _columns(table, rows, n_top, most)
    if not dimensions:
        raise DataError(f"No dimension is chosen for any group; run diffvae.tl.{_TABLE}(adata, {groupby!r}, max_q=1).")

    ax, height = _style.matrix_axes(ax, len(rows))
    grid = table.pivot(index="group", columns="dimension", values=value).loc[rows, dimensions].to_numpy(float)
    if value == "share":
        drawn, limits, cmap = grid, (0.0, max(np.nanmax(grid), 1e-9)), _style.SEQUENTIAL
        label_of_scale = "share of the dimension's outlying cells"
    else:
        with np.errstate(divide="ignore"):
            drawn = np.log2(grid)
        finite = np.abs(drawn[np.isfinite(drawn)])
        most_odds = min(float(finite.max(initial=0)), 6.0) or 1.0  # colours saturate at 64 to 1
        limits, cmap, label_of_scale = (-most_odds, most_odds), _style.DIVERGING, "odds ratio (log2)"
    low, high = limits
    image = ax.imshow(np.clip(drawn, low, high), vmin=low, vmax=high, cmap=cmap, aspect="auto")
    column = {d: i for i, d in enumerate(dimensions)}
    marked = table[table["chosen"].astype(bool) & table["dimension"].isin(dimensions)]
    for group, d, side in zip(marked["group"], marked["dimension"], marked["side"].astype(str), strict=True):
        x, y = column[int(d)], rows.index(group)
        red, green, blue, _ = image.to_rgba(np.clip(drawn[y, x], low, high))
        colour = _style.ink_on((red, green, blue))
        ax.text(x, y, _SIDES.get(side, side), color=colour, ha="center", va="center", weight="bold", in_layout=False)
    _text.row_labels(ax, rows, pitch=height / len(rows))
    _text.column_labels(ax, [str(d) for d in dimensions])
    ax.set_xlabel(
        "latent dimension\n+ −  chosen for the group, and on which side of the mean",
        linespacing=1.3,
        fontsize=_style.TEXT,
    )
    ax.spines[:].set_visible(False)
    _style.colour_bar(ax, image, label_of_scale, values=drawn, percent=value == "share")
    _text.title(ax, title if title is not None else f"Latent dimensions that encode each {_data.noun(groupby)}")
    _style.fit_height(ax, height)
    return ax


def _columns(table: pd.DataFrame, rows: list[str], n_top: int | None, most: int) -> list[int]:
    """Return the dimensions to show, each next to those of the group that ranks it highest."""
    by = "odds_ratio" if "odds_ratio" in table else "share"
    chosen = table[table["chosen"].astype(bool)].sort_values("rank")
    chosen = chosen.assign(
        place=chosen.groupby("group").cumcount(), row=chosen["group"].map({g: i for i, g in enumerate(rows)})
    )
    if n_top is None:
        shown = [chosen.loc[chosen["place"] < n, "dimension"].nunique() for n in range(1, len(chosen) + 1)]
        n_top = max([n for n, columns in enumerate(shown, 1) if columns <= most], default=1)
    best = chosen[chosen["place"] < n_top].sort_values(["place", by], ascending=[True, False])
    best = best.drop_duplicates("dimension").sort_values(["row", "place"])
    return [int(d) for d in best["dimension"]]


@_style.plotted
def dimension_composition(
    adata: AnnData,
    *,
    group: str,
    groupby: str = _keys.CLUSTER,
    n_dims: int = 10,
    ax: Axes | None = None,
    title: str | None = None,
    palette: _style.Palette | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes:
    r"""Draw the composition of the outlying cells of each dimension that was chosen for a group.

    There is one bar per dimension k chosen for `group`, most relevant first. It shows the groups among :math:`D_k`, the
    cells at least one standard deviation from the mean of dimension k (equation 3 of the paper). `group` comes first;
    the dimension is enriched in `group` if its part ends to the right of the dashed line, its share of all cells.

    Parameters
    ----------
    adata
        With ``uns["diffvae"]["latent_dimensions"]``, from ``diffvae.tl.latent_dimensions``.
    group
        One of the groups.
    groupby
        Column of ``obs`` for which the table was computed.
    n_dims
        Largest number of dimensions.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title that says what is drawn.
    palette
        Colours as in ``diffvae.pl.tsne``.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    The Axes.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> dv.tl.embed(adata, model)
    >>> _ = dv.tl.latent_dimensions(adata, "cell_type")
    >>> ax = dv.pl.dimension_composition(adata, group="CD14+ Monocyte", groupby="cell_type")
    """
    _data.check_adata(adata)
    check(RULES, n_dims=n_dims)
    table = _data.table(adata, _TABLE, ["group", "dimension", "n_cells", "share", "side", "rank", "chosen"], groupby)
    column, group = _data.groups(adata, groupby), str(group)
    if group not in set(table["group"]):
        raise ValueError(f"group is {group!r}; the groups are {_data.listed(table['group'].unique(), 30)}.")
    chosen = table[(table["group"] == group) & table["chosen"].astype(bool)].sort_values("rank").head(n_dims)
    if chosen.empty:
        raise DataError(
            f"No dimension is chosen for group {group!r}; run diffvae.tl.{_TABLE}(adata, {groupby!r}, max_q=1)."
        )
    shares = table.pivot(index="dimension", columns="group", values="share").loc[chosen["dimension"]]

    sizes = _data.by_size(column)
    order = [group, *(g for g in sizes if g != group and g in shares)]
    of = _data.colours_of(adata, groupby, palette)
    ax = _style.axes_or_new(ax, 6)
    left = np.zeros(len(chosen))
    for g in order:
        part = shares[g].to_numpy(float)
        ax.barh(range(len(chosen)), part, left=left, height=0.78, color=of[g], edgecolor="white", linewidth=0.3)
        left = left + part
    chance = sizes.get(group, 0) / adata.n_obs
    ax.axvline(chance, color=_style.INK, linestyle=(0, (4, 2)), linewidth=1.4, zorder=3)
    names = [f"{d} ({_SIDES.get(s, s)})" for d, s in zip(chosen["dimension"], chosen["side"].astype(str), strict=True)]
    _text.row_labels(ax, names, pitch=15)
    for y, n in enumerate(chosen["n_cells"]):
        ax.text(1.012, y, f"{int(n):,}", va="center", fontsize=_style.TEXT, transform=ax.get_yaxis_transform())
    ax.text(1.012, 1.01, "cells", va="bottom", fontsize=_style.TEXT, transform=ax.transAxes)
    ax.text(
        chance, 1.01, f"{chance:.0%} of all cells", fontsize=_style.TEXT, va="bottom",
        ha="left" if chance < 0.5 else "right", transform=ax.get_xaxis_transform(),
    )  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(len(chosen) - 0.45, -0.55), ylabel="latent dimension (side)")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("share of the dimension's outlying cells")
    ax.spines[["left", "bottom"]].set_visible(False)
    keys = [Line2D([], [], ls="", marker="s", color=of[g], ms=7) for g in order]
    _text.legend_below(ax, keys, [f"{g} ({sizes.get(g, 0):,})" for g in order])
    dims = "dimension" if len(chosen) == 1 else f"{len(chosen)} dimensions"
    caption = f"{_data.group_name(groupby, group)}: outlying cells of its {dims}"
    _text.title(ax, title if title is not None else caption, pad=20)
    _style.fit_height(ax, max(115, 17.0 * len(chosen)))
    return ax
