"""Changed cells as an AnnData, and their places on the map of the unchanged ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae._core.runtime import in_one_thread

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model

Place = Callable[[np.ndarray], np.ndarray]
"""Latent representation of cells to their places on the map."""
AT_ONCE = 8000
"""Cells placed at once; from 10,000 on openTSNE takes a coarser gradient, and places depend on the other cells."""


def changed_adata(
    adata: AnnData, model: Model, rows: np.ndarray, y: np.ndarray, z: np.ndarray, obs: Mapping[str, object]
) -> AnnData:
    """Return cells of ``adata`` with expression y (training layer), latent representation z and columns ``obs``."""
    import anndata as ad

    from diffvae import pp

    features = model.features
    x = y
    var = pd.DataFrame(index=model.gene_names)
    if features.minimum is not None and features.maximum is not None:
        x = pp.from_unit(y, features.minimum, features.maximum).astype(np.float32)
        var[_keys.UNIT_MIN], var[_keys.UNIT_MAX] = features.minimum, features.maximum
    names = adata.obs_names.to_numpy()[rows]
    frame = pd.DataFrame({"cell": names, **obs}, index=[f"{n}_changed" for n in names])
    changed = ad.AnnData(x, obs=frame, var=var, obsm={_keys.LATENT: z})
    if features.layer is not None:
        changed.layers[features.layer] = y.astype(np.float32)
    return changed


def placer_of(adata: AnnData) -> Place | None:
    """Return what places cells on the map of ``adata``; None if it has no map of its latent representation.

    Raises
    ------
    DataError
        If the latent representation has changed since the map was made.
    """
    from diffvae.tl._tsne import placer

    tsne = adata.uns.get(_keys.UNS, {}).get("tsne", {})
    if _keys.TSNE not in adata.obsm or tsne.get("use_rep") != _keys.LATENT:
        return None
    # one thread: there are 100 short iterations, in which several threads mostly wait for each other
    place = placer(adata, use_rep=_keys.LATENT, perplexity=5, n_iter=100, key_added=_keys.TSNE, n_jobs=1)

    @in_one_thread
    def in_blocks(z: np.ndarray) -> np.ndarray:
        return np.concatenate([place(z[start : start + AT_ONCE]) for start in range(0, len(z), AT_ONCE)])

    return in_blocks


def place_together(changed: Sequence[AnnData], place: Place | None) -> None:
    """Place the cells of several AnnData at once, because changed cells do not affect one another."""
    changed = [cells for cells in changed if cells.n_obs]
    if place is None or not changed:
        return
    xy = place(np.concatenate([cells.obsm[_keys.LATENT] for cells in changed]))
    ends = np.cumsum([cells.n_obs for cells in changed])[:-1]
    for cells, places in zip(changed, np.split(xy, ends), strict=True):
        cells.obsm[_keys.TSNE] = places
