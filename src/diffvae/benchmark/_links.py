"""Comparison of predictors of links: the links come from other measurements of the same cells."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse

from diffvae import _keys, _random, pp
from diffvae._core import graphs
from diffvae._core.anndata import graph, groups
from diffvae._core.io.matrix import matrix_of
from diffvae._core.runtime import progress_bar
from diffvae._core.validate import Choice, Rule, Whole, check
from diffvae._errors import DataError
from diffvae.metrics import link_auc, link_average_precision

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import GraphDiffVAE

Scorer: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Takes pairs of cell numbers (pairs x 2) and returns a score for each."""
Method: TypeAlias = Callable[["AnnData", _random.Rng], Scorer]
KNOWN = "known_links"
"""``obsp``: the graph without the hidden edges."""
RULES: dict[str, Rule] = {
    "metric": Choice("cosine", "pearson"),
    "split": Choice("auto", "counts", "genes"),
    "n_seeds": Whole(1),
}
COLUMNS = ["seed", "method", "negatives", "auc", "average_precision", "n_links", "seconds"]


def links(
    adata: AnnData,
    *,
    label_key: str | None = None,
    k: int = 15,
    metric: str = "cosine",
    split: str = "auto",
    methods: Sequence[str] | Mapping[str, Method] | None = None,
    n_seeds: int = 5,
    test_size: float = 0.1,
    layer: str | None = None,
    rng: _random.Rng = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare predictors of links on links that come from other measurements of the same cells.

    The similarity that made a graph is the best predictor of its held-out edges, so such a test is circular. Here the
    data are halved: counts by binomial thinning, or genes at random. A method is given the expression of the first half
    and its graph without a share of the edges. It is scored on the unknown edges of the graph of the *second* half; the
    negatives are pairs that are linked in neither half.

    Parameters
    ----------
    adata
        Raw cells: counts, or other values for ``split="genes"``.
    label_key
        Types in ``obs``, needed for negatives within types.
    k
        Neighbours in both graphs (:func:`diffvae.pp.cell_graph`).
    metric
        ``"cosine"`` of 50 principal components, or ``"pearson"`` of expression, for both graphs.
    split
        ``"counts"``, ``"genes"``, or ``"auto"``: counts where the values are counts.
    methods
        Names from :func:`link_methods` (None for all), or name to function: ``method(adata, rng)`` gets
        prepared cells with ``obsp["known_links"]`` and returns a function that takes pairs of cell numbers
        (pairs x 2) and returns scores.
    n_seeds
        Repeats, each with new halves, hidden edges, negatives and training.
    test_size
        Share of the first graph's edges that is hidden.
    layer
        Layer with the raw values; None for X.
    rng
        Seed.
    progress
        Show a progress bar on a terminal.

    Returns
    -------
    One row per seed, method and kind of negatives (``"uniform"``, ``"degree"``, ``"within_type"``, see
    :func:`diffvae.pp.split_links`): ``auc``, ``average_precision`` (negatives and positives are equal in number),
    ``n_links``, ``seconds`` of the method. :func:`link_summary` gives mean and spread.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.simulate_differentiation(200, 200)
    >>> table = links(adata, methods=["Pearson", "popularity"], n_seeds=2, progress=False)
    >>> len(table)  # 2 seeds x 2 methods x 2 kinds of negatives
    8
    """
    check(RULES, metric=metric, split=split, n_seeds=n_seeds)
    chosen = _methods(methods)
    codes = None if label_key is None else np.asarray(groups(adata, label_key).codes, np.int64)
    kinds = [kind for kind in graphs.NEGATIVES if kind != "within_type" or codes is not None]
    rows = []
    with progress_bar("comparing predictors of links", n_seeds * len(chosen), show=progress) as advance:
        for number in range(n_seeds):
            seed = _random.seed(rng, f"links benchmark {number}")
            first, linked, unlinked = _task(adata, split, layer, k, metric, test_size, kinds, codes, seed)
            for name, method in chosen.items():
                start = time.perf_counter()
                score = method(first, seed)
                seconds = time.perf_counter() - start
                positive = score(linked)
                for kind, pairs in unlinked.items():
                    negative = score(pairs)
                    scores = link_auc(positive, negative), link_average_precision(positive, negative)
                    rows.append((number, name, kind, *scores, len(linked), seconds))
                advance(name)
    return pd.DataFrame(rows, columns=COLUMNS)


def link_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean and standard deviation over seeds of the scores from :func:`links`.

    Parameters
    ----------
    table
        From :func:`links`.

    Returns
    -------
    One row per kind of negatives and method, best mean AUC first: ``auc``, ``auc_sd``, ``average_precision``,
    ``average_precision_sd``, ``n_seeds``.

    Examples
    --------
    >>> import pandas as pd
    >>> scores = {"auc": [0.6, 0.8], "average_precision": [0.5, 0.7]}
    >>> table = pd.DataFrame({"seed": [0, 1], "method": "Pearson", "negatives": "degree", **scores})
    >>> link_summary(table)[["auc", "average_precision", "n_seeds"]].round(2).values.tolist()
    [[0.7, 0.6, 2.0]]
    """
    grouped = table.groupby(["negatives", "method"], sort=False)
    scores = grouped[["auc", "average_precision"]]
    summary = scores.mean().join(scores.std(), rsuffix="_sd")
    summary["n_seeds"] = grouped["seed"].nunique()
    ordered = summary.reset_index().sort_values(["negatives", "auc"], ascending=[True, False], ignore_index=True)
    return ordered[["negatives", "method", "auc", "auc_sd", "average_precision", "average_precision_sd", "n_seeds"]]


def link_methods() -> dict[str, Method]:
    """Return the predictors that :func:`links` knows by name: each is a function of cells and seed, see there.

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
        "GraphDiffVAE, graphite": graph_diffvae_graphite,
    }


def _methods(methods: Sequence[str] | Mapping[str, Method] | None) -> Mapping[str, Method]:
    if isinstance(methods, Mapping) and methods:
        return methods
    known = link_methods()
    names = list(known) if methods is None else [methods] if isinstance(methods, str) else list(methods)
    if not names or not set(names) <= set(known):
        raise ValueError(f"methods are {names}; they are one or more of {', '.join(map(repr, known))}.")
    return {name: known[name] for name in names}


def _task(
    adata: AnnData,
    split: str,
    layer: str | None,
    k: int,
    metric: str,
    test_size: float,
    kinds: Sequence[str],
    codes: np.ndarray | None,
    seed: int,
) -> tuple[AnnData, np.ndarray, dict[str, np.ndarray]]:
    """Return the first half with the known graph, the links to predict, and unlinked pairs of each kind."""
    first, second = halves(adata, split, layer=layer, rng=seed)
    for half in (first, second):
        pp.cell_graph(half, k, metric, layer=None if metric == "cosine" else _keys.UNIT, rng=seed, progress=False)
    hidden = pp.split_links(first, validation_size=0, test_size=test_size, rng=seed)
    first.obsp[KNOWN] = hidden.train
    n = first.n_obs
    of_first, of_second = graph(first, "cell_graph"), graph(second, "cell_graph")
    del first.obsp["cell_graph"], first.uns["diffvae"]["cell_graph"]  # methods must not see the hidden edges
    linked = graphs.edges_of(of_second)
    linked = linked[~np.isin(graphs.keys(linked, n), graphs.keys(hidden.train_edges, n))]
    either = graphs.undirected(of_first + of_second)
    generator = _random.generator(seed, "negatives")
    unlinked = {kind: graphs.sample_negatives(either, len(linked), generator, kind=kind, codes=codes) for kind in kinds}
    return first, linked, unlinked


def halves(adata: AnnData, split: str, *, layer: str | None = None, rng: _random.Rng = 0) -> tuple[AnnData, AnnData]:
    """Return the same cells twice, with independent noise; each half is prepared separately.

    ``"counts"`` assigns every count to one half at random (binomial, 1/2), like two sequencing runs of half the depth.
    Poisson counts become independent; the overdispersion of a gene stays common to both halves. ``"genes"`` assigns the
    genes: the halves share no count, but both have genes of each programme, which is intended. ``"auto"`` splits counts
    if the values are counts.
    """
    x = matrix_of(adata, layer)
    values: Any = x.data if sparse.issparse(x) else x
    whole = bool((values >= 0).all() and (values == np.round(values)).all())
    if split == "counts" and not whole:
        raise DataError("split='counts' needs counts, whole numbers of 0 or more; pass split='genes' instead.")
    generator = _random.generator(rng, "halves")
    if split == "genes" or not whole:
        side = generator.permutation(adata.n_vars) % 2 == 0
        one, other = (_half(adata, x[:, np.flatnonzero(s)], adata.var_names[s]) for s in (side, ~side))
        pp.prepare(one, rng=rng)
        pp.prepare(other, rng=rng)
        return one, other
    first = x.astype(np.float32).copy()
    thinned = generator.binomial(values.astype(np.int64), 0.5).astype(np.float32)
    if sparse.issparse(x):
        first.data = thinned
    else:
        first = thinned
    one, other = (_half(adata, part, adata.var_names) for part in (first, x.astype(np.float32) - first))
    pp.prepare(one, rng=rng)
    pp.prepare(other, n_top_genes=None, rng=rng)
    return one, other[:, other.var_names.isin(one.var_names)].copy()


def _half(adata: AnnData, x: Any, names: Any) -> AnnData:
    import anndata as ad

    cells = ad.AnnData(x.tocsr() if sparse.issparse(x) else x, obs=adata.obs.drop(columns=_keys.SPLIT, errors="ignore"))
    cells.var_names = names
    return cells


def pearson(adata: AnnData, rng: _random.Rng) -> Scorer:
    """Score by the correlation of expression."""
    x = adata.layers[_keys.UNIT]
    return lambda pairs: graphs.pearson(x, pairs)


def pca_distance(adata: AnnData, rng: _random.Rng) -> Scorer:
    """Score by the distance in scanpy's 50 principal components, the usual neighbours."""
    return _distance(principal_components(adata, rng))


def pca_cosine(adata: AnnData, rng: _random.Rng) -> Scorer:
    """Score by the cosine in the same components."""
    x = principal_components(adata, rng)
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return _inner(unit)


def diffvae_distance(adata: AnnData, rng: _random.Rng) -> Scorer:
    """Score by the distance in DiffVAE's latent space."""
    from diffvae.model import DiffVAE

    return _distance(DiffVAE().train(adata, rng=rng, progress=False).get_latent_representation())


def common_neighbours(adata: AnnData, rng: _random.Rng) -> Scorer:
    """Score by the neighbours that two cells share in the graph, without expression."""
    links = graph(adata, KNOWN)
    return lambda pairs: np.asarray(links[pairs[:, 0]].multiply(links[pairs[:, 1]]).sum(1), np.float64).ravel()


def popularity(adata: AnnData, rng: _random.Rng) -> Scorer:
    """Score by the product of the degrees of both cells."""
    degree = np.asarray(graph(adata, KNOWN).sum(1), np.float64).ravel()
    return lambda pairs: degree[pairs[:, 0]] * degree[pairs[:, 1]]


def graph_diffvae(adata: AnnData, rng: _random.Rng, **params: Any) -> Scorer:
    """Score by Graph-DiffVAE as it predicts links, by the directions of Z* and of principal components."""
    return _inner(_trained(adata, rng, params).get_link_representation())


def graph_diffvae_graphite(adata: AnnData, rng: _random.Rng, **params: Any) -> Scorer:
    """Score by the inner product of Z*, as the paper does: popular cells win."""
    return _inner(_trained(adata, rng, {**params, "decoder": "graphite"}).get_link_representation())


def _trained(adata: AnnData, rng: _random.Rng, params: Mapping[str, Any]) -> GraphDiffVAE:
    from diffvae.model import GraphDiffVAE

    return GraphDiffVAE(**params).train(adata, graph_key=KNOWN, rng=rng, progress=False)


def principal_components(adata: AnnData, rng: _random.Rng) -> np.ndarray:
    """Return scanpy's 50 principal components, or fewer if the data are smaller."""
    import scanpy as sc

    seed = _random.seed(rng, "PCA of the links") % 2**31
    return sc.pp.pca(adata.X, min(50, min(adata.shape) - 1), random_state=seed)


def _distance(x: np.ndarray) -> Scorer:
    return lambda pairs: -np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1)


def _inner(x: np.ndarray) -> Scorer:
    return lambda pairs: graphs.inner_products(x, pairs)
