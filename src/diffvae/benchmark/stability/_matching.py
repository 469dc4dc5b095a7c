"""Further trainings of a model: which of its dimensions and their genes recur, compared with random axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from diffvae import _keys, _random
from diffvae._core.fingerprint import alive_dimensions
from diffvae._errors import DataError
from diffvae.model import PCA, Model
from diffvae.model._features import fingerprint, layer_matrix

if TYPE_CHECKING:
    from anndata import AnnData

NULLS = ("rotation", "permutation")
READINGS = ("weights", "jacobian")
N_DRAWS = 200
"""Draws of the null for each pair of trainings."""
LEVEL = 0.95
"""Quantile of the null that the similarity of a recurring dimension exceeds."""
N_CELLS = 1000
"""Cells over which the Jacobian is averaged."""
HELD_OUT = 0.2
"""Share of cells that a further training holds out if the cells have no split or no validation cells."""


@dataclass(frozen=True)
class Training:
    """One training: latent (cells x dimensions), which dimensions are alive, and their genes (dimensions x genes)."""

    z: np.ndarray
    alive: np.ndarray
    weights: np.ndarray
    jacobian: np.ndarray

    def rows(self, by: str) -> np.ndarray:
        """Return dimensions x genes, or x cells for ``"latent"``, whose cosine is then Pearson's correlation."""
        found: np.ndarray = (self.z - self.z.mean(axis=0)).T if by == "latent" else getattr(self, by)
        return found


def read(model: Model, adata: AnnData, cells: np.ndarray) -> Training:
    """Read a trained model on these cells; the Jacobian is averaged over the rows ``cells``."""
    latent = model.get_latent_representation(adata)
    z = latent.astype(np.float64)
    weights, jacobian = model.gene_weights(), model.gene_jacobian(latent[cells])
    return Training(z, alive_dimensions(z, has_prior(model)), weights, jacobian)


def has_prior(model: Model) -> bool:
    """Return whether the scale of the latent is fixed by a prior."""
    config = getattr(model, "config", None)
    return config is not None and config.noise != "none"


def prepare_reference(adata: AnnData, model: Model, training: Mapping[str, Any], rng: _random.Rng) -> dict[str, Any]:
    """Train an untrained model, refuse one of other cells; return the arguments of further trainings."""
    if not model.is_trained:
        model.train(adata, rng=_random.seed(rng, "stability reference"), **training)
        return dict(training)
    layer = model.features.layer
    if fingerprint(layer_matrix(adata, layer)) != model.features.fingerprint:
        raise DataError(
            "The model was trained on other cells or other values than those of adata; give the cells that it was "
            "trained on, unchanged."
        )
    # as many epochs as the reference had; models without epochs ignore it
    return {"layer": layer, "max_epochs": len(model.history)} | dict(training)


def held_out(adata: AnnData) -> float:
    """Return the share of cells that further trainings hold out, that of the cells' own split."""
    if _keys.SPLIT not in adata.obs:
        return HELD_OUT
    return float((adata.obs[_keys.SPLIT] == "validation").mean()) or HELD_OUT


def again(adata: AnnData, model: Model, how: Mapping[str, Any], seed: int) -> Model:
    """Return a model of the same configuration, trained with another seed."""
    return type(model)(**model.get_params()).train(adata, rng=seed, **how)


def baseline(adata: AnnData, model: Model) -> PCA:
    """Return PCA with as many components as the model has dimensions, or as many as the cells allow."""
    n_train = adata.n_obs - round(held_out(adata) * adata.n_obs)
    n_latent = min(model.n_latent, min(n_train, adata.n_vars) - 1)
    return PCA(n_latent).train(adata, layer=model.features.layer)


class Match(NamedTuple):
    """The dimension of the other training that each dimension of the reference is matched to.

    ``column`` is -1 and ``similarity`` and ``sign`` are 0 if the other training has too few dimensions.
    """

    column: np.ndarray
    similarity: np.ndarray
    """Absolute cosine."""
    sign: np.ndarray
    """-1 where the matched dimension points the other way."""


