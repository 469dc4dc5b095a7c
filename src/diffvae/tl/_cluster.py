"""The clustering algorithms, each as labels for the rows of an array or the nodes of a graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from diffvae import _keys, _random
from diffvae._core.anndata import representation, results
from diffvae._core.graphs import leiden  # one more of the algorithms
from diffvae._core.runtime import in_one_thread
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

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


N_SUBSAMPLES = 5
SUBSAMPLE_SHARE = 0.8
N_CLOUDS = 8
N_CLOUD_SUBSAMPLES = 3
"""Subsamples of each cloud: fewer than of the data, since the clouds are most of the cost."""

Clustering = Callable[[np.ndarray], Callable[[float], np.ndarray]]
"""Takes cells x dimensions; gives a function from a candidate (number of clusters, resolution) to labels."""


def stability(
    clustering: Clustering,
    x: np.ndarray,
    candidates: Sequence[float],
    rng: np.random.Generator,
    n_subsamples: int = N_SUBSAMPLES,
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each candidate how well its partition comes back in random subsamples: mean and standard deviation.

    Subsamples of 80 % of the cells (five) are clustered from scratch and each is compared, by the adjusted Rand index,
    with the partition of all cells, the one that would be reported: comparing subsamples with each other alone misses
    clusters that split only where all cells are there. A candidate that leaves the cells or some subsample in one piece
    has no stability (NaN): one piece always agrees with itself.
    """
    size = max(2, int(SUBSAMPLE_SHARE * len(x)))
    drawn = [np.sort(rng.choice(len(x), size, replace=False)) for _ in range(n_subsamples)]
    fit_all = clustering(x)
    fitted = [clustering(x[rows]) for rows in drawn]
    scores = np.full((len(candidates), n_subsamples), np.nan)
    for i, candidate in enumerate(candidates):
        whole = fit_all(candidate)
        parts = [fit(candidate) for fit in fitted]
        if min(len(np.unique(found)) for found in (whole, *parts)) > 1:
            scores[i] = [adjusted_rand_score(whole[rows], part) for rows, part in zip(drawn, parts, strict=True)]
    return scores.mean(axis=1), scores.std(axis=1)


def choose(
    clustering: Clustering, x: np.ndarray, candidates: Sequence[float], rng: np.random.Generator
) -> tuple[float, pd.DataFrame, float]:
    r"""Return the candidate whose stability exceeds that of cells without clusters by most, its table and its p-value.

    Stability by itself prefers few clusters, on any data. So the same is done on Gaussian clouds of the same mean and
    covariance, which have no clusters, and the stability S is corrected for their mean as the adjusted Rand index is
    for chance:

    .. math:: excess = (S - \bar S_{null}) / (1 - \bar S_{null})

    The largest excess decides, between equal ones the finer partition. Candidates that leave a cloud in one piece, or
    at which all clouds are perfectly stable, have none (NaN) and count only if all have none; then the most stable one
    is taken.

    The best of many candidates exceeds the mean of the clouds also where there are no clusters. So each cloud chooses
    too, against the mean of the others, and of B clouds those that reach at least the excess of the data are counted:

    .. math:: p = (1 + \#\{b : \max excess_b \ge \max excess\}) / (1 + B)

    It is NaN where the data have no excess.

    References
    ----------
    Dudoit and Fridlyand 2002 (comparison with a reference without clusters); Hennig 2007 (stability); von Luxburg,
    Clustering stability: an overview, 2010.
    """
    mean, sd = stability(clustering, x, candidates, rng)
    clouds = np.array(
        [stability(clustering, structureless(x, rng), candidates, rng, N_CLOUD_SUBSAMPLES)[0] for _ in range(N_CLOUDS)]
    )
    null = clouds.mean(axis=0)
    table = pd.DataFrame({"candidate": candidates, "stability": mean, "sd": sd, "null_stability": null})
    table["excess"] = _excess(mean, null)
    decisive = table["stability"] if table["excess"].isna().all() else table["excess"]
    best = table.loc[decisive >= decisive.max() - 1e-9, "candidate"]
    chosen = float(best.max()) if len(best) else float(min(candidates))
    table["chosen"] = table["candidate"] == chosen
    return chosen, table, _p_value(float(table["excess"].max()), clouds)


def _excess(stability: np.ndarray, null: np.ndarray) -> np.ndarray:
    room = np.where(null < 1, 1 - null, np.nan)
    return (stability - null) / room


def _p_value(reached: float, clouds: np.ndarray) -> float:
    """Return the share of the clouds, and the data, that reach the excess of the data."""
    if np.isnan(reached):
        return float("nan")
    others = [np.delete(clouds, i, axis=0) for i in range(len(clouds))]
    excess = np.array([_excess(own, rest.mean(axis=0)) for own, rest in zip(clouds, others, strict=True)])
    largest = np.where(np.isnan(excess), -np.inf, excess).max(axis=1)
    return float(1 + (largest >= reached - 1e-9).sum()) / (1 + len(clouds))


