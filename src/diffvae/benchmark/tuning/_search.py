"""The study of a search: an optuna storage that several processes can share, and the trials that they run."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState

from diffvae import _keys, _random
from diffvae._core.runtime import progress_bar
from diffvae._errors import DataError, OutputError
from diffvae.benchmark.tuning._objective import OBJECTIVES, Evaluator
from diffvae.benchmark.tuning._space import DIVERGED, NUMBER, Space, trial_table
from diffvae.train import Epoch, TrainingError

if TYPE_CHECKING:
    from anndata import AnnData

HEARTBEAT, GRACE = 10, 60
"""Seconds between two heartbeats of a running trial, and without one after which the trial is run again."""
CHECKPOINTS = 20
"""Reports of a trial during its training, at equal shares of its epochs."""
STARTUP = 5
"""Complete trials before the first one can be pruned."""
WARMUP = 10
"""Checkpoint before which no trial is pruned: a small learning rate starts slowly."""
SETTINGS = "settings"
"""User attribute of the study."""
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence optuna's log, whose level is global, and its warnings of experimental features."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def open_storage(storage: str | os.PathLike[str] | None) -> BaseStorage:
    """Return the storage at a database URL or in an SQLite file; None keeps the study in memory."""
    if storage is None:
        return InMemoryStorage()
    name = os.fspath(storage)
    for wait in (1, 1, 0):
        try:
            return _database(name)
        except Exception as error:  # each database driver has other exceptions
            failure = error
            time.sleep(wait)  # if several processes create the tables at the same time, only one succeeds
    reason = str(failure).strip().splitlines()[0].rstrip(".")
    raise OutputError(
        f"The storage {name!r} can't be opened ({reason}); give an SQLite file or the URL of a database."
    ) from failure


def _database(name: str) -> RDBStorage:
    if "://" not in name:
        path = Path(name).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        name = f"sqlite:///{path}"
    return RDBStorage(
        name,
        {"connect_args": {"timeout": GRACE}} if name.startswith("sqlite") else None,
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )


def number_of(study: optuna.Study, trial: FrozenTrial) -> int:
    """Return the number of a trial, not counting retries: a retry has the number of the trial that it repeats."""
    retried = RetryHeartbeatStaleTrialCallback.retried_trial_number
    first = retried(trial)
    first = trial.number if first is None else first
    return first - sum(retried(t) is not None for t in study.get_trials(deepcopy=False)[:first])


class Sampler(optuna.samplers.BaseSampler):
    """Proposes a point from the number of the trial and the earlier trials.

    Trial 0 is the default. A finite space is searched in its order; each point is tried once, also by several
    processes, which optuna's grid sampler does not guarantee. In an infinite space a tree-structured Parzen estimator
    proposes; each trial has another seed, so that a resumed search or a second process does not repeat random draws.

    References
    ----------
    Bergstra et al., Algorithms for hyper-parameter optimization, NIPS 2011.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.points, self.default, self.seed = space.order(seed), space.default, seed
        self.number, self.point = 0, self.default
        self.tpe = optuna.samplers.TPESampler()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.number = number_of(study, trial)
        points = self.points or [self.default]
        self.point = points[self.number] if self.number < len(points) else {}
        seed = _random.seed(self.seed, "proposal", str(self.number)) % 2**31
        self.tpe = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {} if self.point else self.tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if self.point:
            return self.point[param_name]
        return self.tpe.sample_independent(study, trial, param_name, param_distribution)


