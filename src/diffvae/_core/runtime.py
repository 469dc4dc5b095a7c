"""How many threads compute: one, wherever more would hardly be faster.

Sums that are taken by more threads are rounded otherwise. A training makes much of the last digit, and so does t-SNE:
with each number of threads the same seed would give other clusters.
"""

from __future__ import annotations

import sys
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import nn

P = ParamSpec("P")
T = TypeVar("T")

LARGE_STEP = 4e9
"""Products in a pass of a batch through a network, from which on a step of training has all threads."""
_for_large: ContextVar[int | None] = ContextVar("threads of large steps", default=None)


@contextmanager
def one_thread(*, large_steps_too: bool = False) -> Iterator[None]:
    """Compute in one thread (torch, BLAS, OpenMP); large steps of training keep all, unless they are not to."""
    from threadpoolctl import threadpool_limits

    with _torch_threads(1, 1 if large_steps_too else None), threadpool_limits(1):
        yield


def in_one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function compute as in :func:`one_thread`."""

    @wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        with one_thread():
            return function(*args, **kwargs)

    return alone


def torch_in_one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function compute in one thread of torch, at the cost of microseconds: for passes through a network."""

    @wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        with _torch_threads(1):
            return function(*args, **kwargs)

    return alone


@contextmanager
def for_steps(n_rows: int, module: nn.Module) -> Iterator[None]:
    """Compute steps of training on so many rows in one thread, or in all that there are if the steps are large."""
    import torch

    products = n_rows * sum(p.numel() for p in module.parameters())
    with _torch_threads((_for_large.get() or torch.get_num_threads()) if products > LARGE_STEP else 1):
        yield


@contextmanager
def _torch_threads(number: int, for_large: int | None = None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    token = _for_large.set(for_large or _for_large.get() or before)
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _for_large.reset(token)


def versions() -> dict[str, str]:
    """Return the versions that decide the numbers."""
    from importlib.metadata import version

    from diffvae import __version__

    packages = (
        *("anndata", "igraph", "numpy", "openTSNE", "pynndescent", "scanpy", "scikit-learn", "scipy", "torch"),
        "torch-geometric",
    )
    return {"diffvae": __version__, **{p: version(p) for p in packages}}


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


DROPPED = ("Cc", "Cf", "Cs", "Co")
"""Categories of Unicode: control, direction and invisible, halves of pairs, private."""


def printable(text: str) -> str:
    r"""Return text without control and direction characters; ends of lines and tabs stay.

    Examples
    --------
    >>> printable("B cell\x1b[2J\n"), printable("CD4+ T\u202e")
    ('B cell[2J\n', 'CD4+ T')
    """
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in DROPPED)


@dataclass
class StepLog:
    """Timings and warnings of the steps, and what is told while they run."""

    on_step: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.on_step(name)
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            yield
        self.seconds[name] = round(time.perf_counter() - start, 2)
        for warning in caught:
            # what we say ourselves is for the reader; other packages' notes on their internals are not
            if warning.category is UserWarning and str(warning.message) not in self.warnings:
                self.warnings.append(str(warning.message))
