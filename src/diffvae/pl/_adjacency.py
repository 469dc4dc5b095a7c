"""Who is linked with whom: matrices of cells x cells, in the order of their types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from scipy import sparse

from diffvae import _keys
from diffvae._adata import graph
from diffvae.pl import _cell_order, _data, _text
from diffvae.pl._matrix_layout import STRIP, draw_key, layout, mark_types
from diffvae.pl._palette import INK, SEQUENTIAL, Palette, colours
from diffvae.pl._panels import array
from diffvae.pl._style import TITLE, WIDTH, styled

_NAMES: Final = {
    _keys.CELL_GRAPH: "Input graph",
    _keys.CALLED_LINKS: "Predicted links",
    _keys.LINKS: "Most probable links",
}


@styled
def adjacency(
    adata: AnnData,
    groupby: str,
    *,
    graphs: Sequence[str] = (_keys.CELL_GRAPH, _keys.CALLED_LINKS),
    coexpression: bool = True,
    layer: str | None = _keys.UNIT,
    n_bins: int = 300,
    title: str | None = None,
    palette: Palette | None = None,
) -> np.ndarray:
    r"""Draw which cells are linked, type by type (Figures 4c, d and e of the paper): a square matrix per graph.

    The cells stand in the same order in all panels: by type, in the order of the categories, and within a type by the
    first principal component of its expression.

    Up to `n_bins` cells a dot is a pair of cells. Above, a dot is a bin of neighbouring cells against another, and its
    colour the share of their pairs that are linked, on a logarithmic scale, so that a single link shows.

    Parameters
    ----------
    adata
        Cells with `graphs` in ``obsp``.
    groupby
        Types in ``obs``.
    graphs
        Keys in ``obsp``. A nonzero entry is a link, without direction.
    coexpression
        Also draw :math:`|r_{ij}|`, Pearson's r of the expression of cells i and j, from at most 20 cells per bin; no
        matrix of cells x cells is made of it. The 1 % of dots at either end share the colours there.
    layer
        Expression, for the order and for r; None for X.
    n_bins
        Most rows and columns of a panel.
    title
        Says what is seen; None writes it.
    palette
        As in ``diffvae.pl.tsne``, and by default the same colours.

    Returns
    -------
    Array of Axes of a new figure; ``diffvae.pl.save(axes[0], "path")`` writes it. A title says which share of
    the links is within a cell's own type, and by chance: if each cell kept its number of links but not its partners.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.pp.cell_graph(adata, k=3)
    >>> axes = dv.pl.adjacency(adata, "cell_type", graphs=["cell_graph"])
    >>> axes[1].get_title(loc="left")
    'Co-expression, |r|'
    """
    _data.check_adata(adata)
    names = [graphs] if isinstance(graphs, str) else list(graphs)
    if not names and not coexpression:
        raise ValueError("graphs is empty and coexpression is False, so there is nothing to draw; give a graph.")
    if n_bins < 2:
        raise ValueError(f"n_bins is {n_bins}; give at least 2.")
    types = _data.groups(adata, groupby)
    links = [graph(adata, name) for name in names]
    x = _cell_order.expression_rows(adata, layer)
    order = _cell_order.by_type(types.cat.codes.to_numpy(), x)
    bins = _cell_order.bins(adata.n_obs, n_bins)
    exact = len(bins) == adata.n_obs + 1
    sizes = [(g, int(n)) for g, n in types.value_counts(sort=False).items() if n]
    of = colours(list(types.cat.categories), palette)

    figure, panels, key = layout(len(links) + coexpression, [g for g, _ in sizes])
    shares = [_cell_order.binned_links(found, order, bins) for found in links]
    norm, cmap = _scale(shares, exact)
    for panel, name, found, share in zip(panels, names, links, shares, strict=False):
        _matrix(panel, np.ma.masked_equal(share, 0), norm, cmap)
        _head(panel, _told(name, found, types.cat.codes.to_numpy(), key.side))
    bars: list[tuple[ScalarMappable, str, str]] = []
    if links and not exact:
        bars.append((ScalarMappable(norm, cmap), "share of pairs linked (log)", "neither"))
    if coexpression:
        r = _cell_order.binned_correlation(x, order, bins)
        low, high = np.percentile(r, [1, 99])
        scale = Normalize(low, max(high, low + 1e-6))
        _matrix(panels[-1], r, scale, SEQUENTIAL)
        _head(panels[-1], "Co-expression, |r|")
        bars.append(
            (ScalarMappable(scale, SEQUENTIAL), "|Pearson's r|" if exact else "|Pearson's r|, mean of pairs", "both")
        )
    for i, panel in enumerate(panels):
        unnamed = mark_types(panel, sizes, of, named=i % 2 == 0)
    draw_key(figure, key, bars, [(g, of[g]) for g in unnamed], exact and bool(links))
    noun = f"{len(sizes)} {_data.noun(groupby, len(sizes))}"
    told = f"{'Links between' if links else 'Co-expression of'} {_data.cells(adata.n_obs)}, in the order of {noun}"
    told = _text.wrap(title if title is not None else told, 72 * WIDTH - 10, size=TITLE, weight="bold")
    figure.text(0.01, 1 - 4 / (72 * figure.get_figheight()), _text.plain(told), va="top", fontsize=TITLE, weight="bold")
    return array(panels)


def _scale(shares: Sequence[np.ndarray], exact: bool) -> tuple[Normalize, Colormap]:
    """Return one scale for all graphs."""
    if exact or not shares:
        return Normalize(0, 1), ListedColormap([INK])
    every = np.concatenate([s[s > 0] for s in shares])
    # the lightest colours are for nothing: a single link must show
    dark = ListedColormap(SEQUENTIAL(np.linspace(0.3, 1, 256)))
    return LogNorm(every.min(), max(every.max(), 1.001 * every.min())), dark


def _matrix(ax: Axes, values: np.ndarray, norm: Normalize, cmap: Colormap) -> None:
    ax.imshow(
        values, norm=norm, cmap=cmap, extent=(0, 1, 1, 0), aspect="auto", interpolation="antialiased",
        interpolation_stage="rgba",
    )  # fmt: skip
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color=INK, linewidth=0.6)


def _head(ax: Axes, text: str) -> None:
    """Set the title of a panel, above the strip of types."""
    ax.set_title(_text.plain(text), fontsize=10, weight="normal", loc="left", pad=STRIP + 5)


def _told(name: str, found: sparse.csr_matrix, codes: np.ndarray, room: float) -> str:
    """Return the title of a graph's panel: its links, and how many of them are within a type, beside chance."""
    degree = np.diff(found.indptr)
    rows, columns = found.nonzero()
    own = float((codes[rows] == codes[columns]).mean())
    chance = float(((np.bincount(codes, degree) / degree.sum()) ** 2).sum())
    called, n = graph_name(name), found.nnz // 2
    tail = f": {n:,}" + " links" * ("links" not in called)
    return _text.shorten(called, room - _text.width(tail, 10), 10) + f"{tail}\nown type {own:.0%}, chance {chance:.0%}"


def graph_name(key: str) -> str:
    """Return what a graph of ``obsp`` is called in a figure."""
    return _NAMES.get(key, key)
