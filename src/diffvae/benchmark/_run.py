"""Comparison of representations by the clusters found in them (the paper's Table 2), over repeated trainings."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffvae import _random
from diffvae._core.io.folders import one_writer
from diffvae._core.runtime import versions
from diffvae._core.validate import Choice, Optional, Rule, Whole, check
from diffvae.benchmark import _tasks
from diffvae.benchmark._clusterers import POSTERIOR, KGiven, check_clusterers
from diffvae.benchmark._comparison import Comparison
from diffvae.benchmark._jobs import ARRAY, ROWS, Job, Store, claim, digest, output_folder, run_jobs, slug
from diffvae.benchmark._methods import Method, as_methods
from diffvae.benchmark._tasks import Cells, as_cells
from diffvae.metrics import _names

SPACES = ("latent", "tsne")
CLUSTERERS = ("kmeans", "dbscan", "gmm", "leiden", "leiden_posterior")
IDENTITY = ["dataset", "method", "n_latent", "seed"]
METRICS = (*_tasks.OF_CLUSTERS, *_names.OF_SPACE, *_tasks.OF_TRAINING, *_tasks.RECURRENCE)
OF_RUN = ["clustering_seed", "space", "clusterer", "k_given"]
TYPE_COLUMNS = ["type", "n_cells", "recall", "precision"]
NO_POSTERIOR = f"there is no posterior, which {POSTERIOR!r} needs; name another clusterer too."
RULES: dict[str, Rule] = {
    "n_latent": Whole(1),
    "spaces": Choice(*SPACES),
    "metrics": Choice(*METRICS),
    "n_trainings": Whole(1),
    "n_clusterings": Whole(1),
    "n_workers": Optional(Whole(1)),
    "rng": Whole(0),  # not a generator, because the seed is part of the key of each stored result
}


@one_writer
def run(
    datasets: Mapping[str, Any] | Sequence[str | PathLike[str]] | str | PathLike[str],
    methods: Sequence[str] | Mapping[str, Any] = ("DiffVAE", "VAE", "AE", "PCA"),
    *,
    label_key: str | Mapping[str, str],
    n_latent: Sequence[int] | int = (20, 50, 100),
    clusterers: Sequence[str] = CLUSTERERS,
    spaces: Sequence[str] = SPACES,
    n_trainings: int = 5,
    n_clusterings: int = 10,
    k_given: KGiven = (True,),
    metrics: Sequence[str] = METRICS,
    factors: Sequence[str] = (),
    batch_key: str | None = None,
    n_top_genes: int | None = 2000,
    out: str | PathLike[str] | None = None,
    n_workers: int | None = None,
    scheduler: str | None = None,
    rng: int = 0,
    progress: bool = True,
) -> Comparison:
    """Compare representations by the clusters found in them (the paper's Table 2), over repeated trainings.

    The paper trains each method once and repeats only the clustering. Here every training has new validation cells,
    scaling, weights, batch order and noise; the split and scaling are the same for all methods. Each training is
    clustered ``n_clusterings`` times on the latent representation, and once on each of ``n_clusterings`` t-SNE maps,
    which share one affinity matrix and start at random.

    Parameters
    ----------
    datasets
        Name to raw cells (AnnData or a file that :func:`diffvae.pipeline.run` reads), or files.
    methods
        Names from :func:`methods`, or name to a model (its class and parameters are used with each ``n_latent``), a
        class, or a function from ``n_latent`` to a model. A model needs ``train(adata, rng=..., progress=...)`` and
        ``get_latent_representation()``; if it has ``decode``, its reconstruction is scored too. It is trained on cells
        from :func:`diffvae.pp.prepare`.
    label_key
        Reference labels in ``obs``, one key for all data sets or one for each. Cells without a label are used in
        training and clustering but are not scored.
    n_latent
        Latent dimensions.
    clusterers
        ``"kmeans"``, ``"gmm"``, ``"leiden"`` (on the graph of the posterior means) and ``"dbscan"`` as in
        :func:`diffvae.tl.cluster`; ``"leiden_posterior"``: Leiden on the graph averaged over the posterior
        (:func:`diffvae.tl.neighbors`), for the latent representation of models that have one, PCA included; and
        ``"scanpy"``: Leiden at resolution 1 on scanpy's neighbour graph. The noise of DBSCAN counts as a cluster.
    spaces
        ``"latent"``, ``"tsne"`` or both.
    n_trainings, n_clusterings
        Repeats of the training, and of map and clustering within each.
    k_given
        True: k-means, mixtures and Leiden are given the number of types. False: they choose it as
        :func:`diffvae.tl.cluster` does (k-means in some 20 seconds for 3,700 cells), Leiden at resolution 1. DBSCAN and
        ``"scanpy"`` always choose. A mapping asks by clusterer, ``{"leiden": (True, False)}``; others are given it.
    metrics
        Names of the columns below to compute.
    factors
        Further columns of ``obs`` for the scores of disentanglement. The batch and each type of at least 10 cells (a
        factor with the values yes and no) are always factors. Columns that a data set lacks are ignored.
    batch_key
        Batches in ``obs``. Methods whose ``train`` takes ``batch_key`` are trained with it (a :class:`Method` with the
        options ``{"batch_key": None}`` is not), and the scores of integration are computed. ``"Harmony"`` needs it.
    n_top_genes
        See :func:`diffvae.pp.prepare`.
    out
        Folder for every finished result: an interrupted comparison resumes where it stopped, and a larger one computes
        only what is new. None keeps everything in memory.
    n_workers
        Processes of one thread each on this machine (Dask); None for this process alone. The table is the same. A
        script that starts workers needs ``if __name__ == "__main__":``.
    scheduler
        Address of a Dask scheduler whose workers are used instead.
    rng
        Seed; a whole number, because it is part of the key of each stored result.
    progress
        Show a progress bar on a terminal.

    Returns
    -------
    :class:`Comparison` with ``table``, one row per clustering: ``dataset``, ``method``, ``n_latent``, ``seed`` (number
    of the training), ``clustering_seed``, ``space``, ``clusterer``, ``k_given``, ``n_clusters``; ``ari``, ``nmi``,
    ``overlap`` of the clusters (see :mod:`diffvae.metrics`); ``silhouette`` and ``knn_purity`` (15 neighbours) of the
    labels in that space; of the training ``reconstruction_r2`` (held-out cells, on the unit scale),
    ``active_dimensions`` (as in :meth:`diffvae.model.NeuralModel.diagnose`; by variance alone for models of other
    packages); with ``batch_key`` the scores of :func:`diffvae.metrics.integration` (``ilisi``, ``kbet_acceptance``,
    ``batch_silhouette``, ``batch_r2``, ``isolated_types``; cells of known type and batch);
    ``mig``, ``dci_*``, ``type_alignment``, ``batch_alignment``, ``mean_correlation`` (absolute,
    of two dimensions), ``recurrence`` (share of the dimensions that recur in the method's other trainings, each with
    another split, more than random axes: 0.05 by chance) and ``recurrence_active`` (of those that carry more than 0.1
    nat, for models with a prior), NaN where undefined; ``training_seconds``,
    ``clustering_seconds``, ``versions``. ``types`` has recall and precision of
    each reference type in each clustering. A deterministic clusterer has one row per space.

    Warns
    -----
    UserWarning
        For each training that failed, or has no posterior for ``"leiden_posterior"`` alone; its rows are missing.

    References
    ----------
    Bica et al. 2020, Table 2.

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(200, 200)
    >>> comparison = dv.benchmark.run({"tree": cells}, ["PCA"], label_key="cell_type", n_latent=10,
    ...     clusterers=["kmeans"], spaces=["latent"], metrics=["ari"], n_trainings=2, n_clusterings=3, progress=False)
    >>> len(comparison.table)
    6
    """
    sizes = [n_latent] if isinstance(n_latent, int | np.integer) else list(n_latent)
    check_clusterers(clusterers, k_given)
    for name, values in (("n_latent", sizes), ("spaces", spaces), ("metrics", metrics)):
        if not len(values) and name != "metrics":
            raise ValueError(f"{name} is empty; name at least one.")
        for value in values:
            check(RULES, **{name: value})
    if set(clusterers) == {POSTERIOR} and "latent" not in spaces:
        raise ValueError(f"{POSTERIOR!r} clusters the latent space only; add 'latent' to spaces, or another clusterer.")
    check(RULES, n_trainings=n_trainings, n_clusterings=n_clusterings, n_workers=n_workers, rng=rng)
    by_name = dict(k_given) if isinstance(k_given, Mapping) else tuple(k_given)
    wanted = tuple(m for m in metrics if batch_key is not None or m not in _tasks.INTEGRATION)
    plan = Plan(tuple(clusterers), tuple(spaces), by_name, n_clusterings, wanted, n_top_genes)
    chosen = as_methods(methods)
    for method in chosen if batch_key is None else []:
        if getattr(method.make(sizes[0]), "needs_batches", False):
            raise ValueError(f"{method.name} corrects batches; name their column of obs with batch_key=....")
    folder = output_folder(out)
    data = as_cells(datasets, label_key, factors, batch_key)
    claim(folder)
    jobs, trainings, given = plan_jobs(data, chosen, sizes, n_trainings, plan, rng)
    store = Store(folder)
    run_jobs(
        jobs, given, store, n_workers=n_workers, scheduler=scheduler, description="comparing representations",
        label=lambda key: key.split("-")[0], progress=progress,
    )  # fmt: skip
    return _assemble(trainings, store, folder, plan)


@dataclass(frozen=True)
class Plan:
    """What is computed from each training."""

    clusterers: tuple[str, ...]
    spaces: tuple[str, ...]
    k_given: KGiven
    n_clusterings: int
    metrics: tuple[str, ...]
    n_top_genes: int | None


@dataclass
class Planned:
    """Identity of a training, and the keys of its results: itself, its clusterings, the recurrence of its method."""

    identity: dict[str, Any]
    training: str
    clusterings: list[str]
    recurrence: str | None = None


def training_seed(rng: int, number: int) -> int:
    """Return the seed of a training: of its split and scaling, and of every method."""
    return _random.seed(rng, f"benchmark training {number}")


def plan_jobs(
    data: Sequence[Cells], chosen: Sequence[Method], sizes: Sequence[int], n_trainings: int, plan: Plan, rng: int
) -> tuple[dict[str, Job], list[Planned], dict[str, Any]]:
    """Return the jobs in the order in which one process runs them, the keys of their results, and the data sets.

    The jobs of one data set and seed are adjacent, so that its cells are prepared once and then released.
    """
    jobs: dict[str, Job] = {}
    trainings: list[Planned] = []
    given: dict[str, Any] = {}
    asked = (plan.clusterers, plan.k_given)
    of_training = tuple(m for m in plan.metrics if m in _tasks.OF_TRAINING)
    for cells in data:
        source = f"{slug(cells.name)}-{digest(cells.fingerprint)}"
        given[source] = cells
        for number in range(n_trainings):
            seed = training_seed(rng, number)
            prepared = f"{source}/s{number}-prepared"
            jobs[prepared] = Job(_tasks.prepare, (source,), (seed, plan.n_top_genes), keep=False)
            for method in chosen:
                for size in sizes:
                    about = method.describe(size, cells.batch_key)  # without the name: equal methods are trained once
                    mark = digest(cells.fingerprint, about, seed, plan.n_top_genes)
                    base = f"{source}/{slug(json.loads(about)['class'].split('.')[-1])}-{size}-s{number}-{mark}"
                    training = f"{base}/training-{digest(of_training)}{ARRAY}"
                    jobs[training] = Job(_tasks.train, (prepared, source), (method, size, seed, of_training))
                    results = []
                    if "latent" in plan.spaces:
                        results.append(f"{base}/latent-{digest(*asked)}-{plan.n_clusterings}{ROWS}")
                        jobs[results[-1]] = Job(_tasks.score_latent, (training, source), (*asked, plan.n_clusterings))
                    if "tsne" in plan.spaces:
                        p = f"{base}/affinities"
                        jobs[p] = Job(_tasks.affinities, (training,), (seed,), keep=False)
                        for i in range(plan.n_clusterings):
                            results.append(f"{base}/tsne-{digest(*asked)}-{i}{ROWS}")
                            jobs[results[-1]] = Job(_tasks.score_map, (p, training, source), (*asked, i, seed))
                    identity = dict(zip(IDENTITY, (cells.name, method.name, size, number), strict=True))
                    trainings.append(Planned(identity, training, results))
        if set(_tasks.RECURRENCE) & set(plan.metrics) and n_trainings > 1:
            _plan_recurrence(source, [t for t in trainings if t.identity["dataset"] == cells.name], jobs)
    return jobs, trainings, given


def _plan_recurrence(source: str, trainings: Sequence[Planned], jobs: dict[str, Job]) -> None:
    """Add one job per method and size, which compares its trainings of one data set with each other."""
    groups: dict[tuple[Any, ...], list[Planned]] = {}
    for planned in trainings:
        groups.setdefault((planned.identity["method"], planned.identity["n_latent"]), []).append(planned)
    for group in groups.values():
        needs = tuple(planned.training for planned in group)
        key = f"{source}/recurrence-{digest(needs, _tasks.RECURRENCE)}{ROWS}"
        jobs[key] = Job(_tasks.recurrence, needs, (source,))
        for planned in group:
            planned.recurrence = key


def _assemble(trainings: Sequence[Planned], store: Store, folder: Path | None, plan: Plan) -> Comparison:
    used = ", ".join(f"{k} {v}" for k, v in versions().items())
    table, types, refused = [], [], False
    for planned in trainings:
        identity, training = planned.identity, store.load(planned.training)
        rows = [row for result in planned.clusterings for row in store.load(result)]
        if not rows:
            where = f"{identity['method']} on {identity['dataset']}, n_latent={identity['n_latent']}"
            warnings.warn(f"{where}: {training.note or NO_POSTERIOR}", UserWarning, stacklevel=3)
            refused |= not training.note
            continue
        scores = {name: training.scores.get(name, np.nan) for name in plan.metrics if name in _tasks.OF_TRAINING}
        if _tasks.ACTIVE in plan.metrics:  # of what is stored, so that old and new results agree
            scores[_tasks.ACTIVE] = _tasks.active_dimensions(training)
        if planned.recurrence is not None:
            found = store.load(planned.recurrence)[identity["seed"]]
            scores |= {m: np.nan if found[m] is None else found[m] for m in _tasks.RECURRENCE if m in plan.metrics}
        scores |= {"training_seconds": training.seconds, "versions": used}
        for row in rows:
            table.append(identity | row | scores)
            of_run = identity | {k: row[k] for k in OF_RUN}
            types += [of_run | dict(zip(TYPE_COLUMNS, entry, strict=True)) for entry in row["types"]]
    if refused and not table:
        raise ValueError(f"No method could be clustered: {NO_POSTERIOR}")
    columns = [*IDENTITY, *OF_RUN, "n_clusters", *(m for m in METRICS if m in plan.metrics)]
    columns += ["training_seconds", "clustering_seconds", "versions"]
    return Comparison(
        pd.DataFrame(table, columns=columns), pd.DataFrame(types, columns=[*IDENTITY, *OF_RUN, *TYPE_COLUMNS]), folder
    )
