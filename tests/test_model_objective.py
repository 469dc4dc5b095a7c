"""The objective: what is added to what, what is differentiated, and which noise is drawn."""

import math

import numpy as np
import pytest
import torch
from _model_data import N_GENES

import diffvae as dv
from diffvae import nn
from diffvae.model._config import AutoencoderConfig
from diffvae.model._features import Features
from diffvae.model._likelihoods import LIKELIHOODS
from diffvae.model._objective import InfoVAEObjective, gene_weights

SMALL = {"n_latent": 3, "hidden": (8, 6)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(**options):
    config = AutoencoderConfig(**SMALL, **options)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = nn.Autoencoder(
            N_GENES,
            config.hidden,
            config.n_latent,
            head=config.head,
            gene_variance=LIKELIHOODS[config.likelihood].gene_variance,
        )
    return InfoVAEObjective(config), module.eval()


@pytest.fixture
def x():
    return torch.rand(20, N_GENES, generator=generator(1))


ROWS = np.arange(20)


def test_loss_is_the_weighted_sum(x):
    objective, module = build(kl_weight=0.5, mmd_weight=30.0)
    terms = objective(module, x, ROWS, generator())
    assert list(terms) == ["loss", "nll", "kl", "mmd"]
    torch.testing.assert_close(terms["loss"], terms["nll"] + 0.5 * terms["kl"] + 30 * terms["mmd"])
    mu, logvar = module.encoder(x)
    noise = generator()
    z = mu + torch.exp(0.5 * logvar) * torch.randn(mu.shape, generator=noise)
    prior = torch.randn(20, 3, generator=noise)
    torch.testing.assert_close(terms["nll"], nn.bernoulli_nll(module.decoder(z), x))
    torch.testing.assert_close(terms["kl"], nn.gaussian_kl(mu, logvar))
    torch.testing.assert_close(terms["mmd"], nn.mmd(z, prior, nn.imq_kernel(3)))


def test_terms_without_weight_are_watched_and_not_learnt_from(x):
    objective, module = build(kl_weight=0.0, mmd_weight=0.0)
    terms = objective(module, x, ROWS, generator())
    assert torch.equal(terms["loss"], terms["nll"])
    assert not terms["kl"].requires_grad
    assert not terms["mmd"].requires_grad
    assert terms["kl"] > 0
    with_weight, _ = build(kl_weight=1.0, mmd_weight=1.0)
    for name in ("kl", "mmd"):
        torch.testing.assert_close(with_weight(module, x, ROWS, generator())[name].detach(), terms[name])


def test_plain_autoencoder_has_its_reconstruction_alone(x):
    objective, module = build(noise="none")
    terms = objective(module, x, ROWS, generator())
    assert list(terms) == ["loss", "nll"]
    torch.testing.assert_close(terms["nll"], nn.bernoulli_nll(module.decoder(module.encoder(x)[0]), x))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood(x, name):
    """A new likelihood passes this: loss per cell, mean, slope of the mean, start at finite weights."""
    objective, module = build(noise="none", likelihood=name)
    if LIKELIHOODS[name].counts:
        objective.target = lambda rows, x: (torch.round(20 * x), torch.zeros(len(x), 1))
    once, twice = (objective(module, data, ROWS, generator())["loss"] for data in (x, x.repeat(2, 1)))
    torch.testing.assert_close(twice, once)  # a mean over cells
    limits = np.linspace(0, 1, N_GENES), np.linspace(2, 5, N_GENES)
    genes = tuple(map(str, range(N_GENES)))
    likelihood = LIKELIHOODS[name].on_scale_of(Features(genes, "unit", *limits, 1e4, 20, ""))
    output = torch.randn(20, N_GENES, generator=generator(2), dtype=torch.float64)
    mean = likelihood.mean or (lambda value: value)
    slope = torch.ones_like(output) if likelihood.slope is None else likelihood.slope(output)
    torch.testing.assert_close((mean(output + 1e-6) - mean(output - 1e-6)) / 2e-6, slope)
    if likelihood.link is not None:
        inside = output.float().clamp(-6, 6)  # the links of means at the limits are finite
        torch.testing.assert_close(likelihood.link(mean(inside)), inside, atol=1e-3, rtol=1e-3)
    assert (module.logvar_x is not None) == likelihood.gene_variance
    if likelihood.initialise is not None:
        likelihood.initialise(module, x.numpy(), ROWS)
    assert torch.isfinite(objective(module, x, ROWS, generator())["loss"])


def test_likelihoods_are_the_losses_of_their_names(x):
    output = torch.randn(20, N_GENES, generator=generator(2))
    for name, loss in (("bernoulli", nn.bernoulli_nll), ("mse", nn.squared_error)):
        objective, module = build(likelihood=name)
        torch.testing.assert_close(objective.reconstruction(module, output, x), loss(output, x))
    objective, module = build(likelihood="gaussian")
    module.logvar_x.data.fill_(-1.0)
    expected = nn.gaussian_nll(output, x, torch.full((N_GENES,), -1.0))
    torch.testing.assert_close(objective.reconstruction(module, output, x), expected)


def test_logvar_is_the_log_of_sigma_squared():
    objective, _ = build()
    n = 40_000
    z = objective.draw(torch.full((n, 2), 3.0), torch.tensor([math.log(4), math.log(0.25)]).expand(n, 2), generator())
    # standard error of a variance: sigma^2 sqrt(2/n) = 0.7 %
    np.testing.assert_allclose(z.var(0), [4, 0.25], rtol=0.03)
    np.testing.assert_allclose(z.mean(0), [3, 3], atol=0.04)
    assert abs(np.corrcoef(z.T)[0, 1]) < 0.02  # a draw per dimension
    assert abs(np.corrcoef(z[:-1, 0], z[1:, 0])[0, 1]) < 0.02  # and per cell


def test_shared_noise_is_one_number_for_the_batch():
    objective, _ = build(noise="shared")
    mu, logvar = (torch.randn(50, 3, generator=generator(s)) for s in (1, 2))
    noise = generator()
    eps = (objective.draw(mu, logvar, noise) - mu) / torch.exp(0.5 * logvar)
    torch.testing.assert_close(eps, eps[0, 0].expand(50, 3), rtol=1e-3, atol=1e-3)
    other = (objective.draw(mu, logvar, noise) - mu) / torch.exp(0.5 * logvar)
    assert abs(float(other[0, 0] - eps[0, 0])) > 0.01


def test_without_noise_z_is_mu():
    objective, _ = build(noise="none")
    mu = torch.randn(5, 3, generator=generator())
    assert objective.draw(mu, torch.zeros(5, 3), generator()) is mu


@pytest.mark.parametrize(("given", "expected"), [(None, 20), (128, 128)])
def test_size_of_the_sample_of_the_prior(given, expected, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        nn, "mmd", lambda x, y, kernel, *, unbiased: sizes.append((len(x), len(y), unbiased)) or x.sum()
    )
    objective, _ = build(mmd_prior_size=given, mmd_unbiased=False)
    objective.mmd(torch.zeros(20, 3), generator())
    assert sizes == [(20, expected, False)]


def test_kernels_are_those_that_are_named():
    z, prior = (torch.randn(9, 3, generator=generator(s)) for s in (1, 2))
    squared = torch.tensor([0.0, 1.0, 7.0])
    for options, kernel in (
        ({"mmd_kernel": "imq"}, nn.imq_kernel(3)),
        ({"mmd_kernel": "released"}, nn.released_kernel(3)),
        ({"mmd_kernel": "rbf"}, nn.rbf_kernel(nn.median_bandwidth(z, prior))),
        ({"mmd_kernel": "rbf", "mmd_bandwidth": 2.5}, nn.rbf_kernel(2.5)),
    ):
        torch.testing.assert_close(build(**options)[0].kernel(z, prior)(squared), kernel(squared))


def test_mmd_of_one_cell_is_zero_and_not_an_error():
    assert build(mmd_weight=1.0)[0].mmd(torch.ones(1, 3), generator()) == 0


def features(**limits):
    given = {"minimum": None, "maximum": None} | limits
    return Features(("a", "b", "c"), "unit", **given, target_sum=None, n_cells=9, fingerprint="")


def test_genes_weigh_as_the_square_of_their_range():
    limits = {"minimum": np.array([0.0, 1.0, 2.0]), "maximum": np.array([1.0, 3.0, 2.0])}
    weights = gene_weights(AutoencoderConfig(gene_weighting="range"), features(**limits))
    assert weights.tolist() == pytest.approx([0.6, 2.4, 0.0])  # 1, 4 and 0 over their mean, 5/3
    assert gene_weights(AutoencoderConfig(), features(**limits)) is None
    # values that were not scaled have no range to go by, and constant genes none at all
    assert gene_weights(AutoencoderConfig(gene_weighting="range"), features()) is None
    flat = {"minimum": np.ones(3), "maximum": np.ones(3)}
    assert gene_weights(AutoencoderConfig(gene_weighting="range"), features(**flat)) is None


@pytest.mark.parametrize("likelihood", ["bernoulli", "mse"])
def test_weights_of_genes_enter_the_reconstruction(x, likelihood):
    objective, module = build(likelihood=likelihood)
    one = torch.zeros(N_GENES)
    one[3] = 2.0
    weighted = InfoVAEObjective(objective.config, one)
    output = module.decoder(module.encoder(x)[0])
    alone = objective.reconstruction(module, output[:, 3:4], x[:, 3:4])
    torch.testing.assert_close(weighted.reconstruction(module, output, x), 2 * alone)


def test_covariance_is_the_sum_of_squared_covariances_between_dimensions():
    objective, _ = build()
    mu = torch.randn(300, 4, generator=generator(3)) @ torch.randn(4, 4, generator=generator(4))
    expected = np.cov(mu.numpy().T)
    expected = (expected**2).sum() - (np.diag(expected) ** 2).sum()
    assert float(objective.covariance(mu)) == pytest.approx(expected, rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(objective.covariance(mu)) == pytest.approx(expected, rel=1e-4)


def test_covariance_of_independent_dimensions_is_that_of_chance():
    objective, _ = build()
    values = [float(objective.covariance(torch.randn(100, 20, generator=generator(i)))) for i in range(50)]
    assert np.mean(values) == pytest.approx(20 * 19 / 99, rel=0.1)


def test_covariance_is_that_of_all_processes():
    objective, _ = build()
    whole = torch.randn(60, 4, generator=generator(5))
    objective.gather = lambda z: whole
    assert float(objective.covariance(whole[:30])) == float(objective.covariance(whole))


def test_the_penalty_uncorrelates_the_means():
    adata = dv.datasets.pbmc68k_reduced()
    dv.pp.prepare(adata)
    correlations = []
    for weight in (0, 3):
        z = dv.model.DiffVAE(n_latent=10, covariance_weight=weight).train(adata, max_epochs=30, progress=False)
        z = z.get_latent_representation()
        r = np.cov(z[:, z.std(0) > 0.1].T)
        correlations.append((r**2).sum() - (np.diag(r) ** 2).sum())
    assert correlations[1] < 0.5 * correlations[0]
