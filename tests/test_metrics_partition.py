from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffvae.metrics import adjusted_rand_index, expected_overlap, normalized_mutual_info, overlap

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


def test_overlap_worked_by_hand():
    # Greedy would take A-0 (5) and leave B only 1 (1); the best is A-1 (4) and B-0 (4).
    labels = ["A"] * 9 + ["B"] * 5 + ["C"]
    clusters = [0] * 5 + [1] * 4 + [0] * 4 + [1] + [0]
    result = overlap(labels, clusters)
    assert result.share == pytest.approx(8 / 15)
    assert result.mapping == {"1": "A", "0": "B"}
    table = result.table.set_index("type")
    assert table.loc["A", ["n_cells", "cluster", "n_cluster", "n_shared"]].tolist() == [9, "1", 5, 4]
    assert table.loc["A", "recall"] == pytest.approx(4 / 9)
    assert table.loc["A", "precision"] == pytest.approx(4 / 5)
    assert table.loc["C", "cluster"] == ""
    assert table.loc["C", "recall"] == 0
    assert np.isnan(table.loc["C", "precision"])
    assert result.contingency.loc["A", "0"] == 5


def test_clusters_left_over_are_shown():
    result = overlap(["A", "A", "A", "B"], ["x", "x", "y", "z"])
    left = result.table[result.table["type"] == ""]
    assert left["cluster"].tolist() == ["y"]
    assert left["precision"].tolist() == [0.0]
    assert result.share == 0.75


def test_pairs_without_a_cell_in_common_are_no_match():
    # Two clusters for two types, but B lies wholly in the cluster that A needs.
    result = overlap(["A", "A", "A", "B"], ["x", "x", "x", "x"])
    assert result.mapping == {"x": "A"}
    result = overlap(["A"] * 4 + ["B"], ["x", "x", "y", "x", "x"])
    assert result.share == 0.6
    assert result.mapping == {"x": "A"}


def test_equal_partitions_overlap_wholly_under_any_names():
    labels = np.repeat(["T", "B", "NK"], [5, 3, 2])
    assert overlap(labels, pd.Categorical(labels).codes).share == 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_overlap_is_the_best_of_all_mappings(pairs):
    labels, clusters = (np.array(values) for values in zip(*pairs, strict=True))
    best = max(sum((labels == p[c]) & (clusters == c) for c in range(4)).sum() for p in permutations(range(4)))
    assert overlap(labels, clusters).share == pytest.approx(best / len(labels))
    assert overlap(clusters, labels).share == pytest.approx(best / len(labels))


def test_expected_overlap_is_what_permuting_gives():
    rng = np.random.default_rng(0)
    labels, clusters = rng.integers(0, 3, 90), rng.integers(0, 4, 90)
    null = expected_overlap(labels, clusters, n_permutations=400)
    permuted = [overlap(rng.permutation(labels), clusters).share for _ in range(50)]
    assert null.mean == pytest.approx(np.mean(permuted), abs=0.02)
    assert null.observed == overlap(labels, clusters).share
    assert null.p_value > 0.01


def test_expected_overlap_of_equal_partitions():
    labels = np.repeat(["T", "B"], [60, 40])
    null = expected_overlap(labels, labels, n_permutations=99)
    assert null.observed == 1.0
    assert null.p_value == 0.01
    assert 0.5 < null.mean < 0.7


def test_expected_overlap_repeats_with_its_seed():
    labels, clusters = np.repeat([0, 1, 2], 20), np.tile([0, 1, 2], 20)
    assert expected_overlap(labels, clusters, rng=3) == expected_overlap(labels, clusters, rng=3)
    assert expected_overlap(labels, clusters, rng=3) != expected_overlap(labels, clusters, rng=4)


def test_bad_arguments_of_overlap_are_refused():
    with pytest.raises(ValueError, match="labels has 1 cells and clusters has 2"):
        overlap(["a"], [0, 1])
    with pytest.raises(ValueError, match="n_permutations is 0"):
        expected_overlap(["a"], [0], n_permutations=0)
