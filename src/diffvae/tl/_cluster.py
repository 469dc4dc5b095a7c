"""Into which groups do the cells fall?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random
from diffvae._adata import representation, results
from diffvae._errors import DataError
from diffvae._threads import in_one_thread
from diffvae.tl import _partitions, _stability

if TYPE_CHECKING:
    from anndata import AnnData

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
    n_neighbors: int = _partitions.N_NEIGHBORS,
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
        labels, found_eps, samples = _partitions.dbscan(x, eps, min_samples)
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
        return _partitions.kmeans(x, int(n_clusters), seed), {"chosen_by": "user"}
    k, table, p_value = _stability.choose(
        lambda part: lambda k: _partitions.kmeans(part, int(k), seed, n_init=3), x, _numbers(len(x)), rng
    )
    return _partitions.kmeans(x, int(k), seed), _report(table, p_value)


def _leiden(
    x: np.ndarray,
    n_clusters: int | str,
    resolution: float | None,
    n_neighbors: int,
    seed: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, dict[str, Any]]:
    def communities(part: np.ndarray) -> Callable[[float], np.ndarray]:
        graph = _partitions.neighbor_graph(part, seed, n_neighbors)
        return lambda r: _partitions.leiden(graph, r, seed)

    if resolution is not None:
        return communities(x)(resolution), {"chosen_by": "user", "resolution": resolution}
    if n_clusters != "auto":
        labels, found = _partitions.leiden_with(communities(x), int(n_clusters))
        more: dict[str, Any] = {"chosen_by": "user", "resolution": found}
        if labels.max() + 1 != n_clusters:
            more["warning"] = (
                f"No resolution gives {n_clusters} clusters, {labels.max() + 1} is the nearest number; kmeans and gmm "
                "give any."
            )
        return labels, more
    chosen, table, p_value = _stability.choose(communities, x, RESOLUTIONS, rng)
    return communities(x)(chosen), _report(table, p_value) | {"resolution": chosen}


def _mixture(x: np.ndarray, n_clusters: int | str, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    if n_clusters != "auto":
        return _partitions.gaussian_mixture(x, int(n_clusters), seed)[0], {"chosen_by": "user"}
    tried = {k: _partitions.gaussian_mixture(x, k, seed, n_init=1) for k in _numbers(len(x))}
    best = min(tried, key=lambda k: tried[k][1])
    table = pd.DataFrame({"candidate": list(tried), "bic": [bic for _, bic in tried.values()]})
    table["chosen"] = table["candidate"] == best
    return _partitions.gaussian_mixture(x, best, seed)[0], {"chosen_by": "bic", "candidates": table}


def _report(table: pd.DataFrame, p_value: float) -> dict[str, Any]:
    reached, null = (float(table.loc[table["chosen"], c].iloc[0]) for c in ("stability", "null_stability"))
    report: dict[str, Any] = {"chosen_by": "stability", "candidates": table, "p_value": p_value}
    report |= {"stability": reached, "null_stability": null}
    if not p_value <= 1 / (1 + _stability.N_CLOUDS):  # NaN: there is no excess
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
