"""Everything that the report of a comparison shows, computed once: differences, intervals, leaders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas as pd

from diffvae.benchmark._statistics import Bootstrap, differences, summary, trainings
from diffvae.metrics import _names

N_LATENT = 50
"""Dimensions of the main settings if the comparison has them: the default of the paper and of this package."""
CLUSTERERS = (("kmeans", True), ("leiden", True), ("leiden", False))
"""Clusterers of the main settings if the comparison has them; Leiden counts once, with k given if possible."""


@dataclass(frozen=True, eq=False)
class Findings:
    """Statistics of a table of runs, each computed when it is first used.

    Attributes
    ----------
    table
        Runs.
    reference
        Method with which the others are compared.
    bootstrap
        Draws, level and seed of all intervals.
    """

    table: pd.DataFrame
    reference: str
    bootstrap: Bootstrap

    @cached_property
    def metrics(self) -> list[str]:
        """Measures in the table."""
        return _names.measures(self.table)

    @cached_property
    def metric(self) -> str | None:
        """The main measure of clusterings; None if there is none."""
        return next((m for m in ("ari", "nmi", "overlap") if m in self.metrics), None)

    @cached_property
    def methods(self) -> list[str]:
        """All methods, the reference first."""
        return sorted(map(str, self.table["method"].unique()), key=lambda m: m != self.reference)

    @cached_property
    def datasets(self) -> list[str]:
        return [str(name) for name in self.table["dataset"].unique()]

    @cached_property
    def settings(self) -> list[dict[str, Any]]:
        """The main settings: k-means and Leiden on the latent representation, with 50 dimensions or the median size."""
        runs = self.table[self.table["method"] == self.reference]
        sizes = sorted(runs["n_latent"].dropna().unique())
        spaces = list(runs["space"].unique())
        about: dict[str, Any] = {}
        if sizes:
            about["n_latent"] = N_LATENT if N_LATENT in sizes else sizes[len(sizes) // 2]
        about["space"] = "latent" if "latent" in spaces else spaces[0]
        present = [(c, bool(k)) for c, k in runs[["clusterer", "k_given"]].drop_duplicates().to_numpy()]
        chosen = {c: (c, k) for c, k in reversed(CLUSTERERS) if (c, k) in present}
        pairs = [chosen[c] for c in ("kmeans", "leiden") if c in chosen] or present[:1]
        return [about | {"clusterer": c, "k_given": k} for c, k in pairs]

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Mean and spread of every measure."""
        parts = [summary(self.table, metric).assign(metric=metric) for metric in self.metrics]
        table = pd.concat(parts, ignore_index=True)
        first = ["metric", "dataset", "method", *(c for c in _names.SETTING if c in table)]
        return table[[*first, *(c for c in table if c not in first)]]

    @cached_property
    def over_sets(self) -> pd.DataFrame:
        r"""Mean over the data sets that all methods of a setting have, and its spread over the trainings.

        ``sd`` is :math:`\sqrt{\sum_d s_d^2} / D`, where :math:`s_d` is the standard deviation in data set d.
        """
        parts = []
        for metric, rows in self.summary.groupby("metric", sort=False):
            keys = _names.setting_of(str(metric))
            for _, here in rows.groupby(keys, sort=False, dropna=False):
                shared = here[here["dataset"].isin(_shared_sets(here))].assign(variance=here["sd"] ** 2)
                by_method = shared.groupby(["metric", "method", *keys], sort=False, dropna=False)
                sd = np.sqrt(by_method["variance"].sum(min_count=shared["dataset"].nunique())) / by_method.size()
                parts.append(pd.DataFrame({"mean": by_method["mean"].mean(), "sd": sd}).reset_index())
        return pd.concat(parts, ignore_index=True).assign(dataset=None)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """``summary`` and ``over_sets`` (``dataset`` None) with ``best``: whether a method is clearly the best."""
        shown = (self.metric, *_names.OF_SPACE, *_names.OF_TRAINING)
        parts = [leaders(self.table, m, self.bootstrap).assign(metric=m) for m in self.metrics if m in shown]
        best = {key for part in parts for key in _row_keys(part[part["sure"].astype(bool)], "best")}
        scores = pd.DataFrame(self.summary.to_dict("records") + self.over_sets.to_dict("records"))
        return scores.assign(best=[key in best for key in _row_keys(scores, "method")])

    @cached_property
    def _differences(self) -> Callable[[str], tuple[pd.DataFrame, pd.DataFrame]]:
        return cache(lambda metric: differences(self.table, self.reference, metric, self.bootstrap))

    def paired(self, metric: str, per_dataset: bool = False) -> pd.DataFrame:
        """Return the paired differences of one measure; empty if the reference lacks it."""
        if not self.table.loc[self.table["method"] == self.reference, metric].notna().any():
            return pd.DataFrame()
        return self._differences(metric)[per_dataset]

    def all_paired(self, per_dataset: bool = False) -> pd.DataFrame:
        """Return the paired differences of all measures."""
        asked = [m for m in self.metrics if m not in ("n_clusters", "clustering_seconds")]
        parts = [rows for m in asked if len(rows := self.paired(m, per_dataset))]
        return pd.concat(parts, ignore_index=True) if parts else self.paired(asked[0], per_dataset)


