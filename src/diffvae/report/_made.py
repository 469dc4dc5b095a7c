"""How it was made: the command that makes it again, parameters, versions, timings, training curves."""

from __future__ import annotations

import inspect
import shlex
from typing import TYPE_CHECKING, Any

import pandas as pd

from diffvae.report._encode import short

if TYPE_CHECKING:
    from diffvae.report._folder import Folder

NOT_AGAIN = ("given in memory",)


def command(folder: Folder) -> str:
    """Return the command line that makes a result again."""
    from diffvae import pipeline
    from diffvae.cli import _run

    summary = folder.summary
    if "command" in summary:
        return str(summary["command"])
    parameters = dict(summary.get("parameters", {}))
    usual = {p.name: p.default for p in inspect.signature(pipeline.run).parameters.values()}
    options = set(inspect.signature(_run.command).parameters)
    origin = str(summary.get("source", ""))
    words = ["diffvae", "run", *([] if origin.startswith("diffvae.datasets.") else [origin]), "--out", folder.path.name]
    part = folder.part("perturbation")
    targets = None if part is None else part.summary.get("parameters", {}).get("target")
    for name, value in parameters.items():
        if name not in options or value is None or value == usual.get(name) or value in NOT_AGAIN:
            continue
        if name == "preset" and value == "default":
            continue
        option = name.replace("_", "-")
        words += (
            [f"--{option}" if value else f"--no-{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
        )
    for target in targets or []:
        words += ["--target", str(target)]
    return shlex.join(words)


def curves(table: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return training curves, a line per term."""
    if table is None or "epoch" not in table:
        return None
    lines = [c for c in table.columns if c.startswith(("train_", "validation_"))]
    return {
        "epoch": table["epoch"].to_numpy(),
        "lines": [{"name": c.replace("_", " "), "values": table[c].to_numpy(float)} for c in lines],
    }


def data(folder: Folder, links: Folder | None) -> dict[str, Any]:
    """Return the training curves of the models."""
    found = {"DiffVAE": curves(folder.table("tables/history"))}
    if links is not None:
        found["Graph-DiffVAE"] = curves(links.table("tables/history"))
    return {name: lines for name, lines in found.items() if lines is not None}


def tables(folder: Folder) -> dict[str, dict[str, str]]:
    """Return parameters, seconds and versions, as they are shown."""
    summary = folder.summary
    found = {"Parameters": {k.replace("_", " "): short(v) for k, v in summary.get("parameters", {}).items()}}
    seconds = dict(summary.get("seconds", {}))
    if seconds:
        seconds = {k: f"{v:,.1f} s" for k, v in seconds.items()} | {"together": f"{sum(seconds.values()):,.1f} s"}
    found["Time"] = seconds
    found["Versions"] = {k: str(v) for k, v in summary.get("versions", {}).items()}
    return {title: entries for title, entries in found.items() if entries}
