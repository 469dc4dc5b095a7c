"""Two labellings of the same cells, one against the other."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from scipy.optimize import linear_sum_assignment

from diffvae import _keys
from diffvae.pl import _data, _text
from diffvae.pl._style import (
    SEQUENTIAL,
    TEXT,
    axes_size,
    check_axes,
    colour_bar,
    fit_height,
    ink_on,
    is_unassigned,
    matrix_axes,
    styled,
)


@styled
def overlap(
    data: AnnData | pd.DataFrame,
    *,
    reference: str = _keys.LABEL,
    groupby: str = _keys.CELL_TYPE,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw reference labels x found groups: where the cells of each reference label went.

    Parameters
    ----------
    data
        An AnnData (its ``obs`` is read), a data frame with a row per cell and the columns `reference` and
        `groupby`, or the counts themselves (``diffvae.metrics.overlap(...).contingency``): a data frame with
        a row per reference label and a column per group.
    reference
        Column with the reference labels; with counts, what to call the rows.
    groupby
        Column with the groups found; with counts, what to call the columns.
    ax
        Axes to draw into; None makes a new figure, 6 inches wide.
    title
        Title; None writes one.

    Returns
    -------
    The Axes. Colours are shares of a row, numbers (where they fit) cells. Rows run from the largest label to
    the smallest and columns follow them, the pairs of the best one-to-one matching first, on the diagonal;
    what has no partner, and "unassigned", comes after them.

    Examples
    --------
    >>> import pandas as pd
    >>> import diffvae as dv
    >>> counts = pd.DataFrame([[1, 5], [9, 0]], index=["B", "T"], columns=["x", "y"])
    >>> [label.get_text() for label in dv.pl.overlap(counts).get_yticklabels()]
    ['T (9)', 'B (6)']
    """
    check_axes(ax)
    counts = _counts(data, reference, groupby)
    counts = counts.loc[counts.sum(axis=1) > 0, counts.sum() > 0]
    if counts.empty:
        raise ValueError("there are no cells to compare; give counts with at least one cell.")
    rows, columns, matched = _order(counts)
    counts = counts.loc[rows, columns]
    share = counts.div(counts.sum(axis=1), axis=0).to_numpy()

    down = [f"{r} ({n:,})" for r, n in counts.sum(axis=1).items()]
    along = [f"{c} ({n:,})" for c, n in counts.sum().items()]
    ax, height = matrix_axes(ax, len(rows))
    ax.hlines(np.arange(len(rows) + 1) - 0.5, -0.5, len(along) - 0.5, color="#DDDDDD", linewidth=0.6, zorder=0)
    image = ax.imshow(np.where(share > 0, share, np.nan), vmin=0, vmax=1, cmap=SEQUENTIAL, aspect="auto")
    ax.spines[:].set_visible(False)
    ax.set_xlabel(_text.plain(_data.noun(groupby) + " (cells)"))
    ax.set_ylabel(_text.plain(_data.noun(reference) + " (cells)"))
    _text.row_labels(ax, down, pitch=height / len(rows))
    _text.column_labels(ax, along)
    if max(_text.width(f"{n:,}") for n in counts.to_numpy().ravel()) <= axes_size(ax)[0] / len(along) - 2:
        for (i, j), n in np.ndenumerate(counts.to_numpy()):
            if n:
                colour = ink_on(SEQUENTIAL(share[i, j]))
                ax.text(j, i, f"{n:,}", ha="center", va="center", fontsize=TEXT, color=colour, in_layout=False)
    colour_bar(ax, image, f"share of the {_data.noun(reference)}", percent=True)
    total = int(counts.to_numpy().sum())
    caption = f"{matched / total:.0%} of {_data.cells(total)} lie on the best one-to-one matching"
    _text.title(ax, title if title is not None else caption)
    fit_height(ax, height)
    return ax


def _counts(data: AnnData | pd.DataFrame, reference: str, groupby: str) -> pd.DataFrame:
    if isinstance(data, AnnData):
        _data.check_adata(data)
        left, right = _data.groups(data, reference), _data.groups(data, groupby)
        return pd.crosstab(left, right)
    if not isinstance(data, pd.DataFrame):
        raise ValueError(f"data is a {type(data).__name__}; give an AnnData or a data frame.")
    if reference in data and groupby in data:
        return _counts(AnnData(obs=data[[reference, groupby]].rename(index=str)), reference, groupby)
    if (
        not all(map(pd.api.types.is_numeric_dtype, data.dtypes))
        or data.isna().any(axis=None)
        or (data < 0).any(axis=None)
    ):
        raise ValueError(
            f"data has neither the columns {reference!r} and {groupby!r} nor counts alone "
            "(numbers, none missing or negative); give one of the two."
        )
    return data.rename(index=str, columns=str).astype(int)


def _order(counts: pd.DataFrame) -> tuple[list[str], list[str], int]:
    """Return rows and columns with the best one-to-one matching on the diagonal, and how many cells it has.

    "unassigned" and its like match nothing and come last.
    """
    down = sorted((r for r in counts.index if not is_unassigned(r)), key=lambda r: -counts.loc[r].sum())
    along = [c for c in counts.columns if not is_unassigned(c)]
    part = counts.loc[down, along].to_numpy()
    row, column = linear_sum_assignment(part, maximize=True)
    pairs = [(r, c) for r, c in zip(row, column, strict=True) if part[r, c] > 0]
    rows, columns = [down[r] for r, _ in pairs], [along[c] for _, c in pairs]
    rows += [r for r in down if r not in rows]
    rows += [r for r in counts.index if is_unassigned(r)]
    rest = sorted((c for c in along if c not in columns), key=lambda c: int(np.argmax(counts.loc[rows, c].to_numpy())))
    columns += rest + [c for c in counts.columns if is_unassigned(c)]
    return rows, columns, int(sum(part[r, c] for r, c in pairs))
