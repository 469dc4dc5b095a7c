import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from diffvae.metrics import _reconstruction, active_dimensions, reconstruction_r2


def test_reconstruction_worked_by_hand():
    # errors 1 + 0 + 0 + 4 = 5; from the means of other cells, (1, 2): 1 + 4 + 1 + 4 = 10
    x, reconstruction = [[0.0, 0.0], [2.0, 4.0]], [[1.0, 0.0], [2.0, 2.0]]
    assert reconstruction_r2(x, reconstruction, [1.0, 2.0]) == pytest.approx(1 - 5 / 10)
    assert reconstruction_r2(x, x, [1.0, 2.0]) == 1.0
    assert reconstruction_r2(x, [[1.0, 2.0]] * 2, [1.0, 2.0]) == 0.0
    assert reconstruction_r2(x, [[5.0, 5.0]] * 2, [1.0, 2.0]) < 0


def test_dense_is_sparse_and_blocks_make_no_difference(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.poisson(0.3, size=(53, 20)).astype(np.float32)
    reconstruction, mean = x + rng.normal(scale=0.2, size=x.shape), rng.random(20)
    value = reconstruction_r2(x, reconstruction, mean)
    assert reconstruction_r2(sp.csr_matrix(x), reconstruction, mean) == value
    assert reconstruction_r2(sp.csr_array(x), sp.csr_matrix(reconstruction), mean) == value
    order = rng.permutation(53)
    assert reconstruction_r2(x[order], reconstruction[order], mean) == pytest.approx(value)
    for n in (1, 100, 53 * 20):
        monkeypatch.setattr(_reconstruction, "N_BLOCK", n)
        assert reconstruction_r2(sp.csr_matrix(x), reconstruction, mean) == pytest.approx(value)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(0, 100))
def test_share_of_the_way_from_the_mean_to_the_cell(share, seed):
    rng = np.random.default_rng(seed)
    x, mean = rng.normal(size=(6, 4)), rng.normal(size=4)
    value = reconstruction_r2(x, mean + share * (x - mean), mean)
    assert value == pytest.approx(1 - (1 - share) ** 2)


def test_integers_do_not_wrap():
    x = np.array([[250, 0], [0, 250]], dtype=np.uint8)
    assert reconstruction_r2(x, np.zeros((2, 2)), [0.0, 0.0]) == 0.0
    assert reconstruction_r2(x, 255 - x, [0.0, 0.0]) < 0


@pytest.mark.parametrize(
    ("x", "reconstruction", "mean", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 2)), np.ones(3), r"x has the shape \(2, 3\) and reconstruction \(2, 2\)"),
        (np.ones(3), np.ones(3), np.ones(3), r"x has the shape \(3,\)"),
        (np.ones((2, 3)), np.ones((2, 3)), np.ones(2), r"mean has the shape \(2,\) and x has 3 genes"),
        (np.ones((2, 3)), np.ones((2, 3)), np.ones(3), "x has 2 cells and none differs from the mean"),
        (np.ones((0, 3)), np.ones((0, 3)), np.ones(3), "x has 0 cells"),
        (np.ones((2, 3)), np.full((2, 3), np.nan), np.zeros(3), "values that are NaN or infinite"),
        (np.ones((2, 3)), np.ones((2, 3)), [0, np.inf, 0], "values that are NaN or infinite"),
    ],
)
def test_refusals(x, reconstruction, mean, message):
    with pytest.raises(ValueError, match=message):
        reconstruction_r2(x, reconstruction, mean)


def test_active_dimensions_worked_by_hand():
    # variances 1, 0.015625, 0.0225 and 0; the threshold has to be passed, not reached
    z = np.array([[-1.0, 0.125, 0.15, 3.0], [1.0, -0.125, -0.15, 3.0]])
    assert active_dimensions(z) == 3
    assert active_dimensions(z, 0.125**2) == 2
    assert active_dimensions(z, 1.0) == 0
    assert active_dimensions(z.astype(np.float32) + 1000) == 3  # summed in double precision
    assert active_dimensions(z, threshold=0) == 3
    assert isinstance(active_dimensions(z), int)


def test_active_dimensions_refuses_what_it_can_not_count():
    with pytest.raises(ValueError, match="z has the shape"):
        active_dimensions([1.0, 2.0])
    with pytest.raises(ValueError, match="z holds 1 values"):
        active_dimensions([[1.0, np.inf]])
    with pytest.raises(ValueError, match=r"threshold is -0.1; it must be a number of at least 0"):
        active_dimensions([[1.0]], threshold=-0.1)
