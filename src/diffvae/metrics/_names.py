"""The columns of a benchmark table: settings, measures and their names in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

SETTING: Final = ("n_latent", "space", "clusterer", "k_given")
"""Choices besides the method; runs are compared where these are equal."""
RUN: Final = ("dataset", "method", *SETTING, "seed", "clustering_seed")
"""Columns that identify a run."""

MIXED: Final = ("ilisi", "kbet_acceptance", "batch_silhouette", "batch_r2")
"""Measures of how well batches are mixed."""
INTEGRATION: Final = (*MIXED, "isolated_types")
"""Measures of data integration that need batches; purity and silhouette of the types are the other side."""
OF_TRAINING: Final = (
    *INTEGRATION, "reconstruction_r2", "active_dimensions", "mig", "dci_disentanglement", "dci_completeness",
    "dci_informativeness", "type_alignment", "batch_alignment", "mean_correlation", "recurrence", "recurrence_active",
    "training_seconds",
)  # fmt: skip
"""Measures of a training, equal in all its runs."""
OF_SPACE: Final = ("silhouette", "knn_purity")
"""Measures of a space, equal in all its clusterings."""
OF_CLUSTERING: Final = ("ari", "nmi", "overlap", "n_clusters", "clustering_seconds")

LESS_IS_BETTER: Final = ("batch_r2", "training_seconds", "clustering_seconds")
NEITHER: Final = ("n_clusters", "active_dimensions", "batch_alignment", "mean_correlation")
"""Measures without a direction: no method is marked as the best. PCA and ICA have no correlation by construction."""

NAMES: Final = {
    "ari": "adjusted Rand index",
    "nmi": "normalised mutual information",
    "overlap": "overlap, one to one",
    "n_clusters": "clusters",
    "silhouette": "silhouette of the types",
    "knn_purity": "kNN purity",
    "reconstruction_r2": "reconstruction R²",
    "active_dimensions": "active dimensions",
    "mig": "MIG",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness": "DCI informativeness",
    "type_alignment": "alignment with types",
    "batch_alignment": "alignment with batches",
    "ilisi": "iLISI",
    "kbet_acceptance": "kBET acceptance",
    "batch_silhouette": "batch silhouette",
    "batch_r2": "variance explained by batch",
    "isolated_types": "isolated types",
    "mean_correlation": "mean |r| of dimensions",
    "recurrence": "recurrence of dimensions",
    "recurrence_active": "recurrence of active dimensions",
    "training_seconds": "seconds of a training",
    "clustering_seconds": "seconds of a clustering",
}
SPACES: Final = {"latent": "latent", "tsne": "t-SNE of latent"}
CLUSTERERS: Final = {
    "kmeans": "k-means",
    "dbscan": "DBSCAN",
    "gmm": "Gaussian mixture",
    "leiden": "Leiden",
    "leiden_posterior": "Leiden on the posterior graph",
}


def setting_of(metric: str) -> list[str]:
    """Return the columns of the setting on which a measure depends.

    Examples
    --------
    >>> setting_of("ari"), setting_of("knn_purity"), setting_of("mig")
    (['n_latent', 'space', 'clusterer', 'k_given'], ['n_latent', 'space'], ['n_latent'])
    """
    return list(SETTING[: 1 if metric in OF_TRAINING else 2 if metric in OF_SPACE else 4])


def metric_name(metric: str) -> str:
    return NAMES.get(metric, metric.replace("_", " "))


def clusterer_name(clusterer: str, k_given: bool) -> str:
    return CLUSTERERS.get(clusterer, str(clusterer)) + ", k given" * bool(k_given)


def space_name(space: str) -> str:
    return SPACES.get(space, str(space))


def setting_name(setting: Mapping[Any, Any] | pd.Series) -> str:
    """Describe a setting in words; entries that are missing are left out.

    Examples
    --------
    >>> setting_name({"n_latent": 50, "space": "latent", "clusterer": "kmeans", "k_given": True})
    'k-means, k given, on the latent, 50 dimensions'
    >>> setting_name({"n_latent": 20})
    '20 dimensions'
    """
    parts = []
    if "clusterer" in setting:
        parts.append(clusterer_name(setting["clusterer"], setting["k_given"]))
    if "space" in setting:
        parts.append(f"on the {space_name(setting['space'])}")
    if "n_latent" in setting and not pd.isna(setting["n_latent"]):
        parts.append(f"{int(setting['n_latent'])} dimensions")
    return ", ".join(parts)


def measures(table: pd.DataFrame) -> list[str]:
    """Return the columns of a table that hold a measure, the known ones first."""
    known = [c for c in (*OF_CLUSTERING, *OF_SPACE, *OF_TRAINING) if c in table]
    other = [c for c in table.select_dtypes("number") if c not in {*RUN, *known}]
    return [c for c in (*known, *other) if table[c].notna().any()]


def ordered(frame: pd.DataFrame, like: pd.DataFrame) -> pd.DataFrame:
    """Sort rows in the order of a table: names by first appearance, dimensions and seeds by number."""
    codes = {}
    for column in [c for c in RUN if c in frame and c in like]:
        values = like[column].dropna().unique()
        values = np.sort(values) if column in ("n_latent", "seed", "clustering_seed") else values
        codes[column] = pd.Categorical(frame[column], categories=values).codes
    return frame.iloc[pd.DataFrame(codes).sort_values(list(codes), kind="stable").index]
