"""What the progenitors are called by their links, beside what raw correlation would have called them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from diffvae import _keys
from diffvae._core.anndata import result
from diffvae._errors import DataError
from diffvae.pl import _data, _text
from diffvae.pl._style import INK, TEXT, WIDTH, Palette, array, colours, finish, new_figure, panel_title, styled
from diffvae.pl._tsne import _map, _positions

_TABLE = "commitment"
_KINDS: Final = ("biased", "bipotent", "multipotent", "uncommitted")
_SHAPES: Final = {"biased": "o", "bipotent": "D", "multipotent": "^", "uncommitted": "X"}
_ROWS = 10
"""Calls that get a row, and a look, of their own; rarer ones share one per kind."""
_REST, _RAW = "#DADADA", "#9A9A9A"


@styled
def commitment(
    adata: AnnData,
    *,
    use_rep: str = _keys.TSNE,
    title: str | None = None,
    palette: Palette | None = None,
) -> np.ndarray:
    """Draw what each progenitor is called by its links: on the map, and how many are called what.

    Parameters
    ----------
    adata
        After ``diffvae.tl.commitment``, with a map.
    use_rep
        Key of the map in ``obsm``.
    title
        Title; None writes one.
    palette
        As in ``diffvae.pl.tsne``, and by default the same colours.

    Returns
    -------
    Array of two Axes of a new figure, map and bars; ``diffvae.pl.save(axes[0], "path")`` writes it. The mark beside a
    bar is the mark of its cells on the map: a circle in the colour of the type to which a cell is biased, a diamond for
    two types (filled with the first, rimmed with the second), a triangle for more, a cross for none. Rare calls are one
    row per kind. The grey bar counts the calls that raw Pearson neighbours give, without a model.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.pp.cell_graph(adata, k=3)
    >>> model = dv.model.GraphDiffVAE(n_latent=10, hidden=32).train(adata, max_epochs=5, progress=False)
    >>> _ = dv.tl.links(adata, model)
    >>> _ = dv.tl.commitment(adata, "CD34+", "cell_type")
    >>> axes = dv.pl.commitment(adata, use_rep="X_diffvae_graph")  # two of the latent dimensions, for once
    >>> [label.get_text() for label in axes[1].get_xticklabels()][0]
    '0'
    """
    _data.check_adata(adata)
    table, parameters = pd.DataFrame(result(adata, _TABLE)), result(adata, f"{_TABLE}_params")
    if _keys.COMMITMENT not in adata.obs:
        raise _data.missing("obs", _keys.COMMITMENT, adata.obs.columns)
    calls = adata.obs[_keys.COMMITMENT].astype(object)
    source, groupby = str(parameters["source"]), str(parameters["groupby"])
    own = calls.notna().to_numpy()
    if int(own.sum()) != len(table) or table.empty:
        raise DataError(
            f"adata.obs[{_keys.COMMITMENT!r}] calls {_data.cells(int(own.sum()))}, the table {len(table):,}; "
            f"run diffvae.tl.commitment(adata, {source!r}, {groupby!r}) again."
        )
    xy = _positions(adata, use_rep)
    counts = pd.DataFrame({k: table[k].astype(str).value_counts() for k in ("call", "call_pearson")})
    counts = counts.fillna(0).astype(int)
    rows = _rows(counts)
    looks = {row: _look(row, colours(list(_data.groups(adata, groupby).cat.categories), palette)) for row in rows}

    # The bars decide the height: a pitch for two lines of label.
    figure, panels = new_figure(2, 2, max(2.6, 26 * len(looks) / 72 + 0.7))
    left, right = panels
    area = float(np.clip(0.33 * (0.5 * 72 * WIDTH) ** 2 / adata.n_obs, 0.5, 20))
    left.scatter(xy[~own, 0], xy[~own, 1], c=_REST, s=area, linewidths=0, rasterized=True)
    of_row = {call: row for row, calls in rows.items() for call in calls}
    called = calls[own].astype(str).map(of_row).to_numpy()
    for row in reversed(looks):  # those that most cells have lie below the rarer ones
        places = xy[own][called == row]
        left.scatter(
            places[:, 0], places[:, 1], s=float(np.clip(2.5 * area, 12, 30)), zorder=3, rasterized=True, **looks[row]
        )
    _map(left, _keys.TSNE if "tsne" in use_rep else use_rep)
    left.set_anchor("NW")
    panel_title(left, _text.shorten(f"Called: {_data.cells(int(own.sum()))} of {source}", 190, 10))
    numbers = pd.DataFrame({k: [counts.loc[c, k].sum() for c in rows.values()] for k in counts}, index=list(rows))
    _bars(right, numbers, looks)
    keys = [Patch(color=INK), Patch(color=_RAW), Line2D([], [], ls="", marker="o", color=_REST, ms=7)]
    finish(
        figure, title if title is not None else _say(source, table), keys,
        ["by predicted links", "by raw Pearson neighbours", "other cells"],
    )  # fmt: skip
    return array(panels)


def _kind(call: str) -> str:
    return call.split(":", 1)[0]


def _types(call: str) -> str:
    return call.split(": ", 1)[1] if ": " in call else ""


def _rows(counts: pd.DataFrame) -> dict[str, list[str]]:
    """Return the rows of the bars, and the calls of each: rare ones go together, kind by kind."""
    order = sorted(counts.index, key=lambda c: (-int(counts.loc[c].max()), c))
    kept = [c for c in order if c != "uncommitted"][:_ROWS]
    rows: dict[str, list[str]] = {}
    for kind in _KINDS:
        mine = [c for c in order if _kind(c) == kind]
        rows |= {c: [c] for c in mine if c in kept or kind == "uncommitted"}
        rare = [c for c in mine if c not in kept and kind != "uncommitted"]
        if len(rare) == 1:
            rows[rare[0]] = rare
        elif rare:
            rows[f"other {kind}" if len(rare) < len(mine) else kind] = rare
    return rows


def _look(row: str, of: dict[str, str]) -> dict[str, Any]:
    """Return the mark of a row's cells."""
    kind = next((k for k in _KINDS if k in row.split(":", 1)[0]), "uncommitted")
    look: dict[str, Any] = {"marker": _SHAPES[kind], "facecolors": "white", "edgecolors": INK, "linewidths": 0.8}
    if kind == "uncommitted":
        return look | {"facecolors": "#777777", "edgecolors": "white", "linewidths": 0.4}
    parts = _types(row).split("/")  # of which there may be one in the name of a type, too
    first = next((p for i in range(len(parts), 0, -1) if (p := "/".join(parts[:i])) in of), None)
    if first is None:
        return look
    look |= {"facecolors": of[first], "linewidths": 0.3}
    second = _types(row).removeprefix(f"{first}/")
    return look | {"edgecolors": of[second], "linewidths": 1.6} if second in of and second != first else look


