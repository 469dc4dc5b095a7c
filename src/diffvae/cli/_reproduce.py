"""``diffvae reproduce``: the tables and figures of the paper for one data set, with the published numbers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o

if TYPE_CHECKING:
    from diffvae.benchmark import Reproduction

NAME = "reproduce"
EXAMPLES = (
    "diffvae reproduce zebrafish --out reproduced",
    "diffvae reproduce pancreas --path downloads --out reproduced",
    "diffvae reproduce --on cells.h5ad --label-key cell_type --source HSC --out reproduced",
    "the same command again continues an interrupted reproduction",
)


def command(
    dataset: Annotated[
        str | None, typer.Argument(metavar="[DATASET]", help="Data set of the paper: zebrafish, pancreas or human-hsc.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder; finished parts are stored in it.")] = Path(
        "diffvae_reproduced"
    ),
    path: Annotated[
        Path | None, typer.Option("--path", help="Folder or file of the data set. Default: it is downloaded.")
    ] = None,
    on: Annotated[
        Path | None, typer.Option("--on", help="Other labelled cells: .h5ad, 10x .h5 or folder, .csv, ...")
    ] = None,
    label_key: Annotated[
        str | None, typer.Option("--label-key", help="Column of obs with reference types; only with --on.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="Progenitor type to perturb; without it, nothing is perturbed.")
    ] = None,
    trainings: Annotated[
        int, typer.Option("--trainings", min=1, help="Number of trainings per preset and method.")
    ] = 5,
    clusterings: o.Clusterings = 10,
    n_latent: o.TableNLatent = None,
    n_top_genes: o.NTopGenes = 2000,
    max_epochs: o.MaxEpochs = None,
    n_workers: o.NWorkers = None,
    seed: o.Seed = 0,
) -> None:
    """Reproduce the tables and figures of the paper for one data set, with the published numbers.

    Trains the presets paper, code and default several times and compares them: clusters and reference types, genes of
    Table 1, conversions of progenitors, Table 2, links between cells, and which claims hold.
    """
    from diffvae import benchmark

    if (dataset is None) == (on is None):
        raise ValueError(
            "Name a data set of the paper (zebrafish, pancreas, human-hsc), or other cells with --on FILE."
        )
    if dataset is not None and dataset not in SETS:
        raise ValueError(
            f"{dataset!r} is no data set of the paper; they are {', '.join(SETS)}. For other cells use --on FILE."
        )
    if on is not None and label_key is None:
        raise ValueError("--on needs --label-key: the column of obs that holds the reference types.")
    with _console.warnings_shown():
        reproduction = benchmark.reproduce(
            dataset if on is None else on,
            out,
            path=path,
            label_key=label_key,
            source=source,
            n_latent=n_latent or (20, 50, 100),
            n_trainings=trainings,
            n_clusterings=clusterings,
            n_top_genes=n_top_genes,
            max_epochs=max_epochs,
            n_workers=n_workers,
            rng=seed,
            command=f"diffvae {shlex.join(sys.argv[1:])}",
            on_step=_console.step,
        )
    show(reproduction)
    _console.say(f"Written to {out}: tables, figures, summary.json")
    _console.say(f"Report: {out / 'report.html'}")


SETS = ("zebrafish", "pancreas", "human-hsc")


def show(reproduction: Reproduction) -> None:
    """Print the claims of the paper and the results under each preset."""
    published = (reproduction.claims["published"] != "").any()
    columns = ["claim", *(["published"] if published else []), "paper", "code", "default", "holds_here"]
    _console.table(
        "Claims of the paper, under its presets",
        [name.replace("_", " ") for name in columns],
        (tuple(row) for row in reproduction.claims[columns].itertuples(index=False)),
    )
    for note in reproduction.summary["not_done"]:
        _console.note(note)
