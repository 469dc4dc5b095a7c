"""MMD: by hand, unbiased, and able to see what it is for."""

import math

import numpy as np
import pytest
import torch

from diffvae.nn import batch_mmd, imq_kernel, median_bandwidth, mmd, rbf_kernel, released_kernel
from diffvae.nn._mmd import squared_distances

D, N = 50, 128


def points(*values):
    return torch.tensor([[float(v)] for v in values])


def draws(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def minus_squared(squared):
    return -squared


def test_kernels_have_the_values_of_their_formulae():
    squared = torch.tensor([0.0, 1.0, 6.0])
    torch.testing.assert_close(rbf_kernel(2.0)(squared), torch.exp(-squared / 8))
    torch.testing.assert_close(released_kernel(3)(squared), torch.exp(-squared / 9))
    one_scale = imq_kernel(3, scales=(0.5,))(squared)  # C = 2 * 3, s C = 3
    torch.testing.assert_close(one_scale, torch.tensor([1.0, 3 / 4, 3 / 9]))
    two_scales = imq_kernel(3, scales=(0.5, 1.0))(squared)
    torch.testing.assert_close(two_scales, torch.tensor([1.0, (3 / 4 + 6 / 7) / 2, (3 / 9 + 6 / 12) / 2]))


def test_released_kernel_is_the_one_that_was_released():
    x, y = draws(4, 6), draws(4, 6, seed=1)
    released = torch.exp(-((x[:, None] - y[None]) ** 2).mean(-1) / 6)
    torch.testing.assert_close(released_kernel(6)(squared_distances(x, y)), released)


def test_median_bandwidth_by_hand():
    # distances 1, 3, 7, 2, 6, 4: of six the third in order
    assert float(median_bandwidth(points(0, 1), points(3, 7))) == pytest.approx(3)
    # 3-4-5 triangle
    x, y = torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    assert float(median_bandwidth(x, y)) == pytest.approx(4)


def test_mmd_of_two_points_each_by_hand():
    x, y = points(0, 1), points(0, 2)
    near, far = math.exp(-0.5), math.exp(-2)  # kernel at distances 1 and 2
    cross = (1 + far + near + near) / 4
    kernel = rbf_kernel(1.0)
    assert float(mmd(x, y, kernel)) == pytest.approx(near + far - 2 * cross, rel=1e-5)
    biased = (1 + near) / 2 + (1 + far) / 2 - 2 * cross
    assert float(mmd(x, y, kernel, unbiased=False)) == pytest.approx(biased, rel=1e-5)


def test_mmd_of_three_points_and_two_by_hand():
    x, y = points(0, 1, 3), points(0, 2)
    within_x, within_y, cross = -(1 + 9 + 4) / 3, -4, -(0 + 4 + 1 + 1 + 9 + 1) / 6
    assert float(mmd(x, y, minus_squared)) == pytest.approx(within_x + within_y - 2 * cross, rel=1e-5)
    # with k = -|x - y|^2 the biased form is twice the squared distance of the means: 2 (4/3 - 1)^2
    assert float(mmd(x, y, minus_squared, unbiased=False)) == pytest.approx(2 / 9, rel=1e-4)


def test_mmd_is_symmetric_and_ignores_the_order_of_cells():
    x, y, kernel = draws(20, 3), draws(30, 3, seed=1), imq_kernel(3)
    torch.testing.assert_close(mmd(x, y, kernel), mmd(y, x, kernel))
    torch.testing.assert_close(mmd(x.flip(0), y, kernel), mmd(x, y, kernel))


def test_unbiased_mean_is_zero_under_a_match_and_the_biased_one_is_not():
    n, d, kernel = 20, 3, imq_kernel(3)
    pairs = [(draws(n, d, seed=2 * i), draws(n, d, seed=2 * i + 1)) for i in range(300)]
    unbiased = np.array([float(mmd(x, y, kernel)) for x, y in pairs])
    biased = np.array([float(mmd(x, y, kernel, unbiased=False)) for x, y in pairs])
    error = unbiased.std() / math.sqrt(len(unbiased))
    assert abs(unbiased.mean()) < 4 * error
    mean_kernel = np.mean([float(kernel(squared_distances(x, y)).mean()) for x, y in pairs])
    assert biased.mean() == pytest.approx(2 / n * (1 - mean_kernel), abs=4 * error)
    assert biased.mean() > 10 * error


def test_unbiased_needs_two_points():
    with pytest.raises(ValueError, match="needs two points on each side; it got 1 and 3"):
        mmd(points(0), points(0, 1, 2), minus_squared)
    assert float(mmd(points(0), points(2), minus_squared, unbiased=False)) == 8


def test_precision_of_mmd_is_float32_under_autocast():
    x, y, kernel = 0.1 * draws(40, D), draws(40, D, seed=1), imq_kernel(D)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = mmd(x, y, kernel)
    assert torch.equal(under_autocast, mmd(x, y, kernel))


def test_gradient_of_mmd_draws_a_collapsed_latent_apart():
    z = (1e-3 * draws(N, D)).requires_grad_()
    mmd(z, draws(N, D, seed=1), imq_kernel(D)).backward()
    assert float((z.grad * z.detach()).sum()) < 0  # a step against the gradient makes it wider


KERNELS = {
    "imq": lambda z, prior: imq_kernel(D),
    "rbf, median": lambda z, prior: rbf_kernel(median_bandwidth(z, prior)),
    "rbf, given": lambda z, prior: rbf_kernel(math.sqrt(D)),
    "released": lambda z, prior: released_kernel(D),
}


def scores(kernel, *, unbiased):
    """Mean score of a collapsed latent and mean size of a matched one's, over draws."""
    collapsed, matched = [], []
    for i in range(60):
        prior = draws(N, D, seed=1000 + i)
        for z, into in ((torch.zeros(N, D), collapsed), (draws(N, D, seed=i), matched)):
            into.append(abs(float(mmd(z, prior, kernel(z, prior), unbiased=unbiased))))
    return np.mean(collapsed), np.mean(matched)


@pytest.mark.parametrize("name", ["imq", "rbf, median", "rbf, given"])
def test_kernel_sees_collapse(name):
    collapsed, matched = scores(KERNELS[name], unbiased=True)
    assert collapsed > 20 * matched
    assert collapsed > 0.1


def test_released_kernel_does_not_see_collapse():
    """As released (biased): 0.0007 for a latent in one point, 0.0006 for a perfect match (METHOD, section 8, no. 5)."""
    collapsed, matched = scores(KERNELS["released"], unbiased=False)
    assert collapsed < 1.5 * matched
    assert (round(collapsed, 4), round(matched, 4)) == (0.0007, 0.0006)
    # nor does the better estimator rescue it
    collapsed, matched = scores(KERNELS["released"], unbiased=True)
    assert collapsed < 20 * matched


def test_the_mmd_of_batches_is_that_of_their_partners():
    """Worked out by hand: of two batches with one partner per cell, it is the unbiased MMD of the two."""
    g = torch.Generator().manual_seed(0)
    z, codes = torch.randn(12, 3, generator=g), torch.tensor([0, 1] * 6)
    partners = torch.nn.functional.one_hot(1 - codes, 2).float()
    expected = mmd(z[codes == 0], z[codes == 1], imq_kernel(3))
    torch.testing.assert_close(batch_mmd(z, codes, partners, imq_kernel(3)), expected)
    # cells without partners weigh nothing, wherever they are
    far = torch.cat([z, 100 + torch.randn(4, 3, generator=g)])
    with_far = batch_mmd(
        far, torch.cat([codes, torch.zeros(4).long()]), torch.cat([partners, torch.zeros(4, 2)]), imq_kernel(3)
    )
    torch.testing.assert_close(with_far, expected)
    # twice the partners for all cells change nothing; the names of the batches do not matter
    torch.testing.assert_close(batch_mmd(z, codes, 2 * partners, imq_kernel(3)), expected)
    torch.testing.assert_close(batch_mmd(z, 1 - codes, partners.flip(1), imq_kernel(3)), expected)


def test_cells_weigh_by_their_partners():
    z, kernel = torch.tensor([[0.0], [1.0], [3.0], [7.0], [8.0]]), imq_kernel(1)
    codes = torch.tensor([0, 0, 0, 1, 1])
    partners = torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [3.0, 0.0]])
    k = kernel(torch.square(z - z.T).reshape(-1)).reshape(5, 5)
    u, v = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.75])
    within = [(u[:, None] * u * k[:3, :3]), (v[:, None] * v * k[3:, 3:])]
    means = [(w.sum() - w.diagonal().sum()) / (1 - s.square().sum()) for w, s in zip(within, (u, v), strict=True)]
    expected = sum(means) - 2 * (u[:, None] * v * k[:3, 3:]).sum()
    torch.testing.assert_close(batch_mmd(z, codes, partners, kernel), expected)


