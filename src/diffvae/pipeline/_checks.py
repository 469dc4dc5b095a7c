"""What a run refuses before it begins, each with a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae._errors import DataError
from diffvae.tl import _annotate, _cluster, _markers

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae._core.io.backed import BackedAnnData

MIN_TYPE = 10
"""Cells of a type that is to be changed, or changed into: the classifier's minimum."""


def check_options(
    markers: Any, n_clusters: int | str, cluster_method: str, cluster_on: str, n_dims: int, n_genes: int, seed: int
) -> None:
    if cluster_on not in ("latent", "tsne"):
        raise ValueError(f"cluster_on is {cluster_on!r}; it is 'latent' or 'tsne'.")
    _cluster.check_options(cluster_method, n_clusters)
    if n_clusters != "auto" and int(n_clusters) < 2:
        raise ValueError(
            f"n_clusters is {n_clusters}, but clusters are told from each other; n_clusters must be 2 or more."
        )
    if n_dims < 1 or n_genes < 1:
        raise ValueError(f"n_dims={n_dims} and n_genes={n_genes} must be positive.")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}; give a non-negative integer.")
    if not (isinstance(markers, str) and markers == "auto"):
        _markers.read_markers(markers)


def require_labels(adata: AnnData | BackedAnnData, label_key: str | None) -> None:
    if label_key is None:
        return
    if label_key not in adata.obs:
        raise DataError(f"adata.obs[{label_key!r}] is missing; the columns are: {', '.join(adata.obs) or 'none'}.")
    labels = adata.obs[label_key].dropna()
    if labels.nunique() < 2:
        raise DataError(
            f"adata.obs[{label_key!r}] has {labels.nunique()} different labels; two are needed to compare with."
        )
    if labels.nunique() > len(labels) / 2:
        raise DataError(
            f"adata.obs[{label_key!r}] has {labels.nunique():,} different values in {len(labels):,} cells, so they are "
            "no labels of groups; name another column."
        )


def require_markers(adata: AnnData | BackedAnnData, markers: Any) -> None:
    """Refuse markers of which the data have none."""
    _annotate.candidates(markers, (adata.raw or adata).var_names.astype(str), "the data")


def require_cells(adata: AnnData | BackedAnnData, n_clusters: int | str, drawn: int | None = None) -> None:
    """Refuse more clusters than cells, or than cells that are drawn of them."""
    if n_clusters == "auto":
        return
    if int(n_clusters) > adata.n_obs:
        raise DataError(f"n_clusters is {n_clusters}, but there are {adata.n_obs} cells.")
    if drawn is not None and int(n_clusters) > drawn:
        raise DataError(
            f"n_clusters is {n_clusters}, but {drawn} cells are drawn to find them (subsample); draw more, or ask for "
            "fewer clusters."
        )


def require_types(
    adata: AnnData | BackedAnnData, label_key: str | None, source: str | None, target: Sequence[str] | None
) -> None:
    """Refuse a source or targets that the labels don't have; names that clusters will get aren't known yet."""
    if source is None:
        if target:
            raise ValueError("A target was named but no source; name the type whose cells are to be changed as well.")
        return
    if label_key is None:
        return
    types = sorted(adata.obs[label_key].dropna().astype(str).unique())
    for name in (source, *(target or ())):
        if name not in types:
            raise DataError(f"{name!r} is no type of adata.obs[{label_key!r}]; the types are: {', '.join(types)}.")
        if (n := int((adata.obs[label_key].astype(str) == name).sum())) < MIN_TYPE:
            raise DataError(
                f"{name!r} has {n} cells, fewer than the {MIN_TYPE} that a classifier needs; name another type."
            )
    if target and source in target:
        raise DataError(f"{source!r} is source and target at once; name another target.")
