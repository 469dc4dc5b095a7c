"""diagnose() names the faults that there are, and no others."""

import numpy as np
import pandas as pd
import pytest
import torch
from _model_data import MAKERS, N_LATENT, QUICK, TINY, prepared, trained

import diffvae as dv
from diffvae.model import DiffVAE

BLIND = "The kernel does not detect collapse: the MMD of a collapsed latent is"


@pytest.fixture(scope="module")
def cells():
    adata = dv.datasets.pbmc68k_reduced()
    dv.pp.prepare(adata)
    return adata


def train(cells, preset):
    quick = {"max_epochs": 8, "precision": "float32", "device": "cpu", "progress": False}
    return DiffVAE(preset, hidden=(64, 32)).train(cells, **quick)


def test_preset_code_regularises_nothing(cells):
    diagnosis = train(cells, "code").diagnose()
    assert any(
        message.startswith("The MMD term is at its noise floor and contributes 0.")
        and "% of the gradient, so it regularises nothing." in message
        for message in diagnosis.messages
    )
    assert any(message.startswith(BLIND) for message in diagnosis.messages)
    assert diagnosis.terms.loc["mmd", "gradient_share"] < 0.01
    assert diagnosis.terms.loc["mmd", "loss_share"] < 0.01
    assert diagnosis.mmd["value"] <= diagnosis.mmd["floor_95"]
    assert diagnosis.mmd["collapsed"] < 1.5 * diagnosis.mmd["matched"]
    assert "so it regularises nothing" in str(diagnosis)


def test_default_regularises(cells):
    diagnosis = train(cells, "default").diagnose()
    assert not any("regularises nothing" in message or "collapse" in message for message in diagnosis.messages)
    assert diagnosis.terms.loc["mmd", "gradient_share"] > 0.05
    assert diagnosis.mmd["collapsed"] > 20 * abs(diagnosis.mmd["matched"])


def test_terms_are_those_of_the_objective():
    model = trained("DiffVAE")
    diagnosis = model.diagnose()
    terms = diagnosis.terms
    assert list(terms.index) == ["nll", "kl", "mmd"]
    assert list(terms["weight"]) == [1, model.config.kl_weight, model.config.mmd_weight]
    assert terms["loss_share"].sum() == pytest.approx(1)
    assert terms["gradient_share"].sum() == pytest.approx(1)
    weighted = (terms["weight"] * terms["value"]).abs()
    np.testing.assert_allclose(terms["loss_share"], weighted / weighted.sum())
    mu, logvar = (t.double() for t in trained("DiffVAE").module.encoder(torch.tensor(prepared().layers["unit"])))
    kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).detach().numpy()
    assert terms.loc["kl", "value"] == pytest.approx(kl.sum(1).mean(), rel=1e-4)
    np.testing.assert_allclose(diagnosis.dimensions["kl"], kl.mean(0), rtol=1e-4)
    np.testing.assert_allclose(diagnosis.dimensions["variance"], mu.detach().numpy().var(0), rtol=1e-4)


def test_gradient_share_is_that_at_the_encoder():
    model = DiffVAE(**TINY, mmd_weight=0, kl_weight=3.0).train(prepared(), **QUICK)
    module = model.module
    with torch.no_grad():  # hardly any noise, so that the gradient doesn't depend on the draw
        module.encoder.logvar.weight.zero_()
        module.encoder.logvar.bias.fill_(-12.0)
    x = torch.tensor(prepared().layers["unit"])
    mu, logvar = module.encoder(x)
    norms = []
    weights = torch.from_numpy(np.square(model.features.maximum - model.features.minimum).astype(np.float32))
    nll = dv.nn.bernoulli_nll(module.decoder(mu), x, weights / weights.mean())
    for term in (nll, 3 * dv.nn.gaussian_kl(mu, logvar)):
        gradients = torch.autograd.grad(term, list(module.encoder.parameters()), retain_graph=True, allow_unused=True)
        norms.append(float(torch.cat([g.flatten() for g in gradients if g is not None]).norm()))
    shares = model.diagnose().terms["gradient_share"]
    assert shares["mmd"] == 0
    assert shares["nll"] == pytest.approx(norms[0] / sum(norms), rel=0.02)
    assert shares["kl"] == pytest.approx(norms[1] / sum(norms), rel=0.02)


