"""A search for the settings that suit some cells, and what it gains over the default."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _random, pp
from diffvae._core.io import folders
from diffvae._core.runtime import StepLog
from diffvae._errors import OutputError
from diffvae.benchmark.tuning._objective import CLUSTERED, CONFIRMATION, OBJECTIVES, Judge, confirm, usual_clusters
from diffvae.benchmark.tuning._space import Space, importance, make_space
from diffvae.pipeline import _checks

if TYPE_CHECKING:
    from anndata import AnnData

TRIALS, BEST, SUMMARY, STORAGE = "trials.csv", "best.json", "summary.json", "study.db"
STUDY = "study"
"""Key of the settings in the summary, by which the folder of a search is recognised."""


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
        ``value``. Empty while trials are running elsewhere.
    importance
        The share of the variation between complete trials that each parameter explains (fANOVA), beside chance:
        ``parameter``, ``importance``, ``chance`` (mean over permutations of the values), ``chance_95`` (of searches
        without any effect, one in twenty exceeds it for some parameter), ``n_trials``; None for fewer than eight
        complete trials.
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
    pruning: bool = True,
    timeout: float | None = None,
    out: str | PathLike[str] | None = None,
    storage: str | PathLike[str] | None = None,
    study: str = "diffvae",
    layer: str | None = None,
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
    other held-out cells, since the best of many trials is partly the luckiest.

    Parameters
    ----------
    adata
        Raw cells, which are not changed; they are prepared once for all trials (:func:`diffvae.pp.prepare`).
    n_trials
        Number of trials in the study, including those of earlier calls and of other processes.
    space
        ``"paper"``: widths (512, 256) or (256, 128), 50 or 100 dimensions, learning rate 1e-2, 1e-3 or 1e-4, batches of
        64, 128 or 256, and the values of the preset; each point once, rarely tried values first. ``"wide"``: also other
        widths, 8 to 128 dimensions, any learning rate between, weights of KL and MMD, kernel, both dropouts and, if the
        preset doesn't stop early, epochs; proposed by a tree-structured Parzen estimator.
    objective
        ``"validation_loss"``: the loss of the trained model on held-out cells, as in the paper, mean over ten draws of
        the noise. It compares only models that minimise the same loss, and is refused for ``space="wide"``.

        ``"elbo"``: :math:`-E_q \log p(x|z) + KL(q(z|x) \| p(z))` of held-out cells, both with weight 1, whatever a
        trial minimised (genes are weighted as in the preset). A trial with these weights is the best by construction:
        it compares widths, rates and epochs fairly, but not the weights.

        ``"stability"``: agreement of k-means clusters between trainings (adjusted Rand index), without labels, beyond
        that of clouds without clusters, with one k for all trials. A few long axes and a few large groups are also
        stable: see ``stability``, ``null_stability``, ``largest_cluster`` and ``active_dimensions`` in ``trials``. A
        latent without an active dimension scores 0.

        ``"ari"``: adjusted Rand index of k-means clusters with the labels. The chosen configuration has seen the
        labels: its scores against them must not be reported as unsupervised.
    preset
        Preset at which the search starts, and whose other values all trials have.
    label_key
        Labels in ``obs``, for ``"ari"``.
    n_clusters
        k of k-means, the same for all trials. None for the number of labels under "ari", and under "stability" for
        that of Leiden clusters (resolution 1) of 50 principal components.
    n_trainings
        Trainings per trial, of which the mean counts: 1, or 3 for "stability".
    n_repeats
        Number of seeds with which default and best are trained again.
    max_epochs
        Epochs of every training; None for the usual number (see :meth:`diffvae.model.DiffVAE.train`).
    pruning
        Stop a trial in its second half if its loss is above the median of the earlier ones at the same share of their
        training. Only for the two losses, with one training per trial.
    timeout
        Seconds after which no trial starts.
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
    device, precision
        See :meth:`diffvae.model.DiffVAE.train`.
    rng
        Seed of order, proposals and trainings; that of a trial depends on its number.
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
    search_space = _check_options(
        n_trials, space, objective, preset, label_key, n_clusters, n_trainings, n_repeats, max_epochs
    )
    if importlib.util.find_spec("optuna") is None:
        raise ImportError('The search needs optuna, which is not installed; run: pip install "diffvae[tune]"')
    from diffvae.benchmark.tuning._search import Search, quiet

    start = time.monotonic()
    seed = _random.seed(rng, "tune") if isinstance(rng, np.random.Generator) else int(rng)
    if objective == "ari":
        _checks.require_labels(adata, label_key)
    folder = None if out is None else _folder_at(out)
    log = StepLog(on_step)
    preparation: dict[str, Any] = {"layer": layer, "n_top_genes": n_top_genes, "batch_key": batch_key}
    with log.step("check and prepare"):
        cells = pp.prepare(adata, rng=seed, copy=True, **preparation)
        assert cells is not None
        k = n_clusters
        if k is None and objective in CLUSTERED:
            k = int(cells.obs[label_key].nunique()) if objective == "ari" else usual_clusters(cells, seed)
        _checks.require_cells(cells, k or "auto")
    judge = Judge(objective, n_trainings or OBJECTIVES[objective].n_trainings, k, label_key, device, precision)
    settings = {
        "objective": objective, "space": space, "preset": preset, "max_epochs": max_epochs, "n_clusters": k,
        "n_trainings": judge.n_trainings, "label_key": label_key, "seed": seed, "cells": _hash_of_names(cells),
        **preparation, "preset_values": search_space.preset_values,
    }  # fmt: skip
    if storage is None and folder is not None:
        storage = folder / STORAGE
    with quiet():
        search = Search(
            cells, search_space, judge, seed, storage=storage, name=study, settings=settings, pruning=pruning
        )
        about = _about(settings, cells)
        if folder is not None:
            _write_summary(about | {"verdict": ["The search is running."]}, folder)
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
                again = confirm(search.study, search_space, judge, adata, points, n_repeats, preparation, seed)
        with log.step("importance"):
            shares = importance(search.study, list(search_space.parameters), seed)
    chosen = best if running or not n_repeats or gained(again, objective) else 0
    configurations = {number: search_space.settings(search.params(number), search.n_train) for number in {0, chosen}}
    summary = about | {
        "n_trials": len(trials),
        "best_trial": best,
        "chosen_trial": chosen,
        "verdict": [verdict(trials, again, objective, best), *caveats(trials, search_space, judge)],
        "warnings": log.warnings,
        "seconds": log.seconds,
    }
    tuned = Tuned(trials, configurations[chosen], configurations[0], again, shares, summary, folder)
    if folder is not None:
        on_step("write")
        _write(tuned, folder)
    return tuned


def _check_options(
    n_trials: int,
    space: str,
    objective: str,
    preset: str,
    label_key: str | None,
    n_clusters: int | None,
    n_trainings: int | None,
    n_repeats: int,
    max_epochs: int | None,
) -> Space:
    """Check the options before anything is read or written, and return the space."""
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; it is one of {', '.join(map(repr, OBJECTIVES))}.")
    search_space = make_space(space, preset, max_epochs)
    if objective == "validation_loss" and space == "wide":
        raise ValueError(
            "Validation losses under different weights of KL and MMD are different measures, so space='wide' can't be "
            "searched by objective='validation_loss'; take 'elbo' (reconstruction and KL with weight 1), 'stability' "
            "or 'ari', or space='paper'."
        )
    if objective == "ari" and label_key is None:
        raise ValueError("objective='ari' needs labels; name their column of obs (label_key).")
    if objective != "ari" and label_key is not None:
        raise ValueError(f"objective={objective!r} uses no labels; omit label_key.")
    if n_clusters is not None and objective not in CLUSTERED:
        raise ValueError(f"n_clusters is {n_clusters}, but objective={objective!r} uses no clusters; omit it.")
    for name, value, least in (
        ("n_trials", n_trials, 1),
        ("n_repeats", n_repeats, 0),
        ("n_clusters", n_clusters, 2),
        ("n_trainings", n_trainings, 2 if objective == "stability" else 1),
        ("max_epochs", max_epochs, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; it must be {least} or more.")
    return search_space


def _hash_of_names(cells: AnnData) -> str:
    """Return 16 hexadecimal digits of the names of cells and genes; values may differ slightly between machines."""
    digest = hashlib.sha256()
    for names in (cells.obs_names, cells.var_names):
        digest.update("\n".join(map(str, names)).encode() + b"\0")
    return digest.hexdigest()[:16]


def _about(settings: dict[str, Any], cells: AnnData) -> dict[str, Any]:
    """Return the part of the summary that is known at the start."""
    from importlib.metadata import version

    from diffvae._core.runtime import versions

    objective = OBJECTIVES[settings["objective"]]
    return {
        STUDY: settings,
        "objective": {"label": objective.label, "minimise": objective.minimise},
        "n_cells": cells.n_obs,
        "n_genes": cells.n_vars,
        "versions": versions() | {"optuna": version("optuna")},
    }


VERDICTS = {
    "unfinished": "Trial {best} is the best of {n_trials} by {label} so far, {value:.4g}; {running} of them have not "
    "finished. Run the search again after the other processes have ended to train default and best again.",
    "unconfirmed": "Trial {best} is the best of {n_trials} by {label}, {value:.4g}; it was not trained again, so the "
    "value may be luck.",
    "default": "No trial of {n_trials} is better than the default by {label}; trained again with {seeds} the default "
    "has {default}.",
    "no gain": "{confirmed}: no gain, so the default is kept.",
    "diverged": "{confirmed}, which diverged in {n_diverged} of {repeats}.",
    "gain": "{confirmed}: better by {gain:.3g} on average, in {better} of {repeats}.",
}
CONFIRMED = (
    "Trial {best} is the best of {n_trials} by {label}, {value:.4g}; trained again with {seeds} and held-out cells it "
    "has {again}, the default {default}"
)


def gained(again: pd.DataFrame, objective: str) -> bool:
    """Return whether the best trial is better than the default on average over the repeats."""
    gain = _gains(again, objective)
    # a default that diverges loses to a best trial that never does
    return bool(
        len(gain) and not gain["best"].isna().any() and (gain["default"].isna().any() or gain["gain"].mean() > 0)
    )


def _gains(again: pd.DataFrame, objective: str) -> pd.DataFrame:
    """Return one row per repeat: ``default``, ``best``, and the ``gain``; no rows if the default is the best."""
    wide = again.pivot(index="repeat", columns="configuration", values="value")
    if "best" not in wide:
        return pd.DataFrame(columns=["default", "best", "gain"])
    return wide.assign(gain=(wide["best"] - wide["default"]) * (-1 if OBJECTIVES[objective].minimise else 1))


def verdict(trials: pd.DataFrame, again: pd.DataFrame, objective: str, best: int) -> str:
    """Return a sentence on the gain of the search, as far as the confirmation shows it."""
    gain = _gains(again, objective)
    repeats = again["repeat"].nunique()
    facts = {
        "best": best,
        "n_trials": len(trials),
        "label": OBJECTIVES[objective].label.split(",")[0],
        "value": trials.loc[trials["trial"] == best, "value"].iloc[0],
        "running": int((trials["state"] == "running").sum()),
        "seeds": f"{repeats} other seed{'s' * (repeats != 1)}",
        "repeats": repeats,
        "default": _mean_and_sd(again.loc[again["configuration"] == "default", "value"]),
        "again": _mean_and_sd(again.loc[again["configuration"] == "best", "value"]),
        "n_diverged": int(gain["default"].isna().sum()),
        "gain": gain["gain"].mean(),
        "better": int((gain["gain"] > 0).sum()),
    }
    cases = (
        ("unfinished", facts["running"]),
        ("unconfirmed", again.empty),
        ("default", best == 0),
        ("no gain", not gained(again, objective)),
        ("diverged", facts["n_diverged"]),
        ("gain", True),
    )
    case = next(name for name, applies in cases if applies)
    return VERDICTS[case].format(**facts, confirmed=CONFIRMED.format(**facts))


def _mean_and_sd(values: pd.Series) -> str:
    if values.isna().all():
        return "diverged"
    return f"{values.mean():.4g}" + (f" ± {values.std():.2g}" if values.count() > 1 else "")


def caveats(trials: pd.DataFrame, space: Space, judge: Judge) -> list[str]:
    """Return the limits of the objective, and the number of trials that were not complete."""
    pruned, diverged = (int((trials["state"] == state).sum()) for state in ("pruned", "diverged"))
    cases = (
        (
            judge.objective == "ari",
            f"The trials were chosen by obs[{judge.label_key!r}]: scores of the chosen one against the same labels are "
            "not unsupervised and must not be reported as such.",
        ),
        (
            judge.objective == "elbo" and "kl_weight" in space.parameters,
            "The objective weights reconstruction and KL by 1 each, which kl_weight = 1 and mmd_weight = 0 minimise: a "
            "best trial near these weights is no evidence on clusters or dimensions.",
        ),
        (
            judge.objective == "stability",
            f"Stability is that of {judge.n_clusters} k-means clusters in all trials, beyond clouds without clusters; "
            "stable clusters are not necessarily cell types.",
        ),
        (pruned, f"{pruned} of {len(trials)} trials were stopped early, their loss being above the median."),
        (diverged, f"{diverged} of {len(trials)} trials diverged."),
    )
    return [sentence for applies, sentence in cases if applies]


def _folder_at(path: str | PathLike[str]) -> Path:
    """Return the output folder, which need not exist; a folder with other content is refused."""
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
        return STUDY in json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _write_summary(summary: dict[str, Any], folder: Path) -> None:
    text = json.dumps(summary, indent=1, default=folders.plain_number, allow_nan=False)
    folders.write_text(text + "\n", folder / SUMMARY)


def _write(tuned: Tuned, folder: Path) -> None:
    """Write tables, figures, the configuration for ``run``, and the summary."""
    from diffvae import pl

    folders.write_csv(tuned.trials, folder / TRIALS)
    folders.write_text(json.dumps(tuned.best, indent=1) + "\n", folder / BEST)
    if len(tuned.confirmation):
        folders.write_csv(tuned.confirmation, folder / "confirmation.csv")
    figures = {"trials": lambda: pl.tuning(tuned)}
    if (table := tuned.importance) is not None:
        folders.write_csv(table, folder / "importance.csv")
        figures["importance"] = lambda: pl.importance(table)
    for name, draw in figures.items():
        pl.save(draw(), folder / "figures" / name)
    _write_summary(tuned.summary, folder)
