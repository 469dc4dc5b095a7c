"""Links between cell types: on the map, and in a table compared with chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from scipy import sparse

from diffvae import _keys
from diffvae._core import graphs
from diffvae._core.anndata import graph, result
from diffvae._core.validate import Rule, Whole, check
from diffvae._errors import DataError
from diffvae._random import Rng, generator
from diffvae.pl import _data, _style, _text
from diffvae.pl._adjacency import graph_name

_TABLE = "link_table"
_COLUMNS = ["graph", "type_1", "type_2", "n_links", "log2_ratio", "q_value"]
_MOST = 4.0
"""Largest log2 ratio of the colour scale: 16 times as many links as expected."""
_PITCH = 1.25 * _style.TEXT
"""Smallest row height in points."""
_SIDE_BY_SIDE = 12
"""Largest number of types for two panels side by side."""
_MUTED = 0.62
"""Share of white in the colours of the cells, so that the links stand out."""
RULES: dict[str, Rule] = {"max_links": Whole(1)}


class _Drawn(NamedTuple):
    """The links of one panel."""

    pairs: np.ndarray
    """Links to be drawn, from a cell of the source to a cell of another type: links x 2."""
    n: int
    """Number of all links, including those that are not drawn."""
    ends: np.ndarray
    """Number of links to each type."""


@_style.plotted
def links(
    adata: AnnData,
    groupby: str,
    *,
    source: str | None = None,
    use_rep: str = _keys.GRAPH_TSNE,
    max_links: int = 400,
    rng: Rng = 0,
    title: str | None = None,
    palette: _style.Palette | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> np.ndarray:
    """Draw links between types on the map of the cells: those given and those newly predicted (Figure 4b of the paper).

    Parameters
    ----------
    adata
        After ``diffvae.tl.links``, with a map: ``diffvae.tl.tsne(adata, use_rep="X_diffvae_graph",
        key_added="X_diffvae_graph_tsne")``.
    groupby
        Column of ``obs`` with the types.
    source
        Type whose links to other types are drawn, in the colour of the other type. None: all links between different
        types, in dark grey.
    use_rep
        Key of the map in ``obsm``.
    max_links
        Largest number of links per panel: a random sample of the given links, and the most probable new links.
    rng
        Seed of the sample.
    title
        Title; None writes one.
    palette
        Colours as in ``diffvae.pl.tsne``.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    Array of two Axes of a new figure: the input graph, and the new links (called links that are not in the input). Save
    it with ``diffvae.pl.save(axes[0], "path")``.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.pp.cell_graph(adata, k=3)
    >>> model = dv.model.GraphDiffVAE(n_latent=10, hidden=32).train(adata, max_epochs=5, progress=False)
    >>> _ = dv.tl.links(adata, model)
    >>> axes = dv.pl.links(adata, "cell_type", use_rep="X_diffvae_graph")  # the first two latent dimensions
    >>> axes[0].get_title(loc="left").split(":")[0]
    'Input graph'
    """
    _data.check_adata(adata)
    check(RULES, max_links=max_links)
    xy = _data.positions(adata, use_rep)
    types = _data.groups(adata, groupby)
    names, codes = list(types.cat.categories), types.cat.codes.to_numpy()
    if source is not None and source not in set(types):
        raise DataError(
            f"source is {source!r}; the types of adata.obs[{groupby!r}] are {_data.listed(sorted(set(types)), 30)}."
        )
    of = _data.colours_of(adata, groupby, palette)
    given = graph(adata, result(adata, "links")["graph_key"])
    for key in (_keys.CALLED_LINKS, _keys.LINKS):
        if key not in adata.obsp:
            raise _data.missing("obsp", key, adata.obsp)
    new = graphs.undirected(adata.obsp[_keys.CALLED_LINKS])
    new = new - new.multiply(given)
    new.eliminate_zeros()

    code = None if source is None else names.index(source)
    shown = [_between(links, codes, code, len(names)) for links in (given, new)]
    order = generator(rng, "links that are drawn").permutation(shown[0].n)
    probability = sparse.csr_matrix(adata.obsp[_keys.LINKS])
    value = np.asarray(probability[*shown[1].pairs.T]).ravel() if shown[1].n else np.empty(0)
    best = np.argsort(-value, kind="stable")
    chosen = [d._replace(pairs=d.pairs[o[:max_links]]) for d, o in zip(shown, (order, best), strict=True)]

    figure, panels = _style.new_figure(2, 2, 0.5 * _style.WIDTH)
    area = float(np.clip(0.33 * min(_style.slot(panels[0], 0)) ** 2 / adata.n_obs, 0.5, 15))
    heads = ("Input graph", "Newly predicted")
    for panel, head, drawn, random in zip(panels, heads, chosen, (True, False), strict=True):
        _dots(panel, xy, types.to_numpy(dtype=str), source, of, area)
        colour = [of[names[c]] for c in codes[drawn.pairs[:, 1]]] if source is not None else _style.INK
        thin = 0.7 if len(drawn.pairs) > 150 else 1.0
        panel.add_collection(
            LineCollection(list(xy[drawn.pairs]), colors=colour, linewidths=thin, alpha=0.55, zorder=3), autolim=False
        )
        panel.set_anchor("N")
        _text.map_axes(panel, use_rep)
        _style.panel_title(panel, f"{head}:\n{_count(drawn, random)}")
    panels[1].set(xlabel="", ylabel="")
    sizes = _data.by_size(types)
    keys, labels = _legend(sizes, names, of, source, [d.ends for d in shown])
    caption = "Links between cells of different types"
    if source is not None:
        caption = f"{source}: links of its {_data.cells(sizes[source])} to other types"
    _style.finish(figure, title if title is not None else caption, keys, labels)
    return _style.array(panels)


def _between(links: object, codes: np.ndarray, source: int | None, n_types: int) -> _Drawn:
    """Return the links between different types; with a source, its cell comes first in each pair."""
    pairs = graphs.edges_of(links)
    one, other = codes[pairs].T
    wanted = one != other
    if source is not None:
        wanted &= (one == source) | (other == source)
        turned = other == source
        pairs = np.where(turned[:, None], pairs[:, ::-1], pairs)
    pairs = pairs[wanted]
    ends = np.bincount(codes[pairs[:, 1]] if source is not None else codes[pairs].ravel(), minlength=n_types)
    return _Drawn(pairs, len(pairs), ends)


def _dots(ax: Axes, xy: np.ndarray, types: np.ndarray, source: str | None, of: dict[str, str], area: float) -> None:
    """Draw the cells in muted colours, those of the source on top in full colour."""
    pale = {t: [c + (1 - c) * _MUTED for c in to_rgb(colour)] for t, colour in of.items()}
    rest = np.flatnonzero(types != source)
    rest = rest[generator(0, "order of drawing").permutation(len(rest))]
    ax.scatter(xy[rest, 0], xy[rest, 1], c=[pale[t] for t in types[rest]], s=area, linewidths=0, rasterized=True)
    if source is not None:
        x, y = xy[types == source].T
        ax.scatter(
            x, y, color=of[source], s=max(1.5 * area, 6), linewidths=0.25, edgecolors=_style.INK,
            zorder=4, rasterized=True,
        )  # fmt: skip


def _count(drawn: _Drawn, random: bool) -> str:
    n = len(drawn.pairs)
    if n == drawn.n:
        return "no link between types" if not n else f"all {n:,} link{'s' * (n != 1)}" if n > 1 else "1 link"
    return f"{n:,} at random of {drawn.n:,} links" if random else f"the {n:,} most probable of {drawn.n:,}"


def _legend(
    sizes: dict[str, int], names: list[str], of: dict[str, str], source: str | None, ends: list[np.ndarray]
) -> tuple[list[Line2D], list[str]]:
    """Return a legend entry per type; with a source, the entry counts its given and new links to the type."""
    room = 72 * _style.WIDTH / 2 - 40
    keys, labels = [], []
    for group in sorted(sizes, key=lambda g: g != source):
        given, new = (int(e[names.index(group)]) for e in ends)
        counts = f": {given:,} given, {new:,} new" if given or new else ": none"
        tail = "" if source is None else ": source" if group == source else counts
        ring: dict[str, Any] = {"mec": _style.INK, "mew": 0.8} if group == source else {}
        keys.append(Line2D([], [], ls="", marker="o", color=of[group], ms=7, **ring))
        labels.append(_text.plain(_text.shorten(group, room - _text.width(tail)) + tail))
    return keys, labels


@_style.plotted
def link_table(
    adata: AnnData,
    *,
    graphs: Sequence[str] | None = None,
    title: str | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> np.ndarray:
    r"""Draw a heat map of types x types for each graph: links compared with random graphs of the same degrees.

    Parameters
    ----------
    adata
        After ``diffvae.tl.link_table``.
    graphs
        Graphs of the table to draw; None for all.
    title
        Title; None writes one.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    Array of Axes, one per graph, of a new figure; save it with ``diffvae.pl.save(axes[0], "path")``. Colour is the log2
    ratio of observed to expected links, and a star marks q < 0.05. Numbers of links are written if they fit. Entries
    within a type are framed: similar cells are linked by construction.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.pp.cell_graph(adata, k=3)
    >>> _ = dv.tl.link_table(adata, "cell_type", graphs=["cell_graph"], n_null=10)
    >>> dv.pl.link_table(adata)[0].get_title(loc="left").split("\n")[0]
    'Input graph'
    """
    _data.check_adata(adata)
    table = pd.DataFrame(result(adata, _TABLE))
    if absent := [c for c in _COLUMNS if c not in table]:
        raise DataError(
            f"adata.uns['diffvae'][{_TABLE!r}] has no column {_data.listed(absent)}; "
            f"run diffvae.tl.{_TABLE}(adata, groupby) again."
        )
    table = table.astype({"graph": str, "type_1": str, "type_2": str})
    available = list(dict.fromkeys(table["graph"]))
    wanted = available if graphs is None else [graphs] if isinstance(graphs, str) else list(graphs)
    if not wanted or not set(wanted) <= set(available):
        raise ValueError(f"graphs is {_data.listed(wanted)}; the table has {_data.listed(available)}.")
    types = list(dict.fromkeys([*table["type_1"], *table["type_2"]]))

    ncols = 2 if len(wanted) > 1 and len(types) <= _SIDE_BY_SIDE else 1
    rows = -(-len(wanted) // ncols)
    room = 110.0 if len(types) <= 2 * _SIDE_BY_SIDE else 60.0
    figure, panels = _style.new_figure(len(wanted), ncols, 4)
    empty = [""] * len(types)
    for i, panel in enumerate(panels):  # all row labels first, since they set the width of the columns
        panel.set(xlim=(-0.5, len(types) - 0.5), xticks=[])
        _text.row_labels(panel, types if i % ncols == 0 else empty, room=room, pitch=_PITCH)
    across = _style.axes_size(panels[0])[0] / len(types)
    for i, (panel, name) in enumerate(zip(panels, wanted, strict=True)):
        rows_of_graph = table[table["graph"] == name]
        image = _heat_map(panel, rows_of_graph, types, across)
        _text.column_labels(panel, types if i + ncols >= len(wanted) else empty, room=room)
        _style.panel_title(panel, _counts(name, rows_of_graph, across * len(types)))
    ratios = table.loc[table["graph"].isin(wanted), "log2_ratio"].to_numpy(float)
    _style.colour_bar(panels, image, "log2 ratio of links to random graphs of the same degrees", values=ratios)
    keys: list[Artist] = [
        Line2D([], [], ls="", marker="$*$", color=_style.INK, ms=6),
        Patch(facecolor="none", edgecolor=_style.INK, linewidth=1),
    ]
    names = [f"beyond chance (q < {_style.MAX_Q:g})", "within a type"]
    _style.finish(figure, title if title is not None else "Types linked more, or less, than by chance", keys, names)
    _style.fit_height(panels[0], min(across, 34.0) * len(types), rows)
    return _style.array(panels)


def _heat_map(ax: Axes, table: pd.DataFrame, types: Sequence[str], pitch: float) -> AxesImage:
    """Draw the symmetric matrix of one graph, with stars, and with numbers of links if all fit."""
    place = {t: i for i, t in enumerate(types)}
    ratio = np.full((len(types), len(types)), np.nan)
    for one, other, value in zip(table["type_1"], table["type_2"], table["log2_ratio"], strict=True):
        ratio[place[one], place[other]] = ratio[place[other], place[one]] = value
    shown = np.ma.masked_invalid(np.clip(ratio, -_MOST, _MOST))
    image = ax.imshow(shown, vmin=-_MOST, vmax=_MOST, cmap=_style.DIVERGING, aspect="auto")
    numbers = bool(max(_text.width(f"{n:,}*", weight="bold") for n in table["n_links"]) <= pitch - 2)
    for row in table.itertuples():
        starred = row.q_value < _style.MAX_Q
        text = f"{row.n_links:,}" * numbers + "*" * starred
        i, j = place[row.type_1], place[row.type_2]
        for y, x in {(i, j), (j, i)}:
            red, green, blue, _ = image.to_rgba(shown[y, x])
            if text and pitch >= _style.TEXT:
                ax.text(
                    x, y if numbers else y + 0.12, text, color=_style.ink_on((red, green, blue)), ha="center",
                    va="center", weight="bold" if starred else "normal", in_layout=False,
                )  # fmt: skip
    for i in range(len(types)):
        ax.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, facecolor="none", edgecolor=_style.INK, linewidth=0.8))
    ax.spines[:].set_visible(False)
    return image


def _counts(name: str, table: pd.DataFrame, room: float) -> str:
    """Return a panel title that counts the pairs of different types with more or fewer links than by chance."""
    other = table[table["type_1"] != table["type_2"]]
    significant = other["q_value"] < _style.MAX_Q
    more, fewer = (int((significant & (s * other["log2_ratio"] > 0)).sum()) for s in (1, -1))
    counts = f"{more} of {len(other)} pairs linked more, {fewer} less"
    return f"{_text.shorten(graph_name(name), room, 10)}\n{_text.wrap(counts, room, size=10)}"
