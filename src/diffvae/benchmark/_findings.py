"""Everything that the report of a comparison says, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from diffvae import _measures
from diffvae.benchmark._bootstrap import Bootstrap
from diffvae.benchmark._leaders import leaders, shared_sets
from diffvae.benchmark._paired import differences
from diffvae.benchmark._statistics import summary

N_LATENT = 50
"""Dimensions of the main setting, where there are such: the paper's and ours."""
SHOWN = (("kmeans", True), ("leiden", True), ("leiden", False))
"""Clusterers of the main settings, where there are such; of the two ways of Leiden the first."""


@dataclass(frozen=True)
class Findings:
    """Statistics of a table of runs, each computed when it is first asked for.

    Attributes
    ----------
    table
        Runs.
    reference
        Method with which the others are compared.
    bootstrap
        Of all intervals.
    """

    table: pd.DataFrame
    reference: str
    bootstrap: Bootstrap

    @cached_property
    def metrics(self) -> list[str]:
        """Measures that the table has."""
        return _measures.measures(self.table)

    @cached_property
    def metric(self) -> str | None:
        """The measure of clusterings that comes first; None if there is none."""
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
        """The main settings: k-means and Leiden on the latent representation of 50 dimensions, or what is nearest."""
        own = self.table[self.table["method"] == self.reference]
        sizes = sorted(own["n_latent"].dropna().unique())
        spaces = list(own["space"].unique())
        about: dict[str, Any] = {}
        if sizes:
            about["n_latent"] = N_LATENT if N_LATENT in sizes else sizes[len(sizes) // 2]
        about["space"] = "latent" if "latent" in spaces else spaces[0]
        there = [(c, bool(k)) for c, k in own[["clusterer", "k_given"]].drop_duplicates().to_numpy()]
        chosen = {c: (c, k) for c, k in reversed(SHOWN) if (c, k) in there}
        pairs = [chosen[c] for c in ("kmeans", "leiden") if c in chosen] or there[:1]
        return [about | {"clusterer": c, "k_given": k} for c, k in pairs]

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Mean and spread of every measure."""
        parts = [summary(self.table, metric).assign(metric=metric) for metric in self.metrics]
        found = pd.concat(parts, ignore_index=True)
        first = ["metric", "dataset", "method", *(c for c in _measures.SETTING if c in found)]
        return found[[*first, *(c for c in found if c not in first)]]

    @cached_property
    def over_sets(self) -> pd.DataFrame:
        r"""Mean over the data sets that all methods of a setting have, and how far it is moved by the trainings.

        ``sd`` is :math:`\sqrt{\sum_d s_d^2} / D`, of the standard deviations over the trainings of each data set.
        """
        parts = []
        for metric, rows in self.summary.groupby("metric", sort=False):
            keys = _measures.setting_of(str(metric))
            for _, here in rows.groupby(keys, sort=False, dropna=False):
                shared = here[here["dataset"].isin(shared_sets(here))]
                grouped = shared.assign(variance=shared["sd"] ** 2).groupby(
                    ["metric", "method", *keys], sort=False, dropna=False
                )
                variance = grouped["variance"].sum(min_count=shared["dataset"].nunique())
                sd = np.sqrt(variance) / grouped.size()
                parts.append(pd.DataFrame({"mean": grouped["mean"].mean(), "sd": sd}).reset_index())
        return pd.concat(parts, ignore_index=True).assign(dataset=None)

    @cached_property
    def _entries(self) -> dict[tuple[Any, ...], tuple[float, float]]:
        rows = self.summary.to_dict("records") + self.over_sets.to_dict("records")
        return {_key(row, ("metric", "dataset", "method")): (row["mean"], row["sd"]) for row in rows}

    @cached_property
    def _best(self) -> set[tuple[Any, ...]]:
        shown = (self.metric, *_measures.OF_SPACE, *_measures.OF_TRAINING)
        of = {m: leaders(self.table, m, self.bootstrap) for m in self.metrics if m in shown}
        return {
            _key(row | {"metric": metric}, ("metric", "dataset", "best"))
            for metric, rows in of.items()
            for row in rows[rows["sure"]].to_dict("records")
        }

    def entry(
        self, metric: str, dataset: str | None, method: str, setting: dict[str, Any]
    ) -> tuple[float, float, bool] | None:
        """Return mean, spread and whether it is surely the best; of no data set: over data sets. None if not there."""
        row = {"metric": metric, "dataset": dataset, "method": method, **setting}
        key = _key(row, ("metric", "dataset", "method"))
        return (*self._entries[key], key in self._best) if key in self._entries else None

    @cached_property
    def _differences(self) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
        return {}

    def paired(self, metric: str, per_dataset: bool = False) -> pd.DataFrame:
        """Return the paired differences of one measure; empty if the reference has none, or there is no other."""
        if metric not in self._differences:
            if not self.table.loc[self.table["method"] == self.reference, metric].notna().any():
                return pd.DataFrame()
            self._differences[metric] = differences(self.table, self.reference, metric, self.bootstrap)
        return self._differences[metric][per_dataset]

    def all_paired(self, per_dataset: bool = False) -> pd.DataFrame:
        """Return the paired differences of all measures."""
        asked = [m for m in self.metrics if m not in ("n_clusters", "clustering_seconds")]
        parts = [rows for m in asked if len(rows := self.paired(m, per_dataset))]
        return pd.concat(parts, ignore_index=True) if parts else self.paired(asked[0], per_dataset)


def _key(row: dict[str, Any], names: tuple[str, ...]) -> tuple[Any, ...]:
    """Return what tells an entry from others: what it is of, and the part of the setting on which it depends."""
    values = [row.get(name) for name in (*names, *_measures.setting_of(row["metric"]))]
    return tuple(None if v is None or v != v else v for v in values)


def at(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Return the rows where columns have these values; those that the frame lacks are passed over.

    Examples
    --------
    >>> at(pd.DataFrame({"a": [1, 2], "b": [3, 4]}), a=2, c=5)["b"].tolist()
    [4]
    """
    for column, value in values.items():
        if column in frame:
            frame = frame[frame[column].isna() if value is None or value != value else frame[column] == value]
    return frame
