"""What a comparison found, in words: where another method wins comes first."""

from __future__ import annotations

from typing import Any

import pandas as pd

from diffvae import _measures
from diffvae.benchmark import _markdown as md
from diffvae.benchmark._findings import Findings, at
from diffvae.benchmark._report_tables import interval, signed


def verdict(found: Findings) -> list[str]:
    """Return one statement per other method and measure, those that are worst for the reference first."""
    said = []
    for metric in (found.metric, "knn_purity"):
        rows = found.paired(metric) if metric in found.metrics else pd.DataFrame()
        for method in found.methods[1:]:
            own = rows[(rows["method"] == method) & (rows["n_pairs"] > 0)] if len(rows) else rows
            if len(own):
                said.append(_statement(found, str(metric), method, own))
    return [sentence for _, sentence in sorted(said, key=lambda pair: pair[0])]


def _statement(found: Findings, metric: str, method: str, rows: pd.DataFrame) -> tuple[int, str]:
    """Return how bad the news is for the reference, 0 being worst, and the statement."""
    name, own, by = md.text(method), md.text(found.reference), _measures.metric_name(metric)
    n, worse, better = len(rows), rows[rows["high"] < 0], rows[rows["low"] > 0]
    unsure = n - len(worse) - len(better)
    sets = at(found.paired(metric, per_dataset=True), method=method, **found.settings[0])
    lost = [md.text(d) for d in sets.loc[sets["result"] == "loss", "dataset"]] if rows["n_datasets"].max() > 1 else []
    main = _main(found, metric, rows, lost)
    if rows["low"].isna().all():
        ahead = int((rows["difference"] < 0).sum())
        lead = f"**{name} is ahead of {own}**" if ahead else f"{own} is ahead of {name}"
        where = _of(ahead or int((rows["difference"] > 0).sum()), n)
        return 0 if ahead else 2, f"{lead} by {by} in {where}, by a single training of each: it can be chance.{main}"
    rest = [f"{own} is better in {len(better)}"] * bool(len(better)) + [f"{unsure} can't be told apart"] * bool(unsure)
    if len(worse):
        told = "; ".join([f"**{name} does better than {own}** by {by} in {_of(len(worse), n)}", *rest])
        most = worse.sort_values("difference").iloc[0].to_dict()
        where = _measures.setting_name({k: most[k] for k in _measures.setting_of(metric)})
        same = most["difference"] == _row(found, rows).get("difference")
        return 0, f"{told}.{main}" + ("" if same else f" Most {where}: {_figures(most)}.")
    if lost:
        told = f"**{name} does better than {own} on {md.listed(lost)}** by {by}, though over all data sets"
        return 1, f"{told} it can't be told in {_of(unsure, n)}.{main}" if unsure else f"{told} {own} is better.{main}"
    if unsure:
        told = f"**{own} is not surely better than {name}** by {by} in {_of(unsure, n)}"
        return 2, "; ".join([told, *rest[: bool(len(better))]]) + f".{main}"
    return 3, f"{own} does better than {name} by {by} in {_of(n, n)}.{main}"


def _of(part: int, n: int) -> str:
    if n == 1:
        return "the one setting"
    return f"all {n} settings" if part == n else f"{part} of {n} settings"


def _row(found: Findings, rows: pd.DataFrame) -> dict[str, Any]:
    here = at(rows, **found.settings[0])
    return {} if here.empty else dict(here.iloc[0])


def _main(found: Findings, metric: str, rows: pd.DataFrame, lost: list[str]) -> str:
    """Return the figures of the main setting."""
    row = _row(found, rows)
    if not row:
        return ""
    where = md.capital(_measures.setting_name({k: row[k] for k in _measures.setting_of(metric)}))
    tally = ""
    if row["n_datasets"] > 1:
        names = f" ({', '.join(lost)})" if lost else ""
        tally = f" Of {row['n_datasets']} data sets {row['wins']} won, {row['ties']} tied, {row['losses']} lost{names}."
    return f" {where}: {_figures(row)}.{tally}"


def _figures(row: dict[str, Any]) -> str:
    """Return both means, the difference and its interval."""
    between = "" if pd.isna(row["low"]) else f", interval {interval(row)}"
    means = f"{md.number(row['reference_mean'])} against {md.number(row['method_mean'])}"
    return f"{means} (difference {signed(row['difference'])}{between})"
