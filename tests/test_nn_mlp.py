"""The networks are those of the equations, and their weights go to arrays and back."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffvae.nn import Autoencoder, Decoder, Encoder
from diffvae.nn._mlp import LOGVAR_RANGE, arrays_of, with_arrays


@pytest.fixture
def x():
    return torch.rand(30, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _weights():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def test_encoder_is_dense_relu_norm_twice_then_linear_heads(x):
    encoder = Encoder(12, (8, 6), 3).train()
    h = x
    for layer in encoder.layers:
        h = F.relu(F.linear(h, layer.weight, layer.bias))
        h = (h - h.mean(0)) / torch.sqrt(h.var(0, unbiased=False) + 1e-5)  # a new batch norm: scale 1, shift 0
    mu, logvar = encoder(x)
    torch.testing.assert_close(mu, F.linear(h, encoder.mu.weight, encoder.mu.bias))
    torch.testing.assert_close(logvar, F.linear(h, encoder.logvar.weight, encoder.logvar.bias))
    assert (mu < 0).any()
    assert (logvar < 0).any()


def test_head_relu_is_never_negative(x):
    mu, logvar = Encoder(12, (8, 6), 3, head="relu")(x)
    assert (mu >= 0).all()
    assert (logvar >= 0).all()
    assert (logvar > 0).any()


def test_head_relu_bn_is_centred_in_training(x):
    mu, logvar = Encoder(12, (8, 6), 3, head="relu_bn").train()(x)
    torch.testing.assert_close(mu.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert (logvar < 0).any()  # so that batch norm undoes what the ReLU did to sigma


def test_logvar_is_clamped(x):
    encoder = Encoder(12, (8,), 2)
    with torch.no_grad():
        encoder.logvar.weight.zero_()
        encoder.logvar.bias.copy_(torch.tensor([100.0, -100.0]))
    assert encoder(x)[1][0].tolist() == [LOGVAR_RANGE[1], LOGVAR_RANGE[0]]


def test_without_batch_norm_a_cell_is_encoded_alone_as_among_others(x):
    encoder = Encoder(12, (8, 6), 3, batch_norm=False).train()
    torch.testing.assert_close(encoder(x[:1])[0], encoder(x)[0][:1])


def test_dropout_draws_from_the_generator_that_it_is_given(x):
    encoder = Encoder(12, (8, 8), 3, dropout=0.5, input_dropout=0.5).train()
    state = torch.get_rng_state()
    first, again, other = (encoder(x, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    encoder.eval()
    assert torch.equal(encoder(x)[0], encoder(x)[0])


@pytest.mark.parametrize("of", ["input_dropout", "dropout"])
def test_dropout_keeps_the_mean_and_leaves_out_its_share(of):
    # of genes, or of a hidden layer that passes a thousand values on
    hidden = (1,) if of == "input_dropout" else (1000, 1)
    encoder = Encoder(1000, hidden, 1, batch_norm=False, **{of: 0.25}).train()
    with torch.no_grad():
        for layer in encoder.layers:
            layer.weight.fill_(1.0) if layer.out_features == 1 else layer.weight.copy_(torch.eye(1000))
            layer.bias.zero_()
        encoder.mu.weight.fill_(1.0)
        encoder.mu.bias.zero_()
    sums = encoder(torch.ones(200, 1000), torch.Generator().manual_seed(0))[0].detach()
    # binomial: 1000 inputs, each kept with 3/4 and then 4/3; sd of a sum sqrt(1000 * 1/3) = 18.3
    assert float(sums.mean()) == pytest.approx(1000, abs=4 * 18.3 / 200**0.5)
    assert float(sums.std()) == pytest.approx(18.3, rel=0.2)


def test_linear_skip_adds_a_map_of_the_centred_input(x):
    encoder = Encoder(12, (8, 6), 3, linear_skip=True).eval()
    encoder.center.copy_(x.mean(0))
    encoder.scale.fill_(2.0)
    skip = encoder.skip.weight.detach()
    mu, logvar = encoder(x)
    plain = Encoder(12, (8, 6), 3).eval()
    plain.load_state_dict({k: v for k, v in encoder.state_dict().items() if k in plain.state_dict()})
    centred = 2 * (x - x.mean(0))
    torch.testing.assert_close(mu, plain(centred)[0] + centred @ skip.T)
    torch.testing.assert_close(logvar, plain(centred)[1])


def test_linear_skip_sees_the_genes_that_dropout_leaves(x):
    encoder = Encoder(12, (8,), 3, input_dropout=0.5, linear_skip=True).train()
    with torch.no_grad():
        for parameter in (encoder.mu.weight, encoder.mu.bias):
            parameter.zero_()
        encoder.skip.weight.fill_(1.0)
    sums = encoder(torch.ones_like(x), torch.Generator().manual_seed(0))[0].detach()
    assert set(sums.unique().tolist()) <= {2.0 * n for n in range(13)}
    assert len(sums.unique()) > 1


def test_linear_skip_of_the_decoder():
    decoder = Decoder(3, (6, 8), 12, linear_skip=True)
    z = torch.randn(5, 3)
    assert decoder.skip.bias is None
    torch.testing.assert_close(decoder(z), super(Decoder, decoder).forward(z) + z @ decoder.skip.weight.T)


def test_decoder_is_dense_relu_and_a_linear_end():
    decoder = Decoder(3, (6, 8), 12)
    w, b = ([getattr(layer, name) for layer in decoder.linears] for name in ("weight", "bias"))
    z = torch.randn(5, 3)
    h = F.relu(z @ w[0].T + b[0])
    h = F.relu(h @ w[1].T + b[1])
    torch.testing.assert_close(decoder(z), h @ w[2].T + b[2])


def test_autoencoder_mirrors_its_widths():
    module = Autoencoder(12, (8, 6), 3, gene_variance=True)
    assert [(layer.in_features, layer.out_features) for layer in module.encoder.layers] == [(12, 8), (8, 6)]
    assert [(layer.in_features, layer.out_features) for layer in module.decoder.linears] == [(3, 6), (6, 8), (8, 12)]
    assert module.logvar_x.shape == (12,)
    assert Autoencoder(12, (8, 6), 3).logvar_x is None


def network(hidden=8):
    return Autoencoder(6, (hidden,), 3, head="gaussian", batch_norm=True, dropout=0.2)


def test_a_module_comes_back_as_it_was():
    module = network().train()
    module.encoder(torch.rand(5, 6))  # moves the batch statistics
    before = torch.get_rng_state()
    wide = {name: array.astype(np.float64) for name, array in arrays_of(module).items()}
    assert {p.dtype for p in with_arrays(network, wide).parameters()} == {torch.float32}
    back = with_arrays(network, arrays_of(module))
    assert torch.equal(torch.get_rng_state(), before)
    assert not back.training
    assert {p.device.type for p in (*back.parameters(), *back.buffers())} == {"cpu"}
    assert all(p.requires_grad for p in back.parameters())
    x = torch.rand(4, 6)
    for mine, its in zip(back.encoder(x), module.eval().encoder(x), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=0)


def test_another_shape_is_refused_before_memory_is_taken_for_it():
    arrays = arrays_of(network())
    with pytest.raises(RuntimeError, match="size mismatch"):  # a terabyte, where it would be built
        with_arrays(lambda: network(hidden=10**11), arrays)
