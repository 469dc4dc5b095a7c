"""Whether each known factor has one latent dimension of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from diffvae._random import Rng, generator
from diffvae.metrics._factors import Factor, Factors, as_factors, held_out, skill
from diffvae.metrics._labels import as_points


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


def sap_score(z: ArrayLike, factors: Factors, *, test_size: float = 0.5, adjusted: bool = True, rng: Rng = 0) -> float:
    r"""Compute the gap between the two dimensions that predict a factor best (SAP).

    .. math:: \mathrm{SAP} = \frac{1}{M} \sum_{m=1}^{M} \left( S_{j_m m} - \max_{j \ne j_m} S_{jm} \right) \qquad
        j_m = \arg\max_j S_{jm}

    with :math:`S_{jm}` the skill at predicting factor m from dimension j alone: for numbers the squared correlation,
    :math:`R^2` of a straight line; for K labels the balanced accuracy (recall averaged over labels) of at most K - 1
    thresholds, on held-out cells. Thresholds are what the definition names; they are found greedily, by a decision
    tree of K leaves. (The common re-implementation of Locatello et al. fits a linear SVM, which can't single out a
    label in the middle of a dimension.) 1 where every factor is predicted by one dimension and no other says anything;
    0 where two do it equally well.

    Parameters
    ----------
    z
        N cells x D dimensions.
    factors
        Name to values, one value per cell. Text, categories and booleans are labels; numbers are numbers (give
        numbered groups as text). Cells without a value (NaN, None) are left out for that factor.
    test_size
        Share of each label's cells that is held out; labels too rare for that are not judged.
    adjusted
        Whether the balanced accuracy is rescaled from [1/K, 1] to [0, 1], so that one and the same scale holds for
        labels and numbers and the score can reach 1. ``False`` gives the published definition, at most 1 - 1/K for
        K labels.
    rng
        Seed or generator of the split.

    Returns
    -------
    The mean over factors, in [0, 1].

    Raises
    ------
    ValueError
        If a factor takes one value only, has no two labels with cells to hold out or does not fit z, if z is not
        finite, or ``test_size`` is not between 0 and 1.

    References
    ----------
    Kumar, Sattigeri and Balakrishnan, Variational inference of disentangled latent concepts from unlabeled
    observations, ICLR (2018), section 3.

    Examples
    --------
    >>> z = [[0.0, 1.0], [0.0, 2.0], [5.0, 1.0], [5.0, 2.0]] * 5
    >>> sap_score(z, {"type": ["a", "a", "b", "b"] * 5})
    1.0
    >>> sap_score(z, {"type": ["a", "a", "b", "b"] * 5}, adjusted=False)
    0.5
    """
    points = as_points(z, name="z").astype(np.float64)
    gaps = []
    for factor in as_factors(factors, len(points)):
        if factor.n_labels:
            train, test = held_out(factor, test_size, generator(rng, "sap_score", factor.name))
            gap = _gap(_threshold_skill(points, train, test))
            gaps.append(gap if adjusted else gap * (1 - 1 / test.n_labels))
        else:
            gaps.append(_gap(_squared_correlation(points[factor.cells], factor.values)))
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


def _threshold_skill(points: NDArray[np.float64], train: Factor, test: Factor) -> NDArray[np.float64]:
    """Return the chance-adjusted balanced accuracy of thresholds on each dimension."""
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=train.n_labels, class_weight="balanced", random_state=0)
    scores = np.zeros(points.shape[1])
    for j, column in enumerate(points.T):
        if np.ptp(column) > 0:
            fitted = tree.fit(column[train.cells, None], train.values)
            scores[j] = skill(test, fitted.predict(column[test.cells, None]))
    return scores.clip(min=0.0)  # held-out cells can put a dimension below chance, but none says less than nothing


def _squared_correlation(x: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared correlation of each column with v, 0 for constant columns."""
    centred, deviation = x - x.mean(axis=0), v - v.mean()
    power = (centred**2).sum(axis=0) * (deviation**2).sum()
    return np.divide((deviation @ centred) ** 2, power, out=np.zeros(x.shape[1]), where=np.ptp(x, axis=0) > 0)
