"""Maximum mean discrepancy (MMD) between the aggregate posterior and the prior."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Kernel = Callable[[Tensor], Tensor]
"""Takes squared Euclidean distances, gives kernel values."""

IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def imq_kernel(n_latent: int, scales: tuple[float, ...] = IMQ_SCALES) -> Kernel:
    r"""Inverse multiquadratic kernel, mean over several scales.

    .. math:: k(x, y) = \frac{1}{S} \sum_s \frac{s C}{s C + \|x - y\|^2}, \quad C = 2 D

    2 D is the expected squared distance of two draws from the D-dimensional prior, so that some scale fits however
    far the posterior is from it; heavy tails keep a gradient for outliers.

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
    """
    constants = [2.0 * n_latent * s for s in scales]

    def kernel(squared: Tensor) -> Tensor:
        total = torch.zeros_like(squared)
        for c in constants:
            total = total + c / (squared + c)
        return total / len(constants)

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
    """

    def kernel(squared: Tensor) -> Tensor:
        return torch.exp(squared / (-2 * bandwidth**2))

    return kernel


def released_kernel(n_latent: int) -> Kernel:
    r"""Kernel of the code that was released with the paper: :math:`\exp(-\|x - y\|^2 / D^2)`.

    At D = 50 every distance that occurs is small beside D^2, so that the kernel is nearly constant and a collapsed
    latent scores like a matched one. It is here to reproduce that code and for nothing else.

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
    """

    def kernel(squared: Tensor) -> Tensor:
        return torch.exp(squared / -(n_latent**2))

    return kernel


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances between the rows of x and of y, by one matrix product."""
    with torch.autocast(x.device.type, enabled=False):  # in bfloat16 the difference of large norms would be noise
        gram = x @ y.T
    return (x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * gram).clamp_min(0)


def median_bandwidth(x: Tensor, y: Tensor) -> Tensor:
    """Median distance between the points of the joined sample: the usual width of a Gaussian kernel.

    Parameters
    ----------
    x, y
        Samples, n x D and m x D.

    Returns
    -------
    A scalar without gradient. Of an even number of pairs, the lower of the two in the middle.

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
        Leave out the pairs of a point with itself (the U-statistic): the mean is then zero when both samples come
        from one distribution, and single values may be negative. The biased form is at least zero, and above zero
        by about (2/n) (1 - E k) even for a perfect match.

    Returns
    -------
    A scalar. It depends neither on the number of cells (but for noise) nor on the number of genes.

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
    joined = torch.cat([x, y])
    k = kernel(squared_distances(joined, joined))  # one pass for all three blocks: small operations cost by number
    k_xx, k_yy, k_xy = k[:n, :n], k[n:, n:], k[:n, n:]
    if unbiased:
        within_x = (k_xx.sum() - k_xx.diagonal().sum()) / (n * (n - 1))
        within_y = (k_yy.sum() - k_yy.diagonal().sum()) / (m * (m - 1))
    else:
        within_x, within_y = k_xx.mean(), k_yy.mean()
    return within_x + within_y - 2 * k_xy.mean()
