"""``diffvae benchmark``: comparison of representations on labelled cells, over repeated trainings."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o

if TYPE_CHECKING:
    from diffvae.benchmark import Comparison

NAME = "benchmark"
EXAMPLES = (
    "diffvae benchmark cells.h5ad --label-key cell_type --out compared --n-workers 2",
    "diffvae benchmark a.h5ad b.h5ad --label-key a=type --label-key b=cluster --out compared --method DiffVAE",
    "the same command again continues an interrupted comparison",
)
DEFAULT_METHODS = ("DiffVAE", "VAE", "AE", "PCA")


def command(
    files: Annotated[
        list[Path], typer.Argument(help="Labelled cells: .h5ad, 10x .h5 or folder, .csv, ...", callback=o.openable)
    ],
    label_key: Annotated[
        list[str],
        typer.Option("--label-key", help="Column of obs with reference labels; NAME=KEY for one file, repeated."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder; finished parts are stored in it.")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="DiffVAE, DiffVAE (paper), DiffVAE (code), VAE, AE, PCA, ICA, Harmony, scVI ...; repeat the option.",
        ),
    ] = None,
    config: Annotated[
        list[Path] | None, typer.Option("--config", help="The best.json of 'diffvae tune', as a further method.")
    ] = None,
    n_latent: o.TableNLatent = None,
    clusterer: Annotated[
        list[str] | None,
        typer.Option(
            "--clusterer",
            help="kmeans, dbscan, gmm, leiden, leiden_posterior or scanpy; repeat the option. Default: all but scanpy.",
        ),
    ] = None,
    space: Annotated[
        list[str] | None, typer.Option("--space", help="latent or tsne; repeat the option. Default: both.")
    ] = None,
    trainings: Annotated[int, typer.Option("--trainings", min=1, help="Number of trainings per method.")] = 5,
    clusterings: o.Clusterings = 10,
    choose_k: Annotated[
        bool, typer.Option("--choose-k", help="Also cluster without the known number of types.")
    ] = False,
    choose_k_of: Annotated[
        list[str] | None,
        typer.Option("--choose-k-of", help="The same for one clusterer, such as leiden; repeat the option."),
    ] = None,
    factor: Annotated[
        list[str] | None,
        typer.Option("--factor", help="Further column of obs for scores of disentanglement; repeat the option."),
    ] = None,
    batch_key: o.BatchKey = None,
    n_top_genes: o.NTopGenes = 2000,
    n_workers: o.NWorkers = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="Address of a Dask scheduler.")] = None,
    seed: o.Seed = 0,
) -> None:
    """Compare DiffVAE with VAE, AE, PCA and others by their clusters (Table 2 of the paper).

    Every method is trained several times on the same splits. Each training is clustered several times, in its latent
    space and on t-SNE maps.
    """
    from diffvae import benchmark
    from diffvae.benchmark._run import CLUSTERERS

    clusterers, spaces = tuple(clusterer or CLUSTERERS), tuple(space or ("latent", "tsne"))
    k_given = k_given_of(choose_k, choose_k_of or [], clusterers, spaces)
    comparison = benchmark.run(
        list(files),
        methods_of(method, config or []),
        label_key=keys_of(label_key),
        n_latent=n_latent or (20, 50, 100),
        clusterers=clusterers,
        spaces=spaces,
        n_trainings=trainings,
        n_clusterings=clusterings,
        k_given=k_given,
        factors=factor or (),
        batch_key=batch_key,
        n_top_genes=n_top_genes,
        out=out,
        n_workers=n_workers,
        scheduler=scheduler,
        rng=seed,
    )
    comparison.command = f"diffvae {shlex.join(sys.argv[1:])}"
    _console.step("write the report")
    with _console.warnings_shown():
        comparison.write(out, overwrite=True)
    show(comparison)
    _console.say(f"Written to {out}: report.md, runs.csv, types.csv, summary.csv, paired.csv, figures")


def methods_of(names: list[str] | None, configs: list[Path]) -> Any:
    """Return the methods by name: those of ``--method``, and DiffVAE with each ``--config``."""
    from diffvae import benchmark

    known = benchmark.methods()
    chosen = names or (list(DEFAULT_METHODS) if not configs else ["DiffVAE", "PCA"])
    if unknown := [n for n in chosen if n not in known]:
        raise ValueError(f"--method is {unknown[0]!r}; the methods are {', '.join(map(repr, known))}.")
    methods: dict[str, Any] = {name: known[name] for name in chosen}
    for path in configs:
        methods[f"DiffVAE ({path.stem})"] = benchmark.configured(path)
    return methods


def keys_of(given: list[str]) -> str | dict[str, str]:
    """Read ``--label-key``: one key for all files, or NAME=KEY for each."""
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    pairs = [text.partition("=") for text in given]
    if wrong := [text for text, (_, sign, key) in zip(given, pairs, strict=True) if not (sign and key)]:
        raise ValueError(
            f"--label-key is {wrong[0]!r}; with several keys, each must be NAME=KEY, where NAME is that of the file."
        )
    return {name: key for name, _, key in pairs}


def k_given_of(choose_k: bool, choose_k_of: list[str], clusterers: tuple[str, ...], spaces: tuple[str, ...]) -> Any:
    """Read ``--choose-k`` and ``--choose-k-of``, and refuse clusterers that they or ``--space`` leave without work."""
    if set(clusterers) == {"leiden_posterior"} and "latent" not in spaces:
        raise ValueError(
            "--clusterer leiden_posterior clusters the latent space only; give --space latent, or another --clusterer."
        )
    if choose_k and choose_k_of:
        raise ValueError("--choose-k is of all clusterers and --choose-k-of of one; give only one of the two.")
    if unknown := [name for name in choose_k_of if name not in clusterers]:
        raise ValueError(
            f"--choose-k-of is {unknown[0]!r}, which is not among the clusterers {', '.join(clusterers)}; choose them "
            "with --clusterer."
        )
    if choose_k_of:
        return dict.fromkeys(choose_k_of, (True, False))
    return (True, False) if choose_k else (True,)


def show(comparison: Comparison) -> None:
    """Print mean and spread over trainings at the main settings, and the verdict."""
    from diffvae import _keys
    from diffvae.benchmark._statistics import at
    from diffvae.metrics import _names

    assert comparison.path is not None
    shown = [m for m in ("ari", "nmi", "overlap") if m in comparison.table][:1]
    shown += [m for m in ("knn_purity",) if m in comparison.table]
    tables = {m: comparison.summary(m) for m in shown}
    for setting in comparison.main_settings():
        entries: dict[tuple[str, str], dict[str, str]] = {}
        for metric, table in tables.items():
            for row in at(table, **{k: setting[k] for k in _names.setting_of(metric) if k in setting}).itertuples():
                entries.setdefault((row.dataset, row.method), {})[metric] = _entry(row.mean, row.sd)
        _console.table(
            f"{_names.setting_name(setting)}: mean ± sd over trainings",
            ["data set", "method", *map(_names.metric_name, shown)],
            ([*key, *(scores.get(m) for m in shown)] for key, scores in entries.items()),
        )
    for sentence in json.loads((comparison.path / _keys.SUMMARY).read_text(encoding="utf-8"))["verdict"]:
        _console.note(re.sub(r"\\(.)", r"\1", sentence.replace("**", "")))  # the report's Markdown as plain text


def _entry(mean: float, sd: float) -> str:
    return f"{mean:.3f}" if sd != sd else f"{mean:.3f} ± {sd:.3f}"
