"""Scores of data integration: values worked out by hand, what leaves them as they are, and their limits."""

import numpy as np
import pytest

from diffvae import metrics
from diffvae.metrics import (
    _integration,
    batch_r2,
    batch_silhouette,
    ilisi,
    integration,
    isolated_types,
    kbet_acceptance,
)

SCORES = {
    "ilisi": lambda x, batch, labels: ilisi(x, batch),
    "kbet": lambda x, batch, labels: kbet_acceptance(x, batch),
    "kbet in types": kbet_acceptance,
    "batch_silhouette": batch_silhouette,
    "batch_r2": lambda x, batch, labels: batch_r2(x, batch),
    "isolated_types": lambda x, batch, labels: isolated_types(x, labels, batch).score,
}


def cells(shift=0.0, n=400):
    """Two types far apart; the second batch is shifted, and lacks a third, small type."""
    rng = np.random.default_rng(0)
    types = np.repeat(["A", "B", "C"], [n // 2 - 40, n // 2, 40])
    batch = np.where(types == "C", "one", np.where(rng.random(n) < 0.5, "one", "two"))
    x = rng.normal(size=(n, 4))
    x[:, 0] += 12 * (types == "B")
    x[:, 1] += 12 * (types == "C")
    x[:, 2] += shift * (batch == "two")
    return x, batch, types


def test_ilisi_by_hand():
    # the corners of a simplex are equally far from each other: shares 1/3 and 2/3 of the three others, LISI 9/5
    assert ilisi(np.eye(4), ["a", "a", "b", "b"]) == pytest.approx(0.8)
    # three batches of two: shares 1/5, 2/5, 2/5 of the five others, LISI 25/9
    assert ilisi(np.eye(6), list("aabbcc")) == pytest.approx((25 / 9 - 1) / 2)


def test_the_kernel_has_the_perplexity_of_a_third_of_the_neighbours():
    distance = np.sort(np.random.default_rng(0).gamma(2, size=(5, 90)), axis=1)
    weight = _integration._kernel(distance)
    assert weight.sum(axis=1) == pytest.approx(1)
    assert np.exp(-(weight * np.log(weight)).sum(axis=1)) == pytest.approx(30)
    # exponential in the distance
    slope = np.diff(np.log(weight), axis=1) / np.diff(distance, axis=1)
    assert slope.std(axis=1) == pytest.approx(0, abs=1e-6)
    assert _integration._kernel(100 * distance) == pytest.approx(weight)


def test_kbet_by_hand():
    # 40 cells on a line, k = 10: a cell, four on each side and the fifth below. Of 5 expected, 2 to 8 are accepted
    # (2 (3)^2 / 5 = 3.6 < 3.84 < 2 (4)^2 / 5), as at the 7 cells whose windows reach 2 to 8 cells beyond the border.
    line = np.arange(40.0)[:, None]
    assert kbet_acceptance(line, ["a"] * 20 + ["b"] * 20) == 7 / 40
    assert kbet_acceptance(line, ["a", "b"] * 20) == 1
    # within types: the border type and the mixed type count alike, whatever their sizes
    x = np.concatenate([line, 1000 + np.arange(20.0)[:, None]])
    batch = ["a"] * 20 + ["b"] * 20 + ["a", "b"] * 10
    assert kbet_acceptance(x, batch, ["T"] * 40 + ["B"] * 20) == pytest.approx((7 / 40 + 1) / 2)


def test_kbet_of_random_batches_is_about_one_minus_alpha():
    rng = np.random.default_rng(1)
    x, batch = rng.normal(size=(2000, 3)), rng.choice(["a", "b", "c"], 2000, p=[0.5, 0.3, 0.2])
    assert kbet_acceptance(x, batch) == pytest.approx(0.95, abs=0.03)
    assert kbet_acceptance(x, batch, alpha=0.5) == pytest.approx(0.5, abs=0.1)


def test_batch_silhouette_by_hand():
    x, batch = [[0.0], [1.0], [10.0], [11.0]], ["a", "a", "b", "b"]
    # a = 1; b = 10.5 at the ends and 9.5 inside: s = 1 - 1 / b
    within = (1 / 10.5 + 1 / 9.5) / 2
    assert batch_silhouette(x, batch, ["T"] * 4) == pytest.approx(within)
    # a further type, whose batches lie at the same two points, and one of a single batch, which is left out
    more = [[50.0], [51.0], [50.0], [51.0], [90.0], [91.0]]
    types = ["T"] * 4 + ["B"] * 4 + ["NK"] * 2
    found = batch_silhouette(x + more, [*batch, "a", "a", "b", "b", "a", "a"], types)
    # in B, a = 1 and b = 1/2: s = -1/2
    assert found == pytest.approx((within + 0.5) / 2)


def test_batch_r2_by_hand():
    # means 1 and 5 around 3: 4 x 4 of 9 + 1 + 1 + 9
    assert batch_r2([[0.0], [2.0], [4.0], [6.0]], ["a", "a", "b", "b"]) == pytest.approx(16 / 20)
    # a dimension without batch effect, of variance 20 as well, halves it
    assert batch_r2([[0, 0], [2, 20**0.5], [4, 0], [6, 20**0.5]], list("aabb")) == pytest.approx(16 / 40)
    assert np.isnan(batch_r2(np.ones((4, 2)), list("aabb")))


def test_batch_r2_is_the_regression_of_the_principal_components():
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LinearRegression

    x, batch, _ = cells(shift=2)
    pca = PCA().fit(x)
    scores, design = pca.transform(x), (batch == "two")[:, None].astype(float)
    each = [LinearRegression().fit(design, y).score(design, y) for y in scores.T]
    assert batch_r2(x, batch) == pytest.approx(np.average(each, weights=pca.explained_variance_))


def test_isolated_types_by_hand():
    x = [[0.0], [1.0], [0.5], [1.5], [10.0], [11.0]]
    found = isolated_types(x, ["T"] * 4 + ["B"] * 2, list("aabbaa"))
    # a = 1; the mean distances to T are 9.25 and 10.25
    assert found.score == pytest.approx(1 - (1 / 9.25 + 1 / 10.25) / 4)
    assert (found.types, found.n_batches) == (("B",), 1)
    everywhere = isolated_types(x, ["T"] * 4 + ["B"] * 2, list("aabbab"))
    assert np.isnan(everywhere.score)
    assert (everywhere.types, everywhere.n_batches) == ((), 2)


@pytest.mark.parametrize("name", SCORES)
def test_order_and_names_do_not_matter(name):
    x, batch, types = cells(shift=1.5)
    value = SCORES[name](x, batch, types)
    assert 0 < value < 1
    order = np.random.default_rng(1).permutation(len(x))
    assert SCORES[name](x[order], batch[order], types[order]) == pytest.approx(value)
    renamed = np.where(batch == "one", "z", "a")
    assert SCORES[name](x, renamed, np.char.add("type ", types)) == pytest.approx(value)
    turned = x @ np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))[0]
    assert SCORES[name](3 * turned + 1, batch, types) == pytest.approx(value, abs=1e-4)


