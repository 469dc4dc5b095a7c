"""The road's second part: what a progenitor can be turned into, through which genes, and would chance do as well."""

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
from diffvae._core.runtime import StepLog, in_one_thread
from diffvae._core.validate import check
from diffvae.pipeline._opened import OpenedResult
from diffvae.tl import _minimal_genes, _perturb

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model
    from diffvae.tl import MinimalGenes, Perturbation

N_SD = (0.25, 0.5, 1.0, 1.5, 2.0)
METHOD_NAMES = {
    "mean": "a step of equal length towards the target's latent mean",
    "expression_mean": "the same part of the way between the types' mean expressions, without a model",
}


@dataclass
class Changes:
    """What a perturbation of one source found, towards all of its targets.

    Attributes
    ----------
    classifier, perturbation
        See :class:`diffvae.model.CellStateClassifier` and :func:`diffvae.tl.perturb`.
    minimal
        Target to the result of :func:`diffvae.tl.minimal_genes`.
    targets
        One row per target: conversions beside chance and baselines, and the genes.
    summary
        Parameters, evaluation of the classifier, sentences.
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
    """Train the classifier, shift the source towards each target, and find the fewest genes that do it."""
    from diffvae.model import CellStateClassifier

    parameters = {k: v for k, v in locals().items() if k not in ("adata", "model", "log", "progress")}
    parameters.pop("CellStateClassifier")
    # what can't work is refused now, not after the training
    _perturb.step_sizes(n_sd)
    check(_minimal_genes.RULES, n_dims=n_dims, order=order, direction=direction, n_random=n_random)
    _minimal_genes.allowed_genes(model.gene_names, restrict)
    log = log or StepLog(lambda step: None)
    with log.step("train the classifier"):
        classifier = CellStateClassifier()
        classifier.train(adata, groupby, layer=model.features.layer, rng=seed, progress=progress)
    for name, n in classifier.dropped.items():
        log.warnings.append(
            f"{name} has {n} cells, fewer than the {classifier.min_cells} that the classifier needs, and is left out."
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
    results(adata).pop("minimal_genes", None)  # of the last target only; the tables have all of them
    targets = target_table(perturbation, minimal)
    parameters["n_sd"] = [float(v) for v in perturbation.n_sd]
    parameters["restrict"] = None if restrict is None else f"{_n_allowed(minimal)} of the model's genes"
    summary = {
        "parameters": parameters,
        "classifier": classifier.evaluation.to_dict() | {"dropped": classifier.dropped},
        "targets": json.loads(targets.to_json(orient="records")),
        "verdict": [str(classifier.evaluation), *verdict(perturbation, targets, n_random)],
    }
    return Changes(classifier, perturbation, minimal, targets, summary)


def _n_allowed(minimal: dict[str, MinimalGenes]) -> int:
    return max((int(m.params["n_allowed"]) for m in minimal.values()), default=0)


def target_table(perturbation: Perturbation, minimal: dict[str, MinimalGenes]) -> pd.DataFrame:
    """Return one row per target, at the largest step: conversions, what stands beside them, and the genes."""
    table = perturbation.table
    last = table[table["n_sd"] == max(perturbation.n_sd)].set_index(["target", "method"])
    rows = []
    for target, found in minimal.items():
        own = last.loc[(target, perturbation.methods[0])]
        genes = found.genes
        sizes = found.cells["n_genes"]
        beside = found.baselines.set_index("genes")["flipped"]
        rows.append(
            {
                "source": own["source"],
                "target": target,
                "n_sd": own["n_sd"],
                "n_cells": int(own["n_cells"]),
                "converted": own["converted"],
                "converted_at_0": own["converted_at_0"],
                "null_mean": own["null_mean"],
                "q_value": own["q_value"],
                **{f"converted_{m}": last.loc[(target, m), "converted"] for m in perturbation.methods[1:]},
                "n_flipped": len(sizes),
                "median_n_genes": float(sizes.median()) if len(sizes) else np.nan,
                "flipped_by_de_genes": beside["differentially expressed"],
                "flipped_by_random_genes": beside["random"],
                "genes_up": ", ".join(genes.loc[genes["direction"] == "up", "gene"].head(5)),
                "genes_down": ", ".join(genes.loc[genes["direction"] == "down", "gene"].head(5)),
            }
        )
    return pd.DataFrame(rows)


def verdict(perturbation: Perturbation, targets: pd.DataFrame, n_random: int) -> list[str]:
    """Say in words which conversions chance doesn't explain, and where a simpler way does as well."""
    beyond = targets[(targets["q_value"] < 0.05) & (targets["converted"] > targets["converted_at_0"])]
    names = ", ".join(beyond["target"]) or "none"
    said = [f"Converted beyond chance (q < 0.05 against random directions of equal length): {names}."]
    if len(targets) / (n_random + 1) >= 0.05:
        said.append(
            f"With {n_random} random directions and {len(targets)} targets, one conversion alone can't reach q < 0.05; "
            "more directions can show it."
        )
    for method, told in METHOD_NAMES.items():
        column = f"converted_{method}"
        if column in targets:
            better = int((targets[column] > targets["converted"]).sum())
            if better:
                said.append(f"For {better} of {len(targets)} targets, {told}, converts more cells than the shift.")
    de = targets["flipped_by_de_genes"] >= 1
    if de.any():
        said.append(
            f"For {', '.join(targets.loc[de, 'target'])}, as many top differentially expressed genes flip every one "
            "of these cells just as well."
        )
    return said


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
    """Change the state of cells of an existing result: which convert to what, and through which genes.

    Parameters
    ----------
    path
        Folder that :func:`diffvae.pipeline.run` wrote.
    out
        Folder for what is found; None for ``perturbation`` in ``path``.
    source
        Type whose cells are shifted.
    target
        Types to turn them into; None for all others.
    groupby
        Key in ``obs`` of the types; None for the labels of the run, or the names it gave where there were none.
    n_sd, n_dims, n_random
        See :func:`diffvae.tl.perturb`; None for 0.25, 0.5, 1, 1.5 and 2 standard deviations. The fewest genes are
        searched at the largest ``n_sd``.
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
    >>> found = dv.pipeline.perturb("results", source="HSPC", target=["MEP"], n_random=5, progress=False)
    >>> found.targets["target"].tolist()
    ['MEP']
    """
    asked = dict(locals())
    with OpenedResult(path, out, _keys.PERTURBATION_FOLDER, overwrite, on_step) as part:
        adata, model, earlier = part.read()
        found = run_perturbation(
            adata, model, source=source, target=target, groupby=groupby or group_key(earlier["parameters"]),
            n_sd=n_sd or N_SD,
            n_dims=n_dims, order=order, direction=direction, restrict=restrict, n_random=n_random, seed=seed,
            log=part.log, progress=progress,
        )  # fmt: skip
        found.summary["command"] = part.command("perturb", perturb, asked)
        part.write(found, lambda folder: write_into(found, folder))
    return found


