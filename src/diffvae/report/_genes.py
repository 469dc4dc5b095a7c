"""The genes by which the map can be coloured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from diffvae.report._encode import deflated, distinct, levels

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.report._cells import Cells

MOST_BYTES = 7_000_000
"""Of all genes together, as the page has them."""
AT_ONCE = 256
"""Genes that are made dense at once."""


def shown(adata: AnnData) -> dict[str, str]:
    """Return every gene's name as the page shows it, each another one."""
    everything: Any = adata.raw if adata.raw is not None else adata
    names = [str(name) for name in everything.var_names]
    return dict(zip(names, distinct(names), strict=True))


def data(cells: Cells, first: Iterable[str], shown: Mapping[str, str]) -> dict[str, Any]:
    """Return the expression of genes, one compressed column each, those of interest first, until the page is full.

    Parameters
    ----------
    cells
        The cells that are drawn.
    first
        Genes that the tables name: they come before the others, and from all genes where only some were kept.
    shown
        Names as they are shown.
    """
    adata = cells.adata
    everything: Any = adata.raw if adata.raw is not None else adata
    place = {str(name): i for i, name in enumerate(everything.var_names)}
    kept = [str(name) for name in adata.var_names if str(name) in place]
    named = [g for g in dict.fromkeys(first) if g in place]
    rest = [g for g in kept if g not in set(named)]
    given = everything.X[cells.rows][:, [place[g] for g in [*named, *rest]]]
    matrix: Any = given.tocsc() if sparse.issparse(given) else np.asarray(given)
    # those that the tables name in their order, then the most variable
    order = [*range(len(named)), *(len(named) + np.argsort(-_variance(matrix[:, len(named) :]), kind="stable"))]
    names = [[*named, *rest][i] for i in order]
    stored: list[dict[str, Any]] = []
    used = 0
    for i in range(0, len(names), AT_ONCE):
        block: Any = matrix[:, order[i : i + AT_ONCE]]
        for name, column in zip(names[i:], (block.toarray() if sparse.issparse(block) else block).T, strict=False):
            found = levels(column)
            text = deflated(found.values)
            used += len(text)
            if used > MOST_BYTES:
                return {"stored": stored, "n_all": len(names)}
            stored.append({"name": shown[name], "values": text, "low": found.low, "high": found.high})
    return {"stored": stored, "n_all": len(names)}


def _variance(matrix: Any) -> np.ndarray:
    if sparse.issparse(matrix):
        mean = np.asarray(matrix.mean(0)).ravel()
        return np.asarray(matrix.multiply(matrix).mean(0)).ravel() - mean**2
    return matrix.var(0)
