"""``diffvae perturb``: which types the cells of an existing result turn into, and through which genes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o
from diffvae.cli._console import MAX_NAME, WIDTH, short

if TYPE_CHECKING:
    import pandas as pd

    from diffvae.pipeline import Changes

NAME = "perturb"
EXAMPLES = (
    'diffvae perturb results --source "CD34+"',
    'diffvae perturb results --source GMP --target Monocyte --target Neutrophil --step "0.5 1" --restrict tf',
    "diffvae perturb results --source all",
)
SOURCE = "repeat the option for more, or give all for every type."
Source = Annotated[
    list[str],
    typer.Option("--source", help=f"Type whose cells are perturbed, a progenitor for example; {SOURCE}"),
]
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
    method: Annotated[
        str,
        typer.Option("--method", help="Direction: mean, shift (the paper's), ot, anchored or expression_mean."),
    ] = "mean",
    step: Annotated[
        list[str] | None,
        typer.Option(
            "--step",
            help='Steps as shares of the distance between the types, such as "0.5 1". Default: 0.25 to 1.5.',
        ),
    ] = None,
    n_sd: Annotated[
        list[str] | None,
        typer.Option("--n-sd", help='Steps in standard deviations instead, as in the paper, such as "0.5 1".'),
    ] = None,
    earlier: o.Earlier = None,
    restrict: Annotated[
        str | None,
        typer.Option("--restrict", help="Genes that may change: tf (transcription factors), or a file, one per line."),
    ] = None,
    groupby: o.GroupBy = None,
    n_dims: Annotated[int, typer.Option("--n-dims", min=1, help="Number of latent dimensions of the shift.")] = 5,
    order: Annotated[
        str, typer.Option("--order", help="Order in which genes are tried: effect, gradient or greedy.")
    ] = "effect",
    direction: Annotated[
        str, typer.Option("--direction", help="Direction in which genes may change: both, up or down.")
    ] = "both",
    n_random: Annotated[int, typer.Option("--n-random", min=1, help="Number of random directions for the null.")] = 200,
    max_epochs: Annotated[
        int | None,
        typer.Option("--max-epochs", min=1, help="Maximum number of epochs of the classifier. Default: 300."),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            min=1,
            help="Stop the classifier after this many epochs without a lower validation loss. Default: 20.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output folder. Default: RESULT/perturbation.")
    ] = None,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Move cells of one or several types through the latent space towards others, compared with chance.

    Trains a classifier of types, counts conversions, lets a second judge look at them, compares them with random
    directions of equal change and with baselines, and finds the smallest set of genes that converts each cell; of
    several sources, only where the type is reached and the way is no jump. Writes tables/, figures/, classifier/ and
    the changed cells.
    """
    sizes = {"step": steps("--step", step), "n_sd": steps("--n-sd", n_sd)}
    options = o.arguments(locals(), **sizes)
    del options["sizes"]
    from diffvae import pipeline

    _console.settings.writes(out or result / "perturbation", page=None if out else result)
    changes = pipeline.perturb(options.pop("result"), **options, on_step=_console.step)
    show(changes)
    for message in changes.summary["warnings"]:
        _console.warn(message)
    _console.say(f"Written to {changes.path}: tables, figures, classifier, changed_cells.h5ad, summary.json")


def steps(option: str, texts: list[str] | None) -> list[float] | None:
    """Read numbers separated by spaces or commas, in one or several options; None without any."""
    if not texts:
        return None
    words = " ".join(texts).replace(",", " ").split()
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ValueError(f'{option} is {" ".join(texts)!r}; give numbers, such as "0.5 1".') from None


def marked(genes: str) -> str:
    """Return genes with a star behind transcription factors."""
    from diffvae.tl._regulators import transcription_factors

    names = genes.split(", ") if genes else []
    return " ".join(n + "*" * bool(tf) for n, tf in zip(names, transcription_factors(names), strict=True))


MAX_PAIRS = 12
"""Most pairs of types whose genes are printed."""


