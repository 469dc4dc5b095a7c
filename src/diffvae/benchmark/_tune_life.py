"""Which trials are alive, and what becomes of those that are not."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from diffvae.benchmark._tune_proposer import RETRY, index_of

BEAT, GRACE = 20.0, 200.0
"""Seconds between two signs of life of a trial, and without one after which it is taken for dead."""
HOST, PID, ALIVE = "host", "pid", "alive"
"""User attributes of a trial: where it runs, and when it was last heard of."""


@contextmanager
def signs_of_life(trial: Trial) -> Iterator[None]:
    """Say every few seconds that a trial is alive, and where; a storage in memory has nobody who asks."""
    trial.set_user_attr(HOST, _here())
    trial.set_user_attr(PID, os.getpid())
    over = threading.Event()

    def beat() -> None:
        try:
            trial.set_user_attr(ALIVE, time.time())
            while not over.wait(BEAT):
                trial.set_user_attr(ALIVE, time.time())
        except optuna.exceptions.UpdateFinishedTrialError:
            return

    thread = threading.Thread(target=beat, daemon=True)
    if not isinstance(trial.storage, optuna.storages.InMemoryStorage):
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()


def take_over(study: optuna.Study) -> None:
    """Put trials whose process is gone back into the queue, with the parameters and the number that they had."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_dead(trial):
            queue_again(study, trial.number, trial.params, index_of(study, trial))


def queue_again(study: optuna.Study, trial_number: int, params: Mapping[str, Any], index: int) -> None:
    try:
        study.tell(trial_number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        return  # another process was quicker
    study.enqueue_trial(dict(params), user_attrs={RETRY: index})


def _is_dead(trial: FrozenTrial) -> bool:
    attributes = trial.user_attrs
    begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    if time.time() - attributes.get(ALIVE, begun) > GRACE:
        return True
    if os.name != "posix" or attributes.get(HOST) != _here() or PID not in attributes:
        return False
    if attributes[PID] == os.getpid():
        return True  # asked for between two trials of this process, so an earlier one had the number
    try:
        os.kill(attributes[PID], 0)  # no signal; only whether there is such a process
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _here() -> str:
    """Return what tells the processes of one machine, and of one container on it, from all others."""
    try:
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:
        processes = ""
    return f"{socket.gethostname()} {processes}".strip()
