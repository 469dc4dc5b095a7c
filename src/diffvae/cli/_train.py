"""``diffvae train``: a model without further analysis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o

NAME = "train"
EXAMPLES = (
    "diffvae train mydata.h5ad --out model --n-latent 50",
    "torchrun --nproc-per-node 4 -m diffvae train mydata.h5ad --out model   (data-parallel)",
)


def command(
    data: o.Inputs,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder for the model.")],
    model: Annotated[str, typer.Option("--kind", help="Kind of model: diffvae, vae, ae or pca.")] = "diffvae",
    transpose: o.Transpose = None,
    backed: o.Backed = None,
    layer: o.Layer = None,
    use_raw: o.UseRaw = False,
    gene_symbols: o.GeneSymbols = None,
    genome: o.Genome = None,
    values: o.Values = None,
    n_top_genes: o.NTopGenes = 2000,
    batch_key: o.BatchKey = None,
    covariates: o.Covariates = None,
    preset: o.Preset = "default",
    n_latent: o.NLatent = 50,
    max_epochs: o.MaxEpochs = None,
    batch_size: o.BatchSize = None,
    lr: o.LearningRate = None,
    early_stopping: Annotated[
        bool | None,
        typer.Option(
            "--early-stopping/--no-early-stopping",
            help="Stop when the validation loss no longer improves. Default: as the preset does.",
        ),
    ] = None,
    patience: o.Patience = None,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
    checkpoint_every: o.CheckpointEvery = None,
    resume: o.Resume = False,
) -> None:
    """Train a model on a file and save it; prepared cells are used as they are.

    The model keeps its genes and their scaling, so that 'diffvae embed' can map new cells. Under torchrun, several
    processes train one model, each on its share of every batch; --batch-size is per process.
    """
    from diffvae._core.io import folders
    from diffvae._core.io.folders import CheckpointPaths
    from diffvae.model import PCA, VAE, AutoEncoder, DiffVAE
    from diffvae.pipeline._settings import refuse_idle_patience
    from diffvae.train import TrainingError, processes

    rate: dict[str, Any] = {} if lr is None else {"lr": lr}
    kinds: dict[str, Callable[[], Any]] = {
        "diffvae": lambda: DiffVAE(preset, n_latent=n_latent, lr=lr),
        "vae": lambda: VAE(n_latent=n_latent, **rate),
        "ae": lambda: AutoEncoder(n_latent=n_latent, **rate),
        "pca": lambda: PCA(n_latent),
    }
    if model not in kinds:
        raise ValueError(f"--kind is {model!r}; it is one of {', '.join(kinds)}.")
    if preset != "default" and model != "diffvae":
        raise ValueError(f"--preset is {preset!r}, but only --kind diffvae has presets; leave one of both out.")
    if model == "pca" and (resume or checkpoint_every):
        raise ValueError("--kind pca is computed in one step; leave out --checkpoint-every and --resume.")
    if model == "pca" and (batch_key or covariates):
        raise ValueError("--kind pca sees no batches; leave out --batch-key and --covariate, or choose diffvae.")
    if model == "pca" and patience is not None:
        raise ValueError("--kind pca is computed in one step; leave out --patience.")
    if use_raw and layer is not None:
        raise ValueError(f"--use-raw takes adata.raw, but --layer is {layer!r}; give one of both.")
    refuse_idle_patience(patience, max_epochs, early_stopping)
    stopping: dict[str, Any] = {"early_stopping": early_stopping if patience is None else True}
    _console.settings.writes(out, resumes=True)
    chosen = kinds[model]()
    columns = {} if model == "pca" else {"batch_key": batch_key, "covariates": covariates or ()}
    options = {"n_top_genes": n_top_genes, "layer": layer, "batch_key": batch_key, "rng": seed}
    with processes(device) as share, folders.locked(out) if share.is_writer else nullcontext():
        if share.is_writer:
            folders.refuse_folder(out.expanduser().resolve(), overwrite)
            if share.size == 1:  # other processes may have started to write
                folders.remove_leftovers(out.expanduser().resolve(), folders.WORK)
        checkpoints = CheckpointPaths(out, checkpoint_every, resume, overwrite, is_writer=share.is_writer)
        reading = {"use_raw": use_raw, "gene_symbols": gene_symbols, "genome": genome}
        with _prepared(data, out, model, backed, transpose, covariates, reading, kind=values, **options) as cells:
            try:
                chosen.train(
                    cells,
                    max_epochs=max_epochs,
                    batch_size=batch_size,
                    device=device,
                    rng=seed,
                    **stopping | ({} if patience is None else {"patience": patience}),
                    **columns,
                    **({} if model == "pca" else checkpoints.training()),
                )
            except TrainingError:
                if chosen.is_trained and share.is_writer:
                    chosen.save(out, overwrite=overwrite)
                    checkpoints.done()  # they would lead to the same divergence
                    _console.warn(
                        f"{out} has the model after epoch {len(chosen.history)}, the last before the training diverged."
                    )
                raise
            if not share.is_writer:
                return
            messages = chosen.diagnose(rng=seed).messages if isinstance(chosen, DiffVAE) else ()
            chosen.save(out, overwrite=overwrite)
            checkpoints.done()  # at once: if the command is stopped from here on, the model is complete
    last = chosen.history.iloc[-1]
    _console.say(", ".join(f"{name} {value:.4g}" for name, value in last.items()))
    for message in messages:
        _console.note(message)
    _console.say(f"Written to {out}: {chosen!r}")


@contextmanager
def _prepared(
    data: list[Path],
    out: Path,
    model: str,
    backed: bool | None,
    transpose: bool | None,
    covariates: list[str] | None,
    reading: dict[str, Any],
    **options: Any,
) -> Iterator[Any]:
    """Yield prepared cells, in memory or on disk in a temporary file beside the model."""
    from diffvae import pp
    from diffvae._core.io import folders, read
    from diffvae._core.io.backed import open_store
    from diffvae._core.io.memory import stays_on_disk
    from diffvae._core.validate import check
    from diffvae.pipeline._checks import RULES, require_columns, require_kind
    from diffvae.pp._record import is_prepared, options_of

    check(RULES, values=options["kind"])
    asked = {name: options[name] for name in ("n_top_genes", "layer")}
    given = o.one_or_several(data)
    on_disk = stays_on_disk(given, backed, layer=options["layer"], transpose=transpose)
    if not on_disk or model == "pca":
        if on_disk and (backed or len(data) > 1):
            raise ValueError("--kind is 'pca', which needs the cells in memory; choose diffvae, vae or ae.")
        with _console.warnings_shown():
            adata, _ = read.load(data[0], transpose, **reading)
        require_columns(adata, options["batch_key"], covariates)
        if is_prepared(adata):
            require_kind(adata, options["kind"])
            options_of(adata, **asked)
        else:
            with _console.warnings_shown():
                pp.prepare(adata, **options)
        yield adata
        return
    _console.warn(on_disk)
    if reading["use_raw"]:
        raise ValueError(
            "--use-raw needs the cells in memory; add --in-memory, or write adata.raw.to_adata() to a file."
        )
    if reading["genome"]:
        raise ValueError("--genome needs the cells in memory; add --in-memory.")
    store = open_store(given, reading["gene_symbols"])
    require_columns(store, options["batch_key"], covariates)
    if is_prepared(store):
        require_kind(store, options["kind"])
        options_of(store, **asked)
        with _console.warnings_shown():
            store.warn()
        yield store
        return
    with folders.scratch(out) as work:
        with _console.warnings_shown(), folders.explain_write_errors(out, work):
            prepared = pp.prepare(store, out=work / "prepared.h5ad", **options)
        yield prepared
