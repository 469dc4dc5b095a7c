"""Which method is best in each row of a table, and whether it is more than chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from diffvae import _measures
from diffvae.benchmark._bootstrap import Bootstrap
from diffvae.benchmark._statistics import trainings


def leaders(table: pd.DataFrame, metric: str, bootstrap: Bootstrap | None = None) -> pd.DataFrame:
    """Compare the best method with the second best, for each data set and setting, and over all data sets.

    Parameters
    ----------
    table
        Runs.
    metric
        Column; of seconds the least is best.
    bootstrap
        Draws, level and seed of the intervals.

    Returns
    -------
    One row per data set (None: the mean over the data sets that all methods of the setting have) and setting in which
    several methods were run: ``best``, ``second``, ``difference`` (positive), ``low``, ``high``, and ``sure``, whether
    the interval excludes zero. Empty for a measure of which neither more nor less is better.
    """
    bootstrap = bootstrap or Bootstrap()
    keys = _measures.setting_of(metric)
    rows: list[dict[str, Any]] = []
    if metric not in _measures.NEITHER:
        cells = trainings(table, metric)
        cells["mean"] *= -1 if metric in _measures.LESS_IS_BETTER else 1
        for values, here in cells.groupby(keys, sort=False, dropna=False):
            setting = dict(zip(keys, values, strict=True))
            name = (metric, *map(str, values))
            wide = here.pivot(index=["dataset", "seed"], columns="method", values="mean")
            of_sets = {dataset: one.to_numpy() for dataset, one in wide.groupby("dataset", sort=False)}
            names = [str(method) for method in wide.columns]
            for dataset, scores in of_sets.items():
                rows += _leader([scores], names, {"dataset": dataset, **setting}, bootstrap, *name, str(dataset))
            if len(shared := shared_sets(here)) > 1:
                chosen = [of_sets[dataset] for dataset in shared]
                rows += _leader(chosen, names, {"dataset": None, **setting}, bootstrap, *name)
    return pd.DataFrame(rows, columns=["dataset", *keys, "best", "second", "difference", "low", "high", "sure"])


def shared_sets(cells: pd.DataFrame) -> list[str]:
    """Return the data sets in which all methods of these rows have a value, so that their means can be compared."""
    has = cells.groupby("dataset", sort=False)["method"].nunique()
    return [str(name) for name in has.index[has == cells["method"].nunique()]]


def _leader(
    sets: list[np.ndarray], names: list[str], about: dict[str, Any], bootstrap: Bootstrap, *purpose: str
) -> list[dict[str, Any]]:
    """Compare the two best of some data sets, each an array seeds x methods that is NaN where there is none."""
    there = [i for i in range(len(names)) if all((~np.isnan(one[:, i])).any() for one in sets)]
    if len(there) < 2:
        return []
    means = {i: float(np.mean([np.nanmean(one[:, i]) for one in sets])) for i in there}
    best, second = sorted(there, key=lambda i: -means[i])[:2]
    gaps = [one[:, best] - one[:, second] for one in sets]
    gaps = [gap[~np.isnan(gap)] for gap in gaps]
    low, high = bootstrap.interval(gaps, "leader", *purpose)
    found = {
        "best": names[best],
        "second": names[second],
        "difference": float(np.mean([gap.mean() for gap in gaps if len(gap)] or [np.nan])),
        "low": low,
        "high": high,
        "sure": low > 0,
    }
    return [about | found]
