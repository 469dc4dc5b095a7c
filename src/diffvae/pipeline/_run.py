"""The paper's whole road, in the order in which a reader expects it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvae import _keys, datasets, pp, tl
from diffvae._core.io import folders, read
from diffvae._core.io.backed import OnDisk, open_store
from diffvae._core.io.folders import CheckpointPaths, one_writer
from diffvae._core.io.memory import stays_on_disk
from diffvae._core.runtime import StepLog, in_one_thread
from diffvae._errors import DataError
from diffvae.pipeline import _backed, _checks, _links, _opened, _perturb, _settings, _summary
from diffvae.pipeline._identify import identify
from diffvae.pipeline._result import Result
from diffvae.pipeline._settings import Config
from diffvae.pp._prepare import is_prepared, options_of

if TYPE_CHECKING:
    from anndata import AnnData

NO_PARAMETERS = ("data", "out", "on_step", "progress", "overwrite", "backed", "subsample", "checkpoint_every", "resume")
"""Arguments of a run that don't change what it finds, or are told elsewhere in its summary."""


@one_writer
@in_one_thread
def run(
    data: AnnData | OnDisk | None = None,
    out: str | PathLike[str] | None = None,
    *,
    backed: bool | None = None,
    subsample: int = _backed.DRAWN,
    label_key: str | None = None,
    markers: Any = "auto",
    transpose: bool | None = None,
    layer: str | None = None,
    n_top_genes: int | None = 2000,
    batch_key: str | None = None,
    config: Config | None = None,
    preset: str | None = None,
    n_latent: int | None = None,
    max_epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    n_clusters: int | str = "auto",
    cluster_method: str = "leiden",
    cluster_on: str = "latent",
    n_dims: int = 10,
    n_genes: int = 3,
    source: str | None = None,
    target: Sequence[str] | None = None,
    links: bool = True,
    k: int = _links.K,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool = True,
    on_step: Callable[[str], None] = lambda step: None,
) -> Result:
    """Go from an expression matrix to named cell types, with the dimensions and genes that say why.

    Check and prepare, train DiffVAE, embed, t-SNE, cluster, find the latent dimensions that encode each cluster and the
    genes behind them, name the clusters by markers, and score against labels where there are any.

    Parameters
    ----------
    data
        AnnData (left as it is), a file or folder that :func:`anndata.io` or scanpy reads, a list of ``.h5ad`` or
        ``.zarr`` (one atlas in many shards, genes matched by name), or None for the bundled
        :func:`diffvae.datasets.pbmc68k_reduced`.
    out
        Folder for the results, written whole or not at all; None writes nothing.
    backed
        Leave the cells on disk: they are prepared, learnt from and embedded in blocks; map, clusters, dimensions,
        genes, names, scores and links are those of a random sample, and ``all_cells.h5ad`` has the latent
        representation of all cells, their place on the map, and cluster and name by the nearest centroid. None does
        so where the cells would take more than half of the free memory or are more than 200,000, and says it.
    subsample
        Cells in that sample.
    label_key
        Reference labels in ``obs``, for scores only: nothing is learnt from them. The bundled data have
        ``"cell_type"``.
    markers
        See :func:`diffvae.tl.annotate`.
    transpose
        True if genes are in rows and cells in columns. By default cells are in rows, and a table in a file that plainly
        has genes there is refused; False takes it as it is.
    layer, n_top_genes, batch_key
        See :func:`diffvae.pp.prepare`. Cells that have been prepared are taken as they are, and others than theirs are
        refused.
    config
        Preset, hyper-parameters of :class:`diffvae.model.DiffVAE`, ``max_epochs`` and ``batch_size`` by name, or a JSON
        file that holds them, such as the ``best.json`` of :func:`diffvae.benchmark.tune`.
    preset, n_latent, max_epochs, batch_size, lr
        See :class:`diffvae.model.DiffVAE`; each goes before what ``config`` has.
    device, precision
        See :meth:`diffvae.model.DiffVAE.train`.
    n_clusters, cluster_method
        See :func:`diffvae.tl.cluster`.
    cluster_on
        ``"latent"`` or ``"tsne"``.
    n_dims, n_genes
        See :func:`diffvae.tl.high_weight_genes`.
    source, target
        Types whose cells are to be changed, and into which (None for all others): see :func:`perturb`. Types are those
        of ``label_key``, or the names given to the clusters.
    links, k
        Predict links between cells with Graph-DiffVAE, on a graph of the k most similar cells of each: see
        :func:`links`. With a source its cells are called by their links.
    seed
        Of everything: the same seed gives the same tables.
    overwrite
        Replace an earlier result in ``out``.
    checkpoint_every, resume
        Epochs from one checkpoint of a training to the next, and whether to go on from where an earlier call was
        interrupted or killed: see :meth:`diffvae.model.DiffVAE.train`. The files, ``OUT.checkpoint`` and
        ``OUT.checkpoint.links``, lie beside the folder, and are removed when it is written. None for no checkpoint but
        that of an interrupt.
    progress
        Show bars on a terminal.
    on_step
        Called with the name of each step as it begins.

    Returns
    -------
    Result

    Raises
    ------
    DataError
        If the data can't be used; nothing has been written then.

    Examples
    --------
    >>> import diffvae as dv
    >>> result = dv.pipeline.run(
    ...     max_epochs=2, n_latent=10, n_clusters=6, cluster_method="kmeans", links=False, progress=False
    ... )
    >>> result.clusters.columns[:3].tolist()
    ['cluster', 'n_cells', 'cell_type']
    """
    asked = dict(locals())
    parameters = {k: v for k, v in asked.items() if k not in NO_PARAMETERS}
    # what can't work is refused now, not after the training
    _checks.check_options(markers, n_clusters, cluster_method, cluster_on, n_dims, n_genes, seed)
    _links.check_options(k, _links.TOP_K)
    if data is None and transpose:
        raise ValueError("transpose is True, but the bundled data have cells in rows; leave it out or name a file.")
    if out is not None:
        folders.refuse_folder(Path(out).expanduser().resolve(), overwrite)
    kept = CheckpointPaths(out, checkpoint_every, resume, overwrite)
    given = {k: parameters[k] for k in ("preset", "n_latent", "max_epochs", "batch_size", "lr")}
    settings = _settings.read(config) | {k: v for k, v in given.items() if v is not None}
    model, training = _settings.model_of(settings), {"batch_size": 128} | _settings.training_of(settings)
    parameters |= {k: settings.get(k) for k in given} | training | {"preset": model.preset, "n_latent": model.n_latent}
    parameters["config"] = str(config) if isinstance(config, str | PathLike) else config
    log = StepLog(on_step)
    preparation: dict[str, Any] = {"n_top_genes": n_top_genes, "layer": layer, "batch_key": batch_key}
    training |= {"device": device, "precision": precision, "rng": seed, "progress": progress}
    on_disk = stays_on_disk(data, backed, layer=layer, transpose=transpose)
    backed_run = None

    with log.step("read"):
        if on_disk:
            _backed.check_options(out, cluster_method, subsample)
            on_step(on_disk)
            log.warnings.append(on_disk)
            cells = open_store(data)
            backed_run, origin = _backed.BackedRun(cells, out, subsample), cells.name
        elif data is None:
            cells, origin = datasets.pbmc68k_reduced(), "diffvae.datasets.pbmc68k_reduced()"
            label_key = _keys.LABEL if label_key is None else label_key
        else:
            cells, origin = read.load(data[0] if isinstance(data, list | tuple) else data, transpose)
        _checks.require_labels(cells, label_key)
        _checks.require_cells(cells, n_clusters, subsample if on_disk else None)
        _checks.require_types(cells, label_key, source, target)
        if prepared := is_prepared(cells):
            parameters |= options_of(cells, **preparation)
    with log.step("check and prepare"):
        if backed_run is not None:
            cells = backed_run.prepare(**preparation, rng=seed)
        elif prepared:  # what later steps made of them is made anew
            cells.uns[_keys.UNS] = {"prepare": cells.uns[_keys.UNS]["prepare"]}
        else:
            pp.prepare(cells, **preparation, rng=seed)
        _checks.require_markers(cells, markers)
    with log.step("train DiffVAE"):
        if backed_run is not None:
            backed_run.train(model, **training, **kept.training())
        else:
            model.train(cells, **training, **kept.training())
            tl.embed(cells, model)
        diagnosis = model.diagnose(rng=seed)
    if backed_run is None:
        adata = cells
    else:
        with log.step("draw a sample of the cells"):
            adata = backed_run.sample(model, seed)
    with log.step("t-SNE"):
        tl.tsne(adata, rng=seed)
    identify(
        adata,
        model,
        markers=markers,
        n_clusters=n_clusters,
        cluster_method=cluster_method,
        cluster_on=cluster_on,
        n_dims=n_dims,
        n_genes=n_genes,
        seed=seed,
        log=log,
    )
    if backed_run is not None:
        with log.step("place and name the other cells"):
            backed_run.transfer(adata)
    scores = _summary.score(adata, label_key, seed, log)
    preparation = adata.uns[_keys.UNS]["prepare"]
    about = {
        "source": origin,
        "n_cells": cells.n_obs,  # of prepared ones some may have been taken since
        "n_genes": int(preparation["n_genes"]),
        "n_genes_kept": adata.n_vars,
        "kind": str(preparation["kind"]),
        "diagnosis": {"n_active": diagnosis.n_active, "messages": list(diagnosis.messages)},
    }
    parameters["label_key"] = label_key
    changes = None
    if source is not None:
        try:
            changes = _perturb.run_perturbation(
                adata, model, source=source, target=target, groupby=_perturb.group_key(parameters), seed=seed,
                log=log, progress=progress,
            )  # fmt: skip
        except DataError as error:  # a name that the clusters didn't get, say: what there is shall not be lost
            log.warnings.append(f"Nothing was perturbed: {error} Run 'diffvae perturb' on this result.")
    linked = (
        _links.of_run(adata, parameters, seed=seed, log=log, progress=progress, training=kept.training(".links"))
        if links
        else None
    )
    command = None
    if out is not None and origin != read.IN_MEMORY:
        files = [] if data is None else backed_run.about["files"] if backed_run is not None else [origin]
        words = ["run", *files, *(["--backed"] if backed_run is not None else []), "--out", Path(out).name]
        command = _opened.command_line(words, run, asked, without=("n_dims", "n_genes", "precision"))
    return _summary.finish(
        adata, model, about, parameters, log, scores, out, overwrite, changes, linked, backed_run,
        command=command, placed=kept.done,
    )  # fmt: skip
