"""The fewest genes: exact prefixes, sets that flip and need all of their genes, nulls, and what is refused."""

import functools

import numpy as np
import pytest
from _states import RED, SOURCE, states

import diffvae as dv
from diffvae.pp import DataError
from diffvae.tl._directions import read_cells
from diffvae.tl._gene_sets import IncrementalClassifier


def searched(**options):
    adata, model, classifier = states()
    options = {"source": SOURCE, "target": RED, "n_sd": 3, "n_random": 20, "progress": False} | options
    return dv.tl.minimal_genes(adata.copy(), model, classifier, **options)


@functools.cache
def by_order(order):
    return searched(order=order)


@pytest.fixture(params=["effect", "gradient", "greedy"])
def found(request):
    return by_order(request.param)


def edit(found, i, drop=None):
    """The i-th cell with its set changed, less one gene."""
    x = read_cells(*states(), "cell_type").x[found.rows[i]].copy()
    genes = [g for g in found.cells["genes"].iloc[i].split(", ") if g != drop]
    at = found.model.gene_names.get_indexer(genes)
    x[at] = found.edited[i][at]
    return x


def test_prefixes_equal_brute_force():
    adata, model, classifier = states()
    x = read_cells(adata, model, classifier, "cell_type").x
    rng = np.random.default_rng(0)
    genes = rng.permutation(x.shape[1])
    change = rng.normal(0, 0.2, len(genes)).astype(np.float32)
    edited = IncrementalClassifier(classifier)
    edited.block = 17  # several blocks
    code = classifier.code(RED)
    probability, first = edited.prefixes(x[3], genes, change, code)
    brute = np.repeat(x[3][None], len(genes), axis=0)
    for n in range(len(genes)):
        brute[n, genes[: n + 1]] += change[: n + 1]
    expected = classifier.predict_proba(brute)
    np.testing.assert_allclose(probability, expected[:, code], atol=1e-5)
    np.testing.assert_array_equal(first, expected.argmax(1) == code)
    singles, _ = edited.singles(edited.hidden(x[3][None])[0], genes, change, code)
    alone = np.repeat(x[3][None], len(genes), axis=0)
    alone[np.arange(len(genes)), genes] += change
    np.testing.assert_allclose(singles, classifier.predict_proba(alone)[:, code], atol=1e-5)


def test_gradient_is_the_slope():
    adata, model, classifier = states()
    x = read_cells(adata, model, classifier, "cell_type").x[:2]
    code = classifier.code(RED)
    slope = IncrementalClassifier(classifier).gradient(x, code)
    up, down = x.copy(), x.copy()
    up[:, 5] += 0.01
    down[:, 5] -= 0.01
    numeric = (np.log(classifier.predict_proba(up)[:, code]) - np.log(classifier.predict_proba(down)[:, code])) / 0.02
    np.testing.assert_allclose(slope[:, 5], numeric, atol=0.02 * np.abs(slope).max())


def test_cells_flip_and_every_set_is_classified_again(found):
    assert found.counts["flipped"] > 20
    assert found.cells["flipped"].all()
    assert (found.cells["probability_before"] < found.cells["probability_after"]).all()
    probability = states()[2].predict_proba(found.edited)
    np.testing.assert_allclose(probability[:, states()[2].code(RED)], found.cells["probability_after"], atol=1e-5)
    assert (probability.argmax(1) == states()[2].code(RED)).all()
    np.testing.assert_allclose(edit(found, 0), found.edited[0])
    assert found.edited.min() >= 0
    assert found.edited.max() <= 1


def test_no_gene_can_be_left_out_where_elimination_ran(found):
    if found.params["order"] == "effect":
        assert (found.cells["n_stable"] == found.cells["n_genes"]).all()
        assert (found.cells["n_first"] <= found.cells["n_stable"]).all()
        return
    classifier = states()[2]
    for i in range(5):
        genes = found.cells["genes"].iloc[i].split(", ")
        if len(genes) == 1:
            continue
        called = classifier.predict(np.stack([edit(found, i, drop=g) for g in genes]))
        assert (called != RED).all()


