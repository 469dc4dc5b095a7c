"""The space of a search (the paper's grid, or a wider one), and its trials as tables."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _random
from diffvae.model._config import AutoencoderConfig, default_epochs, from_preset

if TYPE_CHECKING:
    import optuna
    from optuna.trial import BaseTrial, FrozenTrial

EPOCHS = "epochs"
"""Epochs as a multiple of the default number, which depends on the number of cells and the batch size."""


@dataclass(frozen=True)
class Range:
    """An interval with a logarithmic scale; of integers if both ends are integers."""

    low: float
    high: float


Parameter = tuple[Any, ...] | Range
"""Several values to choose from, or a range."""
SPACES: Mapping[str, Mapping[str, Parameter]] = {
    "paper": {
        "hidden": ("512-256", "256-128"),
        "n_latent": (50, 100),
        "lr": (1e-2, 1e-3, 1e-4),
        "batch_size": (64, 128, 256),
    },
    "wide": {
        "hidden": ("256-128", "512-256", "1024-512", "512", "512-256-128"),
        "n_latent": Range(8, 128),
        "lr": Range(1e-4, 1e-2),
        "batch_size": (64, 128, 256),
        "kl_weight": (0.0, 0.1, 0.3, 1.0, 3.0),
        "mmd_weight": (0.0, 1.0, 10.0, 100.0, 300.0, 1000.0, 3000.0),
        "mmd_kernel": ("imq", "rbf"),
        "dropout": (0.0, 0.1, 0.2, 0.3),
        "input_dropout": (0.0, 0.25, 0.5),
        EPOCHS: (0.5, 1.0, 2.0),
    },
}


@dataclass(frozen=True)
class Space:
    """The parameters that a search varies around a preset, whose values are always included.

    ``max_epochs`` and ``patience`` are those of all trainings; None for the default number, and to stop as the preset.
    """

    preset: str
    parameters: Mapping[str, Parameter]
    max_epochs: int | None = None
    patience: int | None = None

    @property
    def preset_values(self) -> dict[str, Any]:
        """All hyper-parameters of the preset, for JSON, because later versions may change a preset."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(from_preset(self.preset, {})).items()}

    @property
    def default(self) -> dict[str, Any]:
        """The values of the preset: the first point of a search."""
        values = _values_of(from_preset(self.preset, {}))
        return {name: values[name] for name in self.parameters}

    def order(self, rng: _random.Rng) -> list[dict[str, Any]] | None:
        """Return all points, each once, the default first; None for an infinite space.

        The order is random, with the constraint that the values of the next point have occurred least often before, so
        that a few trials include every value of every parameter.
        """
        choices = [p for p in self.parameters.values() if isinstance(p, tuple)]
        if len(choices) < len(self.parameters):
            return None
        points = [dict(zip(self.parameters, values, strict=True)) for values in itertools.product(*choices)]
        points.remove(self.default)
        mixed = [points[i] for i in _random.generator(rng, "order of trials").permutation(len(points))]
        ordered, tried = [self.default], Counter(self.default.items())
        while mixed:
            rarest = min(range(len(mixed)), key=lambda i: sum(tried[value] for value in mixed[i].items()))
            ordered.append(mixed.pop(rarest))
            tried.update(ordered[-1].items())
        return ordered

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Ask the sampler of a trial for a point."""
        for name, p in self.parameters.items():
            if isinstance(p, tuple):
                trial.suggest_categorical(name, p)
            elif isinstance(p.low, int) and isinstance(p.high, int):
                trial.suggest_int(name, p.low, p.high, log=True)
            else:
                trial.suggest_float(name, p.low, p.high, log=True)
        return trial.params

    def settings(self, params: Mapping[str, Any], n_train: int) -> dict[str, Any]:
        """Return a point as the configuration that ``run`` takes, for ``n_train`` cells."""
        settings = {"preset": self.preset, **{k: v for k, v in params.items() if k != EPOCHS}}
        settings["hidden"] = [int(width) for width in params["hidden"].split("-")]
        if self.patience is not None:
            settings["patience"] = self.patience
        if self.max_epochs is not None:
            settings["max_epochs"] = self.max_epochs
        elif params.get(EPOCHS, 1.0) != 1.0:
            settings["max_epochs"] = max(1, round(params[EPOCHS] * self._default_epochs(params, n_train)))
        return settings

    def n_epochs(self, params: Mapping[str, Any], n_train: int) -> int:
        """Return the number of epochs for which a point is trained."""
        settings = self.settings(params, n_train)
        return int(settings.get("max_epochs") or self._default_epochs(params, n_train))

    def _default_epochs(self, params: Mapping[str, Any], n_train: int) -> int:
        return default_epochs(from_preset(self.preset, {}), n_train, int(params["batch_size"]))


def make_space(name: str, preset: str, max_epochs: int | None, patience: int | None = None) -> Space:
    """Return the paper's grid, or the wide space, around a preset.

    Examples
    --------
    >>> len(make_space("paper", "paper", None).order(0))  # 2 widths x 2 dimensions x 3 rates x 3 batch sizes
    36
    """
    config = from_preset(preset, {})
    values = _values_of(config)
    parameters = {k: _including(p, values[k]) for k, p in SPACES[name].items()}
    if max_epochs is not None or patience is not None or config.early_stopping:
        parameters.pop(EPOCHS, None)
    return Space(preset, parameters, max_epochs, patience)


def _including(parameter: Parameter, value: Any) -> Parameter:
    if isinstance(parameter, Range):
        return Range(min(parameter.low, value), max(parameter.high, value))
    return parameter if value in parameter else (*parameter, value)


def _values_of(config: AutoencoderConfig) -> dict[str, Any]:
    hidden = "-".join(map(str, config.hidden))  # a string, because optuna's storages hold no tuples
    return asdict(config) | {"hidden": hidden, EPOCHS: 1.0}


NUMBER, DIVERGED = "number", "diverged"
"""User attributes of a trial: its number, the same for a retry, and the error of a training that diverged."""
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "RUNNING": "running"}
MEASURED = (
    "epochs_trained", "stability", "null_stability", "largest_cluster", "active_dimensions",
    "validation_loss", "validation_nll", "validation_kl", "validation_mmd",
)  # fmt: skip


def trial_table(study: optuna.Study, space: Space, n_train: int) -> pd.DataFrame:
    """Return one row per trial, without interrupted trials; a retry has the number of the interrupted trial."""
    rows: list[dict[str, Any]] = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name not in STATES or set(space.parameters) - set(trial.params):
            continue
        number, diverged = trial.user_attrs[NUMBER], DIVERGED in trial.user_attrs
        rows.append(
            {
                "trial": number,
                "state": "diverged" if diverged else STATES[trial.state.name],
                "value": np.nan if diverged or trial.value is None else trial.value,
                "default": number == 0,
                **{name: trial.params[name] for name in space.parameters},
                "max_epochs": space.n_epochs(trial.params, n_train),
                "seconds": np.nan if trial.duration is None else round(trial.duration.total_seconds(), 2),
                **{name: trial.user_attrs[name] for name in MEASURED if name in trial.user_attrs},
            }
        )
    columns = ["trial", "state", "value", "default", *space.parameters, "max_epochs", "seconds"]
    table = pd.DataFrame(rows, columns=columns + [c for c in MEASURED if any(c in row for row in rows)])
    return table.sort_values("trial", ignore_index=True)


MIN_TRIALS = 8
"""With fewer complete trials importances are not computed."""
N_NULL = 20
"""Permutations of the values."""
N_TREES = 16
"""Trees of a forest; with optuna's 64 the permutations would take a minute."""


