"""A hundred cells with a graph, and a Graph-DiffVAE that trains on them in a fraction of a second."""

from functools import cache

import numpy as np
from _model_data import prepared
from anndata import AnnData

import diffvae as dv
from diffvae.model import GraphDiffVAE

TINY = {"n_latent": 4, "hidden": 16, "lr": 0.01, "max_epochs": 8}
QUICK = {"device": "cpu", "progress": False, "validate_every": 4}


@cache
def linked() -> AnnData:
    """Return cells with a graph; tests must not change them."""
    adata = prepared()
    dv.pp.cell_graph(adata, k=3, progress=False)
    return adata


@cache
def planted() -> AnnData:
    """Return 400 cells of ten well separated types; tests must not change them."""
    rng = np.random.default_rng(0)
    loadings = rng.gamma(0.4, 1.0, (10, 60))[np.arange(400) % 10]
    adata = AnnData(rng.poisson(8 * loadings * rng.gamma(5, 0.2, (400, 1)) + 0.3).astype(np.float32))
    dv.pp.prepare(adata, n_top_genes=None)
    dv.pp.cell_graph(adata, k=5, progress=False)
    return adata


def train(adata=None, *, rng=0, preset="default", training=None, **hyper) -> GraphDiffVAE:
    model = GraphDiffVAE(preset, **TINY | hyper)
    return model.train(linked() if adata is None else adata, rng=rng, **QUICK | (training or {}))
