"""What is known of a latent space from further trainings, as long as it is still the same space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae import _keys

if TYPE_CHECKING:
    from anndata import AnnData


def mark(z: np.ndarray) -> str:
    """Return what tells one latent representation from another: a fingerprint of its single-precision values."""
    from diffvae.model._input import fingerprint

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
    from diffvae.model._diagnose import ACTIVE_VARIANCE

    variance = z.var(axis=0, dtype=np.float64)
    alive: np.ndarray = variance > ACTIVE_VARIANCE * (1.0 if prior else variance.mean())
    return alive
