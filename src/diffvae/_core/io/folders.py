"""Atomic writing of files and folders, locks of output folders, and their checkpoints."""

from __future__ import annotations

import errno
import inspect
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData

from diffvae import _errors, _keys
from diffvae._core.io.storable import copy_of, make_storable
from diffvae._core.runtime import uninterrupted
from diffvae._core.validate import Optional, Whole, check
from diffvae._errors import DataError, OutputError, WriteError

P = ParamSpec("P")
R = TypeVar("R")

MARKERS = ("summary.json", "config.json")
"""Files with the version of diffvae; one of them marks a folder of results or a saved model."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""Errors of the system that concern the disk or the folder, not the content."""
PART, WORK, OLD = ".tmp", ".work", ".old"
"""Suffixes of unfinished output, of intermediate files, and of a result that is being replaced."""


def _temporary_name(path: Path, end: str = PART) -> Path:
    """Return an unused name in the same folder, and so on the same disk."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{end}")


def _leftovers(path: Path, end: str) -> list[Path]:
    """Return the temporary files and folders of killed processes that wrote ``path``."""
    name = re.compile(re.escape(f".{path.name}.") + "[0-9a-f]{8}" + re.escape(end))
    try:
        return [left for left in path.parent.iterdir() if name.fullmatch(left.name)]
    except OSError:  # no such folder, or no permission to list it
        return []


def remove_leftovers(path: Path, end: str = PART) -> None:
    """Remove the temporary files and folders of killed processes that wrote ``path``; the caller must hold its lock."""
    for left in _leftovers(path, end):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _restore_moved(path: Path) -> None:
    """Restore a result that a killed process has moved aside but not replaced."""
    if path.exists() or not _leftovers(path, OLD):
        return
    with locked(path):  # another process may be between the two steps of a replacement
        if not path.exists():
            for old in _leftovers(path, OLD)[:1]:
                old.rename(path)


@contextmanager
def explain_write_errors(path: Path, part: Path) -> Iterator[None]:
    """Turn an error of the disk into a :class:`WriteError` that names ``path``; ``part`` is its temporary name."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, WriteError) else error  # a WriteError of a file in this folder
        # HDF5 gives the number only in its text, and not always in an OSError
        hdf5 = re.search(r"errno = (\d+)", str(cause))
        if hdf5:
            _errors.hdf5_is_sound = False
        number = getattr(cause, "errno", None) or int(hdf5[1] if hdf5 else 0)
        untouched = "what was there before is untouched" if path.exists() else "nothing is left of it"
        if number in DISK_ERRORS:
            raise WriteError(f"{str(path)!r} can't be written ({os.strerror(number)}); {untouched}.") from error
        if number == errno.ENOENT and not part.parent.exists():
            raise WriteError(f"{str(part.parent)!r} was removed while {path.name!r} was written into it.") from error
        raise


