"""The clustering algorithms, each as labels for the rows of an array or the nodes of a graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from scipy import sparse

from diffvae._leiden import leiden as leiden  # one more of the algorithms

N_NEIGHBORS = 15
EXACT_NEIGHBORS = 20_000
"""Cells up to which neighbours are searched exactly."""


def kmeans(x: np.ndarray, n_clusters: int, seed: int, n_init: int = 10) -> np.ndarray:
    """Return k-means labels, the best of ``n_init`` starts (k-means++)."""
    from sklearn.cluster import KMeans

    return KMeans(n_clusters, n_init=n_init, random_state=seed).fit(x).labels_


def gaussian_mixture(x: np.ndarray, n_clusters: int, seed: int, n_init: int = 3) -> tuple[np.ndarray, float]:
    """Return labels and BIC of a Gaussian mixture; covariances are full up to 10 dimensions, diagonal beyond."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    covariance = "full" if x.shape[1] <= 10 else "diag"
    scaled = x / max(float(x.std()), 1e-12)  # so that the floor on variances means the same whatever the unit
    model = GaussianMixture(n_clusters, covariance_type=covariance, n_init=n_init, random_state=seed, reg_covar=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = model.fit_predict(scaled)
    return labels, float(model.bic(scaled))


def dbscan(x: np.ndarray, eps: float | None, min_samples: int | None) -> tuple[np.ndarray, float, int]:
    """Return DBSCAN labels (-1 = noise), eps and min_samples.

    Where they are not given min_samples is twice the dimensions, between 5 and 20 (Sander et al. 1998), and eps the
    knee of the sorted distances to the min_samples-th neighbour (Ester et al. 1996): the point furthest below the
    chord.
    """
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import NearestNeighbors

    samples = min_samples or int(np.clip(2 * x.shape[1], 5, 20))
    samples = min(samples, len(x) - 1)
    if eps is None:
        distances = NearestNeighbors(n_neighbors=samples).fit(x).kneighbors()[0][:, -1]
        curve = np.sort(distances)
        chord = np.linspace(curve[0], curve[-1], len(curve))
        eps = float(curve[np.argmax(chord - curve)]) or float(curve[-1]) or 1.0
    return DBSCAN(eps=eps, min_samples=samples).fit(x).labels_, eps, samples


def neighbor_graph(x: np.ndarray, seed: int, n_neighbors: int = N_NEIGHBORS) -> sparse.csr_matrix:
    """Return the shared-neighbour graph: edges between nearest neighbours, weighted by the Jaccard index of their own.

    As PhenoGraph (Levine et al. 2015) and Seurat weigh it. Exact up to 20,000 cells, by pynndescent above.
    """
    k = min(n_neighbors, len(x) - 1)
    if len(x) <= EXACT_NEIGHBORS:
        from sklearn.neighbors import NearestNeighbors

        neighbors = NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)
    else:
        from pynndescent import NNDescent

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numba's, on its own threading layer
            neighbors = NNDescent(x, n_neighbors=k + 1, random_state=seed).neighbor_graph[0][:, 1:]
    n = len(x)
    directed = sparse.csr_matrix((np.ones(n * k), neighbors.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    with_self = directed + sparse.eye(n, format="csr")
    edges = directed.maximum(directed.T)
    shared = edges.multiply(with_self @ with_self.T).tocsr()
    shared.data = shared.data / (2 * (k + 1) - shared.data)
    return shared


def leiden_with(communities: Callable[[float], np.ndarray], n_clusters: int) -> tuple[np.ndarray, float]:
    """Return the partition with that many communities, or the nearest number found, and its resolution.

    Bisection on the logarithm of the resolution: the number of communities grows with it, if not quite steadily.
    """
    low, high = -4.0, 3.0
    best: tuple[int, np.ndarray, float] | None = None
    for _ in range(20):
        middle = (low + high) / 2
        labels = communities(float(np.exp(middle)))
        found = int(labels.max()) + 1
        if best is None or abs(found - n_clusters) < best[0]:
            best = abs(found - n_clusters), labels, float(np.exp(middle))
        if found == n_clusters:
            break
        low, high = (middle, high) if found < n_clusters else (low, middle)
    assert best is not None
    return best[1], best[2]
