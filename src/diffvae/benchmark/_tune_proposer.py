"""What is tried next: by the number of a trial and what is known, whoever asks."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial

from diffvae import _random
from diffvae.benchmark._tune_space import Choice, Space

RETRY = "retry"
"""User attribute of a trial that does again what a killed one had begun: the number that that one had."""


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return a space in optuna's terms."""
    found: dict[str, BaseDistribution] = {}
    for name, parameter in space.parameters.items():
        if isinstance(parameter, Choice):
            found[name] = CategoricalDistribution(parameter.values)
        elif isinstance(parameter.low, int) and isinstance(parameter.high, int):
            found[name] = IntDistribution(parameter.low, parameter.high, log=True)
        else:
            found[name] = FloatDistribution(parameter.low, parameter.high, log=True)
    return found


class Proposer(optuna.samplers.BaseSampler):
    """Proposes what follows from the number of a trial and from what is known, whoever asks.

    The first trial is the default. A finite space is gone through in its order, each point once. In an infinite
    one a tree-structured Parzen estimator proposes; it is seeded anew for each trial, so that a study that goes on
    after an interruption, or a second process, doesn't draw the first trials again.

    References
    ----------
    Bergstra et al., Algorithms for hyper-parameter optimization, NIPS 2011.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed
        self.order = space.order(seed) or [space.default]
        self.fixed: dict[str, Any] | None = None
        self.inner: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=0)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        number = index_of(study, trial)
        self.fixed = self.order[number] if number < len(self.order) else None
        seed = _random.seed(self.seed, "proposal", str(number)) % 2**31
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.inner = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.inner.infer_relative_search_space(study, trial) if self.fixed is None else distributions(self.space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.inner.sample_relative(study, trial, search_space) if self.fixed is None else dict(self.fixed)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.inner.sample_independent(study, trial, param_name, param_distribution)


def index_of(study: optuna.Study, trial: FrozenTrial | Trial) -> int:
    """Return the number of a trial as if none had ever been killed; what is done again has the number that it had."""
    if RETRY in trial.user_attrs:
        return int(trial.user_attrs[RETRY])
    earlier = study.get_trials(deepcopy=False)[: trial.number]
    return trial.number - sum(RETRY in t.user_attrs for t in earlier)
