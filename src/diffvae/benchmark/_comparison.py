"""The result of a comparison: every run in one table, its statistics, and the folder they are written into."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random
from diffvae._core.io import folders
from diffvae._errors import DataError, OutputError
from diffvae.benchmark import _report
from diffvae.benchmark._jobs import claim, refuse_foreign
from diffvae.benchmark._statistics import Bootstrap, at, compare, differences, summary, trainings
from diffvae.metrics import _names

REFERENCE = "DiffVAE"
N_LATENT = 50
"""Dimensions of the main setting where the comparison has them: the paper's and ours."""
CLUSTERERS = (("kmeans", True), ("leiden", True), ("leiden", False))
"""Clusterers of the main settings where the comparison has them; Leiden counts once, with k given if possible."""
REPORT = "report.md"
FIGURE = re.compile(r"figures/[\w+-]{1,200}\.png", re.ASCII)
"""Name of a figure in a summary. Nothing else is ever removed."""


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
        The command or call that made it, which the report repeats.

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(200, 200)
    >>> found = dv.benchmark.run({"tree": cells}, {"PCA": dv.model.PCA(), "again": dv.model.PCA()},
    ...     label_key="cell_type", n_latent=10, clusterers=["kmeans"], spaces=["latent"], metrics=["ari"],
    ...     n_trainings=2, n_clusterings=2, progress=False)
    >>> found.compare("PCA")[["method", "difference", "ties"]].values.tolist()
    [['again', 0.0, 1]]
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
        """Write report, tables and figures into a folder; each file is written whole or not at all.

        ``report.md``, ``summary.json`` (the verdict, versions), ``runs.csv``, ``types.csv``, ``summary.csv``,
        ``paired.csv``, ``paired_by_dataset.csv``, and ``figures`` as png and svg.

        Parameters
        ----------
        path
            Folder: a new one, an empty one, or the ``out`` of :func:`diffvae.benchmark.run`, whose finished pieces stay
            as they are. None for the folder of the comparison.
        overwrite
            Replace an earlier report.
        reference, n_bootstrap, rng
            See :meth:`report`.

        Returns
        -------
        The folder.

        Raises
        ------
        OutputError
            Before anything is written, if the folder holds other files or already has a report.
        """
        where = self.path if path is None else path
        if where is None:
            raise ValueError("The comparison has no folder; give the path of one.")
        found = self._findings(reference, n_bootstrap, rng)
        self.path = _write(self, found, Path(where).expanduser(), overwrite=overwrite)
        return self.path

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


