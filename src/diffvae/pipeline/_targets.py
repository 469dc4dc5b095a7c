"""Table and verdict of a perturbation: which targets are reached from which source, compared with chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae._core import genes
from diffvae.pipeline._folder import Verdict, sentences
from diffvae.tl._directions import one_or_more
from diffvae.tl._regulators import by_symbol
from diffvae.tl._route import LONG

if TYPE_CHECKING:
    from diffvae.tl import MinimalGenes, Perturbation

MAX_Q = 0.1
"""q-value above which a conversion can't be separated from random directions, as in the figures."""
Pair = tuple[str, str]
"""A source and a target."""

VERDICT: Verdict = (
    (
        lambda n: n["reached"] != "",
        "Beyond chance, at least half of the cells convert to {reached}. Two of three judges agree (classifier, "
        "logistic regression, nearest real cells); random directions of the same size show chance.",
    ),
    (
        lambda n: n["by_chance"] != "",
        "Random directions often lead to {by_chance} as well (q > 0.1), so a conversion to it proves little.",
    ),
    (
        lambda n: n["missed"] != "",
        "No step up to {largest} converts half of the cells to {missed}.",
    ),
    (
        lambda n: n["far"] != "",
        "The straight line leaves the existing cells on the way to {far}: the way through cells is more than twice "
        "as long. The target may be on another branch, or behind an intermediate type.",
    ),
    (
        lambda n: n["upstream"] != "",
        "{upstream} is earlier than the source: a conversion goes backwards.",
    ),
    (
        lambda n: n["n_targets"] / (n["n_random"] + 1) >= 0.05,
        "With {n_random} random directions and {n_targets} targets, a single conversion cannot reach q < 0.05; "
        "increase n_random.",
    ),
    (
        lambda n: n["n_better"] > 0,
        "For {n_better} of {n_targets} targets a step between the mean expressions, without a model, converts more "
        "cells (logistic regression, same size of change).",
    ),
    (
        lambda n: n["by_de_genes"] != "",
        "For {by_de_genes} the same number of top differentially expressed genes converts all of these cells, too.",
    ),
)
"""Conditions on the numbers of a result of one source, and the sentences that they add."""

VERDICT_OF_SEVERAL: Verdict = (
    (
        lambda n: True,
        "Beyond chance, at least half of the cells convert in {n_reached} of {n_pairs} pairs of types. Two of three "
        "judges agree (classifier, logistic regression, nearest real cells).",
    ),
    (
        lambda n: n["n_by_chance"] > 0,
        "In {n_by_chance} of these pairs random directions often do the same (q > 0.1), so a conversion proves little.",
    ),
    (lambda n: n["from"] != "", "Targets reached from each source: {from}."),
    (lambda n: n["never"] != "", "No step up to {largest} reaches {never}, from any source."),
    (
        lambda n: n["n_far"] > 0,
        "For {n_far} of these pairs the straight line leaves the existing cells: the way through cells is more than "
        "twice as long.",
    ),
    (
        lambda n: n["n_upstream"] > 0,
        "{n_upstream} of these pairs lead to an earlier type: a conversion goes backwards.",
    ),
    (
        lambda n: True,
        "The plasticity map compares all pairs at the same change of expression: {change:.3g} on log-normalised "
        "values.",
    ),
    (
        lambda n: n["n_beyond"] > 0,
        "In {n_beyond} of {n_pairs} pairs the types are too similar for a change of this size; the map shows the "
        "largest step.",
    ),
    (
        lambda n: True,
        "Minimal gene sets were searched for {n_searched} of {n_pairs} pairs: those that are reached through existing "
        "cells (at most {long:g} times the straight line). For other pairs name one source and one target.",
    ),
    (
        lambda n: n["n_pairs"] / (n["n_random"] + 1) >= 0.05,
        "With {n_random} random directions and {n_pairs} pairs, a single conversion cannot reach q < 0.05; increase "
        "n_random.",
    ),
    (
        lambda n: n["n_better"] > 0,
        "For {n_better} of {n_pairs} pairs a step between the mean expressions, without a model, converts more cells "
        "(logistic regression, same size of change).",
    ),
    (
        lambda n: n["n_by_de_genes"] > 0,
        "For {n_by_de_genes} of {n_searched} pairs the same number of top differentially expressed genes converts all "
        "of these cells, too.",
    ),
)
"""The same for several sources."""


def one_or_several(source: str | Sequence[str]) -> str | list[str]:
    """Return one source as text, several as a list without duplicates.

    Examples
    --------
    >>> one_or_several(["all"]), one_or_several(["MEP", "GMP", "MEP"])
    ('all', ['MEP', 'GMP'])
    """
    names = list(one_or_more(source))
    return names[0] if len(names) == 1 else names


def pairs_of(perturbation: Perturbation) -> list[Pair]:
    """Return the pairs of source and target."""
    return list(dict.fromkeys((a, b) for a, b, _ in perturbation.trajectories))


def of_source(perturbation: Perturbation, source: str) -> Perturbation:
    """Return the part of a perturbation that moves one source, which then is the default of its methods."""
    own = {key: trajectory for key, trajectory in perturbation.trajectories.items() if key[0] == source}
    return replace(perturbation, table=perturbation.table[perturbation.table["source"] == source], trajectories=own)


