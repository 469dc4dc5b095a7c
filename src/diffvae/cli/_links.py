"""``diffvae links``: which cells of an existing result are linked, and which progenitors are committed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o

if TYPE_CHECKING:
    import pandas as pd

    from diffvae.pipeline import Links

NAME = "links"
N_FATES = 4
"""Types with the largest mean probability, which are columns of the table of fates."""
MAX_Q = 0.05
"""Pairs of types with a smaller q-value and more links than expected are printed."""
EXAMPLES = (
    'diffvae links results --overwrite --source "CD34+"',
    "diffvae links results --k 30 --out links_k30",
    "diffvae links results --overwrite --source HSPC --target Monocyte --target Erythrocyte --conv gat",
)
K = Annotated[
    int | None,
    typer.Option("--k", min=1, help="Number of most similar cells to which each cell is joined. Default: 15."),
]


MinCore = Annotated[
    float | None,
    typer.Option("--min-core", help="Least share of uncommitted progenitors: 0.1 if most are committed. Default: 0.6."),
]


def command(
    result: o.Result,
    k: K = None,
    source: Annotated[
        str | None, typer.Option("--source", help="Progenitor type: which of its cells are committed?")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="Mature type; repeat the option for more. Default: all other types."),
    ] = None,
    earlier: o.Earlier = None,
    groupby: o.GroupBy = None,
    min_core: MinCore = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Number of most probable links to store per cell.")] = 15,
    preset: o.Preset = "default",
    conv: Annotated[str | None, typer.Option("--conv", help="Graph convolution: gcn, gat or sage.")] = None,
    joint_weight: Annotated[
        float | None,
        typer.Option("--joint-weight", min=0, help="Weight of decoding expression from the same latent space."),
    ] = None,
    max_epochs: Annotated[int | None, typer.Option("--max-epochs", min=1, help="Maximum number of epochs.")] = None,
    device: o.Device = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Output folder. Default: RESULT/links.")] = None,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Predict links between cells with Graph-DiffVAE, compared with chance and with the similarity of cells.

    Joins similar cells, trains on this graph with 10 % of its edges hidden, predicts links with calibrated
    probabilities, counts links between types, ranks progenitors by their fates, and calls committed ones.
    """
    options = o.arguments(locals())
    from diffvae import pipeline

    _console.settings.writes(out or result / "links", page=None if out else result)
    predicted = pipeline.links(options.pop("result"), **options, on_step=_console.step)
    show(predicted)
    for message in predicted.summary["warnings"]:
        _console.warn(message)
    _console.say(f"Written to {predicted.path}: model, tables, figures, cells.h5ad, summary.json")


def show(links: Links) -> None:
    """Print the most linked pairs of types, the calls of progenitors, and the verdict."""
    numbers, types, calls = links.summary["links"], links.types, links.summary["calls"]
    if types is not None and numbers["n_called"]:
        predicted = types[types["graph"] == types["graph"].iloc[-1]]
        more = (predicted["z"] > 0) & (predicted["q_value"] < MAX_Q)
        pairs = predicted[(predicted["type_1"] != predicted["type_2"]) & more]
        _console.table(
            f"{numbers['n_called']:,} links called, {numbers['n_new']:,} of them new (input graph: "
            f"{numbers['n_input']:,} edges). Pairs of types with more links than by chance",
            ["type", "type", "links", "expected", "z", "q"],
            (
                (
                    _console.short(r.type_1),
                    _console.short(r.type_2),
                    r.n_links,
                    f"{r.expected:.1f}",
                    f"{r.z:.1f}",
                    f"{r.q_value:.2g}",
                )
                for r in pairs.sort_values("z", ascending=False).head(10).itertuples()
            ),
        )
    if calls is not None:
        names = sorted(set().union(*calls.values()), key=lambda n: (-calls["paths"].get(n, 0), n))
        _console.table(
            "Calls of progenitors by paths to later types, by PCA neighbours, and by predicted links",
            ["call", "cells", "cells (PCA)", "cells (links)"],
            (
                (_console.short(name), *(calls[rule].get(name, 0) for rule in ("paths", "pca", "predicted")))
                for name in names
            ),
        )
    if links.fates is not None:
        overall = links.fates[links.fates["group"] == "all"].nlargest(N_FATES, "probability")["type"].tolist()
        _console.table(
            "Fates: mean probability (± standard error) that a random walk from a progenitor ends in a type",
            ["progenitors", "cells", *map(_console.short, overall)],
            (
                (_console.short(name), table["n_cells"].iloc[0], *_chances(table.set_index("type").loc[overall]))
                for name, table in links.fates.groupby("group", sort=False)
            ),
        )
    for sentence in links.summary["verdict"]:
        _console.note(sentence)


def _chances(table: pd.DataFrame) -> list[str]:
    """Return the mean probabilities of a group of progenitors with their standard errors."""
    return [f"{r.probability:.2f} ± {r.se:.2f}" for r in table.itertuples()]
