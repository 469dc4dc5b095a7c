"""A study as tables: its trials, and how much each parameter mattered beside chance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from diffvae import _random
from diffvae.benchmark._tune_proposer import index_of
from diffvae.benchmark._tune_space import Space
from diffvae.benchmark._tune_study import DIVERGED

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.RUNNING: "running"}
SEEN = (
    "epochs_trained", "stability", "null_stability", "largest_cluster", "active_dimensions",
    "validation_loss", "validation_nll", "validation_kl", "validation_mmd",
)  # fmt: skip
MIN_TRIALS = 8
"""Complete trials below which nothing is said of what mattered."""
N_NULL = 20
N_TREES = 16
"""Of a forest; with optuna's 64 the twenty of chance would take a minute."""


def trial_table(study: optuna.Study, space: Space, n_train: int) -> pd.DataFrame:
    """Return one row per trial; one that was killed is not there, the one that did it again is."""
    rows: list[dict[str, Any]] = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state not in STATES or set(space.parameters) - set(trial.params):
            continue
        number = index_of(study, trial)
        state = "diverged" if DIVERGED in trial.user_attrs else STATES[trial.state]
        row: dict[str, Any] = {"trial": number, "state": state, "value": _value(trial), "default": number == 0}
        row |= {name: trial.params[name] for name in space.parameters}
        row["max_epochs"] = space.n_epochs(trial.params, n_train)
        row["seconds"] = np.nan if trial.duration is None else round(trial.duration.total_seconds(), 2)
        rows.append(row | {name: trial.user_attrs[name] for name in SEEN if name in trial.user_attrs})
    columns = ["trial", "state", "value", "default", *space.parameters, "max_epochs", "seconds"]
    table = pd.DataFrame(rows, columns=columns + [c for c in SEEN if any(c in row for row in rows)])
    return table.sort_values("trial", ignore_index=True)


def _value(trial: FrozenTrial) -> float:
    """Return the value, of a trial that was ended early the last that was reported."""
    return np.nan if DIVERGED in trial.user_attrs or not trial.values else float(trial.values[0])


def importance(study: optuna.Study, names: Sequence[str], rng: int) -> pd.DataFrame | None:
    r"""Return which share of the variation between complete trials each parameter explains, beside chance.

    The shares are fANOVA's (a random forest over the parameters, its variance taken apart), and add up to one on any
    data: so the values are dealt out anew among the trials twenty times, which gives mean m and standard deviation s of
    each share by chance. Beyond chance is what exceeds

    .. math:: m_p + c\, s_p, \qquad c = Q_{95} \Bigl( \max_p (share_p - m_p) / s_p \Bigr)

    over the dealt values, so that of searches without any effect one in twenty shows one for some parameter.

    Returns
    -------
    One row per parameter, the most important first: ``parameter``, ``importance``, ``chance`` (m), ``chance_95`` (the
    limit), ``n_trials``; None where fewer than eight trials are complete or all
    have the same value.

    References
    ----------
    Hutter, Hoos and Leyton-Brown, An efficient approach for assessing hyperparameter importance, ICML 2014.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    complete = [t for t in complete if not set(names) - set(t.params)]
    values = np.array([t.value for t in complete], dtype=np.float64)
    if len(complete) < MIN_TRIALS or np.ptp(values) == 0:
        return None
    chance = _random.generator(rng, "importance")
    own = _shares(complete, values, names, rng)
    dealt = np.array([_shares(complete, chance.permutation(values), names, rng) for _ in range(N_NULL)])
    mean, sd = dealt.mean(axis=0), np.maximum(dealt.std(axis=0, ddof=1), 1e-9)
    factor = np.quantile(((dealt - mean) / sd).max(axis=1), 0.95)
    table = pd.DataFrame(
        {
            "parameter": list(names),
            "importance": own,
            "chance": mean,
            "chance_95": np.minimum(mean + factor * sd, 1),
            "n_trials": len(complete),
        }
    )
    return table.sort_values("importance", ascending=False, ignore_index=True)


def _shares(trials: Sequence[FrozenTrial], values: np.ndarray, names: Sequence[str], rng: int) -> list[float]:
    """Return fANOVA's shares for trials with these values."""
    study = optuna.create_study()
    for trial, value in zip(trials, values, strict=True):
        study.add_trial(
            optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=float(value))
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=N_TREES, seed=_random.seed(rng, "forest") % 2**31)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(names))
    return [found[name] for name in names]