def structureless(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a Gaussian cloud with the mean and covariance of x: the same data without clusters (the null)."""
    covariance = np.atleast_2d(np.cov(x.T))
    return rng.multivariate_normal(x.mean(axis=0), covariance, size=len(x), method="eigh").astype(x.dtype)


METHODS = ("leiden", "kmeans", "gmm", "dbscan")
NOISE = "noise"
"""Name of the cells that DBSCAN leaves out."""
RESOLUTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0)
MAX_CLUSTERS = 20
MIN_CELLS = 3


@in_one_thread
def cluster(
    adata: AnnData,
    method: str = "leiden",
    *,
    n_clusters: int | str = "auto",
    use_rep: str = _keys.LATENT,
    resolution: float | None = None,
    eps: float | None = None,
    min_samples: int | None = None,
    n_neighbors: int = N_NEIGHBORS,
    key_added: str = _keys.CLUSTER,
    rng: _random.Rng = 0,
    copy: bool = False,
) -> AnnData | None:
    """Cluster the cells on their latent representation or on its t-SNE.

    Parameters
    ----------
    adata
        With ``obsm[use_rep]``.
    method
        ``"leiden"`` on the shared-neighbour graph; ``"kmeans"``; ``"gmm"``, a Gaussian mixture; ``"dbscan"``.
    n_clusters
        A number, or ``"auto"``. For k-means (2 to 20 clusters) and Leiden (resolution 0.1 to 2) "auto" takes the
        partition whose stability exceeds that of cells without clusters by most. Stability is the mean adjusted Rand
        index of the partition with those of five random subsamples of 80 % of the cells; the cells without clusters are
        the mean of eight Gaussian clouds of the same covariance. For mixtures "auto" takes the lowest BIC. DBSCAN finds
        its own number and takes no other.
    use_rep
        ``"X_diffvae"`` (latent) or ``"X_diffvae_tsne"`` (its map), or any key of ``obsm``.
    resolution
        Of Leiden, instead of ``n_clusters``.
    eps, min_samples
        Of DBSCAN. By default min_samples is twice the dimensions, between 5 and 20, and eps the knee of the sorted
        distances to the min_samples-th neighbour.
    n_neighbors
        Of Leiden's graph.
    key_added
        Key in ``obs``.
    rng
        Seed.
    copy
        Return a copy instead of writing into ``adata``.

    Returns
    -------
    None, or the copy. Writes ``obs[key_added]`` (categorical "0", "1", ... from the largest cluster to the smallest;
    "noise" for what DBSCAN leaves out) and ``uns["diffvae"]["cluster"]``: every parameter, and for "auto" the table of
    candidates and, for k-means and Leiden, ``stability``, ``null_stability`` (the chosen candidate on Gaussian clouds
    of the same covariance, which have no clusters) and ``p_value``: of the eight clouds, each with a choice of its own,
    and the data, the share that exceeds the other clouds as much as the data do. Where a cloud does (p above 1/9) the
    partition may cut a continuum: see ``warning``.

    References
    ----------
    Traag et al. 2019 (Leiden); Levine et al. 2015 (shared neighbours); Ester et al. 1996 (DBSCAN and its knee);
    Dudoit and Fridlyand 2002, Hennig 2007 (stability).

    Examples
    --------
    >>> import anndata as ad
    >>> rng = np.random.default_rng(0)
    >>> blobs = np.concatenate([rng.normal(c, 0.3, (50, 2)) for c in ((0, 0), (4, 0), (0, 4))])
    >>> adata = ad.AnnData(obs=pd.DataFrame(index=[f"cell {i}" for i in range(150)]), obsm={"X_diffvae": blobs})
    >>> cluster(adata, "kmeans", n_clusters=3)
    >>> adata.obs["diffvae_cluster"].value_counts().tolist()
    [50, 50, 50]
    """
    check_options(method, n_clusters)
    _check_steering(method, n_clusters, {"resolution": resolution, "eps": eps, "min_samples": min_samples}, n_neighbors)
    x = representation(adata, use_rep)
    x = np.ascontiguousarray(x, dtype=np.result_type(x, np.float32))  # whole numbers can't hold a null
    if len(x) < MIN_CELLS:
        raise DataError(f"Clusters of {len(x)} cells say nothing; {MIN_CELLS} are the least.")
    if n_clusters != "auto" and int(n_clusters) > len(x):
        raise DataError(f"n_clusters is {n_clusters}, but there are {len(x)} cells.")
    seed = _random.seed(rng, "cluster") % 2**31
    random = _random.generator(rng, "cluster", "auto")
    parameters: dict[str, Any] = {"method": method, "use_rep": use_rep, "key_added": key_added, "seed": seed}
    if method == "dbscan":
        labels, found_eps, samples = dbscan(x, eps, min_samples)
        parameters |= {"eps": found_eps, "min_samples": samples}
    elif method == "gmm":
        labels, more = _mixture(x, n_clusters, seed)
        parameters |= more
    elif method == "kmeans":
        labels, more = _kmeans(x, n_clusters, seed, random)
        parameters |= more
    else:
        labels, more = _leiden(x, n_clusters, resolution, n_neighbors, seed, random)
        parameters |= more | {"n_neighbors": n_neighbors}
    named = _by_size(labels)
    parameters["n_clusters"] = len(named.categories.drop(NOISE, errors="ignore"))
    adata = adata.copy() if copy else adata
    adata.obs[key_added] = named
    results(adata)["cluster"] = parameters
    return adata if copy else None


def check_options(method: str, n_clusters: int | str) -> None:
    """Refuse a method or a number that no data can be clustered by."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it is one of {', '.join(METHODS)}.")
    if isinstance(n_clusters, str) and n_clusters == "auto":
        return
    if isinstance(n_clusters, bool) or not isinstance(n_clusters, int | np.integer) or n_clusters < 1:
        raise ValueError(f"n_clusters is {n_clusters!r}; it is 'auto' or a positive integer.")
    if method == "dbscan":
        raise ValueError(f"n_clusters is {n_clusters}, but DBSCAN finds the number itself; leave it at 'auto'.")


