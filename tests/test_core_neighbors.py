import numpy as np
import pytest
import scipy.sparse as sp

from diffvae._core import neighbors
from diffvae._core.neighbors import METRICS, nearest, nearest_per_batch

X = np.random.default_rng(0).poisson(0.7, (60, 25)).astype(np.float32)


def brute(x, metric):
    """Return all similarities in double precision, that with itself -inf."""
    x = np.asarray(x, dtype=np.float64)
    if metric == "pearson":
        s = np.corrcoef(x)
    elif metric == "cosine":
        s = (x @ x.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(x, axis=1))
    elif metric == "euclidean":
        s = -np.linalg.norm(x[:, None] - x[None], axis=2)
    else:
        s = x @ x.T
    np.fill_diagonal(s, -np.inf)
    return s


def clusters(n=600, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(8, 20))[rng.integers(8, size=n)] + 0.4 * rng.normal(size=(n, 20))).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix])
def test_exact_is_brute_force(metric, form):
    truth = brute(X, metric)
    found = nearest(form(X), 4, metric=metric)
    assert (found.indices.shape, found.indices.dtype, found.scores.dtype) == ((60, 4), np.int64, np.float32)
    assert (found.recall, found.approximate) == (None, False)
    np.testing.assert_allclose(found.scores, -np.sort(-truth, axis=1)[:, :4], atol=1e-5)
    np.testing.assert_allclose(found.scores, np.take_along_axis(truth, found.indices, axis=1), atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_blocks_do_not_matter(metric, monkeypatch):
    whole = nearest(X, 3, metric=metric)
    monkeypatch.setattr(neighbors, "BLOCK", 130)
    monkeypatch.setattr(neighbors, "GATHERED", 100)
    pieces = nearest(X, 3, metric=metric)
    assert (pieces.indices == whole.indices).all()
    assert (pieces.scores == whole.scores).all()


@pytest.mark.parametrize("metric", METRICS)
def test_of_equal_cells_the_first(metric):
    # More twins than there are spare candidates, and each cell 60 times.
    x = np.tile(np.array([[1.0, 2, 4], [4, 2, 1]]), (60, 1))
    found = nearest(x, 3, metric=metric)
    assert found.indices[0].tolist() == [2, 4, 6]
    assert found.indices[4].tolist() == [0, 2, 6]
    assert found.indices[1].tolist() == [3, 5, 7]
    assert found.indices[119].tolist() == [1, 3, 5]


def test_distances_of_near_cells_far_from_the_origin():
    # In single precision |x|^2 - 2xy + |y|^2 would be rounding alone.
    line = np.array([0, 1, 3, 7, 15, 31, 63], dtype=np.float64)[:, None] * 1e-3
    x = np.vstack([line + 100, [[-1e4]]]) @ np.ones((1, 3))
    found = nearest(x, 1, metric="euclidean")
    assert found.indices[:7, 0].tolist() == [1, 0, 1, 2, 3, 4, 5]


def test_cells_without_a_profile_have_no_neighbours():
    x = np.array([[1.0, 2, 3], [0.1, 0.1, 0.1], [3.0, 2, 1], [0, 0, 0], [1, 2, 4]])
    found = nearest(x, 3, metric="pearson")
    assert found.indices.tolist() == [[4, 2, -1], [-1] * 3, [4, 0, -1], [-1] * 3, [0, 2, -1]]
    assert np.isneginf(found.scores[found.indices < 0]).all()
    assert nearest(x, 1, metric="cosine").indices[3].tolist() == [-1]
    assert nearest(x, 1, metric="euclidean").indices[3].tolist() == [1]
    assert (nearest(np.ones((4, 3)), 2, metric="pearson").indices == -1).all()
    # Two others, at distances sqrt(8) and sqrt(0.9^2 + 1.9^2 + 2.9^2).
    assert nearest(x[:3], 5, metric="euclidean").indices[0].tolist() == [2, 1, -1, -1, -1]


def test_input_is_left_alone():
    for metric in METRICS:
        for form in (np.array, sp.csr_matrix):
            x = form(X)
            nearest(x, 2, metric=metric)
            assert ((x.toarray() if sp.issparse(x) else x) == X).all()


def approximates(metric):
    x = clusters()
    exact, found = nearest(x, 3, metric=metric), nearest(x, 3, metric=metric, exact_limit=100)
    assert found.approximate
    assert 0.9 < found.recall <= 1
    assert (found.indices != np.arange(len(x))[:, None]).all()
    same = found.indices == exact.indices
    assert same.mean() > 0.9
    assert (found.scores[same] == exact.scores[same]).all()
    again = nearest(x, 3, metric=metric, exact_limit=100)
    assert (again.indices == found.indices).all()
    assert again.recall == found.recall


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(neighbors, "PART", 20)
    monkeypatch.setattr(neighbors, "SEARCHED", 6)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("metric", ["pearson", "cosine", "euclidean", "inner"])
def test_approximate_is_close_and_repeats(metric):
    approximates(metric)


@pytest.mark.usefixtures("small_parts")
def test_few_parts_find_fewer(monkeypatch):
    x = np.random.default_rng(0).normal(size=(600, 8))  # no clusters, so that neighbours lie in many parts
    monkeypatch.setattr(neighbors, "ENOUGH", 0)
    several = nearest(x, 5, metric="euclidean", exact_limit=100).recall
    monkeypatch.setattr(neighbors, "SEARCHED", 3)
    assert nearest(x, 5, metric="euclidean", exact_limit=100).recall < several < 1


def test_parts_of_all_cells_are_exact():
    x = np.random.default_rng(0).normal(size=(3000, 8))
    exact, found = nearest(x, 20, metric="euclidean"), nearest(x, 20, metric="euclidean", exact_limit=100)
    assert found.recall == 1
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_array_equal(found.scores, exact.scores)


@pytest.mark.parametrize("exact_limit", [100, 1000])
@pytest.mark.usefixtures("small_parts")
def test_points_have_their_nearest_rows(exact_limit):
    x = clusters()
    points = x[:50] + 0.01
    near, distances = neighbors.nearest_among(points, x, 4, exact_limit=exact_limit)
    truth = np.linalg.norm(points[:, None] - x[None], axis=2)
    expected = np.sort(truth, axis=1)[:, :4]
    assert np.isclose(distances, expected, atol=1e-5).mean() > 0.95
    np.testing.assert_allclose(np.take_along_axis(truth, near, axis=1), distances, atol=1e-5)


def test_sentences():
    with pytest.raises(ValueError, match="metric is 'r'; it must be 'pearson', 'cosine', 'euclidean' or 'inner'"):
        nearest(X, 1, metric="r")
    with pytest.raises(ValueError, match="k is 0; it must be a whole number of 1 or more"):
        nearest(X, 0, metric="pearson")


def brute_per_batch(x, k, batch, metric):
    """Return for each cell the set of neighbours that it keeps, by the definition."""
    s, n_batches = brute(x, metric), batch.max() + 1
    share = int(np.ceil(k / n_batches))
    ranked = [[c for c in np.argsort(-s[i], kind="stable") if c != i] for i in range(len(x))]
    of_batch = [[[c for c in row if batch[c] == b] for b in range(n_batches)] for row in ranked]
    return [
        {
            int(j)
            for b in range(n_batches)
            for j in of_batch[i][b][:share]
            if b == batch[i] or i in of_batch[j][batch[i]][: 2 * k]
        }
        for i in range(len(x))
    ]


@pytest.mark.parametrize("metric", ["pearson", "cosine", "euclidean"])
@pytest.mark.parametrize(("k", "n_batches"), [(2, 2), (5, 3), (1, 3), (4, 2)])
def test_neighbours_per_batch_are_brute_force(metric, k, n_batches):
    x = np.random.default_rng(1).normal(size=(90, 6)).astype(np.float32)
    batch = np.random.default_rng(2).integers(n_batches, size=90)
    x[batch == 1] += 0.7
    found = nearest_per_batch(x, k, batch, metric=metric)
    share = -(-k // n_batches)
    assert found.indices.shape == (90, share * n_batches)
    expected = brute_per_batch(x, k, batch, metric)
    assert [set(row[row >= 0].tolist()) for row in found.indices] == expected
    assert any(len(row) < share * n_batches for row in expected)  # the rule leaves some out
    assert (np.isneginf(found.scores) == (found.indices < 0)).all()
    for b in range(n_batches):
        block = found.indices[:, b * share : (b + 1) * share]
        assert (batch[block[block >= 0]] == b).all()


def test_cells_that_can_not_be_compared_leave_a_batch_empty():
    x, batch = X.copy(), np.arange(60) // 56
    x[56:59] = 1  # batch 1 has one cell that varies
    found = nearest_per_batch(x, 2, batch, metric="pearson")
    assert (found.indices[56:] < 0).all()
    assert (found.indices[:, 1] < 0).all()
    assert (found.indices[:56, 0] >= 0).all()


@pytest.mark.usefixtures("small_parts")
def test_approximate_per_batch_is_close_and_repeats():
    x, batch = clusters(500), np.arange(500) % 2
    exact = nearest_per_batch(x, 4, batch, metric="euclidean")
    found = nearest_per_batch(x, 4, batch, metric="euclidean", exact_limit=400)
    assert found.approximate
    assert found.recall > 0.95
    assert (found.indices == exact.indices).mean() > 0.9
    again = nearest_per_batch(x, 4, batch, metric="euclidean", exact_limit=400)
    np.testing.assert_array_equal(found.indices, again.indices)


def test_small_batches_of_many_cells(monkeypatch):
    monkeypatch.setattr(neighbors, "PART", 2)
    x, batch = clusters(), np.zeros(len(clusters()), int)
    batch[:12], x[:8] = 1, 0  # four cells of the second batch are left
    found = nearest_per_batch(x, 12, batch, metric="cosine", exact_limit=100)
    assert found.approximate
    assert ((found.indices[:, 6:] >= 0).sum(axis=1) <= 4).all()


def test_noise_is_warned_of(monkeypatch):
    monkeypatch.setattr(neighbors, "PART", 10)
    monkeypatch.setattr(neighbors, "SEARCHED", 3)
    x = np.random.default_rng(0).normal(size=(1000, 40))
    with pytest.warns(UserWarning, match="nearest cells were found, because"):
        nearest(x, 5, metric="euclidean", exact_limit=100)


def test_points_far_away_do_not_move_the_others():
    x = clusters()
    points = x[:20] + 0.01
    with_far = np.concatenate([points, np.full((1, x.shape[1]), 1e8)])
    near, distances = neighbors.nearest_among(points, x, 4)
    again, same = neighbors.nearest_among(with_far, x, 4)
    np.testing.assert_array_equal(again[:20], near)
    np.testing.assert_array_equal(same[:20], distances)
