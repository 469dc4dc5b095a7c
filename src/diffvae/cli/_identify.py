"""``diffvae identify``: new clusters and names for an existing result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o
from diffvae.cli._run import show

NAME = "identify"
EXAMPLES = ("diffvae identify results --out results_kmeans --cluster-method kmeans --n-clusters 8",)


def command(
    result: o.Result,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the new result.")],
    label_key: o.LabelKey = None,
    markers: o.Markers = "auto",
    gene_symbols: o.GeneSymbols = None,
    n_clusters: o.NClusters = "auto",
    cluster_method: o.ClusterMethod = "leiden",
    cluster_on: o.ClusterOn = "latent",
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Cluster and name the cells of a result again, without training.

    The model and the latent representation are those of the result, which is not changed.
    """
    options = o.arguments(locals(), n_clusters=o.number_of_clusters(n_clusters))
    from diffvae import pipeline

    _console.settings.writes(out, page=out)
    show(pipeline.identify_again(options.pop("result"), **options, on_step=_console.step))
