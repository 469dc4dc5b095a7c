"""What every model must do, whichever it is."""

import re

import numpy as np
import pandas as pd
import pytest
from _model_data import MAKERS, N_CELLS, N_GENES, N_LATENT, QUICK, counts, prepared, trained

import diffvae as dv
from diffvae.model import PCA, VAE, AutoEncoder, Model, load

NAMES = list(MAKERS)
NEURAL = [name for name in NAMES if name != "PCA"]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return trained(name)


def test_train_returns_the_model_and_leaves_the_data_as_they_are(name):
    adata = prepared()
    before = adata.copy()
    model = MAKERS[name]()
    assert not model.is_trained
    assert model.train(adata, **QUICK) is model
    assert model.is_trained
    assert isinstance(model, Model)
    np.testing.assert_array_equal(adata.layers["unit"], before.layers["unit"])
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.uns["diffvae"]) == list(before.uns["diffvae"])
    assert not adata.obsm


def test_latent_representation(model):
    z = model.get_latent_representation()
    assert z.shape == (N_CELLS, N_LATENT)
    assert z.dtype == np.float32
    assert (z.std(axis=0) > 0).any()
    np.testing.assert_array_equal(model.get_latent_representation(), z)  # the mean, never a draw
    np.testing.assert_array_equal(model.get_latent_representation(prepared()), z)


def test_a_cell_is_encoded_alone_as_among_others(model):
    z = model.get_latent_representation()
    np.testing.assert_allclose(model.get_latent_representation(prepared()[7].copy()), z[[7]], rtol=1e-4, atol=1e-5)


def test_decode_and_reconstruct(model):
    z = model.get_latent_representation()
    x = model.decode(z)
    assert x.shape == (N_CELLS, N_GENES)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(model.reconstruct(), x)
    np.testing.assert_allclose(model.decode(z[5:6]), x[5:6], rtol=1e-4, atol=1e-6)
    assert model.decode(np.zeros((0, N_LATENT))).shape == (0, N_GENES)
    if not isinstance(model, PCA):
        assert (x > 0).all()
        assert (x < 1).all()


@pytest.mark.parametrize("shape", [(3, N_LATENT + 1), (N_LATENT,)])
def test_points_of_another_space_are_refused(model, shape):
    sentence = re.escape(f"z has shape {shape}; it must be points x {N_LATENT} latent dimensions.")
    with pytest.raises(ValueError, match=sentence):
        model.decode(np.zeros(shape))
    if not isinstance(model, PCA):
        with pytest.raises(ValueError, match=sentence):
            model.gene_jacobian(np.zeros(shape))


def test_sample(model):
    cells = model.sample(6, noise=False, rng=3)
    assert cells.shape == (6, N_GENES)
    assert list(cells.var_names) == list(model.gene_names)
    np.testing.assert_allclose(cells.layers["unit"], model.decode(cells.obsm["X_diffvae"]), rtol=1e-4, atol=1e-6)
    low, high = model.features.minimum, model.features.maximum
    np.testing.assert_allclose(cells.X, low + cells.layers["unit"] * (high - low), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.sample(6, noise=False, rng=3).X, cells.X)
    assert not np.array_equal(model.sample(6, noise=False, rng=4).X, cells.X)
    with pytest.raises(ValueError, match="n is 0; it must be a whole number of 1 or more"):
        model.sample(0)


def test_draws_of_sample_have_the_spread_of_the_prior(model):
    z = model.sample(4000, noise=False).obsm["X_diffvae"]
    latent = model.get_latent_representation().astype(float)
    if isinstance(model, AutoEncoder):  # the Gaussian of the training cells
        mean, covariance = latent.mean(0), np.cov(latent.T)
    elif isinstance(model, PCA):
        train = latent[(prepared().obs["diffvae_split"] == "train").to_numpy()]
        mean, covariance = np.zeros(N_LATENT), np.cov(train.T, bias=True)
    else:
        mean, covariance = np.zeros(N_LATENT), np.eye(N_LATENT)
    scale = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((z.mean(0) - mean) / scale, 0, atol=0.08)
    np.testing.assert_allclose((np.cov(z.T) - covariance) / np.outer(scale, scale), 0, atol=0.1)


def test_gene_weights_and_jacobian(model):
    z = model.get_latent_representation()
    weights, jacobian = model.gene_weights(), model.gene_jacobian(z)
    assert weights.shape == jacobian.shape == (N_LATENT, N_GENES)
    step = 1e-2 * np.eye(N_LATENT, dtype=np.float32)
    slopes = [(model.decode(z + s).astype(float) - model.decode(z - s)).mean(0) / 2e-2 for s in step]
    np.testing.assert_allclose(jacobian, slopes, atol=0.01 * np.abs(jacobian).max())