def _check_steering(method: str, n_clusters: int | str, steering: dict[str, float | None], n_neighbors: int) -> None:
    """Refuse numbers out of their range, and those that the method wouldn't read."""
    for name, value in steering.items():
        owner = "leiden" if name == "resolution" else "dbscan"
        if value is not None and method != owner:
            raise ValueError(f"{name} is {value}, but {method} has none; it belongs to {owner}.")
        if value is not None and not 0 < value < np.inf:
            raise ValueError(f"{name} is {value}; it must be positive.")
    if steering["resolution"] is not None and n_clusters != "auto":
        raise ValueError(f"n_clusters={n_clusters} and resolution={steering['resolution']} exclude each other.")
    if n_neighbors < 1:
        raise ValueError(f"n_neighbors is {n_neighbors}; it must be 1 or more.")


def _numbers(n_cells: int) -> list[int]:
    return list(range(2, max(3, min(MAX_CLUSTERS, n_cells // 10) + 1)))


def _kmeans(
    x: np.ndarray, n_clusters: int | str, seed: int, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, Any]]:
    if n_clusters != "auto":
        return kmeans(x, int(n_clusters), seed), {"chosen_by": "user"}
    k, table, p_value = choose(lambda part: lambda k: kmeans(part, int(k), seed, n_init=3), x, _numbers(len(x)), rng)
    return kmeans(x, int(k), seed), _report(table, p_value)


def _leiden(
    x: np.ndarray,
    n_clusters: int | str,
    resolution: float | None,
    n_neighbors: int,
    seed: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, dict[str, Any]]:
    def communities(part: np.ndarray) -> Callable[[float], np.ndarray]:
        graph = neighbor_graph(part, seed, n_neighbors)
        return lambda r: leiden(graph, r, seed)

    if resolution is not None:
        return communities(x)(resolution), {"chosen_by": "user", "resolution": resolution}
    if n_clusters != "auto":
        labels, found = leiden_with(communities(x), int(n_clusters))
        more: dict[str, Any] = {"chosen_by": "user", "resolution": found}
        if labels.max() + 1 != n_clusters:
            more["warning"] = (
                f"No resolution gives {n_clusters} clusters, {labels.max() + 1} is the nearest number; kmeans and gmm "
                "give any."
            )
        return labels, more
    chosen, table, p_value = choose(communities, x, RESOLUTIONS, rng)
    return communities(x)(chosen), _report(table, p_value) | {"resolution": chosen}


def _mixture(x: np.ndarray, n_clusters: int | str, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    if n_clusters != "auto":
        return gaussian_mixture(x, int(n_clusters), seed)[0], {"chosen_by": "user"}
    tried = {k: gaussian_mixture(x, k, seed, n_init=1) for k in _numbers(len(x))}
    best = min(tried, key=lambda k: tried[k][1])
    table = pd.DataFrame({"candidate": list(tried), "bic": [bic for _, bic in tried.values()]})
    table["chosen"] = table["candidate"] == best
    return gaussian_mixture(x, best, seed)[0], {"chosen_by": "bic", "candidates": table}


def _report(table: pd.DataFrame, p_value: float) -> dict[str, Any]:
    reached, null = (float(table.loc[table["chosen"], c].iloc[0]) for c in ("stability", "null_stability"))
    report: dict[str, Any] = {"chosen_by": "stability", "candidates": table, "p_value": p_value}
    report |= {"stability": reached, "null_stability": null}
    if not p_value <= 1 / (1 + N_CLOUDS):  # NaN: there is no excess
        report["warning"] = (
            f"The clusters are no more stable than the best that the same choice finds in clouds without clusters "
            f"(stability {reached:.2f}, clouds {null:.2f} on average; p = {p_value:.2f}): they may cut a continuum."
        )
    return report


def _by_size(labels: np.ndarray) -> pd.Categorical:
    """Name clusters "0", "1", ... from the largest to the smallest; -1 is noise."""
    found, sizes = np.unique(labels[labels >= 0], return_counts=True)
    order = found[np.argsort(-sizes, kind="stable")]
    names = {int(label): str(i) for i, label in enumerate(order)}
    categories = [*names.values(), *([NOISE] if (labels < 0).any() else [])]
    return pd.Categorical([names.get(int(label), NOISE) for label in labels], categories=categories)
