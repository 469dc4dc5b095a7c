"""Which cells are neighbours, given the uncertainty of their latent representation?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from diffvae import _keys, _random
from diffvae._core.anndata import balancing, posterior, results
from diffvae._core.neighbors import nearest, nearest_per_batch
from diffvae._core.runtime import in_one_thread
from diffvae._core.validate import Number, Rule, Whole, check
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

N_NEIGHBORS = 15
N_DRAWS = 5
RULES: dict[str, Rule] = {"n_neighbors": Whole(1), "n_draws": Whole(1), "scale": Number("[0, inf)")}


@in_one_thread
def neighbors(
    adata: AnnData,
    *,
    use_rep: str = _keys.LATENT,
    n_neighbors: int = N_NEIGHBORS,
    n_draws: int = N_DRAWS,
    scale: float = 1.0,
    balance_by: str | None = None,
    key_added: str = _keys.NEIGHBORS,
    rng: _random.Rng = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Average the shared-neighbour graph of the cells over the posterior of their latent representation.

    .. math:: A = \frac{1}{S} \sum_{s=1}^{S} SNN_k(\mu + \tau \, \sigma \odot \varepsilon_s),
              \quad \varepsilon_s \sim N(0, I)

    The posterior means of a denoising model lie on a smooth, low-dimensional surface that modularity cuts into equal
    patches. Draws from the posterior restore the uncertainty of each cell. :func:`cluster` with Leiden makes the same
    graph from the same parameters and seed, and replaces a stored one.

    Parameters
    ----------
    adata
        With posterior means in ``obsm[use_rep]`` and standard deviations in ``obsm[use_rep + "_sd"]``, as :func:`embed`
        writes them. Without the latter the graph is that of ``obsm[use_rep]``.
    use_rep
        Any key of ``obsm``.
    n_neighbors
        k: nearest neighbours of a cell in each draw.
    n_draws
        S: draws from the posterior.
    scale
        tau: multiple of the posterior standard deviation; 0 gives the graph of the posterior means.
    balance_by
        Key in ``obs`` of B batches: k / B neighbours (rounded up) in each batch instead of k overall, without those
        that are likely of another type; see :func:`diffvae.pp.cell_graph`. :func:`cluster` does not balance.
    key_added
        Key in ``uns``, for the ``neighbors_key`` of scanpy.
    rng
        Seed of the draws.
    copy
        Return a copy instead of writing into ``adata``.

    Returns
    -------
    None, or the copy. Writes ``obsp["diffvae_connectivities"]`` (A: symmetric, sparse, float32, weights from 0 to 1,
    time and memory linear in cells), ``obsp["diffvae_distances"]`` (Euclidean distances between the posterior means of
    nearest neighbours) and ``uns[key_added]``, whose ``params`` have the number of draws.

    References
    ----------
    Levine et al. 2015 (shared neighbours, weighted by the Jaccard index).

    Examples
    --------
    UMAP, Leiden and PAGA of scanpy take the graph by its key:

    >>> import scanpy as sc
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.tl.embed(adata, dv.model.PCA(n_latent=10).train(adata))
    >>> dv.tl.neighbors(adata)
    >>> sc.tl.leiden(adata, 1.0, neighbors_key="diffvae_neighbors", flavor="igraph", n_iterations=2, directed=False)
    >>> adata.obs["leiden"].nunique() > 3
    True
    >>> sc.tl.paga(adata, "leiden", neighbors_key="diffvae_neighbors")
    >>> sc.tl.umap(adata, neighbors_key="diffvae_neighbors", maxiter=10)
    >>> adata.obsm["X_umap"].shape
    (700, 2)
    """
    check(RULES, n_neighbors=n_neighbors, n_draws=n_draws, scale=scale)
    mean, sd = posterior(adata, use_rep)
    if len(mean) < 2:
        raise DataError(f"The number of cells is {len(mean)}; a graph of neighbours needs at least 2.")
    seed = graph_seed(rng)
    batch = balancing(adata, balance_by, n_neighbors)
    graph = posterior_graph(mean, sd, n_neighbors, n_draws, scale, seed, batch)
    nearest = nearest_neighbors(mean, n_neighbors, seed, batch)
    adata = adata.copy() if copy else adata
    n_drawn = 0 if sd is None or scale == 0 else n_draws
    store(adata, graph, nearest, key_added, use_rep=use_rep, n_draws=n_drawn, scale=scale, seed=seed)
    return adata if copy else None


