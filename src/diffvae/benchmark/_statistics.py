"""Mean and spread of what was repeated, the two parts of the spread apart."""

from __future__ import annotations

import numpy as np
import pandas as pd

from diffvae import _measures


def summary(table: pd.DataFrame, metric: str = "ari") -> pd.DataFrame:
    r"""Return mean and spread of a measure, with the two parts of the spread apart.

    With :math:`m_t` the mean over the clusterings of training t and :math:`s_t` their standard deviation, ``mean`` is
    the mean of :math:`m_t`, ``sd`` their standard deviation, and ``sd_clusterings`` the root of the mean of
    :math:`s_t^2`. Clusterings of one training are no replicates of the method: they see the same latent representation.

    Parameters
    ----------
    table
        ``comparison.table`` of :func:`diffvae.benchmark.run`, or rows of it.
    metric
        Column.

    Returns
    -------
    One row per data set, method and setting (only what the measure depends on: kNN purity belongs to a space, not to
    a clusterer): ``mean``, ``sd``, ``sd_clusterings``, ``n_trainings``, ``n_clusterings`` (in all trainings together).
    A spread of one is NaN.

    Raises
    ------
    ValueError
        If the table has no such measure.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame(
    ...     {"dataset": "tree", "method": "PCA", "n_latent": 50, "space": "latent", "clusterer": "kmeans",
    ...      "k_given": True, "seed": [0, 0, 1, 1], "clustering_seed": [0, 1, 0, 1], "ari": [0.5, 0.7, 0.3, 0.5]}
    ... )
    >>> summary(table)[["mean", "sd", "sd_clusterings", "n_trainings", "n_clusterings"]].round(3).values.tolist()
    [[0.5, 0.141, 0.141, 2.0, 4.0]]
    """
    keys = ["dataset", "method", *_measures.setting_of(metric)]
    grouped = trainings(table, metric).groupby(keys, sort=False, dropna=False)
    found = pd.DataFrame(
        {
            "mean": grouped["mean"].mean(),
            "sd": grouped["mean"].std(),
            "sd_clusterings": np.sqrt(grouped["variance"].mean()),
            "n_trainings": grouped.size(),
            "n_clusterings": grouped["n"].sum(),
        }
    )
    return found.reset_index()


def trainings(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one row per training and setting: mean, variance and number of its clusterings that have a value."""
    keys = ["dataset", "method", *_measures.setting_of(metric), "seed"]
    missing = [c for c in (*keys, "clustering_seed") if c not in table]
    if missing or metric not in table:
        there = ", ".join(_measures.measures(table)) or "none"
        raise ValueError(f"The table has no {', '.join(missing) or metric}; it has the measures {there}.")
    known = table[table[metric].notna()]
    if metric in (*_measures.OF_SPACE, *_measures.OF_TRAINING):  # the same value on several rows is one value
        known = known.drop_duplicates([*keys, *(["clustering_seed"] if metric in _measures.OF_SPACE else [])])
    grouped = known.groupby(keys, sort=False, dropna=False, observed=True)[metric]
    found = pd.DataFrame({"mean": grouped.mean(), "variance": grouped.var(), "n": grouped.size()}).reset_index()
    found["mean"] = found["mean"].astype(float)
    return found
