"""The report of a comparison: one page of Markdown, mostly tables, in which every figure is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae.benchmark import _markdown as md
from diffvae.benchmark._statistics import MARGIN, at
from diffvae.metrics import _names

if TYPE_CHECKING:
    from diffvae.benchmark._comparison import Findings

RARE_SHARE, RARE_CELLS = 0.05, 50
FEW = 5
"""With fewer data sets an interval says little about others."""
ONE_DIGIT = ("active_dimensions", "training_seconds")

NOTES: tuple[tuple[Callable[[dict[str, Any]], Any], str], ...] = (
    (
        lambda of: True,
        "Scores are mean ± standard deviation over trainings, each with its own split and seed, of the mean over the "
        "clusterings of a training. Trainings of each method: {trainings}.",
    ),
    (lambda of: of["single"], "A single training has no spread and no interval."),
    (
        lambda of: of["methods"] > 1,
        "Bold scores are the best of their row if the {level:.0%} interval of the paired difference from the second "
        "best excludes zero.",
    ),
    (
        lambda of: of["sets"] > 1,
        "Means over data sets weigh the data sets equally and leave out those that lack a method; their ± is the "
        "spread of this mean between trainings.",
    ),
    (
        lambda of: of["resampled"],
        "Differences are {reference} minus the other method, paired by split and seed, with {level:.0%} bootstrap "
        "intervals ({draws:,} draws of {resampled}); bold ones exclude zero. A tie is a data set whose interval "
        "includes zero or whose difference is at most {margin:g}.",
    ),
    (
        lambda of: of["dropped"] > 0,
        "Up to {dropped} trainings of a row lack a partner and are left out of the difference.",
    ),
    (
        lambda of: 1 < of["sets"] < FEW,
        "With only {sets} data sets the intervals say little about other data sets; look at each.",
    ),
    (
        lambda of: of["written"],
        "All settings and measures are in summary.csv, paired.csv and paired_by_dataset.csv, all runs in runs.csv.",
    ),
)
"""When each note on how to read the report is shown."""

VERDICTS: tuple[tuple[Callable[[dict[str, Any]], Any], str], ...] = (
    (lambda of: of["worse"], "**{method} does better than {reference}** by {measure}"),
    (lambda of: of["single"] and of["behind"], "**{method} is ahead of {reference}** by {measure} in single trainings"),
    (lambda of: of["lost"], "**{method} does better than {reference} on {lost}** by {measure}"),
    (lambda of: of["unclear"] and not of["single"], "**{reference} is not clearly better than {method}** by {measure}"),
    (lambda of: of["single"], "{reference} is ahead of {method} by {measure} in single trainings"),
    (lambda of: True, "{reference} does better than {method} by {measure}"),
)
"""The first sentence whose condition holds, from the worst to the best news for the reference."""
TALLY = "settings better / unclear / worse: {better} / {unclear} / {worse}"
MAIN = "{setting}: {reference_mean} against {method_mean}, difference {difference} ({interval})"
SETS = "data sets won / tied / lost: {wins} / {ties} / {losses}"


def report(
    found: Findings,
    types: pd.DataFrame,
    *,
    command: str | None = None,
    figures: Mapping[str, str] | None = None,
) -> str:
    """Return the page.

    Parameters
    ----------
    found
        Statistics of the runs.
    types
        Recall and precision of the reference types in each run.
    command
        The command or call that made the comparison.
    figures
        File to caption; None if the page stands alone, without a folder.
    """
    others = md.listed([md.text(m) for m in found.methods[1:]])
    sets = md.listed([md.text(d) for d in found.datasets])
    parts = [f"# {md.text(found.reference)}" + (f" beside {others}" if others else "")]
    parts += [f"Runs: {len(found.table):,}. Methods: {len(found.methods)}. Data sets: {sets}."]
    if said := verdict(found):
        parts += ["## What was found", "\n".join(f"- {sentence}" for sentence in said)]
    parts += ["## How to read it", "\n".join(f"- {note}" for note in _notes(found, written=figures is not None))]
    parts += [f"![{md.text(caption)}]({file})" for file, caption in (figures or {}).items()]
    if found.metric is not None:
        parts += [f"## {md.capital(_names.metric_name(found.metric))}", *_scores(found, [found.metric])]
        parts += ["### Spread between trainings and between clusterings of one training", _spread(found)]
    others_measured: list[str] = [m for m in (*_names.OF_SPACE, *_names.OF_TRAINING) if m in found.metrics]
    parts += ["## Other measures", *_scores(found, others_measured)] if others_measured else []
    rare = [(name, table) for name in found.datasets if (table := _rare_types(types, found, name))]
    if rare:
        parts += [
            "## Rare types",
            f"Recall / precision of types below {RARE_SHARE:.0%} of the cells or {RARE_CELLS} cells.",
        ]
        parts += [part for name, table in rare for part in (f"### {md.text(name)}", table)]
    if table := _differences(found):
        parts += [f"## {md.text(found.reference)} minus each other method", table]
    parts += ["## How this was made", *([md.code(command)] if command else []), _made(found.table)]
    return "\n\n".join(parts) + "\n"


def verdict(found: Findings) -> list[str]:
    """Return one statement per other method and measure, the worst for the reference first."""
    said = []
    for metric in [m for m in _paired_measures(found) if m != "silhouette"]:
        rows = found.paired(metric)
        for method in found.methods[1:] if len(rows) else []:
            own = rows[(rows["method"] == method) & (rows["n_pairs"] > 0)]
            said += [_statement(found, metric, method, own)] if len(own) else []
    return [sentence for _, sentence in sorted(said, key=lambda pair: pair[0])]


def _statement(found: Findings, metric: str, method: str, rows: pd.DataFrame) -> tuple[int, str]:
    """Return the place of the statement in ``VERDICTS``, and the statement."""
    sets = at(found.paired(metric, per_dataset=True), method=method, **found.settings[0])
    lost = sets.loc[sets["result"] == "loss", "dataset"] if rows["n_datasets"].max() > 1 else []
    better, worse = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
    main = at(rows, **found.settings[0]).head(1).to_dict("records")
    of: dict[str, Any] = {name: md.number(row[name]) for row in main for name in ("reference_mean", "method_mean")}
    for row in main:
        of |= {name: row[name] for name in ("wins", "ties", "losses", "n_datasets")}
        of |= {"setting": _names.setting_name({k: row[k] for k in _names.setting_of(metric)})}
        of |= {"difference": _signed(row["difference"]), "interval": _interval(row)}
    of |= {
        "method": md.text(method),
        "reference": md.text(found.reference),
        "measure": _names.metric_name(metric),
        "better": better,
        "worse": worse,
        "unclear": len(rows) - better - worse,
        "single": rows["low"].isna().all(),
        "behind": (rows["difference"] < 0).any(),
        "lost": md.listed([md.text(name) for name in lost]),
    }
    place, sentence = next((i, said) for i, (holds, said) in enumerate(VERDICTS) if holds(of))
    parts = [sentence, TALLY, *([MAIN] if main else []), *([SETS] if of.get("n_datasets", 1) > 1 else [])]
    return place, "; ".join(parts).format(**of) + "."


def _notes(found: Findings, written: bool) -> list[str]:
    """Return the notes that apply."""
    trainings = at(found.summary, metric=found.metric or found.metrics[0])["n_trainings"]
    paired = found.paired(_paired_measures(found)[0]) if _paired_measures(found) else pd.DataFrame()
    paired = paired.reindex(columns=["n_pairs", "n_dropped", "resampled"])
    of = {
        "trainings": md.listed([str(n) for n in sorted(set(trainings))], "or"),
        "single": trainings.max() < 2,
        "methods": len(found.methods),
        "sets": len(found.datasets),
        "reference": md.text(found.reference),
        "level": found.bootstrap.level,
        "draws": found.bootstrap.n,
        "resampled": md.listed(list(paired.loc[paired["n_pairs"] > 0, "resampled"].unique()), "or"),
        "margin": MARGIN,
        "dropped": paired["n_dropped"].max(),
        "written": written,
    }
    return [note.format(**of) for holds, note in NOTES if holds(of)]


def _scores(found: Findings, metrics: list[str]) -> list[str]:
    """Return a table of the mean over the data sets, if there are several, and one per data set."""
    rows = found.scores[found.scores["metric"].isin(metrics)]
    asked: list[str | None] = [None, *found.datasets] if len(found.datasets) > 1 else [*found.datasets]
    parts = []
    for name in asked:
        if len(here := at(rows, dataset=name)):
            heading = f"Mean over {len(found.datasets)} data sets" if name is None else md.text(name)
            parts += [f"### {heading}", _score_table(here, found.methods)]
    return parts


def _score_table(rows: pd.DataFrame, methods: list[str]) -> str:
    """Return measure and setting by method; bold is the best, if it surely is."""
    keys = ["metric", "space", "clusterer", "k_given", "n_latent"]
    rows = rows.sort_values("n_latent", kind="stable").reindex(columns=[*rows.columns.union(keys, sort=False)])
    order = rows.groupby(keys[:-1], sort=False, dropna=False).ngroup()  # dimensions vary fastest
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows.iloc[np.argsort(order, kind="stable")].to_dict("records"):
        score = md.spread(row["mean"], row["sd"], 1 if row["metric"] in ONE_DIGIT else 3)
        lines.setdefault(_labels(row), {})[row["method"]] = f"**{score}**" if row["best"] else score
    first = int(rows["metric"].nunique() == 1)  # the heading names a single measure
    header = [*["measure", "space", "clustering", "dimensions"][first:], *map(md.text, methods)]
    cells = [[*label[first:], *(of.get(m, "–") for m in methods)] for label, of in lines.items()]
    return md.table(header, cells, left=4 - first)


def _labels(row: Mapping[Any, Any]) -> tuple[str, str, str, str]:
    """Return measure, space, clustering and dimensions in words, a dash for what the measure does not depend on."""
    space, clusterer, n_latent = (
        None if pd.isna(value := row.get(k)) else value for k in ("space", "clusterer", "n_latent")
    )
    return (
        _names.metric_name(row["metric"]),
        "–" if space is None else md.text(_names.space_name(space)),
        "–" if clusterer is None else md.text(_names.clusterer_name(clusterer, bool(row["k_given"]))),
        "–" if n_latent is None else str(int(n_latent)),
    )


def _spread(found: Findings) -> str:
    """Return the root mean square of both standard deviations, over methods, dimensions and data sets."""
    lines = []
    for _, own in at(found.summary, metric=found.metric).groupby(["clusterer", "k_given", "space"], sort=False):
        _, space, clustering, _ = _labels(own.iloc[0])
        spreads = [md.number(np.sqrt((own[column] ** 2).mean())) for column in ("sd", "sd_clusterings")]
        lines.append([clustering, space, *spreads])
    return md.table(["clustering", "space", "between trainings", "between clusterings of one training"], lines, left=2)


def _rare_types(types: pd.DataFrame, found: Findings, dataset: str) -> str | None:
    """Return recall and precision of the rare types by method in the main settings; None if no type is rare."""
    own = at(types, dataset=dataset)
    sizes = own.drop_duplicates("type").set_index("type")["n_cells"]
    share = sizes / max(sizes.sum(), 1)
    lines = []
    for name, n in sizes[(share < RARE_SHARE) | (sizes < RARE_CELLS)].sort_values(ascending=False).items():
        for setting in found.settings:
            rows = at(own, type=name, **setting)
            label = [md.text(name), f"{n} ({share[name]:.1%})", md.text(_names.setting_name(setting))]
            lines.append(label + [_recall_precision(at(rows, method=m)) for m in found.methods])
    return md.table(["type", "cells", "setting", *map(md.text, found.methods)], lines, left=1) if lines else None


def _recall_precision(rows: pd.DataFrame) -> str:
    """Return both, each the mean over trainings of the mean over clusterings, with its spread."""
    if rows.empty:
        return "–"
    means = rows.groupby("seed")[["recall", "precision"]].mean()
    return " / ".join(md.spread(means[c].mean(), means[c].std(), 2) for c in means)


def _differences(found: Findings) -> str | None:
    """Return the differences from each other method at the main number of dimensions; None if there are none."""
    size = {k: v for k, v in found.settings[0].items() if k == "n_latent"}
    lines = []
    for metric in _paired_measures(found):
        rows = found.paired(metric)
        for row in at(rows[rows["n_pairs"] > 0], **size).to_dict("records") if len(rows) else []:
            difference = _signed(row["difference"])
            sure = row["low"] > 0 or row["high"] < 0
            tally = f"{row['wins']} / {row['ties']} / {row['losses']}"
            values = [f"**{difference}**" if sure else difference, _interval(row), tally, str(row["n_pairs"])]
            lines.append([*_labels(row), md.text(row["method"]), *values])
    header = ["measure", "space", "clustering", "dimensions", "against"]
    return md.table([*header, "difference", "interval", "win / tie / loss", "pairs"], lines, left=5) if lines else None


def _paired_measures(found: Findings) -> list[str]:
    """Return the measures whose differences are shown."""
    return [m for m in (str(found.metric), "knn_purity", "silhouette") if m in found.metrics]


def _signed(value: float) -> str:
    """Return a difference with its sign.

    Examples
    --------
    >>> _signed(0.0312), _signed(-0.02), _signed(0.0)
    ('+0.031', '−0.020', '0.000')
    """
    said = md.number(value)
    return f"+{said}" if value > 0 and float(said) != 0 else said


def _interval(row: Mapping[Any, Any]) -> str:
    return "–" if pd.isna(row["low"]) else f"{_signed(row['low'])} to {_signed(row['high'])}"


def _made(table: pd.DataFrame) -> str:
    """Return total seconds, and the versions with the number of their runs."""
    trained = table.drop_duplicates(["dataset", "method", "n_latent", "seed"])["training_seconds"].sum()
    runs = table["versions"].dropna().map(str).value_counts(sort=False)
    versions = "; ".join(f"{md.text(name)} (runs: {n:,})" for name, n in runs.items())
    return (
        f"Seconds of all trainings: {trained:,.1f}; of all clusterings: {table['clustering_seconds'].sum():,.1f}.\n\n"
        f"Versions: {versions}."
    )
