"""The folder of a comparison: report, tables and figures, beside the pieces that a longer comparison goes on from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvae import _files, _keys, _measures
from diffvae._errors import DataError, OutputError
from diffvae.benchmark._findings import Findings, at
from diffvae.benchmark._report import report
from diffvae.benchmark._report_verdict import verdict
from diffvae.benchmark._store import claim, refuse_foreign

if TYPE_CHECKING:
    from diffvae.benchmark._comparison import Comparison

REPORT = "report.md"
FIGURE = re.compile(r"figures/[\w+-]{1,200}\.png", re.ASCII)
"""A figure as a summary names it; nothing else is ever removed."""


def write(comparison: Comparison, found: Findings, path: str | PathLike[str], *, overwrite: bool) -> Path:
    """Write everything, each file whole or not at all; the summary, which says that all are there, comes last."""
    from diffvae import pl
    from diffvae.model._storage import versions

    folder = Path(path).expanduser()
    refuse(folder, overwrite)
    earlier = _earlier(folder)
    claim(folder)
    tables = {
        "runs": comparison.table,
        "types": comparison.types,
        "summary": found.summary,
        "paired": found.all_paired(),
        "paired_by_dataset": found.all_paired(per_dataset=True),
    }
    for name, table in tables.items():
        _files.write_csv(table, folder / f"{name}.csv")
    captions = {}
    for name, (caption, draw) in figures(found).items():
        pl.save(draw(), folder / "figures" / name)
        captions[f"figures/{name}.png"] = caption
    page = report(found, comparison.types, command=comparison.command, figures=captions)
    _files.write_text(page, folder / REPORT)
    for file in earlier - set(captions):
        for suffix in (".png", ".svg"):
            (folder / file).with_suffix(suffix).unlink(missing_ok=True)
    summary = {
        "state": "complete",
        "n_runs": len(comparison.table),
        "datasets": found.datasets,
        "methods": found.methods,
        "reference": found.reference,
        "command": comparison.command,
        "verdict": verdict(found),
        "figures": list(captions),
        "versions": versions(),
    }
    _files.write_text(json.dumps(summary, indent=1) + "\n", folder / _keys.SUMMARY)
    return folder


def _earlier(folder: Path) -> set[str]:
    """Return the figures of an earlier report; of a summary that doesn't name them so, none."""
    try:
        told = _files.read_summary(folder).get("figures")
    except DataError:  # there is none yet, say
        return set()
    names = told if isinstance(told, list) else []
    return {name for name in names if isinstance(name, str) and FIGURE.fullmatch(name)}


def refuse(folder: Path, overwrite: bool) -> None:
    """Raise if the folder is not diffvae's, or has a report that must not be replaced."""
    name = repr(str(folder))
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{name} is a file; give the name of a folder.")
    refuse_foreign(folder)
    if (folder / REPORT).exists() and not overwrite:
        raise OutputError(f"{name} has a report already; name another folder, or pass overwrite (--overwrite).")


def figures(found: Findings) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Return name to caption and drawing: scores and paired differences in the main settings."""
    from diffvae import pl

    asked = [(found.metric, setting) for setting in found.settings if found.metric is not None]
    asked += [("knn_purity", found.settings[0])] * ("knn_purity" in found.metrics)
    drawn: dict[str, tuple[str, Callable[[], Any]]] = {}
    for metric, whole in asked:
        setting = {k: v for k, v in whole.items() if k in _measures.setting_of(str(metric))}
        runs = at(found.table, **setting)
        slug = "_".join(str(setting[k]) for k in ("clusterer", "space", "n_latent") if k in setting)
        name, where = f"{metric}_{slug}", f"{_measures.metric_name(str(metric))}, {_measures.setting_name(setting)}"
        if runs[metric].notna().any():
            drawn[name] = (f"Every training: {where}", partial(pl.method_scores, runs, str(metric)))
        rows = found.paired(str(metric))
        rows = at(rows[rows["n_pairs"] > 0], **setting) if len(rows) else rows
        if len(rows):
            sets = at(found.paired(str(metric), per_dataset=True), **setting)
            caption = f"{found.reference} minus each other method: {where}"
            drawn[f"paired_{name}"] = (caption, partial(pl.method_differences, rows, sets))
    return drawn
