"""A second process beside this one, for steps that do not need each other's results.

Threads would not do: most steps hold the interpreter, and the record of warnings is one for the whole process.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, Self, TypeVar

from diffvae._core.runtime import StepLog, uninterrupted

T = TypeVar("T")


class SecondProcess:
    """Computes functions in another process, or at once in this one if there is none.

    The values are the same. A value that contains one of the arguments, such as the AnnData, refers to the caller's
    own object again, not to a copy; what the function writes into an argument is lost with the other process, so the
    function must return it.

    Parameters
    ----------
    wanted
        Whether to start a process; where none can be started, there is none.
    modules
        Modules that the functions need; the process imports them when it starts.
    """

    def __init__(self, wanted: bool, modules: Sequence[str] = ()) -> None:
        self._executor: Any = None
        if wanted:
            # loky, unlike multiprocessing, needs no `if __name__ == "__main__"` in the script of the user
            from loky import ProcessPoolExecutor

            try:
                executor = ProcessPoolExecutor(1, initializer=_set_up, initargs=(os.getpid(), tuple(modules)))
                executor.submit(abs, 0)  # the process starts with its first task
            except (AssertionError, OSError):  # in a daemon, or without shared memory
                return
            self._executor = executor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)

    @contextmanager
    def ended_by_errors(self) -> Iterator[None]:
        """End the process as soon as an error leaves the block, before what it writes into is removed."""
        try:
            yield
        except BaseException:
            self.__exit__()
            raise

    @property
    def runs(self) -> bool:
        """Whether there is a second process."""
        return self._executor is not None

    def submit(
        self, function: Callable[..., T], *arguments: Any, log: StepLog | None = None, what: str = ""
    ) -> Pending[T]:
        """Start a function of a module; with arguments that cannot be pickled it is computed at once.

        With a log, the function gets one to note its steps (``log``), which are added to the given one with the value;
        ``what`` announces them.
        """
        if self._executor is None:
            return Pending(function, arguments, log, value=function(*arguments, **_with(log)))
        if log is not None and what:
            log.on_step(f"{what}, beside the next steps")
        try:
            with uninterrupted():
                task = pickle.dumps((function, arguments, log is not None), 5)
        except (AttributeError, TypeError, pickle.PicklingError):
            return Pending(function, arguments, log, value=function(*arguments, **_with(log)))
        return Pending(function, arguments, log, future=_start(self._executor, task))


@dataclass
class Pending(Generic[T]):
    """A value that is being computed.

    Attributes
    ----------
    function, arguments, log
        What computes it, and where its steps are noted.
    value
        If it was computed here.
    future
        If another process computes it.
    """

    function: Callable[..., T]
    arguments: tuple[Any, ...]
    log: StepLog | None
    value: T | None = None
    future: Any = None

    def result(self) -> T:
        """Wait for the value and return it; if the second process was killed, compute it here."""
        if self.future is not None:
            from loky.process_executor import BrokenProcessPool

            try:
                self.value, of_steps = _Unpickler(io.BytesIO(self.future.result()), self.arguments).load()
            except BrokenProcessPool:  # for want of memory, for example
                self.value = self.function(*self.arguments, **_with(self.log))
            else:
                if self.log is not None:
                    self.log.add(of_steps)
            self.future = None
        return self.value  # type: ignore[return-value]


def _with(log: StepLog | None) -> dict[str, StepLog]:
    return {} if log is None else {"log": log}


def _start(executor: Any, task: bytes) -> Future[bytes]:
    """Start a task; if the process is gone, its future raises."""
    from loky.process_executor import BrokenProcessPool

    try:
        return executor.submit(_call, task)
    except BrokenProcessPool as error:
        future: Future[bytes] = Future()
        future.set_exception(error)
        return future


def _set_up(parent: int, modules: tuple[str, ...]) -> None:
    """Leave Ctrl-C to the first process, which ends this one, end with it if it is killed, and import modules."""
    from loky import process_executor

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # loky takes 300 MB that libraries keep for a leak, and would start the process anew between two tasks
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize
    for name in modules:
        import_module(name)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _call(task: bytes) -> bytes:
    function, arguments, logged = pickle.loads(task)
    log = StepLog(_unheard)
    value = function(*arguments, **_with(log if logged else None))
    buffer = io.BytesIO()
    _Pickler(buffer, arguments).dump((value, log))
    return buffer.getvalue()


def _unheard(step: str) -> None:
    """Tell nobody: the other process has the terminal."""


class _Pickler(pickle.Pickler):
    """Pickles each of the given objects as its number."""

    def __init__(self, file: io.BytesIO, arguments: tuple[Any, ...]) -> None:
        super().__init__(file, 5)
        self._numbers = {id(value): i for i, value in enumerate(arguments)}

    def persistent_id(self, value: Any) -> int | None:
        return self._numbers.get(id(value))


class _Unpickler(pickle.Unpickler):
    """Puts the given objects in the place of their numbers."""

    def __init__(self, file: io.BytesIO, arguments: tuple[Any, ...]) -> None:
        super().__init__(file)
        self._arguments = arguments

    def persistent_load(self, number: int) -> Any:
        return self._arguments[number]


HERE = SecondProcess(False)
"""No second process."""