@contextmanager
def in_one_step(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file name; the file replaces ``path`` if the block succeeds."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise OutputError(f"{str(path)!r} is a folder; give the name of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _temporary_name(path)
    try:
        with explain_write_errors(path, part):
            yield part
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def folder_in_one_step(path: Path) -> Iterator[Path]:
    """Yield a temporary folder name; the folder replaces ``path`` if the block succeeds."""
    part = _temporary_name(path)
    try:
        with explain_write_errors(path, part):
            yield part
            _replace_folder(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_h5ad(adata: AnnData, path: str | os.PathLike[str], *, compression: str | None = "gzip") -> None:
    """Write an AnnData to a file in one step; what can't be written is changed or left out with a warning."""
    # level 1 is several times faster than anndata's 4, and files are a few per cent larger
    options = {"compression_opts": 1} if compression == "gzip" else {}
    with in_one_step(path) as part, uninterrupted():
        try:
            adata.write_h5ad(part, compression=compression, **options)
        except OSError:
            raise
        except Exception:  # anndata's are of any type; results of hours are not lost for one entry
            make_storable(copy_of(adata)).write_h5ad(part, compression=compression, **options)


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write text (UTF-8) to a file in one step."""
    with in_one_step(path) as part:
        part.write_text(text, encoding="utf-8")


def write_csv(table: pd.DataFrame, path: str | os.PathLike[str], *, index: bool = False) -> None:
    """Write a table to a CSV file in one step."""
    with in_one_step(path) as part:
        table.to_csv(part, index=index)


def written_by_us(folder: Path) -> bool:
    """Return whether a folder is empty or was written by diffvae."""
    return not any(folder.iterdir()) or any(_has_our_version(folder / name) for name in MARKERS)


def _has_our_version(file: Path) -> bool:
    """Return whether a file is JSON with ``versions.diffvae``."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    versions = content.get("versions") if isinstance(content, dict) else None
    return isinstance(versions, dict) and "diffvae" in versions


def refuse_folder(path: Path, overwrite: bool) -> None:
    """Raise OutputError if a folder can't be written or replaced; an interrupted replacement is undone first."""
    _restore_moved(path)
    name = repr(str(path))
    if path.exists() and not path.is_dir():
        raise OutputError(f"{name} is a file; give the name of a folder.")
    if path.is_dir():
        if not written_by_us(path):
            if overwrite:
                raise OutputError(f"{name} holds files that diffvae did not write, so it isn't replaced; name another.")
            raise OutputError(f"{name} is not empty; name another folder.")
        if any(path.iterdir()) and not overwrite:
            raise OutputError(f"{name} has results already; name another folder, or pass overwrite=True.")
        if path == Path.cwd() or path in Path.cwd().parents or os.path.ismount(path):
            what = "a mount point" if os.path.ismount(path) else "the current folder, or holds it,"
            inside = repr(str(path / "results"))
            raise OutputError(
                f"{name} is {what} and can't be replaced in one step; name a folder inside, such as {inside}."
            )
    existing = next(folder for folder in path.parents if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"Nothing can be written in {str(existing)!r}; name a folder elsewhere.")


@contextmanager
def new_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` if the block succeeds, and is removed otherwise.

    Parameters
    ----------
    path
        Folder to make, with its parents. It may exist if it is empty.
    overwrite
        Replace an earlier result, as a whole and at the very end. Only a folder that diffvae wrote (its
        ``summary.json`` or ``config.json`` has ``versions.diffvae``) is replaced.

    Raises
    ------
    OutputError
        Before anything is written, if the folder must not or can't be replaced.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> out = pathlib.Path(tempfile.mkdtemp()) / "out"
    >>> with new_folder(out) as folder:
    ...     _ = (folder / "summary.json").write_text("{}")
    ...     out.exists()
    False
    >>> [file.name for file in out.iterdir()]
    ['summary.json']
    """
    path = Path(path).expanduser().resolve()  # of a link the target is replaced
    refuse_folder(path, overwrite)
    with locked(path):
        remove_leftovers(path)
        if path.exists():
            remove_leftovers(path, OLD)
        with folder_in_one_step(path) as part:
            try:
                part.mkdir()
            except OSError as error:
                message = f"{str(path)!r} can't be written ({error.strerror}); name a folder elsewhere."
                raise OutputError(message) from error
            yield part


@contextmanager
def scratch(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside a result for intermediate files."""
    folder = _temporary_name(Path(path).expanduser().resolve(), WORK)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace_folder(new: Path, path: Path) -> None:
    """Replace a folder by another; on failure the old one is restored.

    At any time one of the two is complete, under ``path`` or under a name from which it is restored, so that nothing is
    lost if the process is killed.
    """
    if not path.exists():
        new.rename(path)
        return
    old = _temporary_name(path, OLD)
    try:
        path.rename(old)
        new.rename(path)
    finally:
        if not path.exists():
            old.rename(path)
        elif old.exists():
            # renamed first, so that a partly removed folder is not restored
            shutil.rmtree(old.rename(_temporary_name(path)), ignore_errors=True)


def plain_number(value: Any) -> Any:
    """Convert a numpy scalar for JSON, as ``json.dumps(default=plain_number)``."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} cannot be written as JSON.")


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the summary in a folder that a command wrote."""
    file = folder / _keys.SUMMARY
    if not file.is_file():
        raise DataError(f"{str(folder)!r} holds no {_keys.SUMMARY}; name a folder that 'diffvae run' wrote.")
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: deeply nested brackets
        raise DataError(f"{str(file)!r} can't be read ({error}); name a folder that 'diffvae run' wrote.") from error
    if not isinstance(summary, dict):
        raise DataError(f"{str(file)!r} is no summary of a run; name a folder that 'diffvae run' wrote.")
    return summary


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Lock a folder against writing by other processes and threads; within a thread the lock may be nested.

    The system releases the lock (``flock``, or ``msvcrt.locking`` on Windows) when the process ends, so that a stale
    lock file does no harm. The lock file, ``.NAME.lock`` beside the folder, is removed at the end.

    Parameters
    ----------
    folder
        The folder, which need not exist. Parent folders are created, and removed again if they stay empty.

    Raises
    ------
    OutputError
        If another process or thread has the lock, or the lock file can't be written.
    """
    from filelock import FileLock, Timeout

    path = Path(folder).expanduser().resolve()
    made = [above for above in path.parents if not above.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = (
            os.access(path.parent, os.W_OK | os.X_OK) or not path.is_dir()
        )  # beside a mount point nothing can be written
        file = path.with_name(f".{path.name}.lock") if beside else path / ".lock"
        lock = FileLock(file, is_singleton=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(
            f"{_lock_owner(file)} is writing {str(path)!r}; wait until it is done, or name another."
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
            with suppress(OSError):  # the folder was removed; on Windows the file is open
                file.unlink()
        lock.release()
        for above in made:
            with suppress(OSError):  # not empty
                above.rmdir()


def _lock_owner(file: Path) -> str:
    """Return the process that has the lock, according to the lock file."""
    try:
        number, host = file.read_text().split()
    except (OSError, ValueError):  # not written yet, or Windows, where a locked file can't be read
        return "Another process"
    return f"Process {number}" if host == socket.gethostname() else f"Process {number} on {host}"


def one_writer(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function lock the folder in its argument ``out``, if any, while it runs."""
    signature = inspect.signature(function)

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        out = signature.bind(*args, **kwargs).arguments.get("out")
        with nullcontext() if out is None else locked(out):
            return function(*args, **kwargs)

    return wrapper


SUFFIX = ".checkpoint"
PARTS = ("", ".links")
"""Suffixes of the checkpoints of a command: the main training, and the training of links."""


class CheckpointPaths:
    """The checkpoints beside an output folder: ``OUT.checkpoint``, and ``OUT.checkpoint.PART``.

    Parameters
    ----------
    out
        The folder; None writes no checkpoints.
    every
        Number of epochs between two checkpoints; None writes one only if the training is stopped.
    resume
        Continue from the checkpoints of an earlier call. Existing checkpoints raise OutputError without ``resume`` or
        ``overwrite``.
    is_writer
        False in a process that takes part in the training of another one, which manages the files.
    """

    def __init__(
        self,
        out: str | os.PathLike[str] | None,
        every: int | None,
        resume: bool,
        overwrite: bool,
        *,
        is_writer: bool = True,
    ) -> None:
        check({"checkpoint_every": Optional(Whole(1))}, checkpoint_every=every)
        if out is None and (resume or every is not None):
            raise ValueError("Checkpoints are written beside out, but out is None; name a folder.")
        self.out = None if out is None else Path(out).expanduser().resolve()
        self.every, self.resume, self.is_writer = every, resume, is_writer
        for path in self._all if is_writer else ():
            if path.is_dir():
                raise OutputError(
                    f"{str(path)!r} is a folder, but the checkpoint of the training needs this name; move the folder, "
                    "or name another folder for the results."
                )
        if is_writer and self.files and not (resume or overwrite):
            raise OutputError(
                f"{str(self.files[0])!r} holds an interrupted training; pass resume=True to continue it, "
                "overwrite=True to start again, or name another folder."
            )

    @property
    def files(self) -> list[Path]:
        """The checkpoints that exist."""
        return [path for path in self._all if path.exists()]

    @property
    def _all(self) -> list[Path]:
        return [] if self.out is None else [self._file(part) for part in PARTS]

    def training(self, part: str = "") -> dict[str, Any]:
        """Return the arguments for a model's ``train``; without ``resume`` an earlier checkpoint is removed."""
        if self.out is None:
            return {}
        path = self._file(part)
        if not self.resume and self.is_writer:
            _remove(path)
        return {"checkpoint": path, "checkpoint_every": self.every, "resume": self.resume}

    def _file(self, part: str) -> Path:
        assert self.out is not None
        return self.out.with_name(self.out.name + SUFFIX + part)

    def done(self) -> None:
        """Remove the checkpoints after the result has been written."""
        for path in self.files:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a checkpoint; of a link the target is removed."""
    path.resolve().unlink(missing_ok=True)
