"""Perturbation: which types the cells of the sources turn into, and through which genes, compared with chance."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from diffvae import _keys, tl
from diffvae._core import genes
from diffvae._core.anndata import results
from diffvae._core.io import folders
from diffvae._core.runtime import StepLog, in_one_thread, versions
from diffvae._core.validate import check
from diffvae._errors import DataError
from diffvae.pipeline._checks import RULES, require_types
from diffvae.pipeline._folder import OpenedResult, write_figures, write_summary, write_tables
from diffvae.pipeline._settings import refuse_idle_patience
from diffvae.pipeline._targets import (
    Pair,
    of_source,
    one_or_several,
    pairs_of,
    target_table,
    verdict,
    verdict_of_several,
)
from diffvae.tl import _minimal_genes, _perturb
from diffvae.tl._changed_cells import place_together, placer_of
from diffvae.tl._route import LONG

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model
    from diffvae.tl import MinimalGenes, Perturbation

N_EFFECTS = 50
"""Genes per pair in the table of effects."""
MAX_FILE = 80
"""Most bytes of a file name that one type takes; file systems allow 255 for the name."""
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
    "max_epochs",
    "patience",
    "seed",
)
"""Parameters of :func:`perturb` that :func:`run_perturbation` takes as well."""


@dataclass
class Changes:
    """The result of a perturbation of one or several sources towards all targets.

    Attributes
    ----------
    classifier, perturbation
        See :class:`diffvae.model.CellStateClassifier` and :func:`diffvae.tl.perturb`.
    minimal
        (source, target) to the result of :func:`diffvae.tl.minimal_genes`. Of several sources, only pairs that are
        reached along a way that is not long have one.
    targets
        One row per source and target: conversions, by chance and by the baselines, and the genes.
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
    minimal: dict[Pair, MinimalGenes]
    targets: pd.DataFrame
    summary: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


@in_one_thread
def run_perturbation(
    adata: AnnData,
    model: Model,
    *,
    source: str | Sequence[str],
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
    max_epochs: int | None = None,
    patience: int | None = None,
    seed: int = 0,
    log: StepLog | None = None,
    progress: bool = True,
) -> Changes:
    """Train the classifier, move each source towards each target, and find the smallest sets of genes that do it."""
    source = one_or_several(source)
    require_types(adata, groupby if groupby in adata.obs else None, source, target)
    arguments = locals()
    parameters = {name: arguments[name] for name in ("groupby", *OPTIONS)}
    from diffvae.model import CellStateClassifier

    check(RULES, order=order, direction=direction, n_random=n_random, n_dims=n_dims, seed=seed)
    check(_perturb.RULES, method=method)
    refuse_idle_patience(patience, max_epochs)
    if step is not None and n_sd is not None:
        raise ValueError("step and n_sd are both given; they are two units of the same steps, so give one.")
    size: dict[str, Any] = {"n_sd": n_sd} if n_sd is not None else {"step": step or _perturb.STEPS}
    _perturb.step_sizes(**size)
    if groupby in adata.obs and (unknown := sorted(set(earlier or ()) - set(adata.obs[groupby].astype(str)))):
        raise DataError(f"earlier names {unknown[0]!r}, which is not a type of adata.obs[{groupby!r}].")
    log = log or StepLog(lambda step: None)
    with log.step("train the classifier"):
        allowed = _minimal_genes.allowed_genes(model.gene_names, restrict, genes.table(adata))
        classifier = CellStateClassifier()
        stopping: dict[str, Any] = {"max_epochs": max_epochs, "patience": patience}
        given = {name: value for name, value in stopping.items() if value is not None}
        classifier.train(adata, groupby, layer=model.features.layer, rng=seed, progress=progress, **given)
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
        ways = _ways_of(adata, perturbation, groupby, seed)
    pairs = pairs_of(perturbation)
    several = len(perturbation.sources) > 1
    searched = [pair for pair in pairs if not several or _is_reached_without_jump(perturbation, ways, pair)]
    minimal: dict[Pair, MinimalGenes] = {}
    with log.step("find the fewest genes"):
        by_source = {a: of_source(perturbation, a) for a, _ in searched}
        for a, b in searched:
            of_a = by_source[a]
            minimal[a, b] = _minimal_genes.find_minimal(
                of_a, b, step=of_a.gene_step(b), allowed=allowed, order=order, direction=direction, n_random=n_random,
                rng=seed, progress=progress,
            )  # fmt: skip
    results(adata).pop("minimal_genes", None)  # of the last pair only; the tables have all pairs
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
            *(verdict_of_several if several else verdict)(targets, perturbation, n_random),
        ],
    }
    return Changes(classifier, perturbation, minimal, targets, summary)


def _ways_of(adata: AnnData, perturbation: Perturbation, groupby: str, seed: int) -> pd.DataFrame:
    """Return the ways of all pairs, as :func:`diffvae.tl.route` has them, with the source."""
    ways = []
    for a in perturbation.sources:
        of_a = tl.route(adata, a, of_source(perturbation, a).targets, groupby=groupby, rng=seed)
        of_a.insert(0, "source", a)
        ways.append(of_a)
    table = pd.concat(ways, ignore_index=True)
    results(adata)["route"] = table
    return table.set_index(["source", "target"])


def _is_reached_without_jump(perturbation: Perturbation, ways: pd.DataFrame, pair: Pair) -> bool:
    source, target = pair
    return perturbation.reaching_step(target, source=source) is not None and ways.loc[pair, "route"] <= LONG


