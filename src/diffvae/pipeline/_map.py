"""Maps of a run: t-SNE of a latent representation, which a second process can lay out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffvae import _keys, tl
from diffvae._core.anndata import results
from diffvae._core.runtime import StepLog

if TYPE_CHECKING:
    from anndata import AnnData


def lay_out(z: np.ndarray, seed: int, step: str, *, log: StepLog) -> AnnData:
    """Return the latent representation as AnnData with its map."""
    import anndata as ad

    cells = ad.AnnData(obsm={_keys.LATENT: z})
    with log.step(step):
        tl.tsne(cells, rng=seed)
    return cells


def take(adata: AnnData, cells: AnnData) -> None:
    """Take the map of the cells, with what placing further cells on it needs."""
    adata.obsm[_keys.TSNE] = cells.obsm[_keys.TSNE]
    adata.obsp.update(cells.obsp)
    results(adata).update(results(cells))
