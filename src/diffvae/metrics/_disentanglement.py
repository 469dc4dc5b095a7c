"""Whether each known factor has one latent dimension of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from diffvae._random import Rng, generator, seed
from diffvae.metrics._labels import as_labels, as_points

Factors: TypeAlias = pd.DataFrame | Mapping[str, ArrayLike]


@dataclass(frozen=True)
class Factor:
    """One factor over the cells that have a value of it.

    Attributes
    ----------
    name
        Of the factor.
    cells
        Positions of those cells.
    values
        Their values: codes from 0 to ``n_labels - 1``, or numbers.
    n_labels
        Distinct labels, at least 2; 0 for a factor of numbers.
    """

    name: str
    cells: NDArray[np.intp]
    values: NDArray[Any]
    n_labels: int

    def take(self, chosen: NDArray[np.intp]) -> Factor:
        """Return the factor over some of its cells, given by position among them; labels are numbered anew."""
        values = self.values[chosen]
        if not self.n_labels:
            return replace(self, cells=self.cells[chosen], values=values)
        names, codes = np.unique(values, return_inverse=True)
        return replace(self, cells=self.cells[chosen], values=codes, n_labels=len(names))


def as_factors(factors: Factors, n_cells: int) -> list[Factor]:
    """Return the factors; refuse those that take one value only, since nothing can be said about them."""
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
            "that never varies can't be encoded: leave it out."
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
    """Split the cells of a factor into those that train and those that test, label by label.

    Labels with too few cells for one in the test part are left out of both, so that both know the same labels. The
    draw does not depend on the labels' names.
    """
    if not 0 < test_size < 1:
        raise ValueError(f"test_size is {test_size}; give a share between 0 and 1.")
    codes = factor.values if factor.n_labels else np.zeros(len(factor.values), dtype=np.intp)
    drawn = rng.permutation(len(codes))
    drawn = drawn[np.argsort(codes[drawn], kind="stable")]
    counts = np.bincount(codes)
    n_test = (counts * test_size).astype(np.intp)
    own = codes[drawn]
    tests = np.arange(len(codes)) - (np.cumsum(counts) - counts)[own] < n_test[own]
    train, test = factor.take(drawn[~tests & (n_test[own] > 0)]), factor.take(drawn[tests])
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
    r"""Return how far predictions of held-out values are from chance (0) towards the truth (1).

    .. math:: \frac{\bar r - 1 / K}{1 - 1 / K} \qquad\text{or}\qquad 1 - \frac{\sum_i (v_i - \hat v_i)^2}
        {\sum_i (v_i - \bar v)^2}

    with :math:`\bar r` the recall averaged over the K labels, or for numbers.
    """
    if not test.n_labels:
        deviation = test.values - test.values.mean()
        return float(1 - ((test.values - predicted) ** 2).sum() / (deviation**2).sum())
    right = np.bincount(test.values, predicted == test.values, test.n_labels)
    recall = right / np.bincount(test.values, minlength=test.n_labels)
    return float((recall.mean() - 1 / test.n_labels) / (1 - 1 / test.n_labels))


def mutual_information_gap(z: ArrayLike, factors: Factors, *, n_bins: int = 20) -> float:
    r"""Compute the gap of information between the two dimensions that know most of a factor (MIG).

    .. math:: \mathrm{MIG} = \frac{1}{M} \sum_{m=1}^{M} \frac{1}{H(v_m)}
        \left( I(z_{j_m}; v_m) - \max_{j \ne j_m} I(z_j; v_m) \right) \qquad j_m = \arg\max_j I(z_j; v_m)

    1 where every factor is known entirely by one dimension and not at all by any other; 0 where two dimensions say the
    same, or none says anything. A dimension that is alone is compared with one that says nothing.

    The information is that of the histogram: each dimension in ``n_bins`` bins of equal width between its least and
    greatest value, as in Locatello et al. That estimate lies above the truth by about :math:`(B - 1)(K - 1) / 2N` nats
    for B occupied bins, K labels and N cells; the best and the second best share most of it, so in few cells the gap
    comes out too small rather than too large. A few outlying cells widen the bins of all others.

    One dimension has to tell *all* labels of a factor apart. A representation with one dimension for each of many cell
    types scores near 0 on the factor "type"; to ask for that, give one factor per type, true for its cells.

    Parameters
    ----------
    z
        N cells x D dimensions.
    factors
        Name to values, one value per cell. Text, categories and booleans are labels; numbers are binned as z is (give
        numbered groups as text). Cells without a value (NaN, None) are left out for that factor.
    n_bins
        Bins. A factor of more labels than this can't reach 1.

    Returns
    -------
    The mean over factors, in [0, 1].

    Raises
    ------
    ValueError
        If a factor takes one value only or does not fit z, if z is not finite, or ``n_bins`` is below 2.

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
    if n_bins < 2:
        raise ValueError(f"n_bins is {n_bins}; give at least 2.")
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
    """Return the best less the second best score; a dimension without another stands beside 0."""
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
    # never below 0, whatever the rounding
    return (_entropy(joint.sum(2)) + _entropy(joint.sum(1)) - entr(joint).sum((1, 2))).clip(min=0.0)


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return entr(p).sum(axis=-1)


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
