"""Do dimensions and their genes recur in further trainings of a model, more than random axes do?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from diffvae import _keys, _random
from diffvae._core.information import alive_dimensions
from diffvae._errors import DataError
from diffvae.benchmark._harmony import Harmony
from diffvae.benchmark._ica import ICA
from diffvae.model import PCA, Model
from diffvae.model._features import fingerprint, layer_matrix

if TYPE_CHECKING:
    from anndata import AnnData

READINGS = ("weights", "jacobian")
N_DRAWS = 200
"""Draws of the null for each pair of trainings."""
LEVEL = 0.95
"""Quantile of the null that the similarity of a recurring dimension exceeds."""
N_CELLS = 1000
"""Cells over which the Jacobian is averaged."""
HELD_OUT = 0.2
"""Share of cells that a further training holds out if the cells have no validation cells."""


@dataclass(frozen=True)
class Training:
    """One training: latent (cells x dimensions), which dimensions are active, and their genes (dimensions x genes).

    ``sd`` are the posterior standard deviations of the latent, None for models without a posterior.
    """

    z: np.ndarray
    alive: np.ndarray
    weights: np.ndarray
    jacobian: np.ndarray
    sd: np.ndarray | None = None

    def rows(self, by: str) -> np.ndarray:
        """Return dimensions x genes, or x cells for ``"latent"``: their cosine is Pearson's correlation."""
        rows: np.ndarray = (self.z - self.z.mean(axis=0)).T if by == "latent" else getattr(self, by)
        return rows


def read(model: Model, adata: AnnData, cells: np.ndarray) -> Training:
    """Return the dimensions of a trained model; the Jacobian is averaged over the rows ``cells``."""
    latent, sd = model.get_posterior(adata)
    z = latent.astype(np.float64)
    weights, jacobian = model.gene_weights(), model.gene_jacobian(latent[cells])
    return Training(z, alive_dimensions(z, has_prior(model)), weights, jacobian, sd if sd.any() else None)


def has_prior(model: Any) -> bool:
    """Return whether a prior fixes the scale of the latent; a model of another package counts as having one."""
    if isinstance(model, PCA | ICA | Harmony):
        return False
    return bool(getattr(getattr(model, "config", None), "noise", "independent") != "none")


def of_latent(z: np.ndarray, alive: np.ndarray) -> Training:
    """Return a training of which only the latent is known, each dimension scaled to variance 1."""
    none = np.zeros((z.shape[1], 0))
    return Training(z / np.where(alive, z.std(axis=0, dtype=np.float64), 1), alive, none, none)


def prepare_reference(adata: AnnData, model: Model, training: Mapping[str, Any], rng: _random.Rng) -> dict[str, Any]:
    """Train an untrained model, or refuse one of other cells; return the arguments of further trainings."""
    if not model.is_trained:
        model.train(adata, rng=_random.seed(rng, "stability reference"), **training)
        return dict(training)
    layer = model.features.layer
    if fingerprint(layer_matrix(adata, layer)) != model.features.fingerprint:
        raise DataError(
            "The model was trained on other cells or other values than those of adata; give the cells that it was "
            "trained on, unchanged."
        )
    # the number of epochs of the reference; models without epochs ignore it
    return {"layer": layer, "max_epochs": len(model.history)} | dict(training)


def held_out(adata: AnnData) -> float:
    """Return the share of cells that further trainings hold out: that of the split of the cells."""
    if _keys.SPLIT not in adata.obs:
        return HELD_OUT
    return float((adata.obs[_keys.SPLIT] == "validation").mean()) or HELD_OUT


def retrain(adata: AnnData, model: Model, how: Mapping[str, Any], seed: int) -> Model:
    """Return a model of the same configuration, trained with another seed."""
    return type(model)(**model.get_params()).train(adata, rng=seed, **{**model.columns, **how})


def baseline(adata: AnnData, model: Model) -> PCA:
    """Return PCA with the model's number of dimensions, or the largest number that the cells allow."""
    n_train = adata.n_obs - round(held_out(adata) * adata.n_obs)
    n_latent = min(model.n_latent, min(n_train, adata.n_vars) - 1)
    return PCA(n_latent).train(adata, layer=model.features.layer)


