"""The folder of a search: it grows while trials come in, each file whole."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from diffvae import _files
from diffvae._errors import OutputError

if TYPE_CHECKING:
    from diffvae.benchmark._tune import Tuned

TRIALS, BEST, SUMMARY, JOURNAL = "trials.csv", "best.json", "summary.json", "study.journal"
STUDY = "study"
"""What the summary of a search has and that of another result has not."""


def folder_at(path: str | PathLike[str]) -> Path:
    """Return where a search is kept; a folder with other things in it is refused, and nothing is made yet."""
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        _files.refuse_folder(folder, False)
    elif any(folder.iterdir()) and not _is_search(folder):
        raise OutputError(f"{str(folder)!r} holds something else than a search of 'tune'; name another folder.")
    return folder


def _is_search(folder: Path) -> bool:
    if (folder / JOURNAL).exists():  # the first file of a search, which another process may have just begun
        return True
    try:
        return STUDY in json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def write_summary(summary: dict[str, Any], folder: Path) -> None:
    """Write ``summary.json``."""
    text = json.dumps(summary, indent=1, default=_files.plain_number, allow_nan=False)
    _files.write_text(text + "\n", folder / SUMMARY)


def write_trials(table: pd.DataFrame, folder: Path) -> None:
    """Write ``trials.csv``."""
    _files.write_csv(table, folder / TRIALS)


def write(found: Tuned, folder: Path) -> None:
    """Write tables, figures, the configuration that ``run`` takes, and the summary."""
    from diffvae import pl

    write_trials(found.trials, folder)
    _files.write_text(json.dumps(found.best, indent=1) + "\n", folder / BEST)
    if len(found.confirmation):
        _files.write_csv(found.confirmation, folder / "confirmation.csv")
    figures = {"trials": lambda: pl.tuning(found)}
    if found.importance is not None:
        _files.write_csv(found.importance, folder / "importance.csv")
        table = found.importance
        figures["importance"] = lambda: pl.importance(table)
    for name, draw in figures.items():
        pl.save(draw(), folder / "figures" / name)
    write_summary(found.summary, folder)
