"""Which genes recur in the sets of many cells, and what other genes or directions would give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from diffvae.tl._cells import Cells
from diffvae.tl._prefix import EditedCells
from diffvae.tl._shift import Way, random_ways

if TYPE_CHECKING:
    from diffvae.model import Model

NULL_CELLS = 100
N_DRAWS = 20
"""Draws of random genes for the baseline."""
MIN_SHARE = 0.05
"""Genes in fewer of the sets aren't tested: they can't be called recurrent, and would cost the others power."""


def gene_change(model: Model, cells: Cells, rows: np.ndarray, shift: np.ndarray, method_genes: str) -> np.ndarray:
    """Return what is added to each gene of each cell, so that the result stays in the range of the layer."""
    x, z = cells.x[rows], cells.z[rows]
    y = cells.clip(model.decode(z + shift.astype(np.float32)))
    change = y - (x if method_genes == "paper" else cells.clip(model.decode(z)))
    return cells.clip(x + change) - x


def able_genes(change: np.ndarray, allowed: np.ndarray, direction: str) -> np.ndarray:
    sided = {"both": change != 0, "up": change > 0, "down": change < 0}[direction]
    return sided & allowed


def edit_cells(x: np.ndarray, change: np.ndarray, sets: Sequence[np.ndarray]) -> np.ndarray:
    edited = x.copy()
    for i, genes in enumerate(sets):
        edited[i, genes] += change[i, genes]
    return edited


def recurrence_null(
    model: Model,
    cells: Cells,
    rows: np.ndarray,
    sets: Sequence[np.ndarray],
    way: Way,
    n_sd: float,
    allowed: np.ndarray,
    direction: str,
    method_genes: str,
    n_random: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return how often each gene would be in sets of these sizes under random directions: draws x genes, a share.

    The sizes are those found; the genes are the first of the ranking by effect that the random direction gives. So a
    gene that moves whatever one does (a highly expressed one, say) is no finding.
    """
    picked = np.arange(len(rows)) if len(rows) <= NULL_CELLS else rng.choice(len(rows), NULL_CELLS, replace=False)
    sizes = [len(sets[i]) for i in picked]
    shares = np.zeros((n_random, cells.x.shape[1]))
    for draw, other in enumerate(random_ways(way, cells.z.std(0), n_random, rng)):
        change = gene_change(model, cells, rows[picked], n_sd * other.z, method_genes)
        score = np.where(able_genes(change, allowed, direction), np.abs(change), -np.inf)
        for values, size in zip(score, sizes, strict=True):
            top = np.argpartition(-values, size - 1)[:size]
            shares[draw, top[np.isfinite(values[top])]] += 1
    return shares / max(len(picked), 1)


def recurrence(
    names: np.ndarray, model: Model, sets: Sequence[np.ndarray], change: np.ndarray, null: np.ndarray
) -> pd.DataFrame:
    """Return one row per gene in any set: how many cells need it, which way, and whether chance would have it so."""
    count = np.bincount(np.concatenate(sets) if sets else np.array([], int), minlength=len(names))
    used = np.flatnonzero(count)
    inside = np.zeros(change.shape, bool)
    for i, genes in enumerate(sets):
        inside[i, genes] = True
    share = count / max(len(sets), 1)
    mean = (change * inside).sum(0)[used] / count[used]
    p = (1 + (null[:, used] >= share[used]).sum(0)) / (1 + len(null)) if len(null) else np.full(len(used), np.nan)
    q = np.full(len(used), np.nan)
    tested = (share[used] >= MIN_SHARE) & ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    features = model.features
    frame = pd.DataFrame(
        {
            "gene": names[used],
            "n_cells": count[used],
            "share": share[used],
            "direction": np.where(mean >= 0, "up", "down"),
            "mean_change": mean,
            "null_share": null[:, used].mean(0) if len(null) else np.nan,
            "p_value": p,
            "q_value": q,
        }
    )
    if features.minimum is not None and features.maximum is not None:
        frame.insert(5, "mean_log_change", mean * (features.maximum - features.minimum)[used])
    return frame.sort_values(["n_cells", "p_value"], ascending=[False, True], kind="stable").reset_index(drop=True)


def other_genes(
    edited: EditedCells,
    cells: Cells,
    rows: np.ndarray,
    sets: Sequence[np.ndarray],
    change: np.ndarray,
    able: np.ndarray,
    source: str,
    target: str,
    code: int,
    min_probability: float,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return the share of these cells that as many other genes, changed alike, would flip."""
    x = cells.x[rows]

    def flipped(choice: Sequence[np.ndarray]) -> float:
        p, leads = edited.answers(edited.hidden(edit_cells(x, change, choice)), code)
        return float((leads & (p >= min_probability)).mean())

    if not len(rows):
        return pd.DataFrame({"genes": ["found", "differentially expressed", "random"], "flipped": np.nan, "sd": np.nan})
    sizes = [len(s) for s in sets]
    t = stats.ttest_ind(cells.x[cells.of(target)], cells.x[cells.of(source)], equal_var=False).statistic
    by_t = np.argsort(-np.abs(np.nan_to_num(t)), kind="stable")
    ranked = [by_t[able[i, by_t]][:n] for i, n in enumerate(sizes)]
    drawn = [
        flipped([rng.permutation(np.flatnonzero(able[i]))[:n] for i, n in enumerate(sizes)]) for _ in range(N_DRAWS)
    ]
    return pd.DataFrame(
        {
            "genes": ["found", "differentially expressed", "random"],
            "flipped": [flipped(sets), flipped(ranked), float(np.mean(drawn))],
            "sd": [np.nan, np.nan, float(np.std(drawn, ddof=1))],
        }
    )
