"""Simulated cells of a small tree with a trained model and classifier."""

import functools
import warnings

import diffvae as dv

TREE = {"stem": {"red": None, "white": None}}
SOURCE, RED, WHITE = "stem", "red", "white"


@functools.cache
def states():
    """Return cells, model and classifier; tests must copy the cells before they write into them."""
    adata = dv.datasets.simulate_differentiation(400, 120, tree=TREE, n_drivers=20, rng=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dv.pp.prepare(adata, n_top_genes=None)
    model = dv.model.DiffVAE(n_latent=8, hidden=(64, 32), lr=2e-3, early_stopping=False).train(
        adata, max_epochs=200, progress=False
    )
    dv.tl.embed(adata, model)
    classifier = dv.model.CellStateClassifier((32, 16)).train(adata, "cell_type", max_epochs=60, progress=False)
    return adata, model, classifier