def group_key(parameters: Mapping[str, Any]) -> str:
    """Return where a run's types are: its reference labels, or the names that it gave."""
    return parameters.get("label_key") or _keys.CELL_TYPE


TOP = 50
"""Genes per target in the table of effects."""


def write_into(changes: Changes, folder: Path) -> None:
    """Write tables, figures, classifier and changed cells into a folder that the caller makes appear at once."""
    import anndata as ad

    from diffvae import pl
    from diffvae._core.runtime import versions

    found, minimal = changes.perturbation, changes.minimal
    sets = {name: m.cells.assign(target=name) for name, m in minimal.items()}
    tables = {
        "targets": changes.targets,
        "conversions": found.table,
        "resistance": found.cells(),
        "effects": pd.concat([found.effects(t, None).head(TOP).assign(target=t) for t in found.targets]),
        "minimal_sets": pd.concat(sets.values()),
        "minimal_genes": pd.concat([m.genes.assign(target=name) for name, m in minimal.items()]),
        "minimal_baselines": pd.concat([m.baselines.assign(target=name) for name, m in minimal.items()]),
        "classifier_types": changes.classifier.evaluation.per_type.rename_axis("type").reset_index(),
        "classifier_confusion": changes.classifier.evaluation.confusion.rename_axis("type").reset_index(),
    }
    for name, table in tables.items():
        folders.write_csv(table, folder / "tables" / f"{name}.csv")
    changes.classifier.save(folder / "classifier")
    changed = [found.to_adata(t, None) for t in found.targets]
    folders.write_h5ad(ad.concat(changed, merge="same", index_unique="_"), folder / "changed_cells.h5ad")
    flipped = {name: m for name, m in minimal.items() if len(m.cells)}
    if flipped:
        edited = ad.concat([m.to_adata() for m in flipped.values()], merge="same", index_unique="_")
        folders.write_h5ad(edited, folder / "edited_cells.h5ad")
    figures: dict[str, Callable[[], Any]] = {
        "conversion_curves": lambda: pl.conversion_curves(found),
        "plasticity": lambda: pl.plasticity(found, n_sd=max(found.n_sd)),
        "gene_counts": lambda: pl.gene_counts(minimal),
    }
    if _keys.TSNE in found.adata.obsm:
        figures["conversions"] = lambda: pl.conversions(found)
    for name, m in flipped.items():
        figures[f"minimal_genes_{file_name(name)}"] = partial(pl.minimal_genes, m)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, draw in figures.items():
        pl.save(np.ravel(draw())[0], folder / "figures" / name)
    summary = changes.summary | {"versions": versions()}
    folders.write_text(json.dumps(summary, indent=1, default=float, allow_nan=False) + "\n", folder / _keys.SUMMARY)


def file_name(target: str) -> str:
    """Return the name of a type as files have it."""
    return "".join(c if c.isalnum() else {"+": "pos", "-": "neg"}.get(c, "_") for c in target)
