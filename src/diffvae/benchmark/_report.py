"""The report of a comparison: one page of Markdown in which no figure is typed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from diffvae import _measures
from diffvae.benchmark import _markdown as md
from diffvae.benchmark import _report_tables as tables
from diffvae.benchmark._findings import Findings
from diffvae.benchmark._paired import MARGIN
from diffvae.benchmark._report_verdict import verdict

FEW = 5
"""Fewer data sets say little of others."""


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
        What made the comparison.
    figures
        File to caption; None if the page stands alone, without a folder.
    """
    others = [md.text(m) for m in found.methods[1:]]
    beside = f" beside {md.listed(others)}" if others else ""
    parts = [f"# {md.text(found.reference)}{beside}", _about(found)]
    if said := verdict(found):
        parts += ["## What was found", "\n".join(f"- {sentence}" for sentence in said), _reading(found)]
    parts += [f"![{md.text(caption)}]({file})" for file, caption in (figures or {}).items()]
    if found.metric is not None:
        parts += [f"## {md.capital(_measures.metric_name(found.metric))}", _legend(found)]
        parts += _of_sets(found, tables.table2)
        parts += ["### Where the spread comes from", _SPREAD, tables.parts_of_spread(found)]
    if measured := _of_sets(found, tables.other_measures):
        space = _measures.space_name(found.settings[0]["space"])
        parts += ["## Other measures", f"kNN purity and silhouette are those of the {md.text(space)}.", *measured]
    if rare := _of_sets(found, lambda found, name: name and tables.rare_types(types, found, name)):
        parts += ["## Rare types", _rare(found), *rare]
    parts += _differences(found, written=figures is not None)
    parts += ["## Seconds", "Of a training, over all dimensions:", tables.seconds(found)]
    parts += ["Of one clustering:", tables.clustering_seconds(found), _total(found.table)]
    parts += ["## How this was made", *_made(found, command)]
    return "\n\n".join(parts) + "\n"


def _count(n: int, what: str) -> str:
    return f"1 {what}" if n == 1 else f"{n:,} {what}s"


def _range(values: Sequence[int], what: str) -> str:
    low, high = min(values), max(values)
    return _count(low, what) if low == high else f"{low} to {_count(high, what)}"


def _about(found: Findings) -> str:
    return (
        f"{_count(len(found.table), 'run')}: {_count(len(found.methods), 'method')} on "
        f"{_count(len(found.datasets), 'data set')} ({md.listed([md.text(d) for d in found.datasets])})."
    )


def _reading(found: Findings) -> str:
    """Say what difference, interval and setting are."""
    few = len(found.datasets)
    about = (
        f" Of {few} data sets an interval is about data sets like these, and so few say little of others: see each."
        if 1 < few < FEW
        else ""
    )
    return (
        f"Differences are {md.text(found.reference)} minus the other method, with {found.bootstrap.level:.0%} "
        "bootstrap intervals; a setting is a clusterer, a space and a number of dimensions (of kNN purity the latter "
        f"two).{about}"
    )


def _legend(found: Findings) -> str:
    rows = found.summary[found.summary["metric"] == found.metric]
    per = int((rows["n_clusterings"] / rows["n_trainings"]).max())
    mean = f"a training's mean over {_count(per, 'clustering')} (1 where nothing is random)"
    said = (
        f"Mean ± standard deviation over {_range(list(rows['n_trainings']), 'training')}, each with its own split and "
        f"seed, of {mean}."
        if rows["sd"].notna().any()
        else f"{md.capital(mean)}: a single training has no spread."
    )
    if len(found.methods) > 1:
        said += (
            f" Bold: the best of its row, where the {found.bootstrap.level:.0%} interval of its paired difference from "
            "the second best excludes zero; a row without bold has no sure winner."
        )
    return said


_SPREAD = (
    "Standard deviations, root mean square over methods, dimensions and data sets. Clusterings of one training see the "
    "same latent representation: repeating them alone says nothing about another training."
)


def _of_sets(found: Findings, make: Any) -> list[str]:
    """Return a table for the mean over the data sets, if there are several, and one for each."""
    parts: list[str] = []
    if len(found.datasets) > 1 and (table := make(found, None)):
        parts += [f"### Mean over {len(found.datasets)} data sets", _OVER_SETS, table]
    for name in found.datasets:
        if table := make(found, name):
            parts += [f"### {md.text(name)}", table]
    return parts


_OVER_SETS = (
    "Data sets count equally; one that lacks a method is left out of the row. ± is how far the trainings move this "
    "mean (of their standard deviations the root of the sum of squares, over the number of sets); bold is judged over "
    "data sets too."
)


def _rare(found: Findings) -> str:
    setting = {k: v for k, v in found.settings[0].items() if k in ("n_latent", "space")}
    return (
        f"Recall / precision of types with less than {tables.RARE_SHARE:.0%} of the cells, or fewer than "
        f"{tables.RARE_CELLS}: {md.text(_measures.setting_name(setting))}; mean ± standard deviation over trainings. "
        "Each type has at most one cluster; a type without one has recall 0 and no precision."
    )


def _differences(found: Findings, written: bool) -> list[str]:
    """Return the tables of paired differences, with what they are before them."""
    asked = [str(m) for m in dict.fromkeys((found.metric, *tables.OF_SPACES)) if m in found.metrics]
    shown = {metric: table for metric in asked if (table := tables.paired(found, metric))}
    if not shown:
        return []
    first = found.paired(next(iter(shown)))
    drawn = md.listed(list(dict.fromkeys(first.loc[first["n_pairs"] > 0, "resampled"])), "or")
    dropped = int(first["n_dropped"].sum())
    size = _measures.setting_name({k: v for k, v in found.settings[0].items() if k == "n_latent"})
    about = [
        f"{size}; " * bool(size) + "a pair are two trainings on the same split with the same seed.",
        f"{found.bootstrap.level:.0%} bootstrap intervals, {found.bootstrap.n:,} draws of {drawn}; bold: without zero.",
        f"Win / tie / loss counts data sets: a tie has zero in its interval, or a difference of {MARGIN:g} or less.",
        *([f"{_count(dropped, 'training')} without a partner left out."] if dropped else []),
        *(["All settings and measures are in paired.csv, each data set in paired_by_dataset.csv."] if written else []),
    ]
    parts = [f"## {md.text(found.reference)} minus each other method", md.capital(" ".join(about))]
    for metric, table in shown.items():
        parts += [f"### {md.capital(_measures.metric_name(metric))}", table]
    return parts


def _total(table: pd.DataFrame) -> str:
    trained = table.drop_duplicates(["dataset", "method", "n_latent", "seed"])["training_seconds"].sum()
    clustered = table["clustering_seconds"].sum()
    return f"One after the other, all trainings took {trained:,.1f} s and all clusterings {clustered:,.1f} s."


def _made(found: Findings, command: str | None) -> list[str]:
    seen = found.table["versions"].dropna().map(str).value_counts(sort=False)
    versions = [f"{md.text(name)}" + (f" ({_count(n, 'run')})" if len(seen) > 1 else "") for name, n in seen.items()]
    parts = [md.code(command)] if command else []
    return [*parts, "Versions: " + "; ".join(versions) + "."]
