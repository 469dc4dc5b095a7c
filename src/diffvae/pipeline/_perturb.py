"""Perturbation: which types the cells of a source turn into, and through which genes, compared with chance."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, tl
from diffvae._core.anndata import results
from diffvae._core.io import folders
from diffvae._core.runtime import StepLog, in_one_thread, versions
from diffvae._core.validate import check
from diffvae.pipeline._checks import RULES
from diffvae.pipeline._folder import OpenedResult, Verdict, sentences, write_figures, write_summary, write_tables
from diffvae.tl import _minimal_genes, _perturb

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model
    from diffvae.tl import MinimalGenes, Perturbation

N_SD = (0.25, 0.5, 1.0, 1.5, 2.0)
N_EFFECTS = 50
"""Genes per target in the table of effects."""
OPTIONS = ("source", "target", "n_dims", "order", "direction", "restrict", "n_random", "seed")
"""Parameters of :func:`perturb` that :func:`run_perturbation` takes as well."""

VERDICT: Verdict = (
    (
        lambda n: True,
        "Targets with more conversions than by chance (q < 0.05; null: random directions of equal length): {beyond}.",
    ),
    (
        lambda n: n["n_targets"] / (n["n_random"] + 1) >= 0.05,
        "With {n_random} random directions and {n_targets} targets, a single conversion cannot reach q < 0.05; "
        "increase n_random.",
    ),
    (
        lambda n: n["n_better_mean"] > 0,
        "For {n_better_mean} of {n_targets} targets, a step of equal length towards the latent mean of the target "
        "converts more cells than the shift.",
    ),
    (
        lambda n: n["n_better_expression_mean"] > 0,
        "For {n_better_expression_mean} of {n_targets} targets, an interpolation between the mean expressions of both "
        "types, without a model, converts more cells than the shift.",
    ),
    (
        lambda n: n["by_de_genes"] != "",
        "For {by_de_genes}, an equal number of top differentially expressed genes flips all of these cells as well.",
    ),
)
"""Conditions on the numbers of a result, and the sentences that they add."""


@dataclass
class Changes:
    """The result of a perturbation of one source towards all targets.

    Attributes
    ----------
    classifier, perturbation
        See :class:`diffvae.model.CellStateClassifier` and :func:`diffvae.tl.perturb`.
    minimal
        Result of :func:`diffvae.tl.minimal_genes` by target.
    targets
        One row per target: conversions, by chance and by the baselines, and the genes.
    summary
        Parameters, evaluation of the classifier, verdict.
    path
        The folder, if one was written.

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(100, 40)
    >>> result = dv.pipeline.run(
    ...     cells, label_key="cell_type", n_clusters=4, cluster_method="kmeans", n_latent=5, max_epochs=2,
    ...     links=False, source="HSPC", target=["MEP"], progress=False,
    ... )
    >>> result.changes.targets["target"].tolist()
    ['MEP']
    """

    classifier: CellStateClassifier
    perturbation: Perturbation
    minimal: dict[str, MinimalGenes]
    targets: pd.DataFrame
    summary: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


@in_one_thread
def run_perturbation(
    adata: AnnData,
    model: Model,
    *,
    source: str,
    target: Sequence[str] | None,
    groupby: str,
    n_sd: Sequence[float] = N_SD,
    n_dims: int = 5,
    order: str = "effect",
    direction: str = "both",
    restrict: Sequence[str] | str | PathLike[str] | None = None,
    n_random: int = 200,
    seed: int = 0,
    log: StepLog | None = None,
    progress: bool = True,
) -> Changes:
    """Train the classifier, shift the source towards each target, and find the smallest sets of genes that do it."""
    arguments = locals()
    parameters = {name: arguments[name] for name in ("groupby", *OPTIONS)}
    from diffvae.model import CellStateClassifier

    check(RULES, order=order, direction=direction, n_random=n_random, n_dims=n_dims, seed=seed)
    _perturb.step_sizes(n_sd)
    _minimal_genes.allowed_genes(model.gene_names, restrict)
    log = log or StepLog(lambda step: None)
    with log.step("train the classifier"):
        classifier = CellStateClassifier()
        classifier.train(adata, groupby, layer=model.features.layer, rng=seed, progress=progress)
    for name, n in classifier.dropped.items():
        log.warnings.append(
            f"{name} is left out: it has {n} cells, but the classifier needs at least {classifier.min_cells}."
        )
    with log.step("shift latent dimensions"):
        perturbation = tl.perturb(
            adata, model, classifier, source=source, target=target, n_sd=n_sd, n_dims=n_dims, n_random=n_random,
            rng=seed, progress=progress,
        )  # fmt: skip
    with log.step("find the fewest genes"):
        minimal = {
            name: tl.minimal_genes(
                adata, model, classifier, source=source, target=name, n_sd=max(n_sd), n_dims=n_dims, order=order,
                direction=direction, restrict=restrict, n_random=n_random, rng=seed, progress=progress,
            )
            for name in perturbation.targets
        }  # fmt: skip
    results(adata).pop("minimal_genes", None)  # of the last target only; the tables have all targets
    targets = target_table(perturbation, minimal)
    parameters["n_sd"] = [float(v) for v in perturbation.n_sd]
    if restrict is not None:
        n_allowed = max((int(m.params["n_allowed"]) for m in minimal.values()), default=0)
        parameters["restrict"] = f"{n_allowed} of the model's genes"
    summary = {
        "parameters": parameters,
        "classifier": classifier.evaluation.to_dict() | {"dropped": classifier.dropped},
        "targets": json.loads(targets.to_json(orient="records")),
        "verdict": [str(classifier.evaluation), *verdict(targets, n_random)],
    }
    return Changes(classifier, perturbation, minimal, targets, summary)


def target_table(perturbation: Perturbation, minimal: dict[str, MinimalGenes]) -> pd.DataFrame:
    """Return one row per target at the largest step: conversions, null and baselines, and the genes."""
    table = perturbation.table
    last = table[table["n_sd"] == max(perturbation.n_sd)].set_index(["target", "method"])
    rows = []
    for target, result in minimal.items():
        shift = last.loc[(target, perturbation.methods[0])]
        sizes, genes = result.cells["n_genes"], result.genes
        flipped = result.baselines.set_index("genes")["flipped"]
        rows.append(
            {
                "source": shift["source"],
                "target": target,
                "n_sd": shift["n_sd"],
                "n_cells": int(shift["n_cells"]),
                **{name: shift[name] for name in ("converted", "converted_at_0", "null_mean", "q_value")},
                **{f"converted_{m}": last.loc[(target, m), "converted"] for m in perturbation.methods[1:]},
                "n_flipped": len(sizes),
                "median_n_genes": float(sizes.median()) if len(sizes) else np.nan,
                "flipped_by_de_genes": flipped["differentially expressed"],
                "flipped_by_random_genes": flipped["random"],
                "genes_up": ", ".join(genes.loc[genes["direction"] == "up", "gene"].head(5)),
                "genes_down": ", ".join(genes.loc[genes["direction"] == "down", "gene"].head(5)),
            }
        )
    return pd.DataFrame(rows)


def verdict(targets: pd.DataFrame, n_random: int) -> list[str]:
    """Say which conversions chance does not explain, and where a simpler method does as well."""
    beyond = (targets["q_value"] < 0.05) & (targets["converted"] > targets["converted_at_0"])
    numbers = {
        "beyond": ", ".join(targets.loc[beyond, "target"]) or "none",
        "n_targets": len(targets),
        "n_random": n_random,
        "by_de_genes": ", ".join(targets.loc[targets["flipped_by_de_genes"] >= 1, "target"]),
    }
    for method in ("mean", "expression_mean"):
        numbers[f"n_better_{method}"] = int((targets[f"converted_{method}"] > targets["converted"]).sum())
    return sentences(VERDICT, numbers)


@in_one_thread
def perturb(
    path: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    source: str,
    target: Sequence[str] | None = None,
    groupby: str | None = None,
    n_sd: Sequence[float] | None = None,
    n_dims: int = 5,
    order: str = "effect",
    direction: str = "both",
    restrict: Sequence[str] | str | PathLike[str] | None = None,
    n_random: int = 200,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    on_step: Callable[[str], None] = lambda step: None,
) -> Changes:
    """Perturb cells of an existing result: which types they turn into, and through which genes.

    Parameters
    ----------
    path
        Folder that :func:`diffvae.pipeline.run` wrote.
    out
        Output folder; None for ``perturbation`` in ``path``.
    source
        Type whose cells are shifted.
    target
        Types that they should turn into; None for all other types.
    groupby
        Key in ``obs`` of the types; None for the reference labels of the run, or for the names of its clusters if it
        has none.
    n_sd, n_dims, n_random
        See :func:`diffvae.tl.perturb`; None for 0.25, 0.5, 1, 1.5 and 2 standard deviations. The smallest
        sets of genes are searched at the largest ``n_sd``.
    order, direction, restrict
        See :func:`diffvae.tl.minimal_genes`.
    seed
        The same seed gives the same tables.
    overwrite
        Replace an earlier result in ``out``.
    progress, on_step
        As in :func:`diffvae.pipeline.run`.

    Returns
    -------
    Changes

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(100, 40)
    >>> _ = dv.pipeline.run(
    ...     cells, "results", label_key="cell_type", n_clusters=4, cluster_method="kmeans", n_latent=5, max_epochs=2,
    ...     links=False, progress=False,
    ... )
    >>> changes = dv.pipeline.perturb("results", source="HSPC", target=["MEP"], n_random=5, progress=False)
    >>> changes.targets["target"].tolist()
    ['MEP']
    """
    arguments = dict(locals())
    with OpenedResult(path, out, _keys.PERTURBATION_FOLDER, overwrite, on_step) as opened:
        adata, model, run_summary = opened.read()
        options = {name: arguments[name] for name in OPTIONS}
        changes = run_perturbation(
            adata, model, groupby=groupby or type_key(run_summary["parameters"]), n_sd=n_sd or N_SD, **options,
            log=opened.log, progress=progress,
        )  # fmt: skip
        changes.summary["command"] = opened.command("perturb", perturb, arguments)
        opened.write(changes, lambda folder: write_into(changes, folder))
    return changes


def type_key(parameters: Mapping[str, Any]) -> str:
    """Return the key of the types of a run: its reference labels, or the names of its clusters."""
    return parameters.get("label_key") or _keys.CELL_TYPE


def write_into(changes: Changes, folder: Path) -> None:
    """Write tables, classifier, changed cells, figures and summary into a folder."""
    import anndata as ad

    from diffvae import pl

    perturbation, minimal = changes.perturbation, changes.minimal
    targets, evaluation = perturbation.targets, changes.classifier.evaluation
    tables = {
        "targets": changes.targets,
        "conversions": perturbation.table,
        "resistance": perturbation.cells(),
        "effects": pd.concat([perturbation.effects(t, None).head(N_EFFECTS).assign(target=t) for t in targets]),
        "minimal_sets": pd.concat([m.cells.assign(target=name) for name, m in minimal.items()]),
        "minimal_genes": pd.concat([m.genes.assign(target=name) for name, m in minimal.items()]),
        "minimal_baselines": pd.concat([m.baselines.assign(target=name) for name, m in minimal.items()]),
        "classifier_types": evaluation.per_type.rename_axis("type").reset_index(),
        "classifier_confusion": evaluation.confusion.rename_axis("type").reset_index(),
    }
    write_tables(tables, folder)
    changes.classifier.save(folder / "classifier")
    changed = [perturbation.to_adata(t, None) for t in targets]
    folders.write_h5ad(ad.concat(changed, merge="same", index_unique="_"), folder / "changed_cells.h5ad")
    flipped = {name: m for name, m in minimal.items() if len(m.cells)}
    if flipped:
        edited = ad.concat([m.to_adata() for m in flipped.values()], merge="same", index_unique="_")
        folders.write_h5ad(edited, folder / "edited_cells.h5ad")
    figures: dict[str, Callable[[], Any]] = {
        "conversion_curves": lambda: pl.conversion_curves(perturbation),
        "plasticity": lambda: pl.plasticity(perturbation, n_sd=max(perturbation.n_sd)),
        "gene_counts": lambda: pl.gene_counts(minimal),
    }
    if _keys.TSNE in perturbation.adata.obsm:
        figures["conversions"] = lambda: pl.conversions(perturbation)
    for name, m in flipped.items():
        figures[f"minimal_genes_{file_name(name)}"] = partial(pl.minimal_genes, m)
    write_figures(figures, folder)
    write_summary(changes.summary | {"versions": versions()}, folder)


def file_name(target: str) -> str:
    """Return a type as part of a file name.

    Examples
    --------
    >>> file_name("CD34+ B")
    'CD34pos_B'
    """
    return "".join(c if c.isalnum() else {"+": "pos", "-": "neg"}.get(c, "_") for c in target)
