"""Every table and figure of the paper for one data set, compared with the published numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae._core.io import folders
from diffvae._core.io.folders import one_writer
from diffvae._core.runtime import StepLog, versions
from diffvae._core.validate import Optional, Rule, Whole, check
from diffvae.benchmark._jobs import ROWS, Job, Store, claim, digest, output_folder, run_jobs, slug, write_summary
from diffvae.benchmark._methods import Method, methods
from diffvae.benchmark._run import RULES as RULES_OF_RUN
from diffvae.benchmark._run import run, training_seed
from diffvae.benchmark._statistics import compare
from diffvae.benchmark.reproduction import _training as train
from diffvae.benchmark.reproduction._claims import evaluate
from diffvae.benchmark.reproduction._figures import figures
from diffvae.benchmark.reproduction._page import (
    ALL_PRESETS,
    CHANGES,
    CLUSTERS,
    LINKS,
    MATURE,
    Context,
    Results,
    notes,
    page,
    tables,
)
from diffvae.benchmark.reproduction._subject import METHOD_OF, OTHERS, PRESETS, Subject, read_subject

if TYPE_CHECKING:
    from anndata import AnnData

CLUSTERERS = ("kmeans", "dbscan", "gmm")
"""The rows of Table 2, and the mixtures that its caption names."""
PAPERS = ("kmeans", "dbscan")
"""The rows of Table 2, over which DiffVAE is compared with the other methods."""
PAGE = "report.html"
METRICS = ("ari", "nmi", "overlap", "knn_purity", "active_dimensions")
RULES: dict[str, Rule] = RULES_OF_RUN | {"max_epochs": Optional(Whole(1))}
Keys = dict[tuple[str, str, int], str]


@dataclass
class Reproduction:
    """Result of :func:`reproduce`.

    Attributes
    ----------
    claims
        One row per claim of the paper: ``claim``, ``where``, ``published``, what each preset measured (``paper``,
        ``code``, ``default``), ``holds_here`` ("yes", "no", "only ...", "not testable", "–" where there is no rule) and
        the ``rule`` that decides it.
    tables
        Name to table: ``overlap``, ``types``, ``high_weight_genes``, ``gene_recovery``, ``classifier``,
        ``conversions``, ``minimal_genes``, ``table2_runs``, ``table2_paired``, ``links``, ``link_figures``; one row per
        preset and training, or finer. A table is empty where the data do not allow it.
    page
        The page, as HTML; it has figures only if a folder was written.
    summary
        Parameters, claims, seconds, versions: the content of ``summary.json``.
    path
        The folder, if one was written.

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(50, 40, tree={"stem": ["red", "white"]}, effect=2)
    >>> cells.uns.clear()  # without progenitors nothing is perturbed
    >>> reproduction = dv.benchmark.reproduce(
    ...     cells, label_key="cell_type", n_latent=[5], n_trainings=1, n_clusterings=1, max_epochs=1, progress=False
    ... )
    >>> "overlap" in reproduction.tables
    True
    """

    claims: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    page: str
    summary: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


@one_writer
def reproduce(
    dataset: AnnData | str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    path: str | PathLike[str] | None = None,
    label_key: str | None = None,
    source: str | None = None,
    n_latent: Sequence[int] = (20, 50, 100),
    n_trainings: int = 5,
    n_clusterings: int = 10,
    n_top_genes: int | None = 2000,
    max_epochs: int | None = None,
    n_workers: int | None = None,
    rng: int = 0,
    command: str | None = None,
    progress: bool = True,
    on_step: Callable[[str], None] = lambda step: None,
) -> Reproduction:
    """Repeat the paper's analyses on one data set with three presets, and compare the results with the published ones.

    The analyses are: clusters and reference types (Figure 1), high-weight genes (Table 1), accuracy of the classifier
    (with the mature types alone, as in the paper, and with the progenitors), conversions of progenitors with their
    chance level and the fewest genes (Figure 3), comparison of methods (Table 2), links between cells (Figure 4). Each
    is over several trainings; the paper shows one. A stated rule decides whether a claim of the paper holds.

    Parameters
    ----------
    dataset
        ``"zebrafish"``, ``"pancreas"`` or ``"human-hsc"``, the paper's sets; or any labelled raw cells, in memory or as
        a file, which have the same analyses without published numbers.
    out
        Folder for ``report.html``, ``tables``, ``figures`` and ``summary.json``, and for every finished result: an
        interrupted reproduction resumes where it stopped. None writes nothing.
    path
        Folder or file of one of the paper's sets; None downloads it.
    label_key
        Reference types in ``obs``. Not needed for the paper's sets.
    source
        Progenitor type. Not needed for the zebrafish set; without a source nothing is perturbed.
    n_latent
        Dimensions in Table 2. The other analyses have the paper's number for its sets, and 50 for others.
    n_trainings, n_clusterings
        Trainings of each preset and method; clusterings, and maps, of each training in Table 2 (the paper: 1 and 50).
    n_top_genes
        Variable genes of a set that is not the paper's.
    max_epochs
        Epochs of all networks, for a trial run; None for the defaults of the presets, the classifier and the graph
        model.
    n_workers
        Processes on this machine (Dask); None for the current one. A script that starts workers needs
        ``if __name__ == "__main__":`` around it.
    rng
        Seed; a whole number.
    command
        Command that made the page, to be shown on it.
    progress
        Show progress bars on a terminal.
    on_step
        Called with the name of each step when it starts.

    Returns
    -------
    :class:`Reproduction`

    Raises
    ------
    DataError
        If the cells cannot be read or used; the message says where to get them.

    References
    ----------
    Bica et al., Scientific Reports 10:9790 (2020).

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(50, 40, tree={"stem": ["red", "white"]}, effect=2)
    >>> cells.uns.clear()  # without progenitors nothing is perturbed
    >>> reproduction = dv.benchmark.reproduce(
    ...     cells, label_key="cell_type", n_latent=[5], n_trainings=1, n_clusterings=1, max_epochs=1, progress=False
    ... )
    >>> reproduction.claims.columns[:3].tolist()
    ['claim', 'where', 'published']
    """
    sizes = [int(n) for n in n_latent]
    for size in sizes:
        check(RULES, n_latent=size)
    check(
        RULES, n_trainings=n_trainings, n_clusterings=n_clusterings, n_workers=n_workers, rng=rng, max_epochs=max_epochs
    )
    folder = output_folder(out)
    log = StepLog(on_step)
    with log.step("read"):
        subject = read_subject(dataset, path, label_key, source, n_top_genes)
    claim(folder)
    with log.step(f"train the presets and analyse their representations (trainings: {n_trainings})"):
        jobs, keys = plan(subject, n_trainings, max_epochs, rng)
        store = Store(folder)
        run_jobs(
            jobs, {"subject": subject}, store, n_workers=n_workers, description="analysing representations",
            label=lambda key: key.rpartition("/")[2].rpartition("-")[0], progress=progress,
        )  # fmt: skip
        results = {part: store.load(key) for part, key in keys.items()}
    made, remarks = tables(results, subject), notes(results)
    if subject.label_key is not None:
        with log.step("compare with VAE, AE and PCA (Table 2)"):
            made["table2_runs"] = run(
                {subject.name: subject.adata}, _methods(max_epochs), label_key=subject.label_key, n_latent=sizes,
                clusterers=CLUSTERERS, n_trainings=n_trainings, n_clusterings=n_clusterings, metrics=METRICS,
                n_top_genes=subject.n_top_genes, out=None if folder is None else folder / "table2",
                n_workers=n_workers, rng=rng, progress=progress,
            ).table  # fmt: skip
            made["table2_paired"] = _paired(made["table2_runs"], rng)
    remarks += log.warnings
    asked = {"source": subject.source, "n_latent of Table 2": sizes, "n_trainings": n_trainings}
    asked |= {"n_clusterings": n_clusterings, "n_top_genes": subject.n_top_genes, "max_epochs": max_epochs, "rng": rng}
    claims = evaluate(made, subject)
    context = Context(subject, made, claims, remarks, asked, versions(), command, log.seconds)
    if folder is None:
        return Reproduction(claims, made, page(context), _summary(context))
    with log.step("draw and write"):
        context, text = _write(context, results, folder, rng)
    summary = _summary(context)
    write_summary(summary, folder)
    return Reproduction(claims, made, text, summary, folder)


def plan(subject: Subject, n_trainings: int, max_epochs: int | None, rng: int) -> tuple[dict[str, Job], Keys]:
    """Return the jobs in an order in which each training is run once, and the keys of their results."""
    from diffvae.model import DiffVAE, GraphDiffVAE

    jobs: dict[str, Job] = {}
    keys: Keys = {}
    settings = subject.settings
    about = (subject.label_key, subject.n_top_genes, settings.n_latent, settings.batch_size)
    base = f"{slug(subject.name)}-{digest(subject.fingerprint, *about)}"
    reading = (subject.clusterer, subject.reading, train.WIDER, train.MAX_Q, train.N_PERMUTATIONS)
    shift = (train.SCORES, subject.source, train.STEPS, train.N_DIMS, train.n_random(subject), train.SHIFT, train.GENES)

    def add(part: str, preset: str, number: int, job: Job, *what: Any) -> None:
        key = f"{base}/{part}-{preset}-s{number}-{digest(*what)}{ROWS}"
        jobs[key], keys[part, preset, number] = job, key

    for number in range(n_trainings):
        seed, first = training_seed(rng, number), number == 0
        prepared = f"{base}/s{number}-prepared"
        jobs[prepared] = Job(train.prepare, ("subject",), (seed,), keep=False)
        if subject.source is not None and len(subject.mature) > 1:
            asked = (max_epochs, seed)
            job = Job(train.classify_mature, (prepared, "subject"), asked)
            add(MATURE, ALL_PRESETS, number, job, subject.mature, train.SCORES, *asked)
        for preset in PRESETS:
            mark = (DiffVAE(preset, n_latent=settings.n_latent).get_params(), max_epochs, seed)
            trained = f"{base}/{preset}-s{number}-trained-{digest(*mark)}"
            jobs[trained] = Job(train.train, (prepared, "subject"), (preset, max_epochs, seed), keep=False)
            add(CLUSTERS, preset, number, Job(train.identify, (trained, "subject"), (preset, seed)), *mark, *reading)
            if subject.source is not None and subject.targets:
                job = Job(train.run_perturbation, (trained, "subject"), (preset, max_epochs, seed, first))
                add(CHANGES, preset, number, job, *mark, *shift, first)
        for preset in train.K if subject.label_key is not None else ():
            drawn = (preset, max_epochs, seed, first)
            params = GraphDiffVAE(preset).get_params()
            job = Job(train.run_links, (prepared, "subject"), drawn)
            add(LINKS, preset, number, job, params, train.K, train.TOP_K, *drawn)
    return jobs, keys


def _methods(max_epochs: int | None) -> dict[str, Method]:
    """Return the methods of Table 2, with epochs limited to ``max_epochs``."""
    chosen = [methods()[name] for name in (*METHOD_OF.values(), *OTHERS.values())]
    limit = {} if max_epochs is None else {"max_epochs": max_epochs}
    return {
        one.name: one if one.name.startswith("PCA") else Method(one.name, one.make, {**one.options, **limit})
        for one in chosen
    }


def _paired(runs: pd.DataFrame, rng: int) -> pd.DataFrame:
    """Return the paired differences of each preset from the paper's other methods."""
    papers = runs[runs["clusterer"].isin(PAPERS)]
    parts = [compare(papers, name, by=[], rng=rng) for name in METHOD_OF.values() if name in set(papers["method"])]
    paired = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["method"])
    return paired[paired["method"].isin(OTHERS.values())].reset_index(drop=True)


