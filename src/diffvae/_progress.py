"""Progress bars on the terminal, nothing when the output is piped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Called once per finished unit of work; keywords are shown beside the bar."""

    def __call__(self, note: str = "") -> None: ...


@contextmanager
def progress_bar(description: str, total: int, *, show: bool = True) -> Iterator[Advance]:
    """Yield a function that advances a bar on stderr; it does nothing unless ``show`` and stderr is a terminal."""
    if not (show and sys.stderr.isatty()):
        yield lambda note="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, note="")

        def advance(note: str = "") -> None:
            bar.update(task, advance=1, note=note)

        yield advance
