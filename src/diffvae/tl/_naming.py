"""From scores of cell types to names of clusters: which tables, which types, which of them hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from diffvae import _keys
from diffvae._errors import DataError
from diffvae._random import Rng
from diffvae.pp._matrix import quoted
from diffvae.tl._evidence import GeneLevels, dominance, score_sets, share_votes
from diffvae.tl._marker_tables import Markers, bundled_names, load_markers, match_genes, read_markers

MIN_FOUND = 0.1
"""``markers="auto"``: share of a table's genes that the data must have, spelled alike, for it to be tried."""
MIN_NAMED = 0.5
"""``markers="auto"``: share of the cells that a table must name; one that names fewer is of another tissue."""
MIN_TYPES = 3
"""``markers="auto"``: different types that a table must name (or one per cluster, where there are fewer)."""
NEAR = 0.8
"""A runner-up with this share of the best score makes the name doubtful."""
SCORES = ["group", "cell_type", "score", "p_value", "q_value", "n_markers", "n_up", "genes"]
"""Columns of ``uns["diffvae"]["annotation_scores"]``."""
NOTHING: dict[str, Any] = {
    "cell_type": "",
    "score": np.nan,
    "q_value": np.nan,
    "n_markers": 0,
    "n_up": 0,
    "genes": "",
    "reason": "nothing to compare",
}
"""What stands in the place of a type where there is none."""


def candidates(markers: Markers, names: pd.Index, source: str) -> tuple[dict[str, pd.DataFrame], pd.DataFrame | None]:
    """Return the tables to score, and with "auto" the list of all bundled ones with the share found."""
    if not (isinstance(markers, str) and markers == "auto"):
        name, table = read_markers(markers)
        if (match_genes(table["gene"], names) < 0).all():
            raise DataError(
                f"None of the {table['gene'].nunique()} marker genes ({quoted(table['gene'].unique())}) is among the "
                f"genes of {source} ({quoted(names)}); give markers for this species, or name the column of symbols "
                "with gene_symbols=..."
            )
        return {name: table}, None
    tables = {name: load_markers(name) for name in bundled_names()}
    found = [table["gene"].drop_duplicates().isin(names).mean() for table in tables.values()]
    tried = pd.DataFrame({"markers": list(tables), "found": found, "named": 0.0, "n_types": 0, "evidence": 0.0})
    return {name: tables[name] for name in tried.loc[tried["found"] >= MIN_FOUND, "markers"]}, tried


def _gene_sets(table: pd.DataFrame, names: pd.Index, min_genes: int) -> dict[str, pd.DataFrame]:
    """Return per cell type the markers that the data have, weighted by how few types share them."""
    table = table.assign(position=match_genes(table["gene"], names).to_numpy())
    table = table[table["position"] >= 0].drop_duplicates(["cell_type", "position"])
    table["gene"] = names.to_numpy()[table["position"].to_numpy()]
    table["sign"] = np.where(table["direction"] == "up", 1.0, -1.0)
    table["weight"] = 1.0 / table.groupby(["position", "sign"])["gene"].transform("size")
    by_type = {str(name): genes for name, genes in table.groupby("cell_type", sort=False)}
    return {name: genes for name, genes in by_type.items() if (genes["sign"] > 0).sum() >= min_genes}


def score(
    x: Any,
    labels: pd.Categorical,
    names: pd.Index,
    tables: dict[str, pd.DataFrame],
    *,
    min_genes: int,
    n_permutations: int,
    rng: Rng,
) -> pd.DataFrame:
    """Return the score of every group with every type of every table; no rows where nothing can be compared."""
    sets = {name: _gene_sets(table, names, min_genes) for name, table in tables.items()}
    positions = [genes["position"].to_numpy() for types in sets.values() for genes in types.values()]
    n_groups = len(labels.categories)
    if not positions or n_groups < 2:
        return pd.DataFrame({column: [] for column in ["markers", *SCORES]})
    levels = GeneLevels(x, rng)
    needed = np.unique(np.concatenate([*positions, *levels.controls]))
    delta = np.zeros((n_groups, len(names)))
    x, codes = x[:, needed], np.asarray(labels.codes)
    votes = share_votes(dominance(x, codes, np.ones(n_groups)))
    delta[:, needed] = dominance(x, codes, votes)
    frames = [
        score_sets(delta, types, levels, n_permutations, rng).assign(markers=name)
        for name, types in sets.items()
        if types
    ]
    scores = pd.concat(frames, ignore_index=True)
    scores["group"] = np.asarray(labels.categories.astype(str))[scores["group"]]
    scores["q_value"] = false_discovery_control(scores["p_value"])
    return scores


