"""Pieces of work that depend on each other, done here or by Dask with the same results, and the store that keeps them.

An interrupted comparison goes on where it stopped: what the store has under its key is not computed again.
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
from pathlib import Path
from typing import Any

import numpy as np

from diffvae._core.io import folders
from diffvae._core.runtime import one_thread, progress_bar

TASKS = "tasks"
ARRAY, ROWS = ".npz", ".json"
DAMAGES = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    MemoryError,  # a header that announces more numbers than there are
    RuntimeError,  # JSON nested too deeply; a zip marked as encrypted or packed in an unknown way
    zipfile.BadZipFile,
    zlib.error,
)
"""Errors of reading a damaged file."""


@dataclass(frozen=True)
class Job:
    """A function, the keys of the results that are its first arguments, and its further arguments."""

    function: Callable[..., Any]
    needs: tuple[str, ...] = ()
    arguments: tuple[Any, ...] = ()
    keep: bool = True
    """Whether the result goes into the store; otherwise it is computed again when it is needed."""


@dataclass(frozen=True)
class Training:
    """What is kept of a training: the latent representation and its scores, or why it failed."""

    z: np.ndarray | None
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    note: str = ""


class Store:
    """Results by key, in memory or as files that appear when they are complete."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = None if folder is None else folder / TASKS
        self._memory: dict[str, Any] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._memory or (self.folder is not None and (self.folder / key).exists())

    def save(self, key: str, value: Any) -> None:
        """Keep a result; the suffix of the key decides between rows (JSON) and a :class:`Training` (npz)."""
        if self.folder is None:
            self._memory[key] = value
            return
        with folders.in_one_step(self.folder / key) as part:
            if key.endswith(ROWS):
                part.write_text(json.dumps(value))
            else:
                about = {"scores": value.scores, "seconds": value.seconds, "note": value.note}
                arrays = {} if value.z is None else {"z": value.z}
                with part.open("wb") as file:  # savez would add a suffix to the name
                    np.savez(file, about=np.array(json.dumps(about)), **arrays)

    def load(self, key: str) -> Any:
        """Return a result; the error about a damaged file names it."""
        if key in self._memory:
            return self._memory[key]
        assert self.folder is not None
        path = self.folder / key
        try:
            if key.endswith(ROWS):
                return json.loads(path.read_text())
            with np.load(path, allow_pickle=False) as arrays:
                about = json.loads(str(arrays["about"]))
                return Training(arrays.get("z"), **about)
        except DAMAGES as error:
            why = str(error) or type(error).__name__
            raise folders.OutputError(f"{str(path)!r} is damaged ({why}); delete it and start again.") from error


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds other files."""
    if folder.exists() and not (folder.is_dir() and folders.written_by_us(folder)):
        raise folders.OutputError(f"{str(folder)!r} holds files that diffvae did not write; name another folder.")


def claim(folder: Path) -> None:
    """Mark a folder as ours while its comparison is unfinished."""
    from diffvae._core.runtime import versions

    mark = folder / "summary.json"
    if not mark.exists():
        folders.write_text(json.dumps({"state": "under way", "versions": versions()}, indent=1) + "\n", mark)


def digest(*parts: Any) -> str:
    """Return 12 hexadecimal digits that identify a piece."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:12]


def slug(name: str) -> str:
    """Return a name that any file system accepts; the digest beside it keeps different names apart."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._") else "_" for c in name)[:40]


def version() -> str:
    """Return the version of diffvae, because another version may compute something else."""
    from diffvae import __version__

    return __version__


def in_one_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in one thread; the other cores have work of their own."""
    with one_thread(large_steps_too=True):
        return function(*arguments)


def do(
    jobs: Mapping[str, Job],
    given: Mapping[str, Any],
    store: Store,
    *,
    n_workers: int | None,
    scheduler: str | None = None,
    description: str,
    name: Callable[[str], str],
    progress: bool,
) -> None:
    """Do the jobs that the store lacks, here or on workers, behind a progress bar.

    Parameters
    ----------
    jobs
        Key to job, each after the jobs that it needs.
    given
        Key to value of what jobs need and no job makes.
    store
        Where results are looked up and kept.
    n_workers, scheduler
        Processes to start on this machine, or the address of a Dask scheduler; neither to work in this process.
    description, name, progress
        Of the bar: its title, the short name of a key, and whether to show it.
    """
    pending = _pending(jobs, store)
    missing = sum(job.keep for job in pending.values())
    with progress_bar(description, missing, show=progress) as advance:

        def done(key: str, value: Any) -> None:
            store.save(key, value)
            advance(name(key))

        if (n_workers or scheduler) and missing:
            with dask_client(n_workers, scheduler) as client:
                _run_on(client, pending, given, store, done)
        else:
            _run_here(pending, given, store, done)


def _pending(jobs: Mapping[str, Job], store: Store) -> dict[str, Job]:
    """Return the kept jobs that the store lacks, and the jobs whose results they need, in the order given."""
    needed: set[str] = set()
    for key, job in reversed(list(jobs.items())):
        if key not in store and (job.keep or key in needed):
            needed.update((key, *job.needs))
    return {key: job for key, job in jobs.items() if key in needed and key not in store}


def _run_here(
    pending: Mapping[str, Job], given: Mapping[str, Any], store: Store, done: Callable[[str, Any], None]
) -> None:
    """Do the jobs one after the other; a result stays in memory while a later job needs it."""
    uses = Counter(need for job in pending.values() for need in job.needs)
    at_hand = dict(given)
    for key, job in pending.items():
        for need in job.needs:
            if need not in at_hand:
                at_hand[need] = store.load(need)
        value = in_one_thread(job.function, *(at_hand[need] for need in job.needs), *job.arguments)
        if job.keep:
            done(key, value)
        if uses[key]:
            at_hand[key] = value
        for need in job.needs:
            uses[need] -= 1
            if not uses[need]:
                at_hand.pop(need, None)


def _run_on(
    client: Any,
    pending: Mapping[str, Job],
    given: Mapping[str, Any],
    store: Store,
    done: Callable[[str, Any], None],
) -> None:
    """Do the jobs on the workers of a Dask client; results are kept here as they arrive."""
    from distributed import as_completed

    future: dict[str, Any] = {key: client.scatter(value, broadcast=True, hash=False) for key, value in given.items()}
    for key, job in pending.items():
        for need in job.needs:
            if need not in future:
                future[need] = client.scatter(store.load(need), hash=False)
        needs = [future[need] for need in job.needs]
        future[key] = client.submit(in_one_thread, job.function, *needs, *job.arguments, key=f"diffvae-{key}")
    waiting = {future[key]: key for key, job in pending.items() if job.keep}
    future.clear()  # releases each intermediate result as soon as no job needs it
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
    here = {"n_workers": n_workers, "threads_per_worker": 1, "processes": True, "memory_limit": 0}
    quiet = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
    with LocalCluster(**here, **quiet) as cluster, Client(cluster, set_as_default=False) as client:
        yield client