def _write(context: Context, results: Results, folder: Path, rng: int) -> tuple[Context, str]:
    """Write tables, figures and page; return the context with figures, and the page."""
    from diffvae import pl

    for name, table in {**context.tables, "claims": context.claims}.items():
        target = folder / "tables" / f"{name}.csv"
        if len(table.columns):
            folders.write_csv(table, target)
        else:
            target.unlink(missing_ok=True)
    captions, images = {}, {}
    for name, (caption, draw) in figures(results, context.tables, context.subject, training_seed(rng, 0)).items():
        pl.save(np.ravel(draw())[0], folder / "figures" / name)
        captions[name], images[name] = caption, (folder / "figures" / f"{name}.png").read_bytes()
    for stale in (folder / "figures").glob("*.*"):  # of an earlier run with other options
        if stale.stem not in captions:
            stale.unlink()
    context = replace(context, figures=captions)
    text = page(context, images)
    folders.write_text(text, folder / PAGE)
    return context, text


def _summary(context: Context) -> dict[str, Any]:
    subject = context.subject
    return {
        "state": "complete",
        "dataset": subject.name,
        "source_of_cells": subject.origin,
        "n_cells": subject.adata.n_obs,
        "n_genes": subject.adata.n_vars,
        "differences": list(subject.differences),
        "asked": dict(context.asked),
        "claims": context.claims.to_dict("records"),
        "not_done": list(context.notes),
        "figures": [f"figures/{name}.png" for name in context.figures],
        "command": context.command,
        "seconds": dict(context.seconds),
        "versions": dict(context.versions),
    }
