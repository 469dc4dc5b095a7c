"""Pieces of work that need each other, done one after the other or by Dask: the results are the same."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from diffvae._progress import progress_bar
from diffvae._threads import one_thread
from diffvae.benchmark._store import Store


@dataclass(frozen=True)
class Job:
    """A function, the keys of the results that it is given first, and what it is given after them."""

    function: Callable[..., Any]
    needs: tuple[str, ...] = ()
    arguments: tuple[Any, ...] = ()
    keep: bool = True
    """Whether the result goes into the store; what doesn't is made again where it is needed."""


def in_one_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in one thread, whatever it does: the others have work of their own."""
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
    """Do the jobs that the store doesn't have, here or on workers, behind a bar; ``name`` is a key in short."""
    missing = sum(job.keep and key not in store for key, job in jobs.items())
    with progress_bar(description, missing, show=progress) as advance:
        if (n_workers or scheduler) and missing:
            with dask_client(n_workers, scheduler) as client:
                run_on(client, jobs, given, store, lambda key: advance(name(key)))
        else:
            run_here(jobs, given, store, lambda key: advance(name(key)))


def run_here(jobs: Mapping[str, Job], given: Mapping[str, Any], store: Store, done: Callable[[str], None]) -> None:
    """Do the jobs that the store doesn't have, in their order; ``done`` is called with each kept key."""
    pending = _pending(jobs, store)
    uses = Counter(need for key in pending for need in jobs[key].needs)
    at_hand: dict[str, Any] = {}

    def result(key: str) -> Any:
        if key in given:
            return given[key]
        if key not in at_hand:
            at_hand[key] = store.load(key) if key in store else work(key)
        return at_hand[key]

    def work(key: str) -> Any:
        job = jobs[key]
        value = in_one_thread(job.function, *(result(need) for need in job.needs), *job.arguments)
        for need in job.needs:
            uses[need] -= 1
            if not uses[need]:
                at_hand.pop(need, None)
        if job.keep:
            store.save(key, value)
            done(key)
        return value

    for key in pending:
        if jobs[key].keep and key not in store:
            value = work(key)
            if uses[key]:
                at_hand[key] = value


def _pending(jobs: Mapping[str, Job], store: Store) -> list[str]:
    """Return the kept jobs that are missing from the store, and what has to be made for them."""
    wanted = [key for key, job in jobs.items() if job.keep and key not in store]
    needed = set(wanted)
    stack = list(wanted)
    while stack:
        for need in jobs[stack.pop()].needs:
            if need in jobs and need not in store and need not in needed:
                needed.add(need)
                stack.append(need)
    return [key for key in jobs if key in needed]


def run_on(
    client: Any, jobs: Mapping[str, Job], given: Mapping[str, Any], store: Store, done: Callable[[str], None]
) -> None:
    """Do the same on the workers of a Dask client; results are kept here as they come in."""
    from distributed import as_completed

    pending = _pending(jobs, store)
    future: dict[str, Any] = {key: client.scatter(value, broadcast=True, hash=False) for key, value in given.items()}

    def of(key: str) -> Any:
        if key not in future:
            future[key] = client.scatter(store.load(key), hash=False)
        return future[key]

    for key in pending:
        job = jobs[key]
        needs = [of(need) for need in job.needs]
        future[key] = client.submit(in_one_thread, job.function, *needs, *job.arguments, key=f"diffvae-{key}")
    waiting = {future[key]: key for key in pending if jobs[key].keep}
    future.clear()  # what nobody waits for is let go as soon as nothing needs it
    for finished, value in as_completed(list(waiting), with_results=True, loop=client.loop):
        key = waiting.pop(finished)
        store.save(key, value)
        done(key)


@contextmanager
def dask_client(n_workers: int | None, scheduler: str | None) -> Iterator[Any]:
    """Connect to a scheduler, or start processes on this machine, of one thread each; gone at the end."""
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
