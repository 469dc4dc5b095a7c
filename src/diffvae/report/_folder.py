"""What a report is made from: a folder that a command wrote."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from diffvae import _files, _keys
from diffvae._errors import DataError

NAMES = frozenset(
    {"best", "call", "call_pearson", "cell", "cell_1", "cell_2", "cell_type", "cluster", "dataset", "direction"}
    | {"gene", "genes", "graph", "group", "method", "metric", "score", "source", "strongest", "target", "type"}
    | {"converted_at", "dimensions", "type_1", "type_2"}
)
"""Columns of names: a cluster called "1" or a gene called "NA" is text."""


@dataclass(frozen=True)
class Folder:
    """A folder of results: its summary, and its tables by name.

    Parameters
    ----------
    path
        Folder.
    summary
        What its ``summary.json`` says.
    """

    path: Path
    summary: dict[str, Any]

    @classmethod
    def open(cls, path: str | PathLike[str]) -> Folder:
        """Open a folder; raise if its summary can't be read."""
        folder = Path(path).expanduser()
        return cls(folder, _files.read_summary(folder))

    def part(self, name: str) -> Folder | None:
        """Return a folder inside, if it is there and was written by a command."""
        return Folder.open(self.path / name) if (self.path / name / _keys.SUMMARY).is_file() else None

    def table(self, name: str) -> pd.DataFrame | None:
        """Return a table by its place, ``"tables/clusters"``; None where there is none; raise if it can't be read."""
        file = self.path / f"{name}.csv"
        if not file.is_file():
            return None
        try:
            return self._read(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{str(file)!r} can't be read ({error}); run the command that wrote it again.") from error

    @staticmethod
    def _read(file: Path) -> pd.DataFrame | None:
        if not file.read_bytes().strip():
            return None
        columns = pd.read_csv(file, nrows=0).columns
        text = {c: str for c in columns if c in NAMES}
        # a name may be "NA" or "null"; what is not a number is written as nothing
        table = pd.read_csv(file, dtype=text, keep_default_na=False, na_values=[""], low_memory=False)
        return table.fillna(dict.fromkeys(text, ""))