def test_limits():
    x, batch, types = cells()
    mixed, apart = integration(x, batch, types), integration(cells(shift=40)[0], batch, types)
    assert mixed["ilisi"] > 0.8
    assert apart["ilisi"] == pytest.approx(0, abs=1e-6)
    assert mixed["kbet_acceptance"] > 0.8
    assert apart["kbet_acceptance"] == 0
    assert mixed["batch_silhouette"] > 0.93
    assert apart["batch_silhouette"] < 0.1
    assert mixed["batch_r2"] < 0.15  # the third type is in one batch only
    assert apart["batch_r2"] > 0.8
    # a space without information mixes best and keeps nothing
    nothing = integration(np.random.default_rng(3).normal(size=x.shape), batch, types)
    assert nothing["ilisi"] > 0.8
    assert nothing["kbet_acceptance"] > 0.8
    assert mixed["knn_purity"] > 0.99 > 0.6 > nothing["knn_purity"]
    assert mixed["isolated_types"] > 0.85 > 0.6 > nothing["isolated_types"]
    assert mixed["silhouette"] > 0.5 > 0.1 > nothing["silhouette"]
    assert mixed["n_isolated_types"] == 1


def test_all_scores_are_those_of_the_functions():
    x, batch, types = cells(shift=1)
    found = integration(x, batch, types, rng=4)
    assert found == {
        "ilisi": ilisi(x, batch),
        "kbet_acceptance": kbet_acceptance(x, batch, types),
        "batch_silhouette": batch_silhouette(x, batch, types),
        "batch_r2": batch_r2(x, batch),
        "knn_purity": metrics.knn_purity(x, types),
        "silhouette": metrics.silhouette(x, types),
        "isolated_types": isolated_types(x, types, batch).score,
        "n_isolated_types": 1.0,
    }
    assert list(integration(x, batch)) == ["ilisi", "kbet_acceptance", "batch_r2"]


