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
from diffvae._errors import DataError
from diffvae.pipeline._checks import RULES
from diffvae.pipeline._folder import OpenedResult, Verdict, sentences, write_figures, write_summary, write_tables
from diffvae.tl import _minimal_genes, _perturb
from diffvae.tl._route import LONG

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model
    from diffvae.tl import MinimalGenes, Perturbation

N_EFFECTS = 50
"""Genes per target in the table of effects."""
OPTIONS = (
    "source",
    "target",
    "method",
    "step",
    "n_sd",
    "n_dims",
    "earlier",
    "order",
    "direction",
    "restrict",
    "n_random",
    "seed",
)
"""Parameters of :func:`perturb` that :func:`run_perturbation` takes as well."""

VERDICT: Verdict = (
    (
        lambda n: n["reached"] != "",
        "Beyond chance (random directions of equal change), two of three judges (classifier, regression, nearest real "
        "cells) see at least half of the cells convert to {reached}.",
    ),
    (
        lambda n: n["missed"] != "",
        "No step up to {largest} does so to {missed}.",
    ),
    (
        lambda n: n["far"] != "",
        "The shortest way through cells that exist is more than twice as long as the straight line to {far}. On "
        "simulated trees such ways lead to other branches only; in real data they may also lead through an "
        "intermediate type to a fate of the source.",
    ),
    (
        lambda n: n["upstream"] != "",
        "{upstream} is earlier than the source, so a conversion means going back.",
    ),
    (
        lambda n: n["n_targets"] / (n["n_random"] + 1) >= 0.05,
        "With {n_random} random directions and {n_targets} targets, a single conversion cannot reach q < 0.05; "
        "increase n_random.",
    ),
    (
        lambda n: n["n_better"] > 0,
        "For {n_better} of {n_targets} targets, the difference of the mean expressions, without a model, converts more "
        "cells at equal change by the judge.",
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
    method: str = "mean",
    step: Sequence[float] | None = None,
    n_sd: Sequence[float] | None = None,
    n_dims: int = 5,
    earlier: Sequence[str] | None = None,
    order: str = "effect",
    direction: str = "both",
    restrict: Sequence[str] | str | PathLike[str] | None = None,
    n_random: int = 200,
    seed: int = 0,
    log: StepLog | None = None,
    progress: bool = True,
) -> Changes:
    """Train the classifier, move the source towards each target, and find the smallest sets of genes that do it."""
    arguments = locals()
    parameters = {name: arguments[name] for name in ("groupby", *OPTIONS)}
    from diffvae.model import CellStateClassifier

    check(RULES, order=order, direction=direction, n_random=n_random, n_dims=n_dims, seed=seed)
    check(_perturb.RULES, method=method)
    if step is not None and n_sd is not None:
        raise ValueError("step and n_sd are both given; they are two units of the same steps, so give one.")
    size: dict[str, Any] = {"n_sd": n_sd} if n_sd is not None else {"step": step or _perturb.STEPS}
    _perturb.step_sizes(**size)
    allowed = _minimal_genes.allowed_genes(model.gene_names, restrict)
    if groupby in adata.obs and (unknown := sorted(set(earlier or ()) - set(adata.obs[groupby].astype(str)))):
        raise DataError(f"earlier names {unknown[0]!r}, which is not a type of adata.obs[{groupby!r}].")
    log = log or StepLog(lambda step: None)
    with log.step("train the classifier"):
        classifier = CellStateClassifier()
        classifier.train(adata, groupby, layer=model.features.layer, rng=seed, progress=progress)
    for name, n in classifier.dropped.items():
        log.warnings.append(
            f"{name} is left out: it has {n} cells, but the classifier needs at least {classifier.min_cells}."
        )
    with log.step("move cells"):
        methods = tuple(dict.fromkeys((method, *_perturb.COMPARED)))
        perturbation = tl.perturb(
            adata, model, classifier, source=source, target=target, method=methods, n_dims=n_dims, n_random=n_random,
            rng=seed, progress=progress, **size,
        )  # fmt: skip
    with log.step("look for ways through cells that exist"):
        if _keys.LATENT not in adata.obsm:
            tl.embed(adata, model)
        ways = tl.route(adata, source, perturbation.targets, groupby=groupby, rng=seed)
    with log.step("find the fewest genes"):
        minimal = {
            name: _minimal_genes.find_minimal(
                perturbation, name, step=perturbation.gene_step(name), allowed=allowed, order=order,
                direction=direction, n_random=n_random, rng=seed, progress=progress,
            )
            for name in perturbation.targets
        }  # fmt: skip
    results(adata).pop("minimal_genes", None)  # of the last target only; the tables have all targets
    targets = target_table(perturbation, minimal, ways, earlier or ())
    parameters |= {"step": None, "n_sd": None, perturbation.unit: [float(v) for v in perturbation.steps]}
    if restrict is not None:
        parameters["restrict"] = f"{int(allowed.sum())} of the model's genes"
    judge = {"accuracy": perturbation.judge.accuracy}
    summary = {
        "parameters": parameters,
        "classifier": classifier.evaluation.to_dict() | {"dropped": classifier.dropped},
        "judge": judge,
        "targets": json.loads(targets.to_json(orient="records")),
        "verdict": [
            str(classifier.evaluation),
            f"The judge (logistic regression on principal components) is right for {judge['accuracy']:.1%} of held-out "
            "cells.",
            *verdict(targets, perturbation, n_random),
        ],
    }
    return Changes(classifier, perturbation, minimal, targets, summary)


def target_table(
    perturbation: Perturbation, minimal: dict[str, MinimalGenes], ways: pd.DataFrame, earlier: Sequence[str]
) -> pd.DataFrame:
    """Return one row per target, at the smallest step that reaches it, or the largest: conversions, ways and genes."""
    table, unit, source = perturbation.table, perturbation.unit, perturbation.sources[0]
    routes = ways.set_index("target")
    rows = []
    for target, result in minimal.items():
        reaching = perturbation.reaching_step(target)
        at = table[(table["target"] == target) & (table[unit] == perturbation.shown_step(target))].set_index("method")
        shown = at.loc[perturbation.methods[0]]
        sizes, genes = result.cells["n_genes"], result.genes
        by_genes = result.baselines.set_index("genes")
        rows.append(
            {
                "source": source,
                "target": target,
                "reached": reaching is not None,
                **{name: shown[name] for name in ("step", "n_sd", "distance")},
                "n_cells": int(shown["n_cells"]),
                **{name: shown[name] for name in ("converted", "converted_at_0", "judged", "nearest")},
                **{name: shown[name] for name in ("null_mean", "null_judged", "q_value")},
                **{f"converted_{m}": at.loc[m, "converted"] for m in perturbation.methods},
                **{f"judged_{m}": at.loc[m, "judged"] for m in perturbation.methods},
                "route": routes.loc[target, "route"],
                "passes": routes.loc[target, "passes"],
                "earlier": target in earlier,
                "gene_step": perturbation.gene_step(target),
                "n_flipped": len(sizes),
                "median_n_genes": float(sizes.median()) if len(sizes) else np.nan,
                "median_n_first": float(result.cells["n_first"].median()) if len(sizes) else np.nan,
                "sets_judged": float(result.cells["judged"].mean()) if len(sizes) else np.nan,
                "flipped_by_de_genes": by_genes.loc["differentially expressed", "flipped"],
                "flipped_by_random_genes": by_genes.loc["random", "flipped"],
                "genes_up": ", ".join(genes.loc[genes["direction"] == "up", "gene"].head(5)),
                "genes_down": ", ".join(genes.loc[genes["direction"] == "down", "gene"].head(5)),
            }
        )
    return pd.DataFrame(rows)


def verdict(targets: pd.DataFrame, perturbation: Perturbation, n_random: int) -> list[str]:
    """Say which types are reached, which are jumps, and where a simpler method does as well."""
    unit = "sd" if perturbation.unit == "n_sd" else "of the distance between the types"

    def names(rows: pd.Series) -> str:
        return ", ".join(targets.loc[rows, "target"])

    steps = targets["n_sd" if perturbation.unit == "n_sd" else "step"]
    reached = [f"{t} (step {s:g})" for t, s, r in zip(targets["target"], steps, targets["reached"], strict=True) if r]
    simpler = "judged_expression_mean"
    numbers = {
        "reached": ", ".join(reached),
        "missed": names(~targets["reached"]),
        "largest": f"{perturbation.steps[-1]:g} {unit}",
        "far": ", ".join(_ways(targets[targets["reached"] & (targets["route"] > LONG)])),
        "upstream": names(targets["earlier"]),
        "n_targets": len(targets),
        "n_random": n_random,
        "n_better": int((targets[simpler] > targets["judged"]).sum()) if simpler in targets else 0,
        "by_de_genes": names(targets["flipped_by_de_genes"] >= 1),
    }
    return sentences(VERDICT, numbers)


def _ways(rows: pd.DataFrame) -> list[str]:
    """Return each target with the type that the way to it leads through."""
    return [f"{t}{f' (through {p})' if p else ''}" for t, p in zip(rows["target"], rows["passes"], strict=True)]


@in_one_thread
def perturb(
    path: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    source: str,
    target: Sequence[str] | None = None,
    groupby: str | None = None,
    method: str = "mean",
    step: Sequence[float] | None = None,
    n_sd: Sequence[float] | None = None,
    n_dims: int = 5,
    earlier: Sequence[str] | None = None,
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
    method, step, n_sd, n_dims, n_random
        See :func:`diffvae.tl.perturb`; of ``step`` and ``n_sd`` at most one. The method is compared with the paper's
        shift, the step between mean expressions and decoding alone. The smallest sets of genes are searched at the
        largest step that converts as many cells as any other.
    earlier
        Types that are upstream of the source; conversions to them are marked as going back.
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
            adata, model, groupby=groupby or type_key(run_summary["parameters"]), **options,
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
        "effects": pd.concat([perturbation.effects(t).head(N_EFFECTS).assign(target=t) for t in targets]),
        "minimal_sets": pd.concat([m.cells.assign(target=name) for name, m in minimal.items()]),
        "minimal_genes": pd.concat([m.genes.assign(target=name) for name, m in minimal.items()]),
        "minimal_baselines": pd.concat([m.baselines.assign(target=name) for name, m in minimal.items()]),
        "classifier_types": evaluation.per_type.rename_axis("type").reset_index(),
        "classifier_confusion": evaluation.confusion.rename_axis("type").reset_index(),
    }
    write_tables(tables, folder)
    changes.classifier.save(folder / "classifier")
    changed = [perturbation.to_adata(t) for t in targets]
    folders.write_h5ad(ad.concat(changed, merge="same", index_unique="_"), folder / "changed_cells.h5ad")
    flipped = {name: m for name, m in minimal.items() if len(m.cells)}
    if flipped:
        edited = ad.concat([m.to_adata() for m in flipped.values()], merge="same", index_unique="_")
        folders.write_h5ad(edited, folder / "edited_cells.h5ad")
    figures: dict[str, Callable[[], Any]] = {
        "conversion_curves": lambda: pl.conversion_curves(perturbation),
        "plasticity": lambda: pl.plasticity(perturbation),
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
