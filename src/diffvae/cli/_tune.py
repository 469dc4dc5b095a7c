"""``diffvae tune``: a search for the best hyper-parameters."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o

if TYPE_CHECKING:
    from diffvae.benchmark import Tuned

NAME = "tune"
EXAMPLES = (
    "diffvae tune mydata.h5ad --trials 30 --out tune",
    "diffvae tune mydata.h5ad --out wide --space wide --objective stability",
    "diffvae run mydata.h5ad --config tune/best.json",
    "a second process with the same folder shares the trials; the same command resumes an interrupted search",
)


def command(
    data: o.Input,
    trials: Annotated[
        int, typer.Option("--trials", "-n", min=1, help="Number of trials, including those of earlier calls.")
    ] = 30,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder; an earlier search in it is resumed.")] = Path(
        "tune"
    ),
    space: Annotated[str, typer.Option("--space", help="Search space: paper (its grid) or wide.")] = "paper",
    objective: Annotated[
        str, typer.Option("--objective", help="validation_loss, elbo, stability (of clusters) or ari (needs labels).")
    ] = "validation_loss",
    label_key: Annotated[
        str | None, typer.Option("--label-key", help="Column of obs with labels, for --objective ari.")
    ] = None,
    n_clusters: Annotated[
        int | None, typer.Option("--n-clusters", min=2, help="Number of clusters, for --objective stability and ari.")
    ] = None,
    trainings: Annotated[
        int | None,
        typer.Option("--trainings", min=1, help="Number of trainings per trial. Default: 1, or 3 for stability."),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=0, help="Number of seeds with which default and best are trained again.")
    ] = 3,
    max_epochs: Annotated[
        int | None, typer.Option("--max-epochs", min=1, help="Maximum number of epochs of every training.")
    ] = None,
    patience: o.Patience = None,
    pruning: Annotated[
        bool, typer.Option("--pruning/--no-pruning", help="Stop trials early if their loss is above the median.")
    ] = True,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, help="Minutes after which no further trial starts.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", help="SQLite file or database URL of the study. Default: OUT/study.db."),
    ] = None,
    study: Annotated[str, typer.Option("--study", help="Name of the study in the storage.")] = "diffvae",
    preset: o.Preset = "default",
    transpose: o.Transpose = None,
    layer: o.Layer = None,
    use_raw: o.UseRaw = False,
    gene_symbols: o.GeneSymbols = None,
    genome: o.Genome = None,
    values: o.Values = None,
    n_top_genes: o.NTopGenes = 2000,
    batch_key: o.BatchKey = None,
    device: o.Device = "auto",
    seed: o.Seed = 0,
) -> None:
    """Search the hyper-parameters of DiffVAE that suit the cells, and measure the gain over the default.

    The default is the first trial. At the end, default and best are trained again with other seeds and other held-out
    cells. Writes best.json (for 'run --config'), trials.csv, confirmation.csv, importance.csv, figures, summary.json.
    """
    from diffvae import benchmark
    from diffvae._core.io import read

    if use_raw and layer is not None:
        raise ValueError(f"--use-raw takes adata.raw, but --layer is {layer!r}; give one of both.")
    with _console.warnings_shown():
        cells, _ = read.load(data, transpose, use_raw=use_raw, gene_symbols=gene_symbols, genome=genome)
    _console.settings.interrupted = f"Interrupted; finished trials are saved in {out}. Run the same command to resume."
    tuned = benchmark.tune(
        cells,
        n_trials=trials,
        space=space,
        objective=objective,
        preset=preset,
        label_key=label_key,
        n_clusters=n_clusters,
        n_trainings=trainings,
        n_repeats=repeats,
        max_epochs=max_epochs,
        patience=patience,
        pruning=pruning,
        timeout=None if timeout is None else 60 * timeout,
        out=out,
        storage=storage,
        study=study,
        layer=layer,
        values=values,
        n_top_genes=n_top_genes,
        batch_key=batch_key,
        device=device,
        rng=seed,
        on_step=_console.step,
    )
    show(tuned)
    given: dict[str, Any] = {
        "--layer": layer,
        "--gene-symbols": gene_symbols,
        "--genome": genome,
        "--values": values,
        "--batch-key": batch_key,
    }
    given |= {"--n-top-genes": None if n_top_genes == 2000 else n_top_genes}
    words = ["diffvae", "run", str(data), "--config", str(out / "best.json")]
    words += ["--use-raw"] * use_raw
    words += [word for name, value in given.items() if value is not None for word in (name, str(value))]
    files = "best.json, trials.csv, figures, summary.json"
    _console.say(f"Written to {out}: {files}. Next: {shlex.join(words)}")


def show(tuned: Tuned) -> None:
    """Print the best trials, the default and the verdict."""
    trials = tuned.trials
    complete = trials[trials["state"] == "complete"]
    ordered = complete.sort_values("value", ascending=tuned.summary["objective"]["minimise"], kind="stable")
    shown = ordered.head(5)
    if not shown["default"].any():
        shown = ordered[ordered["trial"].isin(shown["trial"]) | ordered["default"]]
    columns = list(trials.columns)
    parameters = columns[columns.index("default") + 1 : columns.index("seconds")]
    _console.table(
        f"{len(trials)} trials, the best by {tuned.summary['objective']['label']}",
        ["trial", "value", *parameters],
        (
            (f"{r['trial']} (default)" if r["default"] else r["trial"], f"{r['value']:.4g}", *map(_text, r[parameters]))
            for _, r in shown.iterrows()
        ),
    )
    for sentence in tuned.summary["verdict"]:
        _console.note(sentence)
    for sentence in tuned.summary["warnings"]:
        _console.warn(sentence)


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) and math.isfinite(value) else str(value)
