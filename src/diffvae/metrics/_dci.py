"""Disentanglement, completeness and informativeness."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from diffvae._random import Rng, generator, seed
from diffvae.metrics._factors import Factor, Factors, as_factors, held_out, skill
from diffvae.metrics._labels import as_points

N_TREES = 20
MIN_CELLS_PER_LEAF = 5


@dataclass(frozen=True)
class DCI:
    """Result of :func:`dci`.

    Attributes
    ----------
    disentanglement
        How far a dimension is used for one factor only, in [0, 1]; NaN for a single factor.
    completeness
        How far a factor is encoded in one dimension only, in [0, 1]; NaN for a single dimension.
    informativeness
        How well the factors are predicted on held-out cells: 1 for perfect, about 0 for chance.
    importance
        Dimensions x factors; the columns sum to 1, or 0 where no dimension says anything.

    Examples
    --------
    >>> import diffvae as dv
    >>> import numpy as np
    >>> cell = np.arange(200)
    >>> factors = {"type": np.where(cell % 2, "a", "b"), "batch": np.where(cell // 2 % 2, "x", "y")}
    >>> dv.metrics.dci(np.c_[cell % 2, cell // 2 % 2], factors).importance.round(2).to_numpy().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: pd.DataFrame = field(repr=False, compare=False)


def dci(
    z: ArrayLike, factors: Factors, *, test_size: float = 0.25, sample_size: int | None = 5000, rng: Rng = 0
) -> DCI:
    r"""Compute how one-to-one dimensions and factors are, and how well dimensions predict factors (DCI).

    .. math:: D = \sum_i \frac{\sum_m R_{im}}{\sum_{i'm} R_{i'm}} \left( 1 - H_M(P_i) \right) \qquad
        P_{im} = \frac{R_{im}}{\sum_{m'} R_{im'}} \qquad
        C = \frac{1}{M} \sum_m \left( 1 - H_D(\tilde P_m) \right) \qquad
        \tilde P_{im} = \frac{R_{im}}{\sum_{i'} R_{i'm}}

    with entropies to the base of the number of factors M and of dimensions D, and :math:`R_{im}` the importance of
    dimension i for predicting factor m. Here that is the mean decrease of impurity in extremely randomised trees (20
    trees, all dimensions tried at every split, at least 5 cells per leaf, labels weighing the same), which are quick;
    the published choices are the lasso and random forests, and gradient boosting in Locatello et al. Another model
    gives other values: compare only what one function computed.

    A factor that z does not know spreads its importance over all dimensions and pulls both D and C down; read them
    beside the informativeness, which is the recall averaged over labels, rescaled so that chance, 1/K, is 0, and for
    numbers :math:`R^2`, each on held-out cells. Dimensions that say nothing raise C, since :math:`\log D` is what its
    entropy is measured by: compare it at equal D. As in :func:`mutual_information_gap`, a factor of many labels is
    complete only if one dimension tells all of them apart; ``pandas.get_dummies(labels)`` asks for one dimension each.

    Parameters
    ----------
    z
        Cells x dimensions.
    factors
        Name to values, one value per cell. Text, categories and booleans are labels; numbers are numbers (give
        numbered groups as text). Cells without a value (NaN, None) are left out for that factor.
    test_size
        Share of each label's cells that is held out; labels too rare for that are left out.
    sample_size
        Cells drawn at random for each factor where there are more; ``None`` takes all.
    rng
        Seed or generator of the draw, the split and the trees.

    Returns
    -------
    :class:`DCI`, with the importances.

    Raises
    ------
    ValueError
        If a factor takes one value only, has no two labels with cells to hold out or does not fit z, if z is not
        finite, ``test_size`` is not between 0 and 1 or ``sample_size`` is below 2.

    References
    ----------
    Eastwood and Williams, A framework for the quantitative evaluation of disentangled representations, ICLR (2018).
    Geurts, Ernst and Wehenkel, Extremely randomized trees, Machine Learning 63 (2006).

    Examples
    --------
    >>> cell = np.arange(200)
    >>> factors = {"type": np.where(cell % 2, "a", "b"), "batch": np.where(cell // 2 % 2, "x", "y")}
    >>> dci(np.c_[cell % 2, cell // 2 % 2, np.zeros(200)], factors)
    DCI(disentanglement=1.0, completeness=1.0, informativeness=1.0)
    >>> turned = dci(np.c_[cell % 2 + cell // 2 % 2, cell % 2 - cell // 2 % 2], factors)
    >>> turned.informativeness, turned.disentanglement < 0.1
    (1.0, True)
    """
    if sample_size is not None and sample_size < 2:
        raise ValueError(f"sample_size is {sample_size}; give at least 2 cells, or None for all.")
    points = as_points(z, name="z").astype(np.float32)
    known = as_factors(factors, len(points))
    columns, skills = [], []
    for factor in known:
        draw = generator(rng, "dci", factor.name)
        if sample_size is not None and sample_size < len(factor.cells):
            factor = factor.take(draw.choice(len(factor.cells), sample_size, replace=False))
        train, test = held_out(factor, test_size, draw)
        importance, value = _forest(points, train, test, seed(rng, "dci trees", factor.name))
        columns.append(importance)
        skills.append(value)
    matrix = np.stack(columns, axis=1)
    disentanglement, completeness = _entropies(matrix)
    table = pd.DataFrame(matrix, columns=[factor.name for factor in known]).rename_axis(
        index="dimension", columns="factor"
    )
    return DCI(disentanglement, completeness, float(np.mean(skills)), table)


def _forest(
    points: NDArray[np.float32], train: Factor, test: Factor, random_state: int
) -> tuple[NDArray[np.float64], float]:
    """Return the importance of every dimension, and the skill on held-out cells."""
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    options = {"n_estimators": N_TREES, "min_samples_leaf": MIN_CELLS_PER_LEAF, "max_features": None, "n_jobs": 1}
    if train.n_labels:
        trees = ExtraTreesClassifier(**options, class_weight="balanced", random_state=random_state)
    else:
        trees = ExtraTreesRegressor(**options, random_state=random_state)
    trees.fit(points[train.cells], train.values)
    return trees.feature_importances_, skill(test, trees.predict(points[test.cells]))


def _entropies(importance: NDArray[np.float64]) -> tuple[float, float]:
    """Return disentanglement and completeness of importances, dimensions x factors."""
    total = importance.sum()
    n_dimensions, n_factors = importance.shape
    by_dimension, by_factor = importance.sum(axis=1), importance.sum(axis=0)
    disentanglement = completeness = float("nan")
    if n_factors > 1:
        focus = _concentration(importance, by_dimension[:, None], axis=1)
        disentanglement = float(focus @ by_dimension / total) if total > 0 else 0.0
    if n_dimensions > 1:
        completeness = float(_concentration(importance, by_factor[None], axis=0).mean())
    return disentanglement, completeness


def _concentration(importance: NDArray[np.float64], sums: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return 1 - H(shares) / log(number of shares) along an axis, 0 where there is nothing to share."""
    shares = np.divide(importance, sums, out=np.zeros_like(importance), where=sums > 0)
    entropy = entr(shares).sum(axis=axis) / np.log(importance.shape[axis])
    return np.where(sums.squeeze(axis) > 0, (1 - entropy).clip(0, 1), 0.0)
