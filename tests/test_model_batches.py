"""Batches and other covariates: what is removed, what stays, and who is refused."""

import json
from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from _model_data import QUICK, TINY, counts, prepared

import diffvae as dv
from diffvae import metrics
from diffvae._errors import CheckpointError, DataError
from diffvae.model import PCA, VAE, AutoEncoder, DiffVAE
from diffvae.model._batches import mutual_neighbors, offsets, partners_of
from diffvae.model._covariates import Covariates

BATCH = {"batch_key": "batch"}


@cache
def _tree():
    """Return a tree in three batches, whose first has no neutrophils, and the model that removes the batches."""
    adata = dv.datasets.simulate_differentiation(900, 300, n_batches=3, batch_effect=0.8, rng=1)
    adata = adata[~((adata.obs["cell_type"] == "Neutrophil") & (adata.obs["batch"] == "batch_1"))].copy()
    dv.pp.prepare(adata)
    return adata, DiffVAE(n_latent=20).train(adata, **BATCH, max_epochs=40, progress=False)


def tree():
    adata, model = _tree()
    return adata.copy(), model


def in_batches(n_batches=3):
    adata = prepared()
    adata.obs["batch"] = pd.Categorical(np.array(list("abcdefgh"))[np.arange(adata.n_obs) % n_batches])
    return adata


@cache
def _small():
    return DiffVAE(**TINY).train(in_batches(), **BATCH, **QUICK)


def explained_by_batch(z, batch):
    between = pd.DataFrame(z).groupby(np.asarray(batch)).transform("mean").to_numpy() - z.mean(0)
    return float(np.square(between).sum() / np.square(z - z.mean(0)).sum())


def test_partners_are_mutual_and_offsets_are_worked_out_by_hand():
    y = np.array([[0.0, 0], [10, 0], [1, 1], [11, 1], [50, 50]])  # two types in both batches, one only in the second
    codes = np.array([0, 0, 1, 1, 1])
    graph = mutual_neighbors(y, codes, 2).toarray()
    assert graph.tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    partners = graph @ np.eye(2)[codes]
    np.testing.assert_allclose(offsets(y, partners, codes), [[-0.5, -0.5], [0.5, 0.5]], atol=1e-12)


def test_offsets_solve_the_least_squares_of_their_docstring():
    rng = np.random.default_rng(0)
    y, codes = rng.normal(size=(60, 2)), rng.integers(3, size=60)
    graph = mutual_neighbors(y, codes, 3).tocoo()
    i, j = graph.row[graph.row < graph.col], graph.col[graph.row < graph.col]
    design = np.eye(3)[codes[i]] - np.eye(3)[codes[j]]
    x = rng.normal(size=(60, 4))
    expected = np.linalg.lstsq(design, x[i] - x[j], rcond=None)[0]
    expected -= expected.mean(axis=0)
    found = offsets(x, graph.tocsr() @ np.eye(3)[codes], codes)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    np.testing.assert_allclose(found.sum(axis=0), 0, atol=1e-10)


def test_types_that_one_batch_lacks_do_not_bias_the_offsets():
    rng = np.random.default_rng(0)
    types = np.repeat([0, 1, 2], [100, 100, 100])
    codes = rng.integers(2, size=300)
    codes[types == 2] = 1
    centres = np.array([[0.0, 0, 0], [20, 0, 0], [0, 20, 0]])
    y = centres[types] + rng.normal(size=(300, 3)) + codes[:, None] * np.array([0, 0, 4.0])
    partners = partners_of(y, codes, 2)
    found = offsets(y, partners, codes)
    np.testing.assert_allclose(found[1] - found[0], [0, 0, 4], atol=0.7)
    means = y[codes == 1].mean(axis=0) - y[codes == 0].mean(axis=0)
    assert abs(means[1]) > 3  # the difference of means takes the type for an effect of the batch
    assert partners[types == 2].sum() < 0.05 * partners.sum()


def test_batches_without_partners_have_no_offset():
    np.testing.assert_array_equal(offsets(np.ones((4, 2)), np.zeros((4, 2)), np.array([0, 0, 1, 1])), 0)


