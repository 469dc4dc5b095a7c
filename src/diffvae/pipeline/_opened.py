"""A later part of the road, on a result that is there."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from diffvae import _keys
from diffvae._core.io import folders, read
from diffvae._core.io.folders import locked
from diffvae._core.runtime import StepLog
from diffvae._errors import DataError, OutputError

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model
    from diffvae.pipeline._links import Links
    from diffvae.pipeline._perturb import Changes

NO_OPTIONS = {"data", "path", "out", "backed", "overwrite", "checkpoint_every", "resume", "progress", "on_step"}
"""Parameters that do not change a result, or that stand elsewhere in a command line."""


class OpenedResult:
    """A later part of the road on an existing result: what it reads, and the folder that it writes.

    A folder that must not be replaced is refused at once. It is a context manager: while it is open nobody else writes
    the folder.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        out: str | PathLike[str] | None,
        name: str,
        overwrite: bool,
        on_step: Callable[[str], None],
    ) -> None:
        self.folder, self.name = Path(path).expanduser(), name
        self.out = self.folder / name if out is None else Path(out).expanduser()
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
            adata, model, earlier = read_result(self.folder)
        self.source = earlier["source"]
        return adata, model, earlier

    def command(self, name: str, does: Callable[..., Any], asked: Mapping[str, Any]) -> str:
        """Return the command line that does this again; see :func:`command_line`."""
        words = [name, self.folder.name, "--overwrite"]
        if self.out != self.folder / self.name:
            words += ["--out", self.out.name]
        return command_line(words, does, asked)

    def write(self, found: Changes | Links, write_into: Callable[[Path], None]) -> None:
        """Complete the summary of what was found and write its folder, whole or not at all."""
        self.log.on_step("write")
        found.summary |= {
            "source": self.source,
            "warnings": self.log.warnings,
            "seconds": self.log.seconds,
        }
        with folders.new_folder(self.out, overwrite=self.overwrite) as folder:
            write_into(folder)
        found.path = self.out
        if self.out == self.folder / self.name:  # elsewhere it is no part of the result
            found.summary["warnings"] += renew_page(self.folder)


def read_result(path: str | PathLike[str]) -> tuple[AnnData, Model, dict[str, Any]]:
    """Return cells, model and summary of a result folder."""
    from diffvae import model

    folder = Path(path).expanduser()
    summary = folders.read_summary(folder)
    if not (folder / _keys.RESULTS).is_file():
        raise DataError(f"{str(folder)!r} holds no {_keys.RESULTS}; name a folder that 'diffvae run' wrote.")
    if not {"parameters", *_keys.ABOUT} <= set(summary) or not _plausible(summary):
        raise DataError(f"{folder / _keys.SUMMARY} is no summary of a run; name a folder that 'diffvae run' wrote.")
    return read.read(folder / _keys.RESULTS), model.load(folder / _keys.MODEL_FOLDER), summary


def _plausible(summary: dict[str, Any]) -> bool:
    """Return whether what is looked up in a summary of a run is of the type that a run wrote."""
    parameters = summary["parameters"]
    return (
        isinstance(summary["source"], str)
        and isinstance(parameters, dict)
        and isinstance(parameters.get("label_key"), str | None)
    )


def renew_page(folder: Path, adata: AnnData | None = None) -> list[str]:
    """Write the page of a result when all else is in its place; return a warning if that can't be: nothing is lost."""
    from diffvae import report

    try:
        report.write(folder, adata=adata)
    except (DataError, OutputError, OSError) as error:
        again = shlex.join(["diffvae", "report", str(folder)])
        return [f"The result is written, but not the page that shows it: {str(error).rstrip('.')}. Then: {again}"]
    return []


def command_line(
    words: Sequence[str], does: Callable[..., Any], arguments: Mapping[str, Any], without: Sequence[str] = ()
) -> str:
    """Return the command line that does again what a function of the pipeline did.

    Parameters
    ----------
    words
        The command and what it is given without an option.
    does
        The function: arguments that equal its defaults are left out.
    arguments
        What it was called with, by the names of its parameters, which are those of the options.
    without
        Parameters that the command does not have.
    """
    words = ["diffvae", *words]
    for name, parameter in inspect.signature(does).parameters.items():
        value = arguments.get(name)
        if name in {*NO_OPTIONS, *without} or value is None or value is parameter.default:
            continue
        option = "--" + name.replace("_", "-")
        match value:
            case bool():
                words.append(option if value else option.replace("--", "--no-", 1))
            case str() | int() | float() | PathLike():
                if value != parameter.default:
                    words += [option, str(value)]
            case list() | tuple() if name == "n_sd":
                words += [option, " ".join(f"{v:g}" for v in value)]
            case list() | tuple():
                for one in value:
                    words += [option, str(one)]
            case _:  # markers in a dictionary, for example, have no option
                continue
    return shlex.join(words)
