"""Commitment calls of progenitors, compared with calls by their neighbours."""

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
from diffvae.pl import _data, _style, _text

_TABLE = "commitment"
_KINDS: Final = ("biased", "bipotent", "multipotent", "uncommitted")
_SHAPES: Final = {"biased": "o", "bipotent": "D", "multipotent": "^", "uncommitted": "X"}
_ROWS = 10
"""Number of calls with their own row and marker; rarer calls share one row per kind."""
_REST, _RAW = "#DADADA", "#9A9A9A"


@_style.plotted
def commitment(
    adata: AnnData,
    *,
    use_rep: str = _keys.TSNE,
    title: str | None = None,
    palette: _style.Palette | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> np.ndarray:
    """Draw the commitment call of each progenitor on the map, and the number of cells per call.

    Parameters
    ----------
    adata
        After ``diffvae.tl.commitment``, with a map in ``obsm``.
    use_rep
        Key of the map in ``obsm``.
    title
        Title; None writes one.
    palette
        Colours as in ``diffvae.pl.tsne``.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    Array of two Axes of a new figure, map and bars; save it with ``diffvae.pl.save(axes[0], "path")``. The marker next
    to a bar is that of its cells on the map: a circle in the colour of the type towards which cells are biased, a
    diamond for two types (filled with the first, outlined with the second), a triangle for more types, a cross for
    none. Rare calls share one row per kind. Grey bars count calls by PCA neighbours.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.pp.whiten(adata, "cell_type")
    >>> _ = dv.tl.commitment(adata, "CD34+", "cell_type")
    >>> axes = dv.pl.commitment(adata, use_rep="X_white")  # the first two dimensions
    >>> [label.get_text() for label in axes[1].get_xticklabels()][0]
    '0'
    """
    _data.check_adata(adata)
    table, parameters = pd.DataFrame(result(adata, _TABLE)), result(adata, f"{_TABLE}_params")
    if _keys.COMMITMENT not in adata.obs:
        raise _data.missing("obs", _keys.COMMITMENT, adata.obs.columns)
    calls = adata.obs[_keys.COMMITMENT].astype(object)
    source, groupby = str(parameters["source"]), str(parameters["groupby"])
    is_called = calls.notna().to_numpy()
    n_called = int(is_called.sum())
    if n_called != len(table) or table.empty:
        raise DataError(
            f"adata.obs[{_keys.COMMITMENT!r}] has calls of {_data.cells(n_called)}, but the table has {len(table):,}; "
            f"run diffvae.tl.commitment(adata, {source!r}, {groupby!r}) again."
        )
    xy = _data.positions(adata, use_rep)
    counts = pd.DataFrame({k: table[k].astype(str).value_counts() for k in ("call", "call_pca")})
    counts = counts.fillna(0).astype(int)
    rows = _rows(counts)
    looks = {row: _look(row, _data.colours_of(adata, groupby, palette)) for row in rows}

    # The height leaves room for two lines of label per bar.
    figure, panels = _style.new_figure(2, 2, max(2.6, 26 * len(looks) / 72 + 0.7))
    left, right = panels
    area = float(np.clip(0.33 * (0.5 * 72 * _style.WIDTH) ** 2 / adata.n_obs, 0.5, 20))
    left.scatter(xy[~is_called, 0], xy[~is_called, 1], c=_REST, s=area, linewidths=0, rasterized=True)
    of_row = {call: row for row, calls in rows.items() for call in calls}
    row_of_cell = calls[is_called].astype(str).map(of_row).to_numpy()
    for row in reversed(looks):
        places = xy[is_called][row_of_cell == row]
        left.scatter(
            places[:, 0], places[:, 1], s=float(np.clip(2.5 * area, 12, 30)), zorder=3, rasterized=True, **looks[row]
        )
    _text.map_axes(left, use_rep)
    left.set_anchor("NW")
    _style.panel_title(left, _text.shorten(f"Called: {_data.cells(n_called)} of {source}", 190, 10))
    numbers = pd.DataFrame({k: [counts.loc[c, k].sum() for c in rows.values()] for k in counts}, index=list(rows))
    _bars(right, numbers, looks)
    keys = [Patch(color=_style.INK), Patch(color=_RAW), Line2D([], [], ls="", marker="o", color=_REST, ms=7)]
    _style.finish(
        figure, title if title is not None else _caption(source, table), keys,
        ["by paths to later types", "by PCA neighbours", "other cells"],
    )  # fmt: skip
    return _style.array(panels)


def _kind(call: str) -> str:
    return call.split(":", 1)[0]


def _types(call: str) -> str:
    return call.split(": ", 1)[1] if ": " in call else ""


def _rows(counts: pd.DataFrame) -> dict[str, list[str]]:
    """Return row -> calls; rare calls are pooled by kind."""
    order = sorted(counts.index, key=lambda c: (-int(counts.loc[c].max()), c))
    frequent = [c for c in order if c != "uncommitted"][:_ROWS]
    rows: dict[str, list[str]] = {}
    for kind in _KINDS:
        of_kind = [c for c in order if _kind(c) == kind]
        rows |= {c: [c] for c in of_kind if c in frequent or kind == "uncommitted"}
        rare = [c for c in of_kind if c not in frequent and kind != "uncommitted"]
        if len(rare) == 1:
            rows[rare[0]] = rare
        elif rare:
            rows[f"other {kind}" if len(rare) < len(of_kind) else kind] = rare
    return rows


def _look(row: str, of: dict[str, str]) -> dict[str, Any]:
    """Return the marker of a row's cells."""
    kind = next((k for k in _KINDS if k in row.split(":", 1)[0]), "uncommitted")
    look: dict[str, Any] = {"marker": _SHAPES[kind], "facecolors": "white", "edgecolors": _style.INK, "linewidths": 0.8}
    if kind == "uncommitted":
        return look | {"facecolors": "#777777", "edgecolors": "white", "linewidths": 0.4}
    parts = _types(row).split("/")  # names of types may contain a slash, too
    first = next((p for i in range(len(parts), 0, -1) if (p := "/".join(parts[:i])) in of), None)
    if first is None:
        return look
    look |= {"facecolors": of[first], "linewidths": 0.3}
    second = _types(row).removeprefix(f"{first}/")
    return look | {"edgecolors": of[second], "linewidths": 1.6} if second in of and second != first else look


def _bars(ax: Axes, numbers: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> None:
    """Draw two bars per row with their numbers, and the row's marker next to its name."""
    n = len(numbers)
    for column, shift, colour in (("call", -0.2, _style.INK), ("call_pca", 0.2, _RAW)):
        ax.barh(np.arange(n) + shift, numbers[column], height=0.36, color=colour)
        for y, v in enumerate(numbers[column]):
            ax.annotate(
                f"{v:,}", (v, y + shift), xytext=(2, 0), textcoords="offset points", va="center", fontsize=_style.TEXT,
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
    _style.panel_title(ax, "Calls")


def _caption(source: str, table: pd.DataFrame) -> str:
    ours, raw = (int((table[k].astype(str) != "uncommitted").sum()) for k in ("call", "call_pca"))
    return f"{source}: {ours:,} of {_data.cells(len(table))} called; {raw:,} by PCA neighbours"
