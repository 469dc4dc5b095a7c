"""diagnose() names the faults that there are, and no others."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from _model_data import MAKERS, N_LATENT, QUICK, TINY, prepared, trained

import diffvae as dv
from diffvae.benchmark import _tasks
from diffvae.benchmark._jobs import Training
from diffvae.model import DiffVAE, _diagnosis
from diffvae.model._diagnosis import what_dimensions_carry

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
    assert model.config.covariance_weight > 0
    assert list(terms.index) == ["nll", "kl", "mmd", "covariance"]
    assert list(terms["weight"]) == [1, *(getattr(model.config, f"{n}_weight") for n in ("kl", "mmd", "covariance"))]
    assert terms["loss_share"].sum() == pytest.approx(1)
    assert terms["gradient_share"].sum() == pytest.approx(1)
    weighted = (terms["weight"] * terms["value"]).abs()
    np.testing.assert_allclose(terms["loss_share"], weighted / weighted.sum())
    mu, logvar = (t.double() for t in trained("DiffVAE").module.encoder(torch.tensor(prepared().layers["unit"])))
    kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).detach().numpy()
    assert terms.loc["kl", "value"] == pytest.approx(kl.sum(1).mean(), rel=1e-4)
    covariance = np.cov(mu.detach().numpy().T)
    off_diagonal = np.square(covariance).sum() - np.square(np.diag(covariance)).sum()
    assert terms.loc["covariance", "value"] == pytest.approx(off_diagonal, rel=1e-4)
    assert terms.loc["covariance", "gradient_share"] > 0
    np.testing.assert_allclose(diagnosis.dimensions["kl"], kl.mean(0), rtol=1e-4)
    np.testing.assert_allclose(diagnosis.dimensions["variance"], mu.detach().numpy().var(0), rtol=1e-4)


def test_gradient_share_is_that_at_the_encoder():
    model = DiffVAE(**TINY, mmd_weight=0, kl_weight=3.0, covariance_weight=0).train(prepared(), **QUICK)
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
    model = DiffVAE(**TINY, linear_skip=False).train(prepared(), **QUICK)
    encoder = model.module.encoder
    with torch.no_grad():
        encoder.mu.weight[0] *= 50
        encoder.mu.weight[1], encoder.mu.bias[1] = 0, 3
        encoder.mu.weight[2], encoder.mu.bias[2] = encoder.mu.weight[0], 1
        encoder.mu.weight[3], encoder.mu.bias[3] = -2 * encoder.mu.weight[0], 0
    return model


def test_dead_and_duplicated_dimensions_are_found(by_hand):
    diagnosis = by_hand.diagnose()
    assert diagnosis.dimensions.loc[1, "kl"] > 1  # of its constant mean 3, which carries nothing
    assert diagnosis.dimensions["active"].tolist() == [True, False, True, True]
    assert diagnosis.dimensions["duplicate_of"].tolist() == [-1, -1, 0, 0]
    assert diagnosis.n_active == 3
    assert (
        "3 of 4 latent dimensions carry information (more than 0.1 nat); read only those: 0, 2, 3. "
        "A lower kl_weight activates more."
    ) in diagnosis.messages
    assert (
        "Duplicates of another latent dimension (|r| > 0.8), 2 in number: 2 = 0, 3 = 0. Read each with its duplicate."
    ) in diagnosis.messages
    assert str(diagnosis).startswith("3 of 4 latent dimensions carry more than 0.1 nat (")


def test_dimensions_that_carry_little_are_not_active():
    """They vary, but their posterior is nearly the prior."""
    cell = np.random.default_rng(0).normal(size=(4000, 3)) * [0.9, 0.2, 0.2]
    variance = np.array([1 - 0.9**2, 0.96, 0.9])  # the last loses a little more to the prior
    table = what_dimensions_carry(cell, np.tile(np.log(variance), (4000, 1)))
    np.testing.assert_allclose(table["nats"][:2], table["kl"][:2], atol=0.02)  # together the prior
    assert what_dimensions_carry(cell + 3, np.tile(np.log(variance), (4000, 1)))["active"].equals(table["active"])
    assert (table["variance"] > 0.03).all()
    assert table["active"].tolist() == [True, False, False]
    np.testing.assert_allclose(
        table["kl"], -0.5 * np.log(variance) + 0.5 * (table["variance"] + variance - 1), rtol=1e-3
    )


def test_one_rule_for_what_carries_information(by_hand):
    """The diagnosis, the dimensions of groups and a comparison name the same dimensions."""
    cells = prepared()
    encoder = by_hand.module.encoder
    with torch.no_grad():
        encoder.mu.weight[3] = 0.2 * encoder.mu.weight[0]
        encoder.mu.bias[3] = 2  # varies a little, and its KL is that of the shift
    table = by_hand.diagnose().dimensions
    active = table["active"].to_numpy()
    assert table.loc[3, "variance"] > 0.01
    assert table.loc[3, "kl"] > 1
    assert active.tolist() == [True, False, True, False]
    dv.tl.embed(cells, by_hand)
    cells.obs["half"] = np.where(cells.obsm["X_diffvae"][:, 0] > np.median(cells.obsm["X_diffvae"][:, 0]), "a", "b")
    chosen = dv.tl.latent_dimensions(cells, "half", max_q=1).query("chosen")["dimension"]
    assert set(chosen) == set(np.flatnonzero(active))
    training = Training(*by_hand.get_posterior(), prior=True)
    assert _tasks.active_dimensions(training) == active.sum()


def test_correlated_dimensions_are_named(by_hand):
    diagnosis = by_hand.diagnose()
    assert diagnosis.correlation["mean"] == pytest.approx(1, abs=1e-3)  # the active ones are one dimension
    assert diagnosis.correlation["largest"] == pytest.approx(1, abs=1e-3)
    assert any(
        message.startswith("The latent dimensions are correlated (mean |r| 1.00,") for message in diagnosis.messages
    )
    z = np.random.default_rng(0).normal(size=(5000, 6))
    free = what_dimensions_carry(z, np.zeros_like(z))
    found = _diagnosis._correlate(z, free)
    assert found["mean"] == pytest.approx(found["chance"], rel=0.6)
    assert (free["duplicate_of"] == -1).all()


def test_held_out_cells_beside_pca():
    cells = prepared()
    model = DiffVAE(**TINY).train(cells, **QUICK)
    diagnosis = model.diagnose()
    validation = (cells.obs["diffvae_split"] == "validation").to_numpy()
    scale = model.features.maximum - model.features.minimum
    x = cells.layers["unit"] * scale
    mean = x[~validation].mean(axis=0)
    by_model = model.reconstruct(cells)[validation] * scale
    assert diagnosis.held_out["n_cells"] == validation.sum()
    assert diagnosis.held_out["r2"] == pytest.approx(
        dv.metrics.reconstruction_r2(x[validation], by_model, mean), abs=1e-4
    )
    axes = np.linalg.svd(x[~validation] - mean)[2][:N_LATENT]
    by_pca = (x[validation] - mean) @ axes.T @ axes + mean
    assert diagnosis.held_out["r2_pca"] == pytest.approx(
        dv.metrics.reconstruction_r2(x[validation], by_pca, mean), abs=0.02
    )
    assert model.diagnose(cells).held_out == diagnosis.held_out
    del cells.obs["diffvae_split"]
    assert model.diagnose(cells).held_out == {}


def test_training_cells_are_not_scored_as_held_out(tmp_path):
    cells = prepared()
    for size in (0, 0.5):  # not the split of the cells
        model = DiffVAE(**TINY).train(cells, **QUICK, validation_size=size)
        assert bool(model.diagnose().held_out) == (size > 0)
        assert model.diagnose(cells).held_out == {}
    model = DiffVAE(**TINY).train(cells, **QUICK)
    model.save(tmp_path / "model")
    loaded = dv.model.load(tmp_path / "model")
    assert loaded.diagnose(cells).held_out == model.diagnose().held_out != {}
    mixed, other = cells.copy(), prepared(seed=9)
    mixed.obs["diffvae_split"] = cells.obs["diffvae_split"].to_numpy()[::-1]
    other.obs["diffvae_split"] = cells.obs["diffvae_split"].to_numpy()
    for unknown in (mixed, other):
        assert loaded.diagnose(unknown).held_out == {}


def test_a_model_that_has_learnt_nothing_is_named():
    model = DiffVAE(**TINY).train(prepared(), **QUICK)
    with torch.no_grad():
        for parameter in model.module.decoder.parameters():
            parameter.zero_()
    found = model.diagnose()
    assert found.held_out["r2"] < 0.02
    assert any(
        message.startswith("The model has learnt nothing that holds for new cells") for message in found.messages
    )


@pytest.mark.parametrize(("losses", "early"), [([5, 4, 3, 4, 5, 6, 7, 8], True), ([5, 4, 3, 2, 1, 1, 1, 0], False)])
def test_a_training_that_stopped_early_is_named(losses, early):
    model = DiffVAE(**TINY).train(prepared(), **QUICK)
    model._history = pd.DataFrame({"validation_loss": losses}, index=range(1, 9))
    found = model.diagnose()
    assert found.training == {"epochs": 8, "best_epoch": 3 if early else 8}
    sentence = "The validation loss was lowest in epoch 3 of 8, before the model could learn much."
    assert any(message.startswith(sentence) for message in found.messages) == early


def test_the_posterior_far_from_the_prior_is_named():
    model = DiffVAE(**TINY).train(prepared(), **QUICK)
    with torch.no_grad():
        model.module.encoder.mu.bias += 4
        model.module.encoder.logvar.weight.zero_()
        model.module.encoder.logvar.bias.fill_(-12.0)
    found = model.diagnose()
    assert found.mmd["value"] > found.mmd["floor_95"] > found.mmd["floor_mean"]
    assert any(message.startswith("The cells do not follow the prior") for message in found.messages)


def test_it_fits_in_100_columns(by_hand):
    assert max(map(len, str(by_hand.diagnose()).splitlines())) < 100


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
    dead = next(message for message in diagnosis.messages if "read only" in message)
    assert dead == (
        "3 of 4 latent dimensions have at least a hundredth of the mean variance; read only those: 0, 1, 3."
    )


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
    sentence = "The KL term contributes 0.0% of the gradient, so it has no effect. Raise kl_weight."
    assert sentence in model.diagnose().messages


def test_kl_weight_is_not_to_be_lowered_and_raised():
    """A posterior equal to the prior has no KL gradient: its weight is too high, not too low."""
    model = DiffVAE(**TINY, linear_skip=False).train(prepared(), **QUICK)
    with torch.no_grad():
        for parameter in model.module.encoder.parameters():
            parameter.zero_()
    found = model.diagnose()
    assert found.terms.loc["kl", "gradient_share"] < 0.01
    assert any("lower kl_weight" in message for message in found.messages)
    assert not any("Raise kl_weight" in message for message in found.messages)


@pytest.mark.parametrize(
    ("weight", "remedy"),
    [(0.0, "Set covariance_weight of DiffVAE, or"), (1.0, "Raise covariance_weight (it is 1), or")],
)
def test_the_remedy_of_correlation_depends_on_the_weight(by_hand, weight, remedy):
    by_hand.config = dataclasses.replace(by_hand.config, covariance_weight=weight)
    assert any(f"one process. {remedy} read clusters instead." in message for message in by_hand.diagnose().messages)


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


def test_a_model_of_counts_is_examined_on_normalised_counts():
    model = DiffVAE(**TINY, likelihood="nb").train(prepared(), **QUICK)
    found = model.diagnose()
    assert np.isfinite(found.terms.to_numpy(float)).all()
    assert found.terms.loc["nll", "gradient_share"] > 0
    assert found.held_out == {}  # log1p(E count) is not E log1p(count)
    assert not any("held-out" in message or "means of the genes" in message for message in found.messages)