def _row_keys(scores: pd.DataFrame, method: str) -> list[tuple[Any, ...]]:
    """Return measure, data set, setting and method of each row, with None for missing values."""
    rows = scores.reindex(columns=["metric", "dataset", *_names.SETTING, method]).to_numpy(object)
    return [tuple(None if pd.isna(value) else value for value in row) for row in rows]


def leaders(table: pd.DataFrame, metric: str, bootstrap: Bootstrap | None = None) -> pd.DataFrame:
    """Compare the best method with the second best, for each data set and setting, and over all data sets.

    Parameters
    ----------
    table
        Runs.
    metric
        Column; the fewest seconds are best, and the least variance explained by batch.
    bootstrap
        Draws, level and seed of the intervals.

    Returns
    -------
    One row per setting with several methods and data set (None: the mean over the data sets that all methods of the
    setting have): ``best``, ``second``, ``difference`` (positive), ``low``, ``high``, and ``sure``, whether the
    interval excludes zero. Empty for a measure of which neither more nor less is better.
    """
    bootstrap = bootstrap or Bootstrap()
    keys = _names.setting_of(metric)
    rows: list[dict[str, Any]] = []
    if metric not in _names.NEITHER:
        means = trainings(table, metric)
        means["mean"] *= -1 if metric in _names.LESS_IS_BETTER else 1
        for values, here in means.groupby(keys, sort=False, dropna=False):
            wide = here.pivot(index=["dataset", "seed"], columns="method", values="mean")
            names = list(map(str, wide.columns))
            by_set: dict[Any, np.ndarray] = {name: one.to_numpy() for name, one in wide.groupby("dataset", sort=False)}
            shared = _shared_sets(here)
            asked: list[tuple[str | None, list[np.ndarray]]] = [(name, [one]) for name, one in by_set.items()]
            asked += [(None, [by_set[name] for name in shared])] if len(shared) > 1 else []
            for dataset, sets in asked:
                about = {"dataset": dataset, **dict(zip(keys, values, strict=True))}
                purpose = (metric, *map(str, values), *([] if dataset is None else [str(dataset)]))
                rows += [about | row for row in _leader(sets, names, bootstrap, *purpose)]
    return pd.DataFrame(rows, columns=["dataset", *keys, "best", "second", "difference", "low", "high", "sure"])


def _shared_sets(rows: pd.DataFrame) -> list[str]:
    """Return the data sets in which all methods of these rows have a value, so that their means are comparable."""
    n_methods = rows.groupby("dataset", sort=False)["method"].nunique()
    return [str(name) for name in n_methods.index[n_methods == rows["method"].nunique()]]


def _leader(sets: list[np.ndarray], names: list[str], bootstrap: Bootstrap, *purpose: str) -> list[dict[str, Any]]:
    """Compare the two best methods over data sets, each an array seeds x methods with NaN for missing trainings."""
    present = [i for i in range(len(names)) if all((~np.isnan(one[:, i])).any() for one in sets)]
    if len(present) < 2:
        return []
    means = {i: float(np.mean([np.nanmean(one[:, i]) for one in sets])) for i in present}
    best, second = sorted(present, key=lambda i: -means[i])[:2]
    gaps = [gap[~np.isnan(gap)] for gap in (one[:, best] - one[:, second] for one in sets)]
    low, high = bootstrap.interval(gaps, "leader", *purpose)
    difference = float(np.mean([gap.mean() for gap in gaps if len(gap)] or [np.nan]))
    row = {"best": names[best], "second": names[second], "difference": difference}
    return [row | {"low": low, "high": high, "sure": low > 0}]
