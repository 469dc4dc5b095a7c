"""Jobs that depend on each other, run in this process or by Dask with the same results, and the store of results.

A job whose result is in the store is not run again, so an interrupted comparison resumes where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from diffvae import __version__, _keys
from diffvae._core.io import folders
from diffvae._core.runtime import one_thread, progress_bar, versions
from diffvae._errors import OutputError

TASKS = "tasks"
ARRAY, ROWS = ".npz", ".json"
NPZ_ERRORS = (OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What numpy and zipfile raise when they read a damaged archive; a false header can cause a MemoryError."""


@dataclass(frozen=True)
class Job:
    """A function, the keys of the results that are its first arguments, and its further arguments."""

    function: Callable[..., Any]
    needs: tuple[str, ...] = ()
    arguments: tuple[Any, ...] = ()
    keep: bool = True
    """Whether the result is stored; otherwise it is computed again when it is needed."""


@dataclass(frozen=True)
class Training:
    """The stored result of a training: the latent representation and its scores, or why it failed.

    ``sd`` are the standard deviations of the posterior, None for a model without posterior; ``prior`` says whether a
    prior fixes the scale of the latent.
    """

    z: np.ndarray | None
    sd: np.ndarray | None = None
    prior: bool = False
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    note: str = ""


class Store:
    """Results by key, in memory or in files; a file appears when it is complete."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = None if folder is None else folder / TASKS
        self._memory: dict[str, Any] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._memory or (self.folder is not None and (self.folder / key).exists())

    def save(self, key: str, value: Any) -> None:
        """Store a result: rows as JSON or a :class:`Training` as npz, according to the suffix of the key."""
        if self.folder is None:
            self._memory[key] = value
            return
        with folders.in_one_step(self.folder / key) as part:
            if key.endswith(ROWS):
                part.write_text(json.dumps(value))
            else:
                about = {key: getattr(value, key) for key in ("prior", "scores", "seconds", "note")}
                arrays = {name: array for name in ("z", "sd") if (array := getattr(value, name)) is not None}
                with part.open("wb") as file:  # savez would add a suffix to the name
                    np.savez(file, about=np.array(json.dumps(about)), **arrays)

    def load(self, key: str) -> Any:
        """Return a result; a damaged file raises an OutputError that names it."""
        if self.folder is None:
            return self._memory[key]
        path = self.folder / key
        try:
            if key.endswith(ROWS):
                return json.loads(path.read_text(encoding="utf-8"))
            with np.load(path, allow_pickle=False) as arrays:
                about, z, sd = json.loads(str(arrays["about"])), arrays.get("z"), arrays.get("sd")
        except NPZ_ERRORS as error:  # a RecursionError of JSON is a RuntimeError
            reason = str(error) or type(error).__name__
            raise OutputError(f"{str(path)!r} is damaged ({reason}); delete it and start again.") from error
        return Training(z, sd, **about)


def output_folder(out: str | PathLike[str] | None) -> Path | None:
    """Return the path of an output folder; refuse a file, and a folder with files that diffvae did not write."""
    if out is None:
        return None
    folder = Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{str(folder)!r} is a file; give the name of a folder.")
    if folder.exists() and not folders.written_by_us(folder):
        raise OutputError(f"{str(folder)!r} holds files that diffvae did not write; name another folder.")
    return folder


def claim(folder: Path | None) -> None:
    """Write a summary that marks a folder as an unfinished comparison of diffvae, unless it has a summary."""
    if folder is not None and not (folder / _keys.SUMMARY).exists():
        write_summary({"state": "under way", "versions": versions()}, folder)


def write_summary(summary: Mapping[str, Any], folder: Path) -> None:
    text = json.dumps(summary, indent=1, default=folders.plain_number, allow_nan=False)
    folders.write_text(text + "\n", folder / _keys.SUMMARY)


def digest(*parts: Any) -> str:
    """Return 12 hexadecimal digits that identify a job of this version of diffvae."""
    return hashlib.sha256(json.dumps([*parts, __version__], sort_keys=True, default=repr).encode()).hexdigest()[:12]


def slug(name: str) -> str:
    """Return a name that every file system accepts; different names can have the same slug."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._") else "_" for c in name)[:40]


