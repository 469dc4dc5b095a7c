"""Contingency of two labellings of the same cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from scipy.optimize import linear_sum_assignment

from diffvae import _keys
from diffvae.pl import _data, _style, _text


@_style.plotted
def overlap(
    data: AnnData | pd.DataFrame,
    *,
    reference: str = _keys.LABEL,
    groupby: str = _keys.CELL_TYPE,
    ax: Axes | None = None,
    title: str | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes:
    """Draw a heat map of reference labels x groups: the groups in which the cells of each label lie.

    Parameters
    ----------
    data
        An AnnData, of which ``obs`` is read; a data frame with a row per cell and columns `reference` and `groupby`; or
        a data frame of counts with a row per reference label and a column per group, such as
        ``diffvae.metrics.overlap(...).contingency``.
    reference
        Column of the reference labels; with counts, the name of the rows.
    groupby
        Column of the groups; with counts, the name of the columns.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title that says what is drawn.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    The Axes. Colour is the share of a row; numbers of cells are written if they fit. Rows are sorted by size and
    columns follow them, so that the pairs of the best one-to-one matching come first and lie on the diagonal. Labels
    and groups without a partner come next, and "unassigned" comes last.

    Examples
    --------
    >>> import pandas as pd
    >>> import diffvae as dv
    >>> counts = pd.DataFrame([[1, 5], [9, 0]], index=["B", "T"], columns=["x", "y"])
    >>> [label.get_text() for label in dv.pl.overlap(counts).get_yticklabels()]
    ['T (9)', 'B (6)']
    """
    counts = _counts(data, reference, groupby)
    counts = counts.loc[counts.sum(axis=1) > 0, counts.sum() > 0]
    if counts.empty:
        raise ValueError("there are no cells to compare; pass counts with at least one cell.")
    rows, columns, matched = _order(counts)
    counts = counts.loc[rows, columns]
    share = counts.div(counts.sum(axis=1), axis=0).to_numpy()

    down = [f"{r} ({n:,})" for r, n in counts.sum(axis=1).items()]
    along = [f"{c} ({n:,})" for c, n in counts.sum().items()]
    ax, height = _style.matrix_axes(ax, len(rows))
    ax.hlines(np.arange(len(rows) + 1) - 0.5, -0.5, len(along) - 0.5, color="#DDDDDD", linewidth=0.6, zorder=0)
    image = ax.imshow(np.where(share > 0, share, np.nan), vmin=0, vmax=1, cmap=_style.SEQUENTIAL, aspect="auto")
    ax.spines[:].set_visible(False)
    ax.set_xlabel(_text.plain(_data.noun(groupby) + " (cells)"))
    ax.set_ylabel(_text.plain(_data.noun(reference) + " (cells)"))
    _text.row_labels(ax, down, pitch=height / len(rows))
    _text.column_labels(ax, along)
    if max(_text.width(f"{n:,}") for n in counts.to_numpy().ravel()) <= _style.axes_size(ax)[0] / len(along) - 2:
        for (i, j), n in np.ndenumerate(counts.to_numpy()):
            if n:
                colour = _style.ink_on(_style.SEQUENTIAL(share[i, j]))
                ax.text(j, i, f"{n:,}", ha="center", va="center", fontsize=_style.TEXT, color=colour, in_layout=False)
    _style.colour_bar(ax, image, f"share of the {_data.noun(reference)}", percent=True)
    total = int(counts.to_numpy().sum())
    caption = f"{matched / total:.0%} of {_data.cells(total)} lie on the best one-to-one matching"
    _text.title(ax, title if title is not None else caption)
    _style.fit_height(ax, height)
    return ax


def _counts(data: AnnData | pd.DataFrame, reference: str, groupby: str) -> pd.DataFrame:
    if isinstance(data, AnnData):
        _data.check_adata(data)
        left, right = _data.groups(data, reference), _data.groups(data, groupby)
        return pd.crosstab(left, right)
    if not isinstance(data, pd.DataFrame):
        raise ValueError(f"data is a {type(data).__name__}; pass an AnnData or a data frame.")
    if reference in data and groupby in data:
        return _counts(AnnData(obs=data[[reference, groupby]].rename(index=str)), reference, groupby)
    numeric = all(map(pd.api.types.is_numeric_dtype, data.dtypes))
    if not numeric or not (data >= 0).all(axis=None):
        raise ValueError(
            f"data has neither the columns {reference!r} and {groupby!r} nor only counts "
            "(numbers, none missing or negative); pass one of the two."
        )
    return data.rename(index=str, columns=str).astype(int)


def _order(counts: pd.DataFrame) -> tuple[list[str], list[str], int]:
    """Return rows and columns with the best one-to-one matching on the diagonal, and the number of cells on it.

    "unassigned" and similar names match nothing and come last.
    """
    down = sorted((r for r in counts.index if not _style.is_unassigned(r)), key=lambda r: -counts.loc[r].sum())
    along = [c for c in counts.columns if not _style.is_unassigned(c)]
    part = counts.loc[down, along].to_numpy()
    row, column = linear_sum_assignment(part, maximize=True)
    pairs = [(r, c) for r, c in zip(row, column, strict=True) if part[r, c] > 0]
    rows, columns = [down[r] for r, _ in pairs], [along[c] for _, c in pairs]
    rows += [r for r in down if r not in rows] + [r for r in counts.index if _style.is_unassigned(r)]
    rest = sorted((c for c in along if c not in columns), key=lambda c: int(np.argmax(counts.loc[rows, c].to_numpy())))
    columns += rest + [c for c in counts.columns if _style.is_unassigned(c)]
    return rows, columns, int(sum(part[r, c] for r, c in pairs))
