"""Section "Methods": the commands that repeat the analysis, parameters, versions, timings and training curves."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from diffvae import _keys
from diffvae.report._encode import short

if TYPE_CHECKING:
    from diffvae.report._folder import Folder


def commands(folder: Folder, damaged: Collection[str] = ()) -> list[str]:
    """Return the command lines of a result and of its parts, without those in the folders ``damaged``.

    Results on cells that were given in memory, and those of version 0.1, have none.
    """
    parts = [folder.part(n) for n in (_keys.PERTURBATION_FOLDER, _keys.LINKS_FOLDER) if n not in damaged]
    summaries = [f.summary for f in (folder, *parts) if f is not None]
    return [str(summary["command"]) for summary in summaries if summary.get("command")]


def curves(table: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return training curves, one line per term."""
    if table is None:
        return None
    lines = [c for c in table.columns if c.startswith(("train_", "validation_"))]
    return {
        "epoch": table["epoch"].to_numpy(),
        "lines": [{"name": c.replace("_", " "), "values": table[c].to_numpy(float)} for c in lines],
    }


def curves_of(folders: Mapping[str, Folder]) -> dict[str, Any]:
    """Return the training curves by model, without models that have none."""
    all_curves = {name: curves(folder.table("tables/history")) for name, folder in folders.items()}
    return {name: lines for name, lines in all_curves.items() if lines is not None}


def tables(folder: Folder) -> dict[str, dict[str, str]]:
    """Return parameters, times and versions as text."""
    summary = folder.summary
    entries = {
        "Parameters": {k.replace("_", " "): _text(v) for k, v in summary.get("parameters", {}).items()},
    }
    seconds = dict(summary.get("seconds", {}))
    if seconds:
        seconds = {k: f"{v:,.1f} s" for k, v in seconds.items()} | {"total": f"{sum(seconds.values()):,.1f} s"}
    entries["Time"] = seconds
    entries["Versions"] = {k: str(v) for k, v in summary.get("versions", {}).items()}
    return {title: table for title, table in entries.items() if table}


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return short({True: "yes", False: "no"}[value] if isinstance(value, bool) else value)
