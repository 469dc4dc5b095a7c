"""Clustering: the methods, the choice of their number of clusters by stability, and ``tl.cluster``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from diffvae import _keys, _random
from diffvae._core.anndata import posterior, results
from diffvae._core.graphs import communities
from diffvae._core.runtime import in_one_thread
from diffvae._core.validate import Choice, Either, Number, Optional, Rule, Whole, check
from diffvae._errors import DataError
from diffvae.tl._neighbors import N_DRAWS, N_NEIGHBORS, graph_seed, nearest_neighbors, posterior_graph, store
from diffvae.tl._separation import sentence, separation

if TYPE_CHECKING:
    from anndata import AnnData

NOISE = "noise"
"""Name of the cells that belong to no cluster (DBSCAN)."""
RESOLUTIONS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5)
MAX_CLUSTERS = 20
MIN_CELLS = 3
SAME = (
    "All cells have the same values in the representation, and so they are one cluster; train the model again, or take "
    "another representation (use_rep)."
)
"""Warning if the representation does not vary."""
N_SUBSAMPLES = 4
SUBSAMPLE_SHARE = 0.8
N_CLOUD_SUBSAMPLES = 2
"""Subsamples of the Gaussian cloud. A second cloud changed 2 of 15 choices (5 sets), and ARI by .0001."""

Clustering = Callable[[np.ndarray], Callable[[float], np.ndarray]]
"""Takes cells x dimensions and returns a function from a number of clusters, or a resolution, to labels."""


def kmeans(x: np.ndarray, n_clusters: int, seed: int, n_init: int = 10) -> np.ndarray:
    """Return the k-means labels of the best of ``n_init`` starts (k-means++)."""
    from sklearn.cluster import KMeans

    return KMeans(n_clusters, n_init=n_init, random_state=seed).fit(x).labels_


def gaussian_mixture(x: np.ndarray, n_clusters: int, seed: int, n_init: int = 3) -> tuple[np.ndarray, float]:
    """Return labels and BIC of a Gaussian mixture. Covariances are full up to 10 dimensions, else diagonal."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    covariance = "full" if x.shape[1] <= 10 else "diag"
    scaled = x / max(float(x.std()), 1e-12)  # makes reg_covar independent of the unit
    model = GaussianMixture(n_clusters, covariance_type=covariance, n_init=n_init, random_state=seed, reg_covar=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = model.fit_predict(scaled)
    return labels, float(model.bic(scaled))


def dbscan(x: np.ndarray, eps: float | None, min_samples: int | None) -> tuple[np.ndarray, float, int]:
    """Return DBSCAN labels (-1 = noise), eps and min_samples.

    By default min_samples is twice the number of dimensions, between 5 and 20 (Sander et al. 1998). The default eps is
    the knee of the sorted distances to the min_samples-th neighbour (Ester et al. 1996): the point furthest below the
    chord.
    """
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import NearestNeighbors

    samples = min_samples or int(np.clip(2 * x.shape[1], 5, 20))
    samples = min(samples, len(x) - 1)
    if eps is None:
        curve = np.sort(NearestNeighbors(n_neighbors=samples).fit(x).kneighbors()[0][:, -1])
        chord = np.linspace(curve[0], curve[-1], len(curve))
        eps = float(curve[np.argmax(chord - curve)]) or float(curve[-1]) or 1.0
    return DBSCAN(eps=eps, min_samples=samples).fit(x).labels_, eps, samples


def leiden_with(communities: Callable[[float], np.ndarray], n_clusters: int) -> tuple[np.ndarray, float]:
    """Return the partition with ``n_clusters`` communities, or the nearest number, and its resolution.

    Bisects the logarithm of the resolution, with which the number of communities grows almost monotonically.
    """
    low, high = -4.0, 3.0
    best: tuple[int, np.ndarray, float] | None = None
    for _ in range(20):
        middle = (low + high) / 2
        labels = communities(float(np.exp(middle)))
        n = int(labels.max()) + 1
        if best is None or abs(n - n_clusters) < best[0]:
            best = abs(n - n_clusters), labels, float(np.exp(middle))
        if n == n_clusters:
            break
        low, high = (middle, high) if n < n_clusters else (low, middle)
    assert best is not None
    return best[1], best[2]


def stability(
    clustering: Clustering,
    x: np.ndarray,
    candidates: Sequence[float],
    rng: np.random.Generator,
    n_subsamples: int = N_SUBSAMPLES,
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation, over random subsamples, of how well each candidate's partition recurs.

    Each subsample (80 % of the cells) is clustered from scratch and compared with the partition of all cells by the
    adjusted Rand index. Comparing subsamples only with each other would miss clusters that split only when all cells
    are present. A candidate is NaN if all cells, or any subsample, form one cluster: one cluster always agrees with
    itself.
    """
    size = max(2, int(SUBSAMPLE_SHARE * len(x)))
    subsamples = [np.sort(rng.choice(len(x), size, replace=False)) for _ in range(n_subsamples)]
    fit_all = clustering(x)
    fitted = [clustering(x[rows]) for rows in subsamples]
    scores = np.full((len(candidates), n_subsamples), np.nan)
    for i, candidate in enumerate(candidates):
        whole = fit_all(candidate)
        parts = [fit(candidate) for fit in fitted]
        if min(len(np.unique(labels)) for labels in (whole, *parts)) > 1:
            scores[i] = [adjusted_rand_score(whole[rows], part) for rows, part in zip(subsamples, parts, strict=True)]
    return scores.mean(axis=1), scores.std(axis=1)


def choose(
    clustering: Clustering,
    x: np.ndarray,
    candidates: Sequence[float],
    rng: np.random.Generator,
    null: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
) -> tuple[float, dict[str, Any]]:
    r"""Return the candidate whose stability most exceeds that of data without clusters, and the record.

    Stability alone prefers few clusters on any data. The reference is therefore ``null(x, rng)``, by default a Gaussian
    cloud with the mean and covariance of the data, which has no clusters. The stability S is corrected for its own as
    the adjusted Rand index is for chance:

    .. math:: excess = (S - S_{null}) / (1 - S_{null})

    The largest excess wins; ties go to the finer partition. The excess of a candidate is NaN if it leaves the cloud in
    one piece or if the cloud is perfectly stable. If every excess is NaN, the most stable candidate wins. The choice
    says nothing on gaps between clusters: see :func:`diffvae.tl._separation.separation`.

    References
    ----------
    Dudoit and Fridlyand 2002 (comparison with a reference without clusters); Hennig 2007 (stability); von Luxburg,
    Clustering stability: an overview, 2010.
    """
    null = null or structureless
    mean, sd = stability(clustering, x, candidates, rng)
    of_cloud, _ = stability(clustering, null(x, rng), candidates, rng, N_CLOUD_SUBSAMPLES)
    table = pd.DataFrame({"candidate": candidates, "stability": mean, "sd": sd, "null_stability": of_cloud})
    table["excess"] = (mean - of_cloud) / np.where(of_cloud < 1, 1 - of_cloud, np.nan)
    decisive = table["stability"] if table["excess"].isna().all() else table["excess"]
    best = table.loc[decisive >= decisive.max() - 1e-9, "candidate"]
    chosen = float(best.max()) if len(best) else float(min(candidates))
    table["chosen"] = table["candidate"] == chosen
    observed, expected = (float(table.loc[table["chosen"], c].iloc[0]) for c in ("stability", "null_stability"))
    record = {"chosen_by": "stability", "candidates": table, "stability": observed, "null_stability": expected}
    return chosen, record


def structureless(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a Gaussian cloud with the mean and covariance of x: the same data without clusters (the null)."""
    covariance = np.atleast_2d(np.cov(x.T))
    return rng.multivariate_normal(x.mean(axis=0), covariance, size=len(x), method="eigh").astype(x.dtype)


def _numbers(n_cells: int) -> list[int]:
    """Return the numbers of clusters to try."""
    return list(range(2, max(3, min(MAX_CLUSTERS, n_cells // 10) + 1)))


Result = tuple[np.ndarray, dict[str, Any]]
"""Labels from 0 (-1 = noise), and the record that goes into ``uns``."""


def _kmeans(x: np.ndarray, n_clusters: int | str, seed: int, rng: np.random.Generator) -> Result:
    if n_clusters != "auto":
        return kmeans(x, int(n_clusters), seed), {"chosen_by": "user"}
    k, record = choose(lambda part: lambda k: kmeans(part, int(k), seed, n_init=3), x, _numbers(len(x)), rng)
    return kmeans(x, int(k), seed), record


def _leiden(
    x: np.ndarray,
    n_clusters: int | str,
    seed: int,
    rng: np.random.Generator,
    graph: sparse.csr_matrix,
    posterior_sd: np.ndarray | None = None,
    resolution: float | None = None,
    n_neighbors: int = N_NEIGHBORS,
    n_draws: int = N_DRAWS,
) -> Result:
    whole = communities(graph, seed)
    record: dict[str, Any] = {"chosen_by": "user"}
    if n_clusters != "auto":
        labels, record["resolution"] = leiden_with(whole, int(n_clusters))
        if (n := labels.max() + 1) != n_clusters:
            record["warning"] = (
                f"No resolution gives {n_clusters} clusters; the nearest number is {n}. kmeans and gmm give any number."
            )
        return labels, record
    if resolution is None:
        # means and standard deviations side by side, so that subsamples and cloud get their graph in the same way
        cells = x if posterior_sd is None else np.hstack([x, posterior_sd])
        mean, sd = slice(0, x.shape[1]), slice(x.shape[1], None)

        def clustering(part: np.ndarray) -> Callable[[float], np.ndarray]:
            if part is cells:
                return whole
            deviations = None if posterior_sd is None else part[:, sd]
            return communities(posterior_graph(part[:, mean], deviations, n_neighbors, n_draws, rng=seed), seed)

        def null(part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return np.hstack([structureless(part[:, mean], rng), rng.permutation(part[:, sd])])

        resolution, record = choose(clustering, cells, RESOLUTIONS, rng, null)
    return whole(resolution), record | {"resolution": resolution}


def _gmm(x: np.ndarray, n_clusters: int | str, seed: int, rng: np.random.Generator) -> Result:
    if n_clusters != "auto":
        return gaussian_mixture(x, int(n_clusters), seed)[0], {"chosen_by": "user"}
    bic = {k: gaussian_mixture(x, k, seed, n_init=1)[1] for k in _numbers(len(x))}
    best = min(bic, key=lambda k: bic[k])
    table = pd.DataFrame({"candidate": list(bic), "bic": list(bic.values())})
    table["chosen"] = table["candidate"] == best
    return gaussian_mixture(x, best, seed)[0], {"chosen_by": "bic", "candidates": table}


def _dbscan(
    x: np.ndarray,
    n_clusters: int | str,
    seed: int,
    rng: np.random.Generator,
    eps: float | None = None,
    min_samples: int | None = None,
) -> Result:
    labels, eps, min_samples = dbscan(x, eps, min_samples)
    return labels, {"chosen_by": "density", "eps": eps, "min_samples": min_samples}


@dataclass(frozen=True)
class Clusterer:
    """A clustering method of :func:`cluster`.

    Attributes
    ----------
    name
        Value of ``method``.
    fit
        ``fit(x, n_clusters, seed, rng, **options)`` returns labels and a record; ``n_clusters`` may be ``"auto"``.
    chosen_by
        What chooses the number of clusters under ``"auto"``: ``"stability"``, ``"bic"`` or ``"density"``.
    takes_k
        Whether it takes a number of clusters.
    has_centroids
        Whether cells that were not clustered can be assigned to the nearest centroid.
    is_random
        Whether the labels depend on the seed.
    options
        Names of the arguments of :func:`cluster` that only this method reads.
    """

    name: str
    fit: Callable[..., Result]
    chosen_by: str
    takes_k: bool = True
    has_centroids: bool = True
    is_random: bool = True
    options: tuple[str, ...] = ()


CLUSTERERS = {
    clusterer.name: clusterer
    for clusterer in (
        Clusterer(
            "leiden", _leiden, "stability",
            options=("resolution", "graph", "posterior_sd", "n_neighbors", "n_draws"),
        ),
        Clusterer("kmeans", _kmeans, "stability"),
        Clusterer("gmm", _gmm, "bic"),
        Clusterer(
            "dbscan", _dbscan, "density", takes_k=False, has_centroids=False, is_random=False,
            options=("eps", "min_samples"),
        ),
    )
}  # fmt: skip
"""The methods of :func:`cluster`; a new one is added here."""
RULES: dict[str, Rule] = {
    "method": Choice(*CLUSTERERS),
    "n_clusters": Either(Choice("auto"), Whole(1)),
    "resolution": Optional(Number("(0, inf)")),
    "eps": Optional(Number("(0, inf)")),
    "min_samples": Optional(Whole(1)),
    "n_neighbors": Whole(1),
    "n_draws": Whole(0),
}


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
    n_draws: int = N_DRAWS,
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
        ``"leiden"`` on the graph of :func:`neighbors`, averaged over the posterior where ``obsm[use_rep + "_sd"]`` has
        its standard deviations; ``"kmeans"``; ``"gmm"``, a Gaussian mixture; ``"dbscan"``.
    n_clusters
        A number, or ``"auto"``. For k-means (2 to 20 clusters) and Leiden (resolution 0.2 to 1.5), ``"auto"`` takes the
        partition whose stability most exceeds that of data without clusters. Stability is the mean adjusted Rand index
        between the partition and those of four random subsamples of 80 % of the cells; the data without clusters are
        a Gaussian cloud with the same covariance. For mixtures, ``"auto"`` takes the lowest BIC. DBSCAN determines the
        number itself and accepts no other.
    use_rep
        ``"X_diffvae"`` (latent), ``"X_diffvae_tsne"`` (its t-SNE), or any key of ``obsm``.
    resolution
        Resolution of Leiden, instead of ``n_clusters``.
    eps, min_samples
        Parameters of DBSCAN. By default min_samples is twice the number of dimensions, between 5 and 20, and eps is the
        knee of the sorted distances to the min_samples-th neighbour.
    n_neighbors
        Neighbours of a cell in the graph.
    n_draws
        Draws from the posterior for the graph of Leiden; 0 takes the posterior means only, as the other methods do.
    key_added
        Key in ``obs``.
    rng
        Seed.
    copy
        Return a copy instead of writing into ``adata``.

    Returns
    -------
    None, or the copy. Writes ``obs[key_added]``: categories "0", "1", ... from the largest cluster to the smallest, and
    "noise" for cells that DBSCAN leaves out. Leiden also writes its graph, as :func:`neighbors` does with the
    same parameters and seed; it replaces a stored one. Writes ``uns["diffvae"]["cluster"]``: the parameters and, for
    "auto", the table of candidates. For k-means and Leiden it also has ``stability`` and ``null_stability`` (of the
    Gaussian cloud). Cells that all have the same values are one cluster, and ``warning`` says so.

    Which clusters are separated from all others is in the table ``separation``; ``n_separated`` is their number, and
    ``warning`` says which of the others are cuts of one continuum. The openness of a border is the number of links of
    the neighbour graph (of the means) across it, divided by that of parallel cuts through the inside of the cluster;
    up to 0.25 a cluster is separated. It is NaN for clusters of fewer than 9 cells, which are too small to tell.

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
    options: dict[str, Any] = {"resolution": resolution, "eps": eps, "min_samples": min_samples}
    check(RULES, **options, n_neighbors=n_neighbors, n_draws=n_draws)
    clusterer = CLUSTERERS[method]
    for name, value in options.items():
        if name not in clusterer.options and value is not None:
            owner = next(c.name for c in CLUSTERERS.values() if name in c.options)
            raise ValueError(f"{name} is {value}, but only {owner} uses it; leave it out for {method}.")
    if resolution is not None and n_clusters != "auto":
        raise ValueError(f"n_clusters is {n_clusters} and resolution is {resolution}; give only one of them.")
    x, sd = posterior(adata, use_rep)
    x = np.ascontiguousarray(x, dtype=np.result_type(x, np.float32))  # the null of whole numbers is not whole
    if len(x) < MIN_CELLS:
        raise DataError(f"There are only {len(x)} cells; clustering needs at least {MIN_CELLS}.")
    if n_clusters != "auto" and int(n_clusters) > len(x):
        raise DataError(f"n_clusters is {n_clusters}, but there are {len(x)} cells.")
    seed = graph_seed(rng)
    random = _random.generator(rng, "cluster", "auto")
    if sd is None or n_draws == 0:
        sd, n_draws = None, 0

    about: dict[str, Any] = {"n_neighbors": n_neighbors}
    if "graph" in clusterer.options:
        about["n_draws"] = n_draws
        options |= about | {"graph": posterior_graph(x, sd, **about, rng=seed), "posterior_sd": sd}
    record: dict[str, Any]
    if (x == x[0]).all():
        labels, record = np.zeros(len(x), dtype=np.int64), {"chosen_by": clusterer.chosen_by, "warning": SAME}
    else:
        own = {name: options[name] for name in clusterer.options}
        labels, record = clusterer.fit(x, n_clusters, seed, random, **own)
    clusters = _by_size(labels)
    record = {"method": method, "use_rep": use_rep, "key_added": key_added, "seed": seed} | about | record
    record["n_clusters"] = len(clusters.categories.drop(NOISE, errors="ignore"))
    nearest = nearest_neighbors(x, n_neighbors, seed)
    record |= _separated(nearest, clusters, record)
    adata = adata.copy() if copy else adata
    adata.obs[key_added] = clusters
    if "graph" in clusterer.options:
        store(adata, options["graph"], nearest, use_rep=use_rep, n_draws=n_draws, scale=1.0, seed=seed)
    results(adata)["cluster"] = record
    return adata if copy else None


def check_options(method: str, n_clusters: int | str) -> None:
    """Check the method and the number of clusters before there are data."""
    check(RULES, method=method, n_clusters=n_clusters)
    if n_clusters != "auto" and not CLUSTERERS[method].takes_k:
        raise ValueError(
            f"n_clusters is {n_clusters}, but {method} determines the number itself; leave n_clusters at 'auto'."
        )


def _separated(nearest: np.ndarray, clusters: pd.Categorical, record: dict[str, Any]) -> dict[str, Any]:
    """Return which clusters are separated, and the warning with the sentence on those that are not."""
    names = clusters.categories.drop(NOISE, errors="ignore")
    openness, continuum = separation(nearest, np.where(clusters == NOISE, -1, clusters.codes))
    judged = ~np.isnan(openness)
    alone = judged & (np.bincount(continuum)[continuum] == 1) & (judged.sum() > 1)
    table = pd.DataFrame({"cluster": names, "openness": openness, "continuum": continuum, "separated": alone})
    said = " ".join(filter(None, (record.get("warning"), sentence(list(names), openness, continuum))))
    return {"separation": table, "n_separated": int(alone.sum())} | ({"warning": said} if said else {})


def _by_size(labels: np.ndarray) -> pd.Categorical:
    """Name clusters "0", "1", ... from the largest to the smallest; -1 is noise."""
    values, sizes = np.unique(labels[labels >= 0], return_counts=True)
    order = values[np.argsort(-sizes, kind="stable")]
    names = {int(label): str(i) for i, label in enumerate(order)}
    categories = [*names.values(), *([NOISE] if (labels < 0).any() else [])]
    return pd.Categorical([names.get(int(label), NOISE) for label in labels], categories=categories)
