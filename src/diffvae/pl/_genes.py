"""Expression of genes in groups of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from diffvae import _keys
from diffvae._core.validate import Rule, Whole, check
from diffvae.pl import _data, _style, _text

_TABLE = "high_weight_genes"
_ROW = 13.5  # points
RULES: dict[str, Rule] = {"n_genes": Whole(1)}


@_style.plotted
def gene_heatmap(
    adata: AnnData,
    *,
    groupby: str = _keys.CLUSTER,
    genes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    n_genes: int = 5,
    standard_scale: bool = True,
    layer: str | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    palette: _style.Palette | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes:
    r"""Draw a dot plot of genes x groups: colour is mean expression, area the share of expressing cells.

    Genes are rows, so that the figure keeps its width whatever their number.

    Parameters
    ----------
    adata
        With log-normalised expression in `layer`, else (as in scanpy) in ``raw`` if present, else in ``X``. Without
        `genes` also with ``uns["diffvae"]["high_weight_genes"]``, from ``diffvae.tl.high_weight_genes``.
    groupby
        Column of ``obs``.
    genes
        Genes, or a dictionary group -> genes. None: for each group the first `n_genes` genes of the table with
        direction "up" that the cells confirm; if the table has both rankings, the one by the decoder's mean Jacobian.
    n_genes
        Number of genes per group from the table. A gene of several groups is shown once, with the first of them.
    standard_scale
        Scale each gene's group means to [0, 1]:
        :math:`(m_{gc} - \min_c m_{gc}) / (\max_c m_{gc} - \min_c m_{gc})`. False: means as they are.
    layer
        Key in ``layers``.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title that says what is drawn.
    palette
        Colours of the frames around the genes of each group, as in ``diffvae.pl.tsne``.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    The Axes.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import diffvae as dv
    >>> adata = anndata.AnnData(np.eye(4))
    >>> adata.obs["diffvae_cluster"] = ["0", "0", "1", "1"]
    >>> ax = dv.pl.gene_heatmap(adata, genes={"0": ["0", "1"], "1": ["3"]})
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['0', '1', '3']
    """
    check(RULES, n_genes=n_genes)
    _data.check_adata(adata)
    column = _data.groups(adata, groupby)
    sizes = _data.by_size(column)
    columns = [g for g in column.cat.categories if g in sizes]
    blocks = _blocks(adata, groupby, columns, genes, n_genes)
    rows = [gene for block in blocks.values() for gene in block]

    values = _data.expression(adata, rows, layer)
    if np.nanmin(values) < 0:
        raise ValueError(
            f"expression goes down to {np.nanmin(values):.3g}, but the share of expressing cells needs values of 0 or "
            f"more; pass layer=, one of {_data.listed(adata.layers)}, or log-normalise first."
        )
    member = np.array([column.to_numpy() == g for g in columns], dtype=float)
    member /= member.sum(1, keepdims=True)
    mean, expressed = (member @ values).T, (member @ (values > 0)).T
    if standard_scale:
        low, high = mean.min(1, keepdims=True), mean.max(1, keepdims=True)
        mean = (mean - low) / np.where(high > low, high - low, 1)

    ax = _style.axes_or_new(ax, _ROW * len(rows) / 72 + 4)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    _text.row_labels(ax, rows, pitch=_ROW)
    _text.column_labels(ax, columns, top=True)
    wide, tall = _style.axes_size(ax)
    across, down = np.meshgrid(np.arange(len(columns)), np.arange(len(rows)))
    widest = 0.94 * min(_ROW if isinstance(ax, _style.NotebookAxes) else tall / len(rows), wide / len(columns))
    dots = ax.scatter(
        across, down, s=expressed * widest**2, c=mean.ravel(), cmap=_style.SEQUENTIAL, vmin=0,
        vmax=max(mean.max(), 1e-9), edgecolors=_style.INK, linewidths=0.3, zorder=3,
    )  # fmt: skip
    _frames(ax, blocks, columns, _data.colours_of(adata, groupby, palette))
    ax.spines[:].set_visible(False)
    scaled = ", each gene from its lowest to its highest group" if standard_scale else ""
    _style.colour_bar(ax, dots, "mean expression" + scaled)
    steps = (0.25, 0.5, 1.0)
    keys = [Line2D([], [], ls="", marker="o", color="#888888", ms=widest * s**0.5, mew=0) for s in steps]
    ax.legend(
        keys, [f"{s:.0%}" for s in steps], title="cells that express it", ncols=3, loc="upper center",
        bbox_to_anchor=(0.5, 0.0), handletextpad=0.1, columnspacing=1.0, borderaxespad=0.3,
    )  # fmt: skip
    n = len(rows)
    caption = f"{n} gene{'s' * (n != 1)} in {len(columns)} {_data.noun(groupby, len(columns))}"
    if genes is None:
        caption = f"High-weight genes of each {_data.noun(groupby)}"
    _text.title(ax, title if title is not None else caption, pad=10)
    _style.fit_height(ax, _ROW * len(rows))
    return ax


def _blocks(
    adata: AnnData,
    groupby: str,
    columns: list[str],
    genes: Sequence[str] | Mapping[str, Sequence[str]] | None,
    n_genes: int,
) -> dict[str, list[str]]:
    """Return group -> genes, each gene once; the group is "" if genes were given as a list."""
    if isinstance(genes, str):
        genes = [genes]
    if genes is None:
        table = _data.table(adata, _TABLE, ["group", "gene", "direction", "rank"], groupby)
        table = table[table["direction"] == "up"].sort_values("rank")
        if "confirmed" in table:  # the decoder's direction agrees with the cells
            table = table[table["confirmed"].astype(bool)]
        if "ranking" in table and table["ranking"].nunique() > 1:
            table = table[table["ranking"] == "jacobian"]
        wanted: Mapping[str, Sequence[str]] = {
            g: list(dict.fromkeys(table.loc[table["group"] == g, "gene"].astype(str)))[:n_genes] for g in columns
        }
    elif isinstance(genes, Mapping):
        wanted = {str(g): list(map(str, names)) for g, names in genes.items()}
    else:
        wanted = {"": list(map(str, genes))}
    group_of: dict[str, str] = {}
    for group, names in wanted.items():
        for name in names:
            group_of.setdefault(name, group)
    if not group_of:
        raise ValueError("there are no genes to show; pass genes=, a list or a dictionary group -> genes.")
    known = set(adata.var_names) | (set(adata.raw.var_names) if adata.raw is not None else set())
    blocks: dict[str, list[str]] = {}
    for gene, group in group_of.items():
        if gene not in known:
            raise _data.unknown_gene(adata, gene, "not")
        blocks.setdefault(group, []).append(gene)
    return blocks


def _frames(ax: Axes, blocks: dict[str, list[str]], columns: list[str], of: dict[str, str]) -> None:
    """Separate the blocks by lines and frame the genes of each group in its colour."""
    start = 0
    for group, names in blocks.items():
        if start:
            ax.axhline(start - 0.5, color="#D9D9D9", linewidth=0.6, zorder=1)
        if group in columns:
            corner = (columns.index(group) - 0.5, start - 0.5)
            face, edge = to_rgba(of[group], 0.18), of[group]
            look: dict[str, Any] = {"facecolor": face, "edgecolor": edge, "linewidth": 1.5}
            ax.add_patch(Rectangle(corner, 1, len(names), zorder=2, clip_on=False, **look))
        start += len(names)
