"""Weights as arrays and back, without trust in what they are said to fit."""

import numpy as np
import pytest
import torch

from diffvae import nn
from diffvae.nn._weights import arrays_of, with_arrays


def network(hidden=8):
    return nn.Autoencoder(6, (hidden,), 3, head="gaussian", batch_norm=True, dropout=0.2)


def test_a_module_comes_back_as_it_was():
    module = network().train()
    module.encoder(torch.rand(5, 6))  # moves the batch statistics
    back = with_arrays(network, arrays_of(module))
    assert not back.training
    assert {p.device.type for p in (*back.parameters(), *back.buffers())} == {"cpu"}
    assert all(p.requires_grad for p in back.parameters())
    x = torch.rand(4, 6)
    for mine, its in zip(back.encoder(x), module.eval().encoder(x), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=0)


def test_the_kind_of_number_is_that_of_the_module():
    wide = {name: array.astype(np.float64) for name, array in arrays_of(network()).items()}
    assert {p.dtype for p in with_arrays(network, wide).parameters()} == {torch.float32}


def test_another_shape_is_refused_before_memory_is_taken_for_it():
    arrays = arrays_of(network())
    with pytest.raises(RuntimeError, match="size mismatch"):  # a terabyte, where it would be built
        with_arrays(lambda: network(hidden=10**11), arrays)


def test_the_global_random_numbers_stay_where_they_are():
    arrays, before = arrays_of(network()), torch.get_rng_state()
    with_arrays(network, arrays)
    assert torch.equal(torch.get_rng_state(), before)
