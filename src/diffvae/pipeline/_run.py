"""The whole analysis: from an expression matrix to named clusters, perturbations and links."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvae import _keys
from diffvae._core.anndata import results
from diffvae._core.io import read
from diffvae._core.io.backed import OnDisk
from diffvae._core.io.folders import one_writer
from diffvae._core.io.memory import free_memory, stays_on_disk
from diffvae._core.runtime import StepLog, in_one_thread
from diffvae._core.second_process import HERE, SecondProcess
from diffvae._core.words import of_run
from diffvae._errors import DataError
from diffvae.pipeline import _checks, _folder, _integration, _links, _map, _perturb, _result, _scores
from diffvae.pipeline._cells import BackedRun, InMemoryRun
from diffvae.pipeline._config import RunConfig
from diffvae.pipeline._identify import identify, notice_batches
from diffvae.pipeline._result import Result
from diffvae.pipeline._settings import Config
from diffvae.pp._record import is_prepared, options_of

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model

WORTH_IT = 1_500_000
"""Values of the matrix that is trained on, below which a second process takes longer to start than it saves."""
SECOND, BYTES = 2**30, 40
"""Memory of a second process: its modules, and per value of the matrix its copy and what is sent."""


@one_writer
@in_one_thread
def run(
    data: AnnData | OnDisk | None = None,
    out: str | PathLike[str] | None = None,
    *,
    backed: bool | None = None,
    subsample: int = 20_000,
    label_key: str | None = None,
    markers: Any = "auto",
    transpose: bool | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    genome: str | None = None,
    values: str | None = None,
    min_genes: int | None = None,
    n_top_genes: int | None = 2000,
    batch_key: str | None = None,
    covariates: Sequence[str] | None = None,
    config: Config | None = None,
    preset: str | None = None,
    n_latent: int | None = None,
    max_epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    patience: int | None = None,
    n_clusters: int | str = "auto",
    cluster_method: str = "leiden",
    cluster_on: str = "latent",
    n_dims: int = 10,
    n_genes: int = 3,
    source: str | Sequence[str] | None = None,
    target: Sequence[str] | None = None,
    earlier: Sequence[str] | None = None,
    min_core: float | None = None,
    links: bool = True,
    k: int | None = None,
    n_jobs: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool = True,
    on_step: Callable[[str], None] = lambda step: None,
    tell: Callable[[str], None] | None = None,
) -> Result:
    """Go from an expression matrix to named cell types, with the latent dimensions and genes that support them.

    Check and prepare the cells, train DiffVAE, embed, t-SNE, cluster, find the latent dimensions that encode each
    cluster and the genes behind them, name the clusters by markers, and score against reference labels if there are
    any.

    Parameters
    ----------
    data
        AnnData (it is not changed), a file or folder that :mod:`anndata.io` or scanpy reads, a list of ``.h5ad`` or
        ``.zarr`` (one atlas in several shards, genes matched by name), or None for the bundled
        :func:`diffvae.datasets.pancreas_endocrinogenesis`.
    out
        Output folder, written as a whole or not at all; None writes nothing.
    backed
        Leave the cells on disk: they are prepared, trained on and embedded in blocks. Map, clusters, dimensions,
        genes, names, scores and links come from a random sample. ``all_cells.h5ad`` has the latent representation of
        all cells, their place on the map, and the cluster and name of the nearest centroid. None leaves cells on disk
        if they would take more than half of the free memory or are more than 200,000, with a warning.
    subsample
        Number of cells in that sample.
    label_key
        Types or other labels in ``obs``: the clusters are scored against them, and they are the types of ``source``,
        classifier and links. They are not used in the training of DiffVAE. None takes the only column that has the
        source; without a source, or if no column has it, the names of the clusters are the types. The bundled data
        have ``"cell_type"``.
    markers
        See :func:`diffvae.tl.annotate`.
    transpose
        True if genes are in rows and cells in columns. By default cells are in rows, and a file that clearly has genes
        in rows is refused; False accepts it.
    use_raw
        Take the values and genes of ``adata.raw``, where X has few genes. Where X is scaled and ``raw`` is not, ``raw``
        is taken anyway, with a warning.
    gene_symbols
        Column of ``var`` by which genes are named, where ``var_names`` are identifiers such as ENSMUSG00000000001.
        Genes without an entry keep their name.
    genome
        Genome of the genes to keep, such as ``"GRCh38"``, where cells of several species were mapped together.
    values
        What the values are, ``"counts"``, ``"normalised"`` or ``"log"``, if detection is wrong: see
        :func:`diffvae.pp.check`.
    min_genes
        Leave out cells that express fewer genes, such as the empty droplets of an unfiltered matrix; cells in memory
        only.
    layer, n_top_genes
        See :func:`diffvae.pp.prepare`. Prepared cells are used as they are, and other values than those they were
        prepared with are refused.
    batch_key
        Column of ``obs`` with the batches (donors, runs, labs). Variable genes are selected within each, their
        effect is removed from the latent representation, and the graph of links is balanced over them. Of several
        files, ``"file"`` takes each as a batch. See ``docs/how/integrate`` for when not to.
    covariates
        Further columns of ``obs``, names or numbers, that encoder and decoder see.
    config
        Preset, hyper-parameters of :class:`diffvae.model.DiffVAE`, ``max_epochs``, ``batch_size`` and ``patience`` by
        name, or a JSON file that holds them, such as the ``best.json`` of :func:`diffvae.benchmark.tune`.
    preset, n_latent, max_epochs, batch_size, lr
        See :class:`diffvae.model.DiffVAE`; each takes precedence over ``config``.
    patience
        Stop the training of DiffVAE after this many epochs without improvement of the validation loss. None stops as
        the preset does: the default after 20 epochs, but not before 100 steps.
    n_jobs
        Number of processes: 1, or 2 to compute independent steps side by side (t-SNE beside clustering, perturbation
        beside links), which takes more memory. The tables are the same. None for 2 if two cores are free to use,
        the memory suffices and the data are not small.
    device, precision
        See :meth:`diffvae.model.DiffVAE.train`.
    n_clusters, cluster_method
        See :func:`diffvae.tl.cluster`.
    cluster_on
        Cluster on the latent representation (``"latent"``) or on the map (``"tsne"``).
    n_dims, n_genes
        See :func:`diffvae.tl.high_weight_genes`.
    source, target
        Type whose cells are perturbed (or several; ``"all"`` for every type), and types that they should turn into
        (None for all others): see :func:`perturb`. Types are those of ``label_key``, or the names of the clusters.
    earlier
        Types upstream of the source: no fates of it, and conversions to them are marked as going back.
    min_core
        Least share of uncommitted progenitors: see :func:`diffvae.tl.commitment`. None for 0.6.
    links, k
        Predict links between cells with Graph-DiffVAE, on a graph of the k most similar cells of each: see
        :func:`links`. The cells of the source are ranked by their fates, and committed ones are called. Of
        several sources this is the last one, and those before it are earlier types.
    seed
        Seed of all random numbers: the same seed gives the same tables.
    overwrite
        Replace an earlier result in ``out``.
    checkpoint_every, resume
        Number of epochs between two checkpoints of a training, and whether to continue a training that was interrupted
        or killed: see :meth:`diffvae.model.DiffVAE.train`. The files ``OUT.checkpoint`` and ``OUT.checkpoint.links``
        lie beside the folder and are removed when it is written. None writes a checkpoint only on an interrupt.
    progress
        Show progress bars on a terminal.
    on_step
        Called with the name of each step when it starts.
    tell
        Name of ``on_step`` in version 0.1.

    Returns
    -------
    Result

    Raises
    ------
    DataError
        If the data cannot be used; nothing has been written then.

    Examples
    --------
    >>> import diffvae as dv
    >>> result = dv.pipeline.run(
    ...     max_epochs=2, n_latent=10, n_clusters=6, cluster_method="kmeans", links=False, progress=False
    ... )
    >>> result.clusters.columns[:3].tolist()
    ['cluster', 'n_cells', 'cell_type']
    """
    arguments = dict(locals())
    options = RunConfig(**{name: value for name, value in arguments.items() if name not in ("on_step", "tell")})
    log = StepLog(tell or on_step)
    with log.step("read"), of_run():
        strategy = _open(options, log)
        _find_types(strategy, options, log)
        parameters = _check_cells(strategy, options)
    with log.step("check and prepare"), of_run():
        strategy.prepare(**options.preparation, rng=seed)
        _checks.require_markers(strategy.cells, markers)
    if data is not None:
        arguments["label_key"] = options.label_key  # the one that was found
    with SecondProcess(_uses_two(options, strategy), ("diffvae.pipeline", "diffvae.pl", "diffvae.model")) as second:
        return _analyse(strategy, options, parameters, log, second, _command(strategy, arguments))


def _analyse(
    strategy: InMemoryRun | BackedRun,
    options: RunConfig,
    parameters: dict[str, Any],
    log: StepLog,
    second: SecondProcess,
    command: str | None,
) -> Result:
    """Train and do everything that follows; independent steps run side by side if there is a second process."""
    model, seed, progress = options.model, options.seed, options.progress
    with log.step("train DiffVAE"):
        training = options.training | options.columns | options.checkpoints.training()
        strategy.train(
            model, **training, device=options.device, precision=options.precision, rng=seed, progress=progress
        )
        diagnosis = model.diagnose(rng=seed)
    adata = strategy.sample(model, seed, log)
    laid_out = second.submit(_map.lay_out, adata.obsm[_keys.LATENT], seed, "t-SNE", log=log, what="t-SNE")
    if options.cluster_on == "tsne":
        _map.take(adata, laid_out.result())
    identify(adata, model, **options.identification, log=log)
    if options.cluster_on == "latent":
        _map.take(adata, laid_out.result())
    changing = None
    if options.source is not None:
        moving = progress and not second.runs
        changing = second.submit(_perturb_source, adata, model, parameters, moving, log=log, what="change cells")
    notice_batches(adata, options.label_key, options.batch_key, seed=seed, log=log)
    strategy.finish(adata, log)
    scores = _scores.score(adata, options.label_key, seed, log)
    integration = _integration.measure(adata, model, options.label_key, seed, log)
    preparation = adata.uns[_keys.UNS]["prepare"]
    about = {
        "source": strategy.origin,
        "n_cells": strategy.cells.n_obs,  # a subset, perhaps, of the cells that were prepared
        "n_genes": int(preparation["n_genes"]),
        "n_genes_kept": adata.n_vars,
        "kind": str(preparation["kind"]),
        "diagnosis": diagnosis.summary(),
    }
    graph = None
    if options.links:
        beside = second
        if changing is not None and _links.trains_in_all_threads(adata):
            changing.result()  # nothing should run beside it
        elif changing is not None:
            beside = HERE  # the map would wait for the changes
        training = options.checkpoints.training(".links")
        graph = _links.links_of_run(adata, parameters, log=log, progress=progress, training=training, second=beside)
    changes = None
    if changing is not None:
        changes, stored = changing.result()
        results(adata).update(stored)
    return _result.finish(
        adata, model, about=about, parameters=parameters, log=log, scores=scores, integration=integration,
        out=options.out, overwrite=options.overwrite, command=command, changes=changes, links=graph,
        cells=strategy, after_writing=options.checkpoints.done, second=second,
    )  # fmt: skip


def _open(options: RunConfig, log: StepLog) -> InMemoryRun | BackedRun:
    """Read the cells into memory, or open them on disk and say why."""
    reason = stays_on_disk(options.data, options.backed, layer=options.layer, transpose=options.transpose)
    if not reason:
        return InMemoryRun(options)
    strategy = BackedRun(options)
    log.on_step(reason)
    log.warnings.append(reason)
    return strategy


def _find_types(strategy: InMemoryRun | BackedRun, options: RunConfig, log: StepLog) -> None:
    """Without a column of labels, take the one that has the source, and say so."""
    if options.source is None or options.label_key is not None:
        return
    options.label_key = _checks.find_label_key(strategy.cells, options.source)
    if options.label_key is not None:
        options.refuse_contradictions()  # the column may be a batch
        log.on_step(f"types are those of obs[{options.label_key!r}], which has {options.source!r}")


def _check_cells(strategy: InMemoryRun | BackedRun, options: RunConfig) -> dict[str, Any]:
    """Refuse options that the cells cannot meet, and return the parameters of the summary."""
    _checks.require_labels(strategy.cells, options.label_key)
    _checks.require_cells(strategy.cells, options.n_clusters, strategy.subsample)
    _checks.require_types(strategy.cells, options.label_key, options.source, options.target, options.earlier)
    _checks.require_columns(strategy.cells, options.batch_key, options.covariates)
    if not is_prepared(strategy.cells):
        return options.parameters
    _checks.require_kind(strategy.cells, options.values)
    return options.parameters | options_of(strategy.cells, n_top_genes=options.n_top_genes, layer=options.layer)


def _perturb_source(
    adata: AnnData, model: Model, parameters: dict[str, Any], progress: bool, *, log: StepLog
) -> tuple[_perturb.Changes | None, dict[str, Any]]:
    """Perturb the source, and return what is new in ``uns["diffvae"]`` as well.

    If it is impossible, a warning is added and the result is None, so that the run is kept.
    """
    before = set(results(adata))
    try:
        changes = _perturb.run_perturbation(
            adata, model, source=parameters["source"], target=parameters["target"], earlier=parameters["earlier"],
            groupby=_perturb.type_key(parameters), seed=parameters["seed"], log=log, progress=progress,
        )  # fmt: skip
    except DataError as error:  # no cluster was named like the source, for example
        log.warnings.append(f"Nothing was perturbed: {error} Run 'diffvae perturb' on this result.")
        changes = None
    return changes, {name: value for name, value in results(adata).items() if name not in before}


def _uses_two(options: RunConfig, strategy: InMemoryRun | BackedRun) -> bool:
    """Return whether a second process computes independent steps: with enough work, cores and memory by default."""
    if options.n_jobs is not None:
        return options.n_jobs > 1
    cells = strategy.cells
    n_cells = cells.n_obs if strategy.subsample is None else min(cells.n_obs, strategy.subsample)
    values = n_cells * min(cells.n_vars, options.n_top_genes or cells.n_vars)
    if values <= WORTH_IT:
        return False
    from loky import cpu_count

    return cpu_count() > 1 and free_memory() > SECOND + BYTES * values


def _command(strategy: InMemoryRun | BackedRun, arguments: dict[str, Any]) -> str | None:
    """Return the command line that repeats the run; None if no command line can."""
    out, config = arguments["out"], arguments["config"]
    if out is None or strategy.origin == read.IN_MEMORY or arguments["n_top_genes"] is None:  # no option says "all"
        return None
    if isinstance(config, Mapping):
        if not set(config) <= set(arguments):  # some settings have no option
            return None
        arguments = arguments | {name: value for name, value in config.items() if arguments[name] is None}
    words = ["run", *strategy.files, *strategy.words, "--out", Path(out).resolve().name]
    return _folder.command_line(words, run, arguments, without=("n_dims", "n_genes", "precision"))