class Match(NamedTuple):
    """The match of each dimension of the reference in another training.

    ``column`` is -1 and ``similarity`` and ``sign`` are 0 for a dimension without a match.
    """

    column: np.ndarray
    similarity: np.ndarray
    """Absolute cosine."""
    sign: np.ndarray
    """-1 where the matched dimension has the opposite direction."""


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
    equivalent. Rows are dimensions of the reference, columns those of the other training.

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
    r"""Return the similarities of the same matching if no dimension recurs.

    ``"rotation"`` replaces the axes of the other training by random axes of the same latent space,

    .. math:: w'_d \to \sum_e R_{de} w'_e, \qquad R^T R = I

    N(0, I) is invariant under rotation, and a decoder rotated with it fits equally well: such a training differs only
    in its axes. The null therefore includes what all directions of that space share (genes that vary along every axis,
    the common subspace), and only the choice of the axes is tested. ``"permutation"`` shuffles the genes within each
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
    similarity = np.zeros((n_draws, len(reference)))
    unit = _unit(reference)
    if null == "permutation":
        unit_other = _unit(other)
        for draw in similarity:
            draw[:] = match(unit @ rng.permuted(unit_other, axis=1).T).similarity
        return similarity
    # a rotation needs only the inner products of the rows, not the genes
    across, gram = unit @ other.T, other @ other.T
    for draw in similarity:
        rotation = _rotation(len(other), rng)
        length = np.sqrt(np.einsum("ij,jk,ik->i", rotation, gram, rotation, optimize=True).clip(min=0))
        draw[:] = match((across @ rotation.T) / np.where(length > 0, length, 1)).similarity
    return similarity


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
    """Match the active dimensions of each training to those of the reference.

    Returns
    -------
    One row per training and active dimension of the reference: ``training``, ``dimension``, ``match`` (-1 for none),
    ``similarity``, ``sign``, ``null_similarity`` (mean of the null), ``threshold`` (its 95th percentile), ``recurs``.
    """
    active = np.flatnonzero(reference.alive)
    parts = []
    for number, other in enumerate(others, 1):
        candidates = np.flatnonzero(other.alive)
        matched, similarity = match(np.zeros((len(active), 0))), np.zeros((1, len(active)))
        if len(active) and len(candidates):
            rows, columns = reference.rows(by)[active], other.rows(by)[candidates]
            matched = match(cosines(rows, columns))
            # a single axis cannot be rotated
            kind = "permutation" if min(len(active), len(candidates)) == 1 else null
            similarity = null_similarity(rows, columns, kind, rng)
        threshold = np.quantile(similarity, LEVEL, axis=0)
        column = matched.column.copy()
        column[column >= 0] = candidates[column[column >= 0]]
        table = {
            "training": number,
            "dimension": active,
            "match": column,
            "similarity": matched.similarity,
            "sign": matched.sign,
            "null_similarity": similarity.mean(axis=0),
            "threshold": threshold,
            "recurs": (column >= 0) & (matched.similarity > threshold + 1e-9),
        }
        parts.append(pd.DataFrame(table))
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

    Adjusted :math:`R^2` of a linear regression on all its active dimensions, averaged over the trainings.
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
    """Return the share of trainings in which each high-weight gene is also one of the matched dimension.

    Returns
    -------
    One row per active dimension, reading (``"weights"``, ``"jacobian"``) and gene among the first ``n_genes`` by
    absolute value, in that order.
    """
    parts = [_genes_by(reading, reference, others, matches, names, n_genes) for reading in READINGS]
    return pd.concat(parts, ignore_index=True)


def _genes_by(
    reading: str, reference: Training, others: Sequence[Training], matches: pd.DataFrame, names: pd.Index, n_genes: int
) -> pd.DataFrame:
    active = np.flatnonzero(reference.alive)
    weights = reference.rows(reading)[active]
    top = np.argsort(-np.abs(weights), axis=1, kind="stable")[:, :n_genes]
    weight = np.take_along_axis(weights, top, axis=1)
    recurs, same, null = (np.zeros((len(others), *top.shape)) for _ in range(3))
    for i, other in enumerate(others):
        rows = other.rows(reading)
        is_top = _is_top(rows, n_genes) & other.alive[:, None]
        of_training = matches[matches["training"] == i + 1]
        column, sign = of_training["match"].to_numpy(), of_training["sign"].to_numpy()
        matched = (column >= 0)[:, None]
        entries = column[:, None], top
        recurs[i] = is_top[entries] & matched
        same[i] = (np.sign(rows[entries]) * sign[:, None] == np.sign(weight)) & matched
        null[i] = (is_top.sum(axis=0)[top] - recurs[i]) / np.maximum(other.alive.sum() - matched, 1)
    table = {
        "dimension": np.repeat(active, top.shape[1]),
        "reading": reading,
        "rank": np.tile(np.arange(1, top.shape[1] + 1), len(active)),
        "gene": np.asarray(names, dtype=object)[top.ravel()],
        "direction": np.where(weight > 0, "up", "down").ravel(),
        "weight": weight.ravel().astype(float),
        "recurrence": recurs.mean(axis=0).ravel(),
        "same_direction": same.mean(axis=0).ravel(),
        "null_recurrence": null.mean(axis=0).ravel(),
    }
    frame = pd.DataFrame(table)
    return frame[frame["weight"] != 0]  # a dimension can have fewer genes than requested


def _is_top(rows: np.ndarray, n: int) -> np.ndarray:
    """Return which genes are among the first n of each dimension by absolute value."""
    top = np.zeros(rows.shape, dtype=bool)
    np.put_along_axis(top, np.argsort(-np.abs(rows), axis=1, kind="stable")[:, :n], True, axis=1)
    return top
