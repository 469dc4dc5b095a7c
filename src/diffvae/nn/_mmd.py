"""Maximum mean discrepancy (MMD) between the aggregate posterior and the prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Kernel = Callable[[Tensor], Tensor]
"""Maps squared Euclidean distances to kernel values."""

IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class _MultiscaleIMQ(torch.autograd.Function):
    """Mean over c of c / (d + c), whose slope in d is the mean of -c / (d + c)^2.

    The slope is computed beside the value, scale by scale, in matrices that stay in the cache of a processor.
    """

    @staticmethod
    def forward(ctx: Any, squared: Tensor, constants: tuple[float, ...]) -> Tensor:
        total = torch.zeros_like(squared)
        slope = torch.zeros_like(squared) if ctx.needs_input_grad[0] else None
        for c in constants:
            inverse = (squared + c).reciprocal_()
            total.add_(inverse, alpha=c / len(constants))
            if slope is not None:
                slope.addcmul_(inverse, inverse, value=-c / len(constants))
        if slope is not None:
            ctx.save_for_backward(slope)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * grads[0], None


def imq_kernel(n_latent: int, scales: tuple[float, ...] = IMQ_SCALES) -> Kernel:
    r"""Inverse multiquadratic kernel, mean over several scales.

    .. math:: k(x, y) = \frac{1}{S} \sum_s \frac{s C}{s C + \|x - y\|^2}, \quad C = 2 D

    2 D is the expected squared distance of two draws from the D-dimensional prior, and the scales cover posteriors near
    and far from it; heavy tails keep a gradient for outliers.

    Parameters
    ----------
    n_latent
        Dimensions D.
    scales
        The factors s.

    Returns
    -------
    Function of squared distances, for :func:`mmd`.

    References
    ----------
    Tolstikhin et al., Wasserstein auto-encoders, ICLR 2018, section 4.

    Examples
    --------
    >>> imq_kernel(50)(torch.tensor([0.0])).tolist()
    [1.0]
    """
    constants = tuple(2.0 * n_latent * scale for scale in scales)

    def kernel(squared: Tensor) -> Tensor:
        return _MultiscaleIMQ.apply(squared, constants)

    return kernel


def rbf_kernel(bandwidth: float | Tensor) -> Kernel:
    r"""Gaussian kernel :math:`k(x, y) = \exp(-\|x - y\|^2 / (2 h^2))` with bandwidth h.

    Parameters
    ----------
    bandwidth
        h, in units of distance; :func:`median_bandwidth` gives one.

    Returns
    -------
    Function of squared distances, for :func:`mmd`.

    References
    ----------
    Gretton et al., A kernel two-sample test, JMLR 13 (2012).

    Examples
    --------
    >>> rbf_kernel(1.0)(torch.tensor([0.0, 2.0])).tolist()  # of squared distances
    [1.0, 0.3678794503211975]
    """

    def kernel(squared: Tensor) -> Tensor:
        return torch.exp(squared / (-2 * bandwidth**2))

    return kernel


def released_kernel(n_latent: int) -> Kernel:
    r"""Kernel of the code that was released with the paper: :math:`\exp(-\|x - y\|^2 / D^2)`.

    At D = 50 all distances are small compared with D^2, so that the kernel is nearly constant and a collapsed latent
    space scores like a matched one. Use it only to reproduce that code.

    Parameters
    ----------
    n_latent
        Dimensions D.

    Returns
    -------
    Function of squared distances, for :func:`mmd`.

    References
    ----------
    Bica et al. 2020, released code (mean over dimensions of the squared difference, divided by D).

    Examples
    --------
    >>> round(float(released_kernel(50)(torch.tensor(100.0))), 2)  # as far apart as two draws from the prior
    0.96
    """

    def kernel(squared: Tensor) -> Tensor:
        return torch.exp(squared / -(n_latent**2))

    return kernel


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances between the rows of x and of y, by one matrix product."""
    with torch.autocast(x.device.type, enabled=False):  # the difference of large norms needs float32
        gram = x @ y.T
    return (x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * gram).clamp_min(0)


def median_bandwidth(x: Tensor, y: Tensor) -> Tensor:
    """Median distance between the points of the pooled sample: the usual bandwidth of a Gaussian kernel.

    Parameters
    ----------
    x, y
        Samples, n x D and m x D.

    Returns
    -------
    A scalar without gradient; of an even number of pairs the lower median.

    Examples
    --------
    >>> float(median_bandwidth(torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0]])))  # of 1, 4 and 5
    4.0
    """
    joined = torch.cat([x, y]).detach()
    rows, columns = torch.triu_indices(len(joined), len(joined), offset=1, device=joined.device)
    return squared_distances(joined, joined)[rows, columns].median().sqrt()


