"""``diffvae run``: from a file to named cell types."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o
from diffvae.cli._links import K, MinCore
from diffvae.cli._links import show as show_links
from diffvae.cli._perturb import SOURCE, Target
from diffvae.cli._perturb import show as show_changes

if TYPE_CHECKING:
    from diffvae.pipeline import Result

NAME = "run"
EXAMPLES = (
    "diffvae run --out demo",
    "diffvae run mydata.h5ad --out results --label-key cell_type",
    "diffvae run filtered_feature_bc_matrix.h5 --out results --markers my_markers.csv",
)


def command(
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[INPUT]...",
            help=".h5ad, 10x .h5 or folder, .mtx, .csv/.tsv(.gz), .loom or .zarr; without it, bundled cells of the "
            "developing pancreas. Several .h5ad or .zarr are read as one atlas, genes matched by name.",
            callback=o.openable,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("diffvae_results"),
    backed: o.Backed = None,
    subsample: Annotated[
        int, typer.Option("--subsample", help="With cells on disk: size of the sample for map, clusters and links.")
    ] = 20_000,
    label_key: o.LabelKey = None,
    markers: o.Markers = "auto",
    transpose: o.Transpose = None,
    layer: o.Layer = None,
    use_raw: o.UseRaw = False,
    gene_symbols: o.GeneSymbols = None,
    genome: o.Genome = None,
    values: o.Values = None,
    min_genes: o.MinGenes = None,
    n_top_genes: o.NTopGenes = 2000,
    batch_key: o.BatchKey = None,
    covariates: o.Covariates = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="JSON file with hyper-parameters, such as the best.json of 'diffvae tune'."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", help="Hyper-parameters: default, paper (its equations) or code (the authors' software)."
        ),
    ] = None,
    n_latent: Annotated[
        int | None, typer.Option("--n-latent", min=1, help="Number of latent dimensions. Default: 50.")
    ] = None,
    n_clusters: o.NClusters = "auto",
    cluster_method: o.ClusterMethod = "leiden",
    cluster_on: o.ClusterOn = "latent",
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            help=f"Cell type to perturb, a progenitor for example; {SOURCE}. Fates are those of the last one.",
        ),
    ] = None,
    target: Target = None,
    earlier: o.Earlier = None,
    min_core: MinCore = None,
    links: Annotated[
        bool,
        typer.Option("--links/--no-links", help="Predict links between cells and rank fates; see 'diffvae links'."),
    ] = True,
    k: K = None,
    max_epochs: o.MaxEpochs = None,
    batch_size: o.BatchSize = None,
    lr: o.LearningRate = None,
    patience: o.Patience = None,
    n_jobs: o.NJobs = None,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
    checkpoint_every: o.CheckpointEvery = None,
    resume: o.Resume = False,
) -> None:
    """Go from an expression matrix to named cell types, with the evidence for each name.

    Normalises the data, trains DiffVAE, clusters the cells, finds the latent dimensions and genes that distinguish the
    clusters, names the clusters by marker genes, and predicts links between cells. Writes report.html, results.h5ad,
    model/, tables/, figures/, links/ and summary.json.
    """
    options = o.arguments(locals(), data=o.one_or_several(data), n_clusters=o.number_of_clusters(n_clusters))
    from diffvae import pipeline

    if not data and not source and not target and not earlier and label_key is None:
        options |= demonstrated(min_core)
    _console.settings.writes(out, resumes=True, page=out)
    result = pipeline.run(**options, on_step=_console.step)
    show(result)


def demonstrated(min_core: float | None) -> dict[str, Any]:
    """Return source, targets and earlier types of the bundled cells, and say which they are."""
    from diffvae.datasets._bundled import DEMO

    types = {name: given for name, given in DEMO.items() if isinstance(given, list)}
    words = [word for name, given in types.items() for type_ in given for word in (f"--{name}", type_)]
    asked = {**DEMO, "min_core": DEMO["min_core"] if min_core is None else min_core}
    words += ["--min-core", str(asked["min_core"])]
    _console.step(f"No file is given: bundled cells of the developing mouse pancreas, with {shlex.join(words)}")
    return asked


def show(result: Result) -> None:
    """Print clusters, scores, warnings and the output folder."""
    summary = result.summary
    clusters = result.clusters
    named = clusters["cell_type"] != "unassigned"
    n_uncertain = int((named & ~clusters["confident"].astype(bool)).sum())
    doubt = f", {n_uncertain} of them uncertain" if n_uncertain else ""
    sample = f"{summary['sample']['n_drawn']:,} sampled of " if "sample" in summary else ""
    _console.table(
        f"{sample}{summary['n_cells']:,} cells of {summary['source']} in {len(clusters)} clusters, {named.sum()} "
        f"named{doubt} (markers: {summary['markers'] or 'no table fits the genes'})",
        ["cluster", "cells", "cell type", "q", "marker genes", "dimensions", "genes raised by the decoder"],
        (
            (
                c.cluster,
                c.n_cells,
                [
                    *map(_console.short, c.cell_type.split()),
                    *(["?"] if not c.confident and c.cell_type != "unassigned" else []),
                ],
                "" if c.q_value != c.q_value else f"{c.q_value:.2g}",  # NaN: no markers to compare
                c.marker_genes.replace(",", " ").split(),
                c.dimensions.replace(",", "").split(),
                c.genes_up.replace(",", "").split(),
            )
            for c in clusters.itertuples()
        ),
    )
    if result.scores is not None:
        show_scores(result)
    integration = summary["integration"]
    if integration is not None:
        show_integration(integration)
    said = [] if integration is None else integration["verdict"]
    for message in summary["warnings"]:
        _console.warn(message)
    for message in [*summary["diagnosis"]["messages"], *summary["verdict"], *said]:
        _console.note(message)
    if result.changes is not None:
        show_changes(result.changes)
    if result.links is not None:
        show_links(result.links)
    if result.path is not None:
        _console.say(f"Written to {result.path}: results.h5ad, model, tables, figures, summary.json")
        if (result.path / "report.html").is_file():
            _console.say(f"Report: {result.path / 'report.html'}")


def show_scores(result: Result) -> None:
    """Print a table of scores by methods."""
    assert result.scores is not None
    wide: dict[str, dict[str, str]] = {}
    for row in result.scores.itertuples():
        spread = f" ± {row.sd:.3f}" if row.n > 1 else ""
        wide.setdefault(row.score, {})[row.method] = f"{row.mean:.3f}{spread}"
    methods = ["DiffVAE", "PCA", "null"]
    _console.table(
        f"Agreement with obs[{result.summary['parameters']['label_key']!r}] (mean ± sd over repeats)",
        ["score", *methods],
        ([score, *(values.get(m, "") for m in methods)] for score, values in wide.items()),
    )


def show_integration(integration: dict[str, Any]) -> None:
    """Print both sides of integration, beside PCA without it."""
    _console.table(
        f"Integration over obs[{integration['batch_key']!r}] (0 to 1, 1 is best)",
        ["side", "score", "DiffVAE", "PCA, no integration", "permuted"],
        (
            [
                row["side"],
                row["score"],
                *("" if row[name] is None else f"{row[name]:.3f}" for name in ("latent", "pca", "permuted")),
            ]
            for row in integration["scores"]
        ),
    )