@in_one_thread
def perturb(
    path: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    source: str | Sequence[str],
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
    max_epochs: int | None = None,
    patience: int | None = None,
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
        Type whose cells are shifted, or several; ``"all"`` for every type. Of several, genes are searched and changed
        cells are written only for pairs that are reached along a way at most twice as long as the straight line.
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
    max_epochs, patience
        Of the classifier: see :meth:`diffvae.model.CellStateClassifier.train`.
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
    pairs, evaluation = pairs_of(perturbation), changes.classifier.evaluation
    names = file_names(pairs)
    tables = {
        "targets": changes.targets,
        "conversions": perturbation.table,
        "plasticity": perturbation.plasticity(),
        "resistance": perturbation.cells(),
        "effects": _stack({(a, b): perturbation.effects(b, source=a).head(N_EFFECTS) for a, b in pairs}),
        "classifier_types": evaluation.per_type.rename_axis("type").reset_index(),
        "classifier_confusion": evaluation.confusion.rename_axis("type").reset_index(),
    }
    if minimal:
        tables |= {
            "minimal_sets": _stack({pair: m.cells for pair, m in minimal.items()}),
            "minimal_genes": _stack({pair: m.genes for pair, m in minimal.items()}),
            "minimal_baselines": _stack({pair: m.baselines for pair, m in minimal.items()}),
        }
    write_tables(tables, folder)
    changes.classifier.save(folder / "classifier")
    flipped = {pair: m for pair, m in minimal.items() if len(m.cells)}
    changed = [perturbation._unplaced(b, source=a) for a, b in minimal]
    edited = [m._unplaced() for m in flipped.values()]
    place_together([*changed, *edited], placer_of(perturbation.adata))
    for (a, b), cells in zip(minimal, changed, strict=True):
        if _keys.TSNE in cells.obsm:
            perturbation._places[a, b, perturbation.shown_step(b, source=a)] = cells.obsm[_keys.TSNE]
    # decoded expression has few zeros: compression would take far longer than writing, for a file one eighth smaller
    for name, cells, compression in (("changed_cells", changed, None), ("edited_cells", edited, "gzip")):
        if cells:
            file = folder / f"{name}.h5ad"
            folders.write_h5ad(ad.concat(cells, merge="same", index_unique="_"), file, compression=compression)
    figures: dict[str, Callable[[], Any]] = {"plasticity": lambda: pl.plasticity(perturbation)}
    ends = dict.fromkeys(perturbation.sources, "")
    if len(ends) > 1:
        ends = {a: f"_{name}" for a, name in zip(ends, distinct_names(map(file_name, ends)), strict=True)}
    for a, end in ends.items():
        figures[f"conversion_curves{end}"] = partial(pl.conversion_curves, perturbation, source=a)
        if _keys.TSNE in perturbation.adata.obsm:
            figures[f"conversions{end}"] = partial(pl.conversions, perturbation, source=a)
        if own := {target: m for (source, target), m in minimal.items() if source == a}:
            figures[f"gene_counts{end}"] = partial(pl.gene_counts, own)
    for pair, m in flipped.items():
        figures[f"minimal_genes_{names[pair]}"] = partial(pl.minimal_genes, m)
    write_figures(figures, folder)
    perturbation._places.clear()  # the map may be made anew
    write_summary(changes.summary | {"versions": versions()}, folder)


def _stack(tables: Mapping[Pair, pd.DataFrame]) -> pd.DataFrame:
    """Return the tables of all pairs in one, with source and target."""
    return pd.concat([table.assign(source=a, target=b) for (a, b), table in tables.items()])


def file_names(pairs: Sequence[Pair]) -> dict[Pair, str]:
    """Return each pair as part of a file name: the target, and the source if there are several.

    Examples
    --------
    >>> file_names([("MEP", "T cell"), ("GMP", "T cell")])
    {('MEP', 'T cell'): 'MEP_to_T_cell', ('GMP', 'T cell'): 'GMP_to_T_cell'}
    """
    one = len({a for a, _ in pairs}) == 1
    names = (file_name(b) if one else f"{file_name(a)}_to_{file_name(b)}" for a, b in pairs)
    return dict(zip(pairs, distinct_names(names), strict=True))


def distinct_names(names: Iterable[str]) -> list[str]:
    """Return names for files, numbered from the second on if they agree.

    Examples
    --------
    >>> distinct_names(["B_1", "B_1", "C"])
    ['B_1', 'B_1_2', 'C']
    """
    taken: list[str] = []
    for name in names:
        same = (f"{name}_{i}" for i in itertools.count(2))
        taken.append(name if name not in taken else next(n for n in same if n not in taken))
    return taken


def file_name(target: str) -> str:
    """Return a type as part of a file name, cut if it is long.

    Examples
    --------
    >>> file_name("CD34+ B"), file_name("CD4- T"), file_name("Pre-endocrine")
    ('CD34pos_B', 'CD4neg_T', 'Pre-endocrine')
    """
    hyphen = re.sub(r"(?<=\w)-(?=\w)", "\0", target)  # in a word, not a sign
    name = "".join(c if c.isalnum() else {"+": "pos", "-": "neg", "\0": "-"}.get(c, "_") for c in hyphen)
    return name.encode()[:MAX_FILE].decode(errors="ignore")
