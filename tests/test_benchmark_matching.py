import numpy as np
import pytest

from diffvae.benchmark.stability._matching import (
    Training,
    cosines,
    dimension_table,
    gene_table,
    match,
    match_all,
    null_similarity,
)


def training(weights, z=None, alive=None) -> Training:
    weights = np.asarray(weights, float)
    z = np.random.default_rng(9).normal(size=(60, len(weights))) if z is None else z
    return Training(z, np.ones(len(weights), bool) if alive is None else np.asarray(alive), weights, 2 * weights)


def rotation(n, rng):
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


def shared(n, n_genes, rng):
    """Return dimensions of one decoder: each has its own genes, and all have some genes in common."""
    return rng.normal(size=(n, n_genes)) + 1.5 * rng.normal(size=n_genes)


def test_the_best_sum_wins_not_the_best_pair():
    # 0.9 + 0.1 is less than 0.8 + 0.7
    found = match(np.array([[0.9, 0.8], [-0.7, 0.1]]))
    assert found.column.tolist() == [1, 0]
    assert found.similarity.tolist() == [0.8, 0.7]
    assert found.sign.tolist() == [1, -1]


def test_too_few_dimensions_leave_the_worst_without_a_match():
    found = match(np.array([[0.2], [-0.9], [0.3]]))
    assert (found.column.tolist(), found.sign.tolist()) == ([-1, 0, -1], [0, -1, 0])
    assert found.similarity.tolist() == [0, 0.9, 0]


def test_cosines_by_hand():
    assert cosines(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[1.0, 0.0]])).tolist() == [[0.6], [0.0]]


@pytest.mark.parametrize("null", ["rotation", "permutation"])
def test_permuted_and_mirrored_copies_are_matched_exactly(null):
    rng = np.random.default_rng(0)
    weights = shared(6, 40, rng)
    z = rng.normal(size=(60, 6))
    order, signs = rng.permutation(6), rng.choice([-1, 1], 6)
    copy = training((weights * signs[:, None])[order], (z * signs)[:, order])
    table = match_all(training(weights, z), [copy, copy], "weights", null, rng)
    assert table["recurs"].all()
    assert table["similarity"].to_numpy() == pytest.approx(1)
    first = table[table["training"] == 1]
    assert order[first["match"]].tolist() == list(range(6))
    assert (first["sign"] == signs).all()
    by_dimension = dimension_table(training(weights, z), [copy, copy], table)
    assert (by_dimension["recurrence"] == 1).all()
    assert by_dimension["explained"].to_numpy() == pytest.approx(1)
    genes = gene_table(training(weights, z), [copy, copy], table, np.array([f"g{i}" for i in range(40)]), 5)
    assert (genes[["recurrence", "same_direction"]] == 1).all(axis=None)
    assert len(genes) == 2 * 6 * 5
    assert genes["null_recurrence"].mean() < 0.6


@pytest.mark.parametrize("null", ["rotation", "permutation"])
def test_random_weights_recur_at_the_nominal_rate(null):
    rng = np.random.default_rng(1)
    reference = training(rng.normal(size=(8, 30)))
    others = [training(rng.normal(size=(8, 30))) for _ in range(40)]
    rate = match_all(reference, others, "weights", null, rng)["recurs"].mean()
    assert 0.02 < rate < 0.085  # 320 tests at 5 %


def test_random_axes_of_the_same_space_do_not_recur_whatever_their_genes_share():
    rng = np.random.default_rng(2)
    weights = shared(8, 60, rng)
    turned = [training(rotation(8, rng) @ weights) for _ in range(20)]
    easy = match_all(training(weights), turned, "weights", "permutation", rng)["recurs"].mean()
    stern = match_all(training(weights), turned, "weights", "rotation", rng)["recurs"].mean()
    assert easy > 0.9
    assert 0.01 < stern < 0.1


