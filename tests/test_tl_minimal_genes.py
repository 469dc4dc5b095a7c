"""The fewest genes: exact prefixes, sets that flip and need all of their genes, nulls, and what is refused."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from _states import RED, SOURCE, states

import diffvae as dv
from diffvae.pp import DataError
from diffvae.tl._change import factors_for
from diffvae.tl._directions import read_cells
from diffvae.tl._gene_sets import Edits, IncrementalClassifier, lengths_tried, search_together, smallest_set
from diffvae.tl._judge import Judge
from diffvae.tl._minimal_genes import find_minimal, recurrence_null


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


def test_edits_equal_brute_force():
    """Edits of every kind, of two cells at once; each genes x edits matrix says by hand which genes are changed."""
    adata, model, classifier = states()
    cells = read_cells(adata, model, classifier, "cell_type").x[[3, 8]]
    rng = np.random.default_rng(0)
    n = cells.shape[1]
    genes, change = rng.permutation(n), rng.normal(0, 0.2, cells.shape).astype(np.float32)
    some, lengths, known = genes[:50], np.array([3, 17, 40]), IncrementalClassifier(classifier)
    hidden = [known.hidden(x[None])[0] for x in cells]
    edits, by_hand = [], []

    def has(sets):
        return np.array([np.isin(np.arange(n), list(one)) for one in sets])

    for x, h, c in zip(cells, hidden, change, strict=True):
        cases = {
            "prefixes": (Edits(h, c, genes, np.arange(1, n + 1)), has([genes[:k] for k in range(1, n + 1)])),
            "some prefixes": (Edits(h, c, genes, lengths), has([genes[:k] for k in lengths])),
            "singles": (Edits(h, c, genes), has([[g] for g in genes])),
            "all but one": (Edits(h, c, some, before=some), has([set(some) - {g} for g in some])),
            "taken back": (Edits(h, c, some[::-1], lengths, some), has([some[: 50 - k] for k in lengths])),
        }
        edits += [edit for edit, _ in cases.values()]
        by_hand += [x + c * inside for _, inside in cases.values()]
    code = classifier.code(RED)
    probability, first = known.classify(known.edited(edits), code)
    expected = classifier.predict_proba(np.concatenate(by_hand))
    assert [len(edit) for edit in edits] == [len(edited) for edited in by_hand]
    np.testing.assert_allclose(probability, expected[:, code], atol=1e-5)
    np.testing.assert_array_equal(first, expected.argmax(1) == code)


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


def test_every_gene_is_needed(found):
    classifier = states()[2]
    for i in range(40):
        genes = found.cells["genes"].iloc[i].split(", ")
        p = classifier.predict_proba(np.stack([edit(found, i, drop=g) for g in genes]))
        code = classifier.code(RED)
        assert not ((p.argmax(1) == code) & (p[:, code] >= 0.5)).any()


def test_first_and_stable_length_belong_to_the_ranking(found):
    cells = found.cells
    assert (cells["n_genes"] <= cells["n_first"]).all() or found.params["order"] == "effect"
    if found.params["order"] == "greedy":
        assert (cells["n_stable"] == 0).all()
    else:
        stays = cells[cells["n_stable"] > 0]
        assert (stays["n_first"] <= stays["n_stable"]).all()
    if found.params["order"] == "effect":
        assert (cells["n_genes"] <= cells["n_stable"]).all()


def test_without_elimination_a_set_is_the_beginning_of_the_ranking():
    cells = searched(eliminate=False).cells
    assert (cells["n_genes"] == cells["n_stable"]).all()
    reduced = by_order("effect").cells.set_index("cell").reindex(cells["cell"])
    assert (reduced["n_genes"].to_numpy() <= cells["n_genes"].to_numpy()).all()
    assert reduced["n_genes"].sum() < cells["n_genes"].sum()
    assert (reduced["n_first"].to_numpy() == cells["n_first"].to_numpy()).all()


class Known:
    """A classifier whose cells are flipped after some numbers of genes."""

    def __init__(self, flips):
        self.flips = flips

    def hidden(self, x):
        return torch.zeros(len(x), 1)

    def edited(self, edits):
        (edit,) = edits
        assert len(edit.genes) >= edit.lengths[-1]
        self.ranked = edit.genes.tolist()
        return torch.from_numpy(edit.lengths)[:, None]

    def classify(self, hidden, target):
        flipped = self.flips(hidden[:, 0].numpy())
        return np.ones(len(hidden)), flipped


def search(known, change, **options):
    options = {"order": "effect", "stable": True, "eliminate": False} | options
    return search_together(known, [smallest_set(known, np.zeros(len(change)), change, 0, **options)], 0, 0.5)[0]


@pytest.mark.parametrize(("first", "stable", "n_genes"), [(3, 3, 10), (25, 25, 60), (100, 331, 700), (700, 700, 700)])
def test_lengths_between_those_tried_are_found(first, stable, n_genes):
    """A cell that flips at one length, loses it halfway and flips for good later."""
    lost = (first + stable) // 2 if stable > first else 0
    known = Known(lambda n: (n >= first) & ((n >= stable) | (n < lost)))
    flip = search(known, np.linspace(2, 1, n_genes))
    assert (flip.n_first, flip.n_stable, len(flip.genes)) == (first, stable, stable)
    tried = lengths_tried(n_genes)
    assert tried[-1] == n_genes
    assert len(tried) < 60


def test_first_flip_is_the_first_of_those_between():
    """Flips at 25, not at 26, and for good from 27 on: 27 is the next length that is tried after 24."""
    flip = search(Known(lambda n: (n == 25) | (n >= 27)), np.linspace(2, 1, 60))
    assert lengths_tried(60)[23:25].tolist() == [24, 27]
    assert (flip.n_first, flip.n_stable) == (25, 27)


def test_effects_are_ranked_in_log_units():
    """Of two genes with the same effect on the unit scale the one with the larger range comes first."""
    change, scale = np.array([0.1, 0.1, -0.2, 0.0]), np.array([1.0, 3.0, 1.0, 100.0])
    known = Known(lambda n: n >= 2)
    flip = search(known, change, scale=scale)
    assert known.ranked == [1, 2, 0]
    assert (flip.genes.tolist(), flip.n_first, flip.n_stable) == ([1, 2], 2, 2)


def test_the_null_counts_the_genes_that_change_most(monkeypatch):
    """The share of cells in which a gene is among the most changed, by a plain formula, draw by draw."""
    adata, model, classifier = states()
    options = {"source": SOURCE, "target": RED, "n_random": 20, "progress": False}
    perturbation = dv.tl.perturb(adata.copy(), model, classifier, **options)
    null, move, cells = perturbation.nulls[SOURCE], perturbation.mover, perturbation.data
    rows, wanted = cells.of(SOURCE)[null.tried], 0.5 * perturbation.table["distance"].iloc[0]
    shares = recurrence_null(perturbation, SOURCE, wanted, [3, 5, 5], lambda x, change: np.maximum(change, 0))
    for share, curve, step in zip(shares, null.curve, null.directions, strict=True):
        z = cells.z[rows]
        y = move.decode(z + factors_for(curve, np.array([wanted])) * step, rows) - move.decode(z, rows)
        top = np.argsort(-np.maximum(y, 0) * cells.scale, axis=1)[:, :5]
        np.testing.assert_allclose(share, np.bincount(top.ravel(), minlength=len(share)) / len(rows))
    monkeypatch.setattr("diffvae.tl._conversions.AT_ONCE", 1)
    one_by_one = recurrence_null(perturbation, SOURCE, wanted, [5], lambda x, change: np.maximum(change, 0))
    np.testing.assert_array_equal(one_by_one, shares)


@pytest.mark.parametrize("order", ["effect", "gradient", "greedy"])
def test_cells_that_are_searched_together_do_not_mix(order, monkeypatch):
    found = by_order(order)
    monkeypatch.setattr("diffvae.tl._minimal_genes.TOGETHER", 1)
    pd.testing.assert_frame_equal(searched(order=order).cells, found.cells)


def test_judge_and_neighbours_look_at_the_edited_cells(found):
    adata, model, classifier = states()
    cells = read_cells(adata, model, classifier, "cell_type")
    judge = Judge.of(cells.x, cells.codes, cells.classes, cells.scale, 0)
    code = classifier.code(RED)
    np.testing.assert_array_equal(found.cells["judged"], judge.probability(found.edited).argmax(1) == code)
    np.testing.assert_array_equal(found.cells["nearest"], judge.nearest(found.edited) == code)
    assert found.cells["judged"].dtype == bool


def test_distances_before_and_after(found):
    cells = read_cells(*states(), "cell_type")
    real = cells.x[cells.of(RED)] * cells.scale
    for column, x in (("distance_before", cells.x[found.rows]), ("distance", found.edited)):
        all_ = np.sort(np.linalg.norm(x[:3, None] * cells.scale - real, axis=2), axis=1)
        np.testing.assert_allclose(found.cells[column].head(3), all_[:, :5].mean(1), rtol=1e-3)


def test_genes_of_many_cells_and_large_changes_come_first(found):
    weight = found.genes["share"] * found.genes["mean_log_change"].abs()
    assert weight.is_monotonic_decreasing
    span = found.model.features.maximum - found.model.features.minimum
    scale = pd.Series(span, found.model.gene_names)[found.genes["gene"]].to_numpy()
    np.testing.assert_allclose(found.genes["mean_log_change"], found.genes["mean_change"] * scale, rtol=1e-5)


def test_sets_belong_to_the_perturbation_that_is_given():
    adata, model, classifier = states()
    options = {"source": SOURCE, "method": "shift", "n_sd": (1, 3), "n_random": 20, "progress": False}
    plus = dv.tl.perturb(adata.copy(), model, classifier, direction="plus", sd_from="group", **options)
    allowed = np.ones(len(model.gene_names), bool)
    for target in plus.targets:
        found = find_minimal(plus, target, step=3, allowed=allowed, progress=False)
        converted = plus.trajectory(target).converted(0.5)[plus.index(3)]
        assert found.counts["converted"] == (converted.sum() - (converted & _called(found, target)).sum())
        assert set(found.rows) <= set(plus.trajectory(target).rows[converted])
    own = searched(method="shift", shift_direction="plus", sd_from="group", target=target)
    assert own.cells["genes"].tolist() == found.cells["genes"].tolist()


def _called(found, target):
    adata, model, classifier = states()
    cells = read_cells(adata, model, classifier, "cell_type")
    p = classifier.predict_proba(cells.x[cells.of(SOURCE)])
    code = classifier.code(target)
    return (p.argmax(1) == code) & (p[:, code] >= 0.5)


def test_the_callers_perturbation_stays():
    adata, model, classifier = states()
    adata = adata.copy()
    options = {"source": SOURCE, "target": RED, "n_random": 3, "progress": False}
    table = dv.tl.perturb(adata, model, classifier, **options).table
    dv.tl.minimal_genes(adata, model, classifier, **options)
    assert adata.uns["diffvae"]["perturbation"] is table
    del adata.uns["diffvae"]["perturbation"], adata.uns["diffvae"]["perturbation_params"]
    dv.tl.minimal_genes(adata, model, classifier, **options)
    assert "perturbation" not in adata.uns["diffvae"]


def test_searches_find_smaller_sets_than_the_ranking():
    sizes = {order: by_order(order).cells["n_genes"].median() for order in ("effect", "greedy", "gradient")}
    assert sizes["greedy"] <= sizes["gradient"] <= sizes["effect"]


def test_first_flip_is_no_later_than_the_stable_one():
    first, stable = searched(stable=False, eliminate=False), searched(eliminate=False)
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
    found = searched(step=1e-6, n_sd=None)
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
        ({"n_sd": None, "step": 0}, ValueError, "step is 0; it must be a number above 0"),
        ({"method": ("mean", "shift")}, ValueError, r"method is \('mean', 'shift'\); it must be 'mean', 'shift'"),
        ({"order": "size"}, ValueError, "order is 'size'; it must be 'effect', 'greedy' or 'gradient'"),
        ({"direction": "sideways"}, ValueError, "direction is 'sideways'; it must be 'both', 'up' or 'down'"),
        ({"restrict": ["no gene"]}, DataError, "None of the 1 genes of restrict is among the model's 120 genes"),
        ({"restrict": "tf"}, DataError, "None of the transcription factors is among the model's"),
    ],
)
def test_what_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        searched(**options)