def show(changes: Changes) -> None:
    """Print conversions and genes: one row per target, or per source if there are several; then the verdict."""
    (show_targets if len(changes.perturbation.sources) == 1 else show_sources)(changes)
    for sentence in changes.summary["verdict"]:
        _console.note(sentence)


def show_sources(changes: Changes) -> None:
    """Print how many types are reached from each source, and which are nearest."""
    from diffvae.tl._route import LONG

    map_ = changes.perturbation.plasticity().sort_values("excess_agreed", ascending=False, kind="stable")
    targets = changes.targets.set_index(["source", "target"])
    rows = []
    for source in changes.perturbation.sources:
        own = map_[(map_["source"] == source) & map_["reached"]]
        near = targets.loc[[source]]
        n_near = int((near["reached"] & (near["route"] <= LONG)).sum())
        said = [f"{t.target} {t.excess_agreed:.0%}" for t in own.itertuples()]
        counts = (f"{len(own)} of {len(near)}", n_near)
        rows.append(
            [
                short(source),
                int(near["n_cells"].iloc[0]),
                *counts,
                as_many(said, WIDTH - MAX_NAME - 32),
            ]
        )
    change = f"{map_['change'].iloc[0]:.3g}"
    _console.table(
        f"Types that half of the cells reach, with the share beyond chance at a change of {change}",
        ["source", "cells", "reached", "no jump", "types"],
        rows,
    )
    show_genes(changes.targets)


def as_many(words: Sequence[str], room: int) -> str:
    """Return words in one line of a given length, and how many are left out.

    Examples
    --------
    >>> as_many(["Erythrocyte 90%", "GMP 50%", "HSC 20%"], 30)
    'Erythrocyte 90%, GMP 50%, +1'
    """
    for n in range(len(words), 0, -1):
        left = f", +{len(words) - n}" if n < len(words) else ""
        if len(line := ", ".join(words[:n]) + left) <= room:
            return line
    return "" if not words else f"{words[0][: room - 6]}…" + (f", +{len(words) - 1}" if len(words) > 1 else "")


def show_targets(changes: Changes) -> None:
    """Print conversions of one source, one row per target, and then the genes."""
    targets, unit = changes.targets, changes.perturbation.unit
    first = targets.iloc[0]
    of = "of the distance to the target" if unit == "step" else "sd"
    names = [short(t.target) + " <" * t.earlier for t in targets.itertuples()]
    _console.table(
        f"{first['n_cells']} cells of {first['source']}, moved by the smallest step ({of}) that converts half of them "
        "(? if none does)" + "; < is earlier than the source" * bool(targets["earlier"].any()),
        ["target", "step", "converted", "judge", "chance", "q", "no model", "way", "genes"],
        [
            (
                name,
                f"{getattr(t, unit):.2g}" + ("" if t.reached else " ?"),
                f"{t.converted:.0%}",
                f"{t.judged:.0%}",
                f"{t.null_mean:.0%}" if t.null_mean == t.null_mean else "",
                f"{t.q_value:.2g}" if t.q_value == t.q_value else "",
                f"{t.judged_expression_mean:.0%}",
                f"{t.route:.1f}",
                f"{t.median_n_genes:g}" if t.n_flipped else "",
            )
            for name, t in zip(names, targets.itertuples(), strict=True)
        ],
    )
    show_genes(targets)


def show_genes(targets: pd.DataFrame) -> None:
    """Print the first genes of the minimal sets of each pair of types that has some."""
    several = targets["source"].nunique() > 1
    rows = [
        (
            *([short(t.source)] if several else []),
            short(t.target),
            _few(marked(t.genes_up)),
            _few(marked(t.genes_down)),
        )
        for t in targets.itertuples()
        if t.n_flipped > 0
    ]
    if rows and len(rows) <= MAX_PAIRS:
        title = "Genes of the smallest sets that convert a cell (* transcription factor)"
        _console.table(title, [*(["source"] if several else []), "target", "up", "down"], rows)


def _few(genes: str) -> str:
    """Return the first genes, as many as a quarter of a line holds."""
    return textwrap.shorten(genes, WIDTH // 4, placeholder="")