def mmd(x: Tensor, y: Tensor, kernel: Kernel, *, unbiased: bool = True) -> Tensor:
    r"""Squared maximum mean discrepancy of two samples.

    .. math:: MMD^2 = E\,k(x, x') + E\,k(y, y') - 2 E\,k(x, y)

    Parameters
    ----------
    x, y
        Samples, n x D and m x D.
    kernel
        For instance :func:`imq_kernel` (n_latent).
    unbiased
        Leave out the pairs of a point with itself (the U-statistic). Its mean is zero for samples of one distribution,
        and single values may be negative. The biased form is never negative, and about (2/n) (1 - E k) for a perfect
        match.

    Returns
    -------
    A scalar. Its expectation does not depend on the number of cells or genes.

    Raises
    ------
    ValueError
        With fewer than two points on a side, for which the unbiased form is not defined.

    References
    ----------
    Gretton et al., A kernel two-sample test, JMLR 13 (2012), lemma 6.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> prior = torch.randn(500, 10, generator=g)
    >>> matched, collapsed = torch.randn(500, 10, generator=g), torch.zeros(500, 10)
    >>> k = imq_kernel(10)
    >>> bool(mmd(collapsed, prior, k) > 100 * abs(mmd(matched, prior, k)))
    True
    """
    n, m = len(x), len(y)
    if unbiased and min(n, m) < 2:
        raise ValueError(f"The unbiased MMD needs two points on each side; it got {n} and {m}.")
    # the pairs of draws from a prior need no gradient, and each pair of the two samples is compared once
    across = kernel(squared_distances(x, y)).mean(dtype=torch.float64)
    return (_mean_within(x, kernel, unbiased) + _mean_within(y, kernel, unbiased) - 2 * across).to(x.dtype)


def batch_mmd(z: Tensor, codes: Tensor, partners: Tensor, kernel: Kernel) -> Tensor:
    r"""Squared MMD between each batch of cells and the others, over cells that have a partner on the other side.

    .. math:: \sum_b s_b \, MMD^2(\{z_i, u_i\}, \{z_j, v_j\}), \qquad
              u_i = \sum_{c \ne b} n_{ic} \text{ for } i \in b, \quad v_j = n_{jb} \text{ for } j \notin b

    Cells are weighted by their number n of partners (mutual nearest neighbours) in the other batches. A pair of
    partners gives the same weight to both sides, so shares of cell types that differ between batches do not count, and
    a type that only one batch has weighs nothing. :math:`s_b` is the share of b in the pairs. As in the unbiased form
    of :func:`mmd`, pairs of a cell with itself are left out.

    Parameters
    ----------
    z
        Cells x D.
    codes
        Batch of each cell, from 0.
    partners
        n: number of partners of each cell in each batch, cells x batches.
    kernel
        For instance :func:`imq_kernel` (n_latent).

    Returns
    -------
    A scalar; 0 if no batch has two cells with partners on each side.

    Examples
    --------
    >>> z, codes = torch.tensor([[0.0], [0.1], [5.0], [5.1]]), torch.tensor([0, 0, 1, 1])
    >>> partners = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    >>> float(batch_mmd(z, codes, partners, imq_kernel(1))) > 0.5
    True
    >>> float(batch_mmd(z, codes, 0 * partners, imq_kernel(1)))
    0.0
    """
    member = torch.nn.functional.one_hot(codes, partners.shape[1]).to(partners)
    one_side, evidence = _shares(member * partners.sum(1, keepdim=True))
    other, _ = _shares(partners * (1 - member))
    k = kernel(squared_distances(z, z)).reshape(len(z), len(z))
    with torch.autocast(z.device.type, enabled=False):  # a small difference of means needs float32
        mmd = _mean_of_pairs(one_side, k) + _mean_of_pairs(other, k) - 2 * (one_side * (k @ other)).sum(0)
    counted = _has_pairs(one_side) & _has_pairs(other)
    evidence = torch.where(counted, evidence, 0.0)
    return (torch.where(counted, mmd, 0.0) * evidence).sum() / evidence.sum().clamp_min(1e-12)


def _shares(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Divide the columns by their sums; return both."""
    sums = weights.sum(0)
    return weights / sums.clamp_min(1e-12), sums


def _has_pairs(shares: Tensor) -> Tensor:
    """Return for each column whether at least two cells have a share."""
    return (shares > 0).sum(0) > 1


def _mean_of_pairs(shares: Tensor, k: Tensor) -> Tensor:
    """Return the weighted mean of a kernel over pairs of different cells, for each column of weights that sum to 1."""
    squares = shares.square()
    return ((shares * (k @ shares)).sum(0) - squares.T @ k.diagonal()) / (1 - squares.sum(0)).clamp_min(1e-6)


def _mean_within(x: Tensor, kernel: Kernel, unbiased: bool) -> Tensor:
    """Return the mean of a kernel over the pairs of one sample, without those of a point with itself if unbiased.

    The terms of the MMD nearly cancel, so they are summed in double precision.
    """
    n, k = len(x), kernel(squared_distances(x, x))
    total = k.sum(dtype=torch.float64)
    return (total - k.diagonal().sum(dtype=torch.float64)) / (n * (n - 1)) if unbiased else total / n**2
