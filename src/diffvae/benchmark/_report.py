"""The report of a comparison in Markdown: the verdict in sentences, then tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae.benchmark import _markdown as md
from diffvae.benchmark._statistics import MARGIN, at
from diffvae.metrics import _names

if TYPE_CHECKING:
    from diffvae.benchmark._findings import Findings

RARE_SHARE, RARE_CELLS = 0.05, 50
FEW_SETS = 5
"""With fewer data sets an interval says little about other data sets."""
BATCHES = (
    "Batches are mixed: iLISI, kBET acceptance and batch silhouette (more is better), variance explained by batch "
    "(less is better). Types are kept: silhouette, purity and isolated types (more is better). Read both sides "
    "together: a space without any information mixes the batches perfectly and keeps no type."
)
ONE_DIGIT = ("active_dimensions", "training_seconds")


def report(
    stats: Findings, types: pd.DataFrame, *, command: str | None = None, figures: Mapping[str, str] | None = None
) -> str:
    """Return the report.

    Parameters
    ----------
    stats
        Statistics of the runs.
    types
        Recall and precision of the reference types in each run.
    command
        The command or call that made the comparison.
    figures
        File to caption; None if the report is not written into a folder.
    """
    reference, *others = map(md.text, stats.methods)
    compared = f" compared with {md.listed(others)}" if others else ""
    sets = md.listed([md.text(d) for d in stats.datasets])
    parts = [f"# {reference}{compared}"]
    parts += [f"Runs: {len(stats.table):,}. Methods: {len(stats.methods)}. Data sets: {sets}."]
    if sentences := verdict(stats):
        parts += ["## Findings", md.bullets(sentences)]
    parts += ["## How to read this report", md.bullets(_notes(stats, written=figures is not None))]
    parts += [f"![{md.text(caption)}]({file})" for file, caption in (figures or {}).items()]
    if stats.metric is not None:
        parts += [f"## {md.capital(_names.metric_name(stats.metric))}", *_scores(stats, [stats.metric])]
        parts += ["### Spread between trainings and between clusterings of one training", _spread(stats)]
    other_measures: list[str] = [m for m in (*_names.OF_SPACE, *_names.OF_TRAINING) if m in stats.metrics]
    if set(other_measures) & set(_names.INTEGRATION):
        sides: list[str] = [m for m in (*_names.MIXED, *_names.OF_SPACE, "isolated_types") if m in other_measures]
        other_measures = [m for m in other_measures if m not in sides]
        parts += ["## Batches mixed and types kept", BATCHES, *_scores(stats, sides)]
    if other_measures:
        parts += ["## Other measures", *_scores(stats, other_measures)]
    if rare := [(name, table) for name in stats.datasets if (table := _rare_types(types, stats, name))]:
        limits = f"below {RARE_SHARE:.0%} of the cells or {RARE_CELLS} cells"
        parts += ["## Rare types", f"Recall / precision of types {limits}."]
        parts += [part for name, table in rare for part in (f"### {md.text(name)}", table)]
    if table := _differences(stats):
        parts += [f"## {reference} minus each other method", table]
    parts += ["## How this report was made", *([md.code(command)] if command else []), _made(stats.table)]
    return "\n\n".join(parts) + "\n"


def verdict(stats: Findings) -> list[str]:
    """Return one statement per other method and measure, the worst for the reference first."""
    statements = []
    for metric in [m for m in _paired_measures(stats) if m != "silhouette"]:
        rows = stats.paired(metric)
        for method in stats.methods[1:] if len(rows) else []:
            paired = rows[(rows["method"] == method) & (rows["n_pairs"] > 0)]
            statements += [_statement(stats, metric, method, paired)] if len(paired) else []
    return [sentence for _, sentence in sorted(statements, key=lambda pair: pair[0])]


def _statement(stats: Findings, metric: str, name: str, rows: pd.DataFrame) -> tuple[int, str]:
    """Return the rank of the statement, 0 for the worst news for the reference, and the statement."""
    method, reference, measure = md.text(name), md.text(stats.reference), _names.metric_name(metric)
    several = rows["n_datasets"].max() > 1
    sets = at(stats.paired(metric, per_dataset=True), method=name, **stats.settings[0])
    lost = md.listed([md.text(d) for d in sets.loc[sets["result"] == "loss", "dataset"]]) if several else ""
    better, worse = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
    unclear = len(rows) - better - worse
    single, behind = rows["low"].isna().all(), (rows["difference"] < 0).any()
    cases = (
        (worse, f"**{method} does better than {reference}** by {measure}"),
        (single and behind, f"**{method} is ahead of {reference}** by {measure} in single trainings"),
        (lost, f"**{method} does better than {reference} on {lost}** by {measure}"),
        (unclear and not single, f"**{reference} is not clearly better than {method}** by {measure}"),
        (single, f"{reference} is ahead of {method} by {measure} in single trainings"),
        (True, f"{reference} does better than {method} by {measure}"),
    )  # fmt: skip
    rank, sentence = next((i, sentence) for i, (applies, sentence) in enumerate(cases) if applies)
    parts = [sentence, f"settings better / unclear / worse: {better} / {unclear} / {worse}"]
    for row in at(rows, **stats.settings[0]).head(1).to_dict("records"):
        setting = _names.setting_name({k: row[k] for k in _names.setting_of(metric)})
        means = f"{md.number(row['reference_mean'])} against {md.number(row['method_mean'])}"
        parts.append(f"{setting}: {means}, difference {md.signed(row['difference'])} ({_interval(row)})")
        if row["n_datasets"] > 1:
            parts.append(f"data sets won / tied / lost: {row['wins']} / {row['ties']} / {row['losses']}")
    return rank, "; ".join(parts) + "."


def _notes(stats: Findings, written: bool) -> list[str]:
    """Return the notes that apply."""
    n_trainings = at(stats.summary, metric=stats.metric or stats.metrics[0])["n_trainings"]
    paired = stats.paired(_paired_measures(stats)[0]) if _paired_measures(stats) else pd.DataFrame()
    paired = paired.reindex(columns=["n_pairs", "n_dropped", "resampled"])
    resampled = md.listed(list(paired.loc[paired["n_pairs"] > 0, "resampled"].unique()), "or")
    dropped, level, n_sets = paired["n_dropped"].max(), stats.bootstrap.level, len(stats.datasets)
    notes = (
        (
            True,
            "Scores are mean ± standard deviation over trainings, each with its own split and seed, of the mean over "
            f"the clusterings of a training. Trainings of each method: "
            f"{md.listed([str(n) for n in sorted(set(n_trainings))], 'or')}.",
        ),
        (n_trainings.max() < 2, "A single training has no spread and no interval."),
        (
            len(stats.methods) > 1,
            f"Bold scores are the best of their row if the {level:.0%} interval of the paired difference from the "
            "second best excludes zero.",
        ),
        (
            n_sets > 1,
            "Means over data sets weight the data sets equally and leave out those that lack a method; their ± is the "
            "spread of this mean between trainings.",
        ),
        (
            resampled,
            f"Differences are {md.text(stats.reference)} minus the other method, paired by split and seed, with "
            f"{level:.0%} bootstrap intervals ({stats.bootstrap.n:,} draws of {resampled}); bold ones exclude zero. A "
            f"tie is a data set whose interval includes zero or whose difference is at most {MARGIN:g}.",
        ),
        (dropped > 0, f"Up to {dropped} trainings of a row lack a partner and are left out of the difference."),
        (
            1 < n_sets < FEW_SETS,
            f"With only {n_sets} data sets the intervals say little about other data sets; look at each.",
        ),
        (
            written,
            "All settings and measures are in summary.csv, paired.csv and paired_by_dataset.csv, all runs in runs.csv.",
        ),
    )
    return [note for applies, note in notes if applies]


def _scores(stats: Findings, metrics: list[str]) -> list[str]:
    """Return a table of the mean over the data sets, if there are several, and one per data set; measures in order."""
    rows = stats.scores[stats.scores["metric"].isin(metrics)]
    rows = rows.sort_values("metric", key=lambda names: names.map(metrics.index), kind="stable")
    asked: list[str | None] = [None, *stats.datasets] if len(stats.datasets) > 1 else [*stats.datasets]
    parts = []
    for name in asked:
        if len(here := at(rows, dataset=name)):
            heading = f"Mean over {len(stats.datasets)} data sets" if name is None else md.text(name)
            parts += [f"### {heading}", _score_table(here, stats.methods)]
    return parts


def _score_table(rows: pd.DataFrame, methods: list[str]) -> str:
    """Return a table of settings x methods; bold is the method that is clearly the best."""
    keys = ["metric", "space", "clusterer", "k_given", "n_latent"]
    rows = rows.sort_values("n_latent", kind="stable").reindex(columns=[*rows.columns.union(keys, sort=False)])
    order = rows.groupby(keys[:-1], sort=False, dropna=False).ngroup()  # dimensions vary fastest
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows.iloc[np.argsort(order, kind="stable")].to_dict("records"):
        score = md.spread(row["mean"], row["sd"], 1 if row["metric"] in ONE_DIGIT else 3)
        lines.setdefault(_labels(row), {})[row["method"]] = f"**{score}**" if row["best"] else score
    first = int(rows["metric"].nunique() == 1)  # the heading names a single measure
    header = [*["measure", "space", "clustering", "dimensions"][first:], *map(md.text, methods)]
    cells = [[*label[first:], *(scores.get(m, "–") for m in methods)] for label, scores in lines.items()]
    return md.table(header, cells, left=4 - first)


def _labels(row: Mapping[Any, Any]) -> tuple[str, str, str, str]:
    """Return measure, space, clustering and dimensions in words, a dash where the measure does not depend on one."""
    space, clusterer, n_latent = (None if pd.isna(row.get(k)) else row[k] for k in ("space", "clusterer", "n_latent"))
    return (
        _names.metric_name(row["metric"]),
        "–" if space is None else md.text(_names.space_name(space)),
        "–" if clusterer is None else md.text(_names.clusterer_name(clusterer, bool(row["k_given"]))),
        "–" if n_latent is None else str(int(n_latent)),
    )


def _spread(stats: Findings) -> str:
    """Return the root mean square of both standard deviations, over methods, dimensions and data sets."""
    lines = []
    for _, here in at(stats.summary, metric=stats.metric).groupby(["clusterer", "k_given", "space"], sort=False):
        _, space, clustering, _ = _labels(here.iloc[0])
        spreads = [md.number(np.sqrt((here[column] ** 2).mean())) for column in ("sd", "sd_clusterings")]
        lines.append([clustering, space, *spreads])
    return md.table(["clustering", "space", "between trainings", "between clusterings of one training"], lines, left=2)


def _rare_types(types: pd.DataFrame, stats: Findings, dataset: str) -> str | None:
    """Return recall and precision of the rare types by method in the main settings; None if no type is rare."""
    here = at(types, dataset=dataset)
    sizes = here.drop_duplicates("type").set_index("type")["n_cells"]
    share = sizes / max(sizes.sum(), 1)
    lines = []
    for name, n in sizes[(share < RARE_SHARE) | (sizes < RARE_CELLS)].sort_values(ascending=False).items():
        for setting in stats.settings:
            rows = at(here, type=name, **setting)
            label = [md.text(name), f"{n} ({share[name]:.1%})", md.text(_names.setting_name(setting))]
            lines.append(label + [_recall_precision(at(rows, method=m)) for m in stats.methods])
    return md.table(["type", "cells", "setting", *map(md.text, stats.methods)], lines, left=1) if lines else None


def _recall_precision(rows: pd.DataFrame) -> str:
    """Return both, each the mean over trainings of the mean over clusterings, with the standard deviation."""
    if rows.empty:
        return "–"
    means = rows.groupby("seed")[["recall", "precision"]].mean()
    return " / ".join(md.spread(means[c].mean(), means[c].std(), 2) for c in means)


def _differences(stats: Findings) -> str | None:
    """Return the differences from each other method at the main number of dimensions; None if there are none."""
    size = {k: v for k, v in stats.settings[0].items() if k == "n_latent"}
    lines = []
    for metric in _paired_measures(stats):
        rows = stats.paired(metric)
        for row in at(rows[rows["n_pairs"] > 0], **size).to_dict("records") if len(rows) else []:
            difference = md.signed(row["difference"])
            clear = row["low"] > 0 or row["high"] < 0
            tally = f"{row['wins']} / {row['ties']} / {row['losses']}"
            values = [f"**{difference}**" if clear else difference, _interval(row), tally, str(row["n_pairs"])]
            lines.append([*_labels(row), md.text(row["method"]), *values])
    header = ["measure", "space", "clustering", "dimensions", "against"]
    return md.table([*header, "difference", "interval", "win / tie / loss", "pairs"], lines, left=5) if lines else None


def _paired_measures(stats: Findings) -> list[str]:
    """Return the measures whose differences are shown."""
    return [m for m in (str(stats.metric), "knn_purity", "silhouette") if m in stats.metrics]


def _interval(row: Mapping[Any, Any]) -> str:
    return "–" if pd.isna(row["low"]) else f"{md.signed(row['low'])} to {md.signed(row['high'])}"


def _made(table: pd.DataFrame) -> str:
    """Return total seconds, and the versions with the number of their runs."""
    trained = table.drop_duplicates(["dataset", "method", "n_latent", "seed"])["training_seconds"].sum()
    runs = table["versions"].dropna().map(str).value_counts(sort=False)
    versions = "; ".join(f"{md.text(name)} (runs: {n:,})" for name, n in runs.items())
    return (
        f"Seconds of all trainings: {trained:,.1f}; of all clusterings: {table['clustering_seconds'].sum():,.1f}.\n\n"
        f"Versions: {versions}."
    )
