"""The likelihoods p(x|z) of expression: what each needs from data and network, how it starts, its loss and its mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from diffvae import nn
from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae.model._features import Matrix, gene_means
from diffvae.nn._jacobian import logistic_slope


@dataclass(frozen=True)
class Likelihood:
    """A likelihood of expression given the output of the decoder.

    Attributes
    ----------
    name
        As in ``likelihood=...`` of the models.
    nll
        Maps (network, decoder output, expression, gene weights or None) to the loss: the mean over cells of the sum
        over genes.
    mean
        Maps the decoder output to the expected expression; None where they are the same.
    slope
        Derivative of ``mean`` as a function of the decoder output; None where it is 1.
    link
        The inverse of ``mean``; None where they are the same.
    initialise
        Called with (network, expression, numbers of the training cells) before the training; None keeps the random
        weights.
    unit_interval
        Whether expression must be in [0, 1].
    gene_variance
        Whether the network has a parameter ``logvar_x``, the log variance of each gene.
    """

    name: str
    nll: Callable[[nn.Autoencoder, Tensor, Tensor, Tensor | None], Tensor]
    mean: Callable[[Tensor], Tensor] | None = None
    slope: Callable[[Tensor], Tensor] | None = None
    link: Callable[[Tensor], Tensor] | None = None
    initialise: Callable[[nn.Autoencoder, Matrix, np.ndarray], None] | None = None
    unit_interval: bool = False
    gene_variance: bool = False


def gene_moments(matrix: Matrix, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and log variance of each gene in some cells, float32; variances below 1e-4 are raised to it."""
    blocks = matrix.blocks() if isinstance(matrix, BackedMatrix) else iter([(slice(0, matrix.shape[0]), matrix)])
    chosen = np.zeros(matrix.shape[0], dtype=bool)
    chosen[rows] = True
    mean = squares = np.zeros(matrix.shape[1])
    for cells, block in blocks:
        x = block[chosen[cells]].astype(np.float64)
        if share := x.shape[0] / len(rows):
            mean = mean + share * gene_means(x)
            squares = squares + share * gene_means(x.multiply(x).tocsr() if sparse.issparse(x) else np.square(x))
    return mean.astype(np.float32), np.log((squares - mean**2).clip(min=1e-4)).astype(np.float32)


def _gaussian_nll(module: nn.Autoencoder, output: Tensor, x: Tensor, weights: Tensor | None) -> Tensor:
    assert module.logvar_x is not None
    return nn.gaussian_nll(output, x, module.logvar_x)  # the variances weigh the genes


def _start_at_gene_moments(module: nn.Autoencoder, matrix: Matrix, rows: np.ndarray) -> None:
    """Start at the mean and variance of each gene, which Adam's small steps would not reach within a training."""
    mean, logvar = map(torch.from_numpy, gene_moments(matrix, rows))
    assert module.logvar_x is not None
    module.logvar_x.data = logvar
    module.decoder.linears[-1].bias.data = mean
    module.decoder.linears[-1].weight.data *= torch.exp(0.5 * logvar)[:, None]


LIKELIHOODS = {
    likelihood.name: likelihood
    for likelihood in (
        Likelihood(
            "bernoulli",
            nll=lambda module, output, x, weights: nn.bernoulli_nll(output, x, weights),
            mean=torch.sigmoid,
            slope=logistic_slope,
            link=lambda mean: torch.logit(mean, eps=1e-4),
            unit_interval=True,
        ),
        Likelihood("gaussian", nll=_gaussian_nll, initialise=_start_at_gene_moments, gene_variance=True),
        Likelihood("mse", nll=lambda module, output, x, weights: nn.squared_error(output, x, weights)),
    )
}
"""The likelihoods by name."""
