"""Result folders: reading a result, adding an analysis to it, its page, and the command that repeats it."""

from __future__ import annotations

import gc
import inspect
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae._core.io import folders, read
from diffvae._core.io.folders import locked
from diffvae._core.runtime import StepLog
from diffvae._core.words import said
from diffvae._errors import DataError, OutputError

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model

NO_OPTIONS = {
    "data",
    "path",
    "out",
    "backed",
    "overwrite",
    "checkpoint_every",
    "resume",
    "n_jobs",
    "progress",
    "on_step",
    "tell",
}
"""Parameters that do not change a result, or that have a place of their own in a command line."""

SINGULAR = {"covariates": "covariate"}
"""Parameters whose option has another name."""

Verdict = Sequence[tuple[Callable[[Mapping[str, Any]], bool], str]]
"""Conditions on the numbers of a result, each with the template of the sentence that it adds."""


def sentences(verdict: Verdict, numbers: Mapping[str, Any]) -> list[str]:
    """Return the sentences whose conditions hold.

    Examples
    --------
    >>> sentences([(lambda n: n["auc"] < 0.6, "AUC is only {auc:.2f}.")], {"auc": 0.5})
    ['AUC is only 0.50.']
    """
    return [template.format_map(numbers) for holds, template in verdict if holds(numbers)]


class OpenedResult:
    """An existing result and the folder of a further analysis of it.

    An output folder that must not be replaced is refused at once. As a context manager it locks the output folder.

    Parameters
    ----------
    path
        Folder that :func:`diffvae.pipeline.run` wrote.
    out
        Output folder; None for the folder ``name`` inside ``path``.
    name
        Usual name of the output folder.
    overwrite, on_step
        As in :func:`diffvae.pipeline.run`.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        out: str | PathLike[str] | None,
        name: str,
        overwrite: bool,
        on_step: Callable[[str], None],
    ) -> None:
        self.folder = Path(path).expanduser()
        self.out = self.folder / name if out is None else Path(out).expanduser()
        self.is_inside = self.out == self.folder / name
        self.overwrite = overwrite
        self.source = ""
        folders.refuse_folder(self.out.resolve(), overwrite)
        self.log = StepLog(on_step)
        self._lock = locked(self.out)

    def __enter__(self) -> Self:
        self._lock.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)

    def read(self) -> tuple[AnnData, Model, dict[str, Any]]:
        """Return cells, model and summary of the result."""
        with self.log.step("read"):
            adata, model, summary = read_result(self.folder)
        self.source = summary["source"]
        return adata, model, summary

    def command(self, name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> str | None:
        """Return the command line that repeats the analysis, see :func:`command_line`; None if no command line can."""
        if isinstance(arguments.get("restrict"), list | tuple):  # the option takes a file
            return None
        words = [name, self.folder.resolve().name, "--overwrite"]
        if not self.is_inside:
            words += ["--out", self.out.name]
        return command_line(words, function, arguments)

    def write(self, result: Any, write_into: Callable[[Path], None]) -> None:
        """Complete the summary, write the folder as a whole, and renew the page of the result."""
        self.log.on_step("write")
        result.summary |= {"source": self.source, "warnings": self.log.warnings, "seconds": self.log.seconds}
        with folders.new_folder(self.out, overwrite=self.overwrite) as folder:
            write_into(folder)
        result.path = self.out
        if self.is_inside:
            result.summary["warnings"] += renew_page(self.folder)


def read_result(path: str | PathLike[str]) -> tuple[AnnData, Model, dict[str, Any]]:
    """Return cells, model and summary of a result folder."""
    from diffvae import model

    folder = Path(path).expanduser()
    summary = folders.read_summary(folder)
    if not (folder / _keys.RESULTS).is_file():
        raise DataError(f"{str(folder)!r} holds no {_keys.RESULTS}; name a folder that 'diffvae run' wrote.")
    parameters = summary.get("parameters")
    if not (
        set(_keys.ABOUT) <= set(summary)
        and isinstance(summary["source"], str)
        and isinstance(parameters, dict)
        and isinstance(parameters.get("label_key"), str | None)
    ):
        raise DataError(f"{folder / _keys.SUMMARY} is no summary of a run; name a folder that 'diffvae run' wrote.")
    return read.read(folder / _keys.RESULTS), model.load(folder / _keys.MODEL_FOLDER), summary


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Write tables as CSV files into ``folder/tables``."""
    for name, table in tables.items():
        folders.write_csv(table, folder / "tables" / f"{name}.csv")


def write_figures(figures: Mapping[str, Callable[[], Any]], folder: Path) -> None:
    """Draw figures and save them into ``folder/figures``."""
    from diffvae import pl
    from diffvae.pl._style import apart_from_pyplot

    (folder / "figures").mkdir(parents=True)
    thawed = not gc.get_freeze_count()
    gc.freeze()  # the parts of a figure refer to one another; each collection would look at all that the run holds, too
    try:
        with apart_from_pyplot():
            for name, draw in figures.items():
                pl.save(np.ravel(draw())[0], folder / "figures" / name)
    finally:
        if thawed:  # what the user froze stays so
            gc.unfreeze()


def write_summary(summary: Mapping[str, Any], folder: Path) -> None:
    """Write ``summary.json`` without NaN, which JSON does not have, and in the words of the interface in use."""
    text = json.dumps(_said(summary), indent=1, default=folders.plain_number, allow_nan=False)
    folders.write_text(text + "\n", folder / _keys.SUMMARY)


def _said(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary whose lists of sentences are in the words of the interface in use."""
    out = dict(summary)
    for name in ("warnings", "verdict", "fates_verdict", "messages"):
        if isinstance(out.get(name), list):
            out[name] = [said(text) if isinstance(text, str) else text for text in out[name]]
    return out | {name: _said(out[name]) for name in ("diagnosis", "integration") if isinstance(out.get(name), Mapping)}


def renew_page(folder: Path, adata: AnnData | None = None) -> list[str]:
    """Write the page of a result that is complete otherwise; return a warning if that fails."""
    from diffvae import report

    try:
        report.write(folder, adata=adata)
    except (DataError, OutputError, OSError) as error:
        command = shlex.join(["diffvae", "report", str(folder)])
        return [f"The result was written, but its page was not: {str(error).rstrip('.')}. Then run: {command}"]
    return []


def command_line(
    words: Sequence[str], function: Callable[..., Any], arguments: Mapping[str, Any], without: Sequence[str] = ()
) -> str:
    """Return the command line that repeats a call of a function of the pipeline.

    Parameters
    ----------
    words
        The command and its arguments that are no options of the function.
    function
        The function; arguments that equal its defaults are left out.
    arguments
        Arguments of the call by name; the options of the command have the same names.
    without
        Parameters that the command does not have.
    """
    words = ["diffvae", *words]
    for name, parameter in inspect.signature(function).parameters.items():
        value = arguments.get(name)
        if name in {*NO_OPTIONS, *without} or value is None or value is parameter.default:
            continue
        option = "--" + SINGULAR.get(name, name).replace("_", "-")
        match value:
            case bool():
                words.append(option if value else option.replace("--", "--no-", 1))
            case str() | int() | float() | PathLike():
                if value != parameter.default:
                    words += [option, str(value)]
            case list() | tuple() if name == "n_sd":
                words += [option, " ".join(f"{v:g}" for v in value)]
            case list() | tuple():
                for item in value:
                    words += [option, str(item)]
            case _:  # markers in a dictionary, for example, have no option
                continue
    return shlex.join(words)
