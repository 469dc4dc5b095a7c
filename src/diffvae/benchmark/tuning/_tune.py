"""A search for the hyper-parameters that suit some cells, and its gain over the default."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _random, pp
from diffvae._core.io import folders
from diffvae._core.runtime import StepLog, versions
from diffvae._core.validate import Choice, Optional, Rule, Whole, check
from diffvae._errors import DataError, OutputError
from diffvae.benchmark._jobs import write_summary
from diffvae.benchmark.tuning._objective import CLUSTERED, CONFIRMATION, OBJECTIVES, Evaluator, confirm, usual_clusters
from diffvae.benchmark.tuning._space import SPACES, Space, importance, make_space
from diffvae.pipeline import _checks
from diffvae.pipeline._settings import refuse_idle_patience

if TYPE_CHECKING:
    from anndata import AnnData

TRIALS, BEST, STORAGE = "trials.csv", "best.json", "study.db"
STUDY = "study"
"""Key of the settings in the summary, by which the folder of a search is recognised."""
RULES: dict[str, Rule] = {
    "objective": Choice(*OBJECTIVES),
    "space": Choice(*SPACES),
    "n_trials": Whole(1),
    "n_repeats": Whole(0),
    "n_clusters": Optional(Whole(2)),
    "n_trainings": Optional(Whole(1)),
    "max_epochs": Optional(Whole(1)),
    "values": Optional(Choice("counts", "normalised", "log")),
}


@dataclass(frozen=True)
class Tuned:
    """Result of a search.

    Attributes
    ----------
    trials
        One row per trial: ``trial`` (0 is the default), ``state`` ("complete", "pruned", "diverged", "running" in
        another process), ``value``, ``default``, the parameters, ``max_epochs``, ``seconds``, and measurements of the
        model.
    best
        The configuration for :func:`diffvae.pipeline.run`: that of the best trial, or the default if the confirmation
        showed no gain.
    default
        The default configuration.
    confirmation
        Values of default and best with other seeds and held-out cells: ``configuration``, ``trial``, ``repeat``,
        ``value``. Empty while other processes run trials.
    importance
        The share of the variation between complete trials that each parameter explains (fANOVA):
        ``parameter``, ``importance``, ``chance`` (mean over permutations of the values), ``chance_95`` (without any
        effect, one search in twenty exceeds it for some parameter), ``n_trials``; None for fewer than eight complete
        trials.
    summary
        Settings, verdict, warnings, timings, versions: the content of ``summary.json``.
    path
        The output folder, or None.

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(60, 40)
    >>> tuned = dv.benchmark.tune(cells, n_trials=2, n_repeats=1, max_epochs=2, progress=False)
    >>> tuned.default["preset"], tuned.importance is None  # too few trials for importances
    ('default', True)
    """

    trials: pd.DataFrame
    best: dict[str, Any]
    default: dict[str, Any]
    confirmation: pd.DataFrame
    importance: pd.DataFrame | None
    summary: dict[str, Any]
    path: Path | None = None


def tune(
    adata: AnnData,
    *,
    n_trials: int = 30,
    space: str = "paper",
    objective: str = "validation_loss",
    preset: str = "default",
    label_key: str | None = None,
    n_clusters: int | None = None,
    n_trainings: int | None = None,
    n_repeats: int = 3,
    max_epochs: int | None = None,
    patience: int | None = None,
    pruning: bool = True,
    timeout: float | None = None,
    out: str | PathLike[str] | None = None,
    storage: str | PathLike[str] | None = None,
    study: str = "diffvae",
    layer: str | None = None,
    values: str | None = None,
    n_top_genes: int | None = 2000,
    batch_key: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    rng: _random.Rng = 0,
    progress: bool = True,
    on_step: Callable[[str], None] = lambda step: None,
) -> Tuned:
    r"""Search the hyper-parameters of DiffVAE that suit some cells, and measure the gain over the default.

    The default configuration is the first trial. At the end default and best are trained again with other seeds and
    other held-out cells, because the best of many trials is partly lucky.

    Parameters
    ----------
    adata
        Raw cells, which are not changed; they are prepared once for all trials (:func:`diffvae.pp.prepare`).
    n_trials
        Number of trials in the study, including those of earlier calls and of other processes.
    space
        ``"paper"``: widths (512, 256) or (256, 128), 50 or 100 dimensions, learning rate 1e-2, 1e-3 or 1e-4, batches of
        64, 128 or 256, and the values of the preset; each point once, rarely tried values first. ``"wide"``: also other
        widths, 8 to 128 dimensions, any learning rate from 1e-4 to 1e-2, weights of KL and MMD, kernel, both dropouts
        and, if the preset doesn't stop early, epochs; proposed by a tree-structured Parzen estimator.
    objective
        ``"validation_loss"``: the loss of the trained model on held-out cells, as in the paper, mean over ten draws of
        the noise. It compares only models that minimise the same loss, and is refused for ``space="wide"``.

        ``"elbo"``: :math:`-E_q \log p(x|z) + KL(q(z|x) \| p(z))` of held-out cells, both with weight 1, whatever loss
        a trial minimised (genes are weighted as in the preset). It compares widths, rates and epochs fairly, but not
        the weights, because a trial with weights of 1 minimises the objective itself.

        ``"stability"``: agreement of k-means clusters between trainings (adjusted Rand index), without labels, in
        excess of that of clouds without clusters, with one k for all trials. A few long axes and a few large groups are
        also stable: see ``stability``, ``null_stability``, ``largest_cluster`` and ``active_dimensions`` in ``trials``.
        A latent without an active dimension scores 0.

        ``"ari"``: adjusted Rand index of k-means clusters with the labels. The labels choose the configuration, so its
        scores against the same labels must not be reported as unsupervised.
    preset
        Preset that is the first trial; parameters that are not varied have its values.
    label_key
        Labels in ``obs``, for ``"ari"``.
    n_clusters
        k of k-means, the same for all trials. None for the number of labels under "ari", and under "stability" for
        that of Leiden clusters (resolution 1) of 50 principal components.
    n_trainings
        Trainings per trial, whose mean score is used; None for 1, or 3 for "stability".
    n_repeats
        Number of seeds with which default and best are trained again.
    max_epochs
        Epochs of every training; None for the default number (see :meth:`diffvae.model.DiffVAE.train`).
    patience
        Stop every training after this many epochs without improvement; None stops as the preset does.
    pruning
        Stop a trial in its second half if its loss is above the median of the earlier trials at the same share of their
        training. Only for the two losses, with one training per trial.
    timeout
        Seconds after which no new trial starts.
    out
        Folder for ``trials.csv``, ``best.json``, ``confirmation.csv``, ``importance.csv``, ``summary.json``,
        ``figures`` and the study. A second call with the same folder resumes the search.
    storage
        An SQLite file, or the URL of a database (``"postgresql://user:password@host/name"``), for the study. By
        default ``study.db`` in ``out``, or memory. Processes with the same storage share the trials; use a database
        server for several machines. The trial of a killed process is run again after a minute without a heartbeat.
    study
        Name in the storage.
    layer, n_top_genes, batch_key
        See :func:`diffvae.pp.prepare`.
    values
        What the values are, ``"counts"``, ``"normalised"`` or ``"log"``, if detection is wrong.
    device, precision
        See :meth:`diffvae.model.DiffVAE.train`.
    rng
        Seed of order, proposals and trainings; the seed of a trial depends on its number.
    progress
        Show a progress bar.
    on_step
        Called with the name of each step when it starts.

    Returns
    -------
    Tuned

    Raises
    ------
    DataError
        If the data can't be used, or the study was started with other settings.
    ImportError
        If optuna is not installed.

    References
    ----------
    Akiba et al., Optuna, KDD 2019; Bica et al. 2020, Methods (the grid).

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(60, 40)
    >>> tuned = tune(cells, n_trials=2, n_repeats=1, max_epochs=2, progress=False)
    >>> tuned.trials[["trial", "state", "default"]].values.tolist()
    [[0, 'complete', True], [1, 'complete', False]]
    >>> sorted(tuned.best)
    ['batch_size', 'hidden', 'lr', 'max_epochs', 'n_latent', 'preset']
    """
    if importlib.util.find_spec("optuna") is None:
        raise ImportError('The search needs optuna, which is not installed; run: pip install "diffvae[tune]"')
    from diffvae.benchmark.tuning._search import Search, quiet

    check(
        RULES, objective=objective, space=space, n_trials=n_trials, n_repeats=n_repeats, n_clusters=n_clusters,
        n_trainings=n_trainings, max_epochs=max_epochs, values=values,
    )  # fmt: skip
    refuse_idle_patience(patience, max_epochs)
    _check_combinations(objective, space, label_key, n_clusters, n_trainings)
    search_space = make_space(space, preset, max_epochs, patience)
    start = time.monotonic()
    seed = _random.seed(rng, "tune") if isinstance(rng, np.random.Generator) else int(rng)
    if objective == "ari":
        _checks.require_labels(adata, label_key)
    _checks.require_columns(adata, batch_key, None)
    folder = None if out is None else _search_folder(out)
    log = StepLog(on_step)
    preparation: dict[str, Any] = {"layer": layer, "n_top_genes": n_top_genes, "batch_key": batch_key}
    # only if given, so that searches of earlier versions are continued
    preparation |= {"kind": values} if values is not None else {}
    with log.step("check and prepare"):
        cells = pp.prepare(adata, rng=seed, copy=True, **preparation)
        assert cells is not None
        k = n_clusters
        if k is None and objective in CLUSTERED:
            k = int(cells.obs[label_key].nunique()) if objective == "ari" else usual_clusters(cells, seed)
        _checks.require_cells(cells, k or "auto")
    n_each = n_trainings or OBJECTIVES[objective].n_trainings
    evaluator = Evaluator(objective, n_each, k, label_key, device, precision, batch_key)
    settings = {
        "objective": objective, "space": space, "preset": preset, "max_epochs": max_epochs, "n_clusters": k,
        "n_trainings": evaluator.n_trainings, "label_key": label_key, "seed": seed, "cells": _hash_of_names(cells),
        **preparation, "preset_values": search_space.preset_values,
    }  # fmt: skip
    settings |= {"patience": patience} if patience is not None else {}
    if storage is None and folder is not None:
        storage = folder / STORAGE
    with quiet():
        search = Search(
            cells, search_space, evaluator, seed, storage=storage, name=study, settings=settings, pruning=pruning
        )
        about = _about(settings, cells)
        if folder is not None:
            write_summary(about | {"verdict": ["The search is running."]}, folder)
        with log.step("trials"):
            search.run(
                n_trials,
                start + (np.inf if timeout is None else timeout),
                progress=progress,
                done=lambda table: None if folder is None else folders.write_csv(table, folder / TRIALS),
            )
        best, trials = search.best(), search.table()
        running = int((trials["state"] == "running").sum())
        again = pd.DataFrame(columns=CONFIRMATION)
        if n_repeats and not running:
            with log.step("train default and best again"):
                points = {number: search.params(number) for number in sorted({0, best})}
                again = confirm(search.study, search_space, evaluator, adata, points, n_repeats, preparation, seed)
        with log.step("importance"):
            shares = importance(search.study, list(search_space.parameters), seed)
    chosen = best if running or not n_repeats or gained(again, objective) else 0
    configurations = {number: search_space.settings(search.params(number), search.n_train) for number in {0, chosen}}
    summary = about | {
        "n_trials": len(trials),
        "best_trial": best,
        "chosen_trial": chosen,
        "verdict": [verdict(trials, again, objective, best), *caveats(trials, search_space, evaluator)],
        "warnings": log.warnings,
        "seconds": log.seconds,
    }
    tuned = Tuned(trials, configurations[chosen], configurations[0], again, shares, summary, folder)
    if folder is not None:
        on_step("write")
        _write(tuned, folder)
    return tuned


def _check_combinations(
    objective: str, space: str, label_key: str | None, n_clusters: int | None, n_trainings: int | None
) -> None:
    """Refuse arguments that the objective does not allow."""
    if objective == "validation_loss" and space == "wide":
        raise ValueError(
            "Validation losses with different weights of KL and MMD are different measures, so objective="
            "'validation_loss' can't search space='wide'; take 'elbo' (reconstruction and KL with weight 1), "
            "'stability' or 'ari', or space='paper'."
        )
    if objective == "ari" and label_key is None:
        raise ValueError("objective='ari' needs labels; name their column of obs (label_key).")
    if objective != "ari" and label_key is not None:
        raise ValueError(f"objective={objective!r} uses no labels; omit label_key.")
    if n_clusters is not None and objective not in CLUSTERED:
        raise ValueError(f"n_clusters is {n_clusters}, but objective={objective!r} uses no clusters; omit it.")
    if n_trainings == 1 and objective == "stability":
        raise ValueError("n_trainings is 1, but objective='stability' compares trainings; it needs 2 or more.")


def _hash_of_names(cells: AnnData) -> str:
    """Return 16 hexadecimal digits of the cell and gene names; values may differ slightly between machines."""
    digest = hashlib.sha256()
    for names in (cells.obs_names, cells.var_names):
        digest.update("\n".join(map(str, names)).encode() + b"\0")
    return digest.hexdigest()[:16]


def _about(settings: dict[str, Any], cells: AnnData) -> dict[str, Any]:
    """Return the part of the summary that is known at the start."""
    objective = OBJECTIVES[settings["objective"]]
    return {
        STUDY: settings,
        "objective": {"label": objective.label, "minimise": objective.minimise},
        "n_cells": cells.n_obs,
        "n_genes": cells.n_vars,
        "versions": versions() | {"optuna": version("optuna")},
    }


def _gains(again: pd.DataFrame, objective: str) -> pd.DataFrame:
    """Return one row per repeat: ``default``, ``best``, and the ``gain``; no rows if the default is the best."""
    wide = again.pivot(index="repeat", columns="configuration", values="value")
    if "best" not in wide:
        return pd.DataFrame(columns=["default", "best", "gain"])
    return wide.assign(gain=(wide["best"] - wide["default"]) * (-1 if OBJECTIVES[objective].minimise else 1))


def gained(again: pd.DataFrame, objective: str) -> bool:
    """Return whether the best trial is better than the default on average over the repeats.

    A default that diverges is worse than a best trial that never does.
    """
    gain = _gains(again, objective)
    if gain.empty or gain["best"].isna().any():
        return False
    return bool(gain["default"].isna().any() or gain["gain"].mean() > 0)


def verdict(trials: pd.DataFrame, again: pd.DataFrame, objective: str, best: int) -> str:
    """Return a sentence on the gain of the search, as far as the confirmation shows it."""
    label, n_trials = OBJECTIVES[objective].label.split(",")[0], len(trials)
    value = trials.loc[trials["trial"] == best, "value"].iloc[0]
    running = int((trials["state"] == "running").sum())
    first = f"Trial {best} is the best of {n_trials} by {label}"
    if running:
        return (
            f"{first} so far, {value:.4g}; {running} of them have not finished. Run the search again after the other "
            "processes have ended to train default and best again."
        )
    if again.empty:
        return f"{first}, {value:.4g}; it was not trained again, so the value may be due to chance."
    n = again["repeat"].nunique()
    seeds = f"{n} other seed{'s' * (n != 1)}"
    default_values, best_values = (
        _mean_and_sd(again.loc[again["configuration"] == name, "value"]) for name in ("default", "best")
    )
    if best == 0:
        return (
            f"No trial of {n_trials} is better than the default by {label}; trained again with {seeds} the default has "
            f"{default_values}."
        )
    confirmed = (
        f"{first}, {value:.4g}; trained again with {seeds} and held-out cells it has {best_values}, the default "
        f"{default_values}"
    )
    gain = _gains(again, objective)
    if not gained(again, objective):
        return f"{confirmed}: no gain, so the default is kept."
    if diverged := int(gain["default"].isna().sum()):
        return f"{confirmed}, which diverged in {diverged} of {n}."
    better = int((gain["gain"] > 0).sum())
    return f"{confirmed}: better by {gain['gain'].mean():.3g} on average, in {better} of {n}."


def _mean_and_sd(values: pd.Series) -> str:
    if values.isna().all():
        return "diverged"
    return f"{values.mean():.4g}" + (f" ± {values.std():.2g}" if values.count() > 1 else "")


def caveats(trials: pd.DataFrame, space: Space, evaluator: Evaluator) -> list[str]:
    """Return the limits of the objective, and the number of trials that were not complete."""
    pruned, diverged = (int((trials["state"] == state).sum()) for state in ("pruned", "diverged"))
    cases = (
        (
            evaluator.objective == "ari",
            f"obs[{evaluator.label_key!r}] chose the trial: its scores against the same labels are not unsupervised "
            "and must not be reported as such.",
        ),
        (
            evaluator.objective == "elbo" and "kl_weight" in space.parameters,
            "The objective weights reconstruction and KL by 1 each, so kl_weight = 1 and mmd_weight = 0 minimise it: a "
            "best trial near these weights is no evidence on clusters or dimensions.",
        ),
        (
            evaluator.objective == "stability",
            f"Stability is that of {evaluator.n_clusters} k-means clusters in all trials, in excess of clouds without "
            "clusters; stable clusters are not necessarily cell types.",
        ),
        (pruned, f"{pruned} of {len(trials)} trials were stopped early because their loss was above the median."),
        (diverged, f"{diverged} of {len(trials)} trials diverged."),
    )
    return [sentence for applies, sentence in cases if applies]


def _search_folder(path: str | PathLike[str]) -> Path:
    """Return the output folder, which need not exist; refuse a folder with other content than a search."""
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        folders.refuse_folder(folder, False)
    elif any(folder.iterdir()) and not _is_search(folder):
        raise OutputError(f"{str(folder)!r} has content other than a search of 'tune'; name another folder.")
    return folder


def _is_search(folder: Path) -> bool:
    if (folder / STORAGE).exists():  # the first file that a search writes
        return True
    try:
        return STUDY in folders.read_summary(folder)
    except DataError:
        return False


def _write(tuned: Tuned, folder: Path) -> None:
    """Write tables, figures, the configuration for ``run``, and the summary."""
    from diffvae import pl
    from diffvae.pl._style import apart_from_pyplot

    folders.write_csv(tuned.trials, folder / TRIALS)
    folders.write_text(json.dumps(tuned.best, indent=1) + "\n", folder / BEST)
    if len(tuned.confirmation):
        folders.write_csv(tuned.confirmation, folder / "confirmation.csv")
    with apart_from_pyplot():
        pl.save(pl.tuning(tuned), folder / "figures" / "trials")
    if tuned.importance is not None:
        folders.write_csv(tuned.importance, folder / "importance.csv")
        with apart_from_pyplot():
            pl.save(pl.importance(tuned.importance), folder / "figures" / "importance")
    write_summary(tuned.summary, folder)
