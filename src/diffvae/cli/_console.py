"""Output on the terminal: results to stdout, everything else to stderr."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diffvae._core.runtime import printable

if TYPE_CHECKING:
    from rich.text import Text


@dataclass
class Settings:
    """State of the command that runs."""

    debug: bool = False
    interrupted: str = ""
    """Message on Ctrl-C."""
    options: dict[str, str] = field(default_factory=dict)
    """Option of the command by the name of its Python argument."""
    out: Path | None = None
    """The output folder, if the command has one."""
    resumes: bool = False
    """Whether an interrupted training is saved beside that folder."""
    page: Path | None = None
    """The folder whose page is written at the end."""
    _before: int | None = None

    def reset(self) -> None:
        """Restore the defaults."""
        self.debug, self.interrupted = False, "Interrupted; nothing was written."
        self.options, self.out, self.resumes, self.page, self._before = {}, None, False, None, None

    def writes(self, out: Path, *, resumes: bool = False, page: Path | None = None) -> None:
        """Note the folder that a command is about to write."""
        self.out, self.resumes, self.page, self._before = out, resumes, page, _stat(out).st_ino

    @property
    def is_written(self) -> bool:
        """Whether ``out`` is another folder than before; folders are written elsewhere and renamed."""
        return self.out is not None and _stat(self.out).st_ino not in (0, self._before)

    @property
    def lacks_page(self) -> bool:
        """Whether the result was written, but not its page."""
        if self.out is None or self.page is None:
            return False
        return _stat(self.page / "report.html").st_mtime < _stat(self.out / "summary.json").st_mtime


def _stat(path: Path) -> os.stat_result:
    """Return the status of a file or folder, zeros if it does not exist."""
    try:
        return path.expanduser().stat()
    except OSError:
        return os.stat_result([0] * 10)


settings = Settings()


def rank() -> int:
    """Return the rank of this process under torchrun; only rank 0 prints steps and notes."""
    return int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def step(name: str) -> None:
    """Print the start of a step."""
    if rank():
        return
    from rich.text import Text

    _print(Text.assemble(("· ", "dim"), printable(name)), to_stderr=True)


def say(text: str = "") -> None:
    """Print a line of the result."""
    _print(text)


def note(text: str) -> None:
    """Print on stderr what the results say."""
    if not rank():
        _print("• " + text, to_stderr=True)


def warn(text: str) -> None:
    """Print on stderr what the user should act on."""
    if not rank():
        _print("! " + text, to_stderr=True, style="yellow")


def error(text: str) -> None:
    """Print an error on stderr."""
    prefix = f"Error in process {rank()}: " if rank() else "Error: "
    _print(prefix + text, to_stderr=True, style="red")


def _print(text: str | Text, *, to_stderr: bool = False, style: str | None = None) -> None:
    """Print text literally: names in it are neither markup nor control sequences."""
    from rich.console import Console

    shown = printable(text) if isinstance(text, str) else text
    Console(stderr=to_stderr, highlight=False, soft_wrap=True, emoji=False).print(shown, style=style, markup=False)


def full_stop(text: str) -> str:
    """Return a text in one line that ends like a sentence."""
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?", ":")) else text + "."


def sentence(exception: Exception) -> str:
    """Return the message of an exception in one line, with options of the command for arguments of Python."""
    text = " ".join(str(exception).split()) or type(exception).__name__
    for name, option in settings.options.items():
        text = re.sub(rf"(?<![\w'-]){name}(?= is )|(?<=\(){name}(?=\))", option, text)
    if isinstance(exception, ValueError | OSError | RuntimeError):
        return full_stop(text)
    return f"{text} ({type(exception).__name__}; run with 'diffvae --debug ...' for the traceback)"


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Print the warnings of a block."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        if warning.category is UserWarning:
            warn(str(warning.message))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; piped output is never cut or folded."""
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
        drawn.add_row(*(Text(v) for v in row))  # Text: no markup in names
    console.print(drawn)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return text == ""
    return True
