"""How it was made: the command that makes it again, parameters, versions, timings, training curves."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from diffvae import _changes, _io, _linking, _summary
from diffvae._errors import DataError
from diffvae.report._encode import short

if TYPE_CHECKING:
    from diffvae.report._folder import Folder

USUAL = {"preset": "default", "n_latent": 50, "batch_size": 128}
"""What a run writes down though nobody asked for it."""
BUNDLED = "diffvae.datasets."
"""How the summary of a run on bundled cells names them."""


def commands(folder: Folder, damaged: Collection[str] = ()) -> list[str]:
    """Return the command lines that make a result again, in their order; none if its cells came from no file.

    Parts in the folders ``damaged`` are passed over.
    """
    from diffvae import pipeline
    from diffvae.cli import _run

    summary, name = folder.summary, folder.path.resolve().name
    if "command" in summary:
        return [str(summary["command"])]
    origin = str(summary.get("source", ""))
    if origin == _io.IN_MEMORY:
        return []
    places = (_changes.FOLDER, _linking.FOLDER)
    parts = {n: part for n in places if n not in damaged and (part := folder.part(n)) is not None}
    words = {n: later(part) for n, part in parts.items()}
    parameters = dict(summary.get("parameters", {}))
    if _changes.FOLDER in parts and not words[_changes.FOLDER]:
        parameters["target"] = parts[_changes.FOLDER].summary["parameters"].get("target")
    read = [] if origin.startswith(BUNDLED) else [origin]
    if (sample := summary.get("sample")) is not None:  # the cells stayed on disk
        read = [*sample["files"], "--backed"]
        parameters["subsample"] = sample["subsample"]
    lines = [["run", *read, "--out", name, *_options(parameters, pipeline.run, _run.command)]]
    lines += [[made[0], name, *made[1:]] for made in words.values() if made]
    return [shlex.join(["diffvae", *line]) for line in lines]


def later(part: Folder) -> list[str]:
    """Return command and options that made a part; none if the run did: it has no timings of its own then."""
    from diffvae import pipeline
    from diffvae.cli import _links, _perturb

    parameters = part.summary["parameters"]
    if not isinstance(parameters, dict):
        raise DataError(f"the summary of {str(part.path)!r} has parameters that are none.")
    if "seconds" not in part.summary:
        return []
    if part.path.name == _changes.FOLDER:
        return ["perturb", "--overwrite", *_options(parameters, pipeline.perturb, _perturb.command)]
    return ["links", "--overwrite", *_options(parameters, pipeline.links, _links.command)]


def _options(parameters: Mapping[str, Any], does: Callable[..., Any], command: Callable[..., Any]) -> list[str]:
    """Return options for the parameters that are not the usual ones and that the command has."""
    usual = {p.name: p.default for p in inspect.signature(does).parameters.values()} | USUAL
    words: list[str] = []
    for name in inspect.signature(command).parameters:
        value = parameters.get(name)
        if value is None or value == usual.get(name) or value == _summary.GIVEN:
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        elif name == "n_sd":
            if sorted(value) != sorted({0.0, *_changes.N_SD}):
                words += [option, " ".join(f"{v:g}" for v in value if v)]
        else:
            for one in value if isinstance(value, list) else [value]:
                words += [option, str(one)]
    return words


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
