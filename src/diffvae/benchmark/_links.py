"""Does a method find links that it could not have read off its own input?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from diffvae import _links, _random, pp
from diffvae._adata import graph, groups
from diffvae._progress import progress_bar
from diffvae.benchmark._halves import SPLITS, halves
from diffvae.benchmark._link_methods import KNOWN, Method, link_methods
from diffvae.metrics import link_auc, link_average_precision

if TYPE_CHECKING:
    from anndata import AnnData


def links(
    adata: AnnData,
    *,
    label_key: str | None = None,
    k: int = 5,
    split: str = "auto",
    methods: Sequence[str] | Mapping[str, Method] | None = None,
    n_seeds: int = 5,
    test_size: float = 0.1,
    layer: str | None = None,
    rng: _random.Rng = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare predictors of links on links that come from other measurements of the same cells.

    An edge of a graph of Pearson-correlated cells is best predicted by Pearson's correlation: held-out edges of the
    same graph prove nothing. Here the data are halved, counts by binomial thinning or genes at random. The graph of the
    first half, less a share of its edges, and the expression of that half are all that a method sees; it is scored on
    the edges of the graph of the *second* half that it does not know, against pairs that are linked in neither.

    Parameters
    ----------
    adata
        Raw cells: counts, or other values for ``split="genes"``.
    label_key
        Types in ``obs``, for negatives within types; without it these are left out.
    k
        Of both graphs (:func:`diffvae.pp.cell_graph`).
    split
        ``"counts"``, ``"genes"``, or ``"auto"``: counts where the values are counts.
    methods
        Names out of :func:`link_methods` (None for all), or name to function: ``method(adata, rng)`` gets
        prepared cells with ``obsp["known_links"]`` and returns a function from pairs x 2 cell numbers to scores.
    n_seeds
        Repeats, each with its own halves, hidden edges, negatives and training.
    test_size
        Share of the first graph's edges that is hidden.
    layer
        Layer with the raw values; None for X.
    rng
        Seed.
    progress
        Show a bar on a terminal.

    Returns
    -------
    One row per seed, method and kind of negatives (``"uniform"``, ``"degree"``, ``"within_type"``, see
    :func:`diffvae.pp.split_links`): ``auc``, ``average_precision`` (as many negatives as positives), ``n_links``,
    ``seconds`` of the method. :func:`link_summary` gives mean and spread.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.simulate_differentiation(200, 200)
    >>> found = links(adata, methods=["Pearson", "popularity"], n_seeds=2, progress=False)
    >>> len(found)  # 2 seeds x 2 methods x 2 kinds of negatives
    8
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it is one of {', '.join(map(repr, SPLITS))}.")
    if n_seeds < 1:
        raise ValueError(f"n_seeds is {n_seeds}; it must be 1 or more.")
    chosen = _methods(methods)
    codes = None if label_key is None else np.asarray(groups(adata, label_key).codes, np.int64)
    kinds = [kind for kind in _links.NEGATIVES if kind != "within_type" or codes is not None]
    rows = []
    with progress_bar("comparing predictors of links", n_seeds * len(chosen), show=progress) as advance:
        for seed in range(n_seeds):
            own = _random.seed(rng, f"links benchmark {seed}")
            first, linked, unlinked = _task(adata, split, layer, k, test_size, kinds, codes, own)
            for name, method in chosen.items():
                start = time.perf_counter()
                score = method(first, own)
                seconds = time.perf_counter() - start
                positive = score(linked)
                for kind, pairs in unlinked.items():
                    negative = score(pairs)
                    scores = link_auc(positive, negative), link_average_precision(positive, negative)
                    rows.append((seed, name, kind, *scores, len(linked), seconds))
                advance(name)
    columns = ["seed", "method", "negatives", "auc", "average_precision", "n_links", "seconds"]
    return pd.DataFrame(rows, columns=columns)


def link_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over seeds of what :func:`links` found.

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
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(200, 200)
    >>> table = dv.benchmark.links(cells, methods=["Pearson", "popularity"], n_seeds=2, progress=False)
    >>> dv.benchmark.link_summary(table)["n_seeds"].tolist()  # 2 methods x 2 kinds of negatives
    [2, 2, 2, 2]
    """
    grouped = table.groupby(["negatives", "method"], sort=False)
    scores = grouped[["auc", "average_precision"]]
    summary = scores.mean().join(scores.std(), rsuffix="_sd")
    summary["n_seeds"] = grouped["seed"].nunique()
    ordered = summary.reset_index().sort_values(["negatives", "auc"], ascending=[True, False], ignore_index=True)
    return ordered[["negatives", "method", "auc", "auc_sd", "average_precision", "average_precision_sd", "n_seeds"]]


def _methods(methods: Sequence[str] | Mapping[str, Method] | None) -> Mapping[str, Method]:
    if isinstance(methods, Mapping) and methods:
        return methods
    known = link_methods()
    names = list(known) if methods is None else [methods] if isinstance(methods, str) else list(methods)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"methods are {names}; they are one or more of {', '.join(map(repr, known))}.")
    return {name: known[name] for name in names}


def _task(
    adata: AnnData,
    split: str,
    layer: str | None,
    k: int,
    test_size: float,
    kinds: Sequence[str],
    codes: np.ndarray | None,
    seed: int,
) -> tuple[AnnData, np.ndarray, dict[str, np.ndarray]]:
    """Return the first half with the graph that may be known, the links to find, and the pairs to tell them from."""
    first, second = halves(adata, split, layer=layer, rng=seed)
    for half in (first, second):
        pp.cell_graph(half, k=k, rng=seed, progress=False)
    hidden = pp.split_links(first, validation_size=0, test_size=test_size, rng=seed)
    first.obsp[KNOWN] = hidden.train
    n = first.n_obs
    mine, others = graph(first, "cell_graph"), graph(second, "cell_graph")
    del first.obsp["cell_graph"], first.uns["diffvae"]["cell_graph"]  # no method is to see the hidden edges
    linked = _links.edges_of(others)
    linked = linked[~np.isin(_links.keys(linked, n), _links.keys(hidden.train_edges, n))]
    either = _links.undirected(mine + others)
    chance = _random.generator(seed, "negatives")
    unlinked = {kind: _links.sample_negatives(either, len(linked), chance, kind=kind, codes=codes) for kind in kinds}
    return first, linked, unlinked