def cosines(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of one array with each row of the other, 0 for a row of zeros.

    Examples
    --------
    >>> cosines(np.array([[3.0, 0.0]]), np.array([[1.0, 0.0], [0.0, -2.0], [-1.0, 0.0]])).tolist()
    [[1.0, 0.0, -1.0]]
    """
    return _unit(reference) @ _unit(other).T


def match(cosine: np.ndarray) -> Match:
    r"""Match rows to columns one to one.

    .. math:: \max_\pi \sum_d |\cos(w_d, w'_{\pi(d)})|

    solved exactly by the Hungarian method. The absolute value is taken because a dimension and its mirror image are
    equivalent.

    Parameters
    ----------
    cosine
        Dimensions of the reference x dimensions of the other training, from :func:`cosines`.

    Returns
    -------
    :class:`Match`, one entry per row.

    Examples
    --------
    >>> found = match(np.array([[0.1, -0.9], [0.8, 0.85]]))
    >>> found.column.tolist(), found.similarity.tolist(), found.sign.tolist()
    ([1, 0], [0.9, 0.8], [-1, 1])
    """
    n = len(cosine)
    column, similarity, sign = np.full(n, -1), np.zeros(n), np.zeros(n, int)
    rows, columns = linear_sum_assignment(np.abs(cosine), maximize=True)
    column[rows] = columns
    similarity[rows] = np.abs(cosine[rows, columns])
    sign[rows] = np.where(cosine[rows, columns] < 0, -1, 1)
    return Match(column, similarity, sign)


def null_similarity(
    reference: np.ndarray, other: np.ndarray, null: str, rng: np.random.Generator, n_draws: int = N_DRAWS
) -> np.ndarray:
    r"""Return the similarities that the same matching finds when no dimension recurs.

    ``"rotation"`` replaces the axes of the other training by random ones of the same latent space,

    .. math:: w'_d \to \sum_e R_{de} w'_e, \qquad R^T R = I

    N(0, I) is invariant under rotation, and a decoder rotated with it fits equally well: such a training differs only
    in its axes. What all directions of that space share (genes that vary along every axis, the common subspace) is part
    of the null, so that only the choice of the axes can recur. ``"permutation"`` shuffles the genes within each
    dimension, which destroys the shared part as well.

    Parameters
    ----------
    reference, other
        Dimensions x genes (or cells), in the units of the latent.
    null
        ``"rotation"`` or ``"permutation"``.
    rng
        Generator.
    n_draws
        Draws.

    Returns
    -------
    Draws x dimensions of the reference: the absolute cosine of each matched pair.
    """
    found = np.zeros((n_draws, len(reference)))
    unit = _unit(reference)
    if null == "permutation":
        own = _unit(other)
        for draw in found:
            draw[:] = match(unit @ rng.permuted(own, axis=1).T).similarity
        return found
    # inner products of the rows suffice for a rotation; the genes are not needed
    across, gram = unit @ other.T, other @ other.T
    for draw in found:
        turn = _rotation(len(other), rng)
        length = np.sqrt(np.einsum("ij,jk,ik->i", turn, gram, turn, optimize=True).clip(min=0))
        draw[:] = match((across @ turn.T) / np.where(length > 0, length, 1)).similarity
    return found


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def _rotation(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return a uniformly distributed orthogonal matrix (Stewart 1980)."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


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
            # rotating a single axis leaves it in place, so it is no null
            kind = "permutation" if min(len(own), len(candidates)) == 1 else null
            chance = null_similarity(rows, columns, kind, rng)
        else:
            found, chance = match(np.zeros((len(own), 0))), np.zeros((1, len(own)))
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
    r"""Return the share of each dimension's variance that the whole latent space of another training predicts.

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
    """Return in how many trainings each high-weight gene is also one of the matched dimension.

    Returns
    -------
    One row per living dimension, reading (``"weights"``, ``"jacobian"``) and gene among the first ``n_genes`` by
    absolute value, in that order.
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
    return frame[frame["weight"] != 0]  # the dimension has fewer genes than requested


def _is_top(rows: np.ndarray, n: int) -> np.ndarray:
    """Return which genes are among the first n of each dimension by absolute value."""
    top = np.zeros(rows.shape, dtype=bool)
    np.put_along_axis(top, np.argsort(-np.abs(rows), axis=1, kind="stable")[:, :n], True, axis=1)
    return top
