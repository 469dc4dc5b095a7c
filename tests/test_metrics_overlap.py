from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffvae.metrics import expected_overlap, overlap


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


def test_refusals():
    with pytest.raises(ValueError, match="labels has 1 cells and clusters has 2"):
        overlap(["a"], [0, 1])
    with pytest.raises(ValueError, match="n_permutations is 0"):
        expected_overlap(["a"], [0], n_permutations=0)