def test_the_effect_of_the_batch_goes_and_the_types_stay():
    adata, model = tree()
    plain = DiffVAE(n_latent=20).train(adata, max_epochs=40, progress=False).get_latent_representation(adata)
    z = model.get_latent_representation(adata)
    types = adata.obs["cell_type"].to_numpy()
    assert explained_by_batch(plain, adata.obs["batch"]) > 0.15
    assert explained_by_batch(z, adata.obs["batch"]) < 0.03
    assert metrics.knn_purity(z, types) > metrics.knn_purity(plain, types) - 0.02
    # cells of the type that the first batch lacks are not drawn to its cells
    lacking = (types == "Neutrophil").astype(str)
    assert metrics.knn_purity(z, lacking) > metrics.knn_purity(plain, lacking) - 0.04


def test_a_cell_is_carried_into_another_batch():
    adata, model = tree()
    x = np.asarray(adata.layers["unit"].todense()) if hasattr(adata.layers["unit"], "todense") else adata.layers["unit"]
    of_type = (adata.obs["cell_type"] == "Erythrocyte").to_numpy()
    first, second = ((adata.obs["batch"] == name).to_numpy() & of_type for name in ("batch_1", "batch_2"))
    there = x[second].mean(axis=0)
    carried = model.reconstruct(adata[first].copy(), batch="batch_2").mean(axis=0)
    stayed = model.reconstruct(adata[first].copy()).mean(axis=0)
    assert np.linalg.norm(carried - there) < 0.6 * np.linalg.norm(stayed - there)
    assert np.linalg.norm(stayed - x[first].mean(axis=0)) < 0.6 * np.linalg.norm(carried - x[first].mean(axis=0))


def test_decode_sample_and_jacobian_take_a_batch():
    model = _small()
    z = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    of_a, of_b = model.decode(z, batch="a"), model.decode(z, batch="b")
    assert not np.allclose(of_a, of_b)
    mixed = model.decode(z, batch=["a", "a", "a", "b", "b", "b"])
    np.testing.assert_allclose(mixed, np.r_[of_a[:3], of_b[3:]], rtol=1e-6)
    assert not np.allclose(model.gene_jacobian(z, batch="a"), model.gene_jacobian(z, batch="b"))
    a, b = (model.sample(5, batch=batch, rng=0) for batch in "ab")
    np.testing.assert_array_equal(a.obsm["X_diffvae"], b.obsm["X_diffvae"])
    assert not np.allclose(a.X, b.X)
    with pytest.raises(ValueError, match="'z' is not a batch of this model; its batches are 'a', 'b', 'c'"):
        model.decode(z, batch="z")
    with pytest.raises(ValueError, match="batch names 2 batches for 6 points"):
        model.decode(z, batch=["a", "b"])
    for without in (DiffVAE(**TINY).train(prepared(), **QUICK), PCA(n_latent=4).train(prepared())):
        with pytest.raises(ValueError, match="trained without batches"):
            without.decode(z, batch="a")


def test_the_jacobian_is_the_derivative_in_the_batch():
    model = _small()
    z, step = np.zeros((1, 4), np.float32), np.float32(1e-2)
    there = [model.decode(z + sign * step * np.eye(4, dtype=np.float32), batch="b") for sign in (1, -1)]
    np.testing.assert_allclose(model.gene_jacobian(z, batch="b"), (there[0] - there[1]) / (2 * step), atol=2e-3)


@pytest.mark.parametrize("make", [lambda: VAE(**TINY), lambda: AutoEncoder(**TINY), lambda: DiffVAE("paper", **TINY)])
def test_other_models_see_batches_too(make):
    model = make().train(in_batches(), **BATCH, **QUICK)
    z = np.zeros((1, 4), np.float32)
    assert not np.allclose(model.decode(z, batch="a"), model.decode(z, batch="b"))


