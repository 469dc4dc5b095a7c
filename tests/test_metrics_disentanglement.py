import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffvae.metrics import DCI, dci, mutual_information_gap
from diffvae.metrics._disentanglement import _entropies


def dci_numbers(z, factors):
    found = dci(z, factors)
    return np.array([found.disentanglement, found.completeness, found.informativeness])


SCORES = [mutual_information_gap, dci_numbers]


def cells(n=600, seed=0):
    """Return three independent factors of n cells: five types, three batches and a time."""
    rng = np.random.default_rng(seed)
    types, batches, time = rng.integers(0, 5, n), rng.integers(0, 3, n), rng.random(n)
    factors = {"type": np.array(list("TBNMD"))[types], "batch": pd.Categorical.from_codes(batches, list("xyz"))}
    return np.c_[types, batches, time], factors | {"time": time}, rng


def test_mutual_information_gap_worked_by_hand():
    labels = ["a"] * 4 + ["b"] * 4
    # the first knows the label, I = log 2; the second has it right for 3 of 4, I = log 2 - H(1/4); the third is silent
    z = np.c_[[0, 0, 0, 0, 7, 7, 7, 7], [0, 0, 0, 1, 0, 1, 1, 1], np.ones(8)]
    wrong = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    assert mutual_information_gap(z, {"label": labels}) == pytest.approx(wrong)
    assert mutual_information_gap(z[:, 1:], {"label": labels}) == pytest.approx(1 - wrong)
    assert mutual_information_gap(z[:, [1]], {"label": labels}) == pytest.approx(1 - wrong)
    # the mean over factors; the second factor has the bins {0, 1} and {10, 11} of two, which the second column knows
    factors = {"label": labels, "time": [0, 1, 0, 10, 1, 10, 11, 11]}
    assert mutual_information_gap(z, factors, n_bins=2) == pytest.approx((wrong + wrong) / 2)


def test_bins_have_equal_width():
    # of two bins the middle is 50, so all of b but one cell fall in with a
    z = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [100.0]])
    labels = ["a", "a", "a", "b", "b", "b"]
    information = np.log(2) - 5 / 6 * -(0.6 * np.log(0.6) + 0.4 * np.log(0.4))
    assert mutual_information_gap(z, {"label": labels}, n_bins=2) == pytest.approx(information / np.log(2))
    assert mutual_information_gap(z, {"label": labels}, n_bins=100) == pytest.approx(1.0)


def test_entropies_worked_by_hand():
    # dimension 0 has shares (2/3, 1/3) and weight 1.5 of 2, dimension 1 (0, 1) and 0.5; factors (1, 0) and (1/2, 1/2)
    shared = 1 + (2 / 3 * np.log2(2 / 3) + 1 / 3 * np.log2(1 / 3))
    found = _entropies(np.array([[1.0, 0.5], [0.0, 0.5]]))
    assert found == pytest.approx((0.75 * shared + 0.25 * 1, (1 + 0) / 2))
    # a factor over two of three dimensions, each of which knows nothing else
    found = _entropies(np.array([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]))
    assert found == pytest.approx((1, (1 - np.log(2) / np.log(3) + 1) / 2))
    assert _entropies(np.zeros((3, 2))) == (0, 0)


def test_dci_worked_by_hand():
    labels = np.repeat(["a", "b", "c"], 40)
    # a is told from the others, which are all called b or all called c: recall 2/3, above chance by a half
    found = dci(np.c_[np.repeat([0.0, 1.0, 1.0], 40), np.zeros(120)], {"label": labels})
    assert found.informativeness == pytest.approx(1 / 2)
    assert found.completeness == 1.0
    assert np.isnan(found.disentanglement)  # one factor: no dimension could be used for another
    assert found.importance.loc[0, "label"] == 1.0
    single = dci(np.repeat([[0.0], [1.0], [2.0]], 40, axis=0), {"label": labels})
    assert np.isnan(single.completeness)
    assert single.informativeness == 1.0


