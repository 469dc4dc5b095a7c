"""Whether each known factor is encoded in one latent dimension: MIG and DCI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from diffvae._core.validate import Number, Optional, Rule, Whole, check
from diffvae._random import Rng, generator, seed
from diffvae.metrics._labels import as_labels, as_points

Factors: TypeAlias = pd.DataFrame | Mapping[str, ArrayLike]

N_TREES = 20
MIN_CELLS_PER_LEAF = 5
RULES: dict[str, Rule] = {"n_bins": Whole(2), "test_size": Number("(0, 1)"), "sample_size": Optional(Whole(2))}


@dataclass(frozen=True)
class Factor:
    """One factor over the cells that have a value of it.

    Attributes
    ----------
    name
        Name of the factor.
    cells
        Positions of those cells.
    values
        Their values: codes from 0 to ``n_labels - 1``, or numbers.
    n_labels
        Number of distinct labels, at least 2; 0 for a numeric factor.
    """

    name: str
    cells: NDArray[np.intp]
    values: NDArray[Any]
    n_labels: int

    def take(self, chosen: NDArray[np.intp]) -> Factor:
        """Return the factor over some of its cells (positions among them), with labels numbered again from 0."""
        values = self.values[chosen]
        if not self.n_labels:
            return replace(self, cells=self.cells[chosen], values=values)
        names, codes = np.unique(values, return_inverse=True)
        return replace(self, cells=self.cells[chosen], values=codes, n_labels=len(names))


def as_factors(factors: Factors, n_cells: int) -> list[Factor]:
    """Return the factors; a factor with a single value raises ValueError."""
    if not isinstance(factors, pd.DataFrame | Mapping):
        raise ValueError(
            f"factors is of the type {type(factors).__name__}; give a DataFrame with one column per factor or a "
            "dictionary from names to values."
        )
    if not len(factors.keys()):
        raise ValueError("factors is empty; give at least one, with one value per cell.")
    return [_as_factor(str(name), values, n_cells) for name, values in factors.items()]


def _as_factor(name: str, values: ArrayLike, n_cells: int) -> Factor:
    if np.ndim(values) != 1 or np.size(values) != n_cells:
        raise ValueError(f"factor {name!r} has the shape {np.shape(values)} and z has {n_cells} cells; give one each.")
    series = pd.Series(values).reset_index(drop=True)
    series = series[series.notna()]
    is_number = pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_bool_dtype(series)
    if series.nunique() < 2:
        raise ValueError(
            f"factor {name!r} has {series.nunique()} distinct values among {len(series)} cells that have one; a factor "
            "needs two: leave it out."
        )
    cells = series.index.to_numpy()
    if not is_number:
        labels, codes = np.unique(as_labels(series, f"factor {name!r}"), return_inverse=True)
        return Factor(name, cells, codes, len(labels))
    numbers = series.to_numpy(dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"factor {name!r} holds {int((~np.isfinite(numbers)).sum())} infinite values.")
    return Factor(name, cells, numbers, 0)


def held_out(factor: Factor, test_size: float, rng: np.random.Generator) -> tuple[Factor, Factor]:
    """Split the cells of a factor into training and test cells, label by label.

    Labels with too few cells for a test cell are left out of both. The draw does not depend on the labels' names.
    """
    codes = factor.values if factor.n_labels else np.zeros(len(factor.values), dtype=np.intp)
    drawn = rng.permutation(len(codes))
    drawn = drawn[np.argsort(codes[drawn], kind="stable")]
    counts = np.bincount(codes)
    n_test = (counts * test_size).astype(np.intp)
    of_drawn = codes[drawn]
    tests = np.arange(len(codes)) - (np.cumsum(counts) - counts)[of_drawn] < n_test[of_drawn]
    train, test = factor.take(drawn[~tests & (n_test[of_drawn] > 0)]), factor.take(drawn[tests])
    if factor.n_labels and test.n_labels < 2:
        raise ValueError(
            f"factor {factor.name!r} has {test.n_labels} labels with the {int(np.ceil(1 / test_size))} cells or more "
            f"that a held-out share of {test_size:.3g} takes; two are needed: merge labels or leave the factor out."
        )
    if not factor.n_labels and (not len(test.values) or np.ptp(test.values) == 0):
        raise ValueError(
            f"factor {factor.name!r} does not vary over its {len(test.values)} held-out cells; give more cells or "
            "leave it out."
        )
    return train, test


def skill(test: Factor, predicted: NDArray[Any]) -> float:
    r"""Return the skill of predictions of held-out values: 0 for chance, 1 for the truth.

    .. math:: \frac{\bar r - 1 / K}{1 - 1 / K} \qquad\text{or}\qquad 1 - \frac{\sum_i (v_i - \hat v_i)^2}
        {\sum_i (v_i - \bar v)^2}

    for labels, with :math:`\bar r` the mean recall of the K labels, and for numbers.
    """
    if not test.n_labels:
        deviation = test.values - test.values.mean()
        return float(1 - ((test.values - predicted) ** 2).sum() / (deviation**2).sum())
    right = np.bincount(test.values, predicted == test.values, test.n_labels)
    recall = right / np.bincount(test.values, minlength=test.n_labels)
    return float((recall.mean() - 1 / test.n_labels) / (1 - 1 / test.n_labels))


def mutual_information_gap(z: ArrayLike, factors: Factors, *, n_bins: int = 20) -> float:
    r"""Compute the mutual information gap between the two most informative dimensions of each factor (MIG).

    .. math:: \mathrm{MIG} = \frac{1}{M} \sum_{m=1}^{M} \frac{1}{H(v_m)}
        \left( I(z_{j_m}; v_m) - \max_{j \ne j_m} I(z_j; v_m) \right) \qquad j_m = \arg\max_j I(z_j; v_m)

    1 if one dimension determines each factor and no other dimension carries information about it; 0 if two dimensions
    carry the same information, or none does. A single dimension is compared with 0.

    The information is estimated from a histogram: each dimension in ``n_bins`` bins of equal width between its smallest
    and largest value, as in Locatello et al. The estimate is too high by about :math:`(B - 1)(K - 1) / 2N` nats for B
    occupied bins, K labels and N cells. The best and the second best dimension share most of this bias, so with few
    cells the gap is rather too small. A few outlying cells widen the bins of all others.

    One dimension has to separate *all* labels of a factor. A representation with one dimension for each of many cell
    types scores near 0 on the factor "type"; to measure that, give one factor per type, true for its cells.

    Parameters
    ----------
    z
        N cells x D dimensions.
    factors
        Name to values, one value per cell. Text, categories and booleans are labels; numbers are binned as z is (give
        numbered groups as text). Cells without a value (NaN, None) are left out for that factor.
    n_bins
        Number of bins. A factor with more labels than bins can't reach 1.

    Returns
    -------
    The mean over factors, in [0, 1].

    References
    ----------
    Chen, Li, Grosse and Duvenaud, Isolating sources of disentanglement in VAEs, NeurIPS (2018), eq 6. Locatello et
    al., Challenging common assumptions in the unsupervised learning of disentangled representations, ICML (2019).
    Bias: Miller, Note on the bias of information estimates, Information Theory in Psychology (1955).

    Examples
    --------
    >>> z = [[0.0, 1.0], [0.0, 2.0], [5.0, 1.0], [5.0, 2.0]]
    >>> mutual_information_gap(z, {"type": ["a", "a", "b", "b"]})
    1.0
    >>> mutual_information_gap([[row[0], -row[0]] for row in z], {"type": ["a", "a", "b", "b"]})
    0.0
    """
    check(RULES, n_bins=n_bins)
    points = as_points(z, name="z")
    gaps = []
    for factor in as_factors(factors, len(points)):
        codes, n_codes = factor.values, factor.n_labels
        if not n_codes:
            codes, n_codes = _equal_width(factor.values[:, None], n_bins)[:, 0], n_bins
        information = _mutual_information(_equal_width(points[factor.cells], n_bins), n_bins, codes, n_codes)
        gaps.append(_gap(information) / _entropy(np.bincount(codes) / len(codes)))
    return float(np.mean(gaps))


def _gap(scores: NDArray[np.float64]) -> float:
    """Return the difference of the best and the second best score; a single score is compared with 0."""
    second, best = np.sort(np.r_[0.0, scores] if len(scores) == 1 else scores)[-2:]
    return float(best - second)


def _equal_width(x: NDArray[Any], n_bins: int) -> NDArray[np.intp]:
    """Return the bin of every value, column by column; a constant column is one bin."""
    low = x.min(axis=0).astype(np.float64)
    width = x.max(axis=0) - low
    return np.minimum((x - low) / np.where(width > 0, width, 1.0) * n_bins, n_bins - 1).astype(np.intp)


def _mutual_information(
    bins: NDArray[np.intp], n_bins: int, codes: NDArray[np.intp], n_codes: int
) -> NDArray[np.float64]:
    """Return I(z_j; v) in nats for every dimension, from counts of bins (cells x dimensions) and codes."""
    n, n_dimensions = bins.shape
    cell = (np.arange(n_dimensions) * n_bins + bins) * n_codes + codes[:, None]
    joint = np.bincount(cell.ravel(), minlength=n_dimensions * n_bins * n_codes) / n
    joint = joint.reshape(n_dimensions, n_bins, n_codes)
    # rounding may give slightly negative values
    return (_entropy(joint.sum(2)) + _entropy(joint.sum(1)) - entr(joint).sum((1, 2))).clip(min=0.0)


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return entr(p).sum(axis=-1)


@dataclass(frozen=True)
class DCI:
    """Result of :func:`dci`.

    Attributes
    ----------
    disentanglement
        Whether each dimension encodes one factor only, in [0, 1]; NaN for a single factor.
    completeness
        Whether each factor is encoded in one dimension only, in [0, 1]; NaN for a single dimension.
    informativeness
        How well the factors are predicted on held-out cells: 1 for perfect, about 0 for chance.
    importance
        Dimensions x factors; each column sums to 1, or to 0 if no dimension is informative.

    Examples
    --------
    >>> cell = np.arange(200)
    >>> factors = {"type": np.where(cell % 2, "a", "b"), "batch": np.where(cell // 2 % 2, "x", "y")}
    >>> dci(np.c_[cell % 2, cell // 2 % 2], factors).importance.round(2).to_numpy().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: pd.DataFrame = field(repr=False, compare=False)


def dci(
    z: ArrayLike, factors: Factors, *, test_size: float = 0.25, sample_size: int | None = 5000, rng: Rng = 0
) -> DCI:
    r"""Compute disentanglement, completeness and informativeness of dimensions for factors (DCI).

    .. math:: D = \sum_i \frac{\sum_m R_{im}}{\sum_{i'm} R_{i'm}} \left( 1 - H_M(P_i) \right) \qquad
        P_{im} = \frac{R_{im}}{\sum_{m'} R_{im'}} \qquad
        C = \frac{1}{M} \sum_m \left( 1 - H_D(\tilde P_m) \right) \qquad
        \tilde P_{im} = \frac{R_{im}}{\sum_{i'} R_{i'm}}

    with entropies to the base of the number of factors M and of dimensions D, and :math:`R_{im}` the importance of
    dimension i for predicting factor m: the mean decrease of impurity in extremely randomised trees (20 trees, all
    dimensions tried at every split, at least 5 cells per leaf, balanced labels), which are fast. The publication used
    the lasso and random forests, Locatello et al. gradient boosting. Values of different models can't be compared.

    A factor that z does not encode spreads its importance over all dimensions and lowers both D and C; read them beside
    the informativeness: the mean recall of the labels, rescaled so that chance, 1/K, is 0, or :math:`R^2` for numbers,
    both on held-out cells. Uninformative dimensions raise C, whose entropy is relative to :math:`\log D`: compare it at
    equal D. As in :func:`mutual_information_gap`, a factor of many labels is complete only if one dimension separates
    all of them; with ``pandas.get_dummies(labels)`` each label is a factor.

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
        Largest number of cells per factor; of more, a random sample is drawn. None takes all.
    rng
        Seed or generator of the draw, the split and the trees.

    Returns
    -------
    :class:`DCI`, with the importances.

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
    check(RULES, test_size=test_size, sample_size=sample_size)
    points = as_points(z, name="z").astype(np.float32)
    all_factors = as_factors(factors, len(points))
    columns, skills = [], []
    for factor in all_factors:
        draw = generator(rng, "dci", factor.name)
        if sample_size is not None and sample_size < len(factor.cells):
            factor = factor.take(draw.choice(len(factor.cells), sample_size, replace=False))
        train, test = held_out(factor, test_size, draw)
        importance, value = _forest(points, train, test, seed(rng, "dci trees", factor.name))
        columns.append(importance)
        skills.append(value)
    matrix = np.stack(columns, axis=1)
    disentanglement, completeness = _entropies(matrix)
    table = pd.DataFrame(matrix, columns=[factor.name for factor in all_factors])
    table = table.rename_axis(index="dimension", columns="factor")
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
    """Return 1 - H(shares) / log(number of shares) along an axis; 0 if the sum is 0."""
    shares = np.divide(importance, sums, out=np.zeros_like(importance), where=sums > 0)
    entropy = entr(shares).sum(axis=axis) / np.log(importance.shape[axis])
    return np.where(sums.squeeze(axis) > 0, (1 - entropy).clip(0, 1), 0.0)
