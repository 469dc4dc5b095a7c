"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything; the same seed gives the same tables.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result of diffvae.")]
CheckpointEvery = Annotated[
    int | None,
    typer.Option(
        "--checkpoint-every",
        min=1,
        help="Keep the training every so many epochs in OUT.checkpoint; without it only when it is interrupted.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from OUT.checkpoint, bit for bit; begins where there is none.")
]
Transpose = Annotated[
    bool | None,
    typer.Option(
        "--transpose/--no-transpose",
        help="Genes are in rows / cells are; by default cells, and a table that plainly has genes there is refused.",
    ),
]
Layer = Annotated[str | None, typer.Option("--layer", help="Layer with the expression values; X by default.")]
Preset = Annotated[
    str, typer.Option("--preset", help="default; paper (the equations); code (what the authors released).")
]
NLatent = Annotated[int, typer.Option("--n-latent", min=1, help="Latent dimensions.")]
NTopGenes = Annotated[int, typer.Option("--n-top-genes", min=1, help="Variable genes to keep.")]
MaxEpochs = Annotated[
    int | None,
    typer.Option("--max-epochs", min=1, help="Passes over the training cells; 100, or more where cells are few."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=2, help="Cells per step.")]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Learning rate; the preset's by default.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
Markers = Annotated[
    str,
    typer.Option(
        "--markers",
        help="Marker table: a CSV/TSV file, a bundled name (blood-human, blood-mouse, blood-zebrafish, islet-human, "
        "islet-mouse), or auto.",
    ),
]
NClusters = Annotated[str, typer.Option("--n-clusters", help="auto (by stability) or a number.")]


def _cluster_methods() -> list[str]:
    from diffvae.tl._cluster import CLUSTERERS  # too slow to import for --help

    return list(CLUSTERERS)


ClusterMethod = Annotated[
    str,
    typer.Option(
        "--cluster-method",
        help="leiden, kmeans or another method of diffvae.tl.cluster.",
        autocompletion=_cluster_methods,
    ),
]
ClusterOn = Annotated[str, typer.Option("--cluster-on", help="latent or tsne.")]
Model = Annotated[Path, typer.Option("--model", help="Folder of a saved model (RESULT/model).")]
Input = Annotated[
    Path, typer.Argument(help=".h5ad, 10x .h5 or folder, .mtx, .csv/.tsv(.gz), .loom, .zarr; cells in rows.")
]


Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT...",
        help=".h5ad, 10x .h5 or folder, .mtx, .csv/.tsv(.gz), .loom, .zarr; cells in rows. Several .h5ad or .zarr: one "
        "atlas in shards, genes matched by name.",
    ),
]
Backed = Annotated[
    bool | None,
    typer.Option(
        "--backed/--in-memory",
        help="Leave the cells of .h5ad or .zarr on disk and read them in blocks; by default where they would take more "
        "than half of the free memory or are more than 200,000.",
    ),
]


def number_of_clusters(text: str) -> int | str:
    """Read ``--n-clusters``."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--n-clusters is {text!r}; it is 'auto' or a whole number.") from None


def one_or_several(data: list[Path] | None) -> Any:
    """Return the one file, the list of several, or None."""
    return data[0] if data is not None and len(data) == 1 else data or None


def refuse_file(path: Path, overwrite: bool) -> None:
    """Refuse a file to write that is there already or isn't named .h5ad, before anything is computed."""
    if path.suffix != ".h5ad":
        raise ValueError(f"--out is '{path}'; the file is an AnnData, so its name ends in .h5ad.")
    if path.exists() and not overwrite:
        raise ValueError(f"'{path}' is there already; name another file or pass --overwrite.")
