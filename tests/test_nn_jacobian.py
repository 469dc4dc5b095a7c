"""The product of the weights and the mean Jacobian against their definitions."""

import pytest
import torch
from torch.func import jacrev, vmap

from diffvae.nn import Decoder, _jacobian, mean_jacobian, weight_product


def make(**options):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Decoder(3, (6, 8), 5, **options)


@pytest.fixture
def decoder():
    return make()


@pytest.fixture
def z():
    return torch.randn(17, 3, generator=torch.Generator().manual_seed(1))


def test_weight_product_is_the_explicit_product(decoder):
    w = [layer.weight.detach().T for layer in decoder.linears]
    omega = weight_product(decoder).detach()
    torch.testing.assert_close(omega, w[0] @ w[1] @ w[2])
    assert omega.shape == (3, 5)
    one_path = sum(w[0][1, i] * w[1][i, j] * w[2][j, 4] for i in range(6) for j in range(8))
    assert float(omega[1, 4]) == pytest.approx(float(one_path), rel=1e-5)


@pytest.mark.parametrize("logistic", [True, False])
@pytest.mark.parametrize("block_bytes", [_jacobian.BLOCK_BYTES, 4 * 3 * 5 * 4])
@pytest.mark.parametrize("linear_skip", [True, False])
def test_mean_jacobian_is_that_of_autograd(z, logistic, block_bytes, linear_skip, monkeypatch):
    decoder = make(linear_skip=linear_skip)
    monkeypatch.setattr(_jacobian, "BLOCK_BYTES", block_bytes)  # the second: four points at a time
    function = (lambda point: torch.sigmoid(decoder(point))) if logistic else decoder
    expected = vmap(jacrev(function))(z).mean(0).T
    torch.testing.assert_close(mean_jacobian(decoder, z, logistic=logistic), expected)


def test_linear_skip_is_added_to_the_product():
    decoder = make(linear_skip=True)
    skip = decoder.skip.weight.detach().clone()
    decoder.skip.weight.data.zero_()
    product = weight_product(decoder).detach()
    decoder.skip.weight.data.copy_(skip)
    torch.testing.assert_close(weight_product(decoder).detach(), product + skip.T)


def test_mean_jacobian_is_the_product_where_every_gate_is_open(decoder, z):
    with torch.no_grad():
        for layer in decoder.linears[:-1]:
            layer.bias.fill_(100.0)
    torch.testing.assert_close(mean_jacobian(decoder, z, logistic=False), weight_product(decoder).detach())


def test_mean_jacobian_is_zero_where_every_gate_is_shut(decoder, z):
    with torch.no_grad():
        decoder.linears[0].bias.fill_(-100.0)
    assert (mean_jacobian(decoder, z, logistic=False) == 0).all()
    assert (weight_product(decoder) != 0).any()
