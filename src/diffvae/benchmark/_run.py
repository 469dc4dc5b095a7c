"""The paper's comparison of representations, and its honest extension."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffvae._files import one_writer
from diffvae.benchmark import _work
from diffvae.benchmark._cells import as_cells
from diffvae.benchmark._comparison import Comparison
from diffvae.benchmark._jobs import do
from diffvae.benchmark._methods import as_methods
from diffvae.benchmark._plan import IDENTITY, METRICS, SPACES, Plan, Row, make_plan, plan_jobs, require_positive
from diffvae.benchmark._store import Store, claim, refuse_foreign

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
    """Compare representations by the clusters that are found in them (the paper's Table 2), over repeated trainings.

    The paper trains each method once and repeats the clustering alone. Here every training draws its own validation
    cells, scaling, weights, order and noise, the same ones for all methods, and each is clustered ``n_clusterings``
    times: on the latent representation, and on as many t-SNE maps from random starts, made of one affinity matrix.

    Parameters
    ----------
    datasets
        Name to raw cells (AnnData or a file that :func:`diffvae.pipeline.run` reads), or files.
    methods
        Names out of :func:`methods`, or name to a model (its class and parameters are taken, with each ``n_latent``), a
        class, or a function from ``n_latent`` to a model. A model needs ``train(adata, rng=..., progress=...)`` and
        ``get_latent_representation()``; with ``decode`` its reconstruction is scored as well. It gets cells that went
        through :func:`diffvae.pp.prepare`.
    label_key
        Reference labels in ``obs``, one key for all data sets or one for each. Cells without a label are trained on and
        clustered, but not scored.
    n_latent
        Latent dimensions.
    clusterers
        ``"kmeans"``, ``"gmm"``, ``"leiden"``, ``"dbscan"`` as in :func:`diffvae.tl.cluster`, and ``"scanpy"``: Leiden
        at resolution 1 on scanpy's neighbour graph. What DBSCAN calls noise counts as a cluster.
    spaces
        ``"latent"``, ``"tsne"`` or both.
    n_trainings, n_clusterings
        Repeats of the training, and of map and clustering within each.
    k_given
        True: k-means, mixtures and Leiden are told the number of types. False: they choose it as
        :func:`diffvae.tl.cluster` does, Leiden at resolution 1. DBSCAN and ``"scanpy"`` are never told.
    metrics
        Names of the columns below that are to be computed.
    factors
        Further columns of ``obs`` for the scores of disentanglement, beside each type of at least 10 cells (a factor
        with the values yes and no) and the batch. Columns that a data set lacks are passed over.
    batch_key
        Batches in ``obs``.
    n_top_genes
        See :func:`diffvae.pp.prepare`.
    out
        Folder in which every finished piece is kept, so that an interrupted comparison goes on where it stopped and a
        larger one computes only what is new. None keeps all in memory.
    n_workers
        Processes on this machine (Dask), of one thread each; None for this process alone. The table is the same. A
        script that starts workers needs ``if __name__ == "__main__":`` around it.
    scheduler
        Address of a Dask scheduler whose workers do the work instead.
    rng
        Seed; a whole number, because the pieces are known by it.
    progress
        Show a bar on a terminal.

    Returns
    -------
    :class:`Comparison` with ``table``, one row per clustering: ``dataset``, ``method``, ``n_latent``, ``seed`` (number
    of the training), ``clustering_seed``, ``space``, ``clusterer``, ``k_given``, ``n_clusters``; ``ari``, ``nmi``,
    ``overlap`` of the clusters (see :mod:`diffvae.metrics`); ``silhouette`` and ``knn_purity`` (15 neighbours) of the
    labels in that space; and of the training ``reconstruction_r2`` (held-out cells, on the unit scale),
    ``active_dimensions``, ``mig``, ``dci_*``, ``type_alignment``, ``batch_alignment``, NaN where there is
    none; ``training_seconds``, ``clustering_seconds``, ``versions``. And ``types``, recall and precision of each
    reference type in each clustering. A clusterer without randomness has one row per space.

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


def _assemble(rows: Sequence[Row], store: Store, folder: Path | None, plan: Plan) -> Comparison:
    from diffvae.model._storage import versions

    seen = ", ".join(f"{k} {v}" for k, v in versions().items())
    table, types = [], []
    for identity, key, pieces in rows:
        training = store.load(key)
        if training.note:
            where = f"{identity['method']} on {identity['dataset']}, n_latent={identity['n_latent']}"
            warnings.warn(f"{where}: {training.note}", UserWarning, stacklevel=3)
            continue
        scores = {name: training.scores.get(name, np.nan) for name in plan.metrics if name in _work.OF_TRAINING}
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
