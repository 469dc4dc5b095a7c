"""Which dimensions of a training, and which of their genes, come back in others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from diffvae.benchmark._matching import Match, cosines, match, null_similarity
from diffvae.benchmark._retrain import READINGS, Training

LEVEL = 0.95
"""Quantile of the null that a match must exceed to be called a recurrence."""


def match_all(
    reference: Training, others: Sequence[Training], by: str, null: str, rng: np.random.Generator
) -> pd.DataFrame:
    """Match the living dimensions of each training to those of the reference.

    Returns
    -------
    One row per training and living dimension of the reference: ``training``, ``dimension``, ``match`` (-1 for none),
    ``similarity``, ``sign``, ``null_similarity`` (mean of the null), ``threshold`` (its 95th percentile), ``recurs``.
    """
    own = np.flatnonzero(reference.alive)
    parts = []
    for number, other in enumerate(others, 1):
        candidates = np.flatnonzero(other.alive)
        if len(own) and len(candidates):
            rows, columns = reference.rows(by)[own], other.rows(by)[candidates]
            found = match(cosines(rows, columns))
            # a rotation of one axis leaves it where it is, and so can't be a null
            kind = "permutation" if min(len(own), len(candidates)) == 1 else null
            chance = null_similarity(rows, columns, kind, rng)
        else:
            found, chance = _nothing(len(own)), np.zeros((1, len(own)))
        threshold = np.quantile(chance, LEVEL, axis=0)
        column = found.column.copy()
        column[column >= 0] = candidates[column[column >= 0]]
        parts.append(
            pd.DataFrame(
                {
                    "training": number,
                    "dimension": own,
                    "match": column,
                    "similarity": found.similarity,
                    "sign": found.sign,
                    "null_similarity": chance.mean(axis=0),
                    "threshold": threshold,
                    "recurs": (found.column >= 0) & (found.similarity > threshold + 1e-9),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _nothing(n: int) -> Match:
    return Match(np.full(n, -1), np.zeros(n), np.zeros(n, int))


def dimension_table(reference: Training, others: Sequence[Training], matches: pd.DataFrame) -> pd.DataFrame:
    """Return one row per dimension of the reference: means over the trainings, NaN for a dead dimension."""
    table = pd.DataFrame({"dimension": np.arange(len(reference.alive)), "alive": reference.alive})
    by_dimension = matches.groupby("dimension")
    means = by_dimension[["recurs", "similarity", "null_similarity", "threshold"]].mean()
    means.insert(2, "similarity_sd", by_dimension["similarity"].std(ddof=0))
    means = means.rename(columns={"recurs": "recurrence"}).astype(float)
    table = table.join(means, on="dimension")
    table["explained"] = np.where(reference.alive, _explained(reference, others), np.nan)
    return table


def _explained(reference: Training, others: Sequence[Training]) -> np.ndarray:
    r"""Return the share of each dimension's variance that the whole latent of another training predicts.

    Adjusted :math:`R^2` of a linear regression on all its living dimensions, averaged over the trainings.
    """
    y = reference.z - reference.z.mean(axis=0)
    total = np.square(y).sum(axis=0)
    shares = []
    for other in others:
        x = other.z[:, other.alive]
        x = x - x.mean(axis=0)
        left = np.square(y - x @ np.linalg.lstsq(x, y, rcond=None)[0]).sum(axis=0) if x.size else total
        unexplained = np.divide(left, total, out=np.ones_like(total), where=total > 0)
        n, d = x.shape
        shares.append(1 - unexplained * (n - 1) / max(n - d - 1, 1))
    return np.mean(shares, axis=0).clip(0, 1)


def gene_table(
    reference: Training, others: Sequence[Training], matches: pd.DataFrame, names: pd.Index, n_genes: int
) -> pd.DataFrame:
    """Return in how many trainings each high-weight gene is one of the matched dimension, too.

    Returns
    -------
    One row per living dimension, reading (``"weights"``, ``"jacobian"``) and gene among the first ``n_genes`` by
    absolute value, in their order.
    """
    parts = [_genes_by(reading, reference, others, matches, names, n_genes) for reading in READINGS]
    return pd.concat(parts, ignore_index=True)


def _genes_by(
    reading: str, reference: Training, others: Sequence[Training], matches: pd.DataFrame, names: pd.Index, n_genes: int
) -> pd.DataFrame:
    living = np.flatnonzero(reference.alive)
    own = reference.rows(reading)[living]
    top = np.argsort(-np.abs(own), axis=1, kind="stable")[:, :n_genes]
    weight = np.take_along_axis(own, top, axis=1)
    found, same, chance = (np.zeros((len(others), *top.shape)) for _ in range(3))
    for i, other in enumerate(others):
        rows = other.rows(reading)
        heavy = _is_top(rows, n_genes) & other.alive[:, None]
        mine = matches[matches["training"] == i + 1]
        column, sign = mine["match"].to_numpy(), mine["sign"].to_numpy()
        matched = (column >= 0)[:, None]
        place = column[:, None], top
        found[i] = heavy[place] & matched
        same[i] = (np.sign(rows[place]) * sign[:, None] == np.sign(weight)) & matched
        chance[i] = (heavy.sum(axis=0)[top] - found[i]) / np.maximum(other.alive.sum() - matched, 1)
    frame = pd.DataFrame(
        {
            "dimension": np.repeat(living, top.shape[1]),
            "reading": reading,
            "rank": np.tile(np.arange(1, top.shape[1] + 1), len(living)),
            "gene": np.asarray(names, dtype=object)[top.ravel()],
            "direction": np.where(weight > 0, "up", "down").ravel(),
            "weight": weight.ravel().astype(float),
            "recurrence": found.mean(axis=0).ravel(),
            "same_direction": same.mean(axis=0).ravel(),
            "null_recurrence": chance.mean(axis=0).ravel(),
        }
    )
    return frame[frame["weight"] != 0]  # fewer genes hang on the dimension than were asked for


def _is_top(rows: np.ndarray, n: int) -> np.ndarray:
    """Return which genes are among the first n of each dimension, by absolute value."""
    top = np.zeros(rows.shape, dtype=bool)
    np.put_along_axis(top, np.argsort(-np.abs(rows), axis=1, kind="stable")[:, :n], True, axis=1)
    return top
