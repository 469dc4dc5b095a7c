"""``diffvae reproduce``: the paper's tables and figures for one data set, with the published numbers beside ours."""

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
EXAMPLE = (
    "Examples:  diffvae reproduce zebrafish --out reproduced   ·   diffvae reproduce pancreas --path downloads --out "
    "reproduced   ·   diffvae reproduce --on cells.h5ad --label-key cell_type --source HSC --out reproduced   ·   "
    "run again, it continues where it stopped"
)


def command(
    dataset: Annotated[
        str | None, typer.Argument(metavar="[DATASET]", help="zebrafish, pancreas or human-hsc: a set of the paper.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the page, tables, figures and what is needed to resume.")
    ] = Path("diffvae_reproduced"),
    path: Annotated[
        Path | None, typer.Option("--path", help="Folder or file of the set; it is downloaded without it.")
    ] = None,
    on: Annotated[
        Path | None, typer.Option("--on", help="Any labelled cells instead: .h5ad, 10x .h5 or folder, .csv, ...")
    ] = None,
    label_key: Annotated[
        str | None, typer.Option("--label-key", help="Reference types in obs; not needed for the paper's sets.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="Progenitor type; without one nothing is perturbed.")
    ] = None,
    trainings: Annotated[int, typer.Option("--trainings", min=1, help="Trainings of each preset and method.")] = 5,
    clusterings: Annotated[
        int, typer.Option("--clusterings", min=1, help="Clusterings, and maps, of each in Table 2.")
    ] = 10,
    n_latent: Annotated[
        list[int] | None,
        typer.Option("--n-latent", min=1, help="Latent dimensions of Table 2; repeat it. 20, 50 and 100."),
    ] = None,
    n_top_genes: o.NTopGenes = 2000,
    max_epochs: o.MaxEpochs = None,
    n_workers: Annotated[
        int | None,
        typer.Option("--n-workers", min=1, help="Processes on this machine (Dask); the numbers are the same."),
    ] = None,
    seed: o.Seed = 0,
) -> None:
    """Reproduce every table and figure of the paper for one data set, with the published numbers beside ours.

    The presets paper, code and default are each trained several times and compared: clusters and reference types, genes
    of Table 1, conversions of progenitors beside chance, Table 2, links between cells, and which claims hold.
    """
    from diffvae import benchmark

    if (dataset is None) == (on is None):
        raise ValueError("Name a set of the paper (zebrafish, pancreas, human-hsc), or any cells by --on FILE.")
    if dataset is not None and dataset not in SETS:
        raise ValueError(f"{dataset!r} is not a set of the paper; they are {', '.join(SETS)}. Other cells: --on FILE.")
    if on is not None and label_key is None:
        raise ValueError("--on needs --label-key: the column of obs that holds the reference types.")
    with _console.warnings_as_notes():
        found = benchmark.reproduce(
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
    show(found)
    _console.say(f"Written to {out}: reproduction.md, tables, figures, summary.json")


SETS = ("zebrafish", "pancreas", "human-hsc")


def show(found: Reproduction) -> None:
    """Print the claims with what was measured."""
    published = (found.claims["published"] != "").any()
    columns = ["claim", *(["published"] if published else []), "paper", "code", "default", "holds_here"]
    _console.table(
        "Claims of the paper, under its presets",
        [name.replace("_", " ") for name in columns],
        (tuple(row) for row in found.claims[columns].itertuples(index=False)),
    )
    for note in found.summary["not_done"]:
        _console.note(note)