def reasons(scores: pd.DataFrame, min_genes: int, max_q: float, min_score: float) -> np.ndarray:
    """Return per row why the type can't name the group, "" if it can."""
    faults = {
        f"q-value above {max_q:g}": scores["q_value"] > max_q,
        f"score below {min_score:g}": scores["score"] < min_score,
        f"fewer than {min_genes} markers above the other clusters": scores["n_up"] < min_genes,
    }
    return np.select(list(faults.values()), list(faults), default="").astype(object)


def summarise(scores: pd.DataFrame, labels: pd.Categorical) -> pd.DataFrame:
    """Return one row per group: the best type that can name it, or the best that can't, and the second best."""
    sizes = np.bincount(labels.codes, minlength=len(labels.categories))
    rows = []
    for group, n_cells in zip(labels.categories, sizes, strict=True):
        own = scores[scores["group"] == group].sort_values("score", ascending=False, kind="stable")
        ranked: list[dict[str, Any]] = own.to_dict("records")
        able = [row for row in ranked if not row["reason"]]
        best = next(iter(able or ranked), NOTHING)
        second = next((row for row in ranked if row is not best), NOTHING)
        rows.append(
            {
                "group": group,
                "n_cells": int(n_cells),
                "cell_type": best["cell_type"] if able else _keys.UNASSIGNED,
                "best": best["cell_type"],
                **{column: best[column] for column in ["score", "q_value", "n_markers", "n_up", "genes"]},
                "runner_up": second["cell_type"],
                "runner_up_score": second["score"],
                "confident": bool(able) and not second["score"] > NEAR * best["score"],
                "reason": best["reason"],
            }
        )
    return pd.DataFrame(rows)


def choose(
    table: dict[str, pd.DataFrame],
    scores: pd.DataFrame,
    tried: pd.DataFrame | None,
    labels: pd.Categorical,
    min_genes: int,
) -> tuple[str, str]:
    """Return the name of the table to use, "" if none fits, and a sentence about what stands in the way."""
    if not table:
        return "", (
            f"None of the bundled marker tables has {MIN_FOUND:.0%} of its genes among those of the data, so no "
            "cluster is named; pass markers=..., or gene_symbols=... if the genes go by identifiers."
        )
    if len(labels.categories) < 2:
        return "", "There are fewer than two clusters, and markers compare clusters; nothing is named."
    if scores.empty:
        return "", f"No cell type has {min_genes} of its markers among the genes of the data; nothing is named."
    if tried is None:
        return next(iter(table)), ""
    for name, rows in table.items():
        named = rows[rows["cell_type"] != _keys.UNASSIGNED]
        share = named["n_cells"] / len(labels)
        row = tried["markers"] == name
        tried.loc[row, "named"] = share.sum()
        tried.loc[row, "n_types"] = named["cell_type"].nunique()
        tried.loc[row, "evidence"] = (share * named["score"]).sum()
    n_types = min(MIN_TYPES, len(labels.categories))
    fits = tried[(tried["named"] >= MIN_NAMED) & (tried["n_types"] >= n_types)]
    if fits.empty:
        most = tried.nlargest(1, "evidence").iloc[0]
        return "", (
            f"None of the bundled marker tables fits: one that does names at least {MIN_NAMED:.0%} of the cells and "
            f"{n_types} types; the nearest, {most['markers']}, names {most['named']:.0%} and {most['n_types']}. The "
            "cells are taken to be of another tissue and left unassigned; pass markers=... to choose a table, "
            "bundled or your own."
        )
    return str(fits.nlargest(1, "evidence")["markers"].iloc[0]), ""
