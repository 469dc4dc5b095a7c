"""The result of a comparison: every run in one table, its statistics, and the folder of its report."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffvae import _random
from diffvae._core.io import folders
from diffvae._core.runtime import versions
from diffvae._errors import DataError, OutputError
from diffvae.benchmark import _report
from diffvae.benchmark._jobs import claim, output_folder, write_summary
from diffvae.benchmark._statistics import Bootstrap, at, compare, differences, summary, trainings
from diffvae.metrics import _names

REFERENCE = "DiffVAE"
N_LATENT = 50
"""Dimensions of the main settings if the comparison has them: the default of the paper and of this package."""
CLUSTERERS = (("kmeans", True), ("leiden", True), ("leiden", False))
"""Clusterers of the main settings if the comparison has them; Leiden counts once, with k given if possible."""
REPORT = "report.md"
FIGURE = re.compile(r"figures/[\w+-]{1,200}\.png", re.ASCII)
"""Name of a figure in a summary. No other file is ever removed."""


@dataclass
class Comparison:
    """Result of :func:`diffvae.benchmark.run`.

    Attributes
    ----------
    table
        One row per run: ``dataset``, ``method``, ``n_latent``, ``seed`` (of the training), ``clustering_seed``,
        ``space``, ``clusterer``, ``k_given``, every measure, seconds and versions.
    types
        One row per run and reference type: ``type``, ``n_cells``, ``recall``, ``precision``.
    path
        The folder, if one was written.
    command
        The command or call that made the comparison, for the report.
    """

    table: pd.DataFrame
    types: pd.DataFrame
    path: Path | None = None
    command: str | None = None

    def summary(self, metric: str = "ari") -> pd.DataFrame:
        """Return mean and spread of a measure: :func:`diffvae.benchmark.summary` of the table."""
        return summary(self.table, metric)

    def compare(self, reference: str | None = None, metric: str = "ari", **options: Any) -> pd.DataFrame:
        """Return paired differences between methods: :func:`diffvae.benchmark.compare` of the table.

        The default reference is DiffVAE, or the first method if the comparison lacks DiffVAE.
        """
        return compare(self.table, self._reference(reference), metric, **options)

    def report(self, reference: str | None = None, *, n_bootstrap: int = 2000, rng: _random.Rng = 0) -> str:
        """Return the report in Markdown: the verdict, scores with their spread, paired differences.

        Parameters
        ----------
        reference
            Method with which the others are compared; None for DiffVAE, or the first method without it.
        n_bootstrap
            Bootstrap draws of each interval.
        rng
            Seed of the draws.
        """
        return _report.report(self._findings(reference, n_bootstrap, rng), self.types, command=self.command)

    def write(
        self,
        path: str | PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        reference: str | None = None,
        n_bootstrap: int = 2000,
        rng: _random.Rng = 0,
    ) -> Path:
        """Write report, tables and figures into a folder, and return the folder; no file is ever half written.

        ``report.md``, ``summary.json`` (the verdict, versions), ``runs.csv``, ``types.csv``, ``summary.csv``,
        ``paired.csv``, ``paired_by_dataset.csv``, and ``figures`` as png and svg.

        Parameters
        ----------
        path
            Folder: a new one, an empty one, or the ``out`` of :func:`diffvae.benchmark.run`, whose stored results are
            kept. None for the folder of the comparison.
        overwrite
            Replace an earlier report.
        reference, n_bootstrap, rng
            See :meth:`report`.

        Raises
        ------
        OutputError
            Before anything is written, if the folder holds other files or already has a report.
        """
        folder = output_folder(self.path if path is None else path)
        if folder is None:
            raise ValueError("The comparison has no folder; give the path of one.")
        if (folder / REPORT).exists() and not overwrite:
            raise OutputError(
                f"{str(folder)!r} has a report already; name another folder, or pass overwrite (--overwrite)."
            )
        _write(self, self._findings(reference, n_bootstrap, rng), folder)
        self.path = folder
        return folder

    def main_settings(self) -> list[dict[str, Any]]:
        """Return the settings to look at first: k-means and Leiden on the latent representation with 50 dimensions."""
        return self._findings(None, 1, 0).settings

    def _reference(self, reference: str | None) -> str:
        names = [str(name) for name in self.table["method"].unique()]
        if not names:
            raise DataError("The comparison has no runs: every training failed, and its warnings say why.")
        if reference is None:
            return REFERENCE if REFERENCE in names else names[0]
        if reference not in names:
            raise ValueError(f"reference is {reference!r}; the methods are {', '.join(map(repr, names))}.")
        return reference

    def _findings(self, reference: str | None, n_bootstrap: int, rng: _random.Rng) -> Findings:
        return Findings(self.table, self._reference(reference), Bootstrap(n_bootstrap, rng=rng))


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
        Column; the fewest seconds are best.
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


def _write(comparison: Comparison, stats: Findings, folder: Path) -> None:
    """Write everything, the summary last, because its state "complete" means that all other files are there."""
    from diffvae import pl

    earlier = _earlier_figures(folder)
    claim(folder)
    tables = {
        "runs": comparison.table,
        "types": comparison.types,
        "summary": stats.summary,
        "paired": stats.all_paired(),
        "paired_by_dataset": stats.all_paired(per_dataset=True),
    }
    for name, table in tables.items():
        folders.write_csv(table, folder / f"{name}.csv")
    captions = {}
    for name, (caption, draw) in figures(stats).items():
        pl.save(draw(), folder / "figures" / name)
        captions[f"figures/{name}.png"] = caption
    page = _report.report(stats, comparison.types, command=comparison.command, figures=captions)
    folders.write_text(page, folder / REPORT)
    for file in earlier - set(captions):
        for suffix in (".png", ".svg"):
            (folder / file).with_suffix(suffix).unlink(missing_ok=True)
    about = {
        "state": "complete",
        "n_runs": len(comparison.table),
        "datasets": stats.datasets,
        "methods": stats.methods,
        "reference": stats.reference,
        "command": comparison.command,
        "verdict": _report.verdict(stats),
        "figures": list(captions),
        "versions": versions(),
    }
    write_summary(about, folder)


def _earlier_figures(folder: Path) -> set[str]:
    """Return the figures of an earlier report; none if its summary has no proper list of them."""
    try:
        names = folders.read_summary(folder).get("figures")
    except DataError:  # there is no summary yet
        return set()
    listed = names if isinstance(names, list) else []
    return {name for name in listed if isinstance(name, str) and FIGURE.fullmatch(name)}


def figures(stats: Findings) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Return name to caption and drawing: scores and paired differences in the main settings."""
    from diffvae import pl

    asked = [(stats.metric, setting) for setting in stats.settings if stats.metric is not None]
    asked += [("knn_purity", stats.settings[0])] * ("knn_purity" in stats.metrics)
    drawings: dict[str, tuple[str, Callable[[], Any]]] = {}
    for metric, whole in asked:
        setting = {k: v for k, v in whole.items() if k in _names.setting_of(str(metric))}
        runs = at(stats.table, **setting)
        slug = "_".join(str(setting[k]) for k in ("clusterer", "space", "n_latent") if k in setting)
        name, where = f"{metric}_{slug}", f"{_names.metric_name(str(metric))}, {_names.setting_name(setting)}"
        if runs[metric].notna().any():
            drawings[name] = (f"Every training: {where}", partial(pl.method_scores, runs, str(metric)))
        rows = stats.paired(str(metric))
        rows = at(rows[rows["n_pairs"] > 0], **setting) if len(rows) else rows
        if len(rows):
            sets = at(stats.paired(str(metric), per_dataset=True), **setting)
            caption = f"{stats.reference} minus each other method: {where}"
            drawings[f"paired_{name}"] = (caption, partial(pl.method_differences, rows, sets))
    return drawings
