"""Threads, versions, progress bars, printable text and the log of steps.

Sums are rounded differently with another number of threads, and training and t-SNE amplify the last digit: the same
seed would give other clusters. So one thread computes wherever more would hardly be faster.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from types import FrameType
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import nn

P = ParamSpec("P")
T = TypeVar("T")

LARGE_STEP = 1e10
"""Multiplications in a forward pass above which a training step uses all threads."""
_for_large: ContextVar[int | None] = ContextVar("threads of large steps", default=None)


@contextmanager
def one_thread(*, large_steps_too: bool = False) -> Iterator[None]:
    """Compute in one thread (torch, BLAS, OpenMP); large training steps use all threads unless ``large_steps_too``."""
    from threadpoolctl import threadpool_limits

    with _torch_threads(1, 1 if large_steps_too else None), threadpool_limits(1):
        yield


def in_one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function compute as in :func:`one_thread`."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with one_thread():
            return function(*args, **kwargs)

    return wrapper


def torch_in_one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function compute in one thread of torch; it costs microseconds, so that it suits single forward passes."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with _torch_threads(1):
            return function(*args, **kwargs)

    return wrapper


@contextmanager
def for_steps(n_rows: int, module: nn.Module, other_products: int = 0) -> Iterator[None]:
    """Compute training steps on batches of ``n_rows`` in one thread, or in all threads if the steps are large.

    ``other_products`` are the multiplications of a step beside those of each row with the weights.
    """
    import torch

    products = n_rows * sum(p.numel() for p in module.parameters()) + other_products
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


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C until the block ends, or is pressed again.

    After a long call into C, to write HDF5 for example, the first code of Python is often the callback of a weak
    reference, in which Python would report the interrupt and go on.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    held: list[tuple[int, FrameType | None]] = []

    def hold(number: int, frame: FrameType | None) -> None:
        held.append((number, frame))
        if len(held) > 1:
            before(number, frame)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if len(held) == 1:
            before(*held[0])


def versions() -> dict[str, str]:
    """Return the versions of the packages on which results depend."""
    from importlib.metadata import version

    from diffvae import __version__

    packages = [
        "anndata",
        "igraph",
        "numpy",
        "openTSNE",
        "scanpy",
        "scikit-learn",
        "scipy",
        "torch",
        "torch-geometric",
    ]
    return {"diffvae": __version__, **{name: version(name) for name in packages}}


class Advance(Protocol):
    """Called once per finished unit of work; the note is shown beside the bar."""

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
"""Unicode categories that :func:`printable` removes: control, format, surrogate, private use."""


def printable(text: str) -> str:
    r"""Return text without control and direction characters; line ends and tabs stay.

    Examples
    --------
    >>> printable("B cell\x1b[2J\n"), printable("CD4+ T\u202e")
    ('B cell[2J\n', 'CD4+ T')
    """
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in DROPPED)


@dataclass
class StepLog:
    """Seconds and warnings of the steps of a run.

    Attributes
    ----------
    on_step
        Called with the name of each step when it starts.
    seconds
        Duration of each step that has ended.
    warnings
        Texts of the warnings of all steps, each once, also those of a step that raised an exception.
    """

    on_step: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step and collect its warnings."""
        self.on_step(name)
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                yield
            finally:
                self.seconds[name] = round(time.perf_counter() - start, 2)
                texts = [str(w.message) for w in caught if _is_for_the_user(w.category)]
                self.warnings += [text for text in dict.fromkeys(texts) if text not in self.warnings]

    def add(self, other: StepLog) -> None:
        """Take over the steps and warnings of another log."""
        self.seconds |= other.seconds
        self.warnings += [text for text in other.warnings if text not in self.warnings]


def _is_for_the_user(category: type[Warning]) -> bool:
    """Return whether a warning is a plain UserWarning or one of this package; others concern a library's internals."""
    of_package = category.__module__.partition(".")[0] == "diffvae"
    return category is UserWarning or (of_package and issubclass(category, UserWarning))