def test_the_counts_of_a_batch_are_reconstructed_in_it():
    model = DiffVAE(**TINY, likelihood="nb").train(in_batches(), **BATCH, **QUICK)
    drawn = [model.sample(50, noise=False, batch=batch, rng=0).layers["counts"].sum() for batch in "ab"]
    assert drawn[0] != drawn[1]


def test_an_encoder_without_covariates_encodes_any_batch():
    adata = in_batches()
    model = DiffVAE(**TINY, encode_covariates=False).train(adata, **BATCH, **QUICK)
    z = model.get_latent_representation(adata)
    adata.obs["batch"] = "a"
    np.testing.assert_array_equal(model.get_latent_representation(adata), z)


def test_covariates_are_names_and_numbers():
    adata = in_batches()
    rng = np.random.default_rng(0)
    adata.obs["sex"], adata.obs["depth"] = rng.choice(["f", "m"], 100), rng.normal(size=100)
    model = DiffVAE(**TINY).train(adata, **BATCH, covariates=["sex", "depth"], **QUICK)
    design = model.design()
    assert design.shape == (100, 3 + 2 + 1)
    np.testing.assert_allclose(design[:, 5].mean(), 0, atol=1e-6)
    assert model.columns == {"batch_key": "batch", "covariates": ["sex", "depth"]}
    without = DiffVAE(**TINY).train(adata, covariates="sex", **QUICK)
    assert without.columns == {"batch_key": None, "covariates": ["sex"]}


def test_saved_and_loaded(tmp_path):
    adata, model = in_batches(), _small()
    model.save(tmp_path / "model")
    loaded = dv.model.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.get_latent_representation(adata), model.get_latent_representation(adata))
    z = np.zeros((2, 4), np.float32)
    np.testing.assert_array_equal(loaded.decode(z, batch="b"), model.decode(z, batch="b"))
    new = in_batches(8)
    np.testing.assert_array_equal(
        loaded.adapt(new).get_latent_representation(new), model.adapt(new).get_latent_representation(new)
    )


@pytest.mark.parametrize(
    "damage",
    [
        {"levels": {"batch": ["a", "a", "b"]}},
        {"levels": {"batch": []}},
        {"levels": {"batch": ["a", "b"]}},  # another width
        {"levels": "abc"},
        {"batch_key": "other"},
        {"continuous": {"depth": [0, 0]}},
        {"continuous": {"depth": [0]}},
        {"n_trained": 4},
        {"n_trained": None},
    ],
)
def test_a_damaged_model_is_refused(tmp_path, damage):
    _small().save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["state"]["covariates"] |= damage
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="is a damaged model"):
        dv.model.load(tmp_path / "model")


def test_a_damaged_reference_is_refused(tmp_path):
    from diffvae.model._neural import REFERENCE_NAME

    model = dv.model.load(_saved(tmp_path / "model"))
    model._reference = model._reference[:, :2]
    with pytest.raises(DataError, match=f"{REFERENCE_NAME} has the shape .*; it must be cells x 4"):
        dv.model.load(_saved(tmp_path / "other", model))


def _saved(path, model=None):
    (_small() if model is None else model).save(path)
    return path


def test_cells_on_disk_are_trained_on_and_embedded_as_those_in_memory(tmp_path):
    adata = in_batches()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    model = DiffVAE(**TINY).train(tmp_path / "cells.h5ad", **BATCH, **QUICK)
    expected = _small().get_latent_representation(adata)
    np.testing.assert_allclose(model.get_latent_representation(adata), expected, atol=1e-5)
    np.testing.assert_allclose(model.get_latent_representation(tmp_path / "cells.h5ad"), expected, atol=1e-5)
    assert model.diagnose().n_active >= 0
    embedded = dv.tl.embed(tmp_path / "cells.h5ad", model, out=tmp_path / "embedded.h5ad")
    np.testing.assert_allclose(ad.read_h5ad(embedded).obsm["X_diffvae"], expected, atol=1e-5)


