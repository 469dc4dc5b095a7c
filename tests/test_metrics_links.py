import numpy as np
import pytest

from diffvae.metrics import expected_calibration_error, link_auc, link_average_precision


def test_auc_worked_by_hand():
    # of 3 x 2 comparisons: 0.9 wins two, 0.5 wins one and ties one, 0.2 loses one and wins one
    assert link_auc([0.9, 0.5, 0.2], [0.5, 0.1]) == pytest.approx((2 + 1.5 + 1) / 6)
    assert link_auc([2.0, 3.0], [-1.0, 1.0]) == 1.0
    assert link_auc([0.3, 0.3], [0.3]) == 0.5


def test_auc_does_not_depend_on_how_many_unlinked_pairs_were_sampled():
    positive, negative = np.array([0.9, 0.4, 0.3]), np.array([0.8, 0.35, 0.1])
    assert link_auc(positive, np.tile(negative, 7)) == pytest.approx(link_auc(positive, negative))


def test_average_precision_worked_by_hand():
    # descending: 0.9 linked (precision 1), 0.6 not, 0.5 linked (2 of 3): half the links at each
    assert link_average_precision([0.9, 0.5], [0.6, 0.1]) == pytest.approx((1 + 2 / 3) / 2)
    # the unlinked pair at 0.6 stands for ten: 2 of 12
    assert link_average_precision([0.9, 0.5], [0.6, 0.1], negative_weight=10) == pytest.approx((1 + 2 / 12) / 2)
    # scores without knowledge: the share of linked pairs, 2 of 2 + 4 x 3
    assert link_average_precision([1, 1], [1, 1, 1], negative_weight=4) == pytest.approx(2 / 14)


def test_a_weight_is_as_good_as_repetition():
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(1, size=20), rng.normal(size=50)
    repeated = link_average_precision(positive, np.repeat(negative, 6))
    assert link_average_precision(positive, negative, negative_weight=6) == pytest.approx(repeated)
    assert repeated < link_average_precision(positive, negative)


def test_calibration_error_worked_by_hand():
    # bins [0, 1/2) with mean 0.2 and share 1/2, [1/2, 1] with mean 0.8 and share 1
    value = expected_calibration_error([0.1, 0.3, 0.6, 1.0], [False, True, True, True], n_bins=2)
    assert value == pytest.approx(0.5 * 0.3 + 0.5 * 0.2)
    # the first pair stands for three: mean 0.15 and share 1/4 of weight 4; the second bin is as before, of weight 2
    value = expected_calibration_error([0.1, 0.3, 0.6, 1.0], [0, 1, 1, 1], n_bins=2, weight=[3, 1, 1, 1])
    assert value == pytest.approx(4 / 6 * 0.1 + 2 / 6 * 0.2)


def test_calibration_error_of_honest_and_of_overconfident_probabilities():
    rng = np.random.default_rng(0)
    p = rng.random(50_000)
    linked = rng.random(50_000) < p
    assert expected_calibration_error(p, linked) < 0.01
    assert expected_calibration_error(np.where(p > 0.5, 1.0, 0.0), linked) == pytest.approx(0.25, abs=0.01)
    assert expected_calibration_error([0.0, 1.0], [0, 1]) == 0.0


@pytest.mark.parametrize("score", [link_auc, link_average_precision])
def test_bad_scores_are_refused_with_a_sentence(score):
    with pytest.raises(ValueError, match=r"positive has the shape \(0,\); give one number per pair"):
        score([], [0.1])
    with pytest.raises(ValueError, match="negative has the shape"):
        score([0.1], [])
    with pytest.raises(ValueError, match="negative holds 1 values that are NaN"):
        score([0.1], [0.2, np.nan])
    with pytest.raises(ValueError, match="positive has the shape"):
        score(np.ones((2, 2)), [0.2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "probability has the shape"),
        (([0.5, np.nan], [0, 1]), "probability holds 1 values that are NaN"),
        (([0.5], [0, 1]), "probability has 1 pairs, linked 2"),
        (([0.5, 1.5], [0, 1]), "probability goes from 0.5 to 1.5"),
        (([0.5, 0.5], [0, 2]), "linked holds 2; it must be 0 or 1"),
        (([0.5, 0.5], [0, 1], [0, 0]), "weight goes from 0 to 0"),
        (([0.5, 0.5], [0, 1], [-1, 2]), "weight goes from -1 to 2"),
    ],
)
def test_bad_probabilities_are_refused_with_a_sentence(arguments, message):
    weight = arguments[2] if len(arguments) == 3 else None
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(*arguments[:2], weight=weight)


def test_numbers_out_of_range_are_refused():
    for weight in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"negative_weight is {weight}; it must be a number above 0"):
            link_average_precision([1], [0], negative_weight=weight)
    with pytest.raises(ValueError, match="n_bins is 0; it must be a whole number of 1 or more"):
        expected_calibration_error([0.5], [1], n_bins=0)
