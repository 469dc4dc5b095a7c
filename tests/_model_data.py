"""A hundred cells with three gene programmes, and models that train on them in a fraction of a second."""

from functools import cache

import numpy as np
from anndata import AnnData

import diffvae as dv
from diffvae.model import PCA, VAE, AutoEncoder, DiffVAE

N_CELLS, N_GENES, N_LATENT = 100, 40, 4
TINY = {"n_latent": N_LATENT, "hidden": (16, 8)}
QUICK = {"max_epochs": 3, "batch_size": 32, "precision": "float32", "device": "cpu", "progress": False}


def counts(seed: int = 0, n_cells: int = N_CELLS) -> AnnData:
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(0).gamma(0.5, 1.0, (3, N_GENES))
    adata = AnnData(rng.poisson(3 * rng.gamma(1.0, 1.0, (n_cells, 3)) @ loadings + 0.2).astype(np.float32))
    adata.obs_names = [f"cell{seed}_{i}" for i in range(n_cells)]
    adata.var_names = [f"gene{i}" for i in range(N_GENES)]
    return adata


@cache
def _prepared(seed: int) -> AnnData:
    return dv.pp.prepare(counts(seed), n_top_genes=None, copy=True)


def prepared(seed: int = 0) -> AnnData:
    return _prepared(seed).copy()


MAKERS = {
    "DiffVAE": lambda: DiffVAE(**TINY),
    "VAE": lambda: VAE(**TINY),
    "AutoEncoder": lambda: AutoEncoder(**TINY),
    "PCA": lambda: PCA(n_latent=N_LATENT),
}


@cache
def trained(name: str):
    """Return a trained model; tests must not change it."""
    return MAKERS[name]().train(prepared(), **QUICK)
