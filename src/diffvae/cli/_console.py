"""What is said on the terminal: results to stdout, everything else to stderr."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffvae._core.runtime import printable

if TYPE_CHECKING:
    from rich.text import Text


@dataclass
class Settings:
    """Options that belong to all commands."""

    debug: bool = False
    interrupted: str = ""
    """What is said on Ctrl-C; a command whose work is kept says so."""
    out: Path | None = None
    """The folder that a command writes, if it writes one."""
    resumes: bool = False
    """Whether its trainings are kept beside that folder when it is stopped."""
    page: Path | None = None
    """The folder whose page is made when all has been written."""
    _before: int | None = None

    def reset(self) -> None:
        """Set what holds until a command says otherwise."""
        self.debug, self.interrupted = False, "Interrupted; nothing was written."
        self.out, self.resumes, self.page, self._before = None, False, None, None

    def writes(self, out: Path, *, resumes: bool = False, page: Path | None = None) -> None:
        """Take note of the folder that a command is about to write."""
        self.out, self.resumes, self.page, self._before = out, resumes, page, _known(out).st_ino

    @property
    def is_written(self) -> bool:
        """Whether another folder has come to the place of ``out`` since, for a folder is written by being put there."""
        return self.out is not None and _known(self.out).st_ino not in (0, self._before)

    @property
    def lacks_page(self) -> bool:
        """Whether the page of what was written has not been made."""
        if self.out is None or self.page is None:
            return False
        return _known(self.page / "report.html").st_mtime < _known(self.out / "summary.json").st_mtime


def _known(path: Path) -> os.stat_result:
    """Return what the file system knows of a file or folder: zeros where there is none."""
    try:
        return path.expanduser().stat()
    except OSError:
        return os.stat_result([0] * 10)


settings = Settings()


def rank() -> int:
    """Return the number of this process among those that torchrun started; the first speaks for all."""
    return int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def step(name: str) -> None:
    """Tell that a step begins."""
    if rank():
        return
    from rich.text import Text

    _print(Text.assemble(("· ", "dim"), printable(name)), to_stderr=True)


def say(text: str = "") -> None:
    """Print a line of the result."""
    _print(text)


def note(text: str) -> None:
    """Print a remark on stderr."""
    if rank():
        return
    _print("! " + text, to_stderr=True, style="yellow")


def error(text: str) -> None:
    """Print an error on stderr."""
    who = f"Error in process {rank()}: " if rank() else "Error: "
    _print(who + text, to_stderr=True, style="red")


def _print(text: str | Text, *, to_stderr: bool = False, style: str | None = None) -> None:
    """Print text as it is: names in it are neither markup nor what a terminal obeys."""
    from rich.console import Console

    shown = printable(text) if isinstance(text, str) else text
    Console(stderr=to_stderr, highlight=False, soft_wrap=True, emoji=False).print(shown, style=style, markup=False)


def full_stop(text: str) -> str:
    """Return a text in one line that ends as a sentence does."""
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?", ":")) else text + "."


def sentence(exception: Exception) -> str:
    """Return what an exception says, in one line."""
    text = " ".join(str(exception).split()) or type(exception).__name__
    if isinstance(exception, ValueError | OSError | RuntimeError):
        return full_stop(text)
    return f"{text} ({type(exception).__name__}; run with 'diffvae --debug ...' for the traceback)"


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print what is warned of in the block as remarks."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        if warning.category is UserWarning:
            note(str(warning.message))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; plain text when piped, so that columns are never cut."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)
    drawn = Table(title=Text(printable(title)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    cells = [["" if v is None else printable(str(v)) for v in row] for row in rows]
    for i, name in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[i]) for row in cells)
        drawn.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(v) for v in row))  # Text: names are never read as markup
    console.print(drawn)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return text == ""
    return True
