"""Where do the cells lie in the latent space of a model?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffvae import _keys
from diffvae._adata import results

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model


def embed(
    adata: AnnData,
    model: Model,
    *,
    key_added: str = _keys.LATENT,
    max_missing: float = 0.2,
    copy: bool = False,
) -> AnnData | None:
    """Write the latent representation (posterior means) of cells into ``obsm``.

    Parameters
    ----------
    adata
        Cells of the training or new ones; genes are matched by name and scaled by the training scaling.
    model
        A trained model.
    key_added
        Key in ``obsm``.
    max_missing
        Share of the model's genes that may be missing.
    copy
        Return a copy instead of writing into ``adata``.

    Returns
    -------
    None, or the copy. Writes ``obsm[key_added]`` and ``uns["diffvae"]["embed"]``.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.tl.embed(adata, dv.model.PCA(n_latent=5).train(adata))
    >>> adata.obsm["X_diffvae"].shape
    (700, 5)
    """
    z = model.get_latent_representation(adata, max_missing=max_missing)
    adata = adata.copy() if copy else adata
    adata.obsm[key_added] = z
    results(adata)["embed"] = {
        "model": type(model).__name__,
        "key_added": key_added,
        "training_fingerprint": model.features.fingerprint,
    }
    return adata if copy else None
