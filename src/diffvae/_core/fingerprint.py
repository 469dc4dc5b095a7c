"""Fingerprints that identify a matrix or a latent representation."""

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
    """Return 16 hexadecimal digits that identify a training matrix; a matrix on disk has others than in memory."""
    digest = hashlib.sha256(repr(matrix.shape).encode())
    if isinstance(matrix, BackedMatrix):
        digest.update("".join(matrix.survey.digests).encode())
        return digest.hexdigest()[:16]
    parts = (matrix.indptr, matrix.indices, matrix.data) if sparse.issparse(matrix) else (matrix,)
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]


def mark(z: np.ndarray) -> str:
    """Return the fingerprint of the single-precision values of a latent representation."""
    return fingerprint(np.ascontiguousarray(z, dtype=np.float32))


def stability_of(adata: AnnData, use_rep: str) -> dict[str, Any] | None:
    """Return the result of :func:`diffvae.benchmark.stability`, if it belongs to the present ``obsm[use_rep]``."""
    stored = adata.uns.get(_keys.UNS, {}).get("stability")
    if stored is None or use_rep not in adata.obsm or stored["params"]["mark"] != mark(adata.obsm[use_rep]):
        return None
    return dict(stored)


def alive_dimensions(z: np.ndarray, prior: bool) -> np.ndarray:
    """Return which dimensions vary between cells; :meth:`diffvae.model.NeuralModel.diagnose` also asks what they carry.

    With a prior N(0, I), which fixes the scale, the variance must exceed 0.01; otherwise a hundredth of the mean
    variance.

    Examples
    --------
    >>> alive_dimensions(np.array([[-1.0, 0.0, 0.05], [1.0, 0.0, -0.05]]), prior=True).tolist()
    [True, False, False]
    """
    variance = z.var(axis=0, dtype=np.float64)
    alive: np.ndarray = variance > ACTIVE_VARIANCE * (1.0 if prior else variance.mean())
    return alive
