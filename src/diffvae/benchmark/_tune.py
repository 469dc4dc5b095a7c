"""Which settings suit these cells? A search, beside what it gained."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _preconditions, _random, pp
from diffvae._journal import Journal
from diffvae.benchmark import _tune_folder
from diffvae.benchmark._tune_check import check_options, mark_of, require_optuna
from diffvae.benchmark._tune_confirm import COLUMNS
from diffvae.benchmark._tune_objective import CLUSTERED, OBJECTIVES, Judge, usual_clusters
from diffvae.benchmark._tune_verdict import caveats, gained, sentence

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes
    ----------
    trials
        One row per trial: ``trial`` (0 is the default), ``state`` ("complete", "pruned" where it was ended early,
        "diverged", "running" in another process), ``value``, ``default``, the parameters, ``max_epochs``, ``seconds``,
        and what was seen of the model.
    best
        The configuration that :func:`diffvae.pipeline.run` takes: that of the best trial, or the default where training
        both again showed no gain.
    default
        The default configuration.
    confirmation
        Values of default and best with other seeds and held-out cells: ``configuration``, ``trial``, ``repeat``,
        ``value``. Empty as long as trials are running elsewhere.
    importance
        Which share of the variation between complete trials each parameter explains (fANOVA), beside chance:
        ``parameter``, ``importance``, ``chance`` (mean where the values are dealt out anew among the trials),
        ``chance_95`` (what one in twenty searches without any effect exceeds for some parameter), ``n_trials``; None
        for fewer than eight complete trials.
    summary
        Settings, verdict, warnings, timings, versions: what ``summary.json`` holds.
    path
        The folder, if one was written.

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(60, 40)
    >>> found = dv.benchmark.tune(cells, n_trials=2, n_repeats=1, max_epochs=2, progress=False)
    >>> found.default["preset"], found.importance is None  # too few trials for importances
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
    tell: Callable[[str], None] = lambda step: None,
) -> Tuned:
    r"""Search the hyper-parameters of DiffVAE that suit some cells, and see what that gains over the default.

    The default configuration is the first trial. At the end default and best are trained again, with other seeds and
    other held-out cells: the best of many trials is partly the luckiest.

    Parameters
    ----------
    adata
        Raw cells, left as they are; they are prepared once for all trials (:func:`diffvae.pp.prepare`).
    n_trials
        Trials that the study is to have, those of earlier calls and of other processes included.
    space
        ``"paper"``: widths (512, 256) or (256, 128), 50 or 100 dimensions, learning rate 1e-2, 1e-3 or 1e-4, batches of
        64, 128 or 256, and the preset's own learning rate; no point twice, values tried least first. ``"wide"``:
        also other widths, 8 to 128 dimensions, any learning rate between, weights of KL and MMD, kernel, both dropouts
        and, where the preset doesn't stop early, epochs; proposed by a tree-structured Parzen estimator.
    objective
        ``"validation_loss"``: the loss of the trained model on held-out cells, as in the paper, in the mean over ten
        draws of the noise. It compares only what minimises the same loss, and is refused for ``space="wide"``.

        ``"elbo"``: :math:`-E_q \log p(x|z) + KL(q(z|x) \| p(z))` of held-out cells, both with weight 1 whatever a trial
        minimised (genes are weighed as the preset does). A trial with these very weights is best at it by construction:
        it is a fair judge of widths, rates and epochs, and none of the weights.

        ``"stability"``: agreement of k-means clusters between trainings (adjusted Rand index), without labels, beyond
        that of clouds without clusters, with one k for all trials. Few long axes make stable clusters too, and so do
        few large groups: see ``stability``, ``null_stability``, ``largest_cluster`` and ``active_dimensions`` in
        ``trials``. A latent without an active dimension scores 0.

        ``"ari"``: adjusted Rand index of k-means clusters with the labels. What it chose has seen them: scores against
        the same labels must not be reported as unsupervised.
    preset
        Where the search starts, and where all that it doesn't change comes from.
    label_key
        Labels in ``obs``, for ``"ari"``.
    n_clusters
        k of k-means, the same for all trials. None for the number of labels under "ari", and under "stability" for
        that of Leiden clusters (resolution 1) of 50 principal components.
    n_trainings
        Trainings per trial, whose mean counts: 1, or 3 for "stability".
    n_repeats
        Seeds with which default and best are trained again.
    max_epochs
        Of every training; None for the usual number (see :meth:`diffvae.model.DiffVAE.train`).
    pruning
        End a trial whose loss is above the median of the earlier ones at the same share of their training, from the
        middle on. Only for the two losses, with one training per trial.
    timeout
        Seconds after which no trial begins.
    out
        Folder for ``trials.csv``, ``best.json``, ``confirmation.csv``, ``importance.csv``, ``summary.json``,
        ``figures`` and the study itself. Calling again with the same folder goes on.
    storage
        Where the study is kept: a file for a journal (works on network drives), or the URL of a database
        (``"sqlite:///tune.db"``). By default ``study.journal`` in ``out``, or memory. Processes and machines that are
        given the same one share the trials; what a killed one had begun is done again.
    study
        Name in the storage.
    layer, n_top_genes, batch_key
        See :func:`diffvae.pp.prepare`.
    device, precision
        See :meth:`diffvae.model.DiffVAE.train`.
    rng
        Seed of order, proposals and trainings; each trial's own follows from it and the trial's number.
    progress
        Show a bar on a terminal.
    tell
        Called with the name of each step as it begins.

    Returns
    -------
    Tuned

    Raises
    ------
    DataError
        If the data can't be used, or the study was begun with other settings.
    ImportError
        If optuna is not installed.

    References
    ----------
    Akiba et al., Optuna, KDD 2019; Bica et al. 2020, Methods (the grid).

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(60, 40)
    >>> found = tune(cells, n_trials=2, n_repeats=1, max_epochs=2, progress=False)
    >>> found.trials[["trial", "state", "default"]].values.tolist()
    [[0, 'complete', True], [1, 'complete', False]]
    >>> sorted(found.best)
    ['batch_size', 'hidden', 'lr', 'max_epochs', 'n_latent', 'preset']
    """
    searched = check_options(
        n_trials, space, objective, preset, label_key, n_clusters, n_trainings, n_repeats, max_epochs
    )
    require_optuna()
    from diffvae.benchmark._tune_search import Search

    start = time.monotonic()
    seed = _random.seed(rng, "tune") if isinstance(rng, np.random.Generator) else int(rng)
    if objective == "ari":
        _preconditions.require_labels(adata, label_key)
    folder = None if out is None else _tune_folder.folder_at(out)
    journal = Journal(tell)
    preparation: dict[str, Any] = {"layer": layer, "n_top_genes": n_top_genes, "batch_key": batch_key}
    with journal.step("check and prepare"):
        cells = pp.prepare(adata, rng=seed, copy=True, **preparation)
        assert cells is not None
        k = n_clusters
        if k is None and objective in CLUSTERED:
            k = int(cells.obs[label_key].nunique()) if objective == "ari" else usual_clusters(cells, seed)
        _preconditions.require_cells(cells, k or "auto")
    judge = Judge(objective, n_trainings or OBJECTIVES[objective].n_trainings, k, label_key, device, precision)
    settings = {
        "objective": objective, "space": space, "preset": preset, "max_epochs": max_epochs, "n_clusters": k,
        "n_trainings": judge.n_trainings, "label_key": label_key, "seed": seed, "cells": mark_of(cells), **preparation,
        "preset_values": searched.preset_values,
    }  # fmt: skip
    search = Search(cells, searched, judge, seed)
    with search.opened(storage, study, settings, pruning=pruning, folder=folder):
        with journal.step("trials"):
            search.run(n_trials, start + (np.inf if timeout is None else timeout), progress)
        best, running = search.best(), search.n_running()
        again = pd.DataFrame(columns=COLUMNS)
        if n_repeats and not running:
            with journal.step("train default and best again"):
                again = search.confirm(adata, preparation, n_repeats)
        with journal.step("importance"):
            importance = search.importance()
        trials = search.table()
    chosen = best if running or not n_repeats or gained(again, objective) else 0
    configurations = {number: searched.settings(search.point(number), search.n_train) for number in {0, chosen}}
    summary = search.about | {
        "n_trials": len(trials),
        "best_trial": best,
        "chosen_trial": chosen,
        "verdict": [
            sentence(trials, again, objective, best, running),
            *caveats(trials, searched, judge),
        ],
        "warnings": journal.warnings,
        "seconds": journal.seconds,
    }
    found = Tuned(trials, configurations[chosen], configurations[0], again, importance, summary, folder)
    if folder is not None:
        tell("write")
        _tune_folder.write(found, folder)
    return found
