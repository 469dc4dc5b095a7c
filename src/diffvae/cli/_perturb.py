"""``diffvae perturb``: what cells of an existing result can be turned into, and through which genes."""

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
Source = Annotated[str, typer.Option("--source", help="Type whose cells are shifted (a progenitor, say).")]
Target = Annotated[
    list[str] | None,
    typer.Option("--target", help="Type to turn them into; repeat it for more. All others by default."),
]


def command(
    result: Annotated[Path, typer.Argument(help="Folder that 'diffvae run' wrote.")],
    source: Source,
    target: Target = None,
    n_sd: Annotated[
        list[str] | None,
        typer.Option("--n-sd", help='Sizes of the shift in standard deviations, "0.5 1 2", say; genes at the largest.'),
    ] = None,
    restrict: Annotated[
        str | None, typer.Option("--restrict", help="Text file of the genes that may change, one per line.")
    ] = None,
    groupby: Annotated[
        str | None, typer.Option("--groupby", help="Types in obs; by default the labels or names of the run.")
    ] = None,
    n_dims: Annotated[int, typer.Option("--n-dims", min=1, help="Latent dimensions to shift.")] = 5,
    order: Annotated[str, typer.Option("--order", help="Order of genes: effect, gradient or greedy.")] = "effect",
    direction: Annotated[str, typer.Option("--direction", help="Genes that may change: both, up or down.")] = "both",
    n_random: Annotated[int, typer.Option("--n-random", min=1, help="Random directions of the null.")] = 200,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for what is found; RESULT/perturbation by default.")
    ] = None,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Shift latent dimensions to turn cells of one type into others, beside what chance would do.

    Trains a classifier, counts conversions next to random directions of equal length and three baselines, and finds
    for each converted cell the fewest genes that must change. Writes tables/, figures/, classifier/ and the cells.
    """
    from diffvae import pipeline

    _console.settings.writes(out or result / "perturbation", page=None if out else result)
    found = pipeline.perturb(
        result,
        out,
        source=source,
        target=target or None,
        groupby=groupby,
        n_sd=steps(n_sd) if n_sd else None,
        n_dims=n_dims,
        order=order,
        direction=direction,
        restrict=restrict,
        n_random=n_random,
        seed=seed,
        overwrite=overwrite,
        on_step=_console.step,
    )
    show(found)
    for message in found.summary["warnings"]:
        _console.note(message)
    _console.say(f"Written to {found.path}: tables, figures, classifier, changed_cells.h5ad, summary.json")


def steps(texts: list[str]) -> list[float]:
    """Read ``--n-sd``: numbers, apart by spaces or commas, or in several options."""
    words = " ".join(texts).replace(",", " ").split()
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ValueError(f'--n-sd is {" ".join(texts)!r}; give numbers, such as "0.5 1 2".') from None


def show(found: Changes) -> None:
    """Print conversions and genes, one row per target."""
    targets = found.targets
    first = targets.iloc[0]
    _console.table(
        f"{first['n_cells']} cells of {first['source']} shifted by {first['n_sd']:g} sd: converted, chance (random "
        "directions), baselines, and the fewest genes",
        ["target", "converted", "at 0", "chance", "q", "to mean", "in genes", "genes (median)", "up", "down"],
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
    for sentence in found.summary["verdict"]:
        _console.note(sentence)
