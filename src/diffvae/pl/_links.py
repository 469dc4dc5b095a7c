"""Where the links of a graph lead on the map of the cells."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from scipy import sparse

from diffvae import _keys, _links
from diffvae._adata import graph, result
from diffvae._errors import DataError
from diffvae._random import Rng, generator
from diffvae.pl import _data, _text
from diffvae.pl._palette import INK, Palette, colours
from diffvae.pl._panels import array, finish, new_figure
from diffvae.pl._style import WIDTH, slot, styled
from diffvae.pl._tsne import _map, _positions

_MUTED = 0.62
"""Share of white in the colours of the cells, so that the links stand out."""


class _Drawn(NamedTuple):
    """The links of one panel."""

    pairs: np.ndarray
    """Those that are drawn, from a source cell to another type, links x 2."""
    n: int
    """All that there are."""
    ends: np.ndarray
    """Number of them per type that they lead to."""


@styled
def links(
    adata: AnnData,
    groupby: str,
    *,
    source: str | None = None,
    use_rep: str = _keys.GRAPH_TSNE,
    max_links: int = 400,
    rng: Rng = 0,
    title: str | None = None,
    palette: Palette | None = None,
) -> np.ndarray:
    """Draw links between types on the map of the cells (Figure 4b of the paper): those given, and the new.

    Parameters
    ----------
    adata
        After ``diffvae.tl.links``, with a map: ``diffvae.tl.tsne(adata, use_rep="X_diffvae_graph",
        key_added="X_diffvae_graph_tsne")``.
    groupby
        Types in ``obs``.
    source
        Type whose links to other types are drawn, in the colour of the other type. None: all links between different
        types, in grey.
    use_rep
        Key of the map in ``obsm``.
    max_links
        Most links per panel: of those given a random choice, of those predicted the most probable.
    rng
        Seed of that choice.
    title
        Says what is seen; None writes it.
    palette
        As in ``diffvae.pl.tsne``, and by default the same colours.

    Returns
    -------
    Array of two Axes of a new figure, the input graph and the new links (called, and not in the input);
    ``diffvae.pl.save(axes[0], "path")`` writes it.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.pp.cell_graph(adata, k=3)
    >>> model = dv.model.GraphDiffVAE(n_latent=10, hidden=32).train(adata, max_epochs=5, progress=False)
    >>> _ = dv.tl.links(adata, model)
    >>> axes = dv.pl.links(adata, "cell_type", use_rep="X_diffvae_graph")  # two of the latent dimensions, for once
    >>> axes[0].get_title(loc="left").split(":")[0]
    'Input graph'
    """
    _data.check_adata(adata)
    if max_links < 1:
        raise ValueError(f"max_links is {max_links}; draw at least 1.")
    if use_rep == _keys.GRAPH_TSNE and use_rep not in adata.obsm:
        raise DataError(
            f"adata.obsm[{use_rep!r}] is missing; run diffvae.tl.tsne(adata, use_rep={_keys.GRAPH_LATENT!r}, "
            f"key_added={_keys.GRAPH_TSNE!r}) first."
        )
    xy = _positions(adata, use_rep)
    types = _data.groups(adata, groupby)
    names, codes = list(types.cat.categories), types.cat.codes.to_numpy()
    if source is not None and source not in set(types):
        raise DataError(
            f"source is {source!r}; the types of adata.obs[{groupby!r}] are {_data.listed(sorted(set(types)), 30)}."
        )
    of = colours(names, palette)
    given = graph(adata, result(adata, "links")["graph_key"])
    for key in (_keys.CALLED_LINKS, _keys.LINKS):
        if key not in adata.obsp:
            raise _data.missing("obsp", key, adata.obsp)
    new = _links.undirected(adata.obsp[_keys.CALLED_LINKS])
    new = new - new.multiply(given)
    new.eliminate_zeros()

    code = None if source is None else names.index(source)
    shown = [_between(found, codes, code, len(names)) for found in (given, new)]
    order = generator(rng, "links that are drawn").permutation(shown[0].n)
    probability = sparse.csr_matrix(adata.obsp[_keys.LINKS])
    value = np.asarray(probability[*shown[1].pairs.T]).ravel() if shown[1].n else np.empty(0)
    best = np.argsort(-value, kind="stable")
    chosen = [d._replace(pairs=d.pairs[o[:max_links]]) for d, o in zip(shown, (order, best), strict=True)]

    figure, panels = new_figure(2, 2, 0.5 * WIDTH)
    area = float(np.clip(0.33 * min(slot(panels[0], 0)) ** 2 / adata.n_obs, 0.5, 15))
    heads = ("Input graph", "Newly predicted")
    for panel, head, drawn, random in zip(panels, heads, chosen, (True, False), strict=True):
        _dots(panel, xy, types.to_numpy(dtype=str), source, of, area)
        colour = [of[names[c]] for c in codes[drawn.pairs[:, 1]]] if source is not None else INK
        thin = 0.7 if len(drawn.pairs) > 150 else 1.0
        panel.add_collection(
            LineCollection(list(xy[drawn.pairs]), colors=colour, linewidths=thin, alpha=0.55, zorder=3), autolim=False
        )
        _map(panel, _keys.TSNE if "tsne" in use_rep else use_rep)
        panel.set_title(f"{head}:\n{_count(drawn, random)}", fontsize=10, weight="normal", loc="left", pad=3)
    panels[1].set(xlabel="", ylabel="")
    sizes = _data.by_size(types)
    keys, labels = _legend(sizes, names, of, source, [d.ends for d in shown])
    told = "Links between cells of different types"
    if source is not None:
        told = f"{source}: links of its {_data.cells(sizes[source])} to other types"
    finish(figure, title if title is not None else told, keys, labels)
    return array(panels)


def _between(found: object, codes: np.ndarray, source: int | None, n_types: int) -> _Drawn:
    """Return the links between types, those of a source with its cells first."""
    pairs = _links.edges_of(found)
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
    """Draw the cells, muted, and those of the source, whole and on top."""
    pale = {t: [c + (1 - c) * _MUTED for c in to_rgb(colour)] for t, colour in of.items()}
    rest = np.flatnonzero(types != source)
    rest = rest[generator(0, "order of drawing").permutation(len(rest))]
    ax.scatter(xy[rest, 0], xy[rest, 1], c=[pale[t] for t in types[rest]], s=area, linewidths=0, rasterized=True)
    if source is not None:
        own = xy[types == source]
        ax.scatter(
            own[:, 0], own[:, 1], color=of[source], s=max(1.5 * area, 6), linewidths=0.25, edgecolors=INK, zorder=4,
            rasterized=True,
        )  # fmt: skip


def _count(drawn: _Drawn, random: bool) -> str:
    n = len(drawn.pairs)
    if n == drawn.n:
        return "no link between types" if not n else f"all {n:,} link{'s' * (n != 1)}" if n > 1 else "1 link"
    return f"{n:,} at random of {drawn.n:,} links" if random else f"the {n:,} most probable of {drawn.n:,}"


def _legend(
    sizes: dict[str, int], names: list[str], of: dict[str, str], source: str | None, ends: list[np.ndarray]
) -> tuple[list[Line2D], list[str]]:
    """Return a key per type; with a source, its links to each type in the input and among the new."""
    room = 72 * WIDTH / 2 - 40
    keys, labels = [], []
    for group in sorted(sizes, key=lambda g: g != source):
        given, new = (int(e[names.index(group)]) for e in ends)
        found = f": {given:,} given, {new:,} new" if given or new else ": none"
        tail = "" if source is None else ": source" if group == source else found
        ring: dict[str, Any] = {"mec": INK, "mew": 0.8} if group == source else {}
        keys.append(Line2D([], [], ls="", marker="o", color=of[group], ms=7, **ring))
        labels.append(_text.plain(_text.shorten(group, room - _text.width(tail)) + tail))
    return keys, labels
