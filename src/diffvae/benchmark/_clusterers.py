"""How a space is cut into clusters: with the number of types given, or as somebody would who doesn't know it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from diffvae import _random
from diffvae._core.graphs import leiden
from diffvae.tl import _cluster
from diffvae.tl._neighbors import posterior_graph

POSTERIOR = "leiden_posterior"
"""Leiden on the graph averaged over the posterior, of the latent space of a model that has one."""
CLUSTERERS = (*_cluster.CLUSTERERS, POSTERIOR, "scanpy")


def _ways(name: str) -> tuple[bool, ...]:
    """Return whether a clusterer can be given the number of clusters, and whether it can do without."""
    name = "leiden" if name == POSTERIOR else name
    takes_k = name in _cluster.CLUSTERERS and _cluster.CLUSTERERS[name].takes_k
    return (True, False) if takes_k else (False,)


KGiven: TypeAlias = Sequence[bool] | Mapping[str, Sequence[bool]]
"""Whether the number of clusters is given, for all clusterers or by name; one that is not named is given it."""
RESOLUTION = 1.0
"""Of Leiden where no number is given; scanpy's default."""


@dataclass(frozen=True)
class Partition:
    """Clusters of the cells of a space: which clusterer made them, with which seed."""

    clusterer: str
    k_given: bool
    clustering_seed: int
    labels: np.ndarray


def check_clusterers(clusterers: Sequence[str], k_given: KGiven) -> None:
    """Refuse names that aren't known, and a choice that leaves nothing to do."""
    if unknown := [c for c in clusterers if c not in CLUSTERERS]:
        raise ValueError(f"{unknown[0]!r} is no clusterer; they are {', '.join(map(repr, CLUSTERERS))}.")
    if isinstance(k_given, Mapping) and (unknown := [c for c in k_given if c not in clusterers]):
        raise ValueError(f"k_given names {unknown[0]!r}, which is not among the clusterers {', '.join(clusterers)}.")
    for name, asked in k_given.items() if isinstance(k_given, Mapping) else [(None, k_given)]:
        entry = "k_given" if name is None else f"k_given[{name!r}]"
        if not isinstance(asked, Sequence) or not all(isinstance(given, bool | np.bool_) for given in asked):
            raise ValueError(f"{entry} is {asked!r}; it must be a sequence of True and False, such as (True,).")
        if not asked:
            raise ValueError(f"{entry} is empty; name at least one of True (the number is given) and False.")
    if not clusterers:
        raise ValueError("No clusterer was named; name at least one.")


def partitions(
    x: np.ndarray,
    n_types: int,
    clusterers: Sequence[str],
    k_given: KGiven,
    seeds: Sequence[int],
    sd: np.ndarray | None = None,
) -> Iterator[Partition]:
    """Cut a space with every clusterer and seed; one without randomness, or of one answer, is asked once.

    Each graph is made once. ``seeds`` are numbers of repeats: the seed of a clusterer is derived from them. Without
    ``sd``, the standard deviations of the posterior, there is no posterior graph and no row for it.
    """
    graphs = _Graphs(x, sd)
    for name in clusterers:
        if name == POSTERIOR and sd is None:
            continue
        is_random = name not in _cluster.CLUSTERERS or _cluster.CLUSTERERS[name].is_random
        # a clusterer that takes no number runs without one, whatever is asked of the others
        asked = k_given.get(name, (True,)) if isinstance(k_given, Mapping) else k_given
        for given in [g for g in _ways(name) if g in asked or len(_ways(name)) == 1]:
            for seed in seeds if is_random else seeds[:1]:
                state = _random.seed(seed, "benchmark", "leiden" if name == POSTERIOR else name) % 2**31
                yield Partition(name, given, seed, _labels(name, x, n_types if given else None, state, graphs))


class _Graphs:
    """The neighbour graphs of a space by clusterer, made when they are first asked for."""

    def __init__(self, x: np.ndarray, sd: np.ndarray | None) -> None:
        self._make: dict[str, Callable[[], Any]] = {
            "leiden": lambda: posterior_graph(x, None),
            "scanpy": lambda: _scanpy_graph(x),
        }
        if sd is not None:
            self._make[POSTERIOR] = lambda: posterior_graph(x, sd)
        self._made: dict[str, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._make

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._make[name]()
        return self._made[name]


def _labels(name: str, x: np.ndarray, k: int | None, seed: int, graphs: _Graphs) -> np.ndarray:
    if name in graphs:
        return _leiden(graphs[name], k, seed)
    clusterer = _cluster.CLUSTERERS[name]
    if k is None and clusterer.takes_k:
        return _auto(x, name, seed)
    return clusterer.fit(x, k or "auto", seed, np.random.default_rng(seed))[0]


def _auto(x: np.ndarray, method: str, seed: int) -> np.ndarray:
    """Let :func:`diffvae.tl.cluster` choose the number, as it does for users."""
    import anndata as ad
    import pandas as pd

    from diffvae import tl

    cells = ad.AnnData(obs=pd.DataFrame(index=[str(i) for i in range(len(x))]), obsm={"x": x})
    tl.cluster(cells, method, use_rep="x", rng=seed)
    return cells.obs["diffvae_cluster"].cat.codes.to_numpy()


def _leiden(graph: Any, k: int | None, seed: int) -> np.ndarray:
    if k is None:
        return leiden(graph, RESOLUTION, seed)
    return _cluster.leiden_with(lambda r: leiden(graph, r, seed), k)[0]


def _scanpy_graph(x: np.ndarray) -> Any:
    """Return the graph of scanpy's tutorial: 15 neighbours, UMAP's weights."""
    import anndata as ad
    import pandas as pd
    import scanpy as sc

    cells = ad.AnnData(obs=pd.DataFrame(index=[str(i) for i in range(len(x))]), obsm={"x": x})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba's and umap's on their own internals
        sc.pp.neighbors(cells, use_rep="x", transformer="sklearn", random_state=0)
    return cells.obsp["connectivities"]