def test_each_of_several_files_can_be_a_batch(tmp_path):
    adata = in_batches()
    paths = []
    for name in ("a", "b"):
        paths.append(tmp_path / f"{name}.h5ad")
        adata[adata.obs["batch"] == name].copy().write_h5ad(paths[-1])
    model = DiffVAE(**TINY).train(paths, batch_key="file", **QUICK)
    assert model.columns["batch_key"] == "file"
    assert not np.allclose(*(model.decode(np.zeros((1, 4), np.float32), batch=name) for name in ("a", "b")))


def test_more_training_cells_than_reference_cells(monkeypatch):
    from diffvae.model import _pca_start

    monkeypatch.setattr(_pca_start, "REFERENCE_CELLS", 40)
    adata = in_batches()
    model = DiffVAE(**TINY).train(adata, **BATCH, **QUICK)
    assert np.isfinite(model.history.to_numpy()).all()
    assert model.history["train_batch_mmd"].abs().sum() > 0


def test_diagnosis_and_unknown_batches():
    adata = in_batches()
    model = _small()
    assert "nll" in str(model.diagnose(adata))
    adata.obs["batch"] = "new"
    with pytest.warns(UserWarning, match=r"100 cells have values in obs\['batch'\] that the model was not trained on"):
        unknown = model.get_latent_representation(adata)
    del adata.obs["batch"]
    with pytest.warns(UserWarning, match="obs has no column 'batch'"):
        np.testing.assert_array_equal(model.get_latent_representation(adata), unknown)


def test_an_adapted_model_maps_a_new_batch_onto_the_old_ones():
    adata, _ = _tree()
    raw = ad.AnnData(adata.layers["counts"], obs=adata.obs[["cell_type", "batch"]], var=adata.var[[]])
    new = (raw.obs["batch"] == "batch_3").to_numpy()
    old, third = raw[~new].copy(), raw[new].copy()
    dv.pp.prepare(old)
    model = DiffVAE(n_latent=20).train(old, **BATCH, max_epochs=40, progress=False)
    before = {name: value.copy() for name, value in model._arrays().items()}
    adapted = model.adapt(third)
    z = model.get_latent_representation(old)
    np.testing.assert_array_equal(adapted.get_latent_representation(old), z)
    assert all((value == before[name]).all() for name, value in model._arrays().items())
    with pytest.warns(UserWarning, match="taken as average"):
        average = model.get_latent_representation(third)
    both, is_new = adapted.get_latent_representation(third), np.repeat(["old", "new"], [len(z), new.sum()])
    assert explained_by_batch(np.r_[z, both], is_new) < 0.3 * explained_by_batch(np.r_[z, average], is_new)
    assert adapted.columns == model.columns
    np.testing.assert_array_equal(adapted.decode(z[:5]), model.decode(z[:5]))  # the average batch stays as it is
    assert adapted.decode(z[:1], batch="batch_3").shape == (1, 300)


def test_adapt_does_not_take_other_covariates_for_the_batch():
    raw = dv.datasets.simulate_differentiation(900, 300, n_batches=3, batch_effect=0.3, rng=1)
    rng, new = np.random.default_rng(0), (raw.obs["batch"] == "batch_3").to_numpy()
    male = new | (rng.random(900) < 0.5)  # all cells of the new batch
    effect = np.exp(0.8 * rng.standard_normal(300))
    raw.X = np.where(male[:, None], rng.poisson(raw.X.toarray() * effect), raw.X.toarray()).astype(np.float32)
    raw.obs["sex"] = np.where(male, "m", "f")
    old, third = raw[~new].copy(), raw[new].copy()
    dv.pp.prepare(old)
    model = DiffVAE(n_latent=20).train(old, **BATCH, covariates=["sex"], max_epochs=40, progress=False)
    z = model.get_latent_representation(old)[male[~new]]
    adapted = model.adapt(third)
    both = np.r_[z, adapted.get_latent_representation(third)]
    np.testing.assert_allclose(adapted.reconstruct(old), model.reconstruct(old), atol=1e-5)
    assert explained_by_batch(both, np.repeat(["old", "new"], [len(z), new.sum()])) < 0.02  # 0.03 if they are


