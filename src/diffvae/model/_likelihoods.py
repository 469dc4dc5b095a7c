"""The likelihoods p(x|z) of expression: what each needs from data and network, how it starts, its loss and its mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from diffvae import nn
from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae.model._features import BLOCK, Features, Matrix, dense, gene_means
from diffvae.nn._jacobian import logistic_slope
from diffvae.train import RowSource


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
        Whether the network has a parameter ``logvar_x``, the log variance or log dispersion of each gene.
    counts
        Whether counts are reconstructed instead of the values that the encoder sees.
    scaled
        Returns the likelihood with ``mean``, ``slope`` and ``link`` on the scale of given features; None where they do
        not depend on it.
    """

    name: str
    nll: Callable[[nn.Autoencoder, Tensor, Any, Tensor | None], Tensor]
    mean: Callable[[Tensor], Tensor] | None = None
    slope: Callable[[Tensor], Tensor] | None = None
    link: Callable[[Tensor], Tensor] | None = None
    initialise: Callable[[nn.Autoencoder, Matrix, np.ndarray], None] | None = None
    unit_interval: bool = False
    gene_variance: bool = False
    counts: bool = False
    scaled: Callable[[Likelihood, Features], Likelihood] | None = None

    def on_scale_of(self, features: Features) -> Likelihood:
        """Return the likelihood with means on the scale of the values that the encoder sees."""
        return self if self.scaled is None else self.scaled(self, features)


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


@dataclass(frozen=True)
class Counts:
    """The counts of cells and their library sizes, as targets of a training.

    Attributes
    ----------
    source
        Counts, cells x genes.
    log_size
        Log of the factor between the normalised and the measured total of each cell.
    """

    source: RowSource
    log_size: Tensor

    def __call__(self, rows: np.ndarray, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return counts (cells x genes) and log sizes (cells x 1) of the given cells."""
        return self.source.rows(rows), self.log_size[torch.from_numpy(rows).to(self.log_size.device), None]


def log_sizes(counts: Matrix, unit: Matrix, features: Features) -> np.ndarray:
    """Return the log of each cell's total counts over its total normalised expression, over the genes of the model.

    Of a held-out cell above the limits of the scaling the normalised expression was clipped: its size is too large by
    as much.
    """
    assert features.minimum is not None
    assert features.maximum is not None
    sizes = np.empty(counts.shape[0])
    for start in range(0, len(sizes), BLOCK):
        block, scaled = counts[start : start + BLOCK], dense(unit[start : start + BLOCK])
        rates = np.expm1(scaled * (features.maximum - features.minimum) + features.minimum).sum(axis=1)
        totals = np.asarray(block.sum(axis=1)).ravel()
        sizes[start : start + BLOCK] = np.divide(totals, rates, out=np.full(len(rates), np.nan), where=totals > 0)
    return np.log(np.where(np.isnan(sizes), np.nanmedian(sizes), sizes)).astype(np.float32)


def _negative_binomial_nll(
    module: nn.Autoencoder, output: Tensor, x: tuple[Tensor, Tensor], weights: Tensor | None
) -> Tensor:
    counts, log_size = x
    assert module.logvar_x is not None
    return nn.negative_binomial_nll(output + log_size, counts, module.logvar_x)  # the dispersions weigh the genes


def _start_at_dispersions(module: nn.Autoencoder, matrix: Matrix, rows: np.ndarray) -> None:
    """Start at each gene's mean and dispersion by moments."""
    mean, logvar = gene_moments(matrix, rows)
    mean = mean.clip(min=1e-4)
    assert module.logvar_x is not None
    module.logvar_x.data = torch.from_numpy(np.log(((np.exp(logvar) - mean) / mean**2).clip(0.1, 10)))
    module.decoder.linears[-1].bias.data = torch.from_numpy(np.log(mean))


def _on_unit_scale(likelihood: Likelihood, features: Features) -> Likelihood:
    """Return the negative binomial with means on the unit scale: the scaled log1p of the expected normalised counts."""
    low = torch.from_numpy(np.asarray(features.minimum, np.float32))
    scale = torch.from_numpy(np.asarray(features.maximum, np.float32)) - low
    scale = torch.where(scale > 0, scale, 1.0)

    def mean(output: Tensor) -> Tensor:
        return (F.softplus(output) - low.to(output.device)) / scale.to(output.device)

    def slope(output: Tensor) -> Tensor:  # log1p(exp(l)) is the softplus of l
        return torch.sigmoid(output) / scale.to(output.device)

    def link(mean: Tensor) -> Tensor:
        return torch.log(torch.expm1(mean * scale + low).clamp(min=1e-4))

    return replace(likelihood, mean=mean, slope=slope, link=link)


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
        Likelihood(
            "nb", nll=_negative_binomial_nll, initialise=_start_at_dispersions, gene_variance=True, counts=True,
            scaled=_on_unit_scale,
        ),
        Likelihood("mse", nll=lambda module, output, x, weights: nn.squared_error(output, x, weights)),
    )
}  # fmt: skip
"""The likelihoods by name."""
