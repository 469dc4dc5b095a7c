"""Cells as they are read, made fit for use where that is certain: empty droplets left out, raw for a scaled X."""

from __future__ import annotations

import warnings
from typing import Any

from anndata import AnnData

from diffvae._core.io.matrix import blocks, values
from diffvae._errors import DataError
from diffvae.pp._check import KIND_NAMES, kind_of
from diffvae.pp._record import is_prepared
from diffvae.pp._unfiltered import with_genes


def as_usable(adata: AnnData, *, layer: str | None = None, min_genes: int | None = None) -> AnnData:
    """Return cells with the values of ``raw`` where X is scaled, and without those that express too few genes.

    Parameters
    ----------
    adata
        Cells as they were read.
    layer
        Layer that is used instead of X, and left as it is.
    min_genes
        Fewest expressed genes of a cell; None keeps all cells.

    Examples
    --------
    >>> import numpy as np
    >>> adata = AnnData(np.array([[1.0, 2.0], [0.0, 3.0]], dtype="float32"))
    >>> adata.raw = adata.copy()
    >>> adata.X = adata.X - 2
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     as_usable(adata).X.min().item()
    0.0
    """
    if is_prepared(adata):
        if min_genes is not None:
            raise DataError(
                f"min_genes is {min_genes}, but the cells have been prepared; leave it out, or give the original data."
            )
        return adata
    if layer is None and adata.raw is not None and adata.X is not None and _has_negative(adata.X):
        kind = kind_of(adata.raw.X)
        if kind is not None:
            warnings.warn(
                f"adata.X was scaled or centred; adata.raw, which holds {KIND_NAMES[kind]} of "
                f"{adata.raw.n_vars:,} genes, is taken instead.",
                UserWarning,
                stacklevel=3,
            )
            adata = adata.raw.to_adata()
    return with_genes(adata, min_genes, layer)


def _has_negative(x: Any) -> bool:
    """Return whether numbers are below 0; what holds no numbers is refused later."""
    if getattr(x, "dtype", None) is None or x.dtype.kind not in "if":
        return False
    return any((values(block) < 0).any() for _, _, block in blocks(x))
