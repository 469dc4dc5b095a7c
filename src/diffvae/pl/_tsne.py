"""Maps of cells: t-SNE coloured by group, number, gene or latent dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from diffvae import _keys
from diffvae._core.validate import Choice, Either, Flag, Rule, check
from diffvae._random import generator
from diffvae.pl import _data, _style, _text

_HEIGHT = 4.6  # inches
_PANEL = {1: 3.4, 2: 2.7}
"""Height of each of several maps, by the number of columns."""
RULES: dict[str, Rule] = {"legend": Either(Flag(), Choice("on data"))}


@overload
def tsne(
    adata: AnnData,
    *,
    color: str | int = _keys.CLUSTER,
    basis: str = _keys.TSNE,
    layer: str | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    legend: bool | Literal["on data"] = True,
    palette: _style.Palette | None = None,
    size: float | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes: ...
@overload
def tsne(
    adata: AnnData,
    *,
    color: Sequence[str | int],
    basis: str = _keys.TSNE,
    layer: str | None = None,
    ax: None = None,
    title: Sequence[str] | None = None,
    legend: bool | Literal["on data"] = True,
    palette: _style.Palette | None = None,
    size: float | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> np.ndarray: ...
@_style.plotted
def tsne(
    adata: AnnData,
    *,
    color: str | int | Sequence[str | int] = _keys.CLUSTER,
    basis: str = _keys.TSNE,
    layer: str | None = None,
    ax: Axes | None = None,
    title: str | Sequence[str] | None = None,
    legend: bool | Literal["on data"] = True,
    palette: _style.Palette | None = None,
    size: float | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes | np.ndarray:
    """Plot the cells on a t-SNE or another map, coloured by group, number, gene or latent dimension.

    Parameters
    ----------
    adata
        Cells with ``obsm[basis]``.
    color
        What to colour the cells by:

        - a column of ``obs`` with groups, or with numbers (centred at 0 if they have both signs; cells without a value
          are hollow);
        - a gene, from `layer`, else (as in scanpy) from ``raw`` if present, else from ``X``;
        - an integer: this dimension of ``obsm["X_diffvae"]``, counted from 0, centred at 0.

        A list draws one panel for each of its entries. Colour scales run from the 1st to the 99th percentile. Arrows on
        the colour bar mark values beyond.
    basis
        Key in ``obsm``; the first two columns are drawn.
    layer
        Key in ``layers`` for the expression of a gene.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title that says what is drawn. With
        a list of colours, `ax` must be None and `title` a list of as many.
    legend
        True: a legend of the groups, largest first, with their number of cells, next to the map (below it if names are
        long). "on data": names next to their cells if all fit, otherwise a legend. False: none.
    palette
        Colours of the groups: a dictionary, or a list in the order of the categories. ``adata.uns["<color>_colors"]``
        gives scanpy's colours. The default has 32 distinct colours, chosen for colour-blind readers. A colour depends
        only on a category's position among all categories, so it is the same in every figure and on the page of a
        result. A type that is also a name in ``obs["diffvae_cell_type"]`` has the colour of that name. "unassigned",
        "unknown", "noise" and missing values are grey.
    size
        Area of a cell in square points. None: together the cells cover about a third of the map.
    show
        True shows the figure by ``matplotlib.pyplot.show``. None and False leave that to you: pyplot has the figure, so
        that ``pyplot.show`` and ``pyplot.savefig`` find it, and a notebook shows it below the cell.
    save
        Path of a file to write as ``diffvae.pl.save`` does, which also closes the figure: png and svg, or the format
        that the suffix names (such as "map.pdf"). None writes none.

    Returns
    -------
    The Axes, or an array of the Axes of all panels if `color` is a list. In vector files only the cells are rasterised.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import diffvae as dv
    >>> adata = anndata.AnnData(np.eye(4), obsm={"X_diffvae_tsne": np.eye(4)[:, :2]})
    >>> adata.obs["diffvae_cluster"] = ["0", "0", "1", "1"]
    >>> dv.pl.tsne(adata).get_title(loc="left")
    '2 clusters in 4 cells'
    """
    check(RULES, legend=legend)
    _data.check_adata(adata)
    xy = _data.positions(adata, basis)
    if isinstance(color, str) or not isinstance(color, Sequence | np.ndarray | pd.Index):
        return _panel(adata, color, xy, basis, layer, ax, title, legend, palette, size)
    wanted = list(color)
    titles = [None] * len(wanted) if title is None else title
    if not wanted or ax is not None or isinstance(titles, str) or len(titles) != len(wanted):
        raise ValueError(
            f"color is a list of {len(wanted)}: pass at least one, no ax, and as title None or a list of as many."
        )
    # an error comes before anything is drawn; a legend beside its map needs the whole width
    grouped = [isinstance(_values(adata, one, layer)[0].dtype, pd.CategoricalDtype) for one in wanted]
    ncols = 1 if len(wanted) == 1 or (legend is True and any(grouped)) else 2
    _, panels = _style.new_figure(len(wanted), ncols, _HEIGHT if len(wanted) == 1 else _PANEL[ncols])
    for panel, one, name in zip(panels, wanted, titles, strict=True):
        name = _text.shorten(str(_subject(one)), 72 * _style.WIDTH / ncols - 60, 10) if name is None else name
        _panel(adata, one, xy, basis, layer, panel, "", legend, palette, size)
        _style.panel_title(panel, name)
    return _style.array(panels)


def _panel(
    adata: AnnData,
    color: Any,
    xy: np.ndarray,
    basis: str,
    layer: str | None,
    ax: Axes | None,
    title: Any,
    legend: bool | Literal["on data"],
    palette: _style.Palette | None,
    size: float | None,
) -> Axes:
    """Draw one map."""
    values, label = _values(adata, color, layer)
    room = _style.slot(ax, _HEIGHT)
    ax = _style.axes_or_new(ax, _HEIGHT)
    area = size if size is not None else float(np.clip(0.33 * min(room) ** 2 / adata.n_obs, 0.5, 40))
    dots: dict[str, Any] = {"s": area, "linewidths": 0, "rasterized": True}

    if isinstance(values.dtype, pd.CategoricalDtype):
        colour_of = _data.colours_of(adata, str(color), palette)
        sizes = _data.by_size(values)
        names = values.to_numpy(dtype=str)
        # The order is random so that no group hides another; unassigned cells are drawn first.
        order = generator(0, "order of drawing").permutation(len(names))
        order = order[np.argsort([not _style.is_unassigned(n) for n in names[order]], kind="stable")]
        ax.scatter(xy[order, 0], xy[order, 1], c=[colour_of[n] for n in names[order]], **dots)
        _text.map_axes(ax, basis)
        _text.title(ax, title if title is not None else _title(str(color), sizes, len(names)))
        if legend == "on data":
            assigned = [g for g in sizes if not _style.is_unassigned(g)]
            legend = not _text.group_names(ax, xy, names, assigned)
        if legend:
            labels = [f"{g} ({n:,})" for g, n in sizes.items()]
            _text.group_legend(ax, labels, [colour_of[g] for g in sizes])
    else:
        numbers = values.to_numpy(dtype=float)
        known = np.isfinite(numbers)
        hollow = dots | {"facecolors": "none", "edgecolors": _style.GREY, "linewidths": 0.5}
        ax.scatter(xy[~known, 0], xy[~known, 1], **hollow)
        least, most = numbers[known].min(initial=0), numbers[known].max(initial=0)
        centred = not isinstance(color, str) or least < 0 < most
        low, high = _limits(numbers[known], centred)
        norm, cmap = Normalize(low, high), _style.DIVERGING if centred else _style.SEQUENTIAL
        order = np.flatnonzero(known)
        order = order[np.argsort(np.abs(numbers[order]) if centred else numbers[order], kind="stable")]
        ax.scatter(xy[order, 0], xy[order, 1], c=numbers[order], cmap=cmap, norm=norm, **dots)
        _text.map_axes(ax, basis)
        if legend and known.any():
            _style.colour_bar(ax, ScalarMappable(norm, cmap), label, values=numbers, right=True)
        _text.title(ax, title if title is not None else f"{_subject(color)} in {_data.cells(int(known.sum()))}")
    return ax


def _values(adata: AnnData, color: str | int, layer: str | None) -> tuple[pd.Series, str]:
    """Return one value per cell, and the label of the colour bar."""
    if isinstance(color, int | np.integer) and not isinstance(color, bool):
        if _keys.LATENT not in adata.obsm:
            raise _data.missing("obsm", _keys.LATENT, adata.obsm)
        latent = np.asarray(adata.obsm[_keys.LATENT])
        if not 0 <= color < latent.shape[1]:
            raise ValueError(f"color is dimension {color}; the latent space has dimensions 0 to {latent.shape[1] - 1}.")
        return pd.Series(latent[:, color]), "posterior mean"
    if not isinstance(color, str):
        raise ValueError(
            f"color is {color!r}; it must be a column of adata.obs, a gene or a latent dimension (integer)."
        )
    if color in adata.obs or color in (_keys.CLUSTER, _keys.CELL_TYPE):
        column = adata.obs.get(color)
        if column is not None and pd.api.types.is_numeric_dtype(column) and column.dtype != bool:
            return column, color
        return _data.groups(adata, color), color
    if color not in adata.var_names and (adata.raw is None or color not in adata.raw.var_names):
        raise _data.unknown_gene(adata, color)
    label = "expression" if layer is None else f"expression, layer {layer!r}"
    return pd.Series(_data.expression(adata, [color], layer)[:, 0]), label


def _limits(numbers: np.ndarray, centred: bool) -> tuple[float, float]:
    if not numbers.size:
        return 0.0, 1.0
    if centred:
        most = float(np.percentile(np.abs(numbers), 99)) or float(np.abs(numbers).max()) or 1.0
        return -most, most
    low, high = np.percentile(numbers, [1, 99])
    if low >= high:  # such as a gene expressed in fewer than 1 % of the cells
        low, high = numbers.min(), numbers.max()
    return (float(low), float(high)) if low < high else (float(low), float(low) + 1)


def _subject(color: str | int) -> str:
    return color if isinstance(color, str) else f"Latent dimension {color}"


def _title(key: str, sizes: dict[str, int], n: int) -> str:
    assigned = [g for g in sizes if not _style.is_unassigned(g)]
    rest = n - sum(sizes[g] for g in assigned)
    return f"{len(assigned)} {_data.noun(key, len(assigned))} in {_data.cells(n)}" + (
        f", {rest:,} unassigned" if rest else ""
    )
