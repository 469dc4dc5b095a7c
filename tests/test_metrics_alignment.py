import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffvae.metrics import best_dimensions, dimension_alignment, dimension_auc, link_auc


def test_auc_and_alignment_worked_by_hand():
    z = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 4.0], [4.0, 6.0]])
    labels = ["a", "a", "b", "c"]
    # first dimension: a loses all four comparisons, b wins two of three, c all three; second: a wins both against 4,
    # loses both against 6 (1/2), b loses all three, c wins all three
    expected = pd.DataFrame({"a": [0.0, 0.5], "b": [2 / 3, 0.0], "c": [1.0, 1.0]})
    np.testing.assert_allclose(dimension_auc(z, labels), expected)
    table = best_dimensions(z, labels)
    assert table["type"].tolist() == ["a", "b", "c"]
    assert table["n_cells"].tolist() == [2, 1, 1]
    assert table["dimension"].tolist() == [0, 1, 0]  # of two that tell c the first
    assert table["side"].tolist() == ["-", "-", "+"]
    assert table["auc"].tolist() == [0.0, 0.0, 1.0]
    assert dimension_alignment(z, labels, adjusted=False) == 1.0
    assert dimension_alignment(z[:, [0]], labels, adjusted=False) == pytest.approx((1 + 1 / 3 + 1) / 3)


def test_chance_is_taken_off_as_it_says():
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(90, 3)) + np.arange(90)[:, None] / 40, np.repeat(["a", "b", "c"], [60, 25, 5])
    permuted = [dimension_alignment(z, rng.permutation(labels), adjusted=False) for _ in range(100)]
    raw = dimension_alignment(z, labels, adjusted=False)
    value = dimension_alignment(z, labels, n_permutations=100)
    assert value == pytest.approx((raw - np.mean(permuted)) / (1 - np.mean(permuted)), abs=0.02)
    assert raw > value > 0.3
    assert best_dimensions(z, labels)["expected"].idxmax() == 2  # few cells are told apart by luck


def test_truth_scores_one_and_noise_zero():
    rng = np.random.default_rng(0)
    labels = rng.choice(list("abcdef"), size=500, p=[0.4, 0.3, 0.2, 0.05, 0.03, 0.02])
    truth = pd.get_dummies(labels).to_numpy(dtype=float)
    assert dimension_alignment(np.c_[rng.normal(size=(500, 4)), -truth], labels) == 1.0
    noise = rng.normal(size=(500, 50))
    assert dimension_alignment(noise, labels, adjusted=False) > 0.2  # the best of 50 dimensions
    assert dimension_alignment(noise, labels) == pytest.approx(0, abs=0.05)
    assert dimension_alignment(np.ones((500, 3)), labels) == 0.0
    assert dimension_alignment([[0.0], [1.0]], ["a", "b"]) == 0.0  # two cells are always told apart


def test_order_sign_scale_and_names_do_not_matter():
    rng = np.random.default_rng(1)
    labels = np.repeat(["a", "b", "c"], [30, 20, 10])
    z = rng.normal(size=(60, 4)) + (labels[:, None] == np.array(["a", "b", "c", "d"]))
    value = dimension_alignment(z, labels, adjusted=False)
    order = rng.permutation(60)
    assert dimension_alignment(z[order], labels[order], adjusted=False) == pytest.approx(value)
    assert dimension_alignment(z[:, ::-1], labels, adjusted=False) == pytest.approx(value)
    assert dimension_alignment(-np.exp(z), labels, adjusted=False) == pytest.approx(value)
    renamed = pd.Categorical(pd.Series(labels).map({"a": "z", "b": "y", "c": "x"}))
    assert dimension_alignment(z, renamed, adjusted=False) == pytest.approx(value)
    np.testing.assert_allclose(dimension_auc(-z, labels), 1 - dimension_auc(z, labels))
    assert dimension_alignment(z, labels, rng=1) == dimension_alignment(z, labels, rng=1)
    assert dimension_alignment(z, labels, rng=1) != dimension_alignment(z, labels, rng=2)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.booleans()), min_size=2, max_size=20))
def test_ranks_give_the_area_under_the_curve(rows):
    z, labels = np.array([row[:2] for row in rows], dtype=float), np.array([row[2] for row in rows])
    if labels.all() or not labels.any():
        with pytest.raises(ValueError, match="labels has one type only"):
            dimension_auc(z, labels)
        return
    auc = dimension_auc(z, labels)
    for d in range(2):
        assert auc.loc[d, "True"] == pytest.approx(link_auc(z[labels, d], z[~labels, d]))
        assert auc.loc[d, "False"] == pytest.approx(1 - auc.loc[d, "True"])
    assert 0 <= dimension_alignment(z, labels, adjusted=False) <= 1


def test_table_without_permutations_has_no_expectation():
    table = best_dimensions([[0.0], [1.0], [2.0]], ["a", "a", "b"], n_permutations=0)
    assert table["expected"].isna().all()
    assert table["alignment"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("score", [dimension_alignment, best_dimensions, dimension_auc])
def test_refusals(score):
    z = np.arange(6.0).reshape(3, 2)
    with pytest.raises(ValueError, match="labels has one type only, 'a'"):
        score(z, ["a"] * 3)
    with pytest.raises(ValueError, match="labels has 1 missing values among 3"):
        score(z, ["a", None, "b"])
    with pytest.raises(ValueError, match="z has 3 cells and labels has 2"):
        score(z, ["a", "b"])
    with pytest.raises(ValueError, match="z holds 1 values that are NaN"):
        score([[0.0], [np.nan]], ["a", "b"])


def test_bad_permutations_are_refused():
    with pytest.raises(ValueError, match="n_permutations is 0; it must be a whole number of 1 or more"):
        dimension_alignment([[0.0], [1.0]], ["a", "b"], n_permutations=0)
    with pytest.raises(ValueError, match="n_permutations is -1"):
        best_dimensions([[0.0], [1.0]], ["a", "b"], n_permutations=-1)
