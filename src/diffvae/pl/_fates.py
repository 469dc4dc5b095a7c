"""Fates of progenitors: on the map, and on average over groups of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from diffvae import _keys
from diffvae._core.anndata import result
from diffvae._errors import DataError
from diffvae.pl import _data, _style, _text

_REST, _NONE = "#E4E4E4", "#8F8F8F"
_TYPES, _GROUPS = 3, 5
"""Number of fates per group, and of groups, that the bars show."""
_BAR, _GAP = 13.0, 9.0
"""Height of a bar and of the space between two groups, in points."""
ALL = "all"


class Leaning(NamedTuple):
    """Towards which fate each cell leans."""

    fate: np.ndarray
    """Column of the fate that is most above its mean over the progenitors; -1 for none, -2 for cells without values."""
    strength: np.ndarray
    """How far its probability is above the mean, as a share of the largest possible probability."""


def leaning(fates: np.ndarray, alpha: float, source: np.ndarray | None = None) -> Leaning:
    r"""Return the fate towards which each cell leans, and how much.

    .. math:: c_i = \max_T (B_{iT} - \bar B_T) / \alpha

    The most probable fate itself says little where one type is near to all progenitors: it is the same for all.

    Parameters
    ----------
    fates
        Absorption probabilities B, cells x types; NaN for cells without values.
    alpha
        Probability to go on, the largest possible B.
    source
        Whether each cell is a progenitor, over which the mean is taken; None for all with values.

    Examples
    --------
    >>> leaning(np.array([[0.9, 0.0], [0.5, 0.1], [0.1, 0.2], [np.nan, np.nan]]), 0.9).fate.tolist()
    [0, -1, 1, -2]
    """
    known = np.isfinite(fates).all(axis=1)
    own = known if source is None else known & source
    mean = fates[own].mean(axis=0)
    above = (np.where(known[:, None], fates, 0) - mean) / alpha
    best, strength = above.argmax(axis=1), np.clip(above.max(axis=1, initial=-np.inf), 0, 1)
    fate = np.where(strength > 1e-9, best, -1)
    return Leaning(np.where(known, fate, -2), np.where(known, strength, 0))


def colour_of(colour: str, strength: np.ndarray) -> np.ndarray:
    """Return the colours between the grey of uncommitted cells and that of a fate; half of the way is at 1/4."""
    part = np.sqrt(np.clip(strength, 0, 1))[:, None]
    blend: np.ndarray = (1 - part) * np.array(to_rgb(_NONE)) + part * np.array(to_rgb(colour))
    return blend


@_style.plotted
def fates(
    adata: AnnData,
    *,
    use_rep: str = _keys.TSNE,
    title: str | None = None,
    palette: _style.Palette | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> np.ndarray:
    r"""Draw the fate towards which each progenitor leans on the map, and the mean fate probabilities of their groups.

    Parameters
    ----------
    adata
        After ``diffvae.tl.fates(adata, source, groupby, n_bootstraps=20, split_by="diffvae_commitment")``, with a map
        in ``obsm``.
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
    Array of two Axes of a new figure, map and bars; save it with ``diffvae.pl.save(axes[0], "path")``.

    On the map the colour of a progenitor is that of the type T whose probability :math:`B_T` is most above its mean
    over the progenitors. It is the fuller the larger :math:`(B_T - \bar B_T) / \alpha`, and grey where no fate is above
    its mean: an uncommitted cell. A dark ring marks the cells that ``diffvae.tl.commitment`` calls.

    Bars are means over each group, the most probable fates first, with standard errors over the bootstraps. A diamond
    is the same by PCA neighbours, a line the mean of all progenitors, which a random group would have.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.pp.whiten(adata, "cell_type")
    >>> _ = dv.tl.commitment(adata, "CD34+", "cell_type")
    >>> _ = dv.tl.fates(adata, "CD34+", "cell_type", n_bootstraps=3, split_by="diffvae_commitment")
    >>> axes = dv.pl.fates(adata, use_rep="X_white")  # the first two dimensions
    >>> axes[1].get_xlabel()
    'mean probability'
    """
    _data.check_adata(adata)
    parameters, table = result(adata, "fates"), pd.DataFrame(result(adata, "fate_table"))
    key, source, groupby = (str(parameters[k]) for k in ("key_added", "source", "groupby"))
    if key not in adata.obsm:
        raise _data.missing("obsm", key, adata.obsm)
    xy, values = _data.positions(adata, use_rep), np.asarray(adata.obsm[key], dtype=float)
    names = [str(name) for name in parameters["names"]]
    if values.shape[1] != len(names) or not set(table["type"].astype(str)) <= set(names):
        raise DataError(
            f"adata.obsm[{key!r}] and the table of fates are of different calls; "
            f"run diffvae.tl.fates(adata, {source!r}, {groupby!r}, split_by='diffvae_commitment') again."
        )
    types = _data.groups(adata, groupby)
    # of some of the cells a fate may be missing
    of = _data.colours_of(adata, groupby, palette, names)
    own = (types == source).to_numpy()
    if not (own & np.isfinite(values).all(axis=1)).any():
        raise DataError(
            f"No cell of {source!r} has fates; draw cells among which it is, or run diffvae.tl.fates again."
        )
    found = leaning(values, float(parameters["alpha"]), own)
    groups, fates_of = _drawn(table)
    rows = sum(len(fates_of[group]) for group in groups)

    tall = (rows * _BAR + len(groups) * _GAP) / 72
    figure, panels = _style.new_figure(2, 2, max(2.9, tall + 0.75))
    left, right = panels
    _map(left, xy, found, own, _called(adata), names, of)
    _text.map_axes(left, use_rep)
    left.set_anchor("NW")
    _style.panel_title(left, _text.shorten(f"{_data.cells(int(own.sum()))} of {source}", 190, 10))
    _bars(right, table, groups, fates_of, of, max(tall, 2.1))
    shown = [
        name for name in names if (found.fate == names.index(name)).any() or any(name in f for f in fates_of.values())
    ]
    keys = [Line2D([], [], ls="", marker="o", color=of[name], ms=7) for name in shown]
    labels = [_text.plain(_text.shorten(f"towards {name}", 72 * _style.WIDTH / 2 - 40)) for name in shown]
    keys += [
        Line2D([], [], ls="", marker="o", color=_NONE, ms=7),
        Line2D([], [], ls="", marker="o", color=_REST, ms=7),
        Line2D([], [], ls="", marker="o", mfc="white", mec=_style.INK, mew=1.1, ms=7),
        Line2D([], [], ls="", marker="D", mfc="white", mec=_style.INK, ms=5),
        Line2D([], [], ls="", marker="|", color=_style.INK, mew=1.6, ms=9),
    ]
    labels += ["uncommitted: none above mean", "other cells", "called", "by PCA neighbours", "mean of all progenitors"]
    _style.finish(
        figure, title if title is not None else f"{source}: where random walks among the cells end", keys, labels
    )
    return _style.array(panels)


def _called(adata: AnnData) -> np.ndarray:
    """Return which cells have a call of commitment other than uncommitted."""
    if _keys.COMMITMENT not in adata.obs:
        return np.zeros(adata.n_obs, dtype=bool)
    calls = adata.obs[_keys.COMMITMENT].astype(object)
    called: np.ndarray = (calls.notna() & (calls != "uncommitted")).to_numpy()
    return called


def _drawn(table: pd.DataFrame) -> tuple[list[str], dict[str, list[str]]]:
    """Return the groups that are drawn, all progenitors first and then the largest, and the fates of each."""
    table = table.astype({"group": str, "type": str})
    sizes = table.groupby("group", sort=False)["n_cells"].first()
    groups = sorted(sizes.index, key=lambda g: (g != ALL, -sizes[g], g))[:_GROUPS]
    fates_of = {}
    for group in groups:
        own = table[table["group"] == group].sort_values("probability", ascending=False, kind="stable")
        likely = own[own["probability"] >= 0.01] if (own["probability"] >= 0.01).any() else own.head(1)
        fates_of[group] = likely["type"].head(_TYPES).tolist()
    return groups, fates_of


def _map(
    ax: Axes, xy: np.ndarray, found: Leaning, own: np.ndarray, called: np.ndarray, names: list[str], of: dict[str, str]
) -> None:
    """Draw other cells pale, progenitors in the colours of their fates, the most committed on top."""
    area = float(np.clip(0.33 * (0.5 * 72 * _style.WIDTH) ** 2 / len(xy), 0.5, 20))
    ax.scatter(xy[~own, 0], xy[~own, 1], c=_REST, s=area, linewidths=0, rasterized=True)
    cells = np.flatnonzero(own)
    cells = cells[np.argsort(found.strength[cells], kind="stable")]
    colours = np.tile(np.array(to_rgb(_NONE)), (len(xy), 1))
    for i, name in enumerate(names):
        colours[found.fate == i] = colour_of(of[name], found.strength[found.fate == i])
    size = float(np.clip(2.2 * area, 7, 24))
    for ring in (False, True):
        some = cells[called[cells] == ring]
        ax.scatter(
            xy[some, 0], xy[some, 1], c=colours[some], s=size, zorder=3 + ring, rasterized=True,
            linewidths=0.5 if ring else 0, edgecolors=_style.INK if ring else "none",
        )  # fmt: skip


def _bars(
    ax: Axes, table: pd.DataFrame, groups: list[str], fates_of: dict[str, list[str]], of: dict[str, str], tall: float
) -> None:
    """Draw a block of bars per group, each the mean probability of a fate with its standard error."""
    table = table.astype({"group": str, "type": str}).set_index(["group", "type"])
    y, middles, labels = 0.0, [], []
    for group in groups:
        start = y
        for fate in fates_of[group]:
            row = table.loc[(group, fate)]
            error = row["se"] if np.isfinite(row["se"]) else None
            ax.barh(
                y,
                row["probability"],
                height=0.8,
                color=of[fate],
                xerr=error,
                error_kw={"elinewidth": 1, "ecolor": _style.INK},
            )
            ax.plot(row["pca"], y, marker="D", mfc="white", mec=_style.INK, ms=4, zorder=4, clip_on=False)
            if group != ALL:
                ax.plot([row["null"]] * 2, [y - 0.4, y + 0.4], color=_style.INK, lw=1.6, zorder=3)
            y += 1
        middles.append((start + y - 1) / 2)
        size = int(table.loc[group]["n_cells"].iloc[0])
        labels.append(f"{group} ({size:,})")
        y += _GAP / _BAR
    _text.row_labels(ax, labels, room=92, pitch=max(_BAR, 26), at=middles)
    ax.set(xlim=(0, 1), ylim=(max(y, tall * 72 / _BAR) - 0.6, -0.7))
    ax.set_xticks([0, 0.5, 1])
    ax.set_xlabel("mean probability")
    rest = table.index.get_level_values("group").nunique() - len(groups)
    _style.panel_title(ax, "By call" + (f", {rest} rare one{'s' * (rest > 1)} not drawn" if rest > 0 else ""))
