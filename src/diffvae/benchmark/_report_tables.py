"""The tables of the report: the paper's Table 2 with its spread, and what belongs beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from diffvae import _measures
from diffvae.benchmark import _markdown as md
from diffvae.benchmark._findings import Findings, at

WIDE = 10
"""Columns of scores that still fit side by side; more, and each space gets a table of its own."""
RARE_SHARE, RARE_CELLS = 0.05, 50
OF_SPACES = ("knn_purity", "silhouette")


def entry(found: Findings, metric: str, dataset: str | None, method: str, setting: dict[str, Any]) -> str:
    """Return "mean ± sd" of a method; bold if it is best, and surely so. Of no data set: over those that all have."""
    here = found.entry(metric, dataset, method, setting)
    if here is None:
        return "–"
    mean, sd, best = here
    said = md.spread(mean, sd, 1 if metric == "active_dimensions" else 3)
    return f"**{said}**" if best else said


def table2(found: Findings, dataset: str | None) -> str:
    """Return clusterers x dimensions by methods, on the latent representation and on its t-SNE."""
    assert found.metric is not None
    rows = found.summary[found.summary["metric"] == found.metric]
    spaces = list(rows["space"].unique())
    together = len(spaces) * len(found.methods) <= WIDE
    blocks = [spaces] if together else [[space] for space in spaces]
    return "\n\n".join(_block(found, rows, dataset, block) for block in blocks)


def _block(found: Findings, rows: pd.DataFrame, dataset: str | None, spaces: Sequence[str]) -> str:
    header = ["", ""]
    for space in spaces:
        name = _measures.space_name(space)
        header += [md.text(md.capital(name)), *[""] * (len(found.methods) - 1)]
    lines = [["*clustering*", "*dimensions*", *[f"*{md.text(m)}*" for _ in spaces for m in found.methods]]]
    here = rows[rows["space"].isin(spaces)]
    for clusterer, given in here[["clusterer", "k_given"]].drop_duplicates().itertuples(index=False):
        of = at(here, clusterer=clusterer, k_given=given)
        for i, n_latent in enumerate(sorted(of["n_latent"].unique(), key=lambda v: (pd.isna(v), v))):
            line = [md.text(_measures.clusterer_name(clusterer, given)) if i == 0 else "", dimensions(n_latent)]
            for space in spaces:
                setting = {"n_latent": n_latent, "space": space, "clusterer": clusterer, "k_given": given}
                line += [entry(found, str(found.metric), dataset, m, setting) for m in found.methods]
            lines.append(line)
    return md.table(header, lines)


def dimensions(n_latent: Any) -> str:
    return "–" if pd.isna(n_latent) else str(int(n_latent))


def parts_of_spread(found: Findings) -> str:
    """Return the root mean square, over methods, dimensions and data sets, of the two parts of the spread."""
    rows = found.summary[found.summary["metric"] == found.metric]
    lines = []
    for (clusterer, given, space), own in rows.groupby(["clusterer", "k_given", "space"], sort=False):
        parts = [np.sqrt((own[c] ** 2).mean()) for c in ("sd", "sd_clusterings")]
        lines.append(
            [md.text(_measures.clusterer_name(clusterer, given)), md.text(_measures.space_name(space))]
            + [md.number(p) for p in parts]
        )
    return md.table(["clustering", "space", "between trainings", "between clusterings of one training"], lines, left=2)


def other_measures(found: Findings, dataset: str | None) -> str | None:
    """Return methods x dimensions by everything that does not depend on the clusterer; None if there is no such."""
    space = found.settings[0]["space"]
    rows = found.summary if dataset is None else at(found.summary, dataset=dataset)
    of_space = rows[rows["space"] == space]
    shown = [m for m in OF_SPACES if m in set(of_space["metric"])]
    shown += [m for m in _measures.OF_TRAINING if m in set(rows["metric"]) and m != "training_seconds"]
    if not shown:
        return None
    lines = []
    for method in found.methods:
        for n_latent in sorted(rows["n_latent"].dropna().unique()):
            setting = {"n_latent": n_latent, "space": space}
            values = [entry(found, m, dataset, method, setting) for m in shown]
            if set(values) != {"–"}:
                lines.append([md.text(method), dimensions(n_latent), *values])
    return md.table(["method", "dimensions", *[_measures.metric_name(m) for m in shown]], lines)


def rare_types(types: pd.DataFrame, found: Findings, dataset: str) -> str | None:
    """Return recall and precision of the rare types by method, in the main settings; None if no type is rare."""
    if types.empty:
        return None
    own = at(types, dataset=dataset)
    sizes = own.drop_duplicates("type").set_index("type")["n_cells"]
    share = sizes / max(sizes.sum(), 1)
    rare = sizes[(share < RARE_SHARE) | (sizes < RARE_CELLS)].sort_values(ascending=False)
    lines = []
    for name, n in rare.items():
        for i, setting in enumerate(found.settings):
            rows = at(own, type=name, **setting)
            line = [md.text(name), f"{n} ({share[name]:.1%})"] if i == 0 else ["", ""]
            line.append(md.text(_measures.clusterer_name(setting["clusterer"], setting["k_given"])))
            lines.append(line + [_recall_precision(at(rows, method=m)) for m in found.methods])
    header = ["type", "cells", "clustering", *[md.text(m) for m in found.methods]]
    return md.table(header, lines, left=1) if lines else None


def _recall_precision(rows: pd.DataFrame) -> str:
    """Return the two, each a mean over trainings of the mean over clusterings, with their spread."""
    if rows.empty:
        return "–"
    means = rows.groupby("seed")[["recall", "precision"]].mean()
    return " / ".join(md.spread(means[c].mean(), means[c].std(), 2) for c in means)


def paired(found: Findings, metric: str) -> str | None:
    """Return the differences from each other method at the main number of dimensions; None if there are none."""
    size = {k: v for k, v in found.settings[0].items() if k == "n_latent"}
    rows = found.paired(metric)
    rows = at(rows, **size) if len(rows) else rows
    if rows.empty or not rows["n_pairs"].any():
        return None
    clustered = "clusterer" in rows
    lines = []
    for row in rows[rows["n_pairs"] > 0].to_dict("records"):
        line = [md.text(row["method"])]
        line += [md.text(_measures.clusterer_name(row["clusterer"], row["k_given"]))] if clustered else []
        line += [md.text(_measures.space_name(row["space"]))] if "space" in row else []
        sure = row["low"] > 0 or row["high"] < 0
        said = signed(row["difference"])
        line += [f"**{said}**" if sure else said, interval(row)]
        lines.append([*line, f"{row['wins']} / {row['ties']} / {row['losses']}", str(row["n_pairs"])])
    header = ["against", *(["clustering"] if clustered else []), *(["space"] if "space" in rows else [])]
    left = len(header)
    return md.table([*header, "difference", "interval", "win / tie / loss", "pairs"], lines, left=left)


def signed(value: float) -> str:
    """Return a difference with its sign.

    Examples
    --------
    >>> signed(0.0312), signed(-0.02), signed(0.0)
    ('+0.031', '−0.020', '0.000')
    """
    said = md.number(value)
    return f"+{said}" if value > 0 and float(said) != 0 else said


def interval(row: dict[str, Any]) -> str:
    return "–" if pd.isna(row["low"]) else f"{signed(row['low'])} to {signed(row['high'])}"


def seconds(found: Findings) -> str:
    """Return the seconds of a training by method and data set, in all dimensions."""
    rows = found.summary[found.summary["metric"] == "training_seconds"]
    lines = []
    for method in found.methods:
        values = []
        for dataset in found.datasets:
            own = at(rows, method=method, dataset=dataset)
            values.append(md.number(own["mean"].mean(), 1))
        lines.append([md.text(method), *values])
    return md.table(["method", *[md.text(name) for name in found.datasets]], lines)


def clustering_seconds(found: Findings) -> str:
    """Return the seconds of one clustering by clusterer and space, over everything."""
    lines = []
    for (clusterer, given, space), own in found.table.groupby(["clusterer", "k_given", "space"], sort=False):
        name = md.text(_measures.clusterer_name(clusterer, given))
        lines.append([name, md.text(_measures.space_name(space)), md.number(own["clustering_seconds"].mean(), 2)])
    return md.table(["clustering", "space", "seconds"], lines, left=2)
