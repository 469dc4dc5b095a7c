"""A search: a study, and the cells on which its trials are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd

from diffvae import _keys, _random
from diffvae._errors import DataError
from diffvae._progress import progress_bar
from diffvae.benchmark import _tune_folder, _tune_study
from diffvae.benchmark._tune_confirm import confirm
from diffvae.benchmark._tune_objective import OBJECTIVES, Judge
from diffvae.benchmark._tune_proposer import Proposer, index_of
from diffvae.benchmark._tune_space import Space
from diffvae.benchmark._tune_table import importance, trial_table

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.train import Epoch


class Search:
    """Runs the trials of a study on prepared cells.

    Parameters
    ----------
    cells
        Prepared.
    space
        What is searched.
    judge
        What a trial is scored by.
    seed
        Of the order, the proposals and, with the number of a trial, its training.
    """

    def __init__(self, cells: AnnData, space: Space, judge: Judge, seed: int) -> None:
        self.cells, self.space, self.judge, self.seed = cells, space, judge, seed
        self.n_train = int((cells.obs[_keys.SPLIT] == "train").sum())
        self.proposer = Proposer(space, seed)
        self.about: dict[str, Any] = {}
        self.folder: Path | None = None
        self.study: optuna.Study

    @contextmanager
    def opened(
        self,
        storage: str | PathLike[str] | None,
        name: str,
        settings: Mapping[str, Any],
        *,
        pruning: bool,
        folder: Path | None,
    ) -> Iterator[None]:
        """Open the study for the block, and begin the folder."""
        from diffvae.model._storage import versions

        with _tune_study.quiet():
            self.study = _tune_study.open_study(
                _tune_study.open_storage(storage, folder),
                name,
                settings,
                minimise=OBJECTIVES[self.judge.objective].minimise,
                pruning=pruning,
                sampler=self.proposer,
            )
            self.folder = folder
            objective = OBJECTIVES[self.judge.objective]
            self.about = {
                _tune_folder.STUDY: dict(settings),
                "objective": {"label": objective.label, "minimise": objective.minimise},
                "n_cells": self.cells.n_obs,
                "n_genes": self.cells.n_vars,
                "versions": versions() | {"optuna": optuna.__version__},
            }
            if folder is not None:
                _tune_folder.write_summary(self.about | {"verdict": ["The search is under way."]}, folder)
            yield

    def run(self, n_trials: int, deadline: float, progress: bool) -> None:
        """Run trials until the study has so many, or all that the space has, or time is up."""
        points = self.space.order(self.seed)
        n_trials = n_trials if points is None else min(n_trials, len(points))
        with progress_bar("tuning", n_trials, show=progress) as advance:
            for _ in range(min(n_trials, len(self.table()))):
                advance()

            def done() -> None:
                table = self.table()
                if self.folder is not None:
                    _tune_folder.write_trials(table, self.folder)
                complete = table.loc[table["state"] == "complete", "value"]
                advance("" if complete.empty else f"best {self._most(complete):.4g}")

            _tune_study.run_trials(
                self.study, self.proposer, n_trials, self._evaluate, deadline=deadline, watch=self._watch, done=done
            )

    def _most(self, values: pd.Series) -> float:
        return float(values.min() if OBJECTIVES[self.judge.objective].minimise else values.max())

    def _evaluate(
        self, number: int, params: Mapping[str, Any], on_epoch: Callable[[Epoch], None] | None
    ) -> tuple[float, dict[str, float]]:
        own = _random.seed(self.seed, "trial", str(number))
        return self.judge.score(self.cells, self.space.settings(params, self.n_train), own, on_epoch)

    def _watch(self, trial: optuna.Trial, params: Mapping[str, Any]) -> Callable[[Epoch], None] | None:
        of_epoch = OBJECTIVES[self.judge.objective].of_epoch
        if of_epoch is None or self.judge.n_trainings > 1:
            return None
        return _tune_study.checkpoints(trial, of_epoch, self.space.n_epochs(params, self.n_train))

    def table(self) -> pd.DataFrame:
        """Return the trials."""
        return trial_table(self.study, self.space, self.n_train)

    def n_running(self) -> int:
        """Return how many trials other processes are at."""
        return int((self.table()["state"] == "running").sum())

    def best(self) -> int:
        """Return the number of the best complete trial."""
        table = self.table()
        complete = table[table["state"] == "complete"]
        if complete.empty:
            states = ", ".join(f"{n} {state}" for state, n in table["state"].value_counts().items()) or "none begun"
            raise DataError(
                f"No trial is complete yet ({states}); give more trials or more time; where trainings diverge look at "
                "the data."
            )
        return int(complete.loc[complete["value"] == self._most(complete["value"]), "trial"].iloc[0])

    def point(self, number: int) -> dict[str, Any]:
        """Return the parameters of a trial."""
        if number == 0:
            return self.space.default
        known = {index_of(self.study, t): t for t in self.study.get_trials(deepcopy=False) if t.params}
        return dict(known[number].params)

    def confirm(self, raw: AnnData, preparation: Mapping[str, Any], n_repeats: int) -> pd.DataFrame:
        """Train default and best again."""
        points = {number: self.point(number) for number in sorted({0, self.best()})}
        return confirm(self.study, self.space, self.judge, raw, points, n_repeats, preparation, self.seed)

    def importance(self) -> pd.DataFrame | None:
        """Return what mattered, beside chance."""
        return importance(self.study, list(self.space.parameters), self.seed)