def test_batches_out_of_reach_give_nothing():
    z = torch.randn(6, 2, requires_grad=True)
    value = batch_mmd(z, torch.tensor([0, 0, 0, 1, 1, 1]), torch.zeros(6, 2), imq_kernel(2))
    assert value.item() == 0
    value.backward()
    assert torch.isfinite(z.grad).all()
    # one cell with a partner in each batch has no pair within its batch
    partners = torch.zeros(6, 2)
    partners[0, 1] = partners[5, 0] = 1
    assert batch_mmd(z, torch.tensor([0, 0, 0, 1, 1, 1]), partners, imq_kernel(2)).item() == 0


def test_a_batch_whose_partners_are_not_among_the_cells_gives_nothing():
    z, codes = points(0, 0.1, 5, 5.1), torch.tensor([0, 0, 1, 1])
    partners = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert batch_mmd(z, codes, partners, imq_kernel(1)).item() == 0


def test_partners_are_compared_in_single_precision():
    g = torch.Generator().manual_seed(0)
    z, codes = draws(N, D), torch.randint(3, (N,), generator=g)
    partners = torch.rand(N, 3, generator=g) * (1 - torch.nn.functional.one_hot(codes, 3))
    value = batch_mmd(z, codes, partners, imq_kernel(D))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(batch_mmd(z, codes, partners, imq_kernel(D)), value)
