"""``diffvae links``: which cells of an existing result are linked, and which progenitors have begun to commit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o

if TYPE_CHECKING:
    from diffvae.pipeline import Links

NAME = "links"
EXAMPLE = (
    'Examples:  diffvae links results --overwrite --source "CD34+"   ·   '
    "diffvae links results --k 1 --out links_k1   ·   "
    "diffvae links results --overwrite --source HSPC --target Monocyte --target Erythrocyte --conv gat"
)
K = Annotated[int, typer.Option("--k", min=1, help="Most similar cells to which each cell is joined.")]


def command(
    result: Annotated[Path, typer.Argument(help="Folder that 'diffvae run' wrote.")],
    k: K = 5,
    source: Annotated[
        str | None, typer.Option("--source", help="Progenitor type, to call its cells by their links.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="Mature type; repeat it for more. All others by default.")
    ] = None,
    groupby: Annotated[
        str | None, typer.Option("--groupby", help="Types in obs; by default the labels or names of the run.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Most probable links to keep per cell.")] = 15,
    preset: o.Preset = "default",
    conv: Annotated[str | None, typer.Option("--conv", help="Convolutions: gcn, gat or sage.")] = None,
    joint_weight: Annotated[
        float | None, typer.Option("--joint-weight", min=0, help="Explain expression from the same latent as well.")
    ] = None,
    max_epochs: Annotated[int | None, typer.Option("--max-epochs", min=1, help="Passes over the graph.")] = None,
    device: o.Device = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for what is found; RESULT/links by default.")
    ] = None,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Predict links between cells with Graph-DiffVAE, beside what chance and Pearson's correlation give.

    Joins similar cells, trains on that graph with a tenth of its edges hidden, predicts links with calibrated
    probabilities, counts them between types, and calls each progenitor uncommitted, biased or bipotent.
    """
    from diffvae import pipeline

    _console.settings.writes(out or result / "links", page=None if out else result)
    found = pipeline.links(
        result,
        out,
        source=source,
        target=target or None,
        groupby=groupby,
        k=k,
        top_k=top_k,
        preset=preset,
        conv=conv,
        joint_weight=joint_weight,
        max_epochs=max_epochs,
        device=device,
        seed=seed,
        overwrite=overwrite,
        on_step=_console.step,
    )
    show(found)
    for message in found.summary["warnings"]:
        _console.note(message)
    _console.say(f"Written to {found.path}: model, tables, figures, cells.h5ad, summary.json")


def show(found: Links) -> None:
    """Print what links what: types beyond chance, and progenitors by their calls."""
    links = found.summary["links"]
    if found.types is not None and links["n_called"]:
        predicted = found.types[found.types["graph"] == found.types["graph"].iloc[-1]]
        across = predicted[(predicted["type_1"] != predicted["type_2"]) & (predicted["n_links"] > 0)]
        _console.table(
            f"{links['n_called']:,} links called, {links['n_new']:,} of them new (graph: {links['n_input']:,} edges); "
            "the most linked pairs of different types, beside chance (degrees kept)",
            ["type", "type", "links", "expected", "z", "q"],
            (
                (r.type_1, r.type_2, r.n_links, f"{r.expected:.1f}", f"{r.z:.1f}", f"{r.q_value:.2g}")
                for r in across.sort_values("z", ascending=False).head(10).itertuples()
            ),
        )
    if found.summary["calls"] is not None:
        predicted, pearson = found.summary["calls"]["predicted"], found.summary["calls"]["pearson"]
        names = sorted({*predicted, *pearson}, key=lambda n: (-predicted.get(n, 0), n))
        _console.table(
            "Progenitors by their links (and by as many Pearson neighbours, without a model)",
            ["call", "cells", "by Pearson"],
            ((name, predicted.get(name, 0), pearson.get(name, 0)) for name in names),
        )
    for sentence in found.summary["verdict"]:
        _console.note(sentence)