@pytest.mark.parametrize("score", SCORES)
def test_truth_scores_one_and_noise_zero(score):
    truth, factors, rng = cells(2000)
    noise = rng.normal(size=(2000, 4))
    # what chance gives the second best dimension, in 2000 cells, is what is missing to 1
    np.testing.assert_allclose(score(np.c_[noise, truth[:, ::-1]], factors), 1, atol=0.05)
    np.testing.assert_allclose(score(noise, factors), 0, atol=0.05)
    np.testing.assert_allclose(score(np.zeros((2000, 3)), factors), 0, atol=0.005)


def test_dimensions_that_say_the_same_leave_no_gap():
    truth, factors, _ = cells()
    twice = np.c_[truth, truth]
    assert mutual_information_gap(twice, factors) == pytest.approx(0, abs=1e-12)
    turned = np.c_[truth[:, 0] + truth[:, 1], truth[:, 0] - truth[:, 1]]
    assert mutual_information_gap(turned, {k: factors[k] for k in ("type", "batch")}) < 0.3


def test_dci_of_a_rotation_and_of_copies():
    truth, factors, _ = cells()
    scaled = (truth - truth.mean(0)) / truth.std(0)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turned, straight = dci(scaled @ rotation, factors), dci(scaled, factors)
    assert turned.informativeness > 0.5  # it knows the factors, but no dimension is one of them
    assert turned.disentanglement < 0.75 < 0.95 < straight.disentanglement
    copies = dci(np.c_[truth, truth], factors)
    assert copies.disentanglement > 0.95
    assert copies.completeness == pytest.approx(1 - np.log(2) / np.log(6), abs=0.15)


def test_one_dimension_per_type_is_complete_for_indicators_not_for_the_type():
    _, factors, rng = cells()
    indicators = pd.get_dummies(factors["type"])
    z = indicators.to_numpy() + 1e-3 * rng.normal(size=indicators.shape)
    assert mutual_information_gap(z, {"type": factors["type"]}) < 0.1 < 0.7 < mutual_information_gap(z, indicators)
    found = dci(z, indicators)
    assert found.disentanglement == pytest.approx(1, abs=0.02)
    assert found.completeness == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("score", SCORES)
def test_order_of_cells_sign_and_order_of_dimensions_and_names_do_not_matter(score):
    truth, factors, rng = cells()
    z = np.c_[truth + rng.normal(size=truth.shape) * [0.2, 0.2, 0.02], rng.normal(size=(len(truth), 2))]
    value = score(z, factors)
    # exact without a draw; the draw of cells for the test part moves the others a little
    close = 1e-9 if score is mutual_information_gap else 0.06
    order = rng.permutation(len(z))
    shuffled = {name: values[order] for name, values in factors.items()}
    renamed = factors | {"type": pd.Series(factors["type"]).map(dict(zip("TBNMD", "edcba", strict=True)))}
    for other, its_factors in ((z[order], shuffled), (-3 * z[:, ::-1] + 7, factors), (z, renamed)):
        np.testing.assert_allclose(score(other, its_factors), value, atol=close)
    frame = pd.DataFrame(factors, index=[f"cell {i}" for i in range(len(z))])
    np.testing.assert_array_equal(score(z, frame), value)


@pytest.mark.parametrize("score", SCORES)
def test_cells_without_a_value_are_left_out(score):
    truth, factors, _ = cells()
    factors = {name: pd.Series(factors[name]) for name in ("batch", "time")}
    known = np.arange(len(truth)) % 3 > 0
    gaps = {name: values.where(known) for name, values in factors.items()}
    whole = {name: values[known] for name, values in factors.items()}
    np.testing.assert_allclose(score(truth, gaps), score(truth[known], whole), atol=1e-12)


def test_same_seed_same_number():
    truth, factors, rng = cells()
    z = truth + rng.normal(size=truth.shape)
    assert dci(z, factors, rng=3) == dci(z, factors, rng=3)
    assert dci(z, factors, rng=3) != dci(z, factors, rng=4)


