"""Passport of a latent dimension: the distribution of the types along it, and the genes that change with it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from diffvae._core.anndata import representation, result
from diffvae._core.fingerprint import mark
from diffvae._core.validate import Choice, Rule, Whole, check
from diffvae._errors import DataError
from diffvae.pl import _data, _style, _text

_MOST_TYPES: Final = 24
_LEAST_ROWS: Final = 8
"""Smallest number of rows of the gene panel, so that bars of few genes do not become too thick."""
_UP, _DOWN = "#4D4D4D", "#A6A6A6"  # greys, since colours stand for types
RULES: dict[str, Rule] = {"reading": Choice("weights", "jacobian"), "n_genes": Whole(1)}
_SIDES: Final = {"+": "+", "-": "−"}


@_style.plotted
def passport(
    adata: AnnData,
    dimension: int,
    *,
    reading: str = "weights",
    n_genes: int = 8,
    title: str | None = None,
    palette: _style.Palette | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> np.ndarray:
    """Draw a latent dimension: its values in the cells of each type, and the genes that rise and fall along it.

    Parameters
    ----------
    adata
        After ``diffvae.tl.passport``.
    dimension
        Number of the dimension.
    reading
        "weights" or "jacobian".
    n_genes
        Largest number of genes per direction.
    title
        Title. None: the name of the dimension, or the reason why it has none, its recurrence, and with batches the
        share of it that they explain beside chance.
    palette
        Colours as in ``diffvae.pl.tsne``.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    Array of two Axes of a new figure; save it with ``diffvae.pl.save(axes[0], "path")``. Left: the median, the middle
    half and the middle 90 % of the cells of each type, highest median on top. The two sides of the dimension lie beyond
    the dashed lines, and "+" or "−" after a name marks a type that is enriched on that side. Right: genes with their
    weight and, if known, the share of repeated trainings in which the gene was found again. Bars of genes whose
    direction the cells do not confirm are hatched.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=5).train(adata)
    >>> dv.tl.embed(adata, model)
    >>> dv.tl.gene_weights(adata, model)
    >>> _ = dv.tl.passport(adata, "cell_type")
    >>> left, right = dv.pl.passport(adata, 0)
    >>> left.get_yticklabels()[0].get_text()
    'CD14+ Monocyte +'
    """
    _data.check_adata(adata)
    check(RULES, reading=reading, n_genes=n_genes)
    stored = result(adata, "passport")
    parameters, table = stored["params"], pd.DataFrame(stored["table"])
    row = table[table["dimension"] == dimension]
    if row.empty:
        raise ValueError(f"dimension is {dimension}; it must be from 0 to {len(table) - 1}.")
    if not bool(row["alive"].iloc[0]):
        raise DataError(f"Dimension {dimension} is dead: all cells have the same value, so there is nothing to draw.")
    use_rep, groupby = str(parameters["use_rep"]), str(parameters["groupby"])
    z = representation(adata, use_rep)
    if mark(z) != parameters["mark"]:
        raise DataError(
            f"adata.obsm[{use_rep!r}] has changed since the passport was made; run diffvae.tl.passport(adata, "
            f"{groupby!r}) again."
        )
    genes = pd.DataFrame(stored["genes"])
    genes = genes[(genes["dimension"] == dimension) & (genes["reading"].astype(str) == reading)]
    genes = genes[genes["rank"] <= n_genes].sort_values("weight", ascending=False)
    types = pd.DataFrame(stored["types"])
    column = _data.groups(adata, groupby)
    values = pd.Series(z[:, dimension].astype(float), index=adata.obs_names)
    spread = _spread(values.to_numpy(), column)

    rows = max(len(spread), len(genes))
    figure, (left, right) = _style.new_figure(2, 2, max(2.6, rows * 14.5 / 72 + 0.6))
    _types(left, spread, types[types["dimension"] == dimension], _data.colours_of(adata, groupby, palette))
    n_types = column.nunique()
    heading = "Types" if n_types == len(spread) else f"Types ({len(spread)} of {n_types}: both ends)"
    _style.panel_title(left, heading)
    edge = float(parameters["n_sd"]) * values.std(ddof=0)
    for x in (values.mean() - edge, values.mean() + edge):
        left.axvline(x, color=_style.INK, linestyle=(0, (3, 3)), linewidth=0.8, zorder=0)
    left.set_xlabel(f"dimension {dimension}")
    _genes(right, genes)
    right.set_xlabel("weight (omega)" if reading == "weights" else "mean slope (Jacobian)")
    caption = title if title is not None else _caption(dimension, row.iloc[0])
    keys = [Patch(color=_UP), Patch(color=_DOWN), Line2D([], [], color=_style.INK, ls=(0, (3, 3)), lw=0.8)]
    names = ["rises along the dimension", "falls", f"mean ± {parameters['n_sd']:g} sd"]
    if not genes["confirmed"].astype(bool).all():
        keys.append(Patch(facecolor="white", edgecolor=_style.INK, hatch="////"))
        names.append("not confirmed by the cells")
    _style.finish(figure, caption, keys, names)
    return _style.array([left, right])


def _spread(z: np.ndarray, column: pd.Series) -> pd.DataFrame:
    """Return quantiles of each type's cells, highest median first; of many types only both ends."""
    codes = column.cat.codes.to_numpy()
    rows = {
        name: np.quantile(z[codes == i], [0.05, 0.25, 0.5, 0.75, 0.95])
        for i, name in enumerate(column.cat.categories)
        if (codes == i).any()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["q05", "q25", "q50", "q75", "q95"])
    frame = frame.sort_values("q50", ascending=False, kind="stable")
    half = _MOST_TYPES // 2
    return frame if len(frame) <= _MOST_TYPES else pd.concat([frame.iloc[:half], frame.iloc[-half:]])


