"""The pages of a passport: types, genes and batches of each dimension, each a tidy table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse, stats

from diffvae import metrics
from diffvae.tl._dimensions import enrichment, outlying
from diffvae.tl._gene_weights import RANKINGS

if TYPE_CHECKING:
    from anndata import AnnData

SIDES = ("+", "-")
DIRECTIONS = ("up", "down")
GENE_COLUMNS = ["dimension", "reading", "direction", "rank", "gene", "weight", "correlation", "confirmed"]


def types_of_sides(z: np.ndarray, labels: pd.Categorical, n_sd: float) -> pd.DataFrame:
    """Return how enriched each type is on either side of each dimension.

    The sides are the two halves of D_k (eq 3), each tested by itself: odds ratio and one-sided hypergeometric p-value,
    Benjamini-Hochberg over all dimensions, sides and types. Sorted by odds ratio: by p-value a big type that is
    somewhat more frequent on a side would come before a small one that lies there altogether.
    """
    member = np.eye(len(labels.categories))[labels.codes]
    size, n = member.sum(axis=0)[:, None], len(z)
    parts = []
    for side, cells in zip(SIDES, outlying(z, n_sd), strict=True):
        both, n_side = member.T @ cells, cells.sum(axis=0)[None]
        odds_ratio, p_value = enrichment(both, n_side, size, n)
        shape = both.shape
        parts.append(
            pd.DataFrame(
                {
                    "dimension": np.tile(np.arange(shape[1]), shape[0]),
                    "side": side,
                    "type": np.repeat(labels.categories.to_numpy(dtype=object), shape[1]),
                    "n_cells": np.broadcast_to(n_side, shape).ravel().astype(int),
                    "n_type": both.ravel().astype(int),
                    "share": np.divide(both, n_side, out=np.zeros(shape), where=n_side > 0).ravel(),
                    "expected_share": np.broadcast_to(size / n, shape).ravel(),
                    "odds_ratio": odds_ratio.ravel(),
                    "p_value": p_value.ravel().clip(0, 1),
                }
            )
        )
    frame = pd.concat(parts, ignore_index=True)
    frame["q_value"] = stats.false_discovery_control(frame["p_value"])
    order = ["dimension", "side", "odds_ratio", "p_value"]
    return frame.sort_values(order, ascending=[True, True, False, True], ignore_index=True)


def genes_of_directions(adata: AnnData, z: np.ndarray, alive: np.ndarray, n_genes: int) -> pd.DataFrame:
    """Return the first genes of each living dimension, for both readings of the decoder and both directions.

    ``correlation`` is Pearson's, of the gene with the dimension over the cells; ``confirmed`` says whether it has the
    sign that the decoder gives the gene.
    """
    names = adata.var_names.to_numpy(dtype=object)
    parts = []
    for reading, key in RANKINGS.items():
        weights = np.asarray(adata.varm[key], np.float64)
        for d in np.flatnonzero(alive):
            for direction, signed in zip(DIRECTIONS, (weights[:, d], -weights[:, d]), strict=True):
                genes = np.argsort(-signed, kind="stable")[:n_genes]
                genes = genes[signed[genes] > 0]
                rank = np.arange(1, len(genes) + 1)
                found = {"rank": rank, "gene": names[genes], "place": genes, "weight": weights[genes, d]}
                parts.append(pd.DataFrame({"dimension": d, "reading": reading, "direction": direction, **found}))
    if not parts:
        return pd.DataFrame(columns=GENE_COLUMNS)
    frame = pd.concat(parts, ignore_index=True)
    frame["correlation"] = correlations(adata.X, z)[frame["place"], frame["dimension"]]
    frame["confirmed"] = np.sign(frame["correlation"]) == np.sign(frame["weight"])
    return frame.drop(columns="place")


def correlations(x: Any, z: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of each gene with each dimension over the cells: genes x dimensions.

    0 where gene or dimension is constant.
    """
    n = len(z)
    wide: Any = x.astype(np.float64) if sparse.issparse(x) else np.asarray(x, np.float64)
    mean = np.asarray(wide.mean(axis=0)).ravel()
    squares = (wide.multiply(wide) if sparse.issparse(wide) else np.square(wide)).mean(axis=0)
    spread = np.sqrt((np.asarray(squares).ravel() - mean**2).clip(min=0))
    centred = z - z.mean(axis=0)
    scale = np.outer(spread, centred.std(axis=0))
    covariance = np.asarray(wide.T @ centred) / n
    return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 1e-12).clip(-1, 1)


def batches_of_dimensions(
    z: np.ndarray, alive: np.ndarray, batch: pd.Categorical, labels: pd.Categorical
) -> pd.DataFrame:
    r"""Return how far each dimension follows the batch, beside how far it follows the types.

    .. math:: \eta^2_B = 1 - \frac{\mathrm{SS}(z \mid T, B)}{\mathrm{SS}(z \mid T)} \qquad
        \eta^2_T = 1 - \frac{\mathrm{SS}(z \mid T, B)}{\mathrm{SS}(z \mid B)}

    with SS the squares left over by the means of types T, batches B, or both (additive): what the one explains of what
    the other leaves, so that batches of different composition are not blamed for their types. p-value of an F-test of
    the batches, Benjamini-Hochberg over the living dimensions.

    Returns
    -------
    One row per dimension: ``dimension``, ``batch`` (the one that stands furthest apart), ``auc`` (the chance that a
    cell of it lies above a cell of another batch), ``batch_eta2``, ``type_eta2``, ``p_value``, ``q_value``.
    """
    auc = metrics.dimension_auc(z, np.asarray(batch, dtype=str))
    furthest = np.abs(auc.to_numpy() - 0.5).round(12).argmax(axis=1)  # of two batches the first, whatever the round-off
    one_hot = [np.eye(len(c.categories))[c.codes] for c in (labels, batch)]
    of_types, of_batch = (_left_over(z, design)[0] for design in one_hot)
    of_both, rank = _left_over(z, np.hstack(one_hot))
    extra = rank - len(labels.categories)
    spare = len(z) - rank
    with np.errstate(divide="ignore", invalid="ignore"):
        f = np.nan_to_num(((of_types - of_both) / max(extra, 1)) / (of_both / max(spare, 1)), nan=0.0)
        batch_eta2 = np.nan_to_num(1 - of_both / of_types).clip(0, 1)
        type_eta2 = np.nan_to_num(1 - of_both / of_batch).clip(0, 1)
    p_value = stats.f.sf(f.clip(min=0), max(extra, 1), max(spare, 1)) if extra else np.ones(z.shape[1])
    frame = pd.DataFrame(
        {
            "dimension": np.arange(z.shape[1]),
            "batch": auc.columns.to_numpy(dtype=object)[furthest],
            "auc": auc.to_numpy()[np.arange(len(auc)), furthest],
            "batch_eta2": batch_eta2,
            "type_eta2": type_eta2,
            "p_value": p_value,
        }
    )[alive]
    q_value = stats.false_discovery_control(frame["p_value"]) if len(frame) else frame["p_value"]
    return frame.assign(q_value=q_value).reset_index(drop=True)


def _left_over(z: np.ndarray, design: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the squares that a linear model leaves over in each dimension, and the rank of its design."""
    fitted, _, rank, _ = np.linalg.lstsq(design, z, rcond=None)
    return np.square(z - design @ fitted).sum(axis=0), int(rank)
