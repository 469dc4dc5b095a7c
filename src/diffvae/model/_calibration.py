"""Calibration: from scores of pairs to probabilities of links, and the threshold above which a link is called."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from scipy.special import expit, logit

from diffvae.metrics import expected_calibration_error

Stairs: TypeAlias = tuple[float, ...]
PER_STAIR = 10
"""Held-out edges on each stair of the isotonic curve."""
LIKELY = 0.05
"""Probability from which a pair counts in the reliability error."""


@dataclass(frozen=True)
class Calibration:
    r"""Curve from a pair's score to the probability that it is linked.

    Isotonic regression (Zadrozny and Elkan 2002) on held-out edges and sampled pairs without an edge: of all monotone
    curves the one of the highest likelihood. It is a stair; stairs of fewer than ten edges are joined, and between the
    centres of the stairs the log odds are linear (as in centred isotonic regression, Oron and Flournoy 2017), so that
    pairs of different scores have different probabilities. Each pair weighs as the number of pairs of the graph that it
    represents, so that p is the share of linked pairs among all pairs of the graph rather than in a balanced sample.
    Beyond the stairs the odds change as in the logistic curve (Platt 1999),

    .. math:: p = \sigma(a s + b)

    which is the whole curve without knots: with fewer than twenty edges, and in models saved by version 0.1.

    Attributes
    ----------
    slope, intercept
        a and b of the logistic curve; a positive slope says that linked pairs have higher scores.
    threshold
        Probability above which calling a link gives the best F1 on the pairs of the fit.
    precision, recall
        Precision and recall at the threshold and at the density of the graph. Of a model they are measured on other
        held-out pairs than those of the fit.
    n_held_out
        Number of held-out edges: those of the fit and those on which precision and recall were measured.
    density
        Share of the pairs of the graph that are linked, held-out edges included.
    precision_unknown
        Precision among the pairs that were not edges of the training graph.
    knots, levels
        Centres of the stairs of the isotonic curve, and their heights: scores and probabilities.
    reliability_error
        Mean distance of the probabilities from the share of linked pairs, over ten bins of equal width, each weighed
        by its pairs with p of at least 0.05; on other held-out pairs than those of the fit. Pairs that are clearly not
        linked are left out, because nearly all pairs are, and they would hide the error of the others.

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
    knots: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()
    reliability_error: float = float("nan")

    def __post_init__(self) -> None:
        for name in ("knots", "levels"):  # a file has lists
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return probabilities."""
        scores = np.asarray(scores, np.float64)
        if not self.knots:
            return expit(self.slope * scores + self.intercept)
        inside = np.clip(scores, self.knots[0], self.knots[-1])
        return expit(np.interp(inside, self.knots, logit(self.levels)) + self.slope * (scores - inside))

    def at(self, density: float) -> Calibration:
        """Return the curve for a graph of another density: the odds of a link change by the ratio of the odds."""
        if not np.isfinite(self.density) or np.isclose(density, self.density):
            return self
        shift = float(logit(density) - logit(self.density))
        threshold = float(expit(logit(self.threshold) + shift))
        nan = float("nan")
        levels = tuple(expit(logit(np.array(self.levels)) + shift)) if self.levels else ()
        moved = replace(self, intercept=self.intercept + shift, threshold=threshold, density=density, levels=levels)
        return replace(moved, precision=nan, recall=nan, precision_unknown=nan, reliability_error=nan)

    def measured(self, linked: np.ndarray, unlinked: np.ndarray, *, n_edges: int, n_pairs: int) -> Calibration:
        """Return the curve with precision, recall and reliability as on these pairs; parameters as in the fit.

        ``precision_unknown`` is that among all ``n_held_out`` held-out edges and the pairs without an edge.
        """
        p, truth = self(np.concatenate([linked, unlinked])), np.arange(len(linked) + len(unlinked)) < len(linked)
        weights = _weights(truth, n_edges, n_pairs)
        called = p >= self.threshold
        hits, alarms = float(weights[called & truth].sum()), float(weights[called & ~truth].sum())
        known = self.n_held_out / n_edges  # unknown pairs are all held-out edges, also those of the fit
        nan, likely = float("nan"), p >= LIKELY
        return replace(
            self,
            precision=hits / (hits + alarms) if hits + alarms else nan,
            recall=hits / n_edges,
            precision_unknown=known * hits / (known * hits + alarms) if hits + alarms else nan,
            reliability_error=expected_calibration_error(p[likely], truth[likely], weight=weights[likely])
            if likely.any()
            else nan,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes."""
        return asdict(self)


def _weights(truth: np.ndarray, n_edges: int, n_pairs: int) -> np.ndarray:
    """Return how many pairs of the graph each held-out edge and each sampled pair without an edge stands for."""
    n_linked = int(truth.sum())
    return np.where(truth, n_edges / n_linked, (n_pairs - n_edges) / (len(truth) - n_linked))


def calibrate(linked: np.ndarray, unlinked: np.ndarray, *, n_edges: int, n_pairs: int) -> Calibration:
    """Fit the curve to scores of held-out edges and of sampled pairs without an edge.

    The graph has ``n_pairs`` pairs, of which ``n_edges`` are linked.
    """
    from sklearn.linear_model import LogisticRegression

    scores = np.concatenate([linked, unlinked])
    truth = np.arange(len(scores)) < len(linked)
    weights = _weights(truth, n_edges, n_pairs)
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
    knots, levels = _stairs(scores, truth, weights, slope > 0)
    curve = Calibration(
        slope=slope,
        intercept=intercept,
        threshold=0.0,
        precision=float(true[best] / called[best]),
        recall=float(true[best] / n_edges),
        n_held_out=len(linked),
        density=n_edges / n_pairs,
        precision_unknown=hits / (hits + alarms),
        knots=knots,
        levels=levels,
    )
    return replace(curve, threshold=float(curve(scores[order][best])))


def _stairs(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray, rising: bool) -> tuple[Stairs, Stairs]:
    """Return centres and heights of the stairs of the isotonic regression; small stairs are joined."""
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(increasing=rising).fit(scores, truth, sample_weight=weights).predict(scores)
    stair = np.unique(-fitted, return_inverse=True)[1]  # 0 is the highest
    edges = np.bincount(stair, truth).cumsum()
    # a stair is the first of a new group if those before it, down to the last group, have enough edges
    group, last = np.zeros(len(edges), np.int64), 0.0
    for i in range(1, len(edges)):
        full = edges[i - 1] - last >= PER_STAIR and edges[-1] - edges[i - 1] >= PER_STAIR
        group[i], last = group[i - 1] + full, edges[i - 1] if full else last
    stair = group[stair]
    # of a stair without an unlinked pair all that is known is that less than one was sampled
    half = 0.5 * weights[~truth].min()
    weight, linked = np.bincount(stair, weights), np.bincount(stair, weights * truth)
    levels = np.minimum(linked / weight, weight / (weight + half))
    if len(levels) > 1 and levels[0] <= levels[1]:  # so little is known of the highest that it is no stair of its own
        stair = np.maximum(stair - 1, 0)
        weight, linked = np.bincount(stair, weights), np.bincount(stair, weights * truth)
        levels = np.minimum(linked / weight, weight / (weight + half))
    knots = np.bincount(stair, weights * scores) / weight
    order = np.argsort(knots)
    order = order[levels[order] > 0]
    if len(order) < 2:  # too few held-out edges for a stair: a single one would be no curve
        return (), ()
    return tuple(knots[order]), tuple(levels[order])