def test_adapt_refuses_what_it_cannot_do(tmp_path):
    adata, model = in_batches(), _small()
    with pytest.raises(DataError, match="These cells are on disk"):
        model.adapt(tmp_path / "cells.h5ad")
    with pytest.raises(DataError, match="The model knows all batches of the cells"):
        model.adapt(adata)
    with pytest.raises(ValueError, match="trained without batch_key"):
        DiffVAE(**TINY).train(prepared(), **QUICK).adapt(adata)
    few = adata.copy()
    few.obs["batch"] = few.obs["batch"].astype(str)
    few.obs.iloc[:2, few.obs.columns.get_loc("batch")] = "z"
    with pytest.raises(DataError, match="is 'z' in only 2 cells; at least 3 are needed"):
        model.adapt(few)
    few.obs.iloc[0, few.obs.columns.get_loc("batch")] = None
    with pytest.raises(DataError, match="is missing for 1 cells"):
        model.adapt(few)
    del few.obs["batch"]
    with pytest.raises(DataError, match="obs has no column 'batch'"):
        model.adapt(few)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["a"] * 100, "is 'a' in every cell; leave it out"),
        (["a"] * 99 + ["b"], "is 'b' in only 1 cell; at least 3 are needed. Remove these cells, or join them"),
        (["a"] * 98 + ["b"] * 2, "is 'b' in only 2 cells; at least 3 are needed"),
        ([f"cell{i}" for i in range(100)], "has 100 values in 100 cells, so it does not group them"),
        (["a"] * 50 + [None] * 50, "is missing for 50 cells"),
        (np.linspace(0, 1, 100), "holds numbers such as 0.0101, not names; give it as a covariate"),
    ],
)
def test_bad_batches_are_refused_before_the_training(values, sentence):
    adata = prepared()
    adata.obs["batch"] = values
    with pytest.raises(DataError, match=sentence):
        DiffVAE(**TINY).train(adata, **BATCH, **QUICK)


def test_bad_columns_are_refused():
    adata = in_batches()
    adata.obs["constant"], adata.obs["endless"] = 1.0, np.r_[np.inf, np.zeros(99)]
    with pytest.raises(DataError, match=r"obs has no column 'donor' \(batch_key\); it has"):
        DiffVAE(**TINY).train(adata, batch_key="donor", **QUICK)
    with pytest.raises(DataError, match=r"obs has no column 'donor' \(covariates\)"):
        DiffVAE(**TINY).train(adata, covariates=["donor"], **QUICK)
    with pytest.raises(ValueError, match=r"'batch' \(batch_key\) is among the covariates as well"):
        DiffVAE(**TINY).train(adata, **BATCH, covariates=["batch"], **QUICK)
    with pytest.raises(DataError, match="is 1 in every cell"):
        DiffVAE(**TINY).train(adata, covariates=["constant"], **QUICK)
    with pytest.raises(DataError, match="holds infinite values"):
        DiffVAE(**TINY).train(adata, covariates=["endless"], **QUICK)


def test_numbers_are_names_of_batches():
    adata = prepared()
    adata.obs["batch"] = np.arange(100) % 2 + 1
    assert Covariates.of(adata, "batch").batches == ("1", "2")
    assert DiffVAE(**TINY).train(adata, **BATCH, **QUICK).decode(np.zeros((1, 4)), batch=2).shape == (1, 40)


def test_the_loss_has_the_mmd_between_batches():
    model = _small()
    c, h = model.config, model.history
    weights = {"nll": 1, "kl": c.kl_weight, "mmd": c.mmd_weight, "covariance": c.covariance_weight, "batch_mmd": 100}
    assert h["train_batch_mmd"].abs().min() * 100 > 0.05
    expected = sum(weight * h[f"train_{name}"] for name, weight in weights.items())
    np.testing.assert_allclose(h["train_loss"], expected, atol=0.01)