@dataclass(frozen=True)
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
        """The main settings: k-means and Leiden on the latent representation of 50 dimensions, or the nearest to it."""
        own = self.table[self.table["method"] == self.reference]
        sizes = sorted(own["n_latent"].dropna().unique())
        spaces = list(own["space"].unique())
        about: dict[str, Any] = {}
        if sizes:
            about["n_latent"] = N_LATENT if N_LATENT in sizes else sizes[len(sizes) // 2]
        about["space"] = "latent" if "latent" in spaces else spaces[0]
        there = [(c, bool(k)) for c, k in own[["clusterer", "k_given"]].drop_duplicates().to_numpy()]
        chosen = {c: (c, k) for c, k in reversed(CLUSTERERS) if (c, k) in there}
        pairs = [chosen[c] for c in ("kmeans", "leiden") if c in chosen] or there[:1]
        return [about | {"clusterer": c, "k_given": k} for c, k in pairs]

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Mean and spread of every measure."""
        parts = [summary(self.table, metric).assign(metric=metric) for metric in self.metrics]
        found = pd.concat(parts, ignore_index=True)
        first = ["metric", "dataset", "method", *(c for c in _names.SETTING if c in found)]
        return found[[*first, *(c for c in found if c not in first)]]

    @cached_property
    def over_sets(self) -> pd.DataFrame:
        r"""Mean over the data sets that all methods of a setting have, and its spread over the trainings.

        ``sd`` is :math:`\sqrt{\sum_d s_d^2} / D`, where :math:`s_d` is the standard deviation in data set d.
        """
        parts = []
        for metric, rows in self.summary.groupby("metric", sort=False):
            keys = _names.setting_of(str(metric))
            for _, here in rows.groupby(keys, sort=False, dropna=False):
                shared = here[here["dataset"].isin(_shared_sets(here))]
                by_method = shared.assign(variance=shared["sd"] ** 2).groupby(
                    ["metric", "method", *keys], sort=False, dropna=False
                )
                sd = np.sqrt(by_method["variance"].sum(min_count=shared["dataset"].nunique())) / by_method.size()
                parts.append(pd.DataFrame({"mean": by_method["mean"].mean(), "sd": sd}).reset_index())
        return pd.concat(parts, ignore_index=True).assign(dataset=None)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """``summary`` and ``over_sets`` (``dataset`` None) with ``best``: whether a method surely is the best."""
        shown = (self.metric, *_names.OF_SPACE, *_names.OF_TRAINING)
        parts = [leaders(self.table, m, self.bootstrap).assign(metric=m) for m in self.metrics if m in shown]
        sure = {key for part in parts for key in _entries(part[part["sure"].astype(bool)], "best")}
        scores = pd.DataFrame(self.summary.to_dict("records") + self.over_sets.to_dict("records"))
        return scores.assign(best=[key in sure for key in _entries(scores, "method")])

    @cached_property
    def _differences(self) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
        return {}

    def paired(self, metric: str, per_dataset: bool = False) -> pd.DataFrame:
        """Return the paired differences of one measure; empty if the reference or all others lack it."""
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


def _entries(scores: pd.DataFrame, method: str) -> list[tuple[Any, ...]]:
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
    interval excludes zero. Empty for a measure without a better end.
    """
    bootstrap = bootstrap or Bootstrap()
    keys = _names.setting_of(metric)
    rows: list[dict[str, Any]] = []
    if metric not in _names.NEITHER:
        cells = trainings(table, metric)
        cells["mean"] *= -1 if metric in _names.LESS_IS_BETTER else 1
        for values, here in cells.groupby(keys, sort=False, dropna=False):
            wide = here.pivot(index=["dataset", "seed"], columns="method", values="mean")
            of_sets: dict[Any, np.ndarray] = {name: one.to_numpy() for name, one in wide.groupby("dataset", sort=False)}
            shared = _shared_sets(here)
            asked: list[tuple[str | None, list[np.ndarray]]] = [(name, [one]) for name, one in of_sets.items()]
            asked += [(None, [of_sets[name] for name in shared])] if len(shared) > 1 else []
            for dataset, sets in asked:
                about = {"dataset": dataset, **dict(zip(keys, values, strict=True))}
                purpose = (metric, *map(str, values), *([] if dataset is None else [str(dataset)]))
                rows += [about | row for row in _leader(sets, list(map(str, wide.columns)), bootstrap, *purpose)]
    return pd.DataFrame(rows, columns=["dataset", *keys, "best", "second", "difference", "low", "high", "sure"])


def _shared_sets(rows: pd.DataFrame) -> list[str]:
    """Return the data sets in which all methods of these rows have a value, so that their means are comparable."""
    has = rows.groupby("dataset", sort=False)["method"].nunique()
    return [str(name) for name in has.index[has == rows["method"].nunique()]]


def _leader(sets: list[np.ndarray], names: list[str], bootstrap: Bootstrap, *purpose: str) -> list[dict[str, Any]]:
    """Compare the two best methods over data sets, each an array seeds x methods with NaN for missing trainings."""
    there = [i for i in range(len(names)) if all((~np.isnan(one[:, i])).any() for one in sets)]
    if len(there) < 2:
        return []
    means = {i: float(np.mean([np.nanmean(one[:, i]) for one in sets])) for i in there}
    best, second = sorted(there, key=lambda i: -means[i])[:2]
    gaps = [gap[~np.isnan(gap)] for gap in (one[:, best] - one[:, second] for one in sets)]
    low, high = bootstrap.interval(gaps, "leader", *purpose)
    difference = float(np.mean([gap.mean() for gap in gaps if len(gap)] or [np.nan]))
    row = {"best": names[best], "second": names[second], "difference": difference}
    return [row | {"low": low, "high": high, "sure": low > 0}]


def _write(comparison: Comparison, found: Findings, folder: Path, *, overwrite: bool) -> Path:
    """Write everything; the summary comes last because it says that all the rest is there."""
    from diffvae import pl
    from diffvae._core.runtime import versions

    _refuse(folder, overwrite)
    earlier = _earlier_figures(folder)
    claim(folder)
    tables = {
        "runs": comparison.table,
        "types": comparison.types,
        "summary": found.summary,
        "paired": found.all_paired(),
        "paired_by_dataset": found.all_paired(per_dataset=True),
    }
    for name, table in tables.items():
        folders.write_csv(table, folder / f"{name}.csv")
    captions = {}
    for name, (caption, draw) in figures(found).items():
        pl.save(draw(), folder / "figures" / name)
        captions[f"figures/{name}.png"] = caption
    page = _report.report(found, comparison.types, command=comparison.command, figures=captions)
    folders.write_text(page, folder / REPORT)
    for file in earlier - set(captions):
        for suffix in (".png", ".svg"):
            (folder / file).with_suffix(suffix).unlink(missing_ok=True)
    about = {
        "state": "complete",
        "n_runs": len(comparison.table),
        "datasets": found.datasets,
        "methods": found.methods,
        "reference": found.reference,
        "command": comparison.command,
        "verdict": _report.verdict(found),
        "figures": list(captions),
        "versions": versions(),
    }
    folders.write_text(json.dumps(about, indent=1) + "\n", folder / _keys.SUMMARY)
    return folder


def _refuse(folder: Path, overwrite: bool) -> None:
    """Raise if the folder holds other files, or a report that must not be replaced."""
    name = repr(str(folder))
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{name} is a file; give the name of a folder.")
    refuse_foreign(folder)
    if (folder / REPORT).exists() and not overwrite:
        raise OutputError(f"{name} has a report already; name another folder, or pass overwrite (--overwrite).")


def _earlier_figures(folder: Path) -> set[str]:
    """Return the figures of an earlier report; none if its summary does not name them properly."""
    try:
        names = folders.read_summary(folder).get("figures")
    except DataError:  # there is no summary yet
        return set()
    return (
        {name for name in names if isinstance(name, str) and FIGURE.fullmatch(name)}
        if isinstance(names, list)
        else set()
    )


def figures(found: Findings) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Return name to caption and drawing: scores and paired differences in the main settings."""
    from diffvae import pl

    asked = [(found.metric, setting) for setting in found.settings if found.metric is not None]
    asked += [("knn_purity", found.settings[0])] * ("knn_purity" in found.metrics)
    drawn: dict[str, tuple[str, Callable[[], Any]]] = {}
    for metric, whole in asked:
        setting = {k: v for k, v in whole.items() if k in _names.setting_of(str(metric))}
        runs = at(found.table, **setting)
        slug = "_".join(str(setting[k]) for k in ("clusterer", "space", "n_latent") if k in setting)
        name, where = f"{metric}_{slug}", f"{_names.metric_name(str(metric))}, {_names.setting_name(setting)}"
        if runs[metric].notna().any():
            drawn[name] = (f"Every training: {where}", partial(pl.method_scores, runs, str(metric)))
        rows = found.paired(str(metric))
        rows = at(rows[rows["n_pairs"] > 0], **setting) if len(rows) else rows
        if len(rows):
            sets = at(found.paired(str(metric), per_dataset=True), **setting)
            caption = f"{found.reference} minus each other method: {where}"
            drawn[f"paired_{name}"] = (caption, partial(pl.method_differences, rows, sets))
    return drawn
