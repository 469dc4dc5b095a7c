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
