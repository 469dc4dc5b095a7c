"""One study on one storage, shared by any number of processes: who proposes, who is alive, what is done again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from diffvae._errors import DataError, OutputError
from diffvae.benchmark._tune_folder import JOURNAL
from diffvae.benchmark._tune_life import queue_again, signs_of_life, take_over
from diffvae.benchmark._tune_proposer import Proposer, distributions, index_of
from diffvae.train import Epoch, TrainingError

CHECKPOINTS = 20
"""Looks at a trial during its training, at equal shares of its own epochs."""
STARTUP = 5
"""Trials that must be complete before one is ended early."""
WARMUP = 10
"""Checkpoint before which none is ended: small learning rates are late, not bad."""
SETTINGS, INDEX, DIVERGED = "settings", "index", "diverged"
"""User attributes of the study (the first) and of its trials."""
DONE = (TrialState.COMPLETE, TrialState.PRUNED)

Evaluate = Callable[[int, Mapping[str, Any], "Callable[[Epoch], None] | None"], tuple[float, dict[str, float]]]
"""From the number of a trial, its parameters and a watcher of its epochs to its value and what else was seen."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep optuna's log off the terminal for a while; its level is global."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def open_storage(storage: str | os.PathLike[str] | None, folder: Path | None) -> optuna.storages.BaseStorage:
    """Return the storage of a study: a database by its URL, a journal by its file, or memory."""
    if storage is None:
        if folder is None:
            return optuna.storages.InMemoryStorage()
        storage = folder / JOURNAL
    name = os.fspath(storage)
    try:
        if "://" in name:
            return _database(name)
        path = Path(name).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".db", ".sqlite", ".sqlite3"):
            return _database(f"sqlite:///{path}")
        return optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    except Exception as error:  # each database has errors of its own
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise OutputError(
            f"The storage {name!r} can't be opened ({reason}); give a file for a journal, or the URL of a database."
        ) from error


def _database(url: str) -> optuna.storages.BaseStorage:
    """Open a database; where several processes make its tables at the same moment, all but one are told no, once."""
    for wait in (0.5, 2.0):
        try:
            return optuna.storages.RDBStorage(url)
        except Exception:  # of whichever database
            time.sleep(wait)
    return optuna.storages.RDBStorage(url)


def open_study(
    storage: optuna.storages.BaseStorage,
    name: str,
    settings: Mapping[str, Any],
    *,
    minimise: bool,
    pruning: bool,
    sampler: Proposer,
) -> optuna.Study:
    """Return the study of that name, made where there is none; one of other settings is refused."""
    pruner = optuna.pruners.MedianPruner(STARTUP, WARMUP) if pruning else optuna.pruners.NopPruner()
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        sampler=sampler,
        pruner=pruner,
        direction="minimize" if minimise else "maximize",
        load_if_exists=True,
    )
    known = study.user_attrs.get(SETTINGS)
    if known is None:
        study.set_user_attr(SETTINGS, dict(settings))
        return study
    before, now = _flat(known), _flat(settings)
    if changed := [k for k in now if before.get(k) != now[k]]:
        told = ", ".join(f"{k} was {before.get(k)!r} and is {now[k]!r} now" for k in changed)
        raise DataError(
            f"The study {name!r} was begun with other settings ({told}), and its trials can't be compared with new "
            "ones; go on with the same settings, or name another folder, storage or study."
        )
    return study


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without a level: what a preset held is told one by one."""
    nested = [v.items() if isinstance(v, Mapping) else [(k, v)] for k, v in settings.items()]
    return {k: v for items in nested for k, v in items}


def run_trials(
    study: optuna.Study,
    sampler: Proposer,
    n_trials: int,
    evaluate: Evaluate,
    *,
    deadline: float,
    watch: Callable[[Trial, Mapping[str, Any]], Callable[[Epoch], None] | None],
    done: Callable[[], None],
) -> None:
    """Run trials until the study has so many, whoever ran them, or time is up."""
    space = distributions(sampler.space)
    while time.monotonic() < deadline:
        take_over(study)
        if len(study.get_trials(deepcopy=False, states=(*DONE, TrialState.RUNNING))) >= n_trials:
            break
        trial = study.ask(space)
        number = index_of(study, trial)
        trial.set_user_attr(INDEX, number)
        try:
            with signs_of_life(trial):
                _run_one(study, trial, number, evaluate, watch(trial, trial.params))
        except optuna.exceptions.UpdateFinishedTrialError:
            continue  # this process had been silent for so long that another one took the trial over
        except BaseException:
            queue_again(study, trial.number, trial.params, number)
            raise
        done()


def _run_one(
    study: optuna.Study, trial: Trial, number: int, evaluate: Evaluate, on_epoch: Callable[[Epoch], None] | None
) -> None:
    try:
        value, seen = evaluate(number, trial.params, on_epoch)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        return
    except TrainingError as error:
        trial.set_user_attr(DIVERGED, str(error))
        study.tell(trial, state=TrialState.PRUNED)
        return
    for key, found in seen.items():
        trial.set_user_attr(key, found)
    study.tell(trial, value)


def checkpoints(
    trial: Trial, of_epoch: Callable[[Mapping[str, float]], float], n_epochs: int
) -> Callable[[Epoch], None]:
    """Return what watches a training: at each checkpoint the score is reported, and a bad trial ended.

    Trials are compared at equal shares of their own epochs, since larger batches make fewer steps in an epoch. The
    default, trial 0, is never ended.
    """
    reached = 0

    def look(epoch: Epoch) -> None:
        nonlocal reached
        at = CHECKPOINTS * epoch.number // n_epochs
        if at > reached:
            reached = at
            trial.report(of_epoch(epoch.record), at)
            if trial.user_attrs[INDEX] > 0 and epoch.number < n_epochs and trial.should_prune():
                raise optuna.TrialPruned

    return look