@pytest.fixture
def by_hand():
    """A model whose dimensions are set by hand: 0 lives, 1 is dead, 2 repeats 0, 3 repeats it with the other sign."""
    model = DiffVAE(**TINY).train(prepared(), **QUICK)
    encoder = model.module.encoder
    with torch.no_grad():
        encoder.mu.weight[0] *= 50
        encoder.mu.weight[1], encoder.mu.bias[1] = 0, 3
        encoder.mu.weight[2], encoder.mu.bias[2] = encoder.mu.weight[0], 1
        encoder.mu.weight[3], encoder.mu.bias[3] = -2 * encoder.mu.weight[0], 0
    return model


def test_dead_and_duplicated_dimensions_are_found(by_hand):
    diagnosis = by_hand.diagnose()
    assert diagnosis.dimensions["active"].tolist() == [True, False, True, True]
    assert diagnosis.dimensions["duplicate_of"].tolist() == [-1, -1, 0, 0]
    assert diagnosis.n_active == 3
    assert "1 of 4 latent dimensions are inactive (variance below 0.01): 1." in diagnosis.messages
    assert "2 latent dimensions duplicate another (|r| > 0.95): 2 = 0, 3 = 0." in diagnosis.messages
    assert str(diagnosis).startswith("3 of 4 latent dimensions are active.")


def test_dead_dimension_of_a_plain_autoencoder_is_measured_against_the_others():
    """Without a prior the scale of the latent is free."""
    model = MAKERS["AutoEncoder"]().train(prepared(), **QUICK)
    with torch.no_grad():
        model.module.encoder.mu.weight *= 1e-3
        model.module.encoder.mu.weight[2] = 0
    diagnosis = model.diagnose()
    assert diagnosis.dimensions["active"].tolist() == [True, True, False, True]
    assert list(diagnosis.terms.index) == ["nll"]
    assert diagnosis.mmd == {}
    dead = next(message for message in diagnosis.messages if "inactive" in message)
    threshold = 0.01 * diagnosis.dimensions["variance"].mean()
    assert dead == f"1 of 4 latent dimensions are inactive (variance below {threshold:.2g}): 2."


@pytest.mark.parametrize(("logvar", "vanished"), [([-8, -8, -8, -8], True), ([-8, -8, -8, -2], False)])
def test_posterior_variance_that_has_vanished_is_reported(logvar, vanished):
    """Where MMD alone leads, given time: exp(-8) is 0.0003."""
    model = DiffVAE(**TINY, kl_weight=0.0).train(prepared(), **QUICK)
    with torch.no_grad():
        model.module.encoder.logvar.weight.zero_()
        model.module.encoder.logvar.bias.copy_(torch.tensor(logvar))
    diagnosis = model.diagnose()
    np.testing.assert_allclose(diagnosis.dimensions["posterior_variance"], np.exp(logvar), rtol=1e-5)
    sentence = (
        "The posterior variance has vanished in every dimension, which makes the model a plain autoencoder; "
        "set kl_weight above 0."
    )
    assert (sentence in diagnosis.messages) == vanished


def test_term_without_weight_is_no_fault():
    diagnosis = trained("VAE").diagnose()
    assert diagnosis.terms.loc["mmd", "gradient_share"] == 0
    assert not any("MMD" in message or "kernel" in message for message in diagnosis.messages)


def test_weak_kl_is_reported():
    model = DiffVAE(**TINY, kl_weight=1e-9).train(prepared(), **QUICK)
    assert "The KL term contributes 0.0% of the gradient." in model.diagnose().messages


def test_encoder_without_any_gradient_is_not_a_division_by_zero():
    model = DiffVAE(**TINY).train(prepared(), **QUICK)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.zero_()
    diagnosis = model.diagnose()
    assert np.isfinite(diagnosis.terms.to_numpy(float)).all()
    assert diagnosis.n_active == 0


def test_other_cells_and_the_seed():
    model = trained("DiffVAE")
    a, b, c = model.diagnose(rng=0), model.diagnose(rng=0), model.diagnose(rng=1)
    pd.testing.assert_frame_equal(a.terms, b.terms)
    assert a.mmd == b.mmd != c.mmd
    other = model.diagnose(prepared(seed=9))
    assert (other.dimensions["variance"] != a.dimensions["variance"]).any()
    assert len(other.dimensions) == N_LATENT


def test_diagnosis_changes_nothing():
    model = DiffVAE(**TINY).train(prepared(), **QUICK)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    model.diagnose()
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert not model.module.training


def test_model_that_is_not_trained():
    with pytest.raises(RuntimeError, match="This DiffVAE is not trained"):
        MAKERS["DiffVAE"]().diagnose()