def graph_seed(rng: _random.Rng) -> int:
    """Return the seed from which :func:`neighbors` and :func:`cluster` make their graph."""
    return _random.seed(rng, "cluster") % 2**31


def posterior_graph(
    mean: np.ndarray,
    sd: np.ndarray | None,
    n_neighbors: int = N_NEIGHBORS,
    n_draws: int = N_DRAWS,
    scale: float = 1.0,
    rng: int = 0,
    batch: np.ndarray | None = None,
) -> sparse.csr_matrix:
    """Return the mean shared-neighbour graph of draws from the posterior; without sd, that of the means.

    With batches the neighbours are those in each batch. Float32, cells x cells, symmetric. The equation is that of
    :func:`neighbors`.
    """
    if sd is None or scale * n_draws == 0 or not sd.any():
        nearest = nearest_neighbors(mean, n_neighbors, rng, batch)
        return sparse.csr_matrix(shared_neighbor_graph(nearest), dtype=np.float32)
    random = _random.generator(rng, "posterior draws")
    total = sparse.csr_matrix((len(mean), len(mean)))
    for _ in range(n_draws):
        draw = mean + scale * sd * random.standard_normal(mean.shape, dtype=np.float32)
        total = total + shared_neighbor_graph(nearest_neighbors(draw.astype(np.float32), n_neighbors, rng, batch))
    return sparse.csr_matrix(total / n_draws, dtype=np.float32)


def store(
    adata: AnnData,
    graph: sparse.csr_matrix,
    nearest: np.ndarray,
    key_added: str = _keys.NEIGHBORS,
    *,
    use_rep: str,
    n_draws: int,
    scale: float,
    seed: int,
) -> None:
    """Write a graph, and the distances between the means of nearest neighbours, in the form of scanpy."""
    mean, _ = posterior(adata, use_rep)
    k = nearest.shape[1]
    distances = np.linalg.norm(mean[nearest] - mean[:, None], axis=2)
    adata.obsp[_keys.CONNECTIVITIES] = graph
    adata.obsp[_keys.DISTANCES] = _rows(nearest, distances)
    adata.uns[key_added] = {
        "connectivities_key": _keys.CONNECTIVITIES,
        "distances_key": _keys.DISTANCES,
        "params": {
            "method": "diffvae", "n_neighbors": k + 1, "n_draws": n_draws, "scale": scale, "random_state": seed,
            "metric": "euclidean", "use_rep": use_rep,
        },
    }  # fmt: skip
    results(adata)["neighbors"] = {"key_added": key_added, "use_rep": use_rep, "n_draws": n_draws}


def _rows(nearest: np.ndarray, values: np.ndarray) -> sparse.csr_matrix:
    """Return values of the neighbours of each row as a matrix; -1 is no neighbour."""
    n, there = len(nearest), nearest >= 0
    return sparse.csr_matrix((values[there], nearest[there], np.append(0, there.sum(axis=1).cumsum())), shape=(n, n))


def nearest_neighbors(
    x: np.ndarray, n_neighbors: int = N_NEIGHBORS, seed: int = 0, batch: np.ndarray | None = None
) -> np.ndarray:
    """Return the nearest other rows of each row, nearest first: see :func:`diffvae._core.neighbors.nearest`.

    With batches they are the nearest in each batch, batch after batch, with -1 where there is none.
    """
    if batch is not None:
        return nearest_per_batch(x, n_neighbors, batch, metric="euclidean", rng=seed).indices
    return nearest(x, min(n_neighbors, len(x) - 1), metric="euclidean", rng=seed).indices


def shared_neighbor_graph(neighbors: np.ndarray) -> sparse.csr_matrix:
    """Join each row to its nearest neighbours, weighted by the Jaccard index of the two neighbourhoods.

    PhenoGraph (Levine et al. 2015) and Seurat use the same weights.
    """
    directed = _rows(neighbors, np.ones(neighbors.shape))
    with_self = directed + sparse.eye(len(neighbors), format="csr")
    edges = directed.maximum(directed.T)
    shared = edges.multiply(with_self @ with_self.T).tocsr()
    size = np.diff(with_self.indptr)
    shared.data = shared.data / (np.repeat(size, np.diff(shared.indptr)) + size[shared.indices] - shared.data)
    return shared
