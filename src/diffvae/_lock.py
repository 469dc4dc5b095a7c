"""One writer per folder: a lock that ends with its process, whatever ends that."""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from diffvae._errors import OutputError

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes from writing a folder for a while; within a thread it may be nested.

    The system holds the lock (``flock``, or ``msvcrt.locking`` on Windows) and lets it go when the process ends, so
    that no stale file can be in the way. The file on which it hangs, ``.NAME.lock`` beside the folder, is removed at
    the end.

    Parameters
    ----------
    folder
        Which may not exist yet; folders above it are made, and removed again if nothing came into them.

    Raises
    ------
    OutputError
        If another process, or another thread, has it; or if nothing can be written there.
    """
    from filelock import FileLock, Timeout

    path = Path(folder).expanduser().resolve()
    made = [above for above in path.parents if not above.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = os.access(path.parent, os.W_OK | os.X_OK) or not path.is_dir()  # a mount point has no beside
        file = path.with_name(f".{path.name}.lock") if beside else path / ".lock"
        lock = FileLock(file, is_singleton=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(
            f"{_holder(file)} is writing {str(path)!r}; wait until it is done, or name another."
        ) from None
    except OSError as error:
        raise OutputError(f"Nothing can be written in {str(path.parent)!r} ({error.strerror}).") from error
    try:
        if lock.lock_counter == 1:
            with suppress(OSError):
                file.write_text(f"{os.getpid()} {socket.gethostname()}")
        yield
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):  # a folder that was removed under way; Windows keeps open files
                file.unlink()
        lock.release()
        for above in made:
            with suppress(OSError):  # unless something has come into it
                above.rmdir()


def _holder(file: Path) -> str:
    """Return who holds the lock, as far as it can be read."""
    try:
        number, host = file.read_text().split()
    except (OSError, ValueError):  # it has just taken it; or Windows, where what is locked can't be read
        return "Another process"
    return f"Process {number}" if host == socket.gethostname() else f"Process {number} on {host}"


def one_writer(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function hold the folder that its argument ``out`` names, if it names one, from its first line on."""
    signature = inspect.signature(function)

    @wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        out = signature.bind(*args, **kwargs).arguments.get("out")
        with nullcontext() if out is None else held(out):
            return function(*args, **kwargs)

    return locked