def test_a_sample_estimates_the_whole():
    x, batch, types = cells(shift=1.5, n=3000)
    batch[(types == "A") & (np.random.default_rng(0).random(3000) < 0.8)] = "two"  # sizes that differ
    x[:, 2] = np.random.default_rng(1).normal(size=3000) + 1.5 * (batch == "two")
    whole, drawn = (batch_silhouette(x, batch, types, sample_size=size) for size in (None, 600))
    assert drawn == pytest.approx(whole, abs=0.03)
    assert drawn != whole
    whole, drawn = (isolated_types(x, types, batch, sample_size=size) for size in (None, 300))
    assert drawn.score == pytest.approx(whole.score, abs=0.02)
    assert drawn.score != whole.score
    assert batch_silhouette(x, batch, types, sample_size=600, rng=1) != batch_silhouette(
        x, batch, types, sample_size=600, rng=2
    )


def test_no_type_with_two_batches_leaves_what_needs_one_undefined():
    x, _, types = cells()
    batch = np.where(types == "A", "one", "two")
    assert np.isnan(kbet_acceptance(x, batch, types))
    assert np.isnan(batch_silhouette(x, batch, types))
    assert ilisi(x, batch) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_what_has_nothing_to_mix_is_refused(name):
    x, batch, types = cells()
    with pytest.raises(ValueError, match="batch has one value only, 'one'; there is nothing to mix"):
        SCORES[name](x, np.full(len(x), "one"), types)
    with pytest.raises(ValueError, match="batch 'three' has 1 cell; leave out batches of one cell"):
        SCORES[name](x, np.r_[batch[:-1], ["three"]], types)
    with pytest.raises(ValueError, match="batch has 1 missing values among 400"):
        SCORES[name](x, np.r_[batch[:-1].astype(object), [None]], types)
    if name in ("kbet in types", "batch_silhouette", "isolated_types"):
        with pytest.raises(ValueError, match="labels has 1 missing values among 400"):
            SCORES[name](x, batch, np.r_[types[:-1].astype(object), [None]])
        with pytest.raises(ValueError, match="labels has 399 cells and batch has 400"):
            SCORES[name](x, batch, types[:-1])


def test_one_type_is_never_isolated_and_bad_numbers_are_refused():
    x, batch, types = cells()
    with pytest.raises(ValueError, match="labels put 400 cells into 1 types"):
        isolated_types(x, np.full(400, "A"), batch)
    with pytest.raises(ValueError, match="n_neighbors is 1; it must be a whole number of 2 or more"):
        ilisi(x, batch, n_neighbors=1)
    with pytest.raises(ValueError, match="alpha is 0; it must be a number above 0 and below 1"):
        kbet_acceptance(x, batch, types, alpha=0)
    with pytest.raises(ValueError, match="sample_size is 1; it must be None or a whole number of 4 or more"):
        batch_silhouette(x, batch, types, sample_size=1)
