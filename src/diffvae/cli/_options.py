"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer


def existing(paths: Any) -> Any:
    """Return paths that exist; refuse others at once, because importing what reads them takes seconds."""
    for path in paths if isinstance(paths, list) else [paths]:
        try:
            if path is not None:
                os.lstat(path.expanduser())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            raise FileNotFoundError(f"There is no file or folder {str(path)!r}.") from None
        except (OSError, RuntimeError):
            pass  # a name that is too long or a home of nobody: what reads it says so
    return paths


def openable(paths: Any) -> Any:
    """Return files of cells; refuse those that can't be read at once, as :func:`existing` does."""
    from diffvae._core.io.openable import require_openable

    for path in paths if isinstance(paths, list) else [paths]:
        if path is not None:
            require_openable(Path(os.path.expanduser(path)))
    return paths


Result = Annotated[Path, typer.Argument(help="Folder that 'diffvae run' wrote.", callback=existing)]
OutFile = Annotated[Path, typer.Option("--out", "-o", help="Output file, .h5ad.")]
LabelKey = Annotated[
    str | None,
    typer.Option(
        "--label-key",
        help="Column of obs with types or other labels: for scores, and the types of perturbation, classifier and "
        "links; not used in training. Default: the column that has --source, if any.",
    ),
]
BatchKey = Annotated[
    str | None,
    typer.Option(
        "--batch-key",
        help="Column of obs with the batches (donors, runs, labs) whose effect is removed; of several files, file.",
    ),
]
Covariates = Annotated[
    list[str] | None,
    typer.Option("--covariate", help="Another column of obs that the model should see; repeat the option."),
]
GroupBy = Annotated[
    str | None,
    typer.Option("--groupby", help="Column of obs with types. Default: reference labels or cluster names of the run."),
]
Earlier = Annotated[
    list[str] | None,
    typer.Option(
        "--earlier", help="Type that is upstream of the source, so no fate of it; repeat the option for more."
    ),
]
NWorkers = Annotated[
    int | None,
    typer.Option("--n-workers", min=1, help="Number of processes on this machine (Dask); results are the same."),
]
NJobs = Annotated[
    int | None,
    typer.Option(
        "--n-jobs",
        min=1,
        max=2,
        help="Number of processes: 1, or 2 to compute independent steps side by side; the tables are the same. "
        "Default: 2 if cores and memory are free and the data are not small.",
    ),
]
Clusterings = Annotated[int, typer.Option("--clusterings", min=1, help="Number of clusterings and maps per training.")]
TableNLatent = Annotated[
    list[int] | None,
    typer.Option("--n-latent", min=1, help="Number of latent dimensions; repeat the option. Default: 20, 50 and 100."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Random seed; the same seed gives the same tables.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")]
CheckpointEvery = Annotated[
    int | None,
    typer.Option(
        "--checkpoint-every",
        min=1,
        help="Number of epochs between two checkpoints (OUT.checkpoint). Default: a checkpoint only on an interrupt.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue from OUT.checkpoint with identical results, or start if there is none."),
]
Transpose = Annotated[
    bool | None,
    typer.Option(
        "--transpose/--no-transpose",
        help="Genes are in rows / cells are in rows. Default: cells; a file that clearly has genes in rows is refused.",
    ),
]
Layer = Annotated[str | None, typer.Option("--layer", help="Layer with the expression values. Default: X.")]
UseRaw = Annotated[bool, typer.Option("--use-raw", help="Take values and genes of adata.raw, instead of X.")]
GeneSymbols = Annotated[
    str | None,
    typer.Option(
        "--gene-symbols", help="Column of var that names the genes, where var_names are identifiers (ENSG...)."
    ),
]
Genome = Annotated[
    str | None,
    typer.Option("--genome", help="Genome of the genes to keep, where cells of several species were mapped together."),
]
Values = Annotated[
    str | None,
    typer.Option("--values", help="What the values are: counts, normalised or log. Default: they are examined."),
]
MinGenes = Annotated[
    int | None,
    typer.Option(
        "--min-genes",
        min=1,
        help="Leave out cells that express fewer genes, such as empty droplets. Default: all cells are kept.",
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(
        "--patience",
        min=1,
        help="Stop after this many epochs without a lower validation loss. Default: as the preset does.",
    ),
]
Preset = Annotated[
    str,
    typer.Option("--preset", help="Hyper-parameters: default, paper (its equations) or code (the authors' software)."),
]
NLatent = Annotated[int, typer.Option("--n-latent", min=1, help="Number of latent dimensions.")]
NTopGenes = Annotated[int, typer.Option("--n-top-genes", min=1, help="Number of highly variable genes to use.")]
MaxEpochs = Annotated[
    int | None,
    typer.Option("--max-epochs", min=1, help="Maximum number of epochs. Default: 100, or more for few cells."),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=2, help="Number of cells per training step. Default: that of the preset."),
]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Learning rate. Default: that of the preset.")]
Device = Annotated[str, typer.Option("--device", help="Where to train: auto, cpu, cuda, cuda:1, ...")]
Markers = Annotated[
    str,
    typer.Option(
        "--markers",
        help="Marker genes: a CSV/TSV file with the columns cell_type and gene, a bundled table (blood-human, "
        "blood-mouse, blood-zebrafish, endocrine-mouse, islet-human, islet-mouse), or auto.",
    ),
]
NClusters = Annotated[str, typer.Option("--n-clusters", help="Number of clusters, or auto (the most stable number).")]


def _cluster_methods() -> list[str]:
    from diffvae.tl._cluster import CLUSTERERS  # too slow to import for --help

    return list(CLUSTERERS)


ClusterMethod = Annotated[
    str,
    typer.Option(
        "--cluster-method",
        help="Clustering method: leiden, kmeans or another one of diffvae.tl.cluster.",
        autocompletion=_cluster_methods,
    ),
]
ClusterOn = Annotated[
    str, typer.Option("--cluster-on", help="Cluster in the latent space (latent) or on the map (tsne).")
]
Model = Annotated[Path, typer.Option("--model", help="Folder of a saved model (RESULT/model).", callback=existing)]
Input = Annotated[
    Path,
    typer.Argument(
        help=".h5ad, 10x .h5 or folder, .mtx, .csv/.tsv(.gz), .loom, .zarr; cells in rows.", callback=openable
    ),
]


Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT...",
        help=".h5ad, 10x .h5 or folder, .mtx, .csv/.tsv(.gz), .loom or .zarr; cells in rows. Several .h5ad or .zarr "
        "are read as one atlas, genes matched by name.",
        callback=openable,
    ),
]
Backed = Annotated[
    bool | None,
    typer.Option(
        "--backed/--in-memory",
        help="Leave .h5ad or .zarr on disk and read cells in blocks / read them into memory. Default: on disk if they "
        "would take more than half of the free memory or are more than 200,000.",
    ),
]


def arguments(options: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Return the options of a command as arguments of the function of the same name, some of them converted."""
    return {name: value for name, value in options.items() if value != []} | others


def number_of_clusters(text: str) -> int | str:
    """Read ``--n-clusters``."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--n-clusters is {text!r}; it is 'auto' or a whole number.") from None


def one_or_several(data: list[Path] | None) -> Any:
    """Return one file as a path, several as a list, or None."""
    return data[0] if data is not None and len(data) == 1 else data or None


def refuse_file(path: Path, overwrite: bool) -> None:
    """Refuse an output file that exists or is not named .h5ad, before anything is computed."""
    if path.suffix != ".h5ad":
        raise ValueError(f"--out is '{path}'; the output is an AnnData file, so its name ends in .h5ad.")
    if path.exists() and not overwrite:
        raise ValueError(f"'{path}' exists already; name another file or pass --overwrite.")