class Search:
    """Runs the trials of a study on prepared cells.

    A study of that name in the storage is continued, or refused if it was started with other settings.
    """

    def __init__(
        self,
        cells: AnnData,
        space: Space,
        evaluator: Evaluator,
        seed: int,
        *,
        storage: str | os.PathLike[str] | None,
        name: str,
        settings: Mapping[str, Any],
        pruning: bool,
    ) -> None:
        self.cells, self.space, self.evaluator, self.seed = cells, space, evaluator, seed
        self.n_train = int((cells.obs[_keys.SPLIT] == "train").sum())
        self.objective = OBJECTIVES[evaluator.objective]
        self.sampler = Sampler(space, seed)
        self.study = optuna.create_study(
            storage=open_storage(storage),
            study_name=name,
            sampler=self.sampler,
            pruner=optuna.pruners.MedianPruner(STARTUP, WARMUP) if pruning else optuna.pruners.NopPruner(),
            direction="minimize" if self.objective.minimise else "maximize",
            load_if_exists=True,
        )
        before, now = _flat(self.study.user_attrs.get(SETTINGS, settings)), _flat(settings)
        changed = [f"{key} was {before.get(key)!r}, now {now[key]!r}" for key in now if before.get(key) != now[key]]
        if changed:
            raise DataError(
                f"The study {name!r} was started with other settings ({', '.join(changed)}), so its trials and new "
                "ones can't be compared; use the same settings, or another folder, storage or study."
            )
        self.study.set_user_attr(SETTINGS, dict(settings))

    def run(self, n_trials: int, deadline: float, *, progress: bool, done: Callable[[pd.DataFrame], None]) -> None:
        """Run trials until the study has ``n_trials`` or every point of a finite space, or the deadline has passed.

        Trials of other processes count. ``done`` is called with the table after each trial.
        """
        if self.sampler.points:
            n_trials = min(n_trials, len(self.sampler.points))
        with progress_bar("tuning", n_trials, show=progress) as advance:
            for _ in range(min(n_trials, len(self.table()))):
                advance()
            while time.monotonic() < deadline:
                optuna.storages.fail_stale_trials(self.study)
                if len(self.study.get_trials(deepcopy=False, states=COUNTED)) >= n_trials:
                    break
                try:
                    self.study.optimize(self._run_trial, n_trials=1)
                except ValueError as error:
                    # this process was suspended for so long that another process runs its trial
                    if "Cannot tell a" not in str(error):
                        raise
                table = self.table()
                done(table)
                complete = table.loc[table["state"] == "complete", "value"]
                advance("" if complete.empty else f"best {self._best(complete):.4g}")

    def _run_trial(self, trial: Trial) -> float:
        """Train and score one trial; an interrupted trial is queued to run again."""
        number = self.sampler.number
        trial.set_user_attr(NUMBER, number)
        try:
            params = self.space.suggest(trial)
            value, measured = self.evaluator.score(
                self.cells,
                self.space.settings(params, self.n_train),
                _random.seed(self.seed, "trial", str(number)),
                self._on_epoch(trial, number, params),
            )
            if not math.isfinite(value):
                raise TrainingError(f"The score is {value}.")
        except optuna.TrialPruned:
            raise
        except TrainingError as error:
            trial.set_user_attr(DIVERGED, str(error))
            raise optuna.TrialPruned from error
        except BaseException:  # SIGTERM raises SystemExit
            interrupted = self.study.trials[trial.number]
            if interrupted.state is TrialState.RUNNING:
                RetryHeartbeatStaleTrialCallback()(self.study, interrupted)
            raise
        for name, measurement in measured.items():
            trial.set_user_attr(name, measurement)
        return value

    def _on_epoch(self, trial: Trial, number: int, params: Mapping[str, Any]) -> Callable[[Epoch], None] | None:
        if self.objective.of_epoch is None or self.evaluator.n_trainings > 1:
            return None
        n_epochs = self.space.n_epochs(params, self.n_train)
        return checkpoints(trial, self.objective.of_epoch, n_epochs, prune=number > 0)

    def _best(self, values: pd.Series) -> float:
        return float(values.min() if self.objective.minimise else values.max())

    def table(self) -> pd.DataFrame:
        """Return the table of trials."""
        return trial_table(self.study, self.space, self.n_train)

    def best(self) -> int:
        """Return the number of the best complete trial."""
        table = self.table()
        complete = table[table["state"] == "complete"]
        if complete.empty:
            states = ", ".join(f"{n} {state}" for state, n in table["state"].value_counts().items()) or "none started"
            raise DataError(
                f"No trial is complete yet ({states}); allow more trials or more time. If trainings diverge, check the "
                "data."
            )
        return int(complete.loc[complete["value"] == self._best(complete["value"]), "trial"].iloc[0])

    def params(self, number: int) -> dict[str, Any]:
        """Return the parameters of a complete trial, or of the default, which is trial 0."""
        if number == 0:
            return self.space.default
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return next(dict(t.params) for t in complete if t.user_attrs[NUMBER] == number)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the values of nested mappings at the top level."""
    nested = [v.items() if isinstance(v, Mapping) else [(k, v)] for k, v in settings.items()]
    return {k: v for items in nested for k, v in items}


def checkpoints(
    trial: Trial, of_epoch: Callable[[Mapping[str, float]], float], n_epochs: int, *, prune: bool
) -> Callable[[Epoch], None]:
    """Return a callback that reports the score at each checkpoint and stops a trial that the pruner rejects.

    Trials are compared at equal shares of their epochs, because an epoch of larger batches has fewer steps.
    """
    reached = 0

    def on_epoch(epoch: Epoch) -> None:
        nonlocal reached
        checkpoint = CHECKPOINTS * epoch.number // n_epochs
        if checkpoint > reached:
            reached = checkpoint
            trial.report(of_epoch(epoch.record), checkpoint)
            if prune and epoch.number < n_epochs and trial.should_prune():
                raise optuna.TrialPruned

    return on_epoch
