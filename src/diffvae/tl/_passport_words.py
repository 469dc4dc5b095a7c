"""A passport in words: the lists of one line, the name, what speaks against a name, and the sentences."""

from __future__ import annotations

from typing import Any

import pandas as pd

from diffvae.tl._passport_parts import DIRECTIONS, SIDES

N_TYPES = 4
"""Types named per side in the overview; the tidy table has all."""
POOR = 0.3
"""Overlap of the first genes of two readings below which they are said to disagree."""


def add_types(table: pd.DataFrame, types: pd.DataFrame) -> pd.DataFrame:
    """Add ``types_high`` and ``types_low``: enriched types with their odds ratio, the largest first."""
    for side, column in zip(SIDES, ("types_high", "types_low"), strict=True):
        rows = types[types["side"] == side]
        told = rows["type"].astype(str) + " (" + rows["odds_ratio"].map(ratio) + ")"
        table[column] = _listed(told, rows["dimension"], N_TYPES, table)
    return table


def ratio(value: float) -> str:
    """Return an odds ratio to two figures.

    Examples
    --------
    >>> ratio(2.345), ratio(56.7), ratio(12345.0)
    ('2.3', '57', '> 1,000')
    """
    return "> 1,000" if value > 1000 else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def add_genes(table: pd.DataFrame, genes: pd.DataFrame) -> pd.DataFrame:
    """Add the genes of both directions by both readings, first rank first."""
    for reading in ("weights", "jacobian"):
        for direction in DIRECTIONS:
            rows = genes[(genes["reading"] == reading) & (genes["direction"] == direction)]
            table[f"{direction}_{reading}"] = _listed(rows["gene"].astype(str), rows["dimension"], None, table)
    return table


def _listed(told: pd.Series, dimension: pd.Series, most: int | None, table: pd.DataFrame) -> pd.Series:
    lists = told.groupby(dimension).agg(lambda names: ", ".join(names if most is None else names.iloc[:most]))
    return table["dimension"].map(lists).fillna("").astype(object)


def add_names(table: pd.DataFrame, types: pd.DataFrame, *, known: bool, max_q: float, noun: str) -> pd.DataFrame:
    """Add ``name`` and ``remark``; the second says why the first is empty."""
    table["remark"] = [_remark(row, known, max_q) for row in table.to_dict("records")]
    best = types.drop_duplicates(["dimension", "side"])  # sorted by odds ratio
    told = noun + best["type"].astype(str) + " " + best["side"]
    names = told.groupby(best["dimension"]).agg(lambda parts: ", ".join(sorted(parts)))
    able = table["remark"] == ""
    table.insert(1, "name", table["dimension"].map(names).where(able).fillna("").astype(object))
    return table


def _remark(row: dict[str, Any], known: bool, max_q: float) -> str:
    if not row["alive"]:
        return "dead"
    if not known:
        return "not known whether it recurs"
    if not row["stable"]:
        return f"unstable, found again in {row['recurrence']:.0%} of the trainings"
    if follows_batch(row, max_q):
        return f"follows the batch ({row['batch']}) more than the types"
    return "" if row["types_high"] or row["types_low"] else "no type is enriched on either side"


def follows_batch(row: dict[str, Any], max_q: float) -> bool:
    """Return whether batches explain more of a dimension than types do."""
    return "batch_q" in row and bool(row["batch_q"] <= max_q and row["batch_eta2"] > row["type_eta2"])


def sentences(
    table: pd.DataFrame, genes: pd.DataFrame, *, known: bool, stale: bool, clusters: bool, max_q: float
) -> list[str]:
    """Say how many dimensions deserve a name, and what the tables can't be taken for."""
    n, living = len(table), table[table["alive"]]
    said = [f"{len(living)} of {n} dimensions are alive; {(table['name'] != '').sum()} have a name."]
    if known:
        stable = int(living["stable"].sum())
        said.append(
            f"{len(living) - stable} living dimensions are not stable over further trainings and stay without a name."
        )
    elif stale:
        said.append(
            "What diffvae.benchmark.stability found is about another latent space than this one; run it again: until "
            "then no dimension is known to recur, and none is named."
        )
    else:
        said.append(
            "No dimension is known to recur, and none is named; run diffvae.benchmark.stability(adata, model) first."
        )
    if "batch_q" in table:
        led = [int(row["dimension"]) for row in living.to_dict("records") if follows_batch(row, max_q)]
        if led:
            dimensions = "dimension" if len(led) == 1 else f"{len(led)} dimensions"
            said.append(f"Batches explain more than types do of {dimensions} {_numbers(led)}.")
    if clusters:
        said.append("The clusters were cut from the same latent space, so their q-values only describe.")
    if len(living):
        overlap = living["top_overlap"].median()
        if overlap < POOR:
            said.append(
                f"The two readings of the decoder disagree: {overlap:.0%} of their first genes are the same (median)."
            )
    if len(genes):
        right = genes.groupby("reading")["confirmed"].mean()
        said.append(
            "The cells themselves move the way the decoder says in "
            + " and ".join(f"{right[reading]:.0%} of the genes by {reading}" for reading in right.index)
            + "."
        )
    return said


def _numbers(found: list[int], most: int = 10) -> str:
    return ", ".join(map(str, found[:most])) + (f" and {len(found) - most} more" if len(found) > most else "")
