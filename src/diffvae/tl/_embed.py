"""Where do the cells lie in the latent space of a model?"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae import _keys
from diffvae._core.anndata import results
from diffvae._core.io.backed import BackedAnnData, is_on_disk, open_store
from diffvae._core.io.writer import adata_writer, refuse_out

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model


def embed(
    adata: Any,
    model: Model,
    *,
    key_added: str = _keys.LATENT,
    max_missing: float = 0.2,
    copy: bool = False,
    out: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> AnnData | Path | None:
    """Write the latent representation (posterior means and standard deviations) of cells into ``obsm``.

    Parameters
    ----------
    adata
        Training or new cells; genes are matched by name and scaled by the training scaling. An AnnData file
        (``.h5ad``, ``.zarr``), a list of such files or a backed AnnData is read in blocks.
    model
        A trained model.
    key_added
        Key in ``obsm`` of the means.
    max_missing
        Share of the model's genes that may be missing.
    copy
        Return a copy instead of writing into ``adata``.
    out
        If the cells are on disk, the file to write (``.h5ad`` or ``.zarr``): ``obs``, ``var`` and the latent
        representation, without expression.
    overwrite
        Replace ``out``, unless it is a file of the cells.

    Returns
    -------
    None, the copy, or ``out`` if the cells are on disk. Writes ``obsm[key_added]`` and ``uns["diffvae"]["embed"]``, and
    for models with a posterior the standard deviations, ``obsm[key_added + "_sd"]``: :func:`neighbors` and
    :func:`cluster` use them.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.tl.embed(adata, dv.model.PCA(n_latent=5).train(adata))
    >>> adata.obsm["X_diffvae"].shape
    (700, 5)
    """
    record = {
        "model": type(model).__name__,
        "key_added": key_added,
        "training_fingerprint": model.features.fingerprint,
    }
    if is_on_disk(adata):
        if out is None:
            raise ValueError("The cells are on disk; give the file to write: out='embedded.h5ad'.")
        store = open_store(adata)
        return _embed_on_disk(store, model, refuse_out(out, overwrite, store), key_added, max_missing, record)
    if out is not None:
        raise ValueError("out is only for cells on disk; write these cells with adata.write_h5ad.")
    mean, sd = model.get_posterior(adata, max_missing=max_missing)
    adata = adata.copy() if copy else adata
    adata.obsm[key_added] = mean
    adata.obsm.pop(key_added + _keys.SD, None)  # of another model
    if sd.any():
        adata.obsm[key_added + _keys.SD] = sd
    results(adata)["embed"] = record
    return adata if copy else None


def _embed_on_disk(
    store: BackedAnnData, model: Model, out: Path, key: str, max_missing: float, record: dict[str, Any]
) -> Path:
    import anndata as ad

    from diffvae.model._features import match_new

    matrix = match_new(store, model.features, max_missing)
    obs, design = store.obs, model.design(store)
    store.warn(stacklevel=4)
    skeleton = ad.AnnData(obs=obs, var=store.var, uns={_keys.UNS: {"embed": record}})
    with adata_writer(out, skeleton) as file:
        for rows, block in matrix.blocks():
            mean, sd = model._posterior(block, None if design is None else design[rows])
            file.append(f"obsm/{key}", mean)
            if sd.any():
                file.append(f"obsm/{key}{_keys.SD}", sd)
        if not len(matrix):
            file.append(f"obsm/{key}", np.empty((0, model.n_latent), dtype=np.float32))
    return out
