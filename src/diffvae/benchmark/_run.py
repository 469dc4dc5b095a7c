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
from diffvae.benchmark import _tasks
from diffvae.benchmark._clusterers import check_clusterers
from diffvae.benchmark._comparison import Comparison
from diffvae.benchmark._jobs import ARRAY, ROWS, Job, Store, claim, digest, do, refuse_foreign, slug, version
from diffvae.benchmark._methods import Method, as_methods
from diffvae.benchmark._tasks import Cells, as_cells
from diffvae.metrics import _names

SPACES = ("latent", "tsne")
IDENTITY = ["dataset", "method", "n_latent", "seed"]
METRICS = (*_tasks.OF_CLUSTERS, *_names.OF_SPACE, *_tasks.OF_TRAINING)
OF_RUN = ["clustering_seed", "space", "clusterer", "k_given"]
TYPE_COLUMNS = ["type", "n_cells", "recall", "precision"]


@one_writer
def run(
    datasets: Mapping[str, Any] | Sequence[str | PathLike[str]] | str | PathLike[str],
    methods: Sequence[str] | Mapping[str, Any] = ("DiffVAE", "VAE", "AE", "PCA"),
    *,
    label_key: str | Mapping[str, str],
    n_latent: Sequence[int] | int = (20, 50, 100),
    clusterers: Sequence[str] = ("kmeans", "dbscan", "gmm", "leiden"),
    spaces: Sequence[str] = SPACES,
    n_trainings: int = 5,
    n_clusterings: int = 10,
    k_given: Sequence[bool] = (True,),
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

    The paper trains each method once and repeats only the clustering. Here every training draws its own validation
    cells, scaling, weights, order and noise, the same for all methods. Each is clustered ``n_clusterings`` times: on
    the latent representation, and on as many t-SNE maps, which start at random and share one affinity matrix.

    Parameters
    ----------
    datasets
        Name to raw cells (AnnData or a file that :func:`diffvae.pipeline.run` reads), or files.
    methods
        Names from :func:`methods`, or name to a model (its class and parameters are used with each ``n_latent``), a
        class, or a function from ``n_latent`` to a model. A model needs ``train(adata, rng=..., progress=...)`` and
        ``get_latent_representation()``; with ``decode`` its reconstruction is scored too. It is trained on cells from
        :func:`diffvae.pp.prepare`.
    label_key
        Reference labels in ``obs``, one key for all data sets or one for each. Cells without a label take part in
        training and clustering but are not scored.
    n_latent
        Latent dimensions.
    clusterers
        ``"kmeans"``, ``"gmm"``, ``"leiden"``, ``"dbscan"`` as in :func:`diffvae.tl.cluster`, and ``"scanpy"``: Leiden
        at resolution 1 on scanpy's neighbour graph. The noise of DBSCAN counts as a cluster.
    spaces
        ``"latent"``, ``"tsne"`` or both.
    n_trainings, n_clusterings
        Repeats of the training, and of map and clustering within each.
    k_given
        True: k-means, mixtures and Leiden are given the number of types. False: they choose it as
        :func:`diffvae.tl.cluster` does, Leiden at resolution 1. DBSCAN and ``"scanpy"`` always choose.
    metrics
        Names of the columns below to compute.
    factors
        Further columns of ``obs`` for the scores of disentanglement, beside each type of at least 10 cells (a factor
        with the values yes and no) and the batch. Columns that a data set lacks are ignored.
    batch_key
        Batches in ``obs``.
    n_top_genes
        See :func:`diffvae.pp.prepare`.
    out
        Folder that keeps every finished piece, so that an interrupted comparison goes on where it stopped and a larger
        one computes only what is new. None keeps everything in memory.
    n_workers
        Processes of one thread each on this machine (Dask); None for this process alone. The table is the same. A
        script that starts workers needs ``if __name__ == "__main__":``.
    scheduler
        Address of a Dask scheduler whose workers do the work instead.
    rng
        Seed; a whole number, because it is part of the key of each piece.
    progress
        Show a bar on a terminal.

    Returns
    -------
    :class:`Comparison` with ``table``, one row per clustering: ``dataset``, ``method``, ``n_latent``, ``seed`` (number
    of the training), ``clustering_seed``, ``space``, ``clusterer``, ``k_given``, ``n_clusters``; ``ari``, ``nmi``,
    ``overlap`` of the clusters (see :mod:`diffvae.metrics`); ``silhouette`` and ``knn_purity`` (15 neighbours) of the
    labels in that space; of the training ``reconstruction_r2`` (held-out cells, on the unit scale),
    ``active_dimensions``, ``mig``, ``dci_*``, ``type_alignment``, ``batch_alignment``, NaN where undefined;
    ``training_seconds``, ``clustering_seconds``, ``versions``. ``types`` has recall and precision of
    each reference type in each clustering. A clusterer without randomness has one row per space.

    Warns
    -----
    UserWarning
        For each training that failed, with the reason; its rows are missing.

    References
    ----------
    Bica et al. 2020, Table 2.

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(200, 200)
    >>> found = dv.benchmark.run({"tree": cells}, ["PCA"], label_key="cell_type", n_latent=10, clusterers=["kmeans"],
    ...     spaces=["latent"], metrics=["ari"], n_trainings=2, n_clusterings=3, progress=False)
    >>> len(found.table)
    6
    """
    sizes = [n_latent] if isinstance(n_latent, int | np.integer) else list(n_latent)
    plan = make_plan(clusterers, spaces, k_given, n_clusterings, metrics, n_top_genes)
    require_positive(sizes, n_trainings, n_workers, rng)
    chosen = as_methods(methods)
    folder = None if out is None else Path(out).expanduser()
    if folder is not None:
        refuse_foreign(folder)
    everything = as_cells(datasets, label_key, factors, batch_key)
    if folder is not None:
        claim(folder)
    jobs, rows_of, given = plan_jobs(everything, chosen, sizes, n_trainings, plan, rng)
    store = Store(folder)
    do(
        jobs, given, store, n_workers=n_workers, scheduler=scheduler, description="comparing representations",
        name=lambda key: key.split("-")[0], progress=progress,
    )  # fmt: skip
    return _assemble(rows_of, store, folder, plan)


@dataclass(frozen=True)
class Plan:
    """What is done with each training."""

    clusterers: tuple[str, ...]
    spaces: tuple[str, ...]
    k_given: tuple[bool, ...]
    n_clusterings: int
    metrics: tuple[str, ...]
    n_top_genes: int | None


def make_plan(
    clusterers: Sequence[str],
    spaces: Sequence[str],
    k_given: Sequence[bool],
    n_clusterings: int,
    metrics: Sequence[str],
    n_top_genes: int | None,
) -> Plan:
    """Return the plan; refuse unknown names and a plan without work."""
    check_clusterers(clusterers, k_given)
    for name, values, known in (("space", spaces, SPACES), ("metric", metrics, METRICS)):
        if unknown := [v for v in values if v not in known]:
            raise ValueError(f"{unknown[0]!r} is no {name}; they are {', '.join(map(repr, known))}.")
    if not spaces or n_clusterings < 1:
        raise ValueError(f"spaces={tuple(spaces)} and n_clusterings={n_clusterings} leave nothing to cluster.")
    return Plan(tuple(clusterers), tuple(spaces), tuple(k_given), n_clusterings, tuple(metrics), n_top_genes)


def require_positive(sizes: Sequence[int], n_trainings: int, n_workers: int | None, rng: Any) -> None:
    """Refuse numbers below 1, and a seed that cannot be part of a key."""
    if not sizes or min(sizes) < 1 or n_trainings < 1 or (n_workers is not None and n_workers < 1):
        raise ValueError(f"n_latent={sizes}, n_trainings={n_trainings} and n_workers={n_workers} must be positive.")
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or rng < 0:
        raise ValueError(f"rng is {rng!r}; give a non-negative whole number; it is part of the key of each piece.")


Row = tuple[dict[str, Any], str, list[str]]
"""Identity of a training, the key of its result, and those of its clusterings."""


def plan_jobs(
    everything: Sequence[Cells], chosen: Sequence[Method], sizes: Sequence[int], n_trainings: int, plan: Plan, rng: int
) -> tuple[dict[str, Job], list[Row], dict[str, Any]]:
    """Return the jobs in the order in which one process does them, the keys of their results, and the data sets.

    The jobs of one data set and seed stand together, so that its cells are prepared once and then released.
    """
    jobs: dict[str, Job] = {}
    rows: list[Row] = []
    given: dict[str, Any] = {}
    how = digest(plan.clusterers, plan.k_given)
    for cells in everything:
        source = f"{slug(cells.name)}-{digest(cells.fingerprint)}"
        given[source] = cells
        for number in range(n_trainings):
            seed = _random.seed(rng, f"benchmark training {number}")
            prepared = f"{source}/s{number}-prepared"
            jobs[prepared] = Job(_tasks.prepare, (source,), (seed, plan.n_top_genes), keep=False)
            for method in chosen:
                for size in sizes:
                    about = method.describe(size)  # not the name: equal methods are trained once
                    mark = digest(cells.fingerprint, about, seed, plan.n_top_genes, version())
                    base = f"{source}/{slug(json.loads(about)['class'].split('.')[-1])}-{size}-s{number}-{mark}"
                    training = f"{base}/training-{digest(plan.metrics)}{ARRAY}"
                    jobs[training] = Job(_tasks.train, (prepared, source), (method, size, seed, plan.metrics))
                    pieces = []
                    if "latent" in plan.spaces:
                        pieces.append(f"{base}/latent-{how}-{plan.n_clusterings}{ROWS}")
                        asked = (plan.clusterers, plan.k_given, plan.n_clusterings)
                        jobs[pieces[-1]] = Job(_tasks.score_latent, (training, source), asked)
                    if "tsne" in plan.spaces:
                        p = f"{base}/affinities"
                        jobs[p] = Job(_tasks.affinities, (training,), (seed,), keep=False)
                        for i in range(plan.n_clusterings):
                            pieces.append(f"{base}/tsne-{how}-{i}{ROWS}")
                            asked_once = (plan.clusterers, plan.k_given, i, seed)
                            jobs[pieces[-1]] = Job(_tasks.score_map, (p, training, source), asked_once)
                    identity = dict(zip(IDENTITY, (cells.name, method.name, size, number), strict=True))
                    rows.append((identity, training, pieces))
    return jobs, rows, given


def _assemble(rows: Sequence[Row], store: Store, folder: Path | None, plan: Plan) -> Comparison:
    from diffvae._core.runtime import versions

    seen = ", ".join(f"{k} {v}" for k, v in versions().items())
    table, types = [], []
    for identity, key, pieces in rows:
        training = store.load(key)
        if training.note:
            where = f"{identity['method']} on {identity['dataset']}, n_latent={identity['n_latent']}"
            warnings.warn(f"{where}: {training.note}", UserWarning, stacklevel=3)
            continue
        scores = {name: training.scores.get(name, np.nan) for name in plan.metrics if name in _tasks.OF_TRAINING}
        for piece in pieces:
            for row in store.load(piece):
                of_run = {k: row[k] for k in OF_RUN}
                table.append(identity | row | scores | {"training_seconds": training.seconds, "versions": seen})
                types += [identity | of_run | dict(zip(TYPE_COLUMNS, entry, strict=True)) for entry in row["types"]]
    columns = [*IDENTITY, *OF_RUN, "n_clusters", *(m for m in METRICS if m in plan.metrics)]
    columns += ["training_seconds", "clustering_seconds", "versions"]
    return Comparison(
        pd.DataFrame(table, columns=columns), pd.DataFrame(types, columns=[*IDENTITY, *OF_RUN, *TYPE_COLUMNS]), folder
    )
