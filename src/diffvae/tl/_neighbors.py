"""Which cells are neighbours, given the uncertainty of their latent representation?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from diffvae import _keys, _random
from diffvae._core.anndata import results
from diffvae._core.runtime import in_one_thread
from diffvae._core.validate import Number, Rule, Whole, check
from diffvae.tl._cluster import N_NEIGHBORS, nearest_neighbors, shared_neighbor_graph

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model

N_DRAWS = 5
"""Draws over which the graph is averaged."""
RULES: dict[str, Rule] = {"n_neighbors": Whole(1), "n_draws": Whole(1), "scale": Number("[0, inf)")}


@in_one_thread
def neighbors(
    adata: AnnData,
    model: Model,
    *,
    n_neighbors: int = N_NEIGHBORS,
    n_draws: int = N_DRAWS,
    scale: float = 1.0,
    key_added: str = _keys.NEIGHBORS,
    rng: _random.Rng = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Average the shared-neighbour graph of the cells over the posterior of their latent representation.

    .. math:: A = \frac{1}{S} \sum_{s=1}^{S} SNN_k(\mu + \tau \, \sigma \odot \varepsilon_s),
              \quad \varepsilon_s \sim N(0, I)

    The posterior means of a denoising model lie on a smooth, low-dimensional surface that modularity cuts into equal
    patches. Draws from the posterior restore the uncertainty of each cell.

    Parameters
    ----------
    adata
        Cells in memory.
    model
        A trained model.
    n_neighbors
        k: nearest neighbours of a cell in each draw.
    n_draws
        S: draws from the posterior. One is enough if ``scale`` is 0 or the model has no posterior.
    scale
        tau: multiple of the posterior standard deviation; 0 gives the graph of the posterior means.
    key_added
        Key in ``uns``, for the ``neighbors_key`` of scanpy.
    rng
        Seed of the draws.
    copy
        Return a copy instead of writing into ``adata``.

    Returns
    -------
    None, or the copy. Writes ``obsp["diffvae_connectivities"]`` (A: symmetric, sparse, weights from 0 to 1, time and
    memory linear in cells), ``obsp["diffvae_distances"]`` (Euclidean distances between the posterior means of nearest
    neighbours) and ``uns[key_added]``.

    References
    ----------
    Levine et al. 2015 (shared neighbours, weighted by the Jaccard index).

    Examples
    --------
    >>> import scanpy as sc
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> dv.tl.neighbors(adata, model)
    >>> sc.tl.leiden(adata, 1.0, neighbors_key="diffvae_neighbors", flavor="igraph", n_iterations=2, directed=False)
    >>> adata.obs["leiden"].nunique() > 3
    True
    """
    check(RULES, n_neighbors=n_neighbors, n_draws=n_draws, scale=scale)
    mean, sd = model.get_posterior(adata)
    n_draws = n_draws if scale > 0 and sd.any() else 1
    graph = posterior_graph(mean, sd, n_neighbors, n_draws, scale, rng)
    seed = _random.seed(rng, "neighbors") % 2**31
    nearest = nearest_neighbors(mean, n_neighbors, seed)
    n, k = nearest.shape
    distances = np.linalg.norm(mean[nearest] - mean[:, None], axis=2)
    adata = adata.copy() if copy else adata
    adata.obsp[_keys.CONNECTIVITIES] = graph
    adata.obsp[_keys.DISTANCES] = sparse.csr_matrix(
        (distances.ravel(), nearest.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n)
    )
    adata.uns[key_added] = {
        "connectivities_key": _keys.CONNECTIVITIES,
        "distances_key": _keys.DISTANCES,
        "params": {
            "method": "diffvae", "n_neighbors": k + 1, "n_draws": n_draws, "scale": scale, "random_state": seed,
            "metric": "euclidean", "use_rep": _keys.LATENT,
        },
    }  # fmt: skip
    results(adata)["neighbors"] = {"key_added": key_added, "model": type(model).__name__}
    return adata if copy else None


def posterior_graph(
    mean: np.ndarray,
    sd: np.ndarray,
    n_neighbors: int = N_NEIGHBORS,
    n_draws: int = N_DRAWS,
    scale: float = 1.0,
    rng: _random.Rng = 0,
) -> sparse.csr_matrix:
    """Return the shared-neighbour graph averaged over draws from N(mean, (scale sd)^2), cells x dimensions."""
    seed = _random.seed(rng, "neighbors") % 2**31
    random = _random.generator(rng, "posterior draws")
    spread = np.float32(scale) * sd
    total = sparse.csr_matrix((len(mean), len(mean)))
    for _ in range(n_draws):
        draw = mean + spread * random.standard_normal(mean.shape, dtype=np.float32)
        total = total + shared_neighbor_graph(nearest_neighbors(draw, n_neighbors, seed))
    return total / n_draws
