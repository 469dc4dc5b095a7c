"""What scores pairs of cells, from the trivial to Graph-DiffVAE: each sees the cells and the graph that it may know."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from diffvae import _keys, _links, _random
from diffvae._adata import graph

if TYPE_CHECKING:
    from anndata import AnnData

Scorer: TypeAlias = Callable[[np.ndarray], np.ndarray]
Method: TypeAlias = Callable[["AnnData", _random.Rng], Scorer]
KNOWN = "known_links"
"""``obsp``: the graph without the edges that were hidden."""


def pearson(adata: AnnData, rng: _random.Rng) -> Scorer:
    """Score by the correlation of expression, what the graph was made of."""
    x = adata.layers[_keys.UNIT]
    return lambda pairs: _links.pearson(x, pairs)


def pca_distance(adata: AnnData, rng: _random.Rng) -> Scorer:
    """Score by the distance between scanpy's 50 principal components: the neighbours that most people use."""
    return _distance(_pca(adata, rng))


def pca_cosine(adata: AnnData, rng: _random.Rng) -> Scorer:
    """Score by the cosine of the same."""
    return _cosine(_pca(adata, rng))


def diffvae_distance(adata: AnnData, rng: _random.Rng) -> Scorer:
    """Score by the distance in DiffVAE's latent space."""
    from diffvae.model import DiffVAE

    return _distance(DiffVAE().train(adata, rng=rng, progress=False).get_latent_representation())


def common_neighbours(adata: AnnData, rng: _random.Rng) -> Scorer:
    """Score by the neighbours that two cells share in the graph, without a look at expression."""
    links = graph(adata, KNOWN)
    return lambda pairs: np.asarray(links[pairs[:, 0]].multiply(links[pairs[:, 1]]).sum(1), np.float64).ravel()


def popularity(adata: AnnData, rng: _random.Rng) -> Scorer:
    """Score by the product of the cells' numbers of links: what popularity alone gives."""
    degree = np.asarray(graph(adata, KNOWN).sum(1), np.float64).ravel()
    return lambda pairs: degree[pairs[:, 0]] * degree[pairs[:, 1]]


def graph_diffvae(adata: AnnData, rng: _random.Rng, **params: Any) -> Scorer:
    """Score by Graph-DiffVAE's logit."""
    from diffvae.model import GraphDiffVAE

    model = GraphDiffVAE(**params).train(adata, graph_key=KNOWN, rng=rng, progress=False)
    places = model.get_link_representation()
    return lambda pairs: _links.inner_products(places, pairs)


def link_methods() -> dict[str, Method]:
    """Return the predictors of links by name, for :func:`links`: name to function of cells and seed.

    Each gets prepared cells with ``obsp["known_links"]`` and returns a function from pairs x 2 cell numbers to scores.

    Examples
    --------
    >>> import diffvae as dv
    >>> list(dv.benchmark.link_methods())[:3]
    ['GraphDiffVAE', 'Pearson', 'PCA, distance']
    """
    return {
        "GraphDiffVAE": graph_diffvae,
        "Pearson": pearson,
        "PCA, distance": pca_distance,
        "PCA, cosine": pca_cosine,
        "DiffVAE, distance": diffvae_distance,
        "common neighbours": common_neighbours,
        "popularity": popularity,
    }


def _pca(adata: AnnData, rng: _random.Rng) -> np.ndarray:
    import scanpy as sc

    seed = _random.seed(rng, "PCA of the links") % 2**31
    return sc.pp.pca(adata.X, min(50, min(adata.shape) - 1), random_state=seed)


def _cosine(x: np.ndarray) -> Scorer:
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return lambda pairs: _links.inner_products(unit, pairs)


def _distance(x: np.ndarray) -> Scorer:
    return lambda pairs: -np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1)