def target_table(
    perturbation: Perturbation, minimal: Mapping[Pair, MinimalGenes], ways: pd.DataFrame, earlier: Sequence[str]
) -> pd.DataFrame:
    """Return one row per pair, at the smallest step that reaches the target, or the largest."""
    rows = []
    symbols = by_symbol(genes.table(perturbation.adata))
    for source, target in pairs_of(perturbation):
        moved = of_source(perturbation, source)
        table, step = moved.table, moved.shown_step(target)
        at = table[(table["target"] == target) & (table[moved.unit] == step)].set_index("method")
        shown = at.loc[moved.methods[0]]
        rows.append(
            {
                "source": source,
                "target": target,
                "reached": moved.reaching_step(target) is not None,
                **{name: shown[name] for name in ("step", "n_sd", "distance")},
                "n_cells": int(shown["n_cells"]),
                **{name: shown[name] for name in ("converted", "converted_at_0", "judged", "nearest")},
                **{name: shown[name] for name in ("null_mean", "null_judged", "q_value")},
                **{f"converted_{m}": at.loc[m, "converted"] for m in moved.methods},
                **{f"judged_{m}": at.loc[m, "judged"] for m in moved.methods},
                **{name: ways.loc[(source, target), name] for name in ("route", "passes")},
                "earlier": target in earlier and source not in earlier,
                "gene_step": moved.gene_step(target),
                "searched": (source, target) in minimal,
                **_genes_of(minimal.get((source, target)), symbols),
            }
        )
    return pd.DataFrame(rows)


def _genes_of(result: MinimalGenes | None, symbols: Mapping[str, str]) -> dict[str, Any]:
    """Return the columns about the smallest sets; NaN and empty if they were not searched."""
    if result is None:
        numbers = "n_flipped median_n_genes median_n_first sets_judged flipped_by_de_genes flipped_by_random_genes"
        return {**dict.fromkeys(numbers.split(), np.nan), "genes_up": "", "genes_down": ""}
    sizes, table = result.cells["n_genes"], result.genes
    symbol = table["gene"].map(lambda gene: symbols.get(gene, gene))
    by_genes = result.baselines.set_index("genes")
    return {
        "n_flipped": len(sizes),
        "median_n_genes": float(sizes.median()) if len(sizes) else np.nan,
        "median_n_first": float(result.cells["n_first"].median()) if len(sizes) else np.nan,
        "sets_judged": float(result.cells["judged"].mean()) if len(sizes) else np.nan,
        "flipped_by_de_genes": by_genes.loc["differentially expressed", "flipped"],
        "flipped_by_random_genes": by_genes.loc["random", "flipped"],
        "genes_up": ", ".join(symbol[table["direction"] == "up"].head(5)),
        "genes_down": ", ".join(symbol[table["direction"] == "down"].head(5)),
    }


def verdict(targets: pd.DataFrame, perturbation: Perturbation, n_random: int) -> list[str]:
    """Say which types are reached, which are jumps, and where a simpler method does as well."""

    def names(rows: pd.Series) -> str:
        return ", ".join(targets.loc[rows, "target"])

    steps = targets["n_sd" if perturbation.unit == "n_sd" else "step"]
    reached = [f"{t} (step {s:g})" for t, s, r in zip(targets["target"], steps, targets["reached"], strict=True) if r]
    simpler = "judged_expression_mean"
    numbers = {
        "reached": ", ".join(reached),
        "by_chance": names(_by_chance(targets, n_random)),
        "missed": names(~targets["reached"]),
        "largest": _largest(perturbation),
        "far": ", ".join(_ways(targets[targets["reached"] & (targets["route"] > LONG)])),
        "upstream": names(targets["earlier"]),
        "n_targets": len(targets),
        "n_random": n_random,
        "n_better": int((targets[simpler] > targets["judged"]).sum()) if simpler in targets else 0,
        "by_de_genes": names(targets["flipped_by_de_genes"] >= 1),
    }
    return sentences(VERDICT, numbers)


def verdict_of_several(targets: pd.DataFrame, perturbation: Perturbation, n_random: int) -> list[str]:
    """Say how many pairs of types are reached, how many are jumps, and what was searched."""
    reached, simpler = targets["reached"], "judged_expression_mean"
    by_source = targets.groupby("source", sort=False)["reached"]
    map_ = perturbation.plasticity()
    never = [t for t in perturbation.targets if not targets.loc[targets["target"] == t, "reached"].any()]
    numbers = {
        "n_reached": int(reached.sum()),
        "n_pairs": len(targets),
        "n_by_chance": int(_by_chance(targets, n_random).sum()),
        "from": ", ".join(f"{a} {int(of.sum())} of {len(of)}" for a, of in by_source) if reached.any() else "",
        "never": ", ".join(never) if reached.any() else "any type",
        "largest": _largest(perturbation),
        "n_far": int((reached & (targets["route"] > LONG)).sum()),
        "long": LONG,
        "n_upstream": int((reached & targets["earlier"]).sum()),
        "change": map_["change"].iloc[0],
        "n_beyond": int((~map_["within"]).sum()),
        "n_searched": int(targets["searched"].sum()),
        "n_random": n_random,
        "n_better": int((targets[simpler] > targets["judged"]).sum()),
        "n_by_de_genes": int((targets["flipped_by_de_genes"] >= 1).sum()),
    }
    return sentences(VERDICT_OF_SEVERAL, numbers)


def _by_chance(targets: pd.DataFrame, n_random: int) -> pd.Series:
    """Return which of the reached pairs random directions reach as often, if there are enough of them to say so."""
    enough = len(targets) / (n_random + 1) <= MAX_Q
    return targets["reached"] & (targets["q_value"] > MAX_Q) & enough


def _largest(perturbation: Perturbation) -> str:
    unit = "sd" if perturbation.unit == "n_sd" else "of the distance between the types"
    return f"{perturbation.steps[-1]:g} {unit}"


def _ways(rows: pd.DataFrame) -> list[str]:
    """Return each target with the type that the way to it leads through."""
    return [f"{t}{f' (through {p})' if p else ''}" for t, p in zip(rows["target"], rows["passes"], strict=True)]
