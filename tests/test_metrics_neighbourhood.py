import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from diffvae.metrics import knn_purity, silhouette

LINE = np.array([[0.0], [1.0], [10.0], [11.0]])


def blobs(n=60, distance=10.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(["a", "b", "c"], n // 3)
    return rng.normal(size=(n, 5)) + distance * (labels[:, None] == np.array(["a", "b", "c", "d", "e"])), labels


def test_silhouette_worked_by_hand():
    # Outer cells: a = 1, b = 10.5; inner cells: a = 1, b = 9.5.
    expected = ((1 - 1 / 10.5) + (1 - 1 / 9.5)) / 2
    assert silhouette(LINE, ["a", "a", "b", "b"]) == pytest.approx(expected)


def test_silhouette_sample():
    x, labels = blobs()
    whole = silhouette(x, labels, sample_size=None)
    assert whole == pytest.approx(silhouette_score(x, labels))
    assert silhouette(x, labels, sample_size=1000) == whole
    assert silhouette(x, labels, sample_size=30, rng=0) == silhouette(x, labels, sample_size=30, rng=0)
    assert silhouette(x, labels, sample_size=30, rng=0) != silhouette(x, labels, sample_size=30, rng=1)
    assert silhouette(x, labels, sample_size=30) == pytest.approx(whole, abs=0.1)


def test_silhouette_does_not_depend_on_rotation_and_scale():
    x, labels = blobs(distance=2.0)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
    assert silhouette(3 * x @ rotation + 7, labels) == pytest.approx(silhouette(x, labels))


def test_silhouette_refuses_what_it_can_not_judge():
    with pytest.raises(ValueError, match="put 4 cells into 1 groups"):
        silhouette(LINE, ["a"] * 4)
    with pytest.raises(ValueError, match="put 4 cells into 4 groups"):
        silhouette(LINE, list("abcd"))
    with pytest.raises(ValueError, match="sample_size is 1"):
        silhouette(LINE, ["a", "a", "b", "b"], sample_size=1)
    with pytest.raises(ValueError, match="raise sample_size"):
        silhouette(np.arange(100.0)[:, None], ["a"] * 99 + ["b"], sample_size=5)
    with pytest.raises(ValueError, match="x has 4 cells and labels has 3"):
        silhouette(LINE, ["a", "a", "b"])
    with pytest.raises(ValueError, match="1 values that are NaN"):
        silhouette([[0.0], [np.nan], [1.0]], ["a", "a", "b"])
    with pytest.raises(ValueError, match="give a dense numeric array"):
        silhouette([0.0, 1.0, 2.0], ["a", "a", "b"])


def test_knn_purity_worked_by_hand():
    # Two neighbours each: 0 has {1, 10}, 1 has {0, 10}, 10 has {11, 1}, 11 has {10, 1}: one of two is of its own.
    assert knn_purity(LINE, ["a", "a", "b", "b"], n_neighbors=2) == 0.5
    assert knn_purity(LINE, ["a", "b", "a", "b"], n_neighbors=1) == 0.0


def test_knn_purity_leaves_the_cell_out_also_among_duplicates():
    # All cells in one place: whichever neighbours are taken, never the cell itself, the only one of its type.
    assert knn_purity(np.zeros((6, 2)), list("abcdef"), n_neighbors=3) == 0.0


def test_knn_purity_of_blobs_and_of_chance():
    x, labels = blobs(n=300)
    assert knn_purity(x, labels) == 1.0
    shuffled = np.random.default_rng(0).permutation(labels)
    assert knn_purity(x, shuffled) == pytest.approx(3 * 100 * 99 / (300 * 299), abs=0.03)


def test_knn_purity_does_not_depend_on_the_order_of_cells():
    x, labels = blobs(distance=1.0)
    order = np.random.default_rng(2).permutation(len(x))
    assert knn_purity(x[order], labels[order]) == pytest.approx(knn_purity(x, labels))


@pytest.mark.parametrize("n_neighbors", [0, 4])
def test_knn_purity_refuses_impossible_neighbours(n_neighbors):
    with pytest.raises(ValueError, match=f"n_neighbors is {n_neighbors}; it must be a whole number from 1 to 3"):
        knn_purity(LINE, ["a", "a", "b", "b"], n_neighbors=n_neighbors)
