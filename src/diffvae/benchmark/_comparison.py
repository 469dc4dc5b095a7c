"""The result of a comparison: every run in one table, its statistics, and the folder of its report."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from diffvae import _random
from diffvae._core.io import folders
from diffvae._core.runtime import versions
from diffvae._errors import DataError, OutputError
from diffvae.benchmark import _report
from diffvae.benchmark._findings import Findings
from diffvae.benchmark._jobs import claim, output_folder, write_summary
from diffvae.benchmark._statistics import Bootstrap, at, compare, summary
from diffvae.metrics import _names

REFERENCE = "DiffVAE"
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

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(200, 200)
    >>> comparison = dv.benchmark.run({"tree": cells}, {"PCA": dv.model.PCA(), "again": dv.model.PCA()},
    ...     label_key="cell_type", n_latent=10, clusterers=["kmeans"], spaces=["latent"], metrics=["ari"],
    ...     n_trainings=2, n_clusterings=2, progress=False)
    >>> comparison.compare("PCA")[["method", "difference", "ties"]].values.tolist()
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
            raise OutputError(f"{str(folder)!r} has a report already; name another folder, or pass overwrite=True.")
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


def _write(comparison: Comparison, stats: Findings, folder: Path) -> None:
    """Write everything, the summary last, because its state "complete" means that all other files are there."""
    from diffvae import pl
    from diffvae.pl._style import apart_from_pyplot

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
        with apart_from_pyplot():
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
