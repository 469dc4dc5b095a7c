"""Reconstruction and Kullback-Leibler terms: nats per cell, summed over genes or dimensions."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _BernoulliNLL(torch.autograd.Function):
    """Sum of w (softplus(l) - x l) over all entries, whose gradient in l is w (sigmoid(l) - x).

    ``x`` and the weights of the genes get no gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor, weights: Tensor | None) -> Tensor:
        ctx.save_for_backward(logits, x, weights)
        # torch's own one-pass log(1 + exp(.)) is exact for large |logits| as well
        nll = F.softplus(logits).addcmul_(logits, x, value=-1)
        # not a matrix product, which autocast would round to bfloat16
        return nll.sum() if weights is None else torch.dot(nll.sum(0), weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits, x, weights = ctx.saved_tensors
        slope = torch.sigmoid(logits).sub_(x)
        return slope.mul_(grads[0] if weights is None else weights * grads[0]), None, None


def bernoulli_nll(logits: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Negative log-likelihood of Bernoulli genes with soft targets, from logits.

    .. math:: -\log p(x|z) = \sum_g w_g \left( \log(1 + e^{l_g}) - x_g l_g \right)

    Parameters
    ----------
    logits
        Decoder output l before the logistic function, cells x genes.
    x
        Expression in [0, 1], cells x genes.
    weights
        Weight of each gene; None for 1.

    Returns
    -------
    Nats per cell, mean over cells. With soft targets the minimum is the entropy of ``x``, not zero.

    Examples
    --------
    >>> round(float(bernoulli_nll(torch.zeros(2, 3), torch.ones(2, 3))), 4)  # 3 log 2
    2.0794
    """
    return _BernoulliNLL.apply(logits.float(), x.float(), weights) / x.shape[0]


def gaussian_nll(mean: Tensor, x: Tensor, logvar: Tensor) -> Tensor:
    r"""Negative log-likelihood of Gaussian genes with one variance per gene.

    .. math:: -\log p(x|z) = \tfrac12 \sum_g \log 2\pi + \log\sigma_g^2 + (x_g - m_g)^2 / \sigma_g^2

    Parameters
    ----------
    mean, x
        Prediction and expression, cells x genes.
    logvar
        log sigma^2, one value per gene.

    Returns
    -------
    Nats per cell, mean over cells.

    Examples
    --------
    >>> x = torch.zeros(2, 3)
    >>> round(float(gaussian_nll(x, x, torch.zeros(3))), 3)  # 3/2 log(2 pi)
    2.757
    """
    squares = (x.float() - mean.float()).square() * torch.exp(-logvar)
    return 0.5 * ((squares + logvar).sum() / x.shape[0] + x.shape[1] * math.log(2 * math.pi))


def negative_binomial_nll(log_mean: Tensor, x: Tensor, log_dispersion: Tensor) -> Tensor:
    r"""Negative log-likelihood of counts under negative binomial distributions with one dispersion per gene.

    .. math:: -\log p(x|z) = \sum_g \log \frac{\Gamma(\theta_g)\, x_g!}{\Gamma(x_g + \theta_g)}
              + \theta_g \log \frac{m_g + \theta_g}{\theta_g} + x_g \log \frac{m_g + \theta_g}{m_g},
              \qquad \theta_g = 1 / \alpha_g, \quad Var(x_g) = m_g + \alpha_g m_g^2

    Parameters
    ----------
    log_mean
        log m, cells x genes.
    x
        Counts, cells x genes.
    log_dispersion
        log alpha, one value per gene.

    Returns
    -------
    Nats per cell, mean over cells.

    Examples
    --------
    >>> zero = torch.zeros(1, 1)
    >>> round(float(negative_binomial_nll(zero, zero, zero[0])), 4)  # m = alpha = 1: geometric with p = 1/2
    0.6931
    """
    log_mean, x = log_mean.float(), x.float()
    theta = torch.exp(-log_dispersion)
    log_total = torch.logaddexp(log_mean, -log_dispersion)
    nll = torch.lgamma(theta) + torch.lgamma(x + 1) - torch.lgamma(x + theta)
    nll = nll + theta * (log_total + log_dispersion) + x * (log_total - log_mean)
    return nll.sum() / x.shape[0]


def squared_error(prediction: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Sum over genes of the squared error, mean over cells (the paper's loss for the plain autoencoder).

    .. math:: \sum_g w_g (\hat x_g - x_g)^2

    Parameters
    ----------
    prediction, x
        Prediction and expression, cells x genes.
    weights
        Weight of each gene; None for 1.

    Returns
    -------
    Mean over cells: up to a constant, the negative log-likelihood of a Gaussian with variance 1/2.

    Examples
    --------
    >>> float(squared_error(torch.zeros(2, 3), torch.ones(2, 3)))
    3.0
    """
    squares = (prediction.float() - x.float()).square()
    return (squares.sum() if weights is None else torch.dot(squares.sum(0), weights)) / x.shape[0]


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    r"""Divergence of the posterior from the standard normal prior (eq 13 of Bica et al.).

    .. math:: KL(q(z|x) \| N(0, I)) = \tfrac12 \sum_d \mu_d^2 + \sigma_d^2 - 1 - \log\sigma_d^2

    Parameters
    ----------
    mu, logvar
        Posterior mean and log sigma^2, cells x latent dimensions.

    Returns
    -------
    Nats per cell, mean over cells.

    Examples
    --------
    >>> float(gaussian_kl(torch.ones(4, 2), torch.zeros(4, 2)))  # 2 dimensions, each 1/2
    1.0
    """
    mu, logvar = mu.float(), logvar.float()
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum() / mu.shape[0]
