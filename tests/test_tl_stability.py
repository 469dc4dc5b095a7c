import numpy as np
import pandas as pd
import pytest

from diffvae.tl import _stability


def line(n=20):
    return np.arange(n, dtype=float)[:, None]


def halves(part):
    """Clusterings of points on a line; candidate k cuts it at multiples of 20 / k, whoever is there."""
    return lambda k: np.floor(part[:, 0] * k / 20).astype(int)


def test_agreement_by_hand():
    # rows 1, 2, 3 are shared: labels 0, 1, 1 and 5, 5, 6 put no pair together in both
    value = _stability._agreement(
        np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1]), np.array([1, 2, 3, 4]), np.array([5, 5, 6, 6])
    )
    # one pair together in each, none in both, 3 pairs: (0 - 1/3) / (1 - 1/3)
    assert value == pytest.approx(-0.5)
    same = _stability._agreement(np.arange(4), np.array([0, 0, 1, 1]), np.arange(4), np.array([7, 7, 3, 3]))
    assert same == 1.0


def test_a_partition_that_always_comes_back_scores_one():
    assert _stability.stability(halves, line(), [2, 4], np.random.default_rng(0)) == [1.0, 1.0]


def test_labels_by_chance_score_nothing():
    chance = np.random.default_rng(1)
    values = _stability.stability(
        lambda part: lambda k: chance.integers(k, size=len(part)), line(200), [2, 5], np.random.default_rng(0)
    )
    assert np.abs(values).max() < 0.1


def test_one_piece_has_no_stability():
    values = _stability.stability(
        lambda part: lambda k: np.zeros(len(part), int) if k == 1 else (part[:, 0] > 9).astype(int),
        line(),
        [1, 2],
        np.random.default_rng(0),
    )
    assert np.isnan(values[0])
    assert values[1] == 1.0


def test_one_piece_in_a_single_subsample_is_enough():
    sizes = iter(range(100))

    def clustering(part):
        piece = next(sizes) == 2  # the third of five subsamples falls into one piece
        return lambda k: np.zeros(len(part), int) if piece else (part[:, 0] > 9).astype(int)

    assert np.isnan(_stability.stability(clustering, line(), [2], np.random.default_rng(0))[0])


def test_subsamples_are_four_fifths_and_seeded():
    seen = []

    def clustering(part):
        seen.append(part[:, 0].tolist())
        return lambda k: (part[:, 0] > 9).astype(int)

    for seed in (0, 0, 1):
        _stability.stability(clustering, line(), [2], np.random.default_rng(seed))
    assert [len(s) for s in seen] == [16] * 15
    assert seen[:5] == seen[5:10]
    assert seen[:5] != seen[10:]
    assert len({tuple(s) for s in seen[:5]}) == 5


def choice(monkeypatch, stability, null):
    """Let ``choose`` decide on given stabilities."""
    answers = iter([stability, null])
    monkeypatch.setattr(_stability, "stability", lambda *args: next(answers))
    return _stability.choose(halves, line(), list(range(2, 2 + len(stability))), np.random.default_rng(0))


def test_the_finest_that_is_nearly_as_stable_is_chosen(monkeypatch):
    chosen, table = choice(monkeypatch, [1.0, 0.95, 0.91, 0.5], [0.9, 0.8, 0.7, 0.6])
    assert chosen == 4
    assert table["chosen"].tolist() == [False, False, True, False]
    assert table.columns.tolist() == ["candidate", "stability", "null_stability", "chosen"]
    assert table["null_stability"].tolist() == [0.9, 0.8, 0.7, 0.6]


def test_candidates_without_stability_are_not_chosen(monkeypatch):
    nan = float("nan")
    assert choice(monkeypatch, [0.5, 0.2, nan], [nan, nan, nan])[0] == 2


def test_the_null_has_the_same_moments_and_no_clusters():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(c, 0.2, (500, 2)) for c in ((0, 0), (5, 5))]).astype(np.float32)
    null = _stability.structureless(x, rng)
    assert null.shape == x.shape
    assert null.dtype == x.dtype
    assert null.mean(0) == pytest.approx(x.mean(0), abs=0.3)
    assert np.cov(null.T) == pytest.approx(np.cov(x.T), rel=0.15)
    middle = (np.abs(x.mean(1) - 2.5) < 1).mean(), (np.abs(null.mean(1) - 2.5) < 1).mean()
    assert middle[0] == 0  # the blobs leave the middle empty,
    assert middle[1] > 0.2  # the cloud doesn't


def test_the_null_works_with_one_dimension_and_with_more_dimensions_than_cells():
    rng = np.random.default_rng(0)
    assert _stability.structureless(line(), rng).shape == (20, 1)
    assert np.isfinite(_stability.structureless(rng.normal(size=(10, 30)), rng)).all()


def test_table_is_a_frame_of_plain_columns():
    _, table = _stability.choose(halves, line(), [2, 4], np.random.default_rng(0))
    assert isinstance(table, pd.DataFrame)
    assert table["stability"].tolist() == [1.0, 1.0]
    assert table["chosen"].tolist() == [False, True]
