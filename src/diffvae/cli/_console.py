"""Output on the terminal: results to stdout, everything else to stderr."""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffvae._core import words
from diffvae._core.runtime import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


@dataclass
class Settings:
    """State of the command that runs."""

    debug: bool = False
    interrupted: str = ""
    """Message on Ctrl-C."""
    interface: words.Interface | None = None
    """The command and its options, for the words of messages."""
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
        self.interface, self.out, self.resumes, self.page, self._before = None, None, False, None, None

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

    bullet, rest = (line := folded("· " + name, to_stderr=True))[:2], line[2:]
    _print(Text.assemble((bullet, "dim"), rest), to_stderr=True)


def say(text: str = "") -> None:
    """Print a line of the result; piped, it stays one line for a program to read."""
    _print(folded(text, piped=False))


def in_options(text: str) -> str:
    """Return a message with options of the command for arguments of Python."""
    return settings.interface.say(text) if settings.interface is not None else text


def note(text: str) -> None:
    """Print on stderr what the results say."""
    if not rank():
        _print(folded("• " + in_options(text), to_stderr=True), to_stderr=True)


def warn(text: str) -> None:
    """Print on stderr what the user should act on."""
    if not rank():
        _print(folded("! " + in_options(text), to_stderr=True), to_stderr=True, style="yellow")


def error(text: str) -> None:
    """Print an error on stderr; piped, it stays one line for a program to read."""
    prefix = f"Error in process {rank()}: " if rank() else "Error: "
    _print(folded(prefix + text, to_stderr=True, piped=False), to_stderr=True, style="red")


WIDTH = 100
"""Most characters of a line."""
MAX_NAME = 24
"""Longest name of a type in a table."""
GAP = 2
"""Characters between two columns of a table."""


def _print(text: str | Text, *, to_stderr: bool = False, style: str | None = None) -> None:
    """Print text literally: names in it are neither markup nor control sequences."""
    from rich.console import Console

    shown = printable(text) if isinstance(text, str) else text
    Console(stderr=to_stderr, highlight=False, soft_wrap=True, emoji=False).print(shown, style=style, markup=False)


def _room(console: Console) -> int:
    """Return the number of characters of a line."""
    return min(console.width, WIDTH) if console.is_terminal else WIDTH


def folded(text: str, *, to_stderr: bool = False, piped: bool = True) -> str:
    """Return text folded at spaces, with a hanging indent; words and a command at the end, to be copied, stay whole.

    With ``piped=False`` only a terminal has folded lines.
    """
    from rich.console import Console

    console = Console(stderr=to_stderr)
    if not piped and not console.is_terminal:
        return text
    room, lines = _room(console), []
    for line in printable(text).split("\n"):
        said, colon, command = line.partition(": diffvae ") if len(line) > room else (line, "", "")
        lines += textwrap.wrap(
            said + colon[:1], room, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        ) or [""]
        lines += [f"  diffvae {command}"] if command else []
    return "\n".join(lines)


def short(name: str) -> str:
    """Return a name for a table.

    Examples
    --------
    >>> short("Enteroendocrine progenitor cell")
    'Enteroendocrine progeni…'
    """
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def full_stop(text: str) -> str:
    """Return a text in one line that ends like a sentence."""
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?", ":")) else text + "."


def sentence(exception: Exception) -> str:
    """Return the message of an exception in one line, with options of the command for arguments of Python."""
    text = in_options(" ".join(str(exception).split()) or type(exception).__name__)
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
    """Print a table within the width of a line.

    Lists of words and names of columns are folded at spaces; other entries only on a terminal. On a terminal that is
    too narrow for the longest words these are shortened. Piped, nothing is cut.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    room, piped = _room(console), not console.is_terminal
    entries = [list(row) for row in rows]
    cells = [[_text(v) for v in row] for row in entries]
    numeric = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(columns))]
    least, most = [], []
    for i, name in enumerate(columns):
        own = [row[i] for row in cells]
        firm = [row[i] for row, all_ in zip(cells, entries, strict=True) if piped and not isinstance(all_[i], list)]
        least.append(max([*map(_longest, [name, *own]), *map(cell_len, firm)]))
        most.append(max(map(cell_len, [name, *own])))
    widths = _widths(least, most, room - GAP * (len(columns) - 1) - 2, cut=not piped)
    _print(folded(title))
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for name, right, width in zip(columns, numeric, widths, strict=True):
        drawn.add_column(_cut(name, width), justify="right" if right else "left", overflow="fold", width=width)
    for row in cells:
        drawn.add_row(*(Text(_cut(v, w)) for v, w in zip(row, widths, strict=True)))  # Text: no markup in names
    wide = console if not piped else Console(highlight=False, width=max(room, sum(widths) + GAP * len(columns) + 2))
    wide.print(drawn)


def _text(value: object) -> str:
    """Return an entry of a table as text."""
    if isinstance(value, list):
        return printable(" ".join(map(str, value)))
    return "" if value is None else printable(str(value))


def _longest(text: str) -> int:
    """Return the characters of the terminal that the longest word takes."""
    from rich.cells import cell_len

    return max(map(cell_len, text.split()), default=0)


def _cut(text: str, width: int) -> str:
    """Shorten the words that are longer than a column."""
    from rich.cells import cell_len, set_cell_size

    if _longest(text) <= width:
        return text
    words = text.split()
    return " ".join(w if cell_len(w) <= width else set_cell_size(w, width - 1).rstrip() + "…" for w in words)


def _widths(least: Sequence[int], most: Sequence[int], room: int, *, cut: bool) -> list[int]:
    """Return widths of columns: as wide as their text, and if that is more than the room, the widest give way.

    No column becomes narrower than its longest word, unless words may be cut.

    Examples
    --------
    >>> _widths([3, 9], [5, 40], 30, cut=False), _widths([9, 9], [9, 9], 10, cut=True)
    ([5, 25], [5, 5])
    >>> _widths([9, 9], [9, 9], 10, cut=False)
    [9, 9]
    """
    widths = list(most)
    for floor in (list(least), [min(n, 4) for n in least] if cut else least):
        while sum(widths) > room and (free := [i for i, n in enumerate(widths) if n > floor[i]]):
            widths[max(free, key=lambda i: widths[i])] -= 1
    return widths


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return text == ""
    return True