def _bars(ax: Axes, numbers: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> None:
    """Draw two bars per row, with their numbers, and the row's mark beside its name."""
    n = len(numbers)
    for column, shift, colour in (("call", -0.2, INK), ("call_pearson", 0.2, _RAW)):
        ax.barh(np.arange(n) + shift, numbers[column], height=0.36, color=colour)
        for y, v in enumerate(numbers[column]):
            ax.annotate(
                f"{v:,}", (v, y + shift), xytext=(2, 0), textcoords="offset points", va="center", fontsize=TEXT,
                annotation_clip=False,
            )  # fmt: skip
    _text.row_labels(ax, list(numbers.index), room=100, pitch=26)
    ax.tick_params(axis="y", pad=16)
    beside = ax.get_yaxis_transform() + ScaledTranslation(-9 / 72, 0, ax.figure.dpi_scale_trans)
    for y, look in enumerate(looks.values()):
        ax.scatter(0, y, s=36, transform=beside, clip_on=False, zorder=5, **look)
    most = max(int(numbers.to_numpy().max()), 1)
    ax.set(xlim=(0, 1.22 * most), ylim=(max(n, 5) - 0.45, -0.55))
    ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    ax.set_xlabel("progenitors")
    panel_title(ax, "Calls")


def _say(source: str, table: pd.DataFrame) -> str:
    ours, raw = (int((table[k].astype(str) != "uncommitted").sum()) for k in ("call", "call_pearson"))
    return f"{source}: links call {ours:,} of {_data.cells(len(table))} committed, raw correlation {raw:,}"
