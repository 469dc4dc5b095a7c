"""Fingerprints that tell one matrix, and one latent representation, from another."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from diffvae import _keys
from diffvae._core.io.backed_matrix import BackedMatrix

if TYPE_CHECKING:
    from anndata import AnnData

ACTIVE_VARIANCE = 0.01
"""A dimension is active where Var_x E[z_d|x] exceeds this (Burda et al. 2016, section 5.2)."""


def fingerprint(matrix: Any) -> str:
    """Return 16 hexadecimal digits that tell one training matrix from another; others on disk than in memory."""
    digest = hashlib.sha256(repr(matrix.shape).encode())
    if isinstance(matrix, BackedMatrix):
        digest.update("".join(matrix.survey.digests).encode())
        return digest.hexdigest()[:16]
    parts = (matrix.indptr, matrix.indices, matrix.data) if sparse.issparse(matrix) else (matrix,)
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]


def mark(z: np.ndarray) -> str:
    """Return what tells one latent representation from another: a fingerprint of its single-precision values."""
    return fingerprint(np.ascontiguousarray(z, dtype=np.float32))


def stability_of(adata: AnnData, use_rep: str) -> dict[str, Any] | None:
    """Return what :func:`diffvae.benchmark.stability` wrote, if it is about ``obsm[use_rep]`` as it is now."""
    stored = adata.uns.get(_keys.UNS, {}).get("stability")
    if stored is None or use_rep not in adata.obsm or stored["params"]["mark"] != mark(adata.obsm[use_rep]):
        return None
    return dict(stored)


def alive_dimensions(z: np.ndarray, prior: bool) -> np.ndarray:
    """Return which dimensions move with the cells, by the criterion of :meth:`diffvae.model.NeuralModel.diagnose`.

    Variance above 0.01 where a prior N(0, I) fixes the scale, above a hundredth of the mean variance elsewhere.

    Examples
    --------
    >>> alive_dimensions(np.array([[-1.0, 0.0, 0.05], [1.0, 0.0, -0.05]]), prior=True).tolist()
    [True, False, False]
    """
    variance = z.var(axis=0, dtype=np.float64)
    alive: np.ndarray = variance > ACTIVE_VARIANCE * (1.0 if prior else variance.mean())
    return alive
