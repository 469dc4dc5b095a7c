"""Sums over all pairs and the losses made of them, against dense autograd, by hand, and over all samples."""

from itertools import combinations
from math import log

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffvae.nn import LinkedPairs, Sampling, _link_loss, categorical_link_nll, link_nll, pair_sum

FUNCTIONS = {"softplus": F.softplus, "sigmoid": torch.sigmoid}


def places(n, d=5, dtype=torch.float64, scale=1.0):
    return (scale * torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)


def dense_sum(z, function):
    i, j = torch.triu_indices(len(z), len(z), offset=1)
    return FUNCTIONS[function]((z @ z.T)[i, j]).sum()


def value_and_gradient(function, z):
    z = z.clone().requires_grad_()
    value = function(z)
    value.backward()
    return value.detach(), z.grad


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("n", [1, 2, 7, 24, 33])
@pytest.mark.parametrize("block", [1, 5, 8, 24, 1024])
def test_value_and_gradient_are_those_of_the_dense_sum(monkeypatch, function, n, block):
    monkeypatch.setattr(_link_loss, "BLOCK", block)
    for dtype, rtol in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        z = places(n, dtype=dtype)
        value, gradient = value_and_gradient(lambda z: 3 * pair_sum(z, function), z)
        expected, slope = value_and_gradient(lambda z: 3 * dense_sum(z, function), z.double())
        assert value.dtype == torch.float64
        assert gradient.dtype == dtype
        torch.testing.assert_close(value, expected, rtol=rtol, atol=1e-10)
        torch.testing.assert_close(gradient.double(), slope, rtol=rtol, atol=10 * rtol)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("block", [3, 1024])
def test_the_mean_over_all_samples_of_cells_is_the_exact_sum_with_its_gradient(monkeypatch, function, block):
    monkeypatch.setattr(_link_loss, "BLOCK", block)
    z = places(7)
    samples = [torch.tensor(s) for s in combinations(range(7), 4)]
    found = [value_and_gradient(lambda z, s=s: pair_sum(z, function, s), z) for s in samples]
    values, gradients = (torch.stack(list(each)) for each in zip(*found, strict=True))
    expected, slope = value_and_gradient(lambda z: dense_sum(z, function), z)
    assert values.std() > 0.01
    torch.testing.assert_close(values.mean(), expected)
    torch.testing.assert_close(gradients.mean(0), slope)


def test_a_sample_of_all_cells_gives_the_exact_sum():
    z = places(30)
    value, gradient = value_and_gradient(lambda z: pair_sum(z, among=torch.randperm(30)), z)
    expected, slope = value_and_gradient(pair_sum, z)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_scores_are_finite_and_right(dtype):
    root = 200**0.5
    z = torch.tensor([[root, 0], [root, 0], [-root, 0], [0, 1]], dtype=dtype)  # scores 200, -200 (twice), 0 (3 times)
    value, gradient = value_and_gradient(pair_sum, z)
    assert float(value) == pytest.approx(200 + 3 * log(2), rel=1e-6)
    assert torch.isfinite(gradient).all()
    assert gradient[0].tolist() == pytest.approx([root, 0.5], rel=1e-6)
    value, gradient = value_and_gradient(lambda z: pair_sum(z, "sigmoid"), z)
    assert float(value) == pytest.approx(1 + 3 / 2)
    assert gradient[0].tolist() == pytest.approx([0, 0.25], abs=1e-6)


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])  # up to 16, and 300, which the logistic function can't give
@pytest.mark.parametrize("among", [None, torch.arange(300).flip(0)])
def test_of_many_cells_the_logistic_function_gives_the_value(scale, among):
    for dtype, rtol in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        z = places(300, dtype=dtype, scale=scale)
        largest = float(z.square().sum(1).max())
        assert (_link_loss._evaluation("softplus", z, among)[0] is _link_loss._softplus) == (largest > 80)
        value, gradient = value_and_gradient(lambda z: pair_sum(z, "softplus", among), z)
        expected, slope = value_and_gradient(lambda z: dense_sum(z, "softplus"), z.double())
        torch.testing.assert_close(value, expected, rtol=rtol, atol=0)
        assert (gradient.double() - slope).norm() <= rtol * slope.norm()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("among", [None, torch.arange(1100).flip(0)])
