import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import sparse

from diffvae._core.graphs import _repeated, _round, edges_of, rewired, undirected


def links_of(graph):
    return edges_of(undirected(graph))


def graph_of(edges, n_nodes):
    edges = np.asarray(edges)
    return sparse.csr_matrix((np.ones(len(edges)), edges.T), shape=(n_nodes, n_nodes))


def random_graph(n_nodes, n_links, seed=0):
    rng = np.random.default_rng(seed)
    ends = (rng.pareto(2, size=n_nodes) + 1).astype(float)  # some nodes with many links
    return graph_of(rng.choice(n_nodes, size=(n_links, 2), p=ends / ends.sum()), n_nodes)


def as_set(edges):
    return {tuple(sorted(edge)) for edge in edges.tolist()}


def test_edges_are_read_from_either_triangle_once_and_without_the_diagonal():
    dense = np.array([[5, 0.1, 0, 0], [0, 0, 0, 0], [0, -2, 0, 1], [0, 0, 3, 0]])
    stored_zero = sparse.csr_matrix(dense)
    stored_zero.data[stored_zero.data == 0.1] = 0
    assert links_of(dense).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert links_of(sparse.csc_matrix(dense.T)).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert links_of(stored_zero).tolist() == [[1, 2], [2, 3]]
    assert links_of(np.zeros((3, 3))).shape == (0, 2)


@pytest.mark.parametrize(("n_nodes", "n_links"), [(30, 40), (40, 400), (500, 3001)])
def test_degrees_and_simplicity_are_kept(n_nodes, n_links):
    graph = random_graph(n_nodes, n_links)
    original = links_of(graph)
    samples = list(rewired(graph, 10, rng=0))
    assert len(samples) == 10
    for edges in samples:
        assert edges.dtype == np.int64
        assert edges.shape == original.shape
        assert (edges[:, 0] < edges[:, 1]).all()
        assert len(as_set(edges)) == len(edges)
        degrees = np.bincount(edges.ravel(), minlength=n_nodes)
        assert (degrees == np.bincount(original.ravel(), minlength=n_nodes)).all()


class Told:
    """A generator that is told what to draw."""

    def __init__(self, order, ways):
        self.order, self.ways = np.array(order), np.array(ways)

    def permutation(self, _):
        return self.order

    def integers(self, _, size):
        assert len(self.ways) == size
        return self.ways


@pytest.mark.parametrize(("degrees", "n_graphs"), [((2, 2, 2, 1, 1), 7), ((3, 2, 2, 1, 1, 1), 15)])
def test_a_round_is_symmetric_and_reaches_every_graph(degrees, n_graphs):
    # then all graphs with these degrees are equally likely in the long run; here by going through every possible draw
    n_nodes, n_links = len(degrees), sum(degrees) // 2
    links = itertools.combinations(itertools.combinations(range(n_nodes), 2), n_links)
    graphs = [edges for edges in links if (np.bincount(np.ravel(edges), minlength=n_nodes) == degrees).all()]
    assert len(graphs) == n_graphs
    number = {frozenset(edges): i for i, edges in enumerate(graphs)}
    moves = np.zeros((n_graphs, n_graphs), dtype=int)
    draws = list(itertools.product(itertools.permutations(range(n_links)), itertools.product(range(3), repeat=2)))
    for i, edges in enumerate(graphs):
        for order, ways in draws:
            ends = _round(*np.array(edges).T, n_nodes, Told(order, ways))
            moves[i, number[frozenset(as_set(np.column_stack(ends)))]] += 1
    assert (moves == moves.T).all()
    assert (np.diag(moves) > 0).all()
    assert (np.linalg.matrix_power((moves > 0).astype(float), n_graphs) > 0).all()


def test_share_of_pairs_of_triangles_by_hand():
    # six nodes with two links each: 6! / 12 = 60 rings and 6! / (3! 3! 2) = 10 pairs of triangles
    ring = graph_of([(i, (i + 1) % 6) for i in range(6)], 6)
    seen = Counter(frozenset(as_set(edges)) for edges in rewired(ring, 1000, rng=0, sweeps=10))
    assert len(seen) == 70
    triangles = [c for c in itertools.combinations(range(6), 3) if 0 in c]
    n_triangles = sum(
        seen[frozenset([*itertools.combinations(one, 2), *itertools.combinations(sorted({*range(6)} - {*one}), 2)])]
        for one in triangles
    )
    assert n_triangles / 1000 == pytest.approx(1 / 7, abs=0.04)


@pytest.mark.parametrize(
    "edges",
    [[(0, 1)], [(0, i) for i in range(1, 6)], list(itertools.combinations(range(5), 2))],
    ids=["one link", "star", "complete"],
)
def test_where_nothing_can_be_swapped_the_graph_comes_back(edges):
    for sample in rewired(graph_of(edges, 6), 3, rng=0):
        assert as_set(sample) == set(edges)


def test_no_links_and_no_samples():
    assert [edges.shape for edges in rewired(sparse.csr_matrix((4, 4)), 2, rng=0)] == [(0, 2), (0, 2)]
    assert list(rewired(graph_of([(0, 1), (2, 3)], 4), 0, rng=0)) == []


def test_burn_in_forgets_the_graph():
    graph = random_graph(400, 2000)
    original = as_set(links_of(graph))
    kept = [len(as_set(edges) & original) / len(original) for edges in rewired(graph, 30, rng=0)]
    long_after = next(rewired(graph, 1, rng=1, burn_in=1000))
    assert kept[0] == pytest.approx(len(as_set(long_after) & original) / len(original), abs=0.03)
    assert np.mean(kept[:10]) == pytest.approx(np.mean(kept[20:]), abs=0.01)


def test_same_seed_same_graphs():
    graph = random_graph(50, 100)
    first, again, other = (list(rewired(graph, 3, rng=seed)) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert as_set(first[0]) != as_set(other[0])
    assert as_set(first[0]) != as_set(first[1])


def test_bad_numbers_of_rounds_are_refused():
    with pytest.raises(ValueError, match="sweeps=0 must be at least 1"):
        next(rewired(random_graph(10, 10), 1, rng=0, sweeps=0))


@pytest.mark.parametrize("n_codes", [10**4, 2**60], ids=["packed", "too wide to pack"])
def test_repeated_by_counting(n_codes):
    codes = np.random.default_rng(0).integers(200, size=150) + n_codes - 200
    counts = Counter(codes.tolist())
    assert _repeated(codes, n_codes).tolist() == [counts[code] > 1 for code in codes.tolist()]
    assert _repeated(codes[:0], n_codes).tolist() == []
