"""How it was made: the command that makes it again, parameters, versions, timings, training curves."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from diffvae import _keys
from diffvae.report._encode import short

if TYPE_CHECKING:
    from diffvae.report._page import Folder


def commands(folder: Folder, damaged: Collection[str] = ()) -> list[str]:
    """Return the command lines that made a result, in their order; parts in the folders ``damaged`` are passed over.

    Cells that were given in memory, and results of version 0.1, have none.
    """
    parts = (folder.part(n) for n in (_keys.PERTURBATION_FOLDER, _keys.LINKS_FOLDER) if n not in damaged)
    made = (folder, *(part for part in parts if part is not None))
    return [str(one.summary["command"]) for one in made if one.summary.get("command")]


def curves(table: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return training curves, a line per term."""
    if table is None or "epoch" not in table:
        return None
    lines = [c for c in table.columns if c.startswith(("train_", "validation_"))]
    return {
        "epoch": table["epoch"].to_numpy(),
        "lines": [{"name": c.replace("_", " "), "values": table[c].to_numpy(float)} for c in lines],
    }


def curves_of(folders: Mapping[str, Folder]) -> dict[str, Any]:
    """Return the training curves of models by name, of those that have any."""
    found = {name: curves(folder.table("tables/history")) for name, folder in folders.items()}
    return {name: lines for name, lines in found.items() if lines is not None}


def tables(folder: Folder) -> dict[str, dict[str, str]]:
    """Return parameters, seconds and versions, as they are shown."""
    summary = folder.summary
    found = {
        "Parameters": {k.replace("_", " "): _told(v) for k, v in summary.get("parameters", {}).items()},
    }
    seconds = dict(summary.get("seconds", {}))
    if seconds:
        seconds = {k: f"{v:,.1f} s" for k, v in seconds.items()} | {"together": f"{sum(seconds.values()):,.1f} s"}
    found["Time"] = seconds
    found["Versions"] = {k: str(v) for k, v in summary.get("versions", {}).items()}
    return {title: entries for title, entries in found.items() if entries}


def _told(value: Any) -> str:
    if value is None:
        return "–"
    return short({True: "yes", False: "no"}[value] if isinstance(value, bool) else value)
