"""``diffvae run``: from a file to named cell types."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o
from diffvae.cli._links import K
from diffvae.cli._links import show as show_links
from diffvae.cli._perturb import Target
from diffvae.cli._perturb import show as show_changes

if TYPE_CHECKING:
    from diffvae.pipeline import Result

NAME = "run"
EXAMPLE = (
    "Examples:  diffvae run --out demo   ·   diffvae run mydata.h5ad --out results --label-key cell_type   ·   "
    "diffvae run filtered_feature_bc_matrix.h5 --out results --markers my_markers.csv"
)


def command(
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[INPUT]...",
            help=".h5ad, 10x .h5 or folder, .mtx, .csv/.tsv(.gz), .loom, .zarr; bundled real data without it. Several "
            ".h5ad or .zarr: one atlas in shards, genes matched by name.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("diffvae_results"),
    backed: o.Backed = None,
    subsample: Annotated[
        int, typer.Option("--subsample", help="Cells on which maps, clusters and links are made, of cells on disk.")
    ] = 20_000,
    label_key: Annotated[
        str | None, typer.Option("--label-key", help="Reference labels in obs, for scores only.")
    ] = None,
    markers: o.Markers = "auto",
    transpose: o.Transpose = None,
    layer: o.Layer = None,
    n_top_genes: o.NTopGenes = 2000,
    batch_key: Annotated[
        str | None, typer.Option("--batch-key", help="Batches in obs; variable genes are chosen within each.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Settings of the training as JSON, such as the best.json of 'tune'."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="default; paper (the equations); code (what the authors released)."),
    ] = None,
    n_latent: Annotated[int | None, typer.Option("--n-latent", min=1, help="Latent dimensions; 50 by default.")] = None,
    n_clusters: o.NClusters = "auto",
    cluster_method: o.ClusterMethod = "leiden",
    cluster_on: o.ClusterOn = "latent",
    source: Annotated[
        str | None, typer.Option("--source", help="Type whose cells are to be changed into others; see 'perturb'.")
    ] = None,
    target: Target = None,
    links: Annotated[
        bool, typer.Option("--links/--no-links", help="Predict links between cells with Graph-DiffVAE; see 'links'.")
    ] = True,
    k: K = 5,
    max_epochs: o.MaxEpochs = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=2, help="Cells per step; 128 by default.")
    ] = None,
    lr: o.LearningRate = None,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
    checkpoint_every: o.CheckpointEvery = None,
    resume: o.Resume = False,
) -> None:
    """Go from an expression matrix to named cell types, with the evidence.

    Prepares the data, trains DiffVAE, clusters the cells, finds the latent dimensions and genes that tell the clusters
    apart, names them by markers, and predicts links between cells. Writes report.html, results.h5ad, model/, tables/,
    figures/, links/ and summary.json.
    """
    from diffvae import pipeline

    _console.settings.writes(out, resumes=True, page=out)
    result = pipeline.run(
        o.one_or_several(data),
        out,
        backed=backed,
        subsample=subsample,
        label_key=label_key,
        markers=markers,
        transpose=transpose,
        layer=layer,
        n_top_genes=n_top_genes,
        batch_key=batch_key,
        config=config,
        preset=preset,
        n_latent=n_latent,
        max_epochs=max_epochs,
        batch_size=batch_size,
        lr=lr,
        n_clusters=o.number_of_clusters(n_clusters),
        cluster_method=cluster_method,
        cluster_on=cluster_on,
        source=source,
        target=target or None,
        links=links,
        k=k,
        device=device,
        seed=seed,
        overwrite=overwrite,
        checkpoint_every=checkpoint_every,
        resume=resume,
        on_step=_console.step,
    )
    show(result)


def show(result: Result) -> None:
    """Print what was found and where it is."""
    summary = result.summary
    clusters = result.clusters
    n_named = (clusters["cell_type"] != "unassigned").sum()
    sample = f"{summary['sample']['n_drawn']:,} drawn of " if "sample" in summary else ""
    _console.table(
        f"{sample}{summary['n_cells']:,} cells of {summary['source']} in {len(clusters)} clusters, {n_named} of them "
        f"named (markers: {summary['markers'] or 'none fits'})",
        ["cluster", "cells", "cell type", "q", "marker genes", "dimensions", "genes up by the decoder"],
        (
            (
                c.cluster,
                c.n_cells,
                c.cell_type + ("" if c.confident or c.cell_type == "unassigned" else " ?"),
                "" if c.q_value != c.q_value else f"{c.q_value:.2g}",  # NaN: nothing could be compared
                c.marker_genes.replace(",", " "),
                c.dimensions.replace(",", ""),
                c.genes_up.replace(",", ""),
            )
            for c in clusters.itertuples()
        ),
    )
    if result.scores is not None:
        show_scores(result)
    for message in [*summary["warnings"], *summary["diagnosis"]["messages"], *summary["verdict"]]:
        _console.note(message)
    if result.changes is not None:
        show_changes(result.changes)
    if result.links is not None:
        show_links(result.links)
    if result.path is not None:
        _console.say(f"Written to {result.path}: results.h5ad, model, tables, figures, summary.json")
        if (result.path / "report.html").is_file():
            _console.say(f"The whole story on one page: {result.path / 'report.html'}")


def show_scores(result: Result) -> None:
    """Print the scores, one row each, methods side by side."""
    assert result.scores is not None
    wide: dict[str, dict[str, str]] = {}
    for row in result.scores.itertuples():
        spread = f" ± {row.sd:.3f}" if row.n > 1 else ""
        wide.setdefault(row.score, {})[row.method] = f"{row.mean:.3f}{spread}"
    methods = ["DiffVAE", "PCA", "null"]
    _console.table(
        f"Against obs[{result.summary['parameters']['label_key']!r}] (mean ± sd over repeats)",
        ["score", *methods],
        ([score, *(values.get(m, "") for m in methods)] for score, values in wide.items()),
    )
