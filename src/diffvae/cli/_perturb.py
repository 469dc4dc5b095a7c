"""``diffvae perturb``: which types the cells of an existing result turn into, and through which genes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o

if TYPE_CHECKING:
    from diffvae.pipeline import Changes

NAME = "perturb"
EXAMPLE = (
    'Examples:  diffvae perturb results --source "CD34+"   ·   '
    'diffvae perturb results --source GMP --target Monocyte --target Neutrophil --n-sd "0.5 1 2" --restrict tf.txt'
)
Source = Annotated[str, typer.Option("--source", help="Type whose cells are perturbed, a progenitor for example.")]
Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target", help="Type that they should turn into; repeat the option for more. Default: all other types."
    ),
]


def command(
    result: o.Result,
    source: Source,
    target: Target = None,
    n_sd: Annotated[
        list[str] | None,
        typer.Option(
            "--n-sd", help='Step sizes in standard deviations, such as "0.5 1 2"; genes are searched at the largest.'
        ),
    ] = None,
    restrict: Annotated[
        str | None, typer.Option("--restrict", help="Text file with the genes that may change, one per line.")
    ] = None,
    groupby: o.GroupBy = None,
    n_dims: Annotated[int, typer.Option("--n-dims", min=1, help="Number of latent dimensions to shift.")] = 5,
    order: Annotated[
        str, typer.Option("--order", help="Order in which genes are tried: effect, gradient or greedy.")
    ] = "effect",
    direction: Annotated[
        str, typer.Option("--direction", help="Direction in which genes may change: both, up or down.")
    ] = "both",
    n_random: Annotated[int, typer.Option("--n-random", min=1, help="Number of random directions for the null.")] = 200,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output folder. Default: RESULT/perturbation.")
    ] = None,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Shift latent dimensions to turn cells of one type into others, compared with chance.

    Trains a classifier of types, counts conversions, compares them with random directions of equal length and with
    three baselines, and finds the smallest set of genes that converts each cell. Writes tables/, figures/, classifier/
    and the changed cells.
    """
    options = o.arguments(locals(), n_sd=steps(n_sd) if n_sd else None)
    from diffvae import pipeline

    _console.settings.writes(out or result / "perturbation", page=None if out else result)
    changes = pipeline.perturb(options.pop("result"), **options, on_step=_console.step)
    show(changes)
    for message in changes.summary["warnings"]:
        _console.note(message)
    _console.say(f"Written to {changes.path}: tables, figures, classifier, changed_cells.h5ad, summary.json")


def steps(texts: list[str]) -> list[float]:
    """Read ``--n-sd``: numbers separated by spaces or commas, in one or several options."""
    words = " ".join(texts).replace(",", " ").split()
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ValueError(f'--n-sd is {" ".join(texts)!r}; give numbers, such as "0.5 1 2".') from None


def show(changes: Changes) -> None:
    """Print conversions and genes, one row per target."""
    targets = changes.targets
    first = targets.iloc[0]
    _console.table(
        f"{first['n_cells']} cells of {first['source']} shifted by {first['n_sd']:g} sd: converted cells, compared "
        "with the null (random directions) and baselines, and the smallest sets of genes",
        [
            *("target", "converted", "without shift", "null", "q", "step to latent mean", "step to mean expression"),
            *("genes (median)", "genes up", "genes down"),
        ],
        (
            (
                t.target,
                f"{t.converted:.0%}",
                f"{t.converted_at_0:.0%}",
                f"{t.null_mean:.1%}" if t.null_mean == t.null_mean else "",
                f"{t.q_value:.2g}" if t.q_value == t.q_value else "",
                f"{t.converted_mean:.0%}",
                f"{t.converted_expression_mean:.0%}",
                f"{t.median_n_genes:g}" if t.n_flipped else "",
                t.genes_up.replace(",", ""),
                t.genes_down.replace(",", ""),
            )
            for t in targets.itertuples()
        ),
    )
    for sentence in changes.summary["verdict"]:
        _console.note(sentence)