def test_searches_find_smaller_sets_than_the_ranking():
    sizes = {order: by_order(order).cells["n_genes"].median() for order in ("effect", "greedy", "gradient")}
    assert sizes["greedy"] <= sizes["gradient"] <= sizes["effect"]


def test_first_flip_is_no_later_than_the_stable_one():
    first, stable = searched(stable=False), by_order("effect")
    assert (first.cells["n_genes"] == first.cells["n_first"]).all()
    assert first.cells["n_genes"].sum() <= stable.cells.set_index("cell").reindex(first.cells["cell"])["n_genes"].sum()


@pytest.mark.parametrize(("direction", "sign"), [("up", 1), ("down", -1)])
def test_one_direction_only(direction, sign):
    found = searched(direction=direction)
    assert (found.genes["direction"] == direction).all()
    assert (np.sign(found.genes["mean_change"]) == sign).all()


def test_only_the_genes_that_may_change_do(tmp_path):
    names = list(states()[1].gene_names[:60])
    (tmp_path / "genes.txt").write_text("\n".join(names) + "\n")
    by_list, by_file = searched(restrict=names), searched(restrict=tmp_path / "genes.txt")
    assert set(by_list.genes["gene"]) <= set(names)
    assert by_list.cells.equals(by_file.cells)
    assert by_list.params["n_allowed"] == 60


def test_true_drivers_stand_out(found):
    drivers = states()[0].uns["diffvae_truth"]["drivers"]
    true = {(g, d) for g, b, d in drivers[["gene", "branch", "direction"]].itertuples(index=False) if b == RED}
    top = found.genes.head(6)
    hits = sum((g, d) in true for g, d in top[["gene", "direction"]].itertuples(index=False))
    assert hits > 6 * len(true) / found.model.features.minimum.size / 2 + 1  # each gene in either direction by chance


def test_population_figures(found):
    assert found.genes["n_cells"].max() <= found.counts["flipped"]
    np.testing.assert_allclose(found.genes["share"], found.genes["n_cells"] / found.counts["flipped"])
    curve = found.curve()
    assert curve["share"].is_monotonic_increasing
    assert curve["share"].iloc[-1] == found.counts["flipped"] / found.counts["converted"]
    beside = found.baselines.set_index("genes")["flipped"]
    assert beside["found"] == 1
    assert beside["random"] < 0.9
    if found.params["order"] == "effect":
        assert found.genes["p_value"].between(1 / 21, 1).all()
    else:  # a ranking is no null for a search
        assert found.genes["p_value"].isna().all()
    assert (found.cells["distance"] > 0).all()


def test_edited_cells_come_back(found):
    changed = found.to_adata()
    assert changed.n_obs == found.counts["flipped"]
    np.testing.assert_array_equal(changed.layers["unit"], found.edited)


def test_same_seed_same_tables():
    a, b = by_order("effect"), searched()
    assert a.cells.equals(b.cells)
    assert a.genes.equals(b.genes)


def test_nothing_converted_is_an_answer():
    found = searched(n_sd=1e-6)
    assert found.counts["flipped"] == 0
    assert found.genes.empty
    assert found.curve().empty
    assert ": 0 of " in repr(found)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": SOURCE}, DataError, "'stem' is source and target at once"),
        ({"target": "blue"}, DataError, "'blue' is not a type of the classifier"),
        ({"n_sd": np.inf}, ValueError, "n_sd is inf; it must be a number above 0"),
        ({"n_sd": 0}, ValueError, "n_sd is 0"),
        ({"order": "size"}, ValueError, "order is 'size'; it must be 'effect', 'greedy' or 'gradient'"),
        ({"direction": "sideways"}, ValueError, "direction is 'sideways'; it must be 'both', 'up' or 'down'"),
        ({"restrict": ["no gene"]}, DataError, "None of the 1 genes of restrict is among the model's 120 genes"),
        ({"restrict": "tf"}, DataError, "restrict is 'tf', and there is no such file; give a list of genes"),
    ],
)
def test_what_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        searched(**options)
