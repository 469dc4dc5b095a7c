import numpy as np
import pandas as pd
import pytest

from diffvae.tl import _cluster


def line(n=20):
    return np.arange(n, dtype=float)[:, None]


def halves(part):
    """Clusterings of points on a line; candidate k cuts it at multiples of 20 / k, whoever is there."""
    return lambda k: np.floor(part[:, 0] * k / 20).astype(int)


def test_agreement_with_the_whole_by_hand():
    # The whole is cut into evens and odds; a subsample into its lower and upper half.
    whole = np.arange(20) % 2

    def clustering(part):
        return lambda k: whole if len(part) == 20 else np.arange(len(part)) // 8

    mean, sd = _cluster.stability(clustering, line(), [2], np.random.default_rng(3))
    rng = np.random.default_rng(3)
    drawn = [np.sort(rng.choice(20, 16, replace=False)) for _ in range(5)]
    by_hand = [adjusted_rand(whole[rows], np.arange(16) // 8) for rows in drawn]
    assert mean[0] == pytest.approx(np.mean(by_hand))
    assert sd[0] == pytest.approx(np.std(by_hand))
    assert sd[0] > 0


def adjusted_rand(a, b):
    """The index from the pairs themselves."""
    pairs = np.triu_indices(len(a), 1)
    in_a, in_b = (np.equal.outer(x, x)[pairs] for x in (a, b))
    expected = in_a.sum() * in_b.sum() / len(in_a)
    return ((in_a & in_b).sum() - expected) / ((in_a.sum() + in_b.sum()) / 2 - expected)


def test_a_partition_that_always_comes_back_scores_one():
    mean, sd = _cluster.stability(halves, line(), [2, 4], np.random.default_rng(0))
    assert mean.tolist() == [1, 1]
    assert sd.tolist() == [0, 0]


def test_labels_by_chance_score_nothing():
    chance = np.random.default_rng(1)
    mean, _ = _cluster.stability(
        lambda part: lambda k: chance.integers(k, size=len(part)), line(200), [2, 5], np.random.default_rng(0)
    )
    assert np.abs(mean).max() < 0.1


def test_clusters_that_split_only_where_all_cells_are_there_are_not_stable():
    def clustering(part):
        return lambda k: part[:, 0].astype(int) // (5 if len(part) == 20 else 10)

    mean, _ = _cluster.stability(clustering, line(), [2], np.random.default_rng(0))
    assert mean[0] < 0.7  # though all subsamples agree with each other


@pytest.mark.parametrize("piece", range(6))
def test_one_piece_has_no_stability(piece):
    fits = iter(range(100))

    def clustering(part):
        whole = next(fits) == piece  # all cells come first, then five subsamples
        return lambda k: np.zeros(len(part), int) if whole else (part[:, 0] > 9).astype(int)

    mean, sd = _cluster.stability(clustering, line(), [2], np.random.default_rng(0))
    assert np.isnan(mean[0])
    assert np.isnan(sd[0])


def test_subsamples_are_four_fifths_and_seeded():
    seen = []

    def clustering(part):
        seen.append(part[:, 0].tolist())
        return lambda k: (part[:, 0] > 9).astype(int)

    for seed in (0, 0, 1):
        _cluster.stability(clustering, line(), [2], np.random.default_rng(seed))
    assert [len(s) for s in seen] == [20, 16, 16, 16, 16, 16] * 3
    assert seen[:6] == seen[6:12]
    assert seen[:6] != seen[12:]
    assert len({tuple(s) for s in seen[1:6]}) == 5


def choice(monkeypatch, stability, sd, null):
    """Let ``choose`` decide on given stabilities; the null is that of every cloud, or one row for each of eight."""
    clouds = np.broadcast_to(np.array(null, dtype=float), (8, len(stability)))
    answers = iter([(np.array(stability), np.array(sd)), *((cloud, np.zeros(len(cloud))) for cloud in clouds)])
    monkeypatch.setattr(_cluster, "stability", lambda *args: next(answers))
    return _cluster.choose(halves, line(), list(range(2, 2 + len(stability))), np.random.default_rng(0))


def test_the_largest_excess_over_the_null_is_chosen(monkeypatch):
    chosen, table, _ = choice(monkeypatch, [0.9, 0.85, 0.8, 0.4], [0.0, 0.1, 0.2, 0.3], [0.8, 0.7, 0.3, 0.2])
    assert chosen == 4
    assert table["chosen"].tolist() == [False, False, True, False]
    assert table.columns.tolist() == ["candidate", "stability", "sd", "null_stability", "excess", "chosen"]
    assert table["null_stability"].tolist() == pytest.approx([0.8, 0.7, 0.3, 0.2])
    assert table["excess"].tolist() == pytest.approx([0.5, 0.5, 5 / 7, 0.25])


def test_without_an_excess_stability_decides_and_without_that_the_coarsest_is_taken(monkeypatch):
    nan = float("nan")
    assert choice(monkeypatch, [0.9, 0.5, nan], [0, 0, nan], [nan, 0.1, nan])[0] == 3
    assert choice(monkeypatch, [0.9, 0.5, nan], [0, 0, nan], [1.0, 0.1, nan])[0] == 3
    assert choice(monkeypatch, [1.0, 1.0, 0.5], [0, 0, 0], [0.2, 0.4, 0.1])[0] == 3
    assert choice(monkeypatch, [0.2, 0.5, nan], [0.1, 0.1, nan], [nan, nan, nan])[0] == 3
    assert choice(monkeypatch, [nan, nan, nan], [nan, nan, nan], [nan, nan, nan])[0] == 2


def test_the_null_is_the_mean_of_the_clouds_and_each_of_them_chooses_too(monkeypatch):
    null = np.full((8, 2), 0.5)
    null[0] = (0.9, 0.1)
    _, table, p_value = choice(monkeypatch, [0.8, 0.7], [0, 0], null)
    assert table["null_stability"].tolist() == pytest.approx([0.55, 0.45])
    assert table["excess"].tolist() == pytest.approx([0.25 / 0.45, 0.25 / 0.55])
    # the first cloud's own choice exceeds the seven others by 0.4 / 0.5, more than the data exceed all eight
    assert p_value == pytest.approx(2 / 9)
    assert choice(monkeypatch, [0.96, 0.7], [0, 0], null)[2] == pytest.approx(1 / 9)
    assert choice(monkeypatch, [0.1, 0.1], [0, 0], null)[2] == 1
    null[3, 0] = np.nan  # one cloud stays in one piece there, so that nobody's choice counts
    _, table, p_value = choice(monkeypatch, [0.8, 0.7], [0, 0], null)
    assert np.isnan(table["excess"][0])
    assert p_value == pytest.approx(1 / 9)
    assert np.isnan(choice(monkeypatch, [0.8, 0.7], [0, 0], np.full((8, 2), np.nan))[2])


def test_clouds_are_other_draws_with_fewer_subsamples():
    seen = []

    def clustering(part):
        seen.append(part[:, 0].tolist())
        return lambda k: (part[:, 0] > part[:, 0].mean()).astype(int)

    _cluster.choose(clustering, line(), [2], np.random.default_rng(0))
    assert [len(s) for s in seen] == [20, 16, 16, 16, 16, 16] + [20, 16, 16, 16] * 8
    assert len({tuple(s) for s in seen if len(s) == 20}) == 9


def test_the_null_has_the_same_moments_and_no_clusters():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(c, 0.2, (500, 2)) for c in ((0, 0), (5, 5))]).astype(np.float32)
    null = _cluster.structureless(x, rng)
    assert null.shape == x.shape
    assert null.dtype == x.dtype
    assert null.mean(0) == pytest.approx(x.mean(0), abs=0.3)
    assert np.cov(null.T) == pytest.approx(np.cov(x.T), rel=0.15)
    middle = (np.abs(x.mean(1) - 2.5) < 1).mean(), (np.abs(null.mean(1) - 2.5) < 1).mean()
    assert middle[0] == 0  # the blobs leave the middle empty,
    assert middle[1] > 0.2  # the cloud doesn't


def test_the_null_works_with_one_dimension_and_with_more_dimensions_than_cells():
    rng = np.random.default_rng(0)
    assert _cluster.structureless(line(), rng).shape == (20, 1)
    assert np.isfinite(_cluster.structureless(rng.normal(size=(10, 30)), rng)).all()


def test_table_is_a_frame_of_plain_columns():
    _, table, _ = _cluster.choose(halves, line(), [2, 4], np.random.default_rng(0))
    assert isinstance(table, pd.DataFrame)
    assert table["stability"].tolist() == [1.0, 1.0]
    assert table["chosen"].tolist() == [False, True]
