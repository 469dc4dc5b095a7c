"""The genes by which the map can be coloured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from diffvae.report._encode import deflated, levels, short

if TYPE_CHECKING:
    from diffvae.report._cells import Cells

MOST_BYTES = 7_000_000
"""Of all genes together, as the page has them."""
AT_ONCE = 256
"""Genes that are made dense at once."""


def data(cells: Cells, first: Iterable[str]) -> dict[str, Any]:
    """Return the expression of genes, one compressed column each, those of interest first, until the page is full.

    Parameters
    ----------
    cells
        The cells that are drawn.
    first
        Genes that the tables name: they come before the others, and from all genes where only some were kept.
    """
    adata = cells.adata
    everything = adata.raw.to_adata() if adata.raw is not None else adata
    place = {str(name): i for i, name in enumerate(everything.var_names)}
    kept = [str(name) for name in adata.var_names if str(name) in place]
    given: Any = everything.X[cells.rows]
    matrix: Any = given.tocsc() if sparse.issparse(given) else np.asarray(given)
    named = [g for g in dict.fromkeys(first) if g in place]
    rest = [g for g in kept if g not in set(named)]
    wide = _variance(matrix)
    rest.sort(key=lambda g: -wide[place[g]])
    names = [*named, *rest]
    stored: list[dict[str, Any]] = []
    used = 0
    for i in range(0, len(names), AT_ONCE):
        block: Any = matrix[:, [place[g] for g in names[i : i + AT_ONCE]]]
        for name, column in zip(names[i:], (block.toarray() if sparse.issparse(block) else block).T, strict=False):
            found = levels(column)
            text = deflated(found.values)
            used += len(text)
            if used > MOST_BYTES:
                return {"stored": stored, "n_all": len(names)}
            stored.append({"name": short(name), "values": text, "low": found.low, "high": found.high})
    return {"stored": stored, "n_all": len(names)}


def _variance(matrix: Any) -> np.ndarray:
    if sparse.issparse(matrix):
        mean = np.asarray(matrix.mean(0)).ravel()
        return np.asarray(matrix.multiply(matrix).mean(0)).ravel() - mean**2
    return matrix.var(0)
