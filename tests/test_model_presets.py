"""The presets of DiffVAE, and what is refused."""

import json

import numpy as np
import pytest
from _model_data import QUICK, prepared

from diffvae.model import VAE, AutoEncoder, DiffVAE, _config
from diffvae.model._config import default_epochs

COMMON = {"n_latent": 50, "likelihood": "bernoulli", "batch_norm": True, "dropout": 0.0}
AS_PRINTED = {
    "hidden": (512, 256), "gene_weighting": "equal", "input_dropout": 0.0, "early_stopping": False, "kl_weight": 0.0,
    "covariance_weight": 0.0, "linear_skip": False, "target_neighbors": 0, "batch_size": 128,
}  # fmt: skip
PRESETS = {
    "default": {"head": "linear", "noise": "independent", "mmd_kernel": "imq", "mmd_unbiased": True}
    | {"hidden": (128,), "linear_skip": True, "target_neighbors": 15, "batch_size": 256, "lr": 2e-3},
    "paper": AS_PRINTED | {"head": "relu", "noise": "independent", "mmd_kernel": "rbf", "mmd_weight": 1.0, "lr": 1e-3},
    # batch norm after ReLU on both heads, one noise value per batch, and an MMD that does not see collapse
    "code": AS_PRINTED
    | {"head": "relu_bn", "noise": "shared", "mmd_kernel": "released", "mmd_weight": 1.0, "mmd_unbiased": False}
    | {"mmd_prior_size": 128, "lr": 1e-3},
}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_those_of_the_documentation(preset):
    assert (COMMON | PRESETS[preset]).items() <= DiffVAE(preset).get_params().items()


def test_default_has_both_divergences_and_stops_early():
    params = DiffVAE().get_params()
    assert params["kl_weight"] > 0
    assert params["mmd_weight"] > 1
    assert params["early_stopping"]


@pytest.mark.parametrize("preset", ["default", "paper", "code"])
def test_anything_may_be_overridden(preset):
    given = {
        "n_latent": 7,
        "hidden": (20, 10, 5),
        "likelihood": "gaussian",
        "gene_weighting": "range",
        "kl_weight": 0.25,
        "mmd_weight": 3.0,
        "mmd_kernel": "rbf",
        "mmd_bandwidth": 2.0,
        "mmd_unbiased": True,
        "mmd_prior_size": 64,
        "covariance_weight": 1.5,
        "batch_mmd_weight": 2.0,
        "encode_covariates": False,
        "noise": "independent",
        "head": "linear",
        "batch_norm": False,
        "dropout": 0.1,
        "input_dropout": 0.2,
        "linear_skip": True,
        "target_neighbors": 5,
        "batch_size": 32,
        "lr": 0.01,
        "min_steps": 10,
        "early_stopping": True,
    }
    assert DiffVAE(preset, **given).get_params() == {"preset": preset, **given}


def test_override_with_zero_or_false_counts():
    params = DiffVAE(kl_weight=0, batch_norm=False).get_params()
    assert (params["kl_weight"], params["batch_norm"]) == (0, False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"preset": "best"}, "preset is 'best'; it must be 'default', 'paper' or 'code'"),
        ({"mmd_kernel": "linear"}, "mmd_kernel is 'linear'; it must be 'imq', 'rbf' or 'released'"),
        ({"head": "tanh"}, "head is 'tanh'; it must be 'linear', 'relu' or 'relu_bn'"),
        ({"gene_weighting": "rank"}, "gene_weighting is 'rank'; it must be 'equal' or 'range'"),
        ({"noise": "loud"}, "noise is 'loud'; it must be 'independent', 'shared' or 'none'"),
        ({"likelihood": "zinb"}, "likelihood is 'zinb'; it must be 'bernoulli', 'gaussian', 'nb' or 'mse'"),
        ({"n_latent": 0}, "n_latent is 0; it must be a whole number of 1 or more"),
        ({"hidden": ()}, r"hidden is \(\); it must be the widths of one or more layers"),
        ({"hidden": (8, 0)}, r"hidden is \(8, 0\); it must be"),
        ({"kl_weight": -1}, "kl_weight is -1; it must be a number of at least 0"),
        ({"mmd_weight": float("nan")}, "mmd_weight is nan"),
        ({"mmd_bandwidth": 0}, "mmd_bandwidth is 0; it must be None or a number above 0"),
        ({"mmd_prior_size": 1}, "mmd_prior_size is 1; it must be None or a whole number of 2 or more"),
        ({"dropout": 1}, "dropout is 1; it must be a number of at least 0 and below 1"),
        ({"input_dropout": -0.1}, "input_dropout is -0.1; it must be a number of at least 0"),
        ({"linear_skip": 1}, "linear_skip is 1; it must be True or False"),
        ({"target_neighbors": -1}, "target_neighbors is -1; it must be a whole number of 0 or more"),
        ({"covariance_weight": -1}, "covariance_weight is -1; it must be a number of at least 0"),
        ({"batch_size": 1}, "batch_size is 1; it must be a whole number of 2 or more"),
        ({"lr": 0}, "lr is 0; it must be a number above 0"),
        ({"min_steps": -1}, "min_steps is -1; it must be a whole number of 0 or more"),
    ],
)
def test_what_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        DiffVAE(**arguments)


def test_numbers_of_numpy_become_plain_json():
    model = DiffVAE(
        n_latent=np.int64(3),
        hidden=np.array([8, 4]),
        kl_weight=np.float32(0.5),
        batch_norm=np.bool_(False),
    )
    assert json.loads(json.dumps(model.get_params()))["n_latent"] == 3
    assert repr(model) == "DiffVAE(n_latent=3, hidden=(8, 4); not trained)"


def test_baselines_are_the_same_network_under_another_objective():
    vae, autoencoder = VAE().config, AutoEncoder().config
    assert (vae.kl_weight, vae.mmd_weight, vae.noise) == (1.0, 0.0, "independent")
    assert (autoencoder.kl_weight, autoencoder.mmd_weight, autoencoder.noise) == (0.0, 0.0, "none")
    for config in (vae, autoencoder):
        assert {key: getattr(config, key) for key in COMMON} == COMMON


@pytest.mark.parametrize(
    ("min_steps", "n_cells", "batch_size", "epochs"),
    [(1000, 10**6, 128, 100), (1000, 128, 128, 1000), (1000, 129, 128, 500), (1000, 300, 128, 334), (0, 10, 128, 100)],
)
def test_small_sets_get_enough_steps(min_steps, n_cells, batch_size, epochs):
    assert default_epochs(DiffVAE(min_steps=min_steps).config, n_cells, batch_size) == epochs


def test_epochs_are_chosen_where_none_are_given(monkeypatch):
    monkeypatch.setattr(_config, "EPOCHS", 3)
    quick = {key: value for key, value in QUICK.items() if key not in ("max_epochs", "batch_size")}
    model = DiffVAE(n_latent=2, hidden=(4,), min_steps=5, early_stopping=False).train(prepared()[:20].copy(), **quick)
    assert len(model.history) == 5  # fewer cells than a batch: one step an epoch
