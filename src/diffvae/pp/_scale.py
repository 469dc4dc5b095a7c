"""Scaling of each gene to [0, 1], and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from diffvae import _keys
from diffvae._core.io.matrix import BLOCK, quoted
from diffvae._errors import DataError


def _limits(minimum: Any, maximum: Any, n_genes: int) -> tuple[np.ndarray, np.ndarray]:
    minimum, maximum = np.asarray(minimum, dtype=np.float32), np.asarray(maximum, dtype=np.float32)
    if minimum.shape != (n_genes,) or maximum.shape != (n_genes,):
        raise ValueError(
            f"minimum and maximum have shapes {minimum.shape} and {maximum.shape}; both need one value for "
            f"each of the {n_genes:,} genes."
        )
    if not (maximum >= minimum).all():
        raise ValueError(f"maximum is below minimum for {int((maximum < minimum).sum()):,} genes.")
    return minimum, maximum


def to_unit(x: Any, minimum: Any, maximum: Any) -> tuple[Any, float]:
    r"""Scale each gene to [0, 1] by given limits, and clip values outside the limits.

    .. math:: u_{ng} = \min\bigl(1, \max\bigl(0, (x_{ng} - a_g) / (b_g - a_g)\bigr)\bigr)

    Genes with :math:`a_g = b_g` get 0.

    Parameters
    ----------
    x
        Expression, cells x genes; an array or a sparse matrix.
    minimum, maximum
        The limits a and b of each gene, usually ``adata.var["unit_min"]`` and ``adata.var["unit_max"]`` of
        the training cells.

    Returns
    -------
    unit
        float32, dense or sparse (CSR) as ``x``. Without negative limits a, zeros stay zeros, because
        (0 - a) / (b - a) <= 0 is clipped to 0. With a negative limit a sparse ``x`` becomes dense.
    clipped_share
        Share of all cells x genes values outside their limits.

    Examples
    --------
    >>> import numpy as np
    >>> from diffvae.pp import to_unit
    >>> to_unit(np.array([[0.0, 3.0], [1.0, 5.0]]), [0.0, 2.0], [2.0, 4.0])
    (array([[0. , 0.5],
           [0.5, 1. ]], dtype=float32), 0.25)
    """
    n_cells, n_genes = x.shape
    minimum, maximum = _limits(minimum, maximum, n_genes)
    # Values are clipped first, so that genes with equal limits become 0 / 1
    span = np.where(maximum > minimum, maximum - minimum, 1).astype(np.float32)
    if sp.issparse(x) and (minimum < 0).any():
        x = x.toarray()
    if not sp.issparse(x):
        x = np.array(x, dtype=np.float32, order="C")
        n_clipped = 0
        rows = max(1, BLOCK // max(n_genes, 1))
        for start in range(0, n_cells, rows):
            part = x[start : start + rows]
            n_clipped += int(((part < minimum) | (part > maximum)).sum())
            np.clip(part, minimum, maximum, out=part)
            part -= minimum
            part /= span
        return x, n_clipped / max(x.size, 1)
    x = x.tocsr().astype(np.float32, copy=True)
    x.sum_duplicates()
    # implicit zeros are below a positive lower limit
    stored = np.bincount(x.indices, minlength=n_genes)
    n_clipped = int((n_cells - stored)[minimum > 0].sum())
    for start in range(0, x.nnz, BLOCK):
        part, gene = x.data[start : start + BLOCK], x.indices[start : start + BLOCK]
        n_clipped += int(((part < minimum[gene]) | (part > maximum[gene])).sum())
        np.clip(part, minimum[gene], maximum[gene], out=part)
        part -= minimum[gene]
        part /= span[gene]
    x.eliminate_zeros()
    return x, n_clipped / max(n_cells * n_genes, 1)


def from_unit(unit: Any, minimum: Any, maximum: Any) -> Any:
    """Undo :func:`to_unit`: from [0, 1] back to log-normalised expression.

    .. math:: x_{ng} = a_g + u_{ng} (b_g - a_g)

    Exact up to the rounding of float32 for values that were not clipped. Genes with :math:`a_g = b_g` get that value.

    Parameters
    ----------
    unit
        Values in [0, 1], cells x genes; an array or a sparse matrix.
    minimum, maximum
        The limits a and b of each gene.

    Returns
    -------
    Matrix or array
        float32. A sparse matrix stays one (CSR), with full columns for the genes whose limit a is not 0.

    Examples
    --------
    >>> import numpy as np
    >>> from diffvae.pp import from_unit
    >>> from_unit(np.array([[0.0, 0.5]]), [0.0, 2.0], [2.0, 4.0])
    array([[0., 3.]], dtype=float32)
    """
    n_cells, n_genes = unit.shape
    minimum, maximum = _limits(minimum, maximum, n_genes)
    span = maximum - minimum
    if not sp.issparse(unit):
        x = np.asarray(unit, dtype=np.float32) * span
        x += minimum
        return x
    x = unit.tocsr().astype(np.float32, copy=True)
    x.data *= span[x.indices]
    full = np.flatnonzero(minimum)
    if full.size:
        data, indices = np.tile(minimum[full], n_cells), np.tile(full, n_cells)
        indptr = np.arange(n_cells + 1) * full.size
        x = x + type(x)((data, indices, indptr), shape=x.shape, dtype=np.float32)
    return x


def unscale(adata: AnnData, *, layer: str = _keys.UNIT) -> Any:
    """Return log-normalised expression from a layer of values in [0, 1].

    Parameters
    ----------
    adata
        Prepared by :func:`prepare`.
    layer
        Layer in [0, 1], cells x genes: ``"unit"``, or the reconstruction of a model.

    Returns
    -------
    Matrix or array
        ``adata.var["unit_min"] + layer * (adata.var["unit_max"] - adata.var["unit_min"])``; see
        :func:`from_unit`. Nothing is written.

    Examples
    --------
    >>> import diffvae as dv, numpy as np
    >>> from anndata import AnnData
    >>> adata = AnnData(np.random.default_rng(0).poisson(2.0, (50, 4)).astype("float32"))
    >>> dv.pp.prepare(adata, validation_size=0)
    >>> bool(np.allclose(dv.pp.unscale(adata), adata.X, atol=1e-6))
    True
    """
    missing = [key for key in (_keys.UNIT_MIN, _keys.UNIT_MAX) if key not in adata.var]
    if missing:
        raise DataError(f"adata.var has no column {quoted(missing)}; run diffvae.pp.prepare(adata) first.")
    if layer not in adata.layers:
        raise DataError(f"adata.layers[{layer!r}] is missing; there are {quoted(adata.layers) or 'none'}.")
    return from_unit(adata.layers[layer], adata.var[_keys.UNIT_MIN], adata.var[_keys.UNIT_MAX])
