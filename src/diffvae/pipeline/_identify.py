"""Identification: from the latent representation to named clusters, in a run or on an existing result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvae import _keys, pp, tl
from diffvae._core.anndata import results
from diffvae._core.io import folders
from diffvae._core.io.folders import one_writer
from diffvae._core.runtime import StepLog, in_one_thread
from diffvae._errors import DataError
from diffvae.pipeline import _checks, _folder, _integration, _result, _scores
from diffvae.pipeline._result import Result
from diffvae.pp._doublets import MIN_CELLS
from diffvae.tl import _names
from diffvae.tl._annotate import disagreement
from diffvae.tl._batches import APART, candidates, crossing_types, sentence
from diffvae.tl._cluster import CLUSTERERS

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model


@in_one_thread
def identify(
    adata: AnnData,
    model: Model,
    *,
    markers: Any = "auto",
    n_clusters: int | str = "auto",
    cluster_method: str = "leiden",
    cluster_on: str = "latent",
    n_dims: int = 10,
    n_genes: int = 3,
    seed: int = 0,
    log: StepLog | None = None,
) -> None:
    """Go from the latent representation to named clusters: the second half of :func:`run`, without scores.

    Parameters
    ----------
    adata
        With ``obsm["X_diffvae"]`` and ``obsm["X_diffvae_tsne"]``.
    model
        The model that they come from.
    markers, n_clusters, cluster_method, cluster_on, n_dims, n_genes, seed
        As in :func:`diffvae.pipeline.run`.
    log
        Receives timings and warnings.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> dv.tl.embed(adata, model)
    >>> dv.tl.tsne(adata, n_iter=50)
    >>> dv.pipeline.identify(adata, model, markers="blood-human", n_clusters=6, cluster_method="kmeans")
    >>> adata.obs["diffvae_cluster"].nunique()
    6
    """
    _checks.check_identification(
        markers=markers, n_clusters=n_clusters, cluster_method=cluster_method, cluster_on=cluster_on, n_dims=n_dims,
        n_genes=n_genes, seed=seed,
    )  # fmt: skip
    log = log or StepLog(lambda step: None)
    with log.step("cluster"):
        use_rep = _keys.LATENT if cluster_on == "latent" else _keys.TSNE
        tl.cluster(adata, cluster_method, n_clusters=n_clusters, use_rep=use_rep, rng=seed)
        clustering = adata.uns[_keys.UNS]["cluster"]
        if "warning" in clustering:
            log.warnings.append(clustering["warning"])
        if clustering["n_clusters"] < 2:
            number = {0: "no cluster", 1: "only one cluster"}[clustering["n_clusters"]]
            way_out = ", or a larger n_clusters" if CLUSTERERS[cluster_method].takes_k else ""
            raise DataError(
                f"{cluster_method} finds {number} in the {cluster_on} representation; try another cluster_method or "
                f"cluster_on{way_out}."
            )
    with log.step("latent dimensions and genes"):
        tl.latent_dimensions(adata, n_top=n_dims)
        tl.gene_weights(adata, model, rng=seed)
        tl.high_weight_genes(adata, n_dims=n_dims, n_genes=n_genes)
    with log.step("name the clusters"):
        if _keys.COUNTS in adata.layers and adata.n_obs >= MIN_CELLS:
            with suppress(DataError):  # samples of a few cells have no doublets to find
                pp.doublet_score(adata, batch_key=model.columns.get("batch_key"), rng=seed)
        tl.annotate(adata, markers, rng=seed)
        if said := _names.sentence(adata.uns[_keys.UNS]["annotation_mixtures"]):
            log.warnings.append(said)
        if sentence := disagreement(adata.uns[_keys.UNS]["annotation"]):
            log.warnings.append(sentence)


def notice_batches(
    adata: AnnData, label_key: str | None, batch_key: str | None, *, seed: int = 0, log: StepLog
) -> None:
    """Warn if the cells lie apart by a batch that nobody named, or still do by the one that was removed."""
    with log.step("look for batches"):
        keys = candidates(adata, label_key, batch_key)
        others = crossing_types(adata, label_key or _keys.CELL_TYPE) if batch_key is None else []
        table = tl.batch_association(adata, keys=keys + others, label_key=label_key, rng=seed)
        table = table[~table["key"].isin(others) | (table["excess_own"] > APART)]
        results(adata)["batches"] = table
        if said := sentence(table, label_key, batch_key):
            log.warnings.append(said)


@one_writer
@in_one_thread
def identify_again(
    path: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    label_key: str | None = None,
    markers: Any = "auto",
    n_clusters: int | str = "auto",
    cluster_method: str = "leiden",
    cluster_on: str = "latent",
    n_dims: int = 10,
    n_genes: int = 3,
    seed: int = 0,
    overwrite: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Result:
    """Cluster and name the cells of an existing result again, without training.

    Parameters
    ----------
    path
        Folder that :func:`diffvae.pipeline.run` wrote; it is left as it is.
    out
        Folder for the new result; None writes nothing.
    label_key
        Reference labels in ``obs``; None for those of the first run.
    markers, n_clusters, cluster_method, cluster_on, n_dims, n_genes, seed, overwrite, on_step
        As in :func:`diffvae.pipeline.run`.

    Returns
    -------
    Result

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(100, 40)
    >>> _ = dv.pipeline.run(
    ...     cells, "results", label_key="cell_type", n_clusters=4, cluster_method="kmeans", n_latent=5, max_epochs=2,
    ...     links=False, progress=False,
    ... )
    >>> again = dv.pipeline.identify_again("results", n_clusters=3, cluster_method="kmeans")
    >>> len(again.clusters)
    3
    """
    arguments = dict(locals())
    names = ("markers", "n_clusters", "cluster_method", "cluster_on", "n_dims", "n_genes", "seed")
    options = {name: arguments[name] for name in names}
    _checks.check_identification(**options)
    if out is not None:
        folders.refuse_folder(Path(out).expanduser().resolve(), overwrite)
    log = StepLog(on_step)
    with log.step("read"):
        adata, model, summary = _folder.read_result(path)
    label_key = label_key or summary["parameters"].get("label_key")
    _checks.require_labels(adata, label_key)
    _checks.require_cells(adata, n_clusters)
    identify(adata, model, **options, log=log)
    notice_batches(adata, label_key, model.columns.get("batch_key"), seed=seed, log=log)
    scores = _scores.score(adata, label_key, seed, log)
    integration = _integration.measure(adata, model, label_key, seed, log)
    command = None
    if out is not None:
        words = ["identify", Path(path).resolve().name, "--out", Path(out).resolve().name]
        command = _folder.command_line(words, identify_again, arguments, without=("n_dims", "n_genes", "precision"))
    return _result.finish(
        adata, model, about={name: summary[name] for name in _keys.ABOUT},
        parameters=summary["parameters"] | options | {"label_key": label_key}, log=log, scores=scores,
        integration=integration, out=out, overwrite=overwrite, command=command,
    )  # fmt: skip
