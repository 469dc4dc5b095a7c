"""How well scores separate linked from unlinked pairs of cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from diffvae._core.validate import Number, Whole, check


def link_auc(positive: ArrayLike, negative: ArrayLike) -> float:
    r"""Compute the area under the ROC curve of scores of linked against unlinked pairs.

    .. math:: \mathrm{AUC} = \frac{1}{P Q} \sum_{i=1}^{P} \sum_{j=1}^{Q}
        \left( [\,s_i^+ > s_j^-\,] + \tfrac{1}{2} [\,s_i^+ = s_j^-\,] \right)

    the probability that a linked pair scores above an unlinked one: 0.5 for random scores, 1 for perfect ones. It does
    not depend on the number of sampled unlinked pairs. It does not show how many of the predicted pairs of a sparse
    graph are links; see :func:`link_average_precision` for that.

    Parameters
    ----------
    positive
        Scores of linked pairs; higher is more certain.
    negative
        Scores of unlinked pairs.

    Returns
    -------
    A number in [0, 1].

    References
    ----------
    Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 143 (1982).

    Examples
    --------
    >>> link_auc([0.9, 0.6], [0.6, 0.1])
    0.875
    """
    scores, linked, _ = _stacked(positive, negative)
    return float(roc_auc_score(linked, scores))


def link_average_precision(positive: ArrayLike, negative: ArrayLike, *, negative_weight: float = 1.0) -> float:
    r"""Compute the average precision of scores of linked against unlinked pairs.

    .. math:: \mathrm{AP} = \sum_{t} (R_t - R_{t-1}) P_t \qquad
        P_t = \frac{\mathrm{TP}_t}{\mathrm{TP}_t + w\, \mathrm{FP}_t} \qquad R_t = \frac{\mathrm{TP}_t}{P}

    over thresholds t from the highest score down; ties enter together. The baseline of random scores is the share of
    linked pairs, :math:`P / (P + w Q)`. In a sparse graph this share, and so a realistic AP, is far below the 0.5 of a
    balanced sample of unlinked pairs: set w.

    Parameters
    ----------
    positive
        Scores of the P linked pairs; higher is more certain.
    negative
        Scores of Q unlinked pairs, all of them or a random sample.
    negative_weight
        w, the number of unlinked pairs that each sampled one represents (all / sampled).

    Returns
    -------
    A number in (0, 1].

    References
    ----------
    Davis and Goadrich, The relationship between precision-recall and ROC curves, ICML (2006).

    Examples
    --------
    >>> round(link_average_precision([0.9, 0.5], [0.6, 0.1]), 3)
    0.833
    >>> round(link_average_precision([0.9, 0.5], [0.6, 0.1], negative_weight=10), 3)
    0.583
    """
    check({"negative_weight": Number("(0, inf)")}, negative_weight=negative_weight)
    scores, linked, n_positive = _stacked(positive, negative)
    weight = np.full(len(scores), float(negative_weight))
    weight[:n_positive] = 1.0
    return float(average_precision_score(linked, scores, sample_weight=weight))


def expected_calibration_error(
    probability: ArrayLike, linked: ArrayLike, *, n_bins: int = 10, weight: ArrayLike | None = None
) -> float:
    r"""Compute the mean distance of predicted link probabilities from observed frequencies.

    .. math:: \mathrm{ECE} = \sum_{b=1}^{B} \frac{W_b}{W}
        \left| \frac{1}{W_b} \sum_{i \in b} w_i y_i - \frac{1}{W_b} \sum_{i \in b} w_i p_i \right|
        \qquad W_b = \sum_{i \in b} w_i

    over B bins of equal width; bin b holds :math:`(b - 1) / B \le p < b / B`, the last also 1. 0 for calibrated
    probabilities; a constant equal to the share of links has 0 too, so read it beside :func:`link_auc`. With few pairs
    per bin it is above 0 by chance alone.

    Parameters
    ----------
    probability
        Predicted p of each pair, in [0, 1].
    linked
        Whether the pair is linked, y: boolean, or 0 and 1.
    n_bins
        B.
    weight
        w, the number of pairs that each one represents; None for 1. It matters if unlinked pairs were sampled.

    Returns
    -------
    A number in [0, 1].

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML (2017).

    Examples
    --------
    >>> expected_calibration_error([0.25, 0.25, 0.75, 0.75], [0, 0, 1, 1])
    0.25
    """
    check({"n_bins": Whole(1)}, n_bins=n_bins)
    p, y = _scores(probability, "probability"), _scores(linked, "linked")
    w = np.ones(len(p)) if weight is None else _scores(weight, "weight")
    if not len(p) == len(y) == len(w):
        raise ValueError(
            f"probability has {len(p)} pairs, linked {len(y)} and weight {len(w)}; give the same number of each."
        )
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probability goes from {p.min():.4g} to {p.max():.4g}; it must be between 0 and 1.")
    if not np.isin(y, (0, 1)).all():
        raise ValueError(f"linked holds {y[~np.isin(y, (0, 1))][0]:.4g}; it must be 0 or 1.")
    if w.min() < 0 or w.sum() == 0:
        raise ValueError(f"weight goes from {w.min():.4g} to {w.max():.4g}; none is negative and one is above 0.")
    bins = np.minimum((p * n_bins).astype(np.int64), n_bins - 1)
    gap = np.bincount(bins, weights=w * (y - p), minlength=n_bins)
    return float(np.abs(gap).sum() / w.sum())


def _stacked(positive: ArrayLike, negative: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """Return all scores, linked pairs first, whether each belongs to a linked pair, and the number of linked pairs."""
    linked, unlinked = _scores(positive, "positive"), _scores(negative, "negative")
    scores = np.concatenate([linked, unlinked])
    return scores, np.arange(len(scores)) < len(linked), len(linked)


def _scores(values: ArrayLike, name: str) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"{name} has the shape {scores.shape}; give one number per pair, and at least one pair.")
    if not np.isfinite(scores).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(scores)).sum())} values that are NaN or infinite.")
    return scores
