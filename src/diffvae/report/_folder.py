"""Folders of results as the page reads them: what their summaries, tables and cells must hold, and reading them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import pandas as pd

from diffvae import _keys
from diffvae._core.io import folders
from diffvae._core.io.memory import refuse_what_cannot_be_held
from diffvae._errors import DataError
from diffvae.report._encode import clean

MAX_QUOTED = 300
"""Longest quotation of an error, which may itself quote a damaged file."""


class DamagedError(DataError):
    """A folder lacks what a command would have written, or holds something else; the message has no full stop."""


NUMBER, TEXT = (int, float), (str, type(None))
RUN = {
    "source": str,
    **dict.fromkeys(("n_cells", "n_genes", "n_genes_kept"), int),
    "kind": str,
    "diagnosis": {"messages": [str]},
    "clustering": {"chosen_by": str},
    "integration": (
        {
            "batch_key": str,
            **dict.fromkeys(("n_cells", "n_batches"), int),
            "scores": [
                {"side": str, "score": str, **dict.fromkeys(("pca", "latent", "permuted"), (*NUMBER, type(None)))}
            ],
            "verdict": [str],
        },
        None,
    ),
    "clusters": [
        {
            **dict.fromkeys(("cluster", "cell_type"), (str, int)),
            **dict.fromkeys(("marker_genes", "runner_up", "dimensions", "genes_up", "genes_down"), TEXT),
            "n_cells": int,
            "q_value": (*NUMBER, type(None)),
            "confident": (bool, type(None)),
        }
    ],
    "batches": (
        [
            {
                "key": str,
                **dict.fromkeys(("n_batches", "dimension"), int),
                **dict.fromkeys(("share", "null_share", "own", "null_own"), NUMBER),
                **dict.fromkeys(("dimension_share", "null_dimension_share"), NUMBER),
            }
        ],
        None,
    ),
    "markers": TEXT,
    "parameters": {"label_key": TEXT},
    "scores": (
        [{"method": str, "score": str, "mean": (*NUMBER, type(None)), "sd": (*NUMBER, type(None)), "n": int}],
        None,
    ),
    "seconds": {str: NUMBER},
    "verdict": [str],
    "warnings": [str],
    "versions": {"diffvae": str},
}
SUMMARIES: dict[str, dict[str, Any]] = {
    "run": RUN,
    "perturb": {"verdict": [str], "parameters": {"n_sd": ([NUMBER], None), "step": ([NUMBER], None)}},
    "links": {"verdict": [str], "fates_verdict": ([str], None), "parameters": {"groupby": str}},
    "benchmark": {"verdict": [str], "reference": str, "methods": [str], "versions": {"diffvae": str}},
}
"""What the summary of each command must hold: types, entries of dictionaries (``str``: of all entries), and lists.

