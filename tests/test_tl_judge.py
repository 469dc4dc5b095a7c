"""The judge: right on separable types, undecided on none, and with types of two cells."""

import numpy as np
import pytest

from diffvae.tl import _judge
from diffvae.tl._judge import Judge

CLASSES = ("a", "b", "c")


def blobs(sizes=(60, 60, 60), rng=0, far=6.0):
    """Cells of types that differ in one gene each."""
    random = np.random.default_rng(rng)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    x = random.normal(size=(len(codes), 20))
    x[np.arange(len(codes)), codes] += far
    return x.astype(np.float32), codes


def judge(x, codes, scale=1.0, rng=0):
    return Judge.of(x, codes, CLASSES, np.full(x.shape[1], scale, np.float32), rng)


def test_separable_types_are_found():
    found = judge(*blobs())
    x, codes = blobs(rng=1)
    assert found.accuracy == 1
    np.testing.assert_array_equal(found.probability(x).argmax(1), codes)
    np.testing.assert_array_equal(found.nearest(x), codes)
    np.testing.assert_allclose(found.probability(x).sum(1), 1, rtol=1e-5)


def test_permuted_labels_are_not_found():
    x, codes = blobs((200, 200, 200))
    assert judge(x, np.random.default_rng(0).permutation(codes)).accuracy < 0.45


def test_regression_and_neighbours_are_two_opinions():
    x, codes = blobs((100, 100, 0))
    found = judge(x, codes)
    far = np.zeros((1, 20), np.float32)
    far[0, 1] = 100  # beyond all cells, on the side of b
    assert found.probability(far)[0, 1] > 0.99
    ring = np.concatenate([x, x[codes == 1] * 0 + far])  # real cells of a lie there
    found = judge(ring, np.append(codes, np.zeros((codes == 1).sum(), int)))
    assert found.nearest(far)[0] == 0


def test_cells_without_a_type_teach_nothing():
    x, codes = blobs()
    codes[codes == 2] = -1
    found = judge(x, codes)
    assert (found.probability(x)[:, 2] == 0).all()
    assert set(found.nearest(x)) == {0, 1}


def test_a_type_of_two_cells_is_learnt():
    x, codes = blobs((80, 80, 2), far=20.0)
    for seed in range(5):
        found = judge(x, codes, rng=seed)
        assert found.probability(x[-2:]).argmax(1).tolist() == [2, 2]
        assert found.nearest(x[-2:]).tolist() != [2, 2]  # two cells are not most of 15


def test_types_too_small_to_hold_out_have_no_accuracy():
    assert np.isnan(judge(*blobs((2, 2, 2))).accuracy)


def test_a_sample_keeps_rare_types(monkeypatch):
    monkeypatch.setattr(_judge, "FIT_CELLS", 100)
    monkeypatch.setattr(_judge, "RARE", 10)
    found = judge(*blobs((1000, 1000, 12), far=12.0))
    size = np.bincount(found._codes)
    assert size.tolist() == pytest.approx([50, 50, 10], abs=1)
    assert found.accuracy == 1


def test_scale_is_that_of_the_genes():
    x, codes = blobs()
    found = judge(x / 10, codes, scale=10.0)
    np.testing.assert_allclose(found.scores(x / 10), judge(x, codes).scores(x), atol=1e-3)


def test_nearest_in_blocks_and_none(monkeypatch):
    x, codes = blobs()
    found = judge(x, codes)
    whole = found.nearest(x)
    monkeypatch.setattr(_judge, "BLOCK", 7)
    np.testing.assert_array_equal(found.nearest(x), whole)
    assert len(found.nearest(x[:0])) == len(found.probability(x[:0])) == 0


def test_same_seed_same_judge():
    x, codes = blobs(far=1.0)
    a, b, c = (judge(x, codes, rng=r).probability(x) for r in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