def test_the_null_by_inner_products_is_the_null_by_genes():
    rng = np.random.default_rng(3)
    reference, other = rng.normal(size=(4, 20)), shared(4, 20, rng)
    quick = null_similarity(reference, other, "rotation", np.random.default_rng(5), n_draws=3)
    again = np.random.default_rng(5)
    for draw in quick:
        q, r = np.linalg.qr(again.standard_normal((4, 4)))
        assert draw == pytest.approx(match(cosines(reference, (q * np.sign(np.diag(r))) @ other)).similarity)


def test_dead_dimensions_take_no_part():
    rng = np.random.default_rng(4)
    weights = rng.normal(size=(4, 30))
    reference = training(weights, alive=[True, True, False, True])
    other = training(weights, alive=[True, False, True, True])  # whose dead one is the best match of number 1
    table = match_all(reference, [other], "weights", "rotation", rng)
    assert table["dimension"].tolist() == [0, 1, 3]
    assert table["match"].tolist() == [0, 2, 3]
    by_dimension = dimension_table(reference, [other], table)
    assert by_dimension.loc[2, ["recurrence", "similarity", "explained"]].isna().all()
    assert not by_dimension.loc[2, "alive"]
    assert by_dimension.loc[[0, 3], "recurrence"].tolist() == [1, 1]


def test_nothing_alive_to_match():
    rng = np.random.default_rng(4)
    weights = rng.normal(size=(2, 10))
    none = training(weights, alive=[False, False])
    table = match_all(training(weights), [none], "weights", "rotation", rng)
    assert table["match"].tolist() == [-1, -1]
    assert not table["recurs"].any()
    assert dimension_table(training(weights), [none], table)["explained"].tolist() == [0, 0]
    genes = gene_table(training(weights), [none], table, np.array(list("abcdefghij")), 3)
    assert (genes[["recurrence", "same_direction", "null_recurrence"]] == 0).all(axis=None)


def test_a_single_dimension_has_no_other_axes_but_other_genes():
    rng = np.random.default_rng(6)
    weights = rng.normal(size=(1, 50))
    same = match_all(training(weights), [training(-weights)], "weights", "rotation", rng)
    assert same["recurs"].all()
    other = match_all(training(weights), [training(rng.normal(size=(1, 50)))], "weights", "rotation", rng)
    assert other["threshold"].iloc[0] < 0.5


def test_gene_recurrence_by_hand():
    # reference: genes 0 and 1; the match (mirrored) has 0 and 2 on top; the other dimension has 2 and 3
    reference = training([[5, -4, 1, 0.5]])
    other = training([[0.1, 0.2, 3, 4], [-5, 1, 3, 0.5]])
    table = match_all(reference, [other], "weights", "rotation", np.random.default_rng(0))
    assert (table["match"].iloc[0], table["sign"].iloc[0]) == (1, -1)
    genes = gene_table(reference, [other], table, np.array(list("abcd")), 2).query("reading == 'weights'")
    assert genes["gene"].tolist() == ["a", "b"]
    assert genes["direction"].tolist() == ["up", "down"]
    assert genes["recurrence"].tolist() == [1, 0]
    assert genes["same_direction"].tolist() == [1, 1]  # b falls in both, though not among the first in the match
    assert genes["null_recurrence"].tolist() == [0, 0]


def test_explained_content_along_other_axes():
    rng = np.random.default_rng(7)
    z = rng.normal(size=(200, 3))
    turned = training(np.eye(3), z @ rotation(3, rng))
    stranger = training(np.eye(3), rng.normal(size=(200, 3)))
    reference = training(np.eye(3), z)
    table = match_all(reference, [turned], "latent", "rotation", rng)
    assert dimension_table(reference, [turned], table)["explained"].to_numpy() == pytest.approx(1)
    table = match_all(reference, [stranger], "latent", "rotation", rng)
    assert (dimension_table(reference, [stranger], table)["explained"] < 0.05).all()
