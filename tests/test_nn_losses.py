"""Every loss against a value worked out by hand, and against torch's own where there is one."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch.distributions import Normal, kl_divergence

from diffvae.nn import bernoulli_nll, gaussian_kl, gaussian_nll, negative_binomial_nll, squared_error


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_bernoulli_nll_by_hand():
    # log(1 + e^0) - 1/4 * 0 = log 2; log(1 + e^2) - 1/4 * 2; two cells, so half of the sum
    logits, x = torch.tensor([[0.0, 2.0], [2.0, 0.0]]), torch.tensor([[0.25, 0.25], [1.0, 1.0]])
    softplus = math.log(1 + math.exp(2))
    expected = (math.log(2) + softplus - 0.5 + softplus - 2 + math.log(2)) / 2
    assert float(bernoulli_nll(logits, x)) == pytest.approx(expected, rel=1e-6)


def test_weights_of_genes_by_hand():
    # the cross-entropies of the two genes are 2 log 2 and 2 log(1 + e^2) - 2.5 over both cells of the test above
    logits, x = torch.tensor([[0.0, 2.0], [0.0, 2.0]]), torch.tensor([[0.25, 0.25], [1.0, 1.0]])
    softplus, weights = math.log(1 + math.exp(2)), torch.tensor([3.0, 0.5])
    expected = (3 * 2 * math.log(2) + 0.5 * (2 * softplus - 2.5)) / 2
    assert float(bernoulli_nll(logits, x, weights)) == pytest.approx(expected, rel=1e-6)
    assert float(squared_error(logits, x, weights)) == pytest.approx((3 * 17 / 16 + 0.5 * (49 / 16 + 1)) / 2)


def test_weighted_bernoulli_nll_has_the_gradient_of_its_genes():
    logits, x, weights = randn(5, 4).requires_grad_(), torch.rand(5, 4), torch.tensor([0.0, 1.0, 2.0, 5.0])
    bernoulli_nll(logits, x, weights).backward()
    expected = weights * (torch.sigmoid(logits.detach()) - x) / 5
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize(
    ("logit", "x", "nats"), [(100, 1, 0), (-100, 0, 0), (-100, 1, 100), (1e4, 0, 1e4), (-1e4, 1, 1e4)]
)
def test_bernoulli_nll_of_large_logits_is_finite_and_exact(logit, x, nats):
    logits = torch.tensor([[float(logit)]], requires_grad=True)
    value = bernoulli_nll(logits, torch.tensor([[float(x)]]))
    value.backward()
    assert value.item() == pytest.approx(nats, abs=1e-6)
    assert logits.grad.item() == (logit > 0) - x  # the logistic function is 0 or 1 here


def test_bernoulli_nll_equals_torch_in_value_and_gradient():
    x = torch.rand(7, 11, generator=torch.Generator().manual_seed(1))
    ours = (5 * randn(7, 11)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    value = bernoulli_nll(ours, x)
    reference = F.binary_cross_entropy_with_logits(theirs, x, reduction="sum") / 7
    (3 * value).backward()
    (3 * reference).backward()
    torch.testing.assert_close(value, reference)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_bernoulli_nll_takes_transposed_and_double_input():
    logits, x = randn(5, 3), torch.rand(5, 3, generator=torch.Generator().manual_seed(2))
    expected = bernoulli_nll(logits, x)
    torch.testing.assert_close(bernoulli_nll(logits.T.contiguous().T, x.T.contiguous().T), expected)
    torch.testing.assert_close(bernoulli_nll(logits.double(), x.double()), expected)


def test_bernoulli_nll_is_not_rounded_to_bfloat16_under_autocast():
    logits, x = randn(64, 33), torch.rand(64, 33, generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = bernoulli_nll(logits, x)
    assert torch.equal(under_autocast, bernoulli_nll(logits, x))


def test_bernoulli_nll_of_a_perfect_prediction_is_the_entropy_of_the_targets():
    x = torch.tensor([[0.5, 0.25]])
    entropy = math.log(2) + 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert float(bernoulli_nll(torch.logit(x), x)) == pytest.approx(entropy, rel=1e-6)


def test_gaussian_nll_by_hand_and_by_torch():
    mean, x, logvar = torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]), torch.tensor([math.log(4), 0.0])
    by_hand = 0.5 * (2 * math.log(2 * math.pi) + math.log(4) + 1 / 4 + 9)
    assert float(gaussian_nll(mean, x, logvar)) == pytest.approx(by_hand, rel=1e-6)
    mean, x, logvar = randn(6, 4), randn(6, 4, seed=1), randn(4, seed=2)
    reference = -Normal(mean, torch.exp(0.5 * logvar)).log_prob(x).sum() / 6
    torch.testing.assert_close(gaussian_nll(mean, x, logvar), reference)


def test_squared_error_by_hand():
    prediction, x = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    assert float(squared_error(prediction, x)) == (1 + 4 + 9) / 2


def test_kl_by_hand_and_by_torch():
    # mu = 1, sigma^2 = 4: (1 + 4 - 1 - log 4) / 2
    value = gaussian_kl(torch.ones(3, 2), torch.full((3, 2), math.log(4)))
    assert float(value) == pytest.approx(2 * (4 - math.log(4)) / 2, rel=1e-6)
    assert float(gaussian_kl(torch.zeros(3, 2), torch.zeros(3, 2))) == 0
    mu, logvar = randn(6, 4), randn(6, 4, seed=1)
    posterior, prior = Normal(mu, torch.exp(0.5 * logvar)), Normal(torch.zeros(6, 4), torch.ones(6, 4))
    torch.testing.assert_close(gaussian_kl(mu, logvar), kl_divergence(posterior, prior).sum() / 6)


def test_losses_per_cell_do_not_depend_on_the_size_of_the_batch():
    a, b, logvar = randn(5, 4), torch.rand(5, 4, generator=torch.Generator().manual_seed(1)), randn(4, seed=2)
    losses = (bernoulli_nll, squared_error, gaussian_kl, lambda a, b: gaussian_nll(a, b, logvar))
    for loss in losses:
        torch.testing.assert_close(loss(a.repeat(3, 1), b.repeat(3, 1)), loss(a, b))


def test_negative_binomial_nll_is_that_of_scipy():
    rng = np.random.default_rng(0)
    counts, log_mean, log_dispersion = rng.poisson(3, (4, 5)), rng.normal(0, 1, (4, 5)), rng.normal(0, 1, 5)
    theta = np.exp(-log_dispersion)
    expected = -stats.nbinom.logpmf(counts, theta, theta / (theta + np.exp(log_mean))).sum(1).mean()
    got = negative_binomial_nll(*map(torch.as_tensor, (log_mean, counts, log_dispersion)))
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_weighted_bernoulli_nll_is_not_rounded_by_autocast():
    logits, x, weights = (
        torch.linspace(-3, 3, 60).reshape(4, 15),
        torch.linspace(0, 1, 60).reshape(4, 15),
        torch.rand(15),
    )
    with torch.autocast("cpu", torch.bfloat16):
        rounded = bernoulli_nll(logits, x, weights)
    torch.testing.assert_close(rounded, bernoulli_nll(logits, x, weights), rtol=1e-6, atol=0)