def call_in_one_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in one thread, because the other cores run other jobs."""
    with one_thread(large_steps_too=True):
        return function(*arguments)


def run_jobs(
    jobs: Mapping[str, Job],
    given: Mapping[str, Any],
    store: Store,
    *,
    n_workers: int | None,
    scheduler: str | None = None,
    description: str,
    label: Callable[[str], str],
    progress: bool,
) -> None:
    """Run the jobs whose results the store lacks, in this process or on workers.

    Parameters
    ----------
    jobs
        Key to job; a job comes after the jobs that it needs.
    given
        Key to value of what jobs need and no job makes.
    store
        Holds the results.
    n_workers, scheduler
        Processes to start on this machine, or the address of a Dask scheduler; None for this process.
    description, label, progress
        Of the progress bar: its title, the label of a key, and whether it is shown.
    """
    pending = _pending(jobs, store)
    missing = sum(job.keep for job in pending.values())
    with progress_bar(description, missing, show=progress) as advance:

        def done(key: str, value: Any) -> None:
            store.save(key, value)
            advance(label(key))

        if (n_workers or scheduler) and missing:
            with dask_client(n_workers, scheduler) as client:
                _run_on_dask(client, pending, given, store, done)
        else:
            _run_here(pending, given, store, done)


def _pending(jobs: Mapping[str, Job], store: Store) -> dict[str, Job]:
    """Return the jobs whose results are to be stored and are missing, and the jobs that these need, in order."""
    needed: set[str] = set()
    for key, job in reversed(list(jobs.items())):
        if key not in store and (job.keep or key in needed):
            needed.update((key, *job.needs))
    return {key: job for key, job in jobs.items() if key in needed and key not in store}


def _run_here(
    pending: Mapping[str, Job], given: Mapping[str, Any], store: Store, done: Callable[[str, Any], None]
) -> None:
    """Run the jobs one after the other; a result stays in memory while a later job needs it."""
    uses = Counter(need for job in pending.values() for need in job.needs)
    values = dict(given)
    for key, job in pending.items():
        for need in job.needs:
            if need not in values:
                values[need] = store.load(need)
        value = call_in_one_thread(job.function, *(values[need] for need in job.needs), *job.arguments)
        if job.keep:
            done(key, value)
        if uses[key]:
            values[key] = value
        for need in job.needs:
            uses[need] -= 1
            if not uses[need]:
                values.pop(need, None)


def _run_on_dask(
    client: Any, pending: Mapping[str, Job], given: Mapping[str, Any], store: Store, done: Callable[[str, Any], None]
) -> None:
    """Run the jobs on the workers of a Dask client; this process stores the results as they arrive."""
    from distributed import as_completed

    future: dict[str, Any] = {key: client.scatter(value, broadcast=True, hash=False) for key, value in given.items()}
    for key, job in pending.items():
        for need in job.needs:
            if need not in future:
                future[need] = client.scatter(store.load(need), hash=False)
        needs = [future[need] for need in job.needs]
        future[key] = client.submit(call_in_one_thread, job.function, *needs, *job.arguments, key=f"diffvae-{key}")
    waiting = {future[key]: key for key, job in pending.items() if job.keep}
    future.clear()  # Dask releases an intermediate result when no job needs it
    for finished, value in as_completed(list(waiting), with_results=True, loop=client.loop):
        done(waiting.pop(finished), value)


@contextmanager
def dask_client(n_workers: int | None, scheduler: str | None) -> Iterator[Any]:
    """Connect to a scheduler, or start processes of one thread each on this machine and end them afterwards."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ImportError(
            "Several workers need Dask, which is not installed; run: pip install 'diffvae[cluster]'"
        ) from error
    if scheduler is not None:
        with Client(scheduler, set_as_default=False) as client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=n_workers, threads_per_worker=1, processes=True, memory_limit=0, dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        yield client
