"""Perturbation: the shift by hand, the nulls, the baselines, and what is refused."""

import numpy as np
import pytest
from _states import RED, SOURCE, WHITE, states

import diffvae as dv
from diffvae.pp import DataError
from diffvae.tl._directions import directions, enriched_dimensions, random_directions, read_cells
from diffvae.tl._perturb import Trajectory


def perturbed(**options):
    adata, model, classifier = states()
    adata = adata.copy()
    options = {"source": SOURCE, "n_random": 20, "progress": False} | options
    return dv.tl.perturb(adata, model, classifier, **options)


@pytest.fixture(scope="module")
def found():
    return perturbed(n_sd=(0.5, 1, 2, 3))


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
    assert found.n_sd == (0.0, 0.5, 1.0, 2.0, 3.0)
    assert found.adata.uns["diffvae"]["perturbation"] is found.table
    none = found.table[found.table["method"] == "none"]
    assert none.groupby("target")["converted"].nunique().eq(1).all()
    assert none["p_value"].isna().all()
    p = found.table["p_value"].dropna()
    np.testing.assert_allclose(p * 21, np.round(p * 21))  # counts over the random directions
    assert p.between(1 / 21, 1).all()


def test_the_shift_moves_the_chosen_dimensions_by_their_sd_towards_the_target():
    adata, model, classifier = states()
    cells = read_cells(adata, model, classifier, "cell_type")
    chosen = enriched_dimensions(cells, model, 3)
    shift = directions(cells, SOURCE, RED, chosen, sd_from="all", direction="signed")["shift"]
    dimensions = chosen.loc[chosen["group"] == RED, "dimension"].to_numpy()
    assert set(np.flatnonzero(shift.z)) == set(dimensions)
    delta = cells.z[cells.of(RED)].mean(0) - cells.z[cells.of(SOURCE)].mean(0)
    expected = np.sign(delta[dimensions]) * cells.z.std(0)[dimensions]
    np.testing.assert_allclose(shift.z[dimensions], expected, rtol=1e-6)
    plus = directions(cells, SOURCE, RED, chosen, sd_from="group", direction="plus")["shift"]
    np.testing.assert_allclose(plus.z[dimensions], cells.z[cells.of(SOURCE)].std(0)[dimensions], rtol=1e-6)


def test_other_ways_are_as_long():
    adata, model, classifier = states()
    cells = read_cells(adata, model, classifier, "cell_type")
    by_method = directions(cells, SOURCE, RED, enriched_dimensions(cells, model, 3), sd_from="all", direction="signed")
    length = np.linalg.norm(by_method["shift"].z)
    assert np.linalg.norm(by_method["mean"].z) == pytest.approx(length, rel=1e-5)
    for way in random_directions(by_method["shift"], cells.z.std(0), 5, np.random.default_rng(0)):
        assert np.linalg.norm(way.z) == pytest.approx(length, rel=1e-5)
    in_genes = by_method["expression_mean"]
    for way in random_directions(in_genes, cells.z.std(0), 2, np.random.default_rng(0)):
        np.testing.assert_allclose(np.sort(way.x), np.sort(in_genes.x))


def test_resistance_is_where_a_cell_flips_and_stays():
    probability = np.array([[0.1, 0.9, 0.9, 0.1], [0.6, 0.2, 0.9, 0.1], [0.7, 0.8, 0.9, 0.2]])
    trajectory = Trajectory(np.arange(4), None, probability, probability > 0.5)
    assert trajectory.resistance((0.0, 1.0, 2.0), 0.5).tolist() == [1.0, 2.0, 0.0, np.inf]


def test_true_descendants_convert_beyond_chance(found):
    own = found.table.query("method == 'shift' and n_sd == 3").set_index("target")
    assert (own["converted"] > own["null_mean"] + 0.2).all()
    assert (own["converted"] > own["converted_at_0"]).all()


def test_permuted_labels_convert_nothing_beyond_chance():
    adata, model, _ = states()
    adata = adata.copy()
    adata.obs["cell_type"] = np.random.default_rng(1).permutation(adata.obs["cell_type"])
    classifier = dv.model.CellStateClassifier((32, 16)).train(adata, "cell_type", max_epochs=60, progress=False)
    with pytest.warns(UserWarning, match="No latent dimension is enriched in red, white; those with"):
        found = dv.tl.perturb(adata, model, classifier, source=SOURCE, n_random=40, progress=False)
    assert not (found.table["q_value"] < 0.05).any()


def test_plasticity_and_cells(found):
    map_ = found.plasticity(3)
    assert map_.index.tolist() == [SOURCE]
    assert map_.columns.tolist() == [RED, WHITE]
    own = found.table.query("method == 'shift' and n_sd == 3").set_index("target")
    base = own[["converted_at_0", "null_mean"]].max(axis=1)
    np.testing.assert_allclose(map_.loc[SOURCE], own["converted"] - base)
    cells = found.cells()
    assert len(cells) == 2 * own["n_cells"].iloc[0]
    assert set(cells["resistance"]) <= {0.0, 0.5, 1.0, 2.0, 3.0, np.inf}


def test_effects_are_what_decoding_gives(found):
    effects = found.effects(RED, 2).set_index("gene")
    t = found.trajectory(RED)
    model = found.model
    difference = model.decode(found.data.z[t.rows] + 2 * t.direction.z) - model.decode(found.data.z[t.rows])
    np.testing.assert_allclose(effects.loc[model.gene_names, "effect"], difference.mean(0), atol=1e-6)
    assert effects["effect"].abs().is_monotonic_decreasing
    paper = found.effects(RED, 2, method_genes="paper").set_index("gene")
    expected = (model.decode(found.data.z[t.rows] + 2 * t.direction.z) - found.data.x[t.rows]).mean(0)
    np.testing.assert_allclose(paper.loc[model.gene_names, "effect"], expected, atol=1e-6)


def test_changed_cells_come_back_and_find_a_place_on_the_map():
    adata, model, classifier = states()
    adata = adata.copy()
    dv.tl.tsne(adata, n_iter=50)
    found = dv.tl.perturb(adata, model, classifier, source=SOURCE, target=RED, n_random=2, progress=False)
    changed = found.to_adata(RED, 2)
    assert changed.obsm["X_diffvae_tsne"].shape == (changed.n_obs, 2)
    assert changed.obs["converted"].sum() == found.trajectory(RED).converted(0.5)[found.step(2)].sum()
    np.testing.assert_allclose(changed.layers["unit"], model.decode(changed.obsm["X_diffvae"]), atol=1e-6)
    assert changed.obs["cell"].isin(adata.obs_names).all()


def test_cells_in_blocks_give_the_same(found, monkeypatch):
    monkeypatch.setattr("diffvae.tl._perturb.AT_ONCE", 8)
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
        ({"n_sd": (0,)}, ValueError, "at least one step must be above 0"),
        ({"method": "magic"}, ValueError, "method is 'magic'; it must be 'shift', 'mean', 'expression_mean' or 'none'"),
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
