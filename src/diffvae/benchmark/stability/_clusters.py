"""Do clusters recur? The same clusterer is run on the latent spaces of several trainings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random, metrics
from diffvae._core.anndata import groups, results
from diffvae.benchmark.stability._matching import Training
from diffvae.tl._cluster import CLUSTERERS, NOISE, cluster

if TYPE_CHECKING:
    from anndata import AnnData

N_PERMUTATIONS = 20
"""Permutations of the labels behind the expected Jaccard index."""
LABEL_COLUMNS = ["source", "first", "second", "ari"]
CLUSTER_COLUMNS = ["cluster", "n_cells", "jaccard", "jaccard_sd", "null_jaccard"]


class Clusterer:
    """A clusterer that chooses its number of clusters, or resolution, on the first space and fixes it for others.

    Parameters
    ----------
    method, n_clusters, resolution
        As in :func:`diffvae.tl.cluster`.
    """

    def __init__(self, method: str, n_clusters: int | str = "auto", resolution: float | None = None) -> None:
        self.method = method
        self.options: dict[str, Any] = {"n_clusters": n_clusters, "resolution": resolution}

    def first(self, space: Training, rng: _random.Rng) -> pd.Categorical:
        """Cluster as :func:`diffvae.tl.cluster` does, and fix its choice."""
        labels, chosen = self._cluster(space, rng)
        self.fix(chosen)
        return labels

    def fix(self, chosen: dict[str, Any]) -> None:
        """Fix the choice that :func:`diffvae.tl.cluster` recorded."""
        if "resolution" in chosen:
            self.options = {"resolution": float(chosen["resolution"])}
        elif CLUSTERERS[self.method].takes_k:
            self.options = {"n_clusters": int(chosen["n_clusters"])}

    def __call__(self, space: Training, rng: _random.Rng) -> pd.Categorical:
        """Cluster another space with the fixed choice."""
        return self._cluster(space, rng)[0]

    def _cluster(self, space: Training, rng: _random.Rng) -> tuple[pd.Categorical, dict[str, Any]]:
        import anndata as ad

        names = pd.DataFrame(index=[str(i) for i in range(len(space.z))])
        cells = ad.AnnData(obs=names, obsm={_keys.LATENT: np.asarray(space.z, np.float32)})
        if space.sd is not None:
            cells.obsm[_keys.LATENT + _keys.SD] = space.sd
        cluster(cells, self.method, rng=rng, **self.options)
        return groups(cells, _keys.CLUSTER), results(cells)["cluster"]


def reference_clusters(
    adata: AnnData, reference: Training, clusterer: Clusterer, use_rep: str | None, rng: _random.Rng
) -> pd.Categorical:
    """Return the clusters of the cells if they come from this method and representation, else those of the reference.

    ``use_rep`` is the key of the reference's latent representation in the cells, None if they lack it.
    """
    known = adata.uns.get(_keys.UNS, {}).get("cluster", {})
    wanted = {"method": clusterer.method, "use_rep": use_rep, "key_added": _keys.CLUSTER}
    automatic = clusterer.options == {"n_clusters": "auto", "resolution": None}
    same = use_rep is not None and wanted == {key: known.get(key) for key in wanted}
    if automatic and same and _keys.CLUSTER in adata.obs:
        clusterer.fix(known)
        return groups(adata, _keys.CLUSTER)
    return clusterer.first(reference, rng)


def label_stability(
    labels: pd.Categorical,
    clusterer: Clusterer,
    reference: Training,
    others: Sequence[Training],
    components: Sequence[Training],
    seeds: Sequence[int],
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table of clusters and that of pairs of partitions.

    Parameters
    ----------
    labels
        Clusters of the reference.
    clusterer
        The clusterer that made them.
    reference
        The reference; it is clustered again with other seeds to measure the variation of the clusterer.
    others
        The further trainings.
    components
        Principal components of a reference and of the further splits, for the same number of clusters; or none.
    seeds
        One per further training.
    rng
        Generator of the permutations.
    """
    again = [clusterer(space, seed) for space, seed in zip(others, seeds, strict=True)]
    clusters = cluster_table(labels, again, rng)
    parts = [pairwise("trainings", [labels, *again])]
    parts.append(pairwise("clusterings", [labels, *(clusterer(reference, seed) for seed in seeds)]))
    if components:
        of_pca = Clusterer(clusterer.method, "auto" if clusterer.method == "dbscan" else len(clusters))
        first = of_pca.first(components[0], seeds[0])
        parts.append(
            pairwise("PCA", [first, *(of_pca(space, s) for space, s in zip(components[1:], seeds, strict=True))])
        )
    return clusters, pd.concat(parts, ignore_index=True)


def pairwise(source: str, partitions: Sequence[pd.Categorical]) -> pd.DataFrame:
    """Return the adjusted Rand index of every pair of partitions; number 0 is the reference."""
    rows = [
        (source, i, j, metrics.adjusted_rand_index(partitions[i].codes, partitions[j].codes))
        for i, j in combinations(range(len(partitions)), 2)
    ]
    return pd.DataFrame(rows, columns=LABEL_COLUMNS)


def cluster_table(
    reference: pd.Categorical, others: Sequence[pd.Categorical], rng: np.random.Generator
) -> pd.DataFrame:
    r"""Return the agreement of each cluster of the reference with the most similar cluster of other trainings.

    .. math:: J_c = \frac{1}{n} \sum_i \max_{c'} \frac{|C \cap C'_i|}{|C \cup C'_i|}

    (Hennig 2007: below 0.5 a cluster is dissolved, above 0.75 it is stable). The mean under permuted labels is given
    too, because it is high for large clusters. The noise of DBSCAN is not a cluster.
    """
    jaccard = np.array([_best_jaccard(reference, other) for other in others])
    shuffled = [
        pd.Categorical.from_codes(rng.permutation(other.codes), other.categories)
        for other in others
        for _ in range(N_PERMUTATIONS)
    ]
    table = pd.DataFrame(
        {
            "cluster": reference.categories.astype(str),
            "n_cells": np.bincount(reference.codes, minlength=len(reference.categories)),
            "jaccard": jaccard.mean(axis=0),
            "jaccard_sd": jaccard.std(axis=0),
            "null_jaccard": np.mean([_best_jaccard(reference, other) for other in shuffled], axis=0),
        },
        columns=CLUSTER_COLUMNS,
    )
    return table[table["cluster"] != NOISE].reset_index(drop=True)


def _best_jaccard(reference: pd.Categorical, other: pd.Categorical) -> np.ndarray:
    rows, columns = len(reference.categories), len(other.categories)
    pairs = reference.codes.astype(np.int64) * columns + other.codes
    both = np.bincount(pairs, minlength=rows * columns).reshape(rows, columns).astype(float)
    jaccard = both / (both.sum(axis=1)[:, None] + both.sum(axis=0) - both)
    jaccard[:, other.categories == NOISE] = 0
    best: np.ndarray = jaccard.max(axis=1)
    return best
