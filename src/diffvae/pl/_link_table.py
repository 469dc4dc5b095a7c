"""Which types are linked more or less than chance, in the graph that went in and in the predicted one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from diffvae._adata import result
from diffvae._errors import DataError
from diffvae.pl import _data, _text
from diffvae.pl._adjacency import graph_name
from diffvae.pl._palette import DIVERGING, INK, ink_on
from diffvae.pl._panels import MAX_Q, array, finish, new_figure
from diffvae.pl._style import TEXT, WIDTH, styled

_TABLE = "link_table"
_COLUMNS = ["graph", "type_1", "type_2", "n_links", "log2_ratio", "q_value"]
_MOST = 4.0
"""log2 ratio from which a colour gets no stronger: 16 times as many links, or as few, as by chance."""
_PITCH = 1.25 * TEXT
"""Points from a row to the next that its name needs."""


@styled
def link_table(
    adata: AnnData,
    *,
    graphs: Sequence[str] | None = None,
    title: str | None = None,
) -> np.ndarray:
    r"""Draw types x types for each graph: how many more links join them than in random graphs of the same degrees.

    Parameters
    ----------
    adata
        After ``diffvae.tl.link_table``.
    graphs
        Those of its graphs to draw; None for all.
    title
        Says what is seen; None writes it.

    Returns
    -------
    Array of Axes, one per graph, of a new figure; ``diffvae.pl.save(axes[0], "path")`` writes it. Colour is the log2
    ratio of links to those expected, a star says q < 0.05. Where there's room, a number says how many links there are.
    A frame is around the links within a type, which similar cells have by construction.

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
    there = list(dict.fromkeys(table["graph"]))
    wanted = there if graphs is None else [graphs] if isinstance(graphs, str) else list(graphs)
    if not wanted or (unknown := [g for g in wanted if g not in there]):
        raise ValueError(f"graphs is {_data.listed(unknown if wanted else [])}; the table has {_data.listed(there)}.")
    types = list(dict.fromkeys([*table["type_1"], *table["type_2"]]))

    wide = 72 * WIDTH - 10
    label = min(max(map(_text.width, types)) + 9, 0.26 * wide)
    ncols = 2 if len(wanted) > 1 and (wide - label - 32) / 2 / len(types) >= _PITCH else 1
    label = max(min(label, wide - 16 - _PITCH * len(types)), 40.0)  # many types: rather short names than none
    across = (wide - label - 16 * ncols) / ncols / len(types)
    high = min(across, 34.0)
    feet = _text.column_plan(types, across, room=label)
    rows = -(-len(wanted) // ncols)
    figure, panels = new_figure(len(wanted), ncols, (high * len(types) + 48 + feet.height / rows) / 72)
    figure.set_figheight(figure.get_figheight() + 0.75)
    for i, (panel, name) in enumerate(zip(panels, wanted, strict=True)):
        own = table[table["graph"] == name]
        image = _pairs(panel, own, types, across)
        _text.row_labels(panel, types if i % ncols == 0 else [""] * len(types), room=label - 8, pitch=high)
        below = i + ncols >= len(wanted)
        _text.column_labels(panel, feet if below else feet._replace(labels=[""] * len(types)))
        panel.set_title(_told(name, own, across * len(types)), fontsize=10, weight="normal", loc="left", pad=4)
    beyond = np.abs(table.loc[table["graph"].isin(wanted), "log2_ratio"].to_numpy(float)).max() > _MOST
    bar = figure.colorbar(
        image, ax=panels, location="bottom", shrink=0.5, aspect=22, pad=0.03, extend="both" if beyond else "neither"
    )
    bar.set_label("log2 of links to those in random graphs of the same degrees")
    bar.outline.set_visible(False)
    keys: list[Artist] = [
        Line2D([], [], ls="", marker="$*$", color=INK, ms=6),
        Patch(facecolor="none", edgecolor=INK, linewidth=1),
    ]
    told = "Types that are linked more, or less, than chance"
    finish(figure, title if title is not None else told, keys, [f"beyond chance (q < {MAX_Q:g})", "within a type"])
    return array(panels)


def _pairs(ax: Axes, table: pd.DataFrame, types: Sequence[str], pitch: float) -> AxesImage:
    """Draw one graph: both halves of the symmetric matrix, stars, and numbers of links where all fit."""
    place = {t: i for i, t in enumerate(types)}
    ratio = np.full((len(types), len(types)), np.nan)
    for one, other, value in zip(table["type_1"], table["type_2"], table["log2_ratio"], strict=True):
        ratio[place[one], place[other]] = ratio[place[other], place[one]] = value
    shown = np.ma.masked_invalid(np.clip(ratio, -_MOST, _MOST))
    image = ax.imshow(shown, vmin=-_MOST, vmax=_MOST, cmap=DIVERGING, aspect="auto")
    numbers = max(_text.width(f"{n:,}*", weight="bold") for n in table["n_links"]) <= pitch - 2
    for row in table.itertuples():
        sure = row.q_value < MAX_Q
        text = f"{row.n_links:,}" * numbers + "*" * sure
        i, j = place[row.type_1], place[row.type_2]
        for y, x in {(i, j), (j, i)}:
            red, green, blue, _ = image.to_rgba(shown[y, x])
            if text and pitch >= TEXT:
                ax.text(
                    x, y if numbers else y + 0.12, text, color=ink_on((red, green, blue)), ha="center", va="center",
                    weight="bold" if sure else "normal",
                )  # fmt: skip
    for i in range(len(types)):
        ax.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, facecolor="none", edgecolor=INK, linewidth=0.8))
    ax.spines[:].set_visible(False)
    return image


def _told(name: str, table: pd.DataFrame, room: float) -> str:
    """Return the title of a panel: how many pairs of different types have more or fewer links than by chance."""
    other = table[table["type_1"] != table["type_2"]]
    sure = other["q_value"] < MAX_Q
    more, fewer = int((sure & (other["log2_ratio"] > 0)).sum()), int((sure & (other["log2_ratio"] < 0)).sum())
    told = f"{more} of {len(other)} pairs linked more, {fewer} less"
    return _text.plain(f"{_text.shorten(graph_name(name), room, 10)}\n{_text.wrap(told, room, size=10)}")