def test_in_half_precision_the_sum_and_its_gradient_are_close(function, among):
    z = places(1100, d=20, dtype=torch.float32, scale=0.5)  # blocks with and without pairs of a cell with itself
    value, gradient = value_and_gradient(lambda z: pair_sum(z, function, among, torch.bfloat16), z)
    expected, slope = value_and_gradient(lambda z: dense_sum(z, function), z.double())
    assert (value.dtype, gradient.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=0)
    assert 1e-4 * slope.norm() < (gradient - slope).norm() <= 0.01 * slope.norm()
    sampling = Sampling(1100, 5, (1100,), among=among, precision=torch.bfloat16)
    assert sampling.pair_sum(z, function) == value


def test_linked_pairs_have_the_scores_and_gradients_of_gathered_rows():
    i, j = torch.triu_indices(12, 12, offset=1)
    chosen = torch.randperm(len(i), generator=torch.Generator().manual_seed(1))[:20]
    edges = torch.stack([i, j], dim=1)[chosen]
    edges[::3] = edges[::3].flip(1)
    edges = edges[(edges < 11).all(1)]  # the last cell has no link
    weights = places(len(edges), 1)[:, 0]
    z = places(12)
    expected, slope = value_and_gradient(lambda z: ((z[edges[:, 0]] * z[edges[:, 1]]).sum(1) * weights).sum(), z)
    pairs = LinkedPairs(edges, 12)
    found, gradient = value_and_gradient(lambda z: (pairs.scores(z) * weights).sum(), z)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, slope)
    torch.testing.assert_close(pairs.scores(z), (z[edges[:, 0]] * z[edges[:, 1]]).sum(1))
    for loss in (link_nll, categorical_link_nll):
        assert loss(z, pairs) == loss(z, edges)
    assert len(LinkedPairs(edges[:0], 12).scores(z)) == 0


def test_it_is_differentiated_once_and_unknown_functions_are_refused():
    z = places(4).requires_grad_()
    (gradient,) = torch.autograd.grad(pair_sum(z), z, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.square().sum(), z)
    with pytest.raises(ValueError, match="function is 'relu'; it must be 'softplus' or 'sigmoid'"):
        pair_sum(places(2), "relu")


# three cells on a line: scores 01 = 2, 02 = -1, 12 = -2; the one edge is 01
LINE, EDGE = torch.tensor([[1.0], [2], [-1]]), torch.tensor([[0, 1]])


def softplus(s):
    return log(1 + np.exp(s))


def test_link_nll_by_hand():
    unlinked = softplus(-1) + softplus(-2)
    assert float(link_nll(LINE, EDGE, positive_weight=1)) == pytest.approx((softplus(-2) + unlinked) / 3, rel=1e-6)
    assert float(link_nll(LINE, EDGE, positive_weight=5)) == pytest.approx((5 * softplus(-2) + unlinked) / 7, rel=1e-6)
    balanced = (2 * softplus(-2) + unlinked) / 4  # two unlinked pairs per edge
    assert float(link_nll(LINE, EDGE)) == pytest.approx(balanced, rel=1e-6)
    assert link_nll(LINE, EDGE).dtype == torch.float32


def test_categorical_by_hand():
    def sigma(s):
        return 1 / (1 + np.exp(-s))

    total = sigma(2) + sigma(-1) + sigma(-2)
    assert float(categorical_link_nll(LINE, EDGE)) == pytest.approx(-log(sigma(2) / total), rel=1e-6)
    both = torch.tensor([[0, 1], [2, 0]])
    expected = -0.5 * (log(sigma(2) / total) + log(sigma(-1) / total))
    assert float(categorical_link_nll(LINE, both)) == pytest.approx(expected, rel=1e-6)


def test_small_sums_are_not_lost_beside_what_is_no_pair():
    far = torch.tensor([[5.5, 0.0], [-5.5, 0.0]])
    assert float(pair_sum(far, "sigmoid")) == pytest.approx(np.exp(-30.25), rel=1e-5)
    assert float(pair_sum(far, "sigmoid", torch.tensor([0]))) == pytest.approx(np.exp(-30.25), rel=1e-5)
    assert float(categorical_link_nll(far, EDGE)) == pytest.approx(0, abs=1e-6)


