"""Adjacency and correlation matrices of the cells, sorted by type."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from scipy import sparse

from diffvae import _keys
from diffvae._core import graphs
from diffvae._core.anndata import graph
from diffvae._core.io.matrix import matrix_of, source, values
from diffvae._core.validate import Rule, Whole, check
from diffvae._errors import DataError
from diffvae.pl import _data, _style, _text

_NAMES: Final = {
    _keys.CELL_GRAPH: "Input graph",
    _keys.CALLED_LINKS: "Predicted links",
    _keys.LINKS: "Most probable links",
}
PER_BIN: Final = 20
"""Cells sampled per bin for correlations: 400 pairs per dot, and at most 6,000 cells in 300 bins."""
_BLOCK: Final = 1024
_STRIP: Final = 0.035
"""Width of the strips that mark types, relative to the panel."""
RULES: dict[str, Rule] = {"n_bins": Whole(2)}


@_style.plotted
def adjacency(
    adata: AnnData,
    groupby: str,
    *,
    graphs: Sequence[str] = (_keys.CELL_GRAPH, _keys.CALLED_LINKS),
    coexpression: bool = True,
    layer: str | None = _keys.UNIT,
    n_bins: int = 300,
    title: str | None = None,
    palette: _style.Palette | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> np.ndarray:
    r"""Draw the adjacency matrix of each graph, with cells sorted by type (Figures 4c, d and e of the paper).

    All panels have the cells in the same order: by type, in the order of the categories, and within a type by the first
    principal component of its expression.

    With up to `n_bins` cells, each dot is a pair of cells. With more cells, each dot is a pair of bins of consecutive
    cells, and its colour is the share of linked pairs on a logarithmic scale, so that single links stay visible.

    Parameters
    ----------
    adata
        With `graphs` in ``obsp``.
    groupby
        Column of ``obs`` with the types.
    graphs
        Keys in ``obsp``. Nonzero entries are undirected links.
    coexpression
        Also draw :math:`|r_{ij}|`, Pearson's correlation of the expression of cells i and j, from at most 20 cells per
        bin; no matrix of cells x cells is computed. Colours run from the 1st to the 99th percentile.
    layer
        Key in ``layers`` of the expression, for the order and for r; None for X.
    n_bins
        Largest number of rows and columns.
    title
        Title; None writes one.
    palette
        Colours as in ``diffvae.pl.tsne``.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    Array of Axes of a new figure; save it with ``diffvae.pl.save(axes[0], "path")``. Titles give the share of links
    within a type, and the share expected by chance if cells keep their numbers of links but not their partners.

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
    check(RULES, n_bins=n_bins)
    _data.check_adata(adata)
    names = [graphs] if isinstance(graphs, str) else list(graphs)
    if not names and not coexpression:
        raise ValueError("graphs is empty and coexpression is False, so there is nothing to draw; pass a graph.")
    types = _data.groups(adata, groupby)
    codes = types.cat.codes.to_numpy()
    links = [graph(adata, name) for name in names]
    x = expression_rows(adata, layer)
    order = by_type(codes, x)
    bins = equal_bins(adata.n_obs, n_bins)
    exact = len(bins) == adata.n_obs + 1
    sizes = {g: int(n) for g, n in types.value_counts(sort=False).items() if n}
    colour_of = _data.colours_of(adata, groupby, palette)

    figure, panels, key = _layout(len(links) + coexpression)
    shares = [binned_links(one, order, bins) for one in links]
    norm, cmap = _scale(shares, exact)
    for panel, name, one, share in zip(panels, names, links, shares, strict=False):
        _matrix(panel, np.ma.masked_equal(share, 0), norm, cmap, _heading(name, one, codes))
    bars: list[tuple[ScalarMappable, str, str]] = []
    if links and not exact:
        bars.append((ScalarMappable(norm, cmap), "share of pairs linked (log)", "neither"))
    if coexpression:
        r = binned_correlation(x, order, bins)
        low, high = np.percentile(r, [1, 99])
        scale = Normalize(low, max(high, low + 1e-6))
        _matrix(panels[-1], r, scale, _style.SEQUENTIAL, "Co-expression, |r|")
        label = "|Pearson's r|" + ", mean of pairs" * (not exact)
        bars.append((ScalarMappable(scale, _style.SEQUENTIAL), label, "both"))
    for panel in panels:
        _strips(panel, list(sizes.values()), [colour_of[g] for g in sizes])
    for bar in bars:
        _colour_bar(figure, key or panels, *bar)
    caption = f"{'Links between' if links else 'Co-expression of'} {_data.cells(adata.n_obs)}"
    caption += f", sorted by {len(sizes)} {_data.noun(groupby, len(sizes))}"
    _style.figure_title(figure, caption if title is None else title)
    named = _name_types(panels, sizes)
    keys = [(_style.INK, "a link")] * (exact and bool(links)) + [(colour_of[g], g) for g in sizes if g not in named]
    if keys:
        place: dict[str, Any] = {"loc": "upper left"} if key else {"loc": "outside lower center", "ncols": 2}
        (key or figure).legend(
            [Patch(color=c) for c, _ in keys], [_text.plain(_text.shorten(name, 115)) for _, name in keys],
            handlelength=0.9, labelspacing=0.25, borderaxespad=0.2, fontsize=_style.TEXT, **place,
        )  # fmt: skip
    _style.fit_height(panels[0], _style.axes_size(panels[0])[0], -(-len(panels) // 2))
    return _style.array(panels)


def _layout(n: int) -> tuple[Figure, list[Axes], Axes | None]:
    """Return a figure with `n` panels, two per row, and the empty Axes for the legend if `n` is odd."""
    rows = -(-n // 2)
    figure = Figure(figsize=(_style.WIDTH, 3 * rows + 3), layout="constrained")
    places = [figure.add_subplot(rows, 2, i + 1, axes_class=_style.NotebookAxes) for i in range(2 * rows)]
    for place in places[:n]:
        _style.axes_or_new(place, 0)
    key = places[n] if n % 2 else None
    if key is not None:
        key.set_axis_off()
    return figure, places[:n], key


def _scale(shares: Sequence[np.ndarray], exact: bool) -> tuple[Normalize, Colormap]:
    """Return one colour scale for all graphs."""
    if exact or not shares:
        return Normalize(0, 1), ListedColormap([_style.INK])
    every = np.concatenate([s[s > 0] for s in shares])
    # without the lightest colours, so that single links are visible
    dark = ListedColormap(_style.SEQUENTIAL(np.linspace(0.3, 1, 256)))
    return LogNorm(every.min(), max(every.max(), 1.001 * every.min())), dark


def _matrix(ax: Axes, values: np.ndarray, norm: Normalize, cmap: Colormap, heading: str) -> None:
    ax.imshow(
        values, norm=norm, cmap=cmap, extent=(0, 1, 1, 0), aspect="auto", interpolation="antialiased",
        interpolation_stage="rgba",
    )  # fmt: skip
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color=_style.INK, linewidth=0.6)
    _style.panel_title(ax, heading, pad=12)


def _strips(ax: Axes, sizes: Sequence[int], fill: Sequence[str]) -> None:
    """Mark the types by coloured strips along two sides of a matrix, and by lines between them."""
    ends = np.cumsum(sizes) / np.sum(sizes)
    for start, end, colour in zip([0.0, *ends], ends, fill, strict=False):
        look: dict[str, Any] = {"color": colour, "linewidth": 0, "transform": ax.transAxes, "clip_on": False}
        ax.add_patch(Rectangle((-_STRIP - 0.01, 1 - end), _STRIP, end - start, **look))
        ax.add_patch(Rectangle((start, 1.01), end - start, _STRIP, **look))
    for v in ends[:-1]:
        ax.axhline(v, color=_style.INK, linewidth=0.3, alpha=0.5)
        ax.axvline(v, color=_style.INK, linewidth=0.3, alpha=0.5)


def _name_types(panels: Sequence[Axes], sizes: dict[str, int]) -> set[str]:
    """Label types next to the left panels, largest first, unless labels would overlap; return the labelled types."""
    ends = np.cumsum(list(sizes.values())) / sum(sizes.values())
    middles = dict(zip(sizes, (ends + np.array([0.0, *ends[:-1]])) / 2, strict=True))
    labels = {g: _text.plain(_text.shorten(g, 96)) for g in sizes}
    for panel in panels[::2]:
        panel.set_yticks(list(middles.values()), list(labels.values()))
        panel.tick_params(axis="y", length=0, pad=2 + 1.3 * _style.TEXT)
    pitch = 1.3 * _style.TEXT / _style.axes_size(panels[0])[0]
    named: list[str] = []
    for name in sorted(sizes, key=lambda g: -sizes[g]):
        if all(abs(middles[name] - middles[other]) >= pitch for other in named):
            named.append(name)
    for panel in panels[::2]:
        panel.set_yticks([middles[g] for g in named], [labels[g] for g in named])
    return set(named)


def _colour_bar(figure: Figure, beside: Axes | list[Axes], drawn: ScalarMappable, label: str, extend: str) -> None:
    """Draw a colour bar in the empty Axes, or below all panels."""
    place: dict[str, Any] = (
        {"location": "bottom", "shrink": 0.5, "aspect": 22}
        if isinstance(beside, list)
        else {"location": "top", "aspect": 18}
    )
    bar = figure.colorbar(drawn, ax=beside, extend=extend, pad=0.03, **place)
    bar.ax.xaxis.set_ticks_position("bottom")
    bar.ax.xaxis.set_label_position("bottom")
    bar.set_label(label, fontsize=_style.TEXT, color=_style.INK, labelpad=1)
    bar.outline.set_visible(False)
    if isinstance(drawn.norm, LogNorm):
        bar.set_ticks(_log_ticks(*drawn.get_clim()))
        bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g}%"))
        bar.ax.xaxis.set_minor_locator(NullLocator())
    else:
        bar.ax.xaxis.set_major_locator(MaxNLocator(4))
    bar.ax.tick_params(labelsize=_style.TEXT, length=2, pad=2)


def _heading(name: str, links: sparse.csr_matrix, codes: np.ndarray) -> str:
    """Return the title of a graph's panel: its number of links, and the share within a type with that by chance."""
    degree = np.diff(links.indptr)
    rows, columns = links.nonzero()
    within = float((codes[rows] == codes[columns]).mean())
    chance = float(((np.bincount(codes, degree) / degree.sum()) ** 2).sum())
    label, n = graph_name(name), links.nnz // 2
    tail = f": {n:,}" + " links" * ("links" not in label)
    return f"{_text.shorten(label, 150, 10)}{tail}\nwithin type {within:.0%}, chance {chance:.0%}"


def graph_name(key: str) -> str:
    """Return the display name of a graph of ``obsp``."""
    return _NAMES.get(key, key)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return at most five round numbers in a range, roughly even on a logarithmic scale.

    Examples
    --------
    >>> _log_ticks(0.01, 0.6), _log_ticks(0.03, 0.3), _log_ticks(0.06, 0.09)
    ([0.01, 0.03, 0.1, 0.3], [0.05, 0.1, 0.2], [0.09])
    """
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{d}e{k}") for k in decades for d in digits if low <= float(f"{d}e{k}") <= high]
        if len(ticks) <= 5:
            break
    return ticks or [high]


def expression_rows(adata: AnnData, layer: str | None) -> Any:
    """Return the expression, cells x genes, in a form that allows fast selection of rows."""
    x = matrix_of(adata, layer)
    x = x.tocsr() if sparse.issparse(x) else x
    if not np.isfinite(values(x)).all():
        raise DataError(f"{source(layer)} holds NaN or infinite values; diffvae.pp.check(adata) shows where.")
    return x


def by_type(codes: np.ndarray, x: Any) -> np.ndarray:
    """Return the cells sorted by type, and within a type by the first principal component of its expression."""
    from sklearn.decomposition import PCA

    parts = []
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        expression = x[rows]
        spans = expression.max(axis=0) - expression.min(axis=0)
        varies = len(rows) > 2 and x.shape[1] > 2 and bool(abs(spans).sum() > 0)
        if varies:
            place = PCA(1, svd_solver="arpack", random_state=0).fit_transform(expression.astype(np.float64))[:, 0]
            rows = rows[np.argsort(place, kind="stable")]
        parts.append(rows)
    return np.concatenate(parts)


def equal_bins(n_cells: int, n_bins: int) -> np.ndarray:
    """Return the edges of `n_bins` bins of about equal numbers of cells."""
    return np.linspace(0, n_cells, min(n_bins, n_cells) + 1).round().astype(np.int64)


def binned_links(graph: sparse.csr_matrix, order: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the share of linked pairs of different cells for each pair of bins: bins x bins."""
    n = len(edges) - 1
    size = np.diff(edges)
    bin_of = np.empty(len(order), dtype=np.int64)
    bin_of[order] = np.repeat(np.arange(n), size)
    pairs = graphs.edges_of(graph)
    one, other = bin_of[pairs[:, 0]], bin_of[pairs[:, 1]]
    linked = np.bincount(one * n + other, minlength=n * n).reshape(n, n).astype(float)
    linked += linked.T  # ordered pairs, here and in `possible`
    possible = np.outer(size, size) - np.diag(size)
    return np.divide(linked, possible, out=np.zeros_like(linked), where=possible > 0)


def binned_correlation(x: Any, order: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the mean |Pearson's r| between the cells of each pair of bins: bins x bins.

    Bins with more than `PER_BIN` cells are represented by `PER_BIN` evenly spaced cells.
    """
    spans = pairwise(edges.tolist())
    chosen = [np.unique(np.linspace(a, b - 1, min(PER_BIN, b - a)).round().astype(int)) for a, b in spans]
    starts = np.cumsum([0, *map(len, chosen)])
    rows = order[np.concatenate(chosen)]
    z = x[rows]
    z = (z.toarray() if sparse.issparse(z) else np.asarray(z)).astype(np.float32)
    z -= z.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(z, axis=1, keepdims=True)
    z = np.divide(z, norm, out=np.zeros_like(z), where=norm > 0)
    size = np.diff(starts)
    mean = np.empty((len(size), len(size)))
    step = max(1, _BLOCK // max(size))
    for first in range(0, len(size), step):  # r is symmetric: half of the blocks are enough
        last, here = min(first + step, len(size)), starts[first]
        r = np.abs(z[here : starts[last]] @ z[here:].T)
        across = np.add.reduceat(r, starts[first:-1] - here, axis=1)
        total = np.add.reduceat(across, starts[first:last] - here, axis=0, dtype=np.float64)
        mean[first:last, first:] = total / np.outer(size[first:last], size[first:])
        mean[first:, first:last] = mean[first:last, first:].T
    return mean
