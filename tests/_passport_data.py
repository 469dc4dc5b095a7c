"""Cells with known dimensions (a type, a batch, noise, a dead one) and their stability in further trainings."""

import functools
import warnings

import numpy as np
import pandas as pd
from anndata import AnnData

import diffvae as dv
from diffvae._core.fingerprint import mark

N = 240
TREE = {"stem": {"red": None, "white": None}}


def planted(*, recurrence=(1.0, 1.0, 0.2, np.nan), with_stability: bool = True) -> AnnData:
    """Return cells with four dimensions: type a on the side +, batch x on the side -, noise, dead."""
    rng = np.random.default_rng(0)
    types, batches = np.repeat(["a", "b", "c"], N // 3), np.tile(["x", "y"], N // 2)
    z = rng.normal(0, 0.3, (N, 4))
    z[types == "a", 0] += 3
    z[batches == "x", 1] -= 3
    z[:, 3] = 0
    genes = np.zeros((6, 4))
    genes[0, 0], genes[1, 0], genes[2, 1], genes[3, 2] = 2.0, -1.0, 1.5, 1.0
    x = (z @ genes.T + 10 + rng.normal(0, 0.1, (N, 6))).astype(np.float32)
    x[:, 3] = 20 - x[:, 3]  # in the cells it falls along dimension 2, against the weights of the decoder
    adata = AnnData(x, obs=pd.DataFrame({"type": types, "batch": batches}, index=[f"cell{i}" for i in range(N)]))
    adata.var_names = [f"gene{i}" for i in range(6)]
    adata.obsm["X_diffvae"] = z.astype(np.float32)
    adata.varm["diffvae_gene_weights"], adata.varm["diffvae_gene_jacobian"] = genes, 0.5 * genes
    agreement = pd.DataFrame({"dimension": range(4), "spearman": 1.0, "top_overlap": 1.0})
    adata.uns["diffvae"] = {"embed": {"model": "DiffVAE"}, "gene_weights": agreement}
    if with_stability:
        alive = [True, True, True, False]
        dimensions = pd.DataFrame({"dimension": range(4), "alive": alive, "recurrence": recurrence, "similarity": 0.9})
        genes = pd.DataFrame({"dimension": [0], "reading": ["weights"], "gene": ["gene0"], "recurrence": [0.6]})
        params = {"mark": mark(adata.obsm["X_diffvae"]), "n": 5, "model": "DiffVAE", "null": "rotation"}
        adata.uns["diffvae"]["stability"] = {"dimensions": dimensions, "genes": genes, "params": params}
    return adata


@functools.cache
def simulated() -> AnnData:
    """Return simulated cells of a fork with PCA, stability and passport; tests must not change them."""
    adata = dv.datasets.simulate_differentiation(400, 150, tree=TREE, n_drivers=20, rng=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dv.pp.prepare(adata, n_top_genes=None)
    model = dv.model.PCA(n_latent=6).train(adata)
    dv.tl.embed(adata, model)
    dv.tl.gene_weights(adata, model)
    dv.benchmark.stability(adata, model, n=3, cluster_method="kmeans", n_clusters=3, progress=False)
    dv.tl.passport(adata, "cell_type", batch_key=None)
    return adata
