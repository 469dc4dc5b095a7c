"""What is said on the terminal: results to stdout, everything else to stderr."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Settings:
    """Options that belong to all commands."""

    debug: bool = False
    interrupted: str = ""
    """What is said on Ctrl-C; a command whose work is kept says so."""
    resumes: Path | None = None
    """The folder beside which a command keeps its trainings when it is stopped."""

    def reset(self) -> None:
        """Set what holds until a command says otherwise."""
        self.debug, self.interrupted, self.resumes = False, "Interrupted; nothing was written.", None


settings = Settings()


def rank() -> int:
    """Return the number of this process among those that torchrun started; the first speaks for all."""
    return int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def step(name: str) -> None:
    """Tell that a step begins."""
    if rank():
        return
    from rich.console import Console

    Console(stderr=True, highlight=False).print(f"[dim]·[/dim] {name}")


def say(text: str = "") -> None:
    """Print a line of the result."""
    from rich.console import Console

    Console(highlight=False, soft_wrap=True, emoji=False).print(text, markup=False)


def note(text: str) -> None:
    """Print a remark on stderr."""
    if rank():
        return
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True, emoji=False).print("! " + text, style="yellow", markup=False)


def error(text: str) -> None:
    """Print an error on stderr."""
    from rich.console import Console

    who = f"Error in process {rank()}: " if rank() else "Error: "
    Console(stderr=True, highlight=False, soft_wrap=True, emoji=False).print(who + text, style="red", markup=False)


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
    drawn = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    cells = [["" if v is None else str(v) for v in row] for row in rows]
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
