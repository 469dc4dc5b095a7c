"""Calibration: from scores of pairs to probabilities of links, and the threshold above which a link is called."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit, logit


@dataclass(frozen=True)
class Calibration:
    r"""Logistic curve from a pair's score to the probability that it is linked.

    .. math:: p = \sigma(a s + b)

    fitted by weighted maximum likelihood (Platt 1999) to held-out edges and sampled pairs without an edge. Each weighs
    as the number of pairs of the graph that it represents, so that p is the share of linked pairs among all pairs of
    the graph rather than in a balanced sample.

    Attributes
    ----------
    slope, intercept
        a and b.
    threshold
        Probability above which calling a link gives the best F1 on the held-out pairs.
    precision, recall
        Precision and recall at the threshold and at the density of the graph.
    n_held_out
        Number of held-out edges in the fit.
    density
        Share of the pairs of the graph that are linked, held-out edges included.
    precision_unknown
        Precision among the pairs that were not edges of the training graph.

    Examples
    --------
    >>> import diffvae as dv
    >>> curve = dv.model.Calibration(
    ...     slope=2.0, intercept=0.0, threshold=0.5, precision=0.3, recall=0.4, n_held_out=100, density=0.01
    ... )
    >>> curve.at(0.002).intercept < curve.intercept  # in a sparser graph the same score is a less probable link
    True
    """

    slope: float
    intercept: float
    threshold: float
    precision: float
    recall: float
    n_held_out: int
    density: float = float("nan")
    precision_unknown: float = float("nan")

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return probabilities."""
        return expit(self.slope * np.asarray(scores, np.float64) + self.intercept)

    def at(self, density: float) -> Calibration:
        """Return the curve for a graph of another density: the odds of a link change by the ratio of the odds."""
        if not np.isfinite(self.density) or np.isclose(density, self.density):
            return self
        shift = float(logit(density) - logit(self.density))
        threshold = float(expit(logit(self.threshold) + shift))
        nan = float("nan")
        moved = replace(self, intercept=self.intercept + shift, threshold=threshold, density=density)
        return replace(moved, precision=nan, recall=nan, precision_unknown=nan)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes."""
        return asdict(self)


def calibrate(linked: np.ndarray, unlinked: np.ndarray, *, n_edges: int, n_pairs: int) -> Calibration:
    """Fit the curve to scores of held-out edges and of sampled pairs without an edge.

    The graph has ``n_pairs`` pairs, of which ``n_edges`` are linked.
    """
    from sklearn.linear_model import LogisticRegression

    scores = np.concatenate([linked, unlinked])
    truth = np.arange(len(scores)) < len(linked)
    weights = np.where(truth, n_edges / len(linked), (n_pairs - n_edges) / len(unlinked))
    # standardised scores make the fit converge whatever their scale
    centre, spread = float(scores.mean()), max(float(scores.std()), 1e-12)
    fitted = LogisticRegression(C=1e6, max_iter=1000).fit(
        ((scores - centre) / spread)[:, None], truth, sample_weight=weights * len(scores) / weights.sum()
    )
    slope = float(fitted.coef_[0, 0]) / spread
    intercept = float(fitted.intercept_[0]) - slope * centre
    ranked = slope * scores  # in the order of the probabilities, also if the slope is negative
    order = np.argsort(-ranked, kind="stable")
    true = np.cumsum((weights * truth)[order])
    called = np.cumsum(weights[order])
    last = np.append(np.diff(ranked[order]) != 0, True)  # equal scores are called together
    f1 = np.where(last, 2 * true / (called + n_edges), -1)
    best = int(f1.argmax())
    hits, alarms = int((truth[order][: best + 1]).sum()), float((weights * ~truth)[order][: best + 1].sum())
    return Calibration(
        slope=slope,
        intercept=intercept,
        threshold=float(expit(ranked[order][best] + intercept)),
        precision=float(true[best] / called[best]),
        recall=float(true[best] / n_edges),
        n_held_out=len(linked),
        density=n_edges / n_pairs,
        precision_unknown=hits / (hits + alarms),
    )