def importance(study: optuna.Study, names: Sequence[str], rng: int) -> pd.DataFrame | None:
    r"""Return the share of the variation between complete trials that each parameter explains, and that by chance.

    The shares are those of fANOVA (the variance of a random forest is decomposed over the parameters). They add up to
    one on any data, so the values are permuted among the trials twenty times, which gives the mean m and the standard
    deviation s of each share by chance. A share is beyond chance if it exceeds

    .. math:: m_p + c\, s_p, \qquad c = Q_{95} \Bigl( \max_p (share_p - m_p) / s_p \Bigr)

    with the quantile over the permutations. Without any effect, one search in twenty has such a parameter.

    Returns
    -------
    One row per parameter, the most important first: ``parameter``, ``importance``, ``chance`` (m), ``chance_95`` (the
    limit), ``n_trials``; None if fewer than eight trials are complete or all have the same value.

    References
    ----------
    Hutter, Hoos and Leyton-Brown, An efficient approach for assessing hyperparameter importance, ICML 2014.
    """
    complete = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    values = np.array([t.value for t in complete], dtype=np.float64)
    if len(complete) < MIN_TRIALS or np.ptp(values) == 0:
        return None
    generator = _random.generator(rng, "importance")
    shares = _shares(complete, values, names, rng)
    permuted = np.array([_shares(complete, generator.permutation(values), names, rng) for _ in range(N_NULL)])
    mean, sd = permuted.mean(axis=0), np.maximum(permuted.std(axis=0, ddof=1), 1e-9)
    factor = np.quantile(((permuted - mean) / sd).max(axis=1), 0.95)
    table = pd.DataFrame(
        {
            "parameter": list(names),
            "importance": shares,
            "chance": mean,
            "chance_95": np.minimum(mean + factor * sd, 1),
            "n_trials": len(complete),
        }
    )
    return table.sort_values("importance", ascending=False, ignore_index=True)


def _shares(trials: Sequence[FrozenTrial], values: np.ndarray, names: Sequence[str], rng: int) -> list[float]:
    """Return the shares of fANOVA for trials with these values."""
    import optuna

    study = optuna.create_study()
    for trial, value in zip(trials, values, strict=True):
        study.add_trial(
            optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=float(value))
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=N_TREES, seed=_random.seed(rng, "forest") % 2**31)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(names))
    return [shares[name] for name in names]
