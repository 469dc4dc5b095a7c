"""Probabilities that mean shares of real pairs, and the threshold of the best F1."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit, logit

from diffvae._core.graphs import graph_of, inner_products, keys
from diffvae.metrics import expected_calibration_error
from diffvae.model import Calibration
from diffvae.model._calibration import calibrate
from diffvae.model._graph_training import HeldOut


def best_f1(linked, unlinked, probability, n_edges, n_pairs):
    """Return (threshold, F1, precision, recall) of the best of all thresholds, one after another."""
    found = []
    for threshold in np.unique(probability(np.concatenate([linked, unlinked]))):
        true = (probability(linked) >= threshold).mean() * n_edges
        false = (probability(unlinked) >= threshold).mean() * (n_pairs - n_edges)
        precision, recall = true / (true + false) if true + false else 0, true / n_edges
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
        found.append((f1, threshold, precision, recall))
    return max(found)


@pytest.mark.parametrize(("slope", "intercept"), [(1.5, -4.0), (0.01, -2.0), (-0.7, -3.0)])
def test_a_known_curve_is_recovered_from_a_balanced_sample(slope, intercept):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=400_000) / abs(slope)
    truth = rng.random(400_000) < expit(slope * scores + intercept)
    linked, unlinked = scores[truth], scores[~truth]
    sampled = rng.choice(unlinked, len(linked), replace=False)
    found = calibrate(linked, sampled, n_edges=len(linked), n_pairs=400_000)
    assert found.slope == pytest.approx(slope, rel=0.05)
    assert found.intercept == pytest.approx(intercept, abs=0.05)
    assert expected_calibration_error(found(scores), truth) < 0.003
    logistic = dataclasses.replace(found, knots=(), levels=())
    assert logistic(scores).mean() == pytest.approx(truth.mean(), rel=0.02)  # not the half of a balanced sample
    assert found(scores).mean() == pytest.approx(truth.mean(), rel=0.03)  # a curve of many levels has more noise
    assert found.n_held_out == len(linked)


@pytest.mark.parametrize("seed", range(6))
def test_threshold_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    # whole numbers tie; in the last two linked pairs score lower than the others
    linked = rng.normal(1.5 if seed < 4 else -1, size=40) * 2
    unlinked = rng.normal(size=300) * 2
    if seed % 2:
        linked, unlinked = np.round(linked), np.round(unlinked)
    found = calibrate(linked, unlinked, n_edges=200, n_pairs=10_000)
    f1, threshold, precision, recall = best_f1(linked, unlinked, found, 200, 10_000)
    assert (found.slope > 0) == (seed < 4)
    assert 2 * found.precision * found.recall / (found.precision + found.recall) == pytest.approx(f1)
    assert found.threshold == pytest.approx(threshold)
    assert found.precision == pytest.approx(precision)
    assert found.recall == pytest.approx(recall)


def test_threshold_by_hand():
    # each linked stands for 2 of 4 edges, each unlinked for 3 of 6 other pairs; at the two highest 4 / (4 + 0) and all
    found = calibrate(np.array([3.0, 2.0]), np.array([1.0, 0.0]), n_edges=4, n_pairs=10)
    assert found.threshold == pytest.approx(float(found(np.array([2.0]))[0]))
    assert (found.precision, found.recall) == (1, 1)
    # the unlinked one at 2 ties with a linked one: both called gives F1 = 2 x 4 / (7 + 4), the first alone 4 / 6
    found = calibrate(np.array([3.0, 2.0]), np.array([2.0, 0.0]), n_edges=4, n_pairs=10)
    assert found.precision == pytest.approx(4 / 7)
    assert found.recall == 1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shift", [-50.0, 0.0, 1e3])
def test_separated_scores_of_any_scale_are_no_trouble(scale, shift):
    rng = np.random.default_rng(0)
    linked, unlinked = scale * (10 + rng.random(30) + shift), scale * (rng.random(500) + shift)
    found = calibrate(linked, unlinked, n_edges=300, n_pairs=100_000)
    assert found.slope > 0
    assert found(linked).min() >= found.threshold > found(unlinked).max()
    assert (found.precision, found.recall) == (pytest.approx(1), pytest.approx(1))
    assert np.isfinite([found.slope, found.intercept]).all()


def test_equal_scores_give_the_density():
    found = calibrate(np.full(20, 7.0), np.full(20, 7.0), n_edges=50, n_pairs=1000)
    assert found(np.array([7.0]))[0] == pytest.approx(0.05, rel=1e-3)
    assert found.recall == pytest.approx(1)
    assert found.precision == pytest.approx(0.05)


def test_one_of_each_is_enough_and_large_scores_do_not_overflow():
    found = calibrate(np.array([1.0]), np.array([0.0]), n_edges=3, n_pairs=10)
    assert found.threshold > found(np.array([0.0]))[0]
    assert found(np.array([-1e9, 1e9])).tolist() == [0, 1]
    assert Calibration(**found.to_dict()) == found


def test_another_density_moves_the_odds_and_what_is_not_known_is_nan():
    curve = Calibration(1.0, -3.0, 0.2, 0.5, 0.4, 10, density=0.01)
    assert curve.at(0.01) is curve
    moved = curve.at(0.1)
    odds = (0.1 / 0.9) / (0.01 / 0.99)
    p, q = curve(np.array([2.0]))[0], moved(np.array([2.0]))[0]
    assert q / (1 - q) == pytest.approx(odds * p / (1 - p))
    assert moved.threshold / (1 - moved.threshold) == pytest.approx(odds * 0.25)
    assert np.isnan([moved.precision, moved.recall, moved.precision_unknown]).all()


def bent(rng, n):
    """Return scores, and whether pairs are linked with a probability that is no logistic curve of the score."""
    scores = rng.normal(size=n)
    return scores, rng.random(n) < 0.3 * np.clip(scores - 0.5, 0, 1) ** 2


def test_a_curve_that_is_not_logistic_is_followed_and_judged_on_other_pairs():
    rng = np.random.default_rng(0)
    scores, truth = bent(rng, 100_000)
    fitted = calibrate(scores[truth], scores[~truth], n_edges=int(truth.sum()), n_pairs=100_000)
    other, linked = bent(rng, 100_000)
    size = {"n_edges": int(linked.sum()), "n_pairs": 100_000}
    judged = fitted.measured(other[linked], other[~linked], **size)
    logistic = dataclasses.replace(fitted, knots=(), levels=()).measured(other[linked], other[~linked], **size)
    assert judged.reliability_error < 0.03 < logistic.reliability_error
    called = fitted(other) >= fitted.threshold
    assert judged.precision == pytest.approx(linked[called].mean())
    assert judged.recall == pytest.approx(called[linked].mean())
    assert (judged.threshold, judged.knots) == (fitted.threshold, fitted.knots)


def test_precision_on_other_pairs_by_hand():
    # of 4 linked pairs, each for 2 edges, 3 are called; of 5 others, each for 10 pairs, 1
    curve = Calibration(1.0, 0.0, 0.45, 1.0, 1.0, 4)
    linked, unlinked = logit([0.9, 0.8, 0.5, 0.4]), logit([0.6, 0.4, 0.02, 0.01, 0.01])
    found = curve.measured(linked, unlinked, n_edges=8, n_pairs=58)
    assert found.recall == 0.75
    assert found.precision == pytest.approx(6 / 16)
    assert found.precision_unknown == pytest.approx(3 / 13)
    # bins of pairs with p >= .05, 28 by weight: .4 (12 pairs: 2 - 4.8), .5 (2 - 1), .6 (0 - 6), .8 and .9
    assert found.reliability_error == pytest.approx((2.8 + 1 + 6 + 0.4 + 0.2) / 28)


def test_precision_among_unknown_pairs_counts_the_held_out_edges_of_the_fit_too():
    graph = graph_of(np.random.default_rng(0).integers(120, size=(700, 2)), 120)
    held = HeldOut(graph, 0.4, 0)
    # places near those of the neighbours, with noise
    rng = np.random.default_rng(1)
    places = graph @ rng.normal(size=(120, 8)) + 2 * rng.normal(size=(120, 8))
    curve = held.calibrate(places, 0)
    pairs = np.stack(np.triu_indices(120, 1), axis=1)
    called = curve(inner_products(places, pairs)) >= curve.threshold
    unknown = ~np.isin(keys(pairs, 120), keys(held.known_edges, 120))
    edges = np.isin(keys(pairs, 120), keys(held.linked, 120))
    assert curve.precision_unknown == pytest.approx(edges[called & unknown].mean(), rel=0.15)


@pytest.mark.parametrize("seed", range(10))
def test_the_curve_never_falls(seed):
    # linked pairs are spread evenly over the high scores, so that the highest stair is often short and has none else
    rng = np.random.default_rng(seed)
    linked = rng.random(int(rng.integers(200, 2000)))
    unlinked = np.concatenate([rng.random(rng.integers(1, 40)), rng.normal(-3, 0.8, 20_000)])
    n_edges = 20 * len(linked)
    curve = calibrate(linked, unlinked, n_edges=n_edges, n_pairs=n_edges + 100 * len(unlinked))
    assert curve.slope > 0
    assert (np.diff(curve(np.linspace(-4, 2, 500))) >= 0).all()
    assert (np.diff(curve.levels) > 0).all()


def test_the_isotonic_curve_moves_with_the_density_and_survives_a_file():
    curve = calibrate(np.array([3.0, 2.0, 1.0]), np.array([1.5, 0.0, -1.0, 0.5]), n_edges=4, n_pairs=40)
    moved, odds = curve.at(0.4), (0.4 / 0.6) / (0.1 / 0.9)
    p, q = curve(np.array([1.2]))[0], moved(np.array([1.2]))[0]
    assert 0 < p < 1
    assert q / (1 - q) == pytest.approx(odds * p / (1 - p))
    assert curve(np.array([-1e9]))[0] == 0
    assert (np.diff(curve(np.linspace(-5, 5, 50))) > 0).all()  # no two scores have one probability
    judged = curve.measured(np.array([2.5]), np.array([0.2, 1.2]), n_edges=4, n_pairs=40)
    assert Calibration(**json.loads(json.dumps(judged.to_dict()))) == judged
