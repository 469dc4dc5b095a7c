"""Probabilities that mean shares of real pairs, and the threshold of the best F1."""

import numpy as np
import pytest
from scipy.special import expit

from diffvae.metrics import expected_calibration_error
from diffvae.model import Calibration
from diffvae.model._calibration import calibrate


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
    assert found(scores).mean() == pytest.approx(truth.mean(), rel=0.02)  # not the half of a balanced sample
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