def test_history(model, name):
    history = model.history
    assert history.index.name == "epoch"
    assert history.index[0] == 1
    terms = {
        "PCA": ["mse"], "AutoEncoder": ["loss", "nll"], "VAE": ["loss", "nll", "kl", "mmd"],
        "DiffVAE": ["loss", "nll", "kl", "mmd", "covariance"],
    }[name]  # fmt: skip
    assert list(history.columns) == [f"{split}_{term}" for split in ("train", "validation") for term in terms]
    assert len(history) == (1 if name == "PCA" else QUICK["max_epochs"])
    assert np.isfinite(history.to_numpy()).all()


def test_saved_and_loaded_it_says_the_same_of_new_cells(model, name, tmp_path):
    model.save(tmp_path / "model")
    new = counts(seed=5)
    for again in (load(tmp_path / "model"), type(model).load(tmp_path / "model")):
        assert type(again) is type(model)
        assert again.get_params() == model.get_params()
        z = model.get_latent_representation(new)
        np.testing.assert_array_equal(again.get_latent_representation(new), z)
        np.testing.assert_array_equal(again.reconstruct(new), model.reconstruct(new))
        np.testing.assert_array_equal(again.sample(5).X, model.sample(5).X)
        np.testing.assert_array_equal(again.gene_weights(), model.gene_weights())
        np.testing.assert_array_equal(again.gene_jacobian(z), model.gene_jacobian(z))
        pd.testing.assert_frame_equal(again.history, model.history)
        assert again.gene_names.equals(model.gene_names)
        assert repr(again) == repr(model)


@pytest.mark.parametrize(
    "verb",
    [
        lambda model: model.get_latent_representation(),
        lambda model: model.get_latent_representation(prepared()),
        lambda model: model.reconstruct(),
        lambda model: model.decode(np.zeros((1, N_LATENT))),
        lambda model: model.sample(2),
        lambda model: model.history,
        lambda model: model.features,
        lambda model: model.gene_names,
        lambda model: model.gene_weights(),
        lambda model: model.gene_jacobian(np.zeros((1, N_LATENT))),
        lambda model: model.save("never-written"),
    ],
)
def test_model_that_is_not_trained_says_so(name, verb):
    with pytest.raises(RuntimeError, match=rf"This {name} is not trained.*(train\(adata\) first|adata=\.\.\.)"):
        verb(MAKERS[name]())


def test_loaded_model_asks_for_cells(model, name, tmp_path):
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    for verb in (again.get_latent_representation, again.reconstruct):
        with pytest.raises(
            RuntimeError,
            match=f"This {name} was loaded from disk, or trained on cells there, and holds no cells",
        ):
            verb()


def test_params_construct_an_equal_model(name):
    model = MAKERS[name]()
    assert type(model)(**model.get_params()).get_params() == model.get_params()


def bad_cells(case):
    adata = prepared()
    if case == "genes twice":
        adata.var_names = ["gene0", *adata.var_names[:-1]]
    elif case == "text":
        adata.layers["unit"] = np.full(adata.shape, "much")
    else:
        adata.layers["unit"][3, 5] = float(case)
    return adata