What is in a tuple with None may be missing: a run without labels has no scores, one of an earlier version no batches,
a perturbation of an earlier version no steps as shares of a distance, its links no sentences on fates.
"""


@dataclass(frozen=True)
class Columns:
    """Columns that a table must have, separated by spaces; a name such as "NA" or "1" in ``text`` stays text.

    A column with "?" may be missing, as in tables of an earlier version. No two rows may agree in all columns of
    ``unique``; ``other`` columns may hold anything.
    """

    text: str = ""
    numbers: str = ""
    flags: str = ""
    other: str = ""
    unique: str = ""

    def of(self, kind: str) -> list[str]:
        """Return the names of a kind of columns, ``"numbers"`` for example, those that may be missing among them."""
        names: str = getattr(self, kind)
        return names.replace("?", "").split()


TABLES = {
    "tables/clusters": Columns("cluster cell_type marker_genes"),
    "tables/latent_dimensions": Columns(
        "group side", "dimension share share_high share_low odds_ratio q_value rank", "chosen", unique="group dimension"
    ),
    "tables/high_weight_genes": Columns(
        "group gene direction ranking dimensions", "weight difference rank", "confirmed"
    ),
    "tables/history": Columns(numbers="epoch"),
    "tables/conversions": Columns(
        "source target method", "n_sd step? n_cells converted judged? nearest? null_mean null_low null_high q_value"
    ),
    "tables/resistance": Columns("source target cell converted_at"),
    "tables/targets": Columns(
        "source? target passes?",
        "n_sd step? route? n_flipped median_n_genes flipped_by_de_genes flipped_by_random_genes q_value",
        "earlier? reached? searched?",
    ),
    "tables/effects": Columns("source? target gene direction", "effect log_effect? agreement"),
    "tables/minimal_genes": Columns(
        "source? target gene direction", "mean_change mean_log_change? share null_share q_value"
    ),
    "tables/minimal_sets": Columns("source? target", "n_genes"),
    "tables/plasticity": Columns("source target", "change excess_agreed", "within reached", unique="source target"),
    "tables/called_links": Columns("cell_1 cell_2", "probability", "new"),
    "tables/link_table": Columns("graph type_1 type_2", "n_links expected z q_value"),
    "tables/commitment": Columns("cell call call_pca? call_links?", "posterior? progress? confidence?"),
    "tables/fates": Columns("group type", "n_cells probability se pca null null_sd", unique="group type"),
    "summary": Columns("metric method dataset", "n_latent mean sd", other="space clusterer k_given"),
    "paired": Columns("metric method", "n_latent difference low high", other="space clusterer k_given"),
}  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """A folder of results: its path and its summary."""

    path: Path
    summary: dict[str, Any]

    @classmethod
    def open(cls, path: str | PathLike[str]) -> Folder:
        """Open a folder; raise if its summary can't be read."""
        folder = Path(path).expanduser()
        return cls(folder, folders.read_summary(folder))

    def part(self, name: str) -> Folder | None:
        """Return a folder inside; None unless a command has written it."""
        return Folder.open(self.path / name) if (self.path / name / _keys.SUMMARY).is_file() else None

    def require_summary(self, command: str) -> None:
        """Refuse a summary that lacks what a command would have written."""
        if problem := _misfit(self.summary, SUMMARIES[command], "summary"):
            raise DamagedError(f"{str(self.path / _keys.SUMMARY)!r}: {problem}")

    def table(self, name: str) -> pd.DataFrame | None:
        """Return a table, ``"tables/clusters"`` for example; None if it is missing or empty."""
        file = self.path / f"{name}.csv"
        if not file.is_file():
            return None
        columns = TABLES[name]
        text = dict.fromkeys(columns.of("text"), str)
        try:
            if not file.read_bytes().strip():
                return None
            # a name may be "NA" or "null"; a missing number is an empty entry
            table = pd.read_csv(file, dtype=text, keep_default_na=False, na_values=[""], low_memory=False)
        except (OSError, ValueError) as error:
            raise DamagedError(f"{str(file)!r} can't be read ({clean(error)[:MAX_QUOTED]})") from error
        required = " ".join((columns.text, columns.numbers, columns.flags, columns.other)).split()
        if missing := [c for c in required if not c.endswith("?") and c not in table]:
            raise DamagedError(f"{str(file)!r} lacks the column {missing[0]!r}")
        curves = [c for c in table if c.startswith(("train_", "validation_"))]
        for column in table.columns.intersection([*columns.of("numbers"), *curves]):
            if len(table) and not pd.api.types.is_numeric_dtype(table[column]):
                raise DamagedError(f"{str(file)!r} has text in the column {column!r}")
        for column in table.columns.intersection(columns.of("flags")):
            if not table[column].dropna().isin((True, False)).all():
                raise DamagedError(f"{str(file)!r} has values other than True and False in the column {column!r}")
        if columns.unique and table.duplicated(columns.unique.split()).any():
            raise DamagedError(f"{str(file)!r} has two rows with the same {columns.unique.replace(' ', ', ')}")
        return table.fillna(dict.fromkeys(text, ""))


def _misfit(value: Any, form: Any, place: str) -> str:
    """Return the first place where a value does not have its form; empty if there is none.

    Examples
    --------
    >>> _misfit({"scores": [{"n": 3}]}, {"scores": [{"n": int, "mean": float}]}, "summary")
    'summary.scores[0] has no mean'
    """
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return f"{place} is no dictionary"
        if str in form:
            form = dict.fromkeys(value, form[str])
        optional = {name for name, inner in form.items() if isinstance(inner, tuple) and None in inner}
        if missing := [name for name in form if name not in {*value, *optional}]:
            return f"{place} has no {missing[0]}"
        problems = (_misfit(value.get(name), inner, f"{place}.{name}") for name, inner in form.items())
        return next(filter(None, problems), "")
    if isinstance(form, tuple) and None in form:
        return "" if value is None else _misfit(value, form[0], place)
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{place} is no list"
        return next(filter(None, (_misfit(v, form[0], f"{place}[{i}]") for i, v in enumerate(value))), "")
    return "" if isinstance(value, form) else f"{place} is {clean(repr(value))[:MAX_QUOTED]}"


@contextmanager
def stored_in(file: Path) -> Iterator[h5py.File]:
    """Yield an .h5ad file whose arrays fit into memory; only read from it in the block."""
    refuse_what_cannot_be_held(file)
    try:
        with h5py.File(file) as stored:
            yield stored
    except (OSError, KeyError, RuntimeError) as error:  # of h5py: no such file, no such group, damaged data
        raise DamagedError(f"{str(file)!r} can't be read ({clean(error)[:MAX_QUOTED]})") from error
