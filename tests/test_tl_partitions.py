import random
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from diffvae.tl import _cluster


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(c, 0.5, (30, 2)) for c in ((0, 0), (8, 0), (0, 8))])
    return x, np.repeat([0, 1, 2], 30)


def test_neighbour_graph_by_hand():
    # on a line: 0 and 1 have each other, 2 has 1, 3 has 2
    x = np.array([[0.0], [1.0], [2.1], [4.0]])
    graph = _cluster.neighbor_graph(x, 0, n_neighbors=1).toarray()
    # neighbourhoods with self: {0,1}, {1,0}, {2,1}, {3,2}; Jaccard of 0-1: 2/2, 1-2: 1/3, 2-3: 1/3
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 1.0
    expected[1, 2] = expected[2, 1] = expected[2, 3] = expected[3, 2] = 1 / 3
    assert graph == pytest.approx(expected)


def test_neighbour_graph_copes_with_equal_and_few_cells():
    graph = _cluster.neighbor_graph(np.zeros((5, 2)), 0, n_neighbors=15)
    assert (graph.diagonal() == 0).all()
    assert graph.toarray() == pytest.approx(1 - np.eye(5))  # all are neighbours of all


def test_large_sets_get_the_same_graph_from_the_same_neighbours(blobs, monkeypatch):
    class NNDescent:
        """As pynndescent has it: each cell first among its own neighbours."""

        def __init__(self, x, n_neighbors, random_state):
            apart = np.linalg.norm(x[:, None] - x[None], axis=2)
            self.neighbor_graph = np.argsort(apart, axis=1)[:, :n_neighbors], None

    x, _ = blobs
    exact = _cluster.neighbor_graph(x, 0, n_neighbors=10)
    monkeypatch.setattr(_cluster, "EXACT_NEIGHBORS", 10)
    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=NNDescent))
    assert abs(_cluster.neighbor_graph(x, 0, n_neighbors=10) - exact).max() < 1e-12


def test_leiden_separates_components_and_leaves_global_randomness_alone():
    block = np.ones((6, 6)) - np.eye(6)
    graph = sparse.csr_matrix(np.kron(np.eye(3), block))
    python, numpy_ = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is the point
    labels = _cluster.leiden(graph, 1.0, seed=3)
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy_).all()  # noqa: NPY002 - the global state is the point
    assert adjusted_rand_score(np.repeat([0, 1, 2], 6), labels) == 1.0
    assert labels.dtype == np.int64
    assert sorted(set(labels)) == [0, 1, 2]


def test_leiden_same_seed_same_labels(blobs):
    graph = _cluster.neighbor_graph(np.random.default_rng(1).normal(size=(150, 5)), 0)
    first = _cluster.leiden(graph, 1.5, seed=3)
    random.seed(7)  # must not matter
    assert (_cluster.leiden(graph, 1.5, seed=3) == first).all()
    assert any((_cluster.leiden(graph, 1.5, seed=s) != first).any() for s in (4, 5, 6))


def test_leiden_with_a_number_bisects():
    asked = []

    def communities(resolution):
        asked.append(resolution)
        return np.arange(40) % max(1, int(10 * resolution))  # 10 r communities

    labels, resolution = _cluster.leiden_with(communities, 7)
    assert labels.max() + 1 == 7
    assert 0.7 <= resolution < 0.8
    assert len(asked) < 15


def test_leiden_with_an_impossible_number_gives_the_nearest():
    labels, _ = _cluster.leiden_with(lambda r: np.arange(40) % (2 if r < 1 else 6), 5)
    assert labels.max() + 1 == 6
    labels, _ = _cluster.leiden_with(lambda r: np.arange(40) % (2 if r < 1 else 6), 3)
    assert labels.max() + 1 == 2


def test_dbscan_by_hand():
    # five cells within 0.4 of each other, one far away
    x = np.array([[0.0], [0.1], [0.2], [0.3], [0.4], [9.0]])
    labels, eps, samples = _cluster.dbscan(x, 0.5, 3)
    assert labels.tolist() == [0, 0, 0, 0, 0, -1]
    assert (eps, samples) == (0.5, 3)


def test_dbscan_finds_eps_at_the_knee(blobs):
    x, y = blobs
    labels, eps, samples = _cluster.dbscan(x, None, None)
    assert samples == 5  # twice the dimensions, five at least
    assert 0.2 < eps < 4  # above the distances within blobs of sd 0.5, below those between them
    inside = labels >= 0
    assert inside.mean() > 0.85
    assert adjusted_rand_score(y[inside], labels[inside]) == 1.0


@pytest.mark.parametrize(("n_dims", "expected"), [(1, 5), (4, 8), (50, 20)])
def test_dbscan_min_samples_follow_the_dimensions(n_dims, expected):
    x = np.random.default_rng(0).normal(size=(40, n_dims))
    assert _cluster.dbscan(x, 1.0, None)[2] == expected


def test_mixture_bic_prefers_the_truth_whatever_the_unit(blobs):
    x, y = blobs
    for unit in (1.0, 1e-4):
        fits = {k: _cluster.gaussian_mixture(unit * x, k, seed=0, n_init=1) for k in (2, 3, 4)}
        assert min(fits, key=lambda k: fits[k][1]) == 3
        assert adjusted_rand_score(y, fits[3][0]) == 1.0


def test_kmeans_separates_and_keeps_its_seed(blobs):
    x, y = blobs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = _cluster.kmeans(x, 3, seed=0)
    assert adjusted_rand_score(y, labels) == 1.0
    assert (_cluster.kmeans(x, 3, seed=0) == labels).all()