def test_link_nll_of_blocks_is_the_dense_loss_and_gradient(monkeypatch):
    monkeypatch.setattr(_link_loss, "BLOCK", 16)
    z = places(50)
    truth = np.triu(np.random.default_rng(0).random((50, 50)) < 0.1, k=1)
    edges = torch.from_numpy(np.stack(truth.nonzero(), axis=1))
    i, j = torch.triu_indices(50, 50, offset=1)
    linked = torch.from_numpy(truth)[i, j].double()
    for weight in (None, 1.0, 3.0):
        w = torch.tensor((1225 - len(edges)) / len(edges) if weight is None else weight)

        def dense(z, w=w):
            per_pair = F.binary_cross_entropy_with_logits((z @ z.T)[i, j], linked, pos_weight=w, reduction="sum")
            return per_pair / (w * len(edges) + 1225 - len(edges))

        expected, slope = value_and_gradient(dense, z)
        value, gradient = value_and_gradient(lambda z, w=weight: link_nll(z, edges, positive_weight=w), z)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-9)


SIZES = (3, 4, 2, 4, 3)  # q parts of 16 cells
STARTS = np.cumsum([0, *SIZES])


def choices(p):
    """Every batch of p of the parts, with its edges as its own rows."""
    q, n = len(SIZES), sum(SIZES)
    truth = np.triu(np.random.default_rng(1).random((n, n)) < 0.3, k=1)
    for chosen in combinations(range(q), p):
        rows = np.concatenate([np.arange(STARTS[c], STARTS[c + 1]) for c in chosen])
        edges = torch.from_numpy(np.stack(truth[rows][:, rows].nonzero(), axis=1))
        sizes = tuple(SIZES[c] for c in chosen)
        between = q * (q - 1) / (p * (p - 1))
        yield rows, edges, Sampling(n, int(truth.sum()), sizes, q / p, between), truth


@pytest.mark.parametrize("p", [2, 3, 5])
def test_a_batch_of_parts_is_unbiased_over_all_choices(p):
    z = places(16)
    for function in FUNCTIONS:
        estimates = [float(s.pair_sum(z[rows], function)) for rows, _, s, _ in choices(p)]
        assert np.mean(estimates) == pytest.approx(float(dense_sum(z, function)), rel=1e-10)
    counts = []
    for rows, edges, sampling, truth in choices(p):
        weights = sampling.edge_weights(edges)
        found = np.zeros(truth.shape)
        found[rows[edges[:, 0]], rows[edges[:, 1]]] = 1 if weights is None else weights.numpy()
        counts.append(found)
        assert (weights is None) == (p == 5)
    np.testing.assert_allclose(np.mean(counts, axis=0), truth, rtol=1e-6)


@pytest.mark.parametrize("weight", [None, 1.0])
def test_loss_and_gradient_of_batches_are_unbiased_over_all_choices(weight):
    z = places(16)
    *_, (_, _, _, truth) = choices(3)
    edges = torch.from_numpy(np.stack(truth.nonzero(), axis=1))
    expected, slope = value_and_gradient(lambda z: link_nll(z, edges, positive_weight=weight), z)
    found = [
        value_and_gradient(lambda z, r=r, e=e, s=s: link_nll(z[r], e, positive_weight=weight, sampling=s), z)
        for r, e, s, _ in choices(3)
    ]
    torch.testing.assert_close(torch.stack([v for v, _ in found]).mean(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.stack([g for _, g in found]).mean(0), slope, rtol=1e-5, atol=1e-8)


def test_a_batch_without_edges_has_a_loss():
    sampling = Sampling(16, 20, (2, 2), 2.5, 10.0)
    none = torch.zeros((0, 2), dtype=torch.int64)
    assert torch.isfinite(link_nll(places(4), none, sampling=sampling))
    assert torch.isfinite(categorical_link_nll(places(4), none, sampling=sampling))


def test_the_gradient_of_a_link_loss_is_the_same_each_time_whatever_the_threads():
    """Sums whose order is left to the threads differ in their last digits: 200 epochs, by a per mille."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 50, generator=g).requires_grad_()
    edges = torch.randint(0, 2000, (20_000, 2), generator=g)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first = torch.autograd.grad(link_nll(z, edges), z)[0]
        assert all(torch.equal(torch.autograd.grad(link_nll(z, edges), z)[0], first) for _ in range(10))
    finally:
        torch.set_num_threads(threads)