def test_whole_numbers_have_one_name():
    adata = prepared()
    adata.obs["batch"] = (np.arange(100) % 2 + 1).astype(float)
    model = DiffVAE(**TINY).train(adata, **BATCH, **QUICK)
    z, expected = model.get_latent_representation(adata), model.decode(np.zeros((1, 4)), batch=2.0)
    assert model.design(adata).max() == 1
    for kind in (int, object, "category", "Int64"):
        adata.obs["batch"] = adata.obs["batch"].astype(kind)
        np.testing.assert_array_equal(model.get_latent_representation(adata), z)
    np.testing.assert_array_equal(model.decode(np.zeros((1, 4)), batch=2), expected)


def test_numbers_of_cells_are_taken_in_any_precision():
    model = _small()
    z, design = np.zeros((2, 4), np.float32), model.design()[:2]
    np.testing.assert_array_equal(model.decode(z, batch=design.astype(float)), model.decode(z, batch=design))


@pytest.mark.parametrize(("value", "sentence"), [(np.inf, "holds infinite values"), ("deep", "must hold numbers")])
def test_bad_covariates_of_new_cells_are_refused(value, sentence):
    adata = in_batches()
    adata.obs["depth"] = np.random.default_rng(0).normal(size=100)
    model = DiffVAE(**TINY).train(adata, covariates="depth", **QUICK)
    adata.obs["depth"] = [value, *adata.obs["depth"][1:]]
    with pytest.raises(DataError, match=rf"obs\['depth'\] \(covariates\) {sentence}"):
        model.get_latent_representation(adata)


def test_a_checkpoint_of_other_columns_is_refused(tmp_path):
    adata, file = in_batches(), tmp_path / "checkpoint"
    adata.obs["other"] = np.roll(adata.obs["batch"].astype(str), 1)
    DiffVAE(**TINY).train(adata, **BATCH, **QUICK, checkpoint=file)
    for columns in ({}, {"batch_key": "other"}, {"covariates": ["batch"]}):  # the last has the same design
        with pytest.raises(CheckpointError, match="belongs to another training"):
            DiffVAE(**TINY).train(adata, **columns, **QUICK, checkpoint=file, resume=True)


def test_a_cell_keeps_its_other_covariates_in_another_batch():
    adata = in_batches()
    adata.obs["sex"] = np.random.default_rng(0).choice(["f", "m"], 100)
    model = DiffVAE(**TINY).train(adata, **BATCH, covariates=["sex"], **QUICK)
    of_b = np.flatnonzero(adata.obs["batch"] == "b")
    np.testing.assert_allclose(model.reconstruct(adata, batch="b")[of_b], model.reconstruct(adata)[of_b], atol=1e-6)


def test_same_seed_same_model_and_the_names_of_batches_do_not_matter():
    adata = in_batches()
    adata.obs["batch"] = adata.obs["batch"].cat.rename_categories({"a": "x", "b": "y", "c": "z"})
    other = DiffVAE(**TINY).train(adata, **BATCH, **QUICK)
    np.testing.assert_array_equal(other.get_latent_representation(), _small().get_latent_representation())


def test_perturbed_cells_stay_in_their_batch():
    adata, model = tree()
    classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    result = dv.tl.perturb(
        adata, model, classifier, source="HSPC", target="MEP", n_random=2, method=("mean", "none"), progress=False
    )
    z, changed = result.changed("MEP", 0.0, method="none")
    rows = result.trajectory("MEP", method="none").rows
    np.testing.assert_allclose(changed, model.decode(z, batch=model.design()[rows]), atol=1e-6)
    assert not np.allclose(changed, model.decode(z), atol=1e-3)


def test_new_cells_of_one_batch_are_encoded_as_among_the_others():
    adata, model = in_batches(), _small()
    z = model.get_latent_representation(adata)
    some = adata[adata.obs["batch"] == "c"].copy()
    np.testing.assert_allclose(model.get_latent_representation(some), z[adata.obs["batch"] == "c"], atol=1e-6)


def test_raw_cells_with_batches():
    raw = counts()
    raw.obs["batch"] = in_batches().obs["batch"].to_numpy()
    assert _small().get_latent_representation(raw).shape == (100, 4)
