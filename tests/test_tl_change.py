"""How far cells move: by hand for a linear decoder, and equal change for every direction."""

import itertools

import numpy as np
import pytest
from _states import RED, SOURCE, states

import diffvae as dv
from diffvae.tl._change import FACTORS, bracket, change_curve, factors_for, lengths

WEIGHTS = np.array([[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]])  # |w| = 5 and 2
ONE = np.ones(3)


def along(decode, z, delta):
    """Return the cells moved by factors: what `change_curve` takes."""
    delta = np.broadcast_to(delta, z.shape)
    return lambda cells, f: decode(z[cells, None] + f[:, :, None] * delta[cells, None])


def linear(z):
    return z @ WEIGHTS


def test_lengths_are_on_the_scale_of_the_genes():
    assert lengths(np.array([[3.0, 4.0]]), np.array([1.0, 1.0])).tolist() == [5]
    assert lengths(np.array([[3.0, 2.0]]), np.array([1.0, 2.0])).tolist() == [5]


def test_curve_of_a_linear_decoder_is_a_line():
    z = np.random.default_rng(0).normal(size=(5, 2))
    curve = change_curve(along(linear, z, np.array([1.0, 0.0])), 5, ONE)
    np.testing.assert_allclose(curve, np.tile(5 * FACTORS, (5, 1)), rtol=1e-6)
    each = change_curve(along(linear, z, np.tile([[0.0, 1.0], [1.0, 0.0]], (3, 1))[:5]), 5, ONE)
    np.testing.assert_allclose(each[:, 6], [2, 5, 2, 5, 2])  # at the factor 1
    scaled = change_curve(along(linear, z, np.array([1.0, 0.0])), 5, np.array([2.0, 1.0, 0.0]))
    np.testing.assert_allclose(scaled[:, 6], 6)


def test_curve_never_falls():
    def returns(z):
        return np.sin(z)  # at 2 nearer to where it began than at 1.5

    curve = change_curve(along(returns, np.zeros((1, 1)), np.ones(1)), 1, np.ones(1))[0]
    assert np.sin(2) < np.sin(1.5)
    assert curve[9] == curve[8] == pytest.approx(np.sin(1.5))
    assert (np.diff(curve) >= 0).all()


def test_blocks_of_cells_keep_their_order(monkeypatch):
    own = np.array([4, 0, 2, 1, 3])
    monkeypatch.setattr("diffvae.tl._change.AT_ONCE", 2 * len(FACTORS))  # two cells at once
    curve = change_curve(lambda cells, f: (f * (1 + own[cells, None]))[:, :, None], 5, np.ones(1))
    np.testing.assert_allclose(curve[:, 6], [5, 1, 3, 2, 4])


def test_large_factors_are_tried_only_where_small_ones_do_not_suffice():
    speed, tried = np.array([1.0, 30.0, 2.0]), []

    def moved(cells, f):
        tried.append((cells.tolist(), f.shape[1]))
        return (f * speed[cells, None])[:, :, None]

    whole = change_curve(moved, 3, np.ones(1))
    tried.clear()
    curve = change_curve(moved, 3, np.ones(1), 3.0)
    assert tried == [([0, 1, 2], 9), ([0, 2], 1), ([0], 3)]
    assert np.isinf(curve[1, 9:]).all()
    wanted = np.array([0.0, 1.0, 2.9, 3.0])
    np.testing.assert_array_equal(factors_for(curve, wanted), factors_for(whole, wanted))


def test_brackets_are_those_of_numpy():
    rng = np.random.default_rng(0)
    curve = np.maximum.accumulate(np.c_[np.zeros(50), rng.normal(size=(50, 6)).cumsum(axis=1)], axis=1)
    wanted = np.array([0.0, 0.3, 1.0, *curve[0, 2:4], 9.0])
    low, share = bracket(curve, wanted)
    expected = [np.interp(wanted, row, np.arange(7)) for row in curve]
    np.testing.assert_allclose(low + share, expected, atol=1e-12)


def test_factors_by_hand():
    curve = np.array([5 * FACTORS, 2 * FACTORS, 0 * FACTORS])
    found = factors_for(curve, np.array([0.0, 1.0, 12.5, 100.0]))
    np.testing.assert_allclose(found, [[0, 0.2, 2.5, 7], [0, 0.5, 6.25, 7], [0, 7, 7, 7]], rtol=1e-6)


def test_no_change_is_the_factor_0_where_the_curve_starts_flat():
    flat = np.maximum(0, FACTORS - 1)
    assert factors_for(flat[None], np.array([0.0]))[0, 0] == 0


@pytest.fixture(scope="module")
def found():
    adata, model, classifier = states()
    methods = ("mean", "shift", "ot", "anchored", "expression_mean")
    return dv.tl.perturb(
        adata.copy(), model, classifier, source=SOURCE, target=RED, method=methods, n_random=10, progress=False
    )


@pytest.mark.parametrize("method", ["mean", "shift", "ot", "anchored", "expression_mean"])
def test_change_is_equal_for_every_method(found, method):
    t = found.trajectory(RED, method=method)
    wanted = np.array(found.steps)[:, None]
    able = t.factor < FACTORS[-1]
    off = np.abs(t.moved - wanted)
    assert off[0].max() == 0
    assert able[found.index(0.75)].mean() > 0.95  # the cells can change as much
    # the error of the interpolation, as a share of the distance
    assert all(o[a].mean() < 0.03 for o, a in zip(off, able, strict=True))
    assert off[able].max() < 0.1
    _, y = found.changed(RED, 0.75, method=method)
    before = found.data.x[t.rows] if method == "expression_mean" else found.model.decode(found.data.z[t.rows])
    distance = found.rows(RED)["distance"].iloc[0]
    np.testing.assert_allclose(lengths(y - before, found.data.scale) / distance, t.moved[found.index(0.75)], atol=1e-4)


def test_distance_is_that_of_the_mean_log_expression(found):
    adata = found.adata
    x = np.asarray(adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X)
    of = adata.obs["cell_type"].to_numpy()
    by_hand = np.linalg.norm(x[of == RED].mean(0) - x[of == SOURCE].mean(0))
    assert found.table["distance"].iloc[0] == pytest.approx(by_hand, rel=1e-4)


def test_random_directions_change_as_much(found):
    null = found.nulls[SOURCE]
    rows = found.data.of(SOURCE)[null.tried]
    wanted = 0.75 * found.table["distance"].iloc[0]
    changes = itertools.chain.from_iterable(null.moved(found.mover, rows, wanted))
    for curve, change in zip(null.curve, changes, strict=True):
        able = curve[:, -1] > wanted
        moved = lengths(change, found.data.scale)
        assert np.abs(moved[able] / wanted - 1).max(initial=0) < 0.1
        assert (moved[~able] <= wanted).all()  # cells that cannot change as much
    assert (null.curve[:, :, -1] > wanted).mean() > 0.5
