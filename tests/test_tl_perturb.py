"""Perturbation: directions by hand, steps, the nulls, the baselines, and what is refused."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from _states import RED, SOURCE, WHITE, states

import diffvae as dv
from diffvae.pp import DataError
from diffvae.tl._conversions import Mover, Null, Trajectory, agreed
from diffvae.tl._directions import (
    anchored,
    directions,
    enriched_dimensions,
    random_directions,
    read_cells,
    transport,
)
from diffvae.tl._judge import Judge


def perturbed(**options):
    adata, model, classifier = states()
    adata = adata.copy()
    options = {"source": SOURCE, "n_random": 20, "progress": False} | options
    return dv.tl.perturb(adata, model, classifier, **options)


@pytest.fixture(scope="module")
def found():
    return perturbed(n_sd=(0.5, 1, 2, 3), method=("shift", "mean", "expression_mean", "none"))


@pytest.fixture(scope="module")
def stepped():
    return perturbed()


def ways(cells, methods, **options):
    model = states()[1]
    options = {"sd_from": "all", "direction": "signed", "rng": np.random.default_rng(0)} | options
    chosen = enriched_dimensions(cells, model, 3)

    def decode(z, rows):
        return cells.decode(model, z, rows)

    return chosen, directions(cells, SOURCE, RED, chosen, methods=methods, decode=decode, anchored=None, **options)


def test_lambda_zero_converts_what_is_called_target_after_decoding(found):
    adata, model, classifier = states()
    rows = np.flatnonzero(adata.obs["cell_type"] == SOURCE)
    called = classifier.predict(model.decode(model.get_latent_representation(adata)[rows]))
    for target in (RED, WHITE):
        np.testing.assert_array_equal(found.trajectory(target).converted(0.5)[0], called == target)
        own = found.table.query("target == @target and n_sd == 0 and method == 'shift'")
        assert own["n_converted"].item() == (called == target).sum()


def test_every_target_and_method_has_a_row_per_step(found):
    assert found.targets == (RED, WHITE)
    assert len(found.table) == 2 * 4 * 5
    assert found.unit == "n_sd"
    assert found.steps == (0.0, 0.5, 1.0, 2.0, 3.0)
    assert found.adata.uns["diffvae"]["perturbation"] is found.table
    none = found.table[found.table["method"] == "none"]
    assert none.groupby("target")["converted"].nunique().eq(1).all()
    assert none["p_value"].isna().all()
    p = found.table["p_value"].dropna()
    np.testing.assert_allclose(p * 21, np.round(p * 21))  # counts over the random directions
    assert p.between(1 / 21, 1).all()


def test_by_default_every_method_has_the_same_steps(stepped):
    assert stepped.unit == "step"
    assert stepped.steps == (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
    assert stepped.methods == ("mean", "shift", "expression_mean", "none")
    by_step = stepped.table.groupby(["target", "method"])["step"].agg(tuple)
    assert (by_step == stepped.steps).all()
    none = stepped.table[stepped.table["method"] == "none"]
    assert (none["n_sd"] == 0).all()
    assert none["q_value"].isna().all()


def test_the_two_units_agree():
    """The steps that n_sd reports lead to that n_sd."""
    by_sd = perturbed(n_sd=(1, 2), method="shift", target=RED, n_random=2).table
    steps = by_sd["step"].iloc[1:].tolist()
    assert by_sd["n_sd"].tolist() == [0, 1, 2]
    back = perturbed(step=steps, method="shift", target=RED, n_random=2).table
    np.testing.assert_allclose(back["n_sd"], [0, 1, 2], rtol=0.1)


def test_the_shift_moves_the_chosen_dimensions_by_their_sd_towards_the_target():
    cells = read_cells(*states(), "cell_type")
    chosen, by_method = ways(cells, ["shift"])
    shift = by_method["shift"]
    dimensions = chosen.loc[chosen["group"] == RED, "dimension"].to_numpy()
    assert set(np.flatnonzero(shift.z)) == set(dimensions)
    delta = cells.z[cells.of(RED)].mean(0) - cells.z[cells.of(SOURCE)].mean(0)
    expected = np.sign(delta[dimensions]) * cells.z.std(0)[dimensions]
    np.testing.assert_allclose(shift.z[dimensions], expected, rtol=1e-6)
    plus = ways(cells, ["shift"], sd_from="group", direction="plus")[1]["shift"]
    np.testing.assert_allclose(plus.z[dimensions], cells.z[cells.of(SOURCE)].std(0)[dimensions], rtol=1e-6)


def test_the_means_are_moved_to_the_means():
    cells = read_cells(*states(), "cell_type")
    _, by_method = ways(cells, ["mean", "expression_mean", "shift", "none"])
    mean, rows, goal = by_method["mean"], cells.of(SOURCE), cells.of(RED)
    np.testing.assert_allclose(mean.z, (cells.z[goal].mean(0) - cells.z[rows]) / 2, atol=1e-5)
    model = states()[1]
    arrived = (model.decode(cells.z[rows] + mean.z) + mean.x).mean(0)
    left = [(cells.x[r] - model.decode(cells.z[r])).mean(0) for r in (goal, rows)]
    at_the_mean = model.decode(np.tile(cells.z[goal].mean(0), (1, 1)))[0]
    np.testing.assert_allclose(arrived, at_the_mean + left[0] - left[1], atol=1e-5)
    in_genes = by_method["expression_mean"]
    np.testing.assert_allclose(
        cells.x[cells.of(SOURCE)].mean(0) + in_genes.x, cells.x[cells.of(RED)].mean(0), atol=1e-5
    )
    # so many standard deviations that the shift is as long
    np.testing.assert_allclose(
        np.linalg.norm(mean.z.mean(0)) / mean.sd, np.linalg.norm(by_method["shift"].z), rtol=1e-5
    )
    assert not by_method["none"].z.any()
    assert not by_method["none"].x.any()


def test_random_directions_are_as_long_as_the_standard_deviations():
    sd = np.array([3.0, 4.0, 0.0])
    drawn = random_directions(sd, 4000, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 5, rtol=1e-5)
    assert (drawn[:, 2] == 0).all()
    assert drawn[:, 1].std() > drawn[:, 0].std()
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.2)


def test_transport_by_hand():
    """Two pairs of points far from each other: each goes to its own partner."""
    source = np.array([[0.0, 0.0], [10.0, 0.0]])
    target = np.array([[10.0, 1.0], [0.0, 1.0]])
    step = transport(source, target, np.ones(2), np.random.default_rng(0))
    np.testing.assert_allclose(step, [[0, 1], [0, 1]], atol=1e-6)
    # uniform margins: cells at one place are shared by both targets, and each goes to their mean
    step = transport(np.zeros((4, 1)), np.array([[1.0], [3.0]]), np.ones(1), np.random.default_rng(0))
    np.testing.assert_allclose(step, 2, atol=1e-6)
    # sd: the second dimension is so wide that the distance in it does not count
    step = transport(
        np.array([[0.0, 0], [1, 0]]), np.array([[0.0, 9], [1, -9]]), np.array([0.1, 1e3]), np.random.default_rng(0)
    )
    np.testing.assert_allclose(step, [[0, 9], [0, -9]], atol=1e-3)


def test_transport_in_parts_is_nearly_the_same(monkeypatch):
    random = np.random.default_rng(0)
    source, target = random.normal(size=(301, 2)), random.normal(size=(300, 2)) + 5
    whole = transport(source, target, np.ones(2), random)
    monkeypatch.setattr("diffvae.tl._directions.MOST_TRANSPORTED", 300)
    parts = transport(source, target, np.ones(2), random)
    # a part of one cell would send it to the mean of the target
    assert np.linalg.norm(parts - whole, axis=1).max() < 1.5
    assert np.linalg.norm(parts - whole, axis=1).mean() < 0.3


def test_anchored_directions_convert_and_stay_near_the_mean():
    adata, model, classifier = states()
    cells = read_cells(adata, model, classifier, "cell_type")
    rows = cells.of(SOURCE)
    delta = cells.z[cells.of(RED)].mean(0) - cells.z[rows].mean(0)
    found = anchored(model, classifier, cells, rows, delta, RED)
    code = classifier.code(RED)
    before = classifier.predict_proba(model.decode(cells.z[rows]))[:, code]
    after = classifier.predict_proba(model.decode(cells.z[rows] + found))[:, code]
    assert np.median(after) > 0.5 > np.median(before)
    cosine = found @ delta / np.linalg.norm(found, axis=1) / np.linalg.norm(delta)
    assert np.median(cosine) > 0.5


def test_anchored_needs_gradients():
    adata, _, classifier = states()
    model = dv.model.PCA(n_latent=5).train(adata)
    with pytest.raises(ValueError, match="method='anchored' needs gradients of the decoder, which PCA lacks"):
        dv.tl.perturb(adata.copy(), model, classifier, source=SOURCE, method="anchored", n_random=2, progress=False)


def test_resistance_is_where_a_cell_flips_and_stays():
    probability = np.array([[0.1, 0.9, 0.9, 0.1], [0.6, 0.2, 0.9, 0.1], [0.7, 0.8, 0.9, 0.2]])
    unused = None
    trajectory = Trajectory(np.arange(4), unused, unused, probability, probability > 0.5, unused, unused, unused)
    assert trajectory.resistance((0.0, 1.0, 2.0), 0.5).tolist() == [1.0, 2.0, 0.0, np.inf]


def test_true_descendants_convert_beyond_chance(found):
    own = found.table.query("method == 'shift' and n_sd == 3").set_index("target")
    assert (own["converted"] > own["null_mean"] + 0.2).all()
    assert (own["converted"] > own["converted_at_0"]).all()


def test_the_table_is_what_its_columns_say(stepped):
    t, table = stepped.trajectory(RED), stepped.rows(RED)
    np.testing.assert_allclose(table["converted"], t.converted(0.5).mean(1))
    np.testing.assert_allclose(table["judged"], t.judged.mean(1))
    np.testing.assert_allclose(table["nearest"], t.nearest.mean(1))
    _, y = stepped.changed(RED, 0.75)
    code = stepped.classifier.code(RED)
    assert table.set_index("step").loc[0.75, "judged"] == (stepped.judge.probability(y).argmax(1) == code).mean()
    assert table.set_index("step").loc[0.75, "nearest"] == (stepped.judge.nearest(y) == code).mean()
    base = table[["converted_at_0", "null_mean"]].max(axis=1)  # NaN at 0
    np.testing.assert_allclose(table["excess"], table["converted"] - base)


def test_the_null_at_a_change_is_that_of_cells_moved_by_it(stepped):
    null, code = stepped.nulls[SOURCE], stepped.classifier.code(RED)
    rows = stepped.data.of(SOURCE)[null.tried]
    distance = stepped.table.query("target == @RED")["distance"].iloc[0]
    converted, judged = null.shares(code, np.array([0.75 * distance]), 0.5)
    before = stepped.model.decode(stepped.data.z[rows])
    by_hand = []
    for change in itertools.chain.from_iterable(null.moved(stepped.mover, rows, 0.75 * distance)):
        p = stepped.classifier.predict_proba(before + change)
        by_hand.append(((p.argmax(1) == code) & (p[:, code] >= 0.5)).mean())
    assert converted.shape == judged.shape == (20, 1)
    np.testing.assert_allclose(converted[:, 0], by_hand, atol=0.2)
    assert abs(converted.mean() - np.mean(by_hand)) < 0.02


def test_smallest_step_that_reaches(stepped):
    own = (stepped.table["target"] == RED) & (stepped.table["method"] == "mean")

    def reached(*shares):
        table = stepped.table.copy()
        table.loc[own, "excess_agreed"] = [0, *shares]
        changed = replace(stepped, table=table)
        return changed.reaching_step(RED), changed.shown_step(RED)

    assert reached(0.1, 0.49, 0.5, 0.6, 0.1) == (0.75, 0.75)
    assert reached(0.9, 0.1, 0.1, 0.1, 0.9) == (0.25, 0.25)
    assert reached(0.1, 0.1, 0.1, 0.1, 0.49) == (None, 1.5)
    assert stepped.reaching_step(RED, method="none") is None
    assert stepped.shown_step(RED, method="none") == 1.5
    np.testing.assert_array_equal(stepped.changed(RED)[0], stepped.changed(RED, stepped.shown_step(RED))[0])


def test_two_of_three_judges_decide():
    """The median of the three shares, each beyond its own chance; worked out by hand."""
    calls = [np.array([[0, 0, 0, 0], flips], bool) for flips in ([1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0])]
    trajectory = SimpleNamespace(judged=calls[1], nearest=calls[2])
    assert agreed(trajectory, calls[0], 1, 0.4, 0.1) == pytest.approx(0.65 / 0.9)  # (1 - .4) / .6 and (0 - .1) / .9
    trajectory = SimpleNamespace(judged=calls[1], nearest=calls[1])
    assert agreed(trajectory, calls[2], 1, 0.0, 0.1) == pytest.approx(0.65 / 0.9)  # the classifier alone sees nothing
    before = SimpleNamespace(judged=calls[1][::-1], nearest=calls[1][::-1])
    assert agreed(before, calls[0], 1, 0.0, 0.0) == pytest.approx(-1)  # they were so before the step
    few = SimpleNamespace(judged=calls[0], nearest=calls[0])
    assert agreed(few, calls[0], 1, 0.9, 0.95) == pytest.approx(0.25)  # .05 / .2: hardly any cells are left


def test_p_values_of_a_random_direction_are_uniform():
    """A direction that is drawn as those of the null is no better than they are."""
    adata, model, classifier = states()
    cells = read_cells(adata, model, classifier, "cell_type")
    judge = Judge.of(cells.x, cells.codes, cells.classes, cells.scale, 0)
    null = Null.of(Mover(model, classifier, judge, cells), SOURCE, 199, np.random.default_rng(0))
    distance = np.linalg.norm((cells.x[cells.of(RED)].mean(0) - cells.x[cells.of(SOURCE)].mean(0)) * cells.scale)
    shares = null.shares(classifier.code(RED), np.array([distance]), 0.5)[0][:, 0]
    others = Null.of(Mover(model, classifier, judge, cells), SOURCE, 199, np.random.default_rng(1))
    tried = others.shares(classifier.code(RED), np.array([distance]), 0.5)[0][:, 0]
    p = (1 + (shares[None] >= tried[:, None]).sum(1)) / 200
    for level in (0.05, 0.1, 0.25):
        assert (p <= level).mean() < level + 3 * np.sqrt(level * (1 - level) / 199)


def test_permuted_labels_convert_nothing_beyond_chance():
    adata, model, _ = states()
    adata = adata.copy()
    adata.obs["cell_type"] = np.random.default_rng(1).permutation(adata.obs["cell_type"])
    classifier = dv.model.CellStateClassifier((32, 16)).train(adata, "cell_type", max_epochs=60, progress=False)
    with pytest.warns(UserWarning, match="No latent dimension is enriched in red, white; those with"):
        found = dv.tl.perturb(
            adata, model, classifier, source=SOURCE, method=("shift", "mean", "none"), n_random=40, progress=False
        )
    assert not (found.table["q_value"] < 0.05).any()
    assert all(found.reaching_step(t, method=m) is None for t in found.targets for m in ("shift", "mean"))
    assert found.judge.accuracy < 0.6


def test_plasticity_and_cells(found):
    map_ = found.plasticity(step=3)
    assert map_["source"].tolist() == [SOURCE] * 2
    map_ = map_.set_index("target")
    assert map_.index.tolist() == [RED, WHITE]
    own = found.table.query("method == 'shift' and n_sd == 3").set_index("target")
    base = own[["converted_at_0", "null_mean"]].max(axis=1)
    np.testing.assert_allclose(own["excess"], own["converted"] - base)
    np.testing.assert_allclose(map_["excess_agreed"], own["excess_agreed"])
    np.testing.assert_allclose(map_["change"], own["step"] * own["distance"])
    assert [found.reaching_step(t) is not None for t in (RED, WHITE)] == map_["reached"].tolist()
    cells = found.cells()
    assert len(cells) == 2 * own["n_cells"].iloc[0]
    assert set(cells["resistance"]) <= {0.0, 0.5, 1.0, 2.0, 3.0, np.inf}


def test_effects_are_what_decoding_gives(found):
    effects = found.effects(RED, 2).set_index("gene")
    t = found.trajectory(RED)
    model = found.model
    difference = model.decode(found.data.z[t.rows] + 2 * t.direction.z) - model.decode(found.data.z[t.rows])
    np.testing.assert_allclose(effects.loc[model.gene_names, "effect"], difference.mean(0), atol=1e-6)
    span = model.features.maximum - model.features.minimum
    np.testing.assert_allclose(effects.loc[model.gene_names, "log_effect"], difference.mean(0) * span, atol=1e-5)
    assert effects["log_effect"].abs().is_monotonic_decreasing
    assert not effects["effect"].abs().is_monotonic_decreasing  # on the unit scale the order is another
    agreement = (np.sign(difference) == np.sign(difference.mean(0))).mean(0)
    np.testing.assert_allclose(effects.loc[model.gene_names, "agreement"], agreement, atol=0.02)
    paper = found.effects(RED, 2, method_genes="paper").set_index("gene")
    expected = (model.decode(found.data.z[t.rows] + 2 * t.direction.z) - found.data.x[t.rows]).mean(0)
    np.testing.assert_allclose(paper.loc[model.gene_names, "effect"], expected, atol=1e-6)


def test_changed_cells_come_back_and_find_a_place_on_the_map():
    adata, model, classifier = states()
    adata = adata.copy()
    dv.tl.tsne(adata, n_iter=50)
    found = dv.tl.perturb(adata, model, classifier, source=SOURCE, target=RED, n_random=2, progress=False)
    changed = found.to_adata(RED, 1)
    assert (changed.obs["step"] == 1).all()
    assert changed.obsm["X_diffvae_tsne"].shape == (changed.n_obs, 2)
    assert changed.obs["converted"].sum() == found.trajectory(RED).converted(0.5)[found.index(1)].sum()
    t = found.trajectory(RED)
    z, f = found.data.z[t.rows], t.factor[found.index(1)][:, None]
    decoded = (model.decode(z + f * t.direction.z) + f * t.direction.x).clip(0, 1)
    np.testing.assert_allclose(changed.layers["unit"], decoded, atol=1e-5)
    moved = model._encode(decoded, None) - model._encode(model.decode(z), None)
    np.testing.assert_allclose(changed.obsm["X_diffvae"], z + moved, atol=1e-4)
    np.testing.assert_allclose(found.changed(RED, 0)[0], z, atol=1e-5)
    goal = found.data.z[found.data.of(RED)].mean(0)
    left = np.linalg.norm(changed.obsm["X_diffvae"].mean(0) - goal)
    assert left < np.linalg.norm(z.mean(0) - goal) / 2  # and not only half of the way, as the decoder's part
    assert changed.obs["cell"].isin(adata.obs_names).all()


def test_cells_in_blocks_give_the_same(found, monkeypatch):
    monkeypatch.setattr("diffvae.tl._conversions.AT_ONCE", 8)
    again = perturbed(n_sd=(0.5, 1, 2, 3), method="shift", n_random=1).table["mean_probability"]
    expected = found.table.query("method == 'shift'")["mean_probability"]
    np.testing.assert_allclose(again, expected, atol=1e-5)


def test_values_of_an_unscaled_layer_are_not_cut_off():
    adata, _, _ = states()
    adata = adata.copy()
    adata.X = adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X
    adata.X = adata.X - adata.X.mean(0)
    model = dv.model.PCA(n_latent=5).train(adata, layer=None)
    classifier = dv.model.CellStateClassifier((16,)).train(
        adata, "cell_type", layer=None, max_epochs=10, progress=False
    )
    options = {"source": SOURCE, "target": RED, "n_sd": 3, "n_random": 2, "progress": False}
    found = dv.tl.minimal_genes(adata, model, classifier, **options)
    x = adata.X[found.rows]
    changed = np.abs(found.edited - x) > 1e-6
    assert (changed.sum(1) <= found.cells["n_genes"]).all()
    assert found.edited.min() < 0 or not len(found.rows)


def test_same_seed_same_table():
    a, b, c = (perturbed(target=RED, rng=r, n_random=5, n_sd=1).table for r in (0, 0, 1))
    assert a.equals(b)
    assert not a.equals(c)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": "blue"}, DataError, "'blue' is not a type of the classifier; its types are red, stem, white"),
        ({"target": SOURCE}, DataError, "'stem' is source and target at once; name another target"),
        ({"n_sd": (0.5, np.nan)}, ValueError, "it must be finite numbers of 0 or more"),
        ({"n_sd": (0,)}, ValueError, r"n_sd is \(0,\); at least one value must be above 0"),
        ({"step": (-1, 1)}, ValueError, r"step is \(-1, 1\); it must be finite numbers of 0 or more"),
        ({"method": "magic"}, ValueError, "method is 'magic'; it must be 'mean', 'shift', 'ot', 'anchored', 'expr"),
        ({"groupby": "nothing"}, DataError, r"adata.obs\['nothing'\] is missing"),
        ({"n_dims": 0}, ValueError, "n_dims is 0"),
        ({"direction": "up"}, ValueError, "direction is 'up'; it must be 'signed' or 'plus'"),
        ({"sd_from": "some"}, ValueError, "sd_from is 'some'"),
        ({"min_probability": 1}, ValueError, "min_probability is 1"),
        ({"target": []}, ValueError, "The list is empty; give at least one name"),
    ],
)
def test_what_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        perturbed(**options)


def test_a_type_of_one_cell_is_refused():
    adata, model, classifier = states()
    one = adata[
        (adata.obs["cell_type"] != SOURCE)
        | (np.arange(adata.n_obs) == np.flatnonzero(adata.obs["cell_type"] == SOURCE)[0])
    ].copy()
    with pytest.raises(DataError, match="'stem' has 1 cells in these data; it needs at least two"):
        dv.tl.perturb(one, model, classifier, source=SOURCE, progress=False)
    assert "perturbation" not in one.uns.get("diffvae", {})


def test_types_of_two_cells():
    adata, model, classifier = states()
    of = adata.obs["cell_type"].to_numpy()
    two = np.concatenate([np.flatnonzero(of == SOURCE)[:2], np.flatnonzero(of == RED)[:2], np.flatnonzero(of == WHITE)])
    two = adata[np.sort(two)].copy()
    methods = ("shift", "mean", "ot", "anchored", "expression_mean", "none")
    with pytest.warns(UserWarning, match="No latent dimension is enriched in red"):
        found = dv.tl.perturb(
            two, model, classifier, source=SOURCE, target=RED, method=methods, n_random=5, progress=False
        )
    assert (found.table["n_cells"] == 2).all()
    assert found.table[["converted", "judged", "nearest"]].notna().all(axis=None)
    np.testing.assert_allclose(found.trajectory(RED, method="mean").moved[:, 0], found.steps, atol=0.1)
    assert len(found.nulls[SOURCE].tried) == 2


def test_a_single_type_has_no_target():
    adata, model, classifier = states()
    one = adata[adata.obs["cell_type"] == SOURCE].copy()
    for source in (SOURCE, "all"):
        with pytest.raises(DataError, match="There is no other type with at least two cells to be a target"):
            dv.tl.perturb(one, model, classifier, source=source, progress=False)


def test_names_of_sources_may_be_an_array():
    adata, model, classifier = states()
    options = {"n_random": 2, "method": "mean", "progress": False}
    for source in (np.array([SOURCE, RED]), ["all"]):
        found = dv.tl.perturb(adata.copy(), model, classifier, source=source, **options)
        assert set(found.sources) >= {SOURCE, RED}


def test_plasticity_compares_pairs_at_one_change(stepped):
    steps = stepped.rows(RED)["step"].to_numpy()
    table = stepped.table.copy()
    table.loc[table["target"] == RED, "distance"] = 4.0
    table.loc[table["target"] == WHITE, "distance"] = 1.0
    table["excess_agreed"] = table["step"] / 2
    found = replace(stepped, table=table)
    assert steps.tolist() == [0, 0.25, 0.5, 0.75, 1, 1.5]
    map_ = found.plasticity().set_index("target")
    # 1, 2, 3, 4, 6 to red and .25, .5, .75, 1, 1.5 to white: the median is 1.25
    assert map_["change"].tolist() == [1.25, 1.25]
    assert map_["excess_agreed"].tolist() == pytest.approx([1.25 / 4 / 2, 1.25 / 2], abs=0.01)  # as far as cells moved
    assert map_["within"].tolist() == [True, True]
    assert map_["reaching_step"].tolist() == [1.0, 1.0]
    map_ = found.plasticity(change=3).set_index("target")
    assert map_["excess_agreed"].tolist() == pytest.approx([0.375, 0.75], abs=0.01)  # no step goes so far towards white
    assert map_["within"].tolist() == [True, False]
    at_step = found.plasticity(step=0.5).set_index("target")
    assert at_step["change"].tolist() == pytest.approx([2, 0.5], rel=0.02)
    assert at_step["excess_agreed"].tolist() == [0.25, 0.25]
    with pytest.raises(ValueError, match="change is -1; it must be None or a number above 0"):
        found.plasticity(-1)
    with pytest.raises(ValueError, match="change and step are both given"):
        found.plasticity(1, step=1)
    with pytest.raises(ValueError, match="by 'ot' was not tried"):
        found.plasticity(method="ot")


def test_several_sources_and_all():
    several = perturbed(source=(SOURCE, RED), target=(RED, WHITE), method="mean", step=1, n_random=5)
    assert list(several.trajectories) == [(SOURCE, RED, "mean"), (SOURCE, WHITE, "mean"), (RED, WHITE, "mean")]
    every = perturbed(source="all", method="mean", step=1, n_random=5)
    assert every.sources == (RED, SOURCE, WHITE)
    map_ = every.plasticity()
    assert len(map_) == 6  # no type to itself
    assert map_["change"].nunique() == 1
    assert list(zip(map_["source"], map_["target"], strict=True)) == [(a, b) for a, b, _ in every.trajectories]
    one = perturbed(source=RED, target=WHITE, method="mean", step=1, n_random=5).rows(WHITE)
    own = every.rows(WHITE, source=RED)
    same = ["judged", "converted", "null_mean", "p_value"]  # whatever other types are moved
    pd.testing.assert_frame_equal(own[same].reset_index(drop=True), one[same].reset_index(drop=True))
    assert every.table["q_value"].max() <= 1


def test_a_pca_model_and_a_layer_without_scaling():
    adata, _, _ = states()
    adata = adata.copy()
    model = dv.model.PCA(n_latent=8).train(adata, layer=None)
    classifier = dv.model.CellStateClassifier((16,)).train(
        adata, "cell_type", layer=None, max_epochs=20, progress=False
    )
    found = dv.tl.perturb(
        adata, model, classifier, source=SOURCE, target=RED, method=("mean", "ot"), n_random=5, progress=False
    )
    assert (found.data.scale == 1).all()
    t = found.trajectory(RED)
    np.testing.assert_allclose(np.median(t.moved, axis=1), found.steps, atol=0.02)
    effects = found.effects(RED, 1)
    np.testing.assert_array_equal(effects["effect"], effects["log_effect"])


def test_cells_stay_in_their_batch():
    adata, _, _ = states()
    adata = adata.copy()
    adata.obs["lab"] = np.where(np.arange(adata.n_obs) % 2, "one", "two")
    model = dv.model.DiffVAE(n_latent=4, hidden=(16,)).train(adata, batch_key="lab", max_epochs=5, progress=False)
    classifier = states()[2]
    methods = ("shift", "anchored")
    found = dv.tl.perturb(
        adata, model, classifier, source=SOURCE, target=RED, method=methods, n_random=3, progress=False
    )
    for method in methods:
        z, y = found.changed(RED, 1, method=method)
        rows = found.trajectory(RED, method=method).rows
        np.testing.assert_allclose(y, model.decode(z, batch=model.design(adata)[rows]), atol=1e-6)


def test_models_that_do_not_fit_together_are_refused():
    adata, model, classifier = states()
    other = dv.model.CellStateClassifier((4,)).train(adata, "cell_type", layer=None, max_epochs=1, progress=False)
    with pytest.raises(DataError, match="classifier was trained on layer None and the model on 'unit'"):
        dv.tl.perturb(adata, model, other, source=SOURCE)
    fewer = adata[:, :100].copy()
    other = dv.model.CellStateClassifier((4,)).train(fewer, "cell_type", max_epochs=1, progress=False)
    with pytest.raises(DataError, match=r"The genes of model and classifier differ \(20 of them\)"):
        dv.tl.perturb(adata, model, other, source=SOURCE)
    with pytest.raises(DataError, match="adata lacks 20 of the model's 120 genes"):
        dv.tl.perturb(fewer, model, classifier, source=SOURCE)
