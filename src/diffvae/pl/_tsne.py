"""Maps of cells: t-SNE coloured by group, number, gene or latent dimension."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from diffvae import _keys
from diffvae._errors import DataError
from diffvae._random import generator
from diffvae.pl import _data, _text
from diffvae.pl._style import (
    DIVERGING,
    GREY,
    SEQUENTIAL,
    Palette,
    axes_or_new,
    check_axes,
    colour_bar,
    colours,
    is_unassigned,
    slot,
    styled,
)

_AXES = {
    _keys.TSNE: "t-SNE",
    "X_tsne": "t-SNE",
    "X_umap": "UMAP",
    "X_pca": "PC",
    _keys.LATENT: "latent dimension",
}
_HEIGHT = 4.6


@styled
def tsne(
    adata: AnnData,
    *,
    color: str | int = _keys.CLUSTER,
    basis: str = _keys.TSNE,
    layer: str | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    legend: bool | Literal["on data"] = True,
    palette: Palette | None = None,
    size: float | None = None,
) -> Axes:
    """Draw each cell at its place on a map, coloured by group, number, gene or latent dimension.

    Parameters
    ----------
    adata
        Cells with ``obsm[basis]``.
    color
        What the colour of a dot means:

        - a column of ``obs``: groups, or numbers (centred at 0 if they have both signs; hollow where missing);
        - otherwise the name of a gene (from `layer`, or as in scanpy from ``raw`` where there is one, or from
          ``X``);
        - an integer: that dimension of ``obsm["X_diffvae"]``, counted from 0, on a scale centred at 0.

        The highest and lowest 1 % of the numbers share the colours at the ends of the scale, and arrows on the
        colour bar show it.
    basis
        Entry of ``obsm``; its first two columns are the axes.
    layer
        Entry of ``layers`` that a gene's values are taken from.
    ax
        Axes to draw into; None makes a figure of 6 inches, which grows in height if the legend needs it.
    title
        Title; None writes one.
    legend
        True: groups, largest first, with their number of cells, beside the map (below it if they are long).
        "on data": names beside their cells, if there is room for all; otherwise as True.
        False: none.
    palette
        Colours of the groups, a dictionary or a list in the order of the categories; for scanpy's, give
        ``adata.uns["<color>_colors"]``. The default colours are distinct for 32 groups, chosen for colour-blind
        readers, and depend only on a category's place among all categories, so they are the same in every figure.
        "unassigned", "unknown", "noise" and missing values are grey.
    size
        Area of a dot in square points; None lets all dots together cover a third of the map.

    Returns
    -------
    The Axes. Only the dots are rasterised in vector files.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import diffvae as dv
    >>> adata = anndata.AnnData(np.eye(4), obsm={"X_diffvae_tsne": np.eye(4)[:, :2]})
    >>> adata.obs["diffvae_cluster"] = ["0", "0", "1", "1"]
    >>> dv.pl.tsne(adata).get_title(loc="left")
    '2 clusters in 4 cells'
    """
    check_axes(ax)
    _data.check_adata(adata)
    xy = _positions(adata, basis)
    if legend not in (True, False, "on data"):
        raise ValueError(f"legend is {legend!r}; give True, False or 'on data'.")
    values, label = _values(adata, color, layer)
    room = slot(ax, _HEIGHT)
    ax = axes_or_new(ax, _HEIGHT)
    area = size if size is not None else float(np.clip(0.33 * min(room) ** 2 / adata.n_obs, 0.5, 40))
    dots: dict[str, Any] = {"s": area, "linewidths": 0, "rasterized": True}

    if isinstance(values.dtype, pd.CategoricalDtype):
        colour_of = colours(list(values.cat.categories), palette)
        sizes = _data.by_size(values)
        names = values.to_numpy(dtype=str)
        # In random order no group hides another; cells without a group lie behind.
        order = generator(0, "order of drawing").permutation(len(names))
        order = order[np.argsort([not is_unassigned(n) for n in names[order]], kind="stable")]
        ax.scatter(xy[order, 0], xy[order, 1], c=[colour_of[n] for n in names[order]], **dots)
        _map(ax, basis)
        _text.title(ax, title if title is not None else _title(str(color), sizes, len(names)))
        if legend == "on data":
            assigned = [g for g in sizes if not is_unassigned(g)]
            legend = not _text.group_names(ax, xy, names, assigned)
        if legend:
            labels = [f"{g} ({n:,})" for g, n in sizes.items()]
            _text.group_legend(ax, labels, [colour_of[g] for g in sizes])
    else:
        numbers = values.to_numpy(dtype=float)
        known = np.isfinite(numbers)
        hollow = dots | {"facecolors": "none", "edgecolors": GREY, "linewidths": 0.5}
        ax.scatter(xy[~known, 0], xy[~known, 1], **hollow)
        least, most = numbers[known].min(initial=0), numbers[known].max(initial=0)
        centred = not isinstance(color, str) or least < 0 < most
        low, high = _limits(numbers[known], centred)
        norm, cmap = Normalize(low, high), DIVERGING if centred else SEQUENTIAL
        order = np.flatnonzero(known)
        order = order[np.argsort(np.abs(numbers[order]) if centred else numbers[order], kind="stable")]
        ax.scatter(xy[order, 0], xy[order, 1], c=numbers[order], cmap=cmap, norm=norm, **dots)
        _map(ax, basis)
        if legend and known.any():
            colour_bar(ax, ScalarMappable(norm, cmap), label, values=numbers, right=True)
        _text.title(ax, title if title is not None else f"{_subject(color)} in {_data.cells(int(known.sum()))}")
    return ax


def _positions(adata: AnnData, basis: str) -> np.ndarray:
    if basis not in adata.obsm:
        raise _data.missing("obsm", basis, adata.obsm)
    xy = np.asarray(adata.obsm[basis], dtype=float)
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise DataError(f"adata.obsm[{basis!r}] has shape {xy.shape}; a map needs two columns.")
    return xy[:, :2]


def _values(adata: AnnData, color: str | int, layer: str | None) -> tuple[pd.Series, str]:
    """Return one value per cell and what the colour bar says."""
    if isinstance(color, int | np.integer) and not isinstance(color, bool):
        if _keys.LATENT not in adata.obsm:
            raise _data.missing("obsm", _keys.LATENT, adata.obsm)
        latent = np.asarray(adata.obsm[_keys.LATENT])
        if not 0 <= color < latent.shape[1]:
            raise ValueError(f"color is dimension {color}; the latent space has 0 to {latent.shape[1] - 1}.")
        return pd.Series(latent[:, color]), "posterior mean"
    if not isinstance(color, str):
        raise ValueError(f"color is {color!r}; give a column of adata.obs, a gene or the number of a latent dimension.")
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
    if low >= high:  # a gene seen in fewer than 1 % of the cells
        low, high = numbers.min(), numbers.max()
    return (float(low), float(high)) if low < high else (float(low), float(low) + 1)


def _subject(color: str | int) -> str:
    return color if isinstance(color, str) else f"Latent dimension {color}"


def _title(key: str, sizes: dict[str, int], n: int) -> str:
    assigned = [g for g in sizes if not is_unassigned(g)]
    rest = n - sum(sizes[g] for g in assigned)
    return f"{len(assigned)} {_data.noun(key, len(assigned))} in {_data.cells(n)}" + (
        f", {rest:,} unassigned" if rest else ""
    )


def _map(ax: Axes, basis: str) -> None:
    """Give the axes of a map equal scales and names, but no numbers, since distances on a map mean little."""
    ax.set_aspect("equal", adjustable="box")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    name = _AXES.get(basis, basis.removeprefix("X_"))
    ax.set_xlabel(_text.plain(f"{name} 1"), loc="left", labelpad=2)
    ax.set_ylabel(_text.plain(f"{name} 2"), loc="bottom", labelpad=2)
