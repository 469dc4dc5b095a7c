import numpy as np
import pandas as pd
import pytest

from diffvae.metrics import adjusted_rand_index, normalized_mutual_info

SCORES = [adjusted_rand_index, normalized_mutual_info]


def test_adjusted_rand_index_worked_by_hand():
    # Contingency [[2, 1], [0, 3]]: pairs together in both 1 + 3 = 4; in rows 3 + 3 = 6; in columns 1 + 6 = 7;
    # of 15. Expected 6 * 7 / 15 = 2.8, largest (6 + 7) / 2 = 6.5.
    value = adjusted_rand_index(["a", "a", "a", "b", "b", "b"], [0, 0, 1, 1, 1, 1])
    assert value == pytest.approx((4 - 2.8) / (6.5 - 2.8))


def test_normalized_mutual_info_worked_by_hand():
    # I = H(labels) = log 2; H(clusters) = 1.5 log 2.
    assert normalized_mutual_info([0, 0, 1, 1], [0, 0, 1, 2]) == pytest.approx(2 / 2.5)


@pytest.mark.parametrize("score", SCORES)
def test_names_of_groups_and_order_of_cells_do_not_matter(score):
    rng = np.random.default_rng(0)
    labels, clusters = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
    order = rng.permutation(200)
    renamed = pd.Categorical(np.array(["x", "y", "z"])[clusters])
    value = score(labels, clusters)
    assert score(labels[order], clusters[order]) == pytest.approx(value)
    assert score(labels, renamed) == pytest.approx(value)
    assert score(clusters, labels) == pytest.approx(value)
    assert score(labels, labels.astype(str)) == 1.0


def test_unrelated_partitions_have_an_index_near_zero():
    rng = np.random.default_rng(1)
    values = [adjusted_rand_index(rng.integers(0, 5, 300), rng.integers(0, 5, 300)) for _ in range(20)]
    assert abs(np.mean(values)) < 0.01


@pytest.mark.parametrize("score", SCORES)
def test_bad_labels_are_refused_with_a_sentence(score):
    with pytest.raises(ValueError, match="labels has 2 cells and clusters has 3"):
        score(["a", "b"], [0, 1, 1])
    with pytest.raises(ValueError, match="clusters has 1 missing values among 2"):
        score(["a", "b"], pd.Categorical(["x", None]))
    with pytest.raises(ValueError, match="labels has 1 missing"):
        score([0.0, np.nan], [0, 1])
    with pytest.raises(ValueError, match="one label per cell"):
        score([], [])
    with pytest.raises(ValueError, match="labels has the shape"):
        score(np.zeros((2, 2)), [0, 1])