def test_no_factor_depends_on_its_neighbours():
    truth, factors, rng = cells()
    z = truth + rng.normal(size=truth.shape)
    alone = dci(z, {"time": factors["time"]})
    assert dci(z, factors).importance["time"].tolist() == alone.importance["time"].tolist()
    each = [mutual_information_gap(z, {name: values}) for name, values in factors.items()]
    assert mutual_information_gap(z, factors) == pytest.approx(np.mean(each))


def test_dci_of_a_sample():
    truth, factors, _ = cells(900)
    assert dci(truth, factors, sample_size=900) == dci(truth, factors, sample_size=None)
    sample = dci(truth, factors, sample_size=300)
    assert isinstance(sample, DCI)
    assert sample.informativeness == pytest.approx(1, abs=0.02)


def test_labels_too_rare_to_be_held_out_are_left_out():
    labels = np.array(["a"] * 40 + ["b"] * 40 + ["alone"])
    z = np.r_[np.zeros(40), np.ones(41)][:, None]
    assert dci(z, {"label": labels}).informativeness == 1.0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(-2, 2)] * 3, st.booleans()), min_size=4, max_size=30).filter(
        lambda rows: len({row[3] for row in rows}) == 2
    )
)
def test_gap_of_any_cells_is_between_0_and_1_and_does_not_need_an_order(rows):
    z, labels = np.array([row[:3] for row in rows], dtype=float), [row[3] for row in rows]
    value = mutual_information_gap(z, {"label": labels})
    assert 0 <= value <= 1 + 1e-12
    assert mutual_information_gap(z[::-1, [2, 0, 1]], {"label": labels[::-1]}) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("score", [mutual_information_gap, dci])
@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({}, "factors is empty"),
        (["a", "b"], "factors is of the type list; give a DataFrame"),
        ({"type": ["a"] * 3}, r"factor 'type' has the shape \(3,\) and z has 4 cells"),
        ({"type": ["a"] * 4}, "factor 'type' has 1 distinct values among 4 cells"),
        ({"phase": ["G1", None, None, "G1"]}, "factor 'phase' has 1 distinct values among 2 cells"),
        ({"time": [np.nan] * 4}, "factor 'time' has 0 distinct values among 0 cells"),
        ({"time": [0.0, 1.0, np.inf, 2.0]}, "factor 'time' holds 1 infinite values"),
    ],
)
def test_factors_that_say_nothing_are_refused_with_a_sentence(score, factors, message):
    with pytest.raises(ValueError, match=message):
        score(np.arange(8.0).reshape(4, 2), factors)


@pytest.mark.parametrize("score", [mutual_information_gap, dci])
def test_bad_points_are_refused_with_a_sentence(score):
    with pytest.raises(ValueError, match="z has the shape"):
        score([1.0, 2.0], {"type": ["a", "b"]})
    with pytest.raises(ValueError, match="z has the shape"):
        score(np.zeros((2, 0)), {"type": ["a", "b"]})
    with pytest.raises(ValueError, match="z holds 1 values that are NaN"):
        score([[1.0], [np.nan]], {"type": ["a", "b"]})


def test_bad_options_are_refused_with_a_sentence():
    z, factors = np.arange(4.0)[:, None], {"type": list("abcd")}
    with pytest.raises(ValueError, match="n_bins is 1"):
        mutual_information_gap(z, factors, n_bins=1)
    with pytest.raises(ValueError, match="test_size is 1"):
        dci(z, factors, test_size=1)
    with pytest.raises(ValueError, match="factor 'type' has 0 labels with the 4 cells or more"):
        dci(z, factors, test_size=0.25)
    with pytest.raises(ValueError, match="factor 'time' does not vary over its 1 held-out cells"):
        dci(z, {"time": [0, 1, 2, 3]})
    with pytest.raises(ValueError, match="sample_size is 1"):
        dci(z, factors, sample_size=1)