def _types(ax: Axes, spread: pd.DataFrame, types: pd.DataFrame, of: dict[str, str]) -> None:
    sides = types.astype({"type": str, "side": str}).groupby("type")["side"].agg(lambda s: "".join(sorted(set(s))))
    for y, (name, q) in enumerate(spread.iterrows()):
        ax.hlines(y, q["q05"], q["q95"], color=of[str(name)], linewidth=1.6)
        ax.barh(y, q["q75"] - q["q25"], left=q["q25"], height=0.62, color=of[str(name)], zorder=2)
        ax.vlines(q["q50"], y - 0.31, y + 0.31, color="white", linewidth=2.8, zorder=3)
        ax.vlines(q["q50"], y - 0.31, y + 0.31, color=_style.INK, linewidth=1.6, zorder=4)
    marks = ["".join(_SIDES[s] for s in sides.get(str(name), "")) for name in spread.index]
    named = [f"{name} {side}".rstrip() for name, side in zip(spread.index, marks, strict=True)]
    _text.row_labels(ax, named, room=105, pitch=14.5)
    ax.set_ylim(len(spread) - 0.4, -0.6)


def _genes(ax: Axes, genes: pd.DataFrame) -> None:
    weight = genes["weight"].to_numpy(float)
    for y, (value, confirmed) in enumerate(zip(weight, genes["confirmed"].astype(bool), strict=True)):
        colour = _UP if value > 0 else _DOWN
        look: dict[str, Any] = (
            {"color": colour} if confirmed else {"facecolor": "white", "edgecolor": colour, "hatch": "////"}
        )
        ax.barh(y, value, height=0.7, **look)
    for y, share in enumerate(genes["recurrence"].to_numpy(float)):
        if not np.isnan(share):
            ax.text(1.02, y, f"{share:.0%}", va="center", fontsize=_style.TEXT, transform=ax.get_yaxis_transform())
    ax.axvline(0, color=_style.INK, linewidth=0.8)
    _text.row_labels(ax, [str(g) for g in genes["gene"]], room=80, pitch=14.5)
    ax.set_ylim(max(len(genes), _LEAST_ROWS) - 0.4, -0.6)
    ax.locator_params(axis="x", nbins=4)
    known = genes["recurrence"].notna().any()
    _style.panel_title(ax, "Genes" + "  (right: found again)" * bool(known))


def _caption(dimension: int, row: pd.Series) -> str:
    name, remark = str(row["name"]), str(row["remark"])
    if name:
        pretty = name.replace(" -", " −")
        said = f"Dimension {dimension}: {pretty}; found again in {row['recurrence']:.0%}"
    else:
        said = f"Dimension {dimension}, no name: {remark}"
    if "null_eta2" not in row:
        return said
    chance, types = _share(row["null_eta2"]), _share(row["type_eta2"])
    return f"{said}. Batches explain {_share(row['batch_eta2'])} of it (by chance {chance}), types {types}"


def _share(value: float) -> str:
    return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"