@pytest.mark.parametrize(
    ("cells", "layer", "sentence"),
    [
        (counts, "unit", r"adata\.layers\['unit'\] is missing; run diffvae\.pp\.prepare\(adata\)"),
        (prepared, "scaled", r"layers\['scaled'\] is missing; there are: \['unit', 'counts'\]"),
        (lambda: bad_cells("nan"), "unit", r"adata\.layers\['unit'\] holds NaN or infinite values"),
        (lambda: bad_cells("inf"), "unit", r"adata\.layers\['unit'\] holds NaN or infinite values"),
        (lambda: bad_cells("text"), "unit", r"adata\.layers\['unit'\] holds <U4, not numbers"),
        (lambda: bad_cells("genes twice"), "unit", r"run adata\.var_names_make_unique\(\) first"),
    ],
)
def test_cells_that_cannot_be_trained_on(name, cells, layer, sentence):
    model = MAKERS[name]()
    with pytest.raises(dv.pp.DataError, match=sentence):
        model.train(cells(), layer=layer, **QUICK)
    assert not model.is_trained


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"max_epochs": 0}, "max_epochs is 0; it must be None or a whole number of 1 or more"),
        ({"batch_size": 1}, "batch_size is 1; it must be None or a whole number of 2 or more"),
        ({"patience": 0}, "patience is 0; it must be a whole number"),
        ({"lr": -1}, "lr is -1; it must be None or a number above 0"),
        ({"lr": float("nan")}, "lr is nan; it must be"),
        ({"validation_size": 1}, "validation_size is 1; it must be a number of at least 0 and below 1"),
        ({"validation_size": 0.995}, "0 of 100 cells are left for training; at least two are needed"),
        ({"device": "gpu"}, "device='gpu' can't be used here"),
        ({"precision": "half"}, "precision is 'half'; it must be"),
        ({"rng": -1}, "rng is -1; give a non-negative integer"),
    ],
)
def test_bad_arguments_of_train(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        MAKERS["DiffVAE"]().train(prepared(), **{**QUICK, **arguments})


def test_bernoulli_needs_the_unit_interval():
    adata = prepared()
    adata.layers["wrong"] = adata.layers["unit"] * 2 - 0.5
    sentence = r"adata\.layers\['wrong'\] holds values from -0\.5 to 1\.5, but the Bernoulli likelihood needs \[0, 1\]"
    for name in NEURAL:
        with pytest.raises(dv.pp.DataError, match=sentence):
            MAKERS[name]().train(adata, layer="wrong", **QUICK)
    for likelihood in ("gaussian", "mse"):
        model = VAE(n_latent=2, hidden=(8,), likelihood=likelihood).train(adata, layer="wrong", **QUICK)
        assert model.reconstruct().min() < 0.5


def test_layer_none_is_x():
    adata = prepared()
    model = VAE(n_latent=2, hidden=(8,), likelihood="gaussian").train(adata, layer=None, **QUICK)
    assert not model.features.scaled
    np.testing.assert_array_equal(model.get_latent_representation(adata), model.get_latent_representation())
    cells = model.sample(3, noise=False)
    assert not cells.layers
    np.testing.assert_array_equal(cells.X, model.decode(cells.obsm["X_diffvae"]))


def test_artificial_cells_have_the_zeros_and_the_spread_of_real_ones(model):
    real = dv.pp.unscale(prepared())
    cells, smooth = model.sample(4000, rng=0), model.sample(4000, noise=False, rng=0)
    zeros, spread = (real == 0).mean(axis=0), real.std(axis=0)
    assert np.corrcoef((cells.X == 0).mean(axis=0), zeros)[0, 1] > 0.95
    assert (smooth.X == 0).mean() < 0.01 < zeros.mean()
    assert np.median(cells.X.std(axis=0) / spread) == pytest.approx(1, abs=0.1)
    assert np.median(smooth.X.std(axis=0) / spread) < 0.9
    low, high = model.features.minimum, model.features.maximum
    np.testing.assert_allclose(cells.X, low + cells.layers["unit"] * (high - low), rtol=1e-4, atol=1e-5)
    drawn = cells.layers["counts"]
    assert (drawn == np.rint(drawn)).all()
    assert ((drawn == 0) == (cells.X == 0)).all()
    total = prepared().layers["counts"].sum(axis=1)
    assert drawn.sum(axis=1).mean() == pytest.approx(total.mean(), rel=0.1)
    assert drawn.sum(axis=1).std() == pytest.approx(total.std(), rel=0.25)
    np.testing.assert_array_equal(model.sample(6, rng=3).X, model.sample(6, rng=3).X)
    assert not np.array_equal(model.sample(6, rng=4).X, model.sample(6, rng=3).X)
    with pytest.raises(ValueError, match="noise is 'much'; it must be True or False"):
        model.sample(6, noise="much")


def test_model_without_noise_says_so(model, name, tmp_path, monkeypatch):
    monkeypatch.setattr(type(model), "_noise_arrays", lambda self: {})  # as an earlier version saved it
    model.save(tmp_path / "old")
    old = load(tmp_path / "old")
    assert old.sample(2, noise=False).shape == (2, N_GENES)
    with pytest.raises(RuntimeError, match=f"This {name} has no noise of single cells.*noise=False"):
        old.sample(2)


def test_noise_of_other_genes_is_a_damaged_model(model, tmp_path, monkeypatch):
    arrays = model._noise_arrays()
    monkeypatch.setattr(type(model), "_noise_arrays", lambda self: arrays | {"floor": arrays["floor"][1:]})
    model.save(tmp_path / "model")
    with pytest.raises(dv.pp.DataError, match=r"damaged model.*floor of the noise has the shape"):
        load(tmp_path / "model")
