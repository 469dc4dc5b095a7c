"""The objective of the InfoVAE family: reconstruction + KL + MMD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffvae import nn
from diffvae.model._config import AutoencoderConfig
from diffvae.model._features import Features
from diffvae.model._likelihoods import LIKELIHOODS
from diffvae.nn._shared_batch import Noise, common, normal


def gene_weights(config: AutoencoderConfig, features: Features) -> Tensor | None:
    r"""Return the weights of the genes in the reconstruction term; None where all have the same.

    On [0, 1] a gene whose highest value is one count weighs as much as one that rises a hundredfold. With
    ``gene_weighting="range"``

    .. math:: w_g = (b_g - a_g)^2 / \overline{(b - a)^2}

    with the limits a, b of the scaling, an error counts as a squared error on log-normalised expression does.
    """
    if config.gene_weighting == "equal" or features.minimum is None or features.maximum is None:
        return None
    squares = np.square(features.maximum - features.minimum)
    return torch.from_numpy((squares / squares.mean()).astype(np.float32)) if squares.any() else None


BATCH_SCALES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Scales of the kernel between batches of cells, which differ less than cells and prior."""


class InfoVAEObjective:
    r"""Loss of an autoencoder on a batch, in nats per cell.

    .. math:: L = -E_{q(z|x)} \log p(x|z) + w_{KL} \, KL(q(z|x) \| p(z)) + w_{MMD} \, MMD^2(q(z), p(z))

    with p(z) = N(0, I), and perhaps a covariance penalty on mu. ``gene_weights`` weigh the genes in the first term, and
    ``target`` maps the numbers and values of the cells to the values to be reconstructed. With w_KL = 0 and w_MMD = 1
    this is eq 2 of the paper, with w_KL = 1 and w_MMD = 0 the loss of a VAE (eq 13), and without noise that of a plain
    autoencoder.

    References
    ----------
    Zhao, Song, Ermon, InfoVAE, AAAI 2019, eq 6; Bica et al. 2020, eqs 2 and 13.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        gene_weights: Tensor | None = None,
        gather: Callable[[Tensor], Tensor] = lambda z: z,
        target: Callable[[np.ndarray, Tensor], Any] = lambda rows, x: x,
        covariates: Callable[[np.ndarray], Tensor | None] = lambda rows: None,
        partners: Callable[[np.ndarray], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.config = config
        self.gene_weights = gene_weights
        self.gather = gather
        self.target = target
        self.covariates = covariates
        self.partners = partners

    def __call__(self, module: Any, x: Tensor, rows: np.ndarray, generator: Noise) -> dict[str, Tensor]:
        """Return ``loss`` and its unweighted terms: ``nll``; with noise ``kl``, ``mmd`` and perhaps ``covariance``."""
        covariates = self.covariates(rows)
        mu, logvar = module.encoder(x, generator, covariates)
        mu, logvar = mu.float(), logvar.float()
        z = self.draw(mu, logvar, generator)
        nll = self.reconstruction(module, module.decoder(z, covariates), self.target(rows, x))
        if self.config.noise == "none":
            return {"loss": nll, "nll": nll}
        kl, mmd = self.kl(mu, logvar), self.mmd(z, generator)
        loss = nll
        if self.config.kl_weight:
            loss = loss + self.config.kl_weight * kl
        if self.config.mmd_weight:
            loss = loss + self.config.mmd_weight * mmd
        terms = {"nll": nll, "kl": kl, "mmd": mmd}
        if self.config.covariance_weight:
            terms["covariance"] = self.covariance(mu)
            loss = loss + self.config.covariance_weight * terms["covariance"]
        if self.partners is not None and self.config.batch_mmd_weight:
            terms["batch_mmd"] = self.batch_mmd(mu, *self.partners(rows))
            loss = loss + self.config.batch_mmd_weight * terms["batch_mmd"]
        return {"loss": loss, **terms}

    def draw(self, mu: Tensor, logvar: Tensor, generator: Noise) -> Tensor:
        """Draw z = mu + sigma eps (eq 8); ``noise="shared"`` draws one eps per batch, as the released code."""
        if self.config.noise == "none":
            return mu
        if self.config.noise == "independent":
            eps = normal(mu.shape, generator, mu.device)
        else:
            eps = torch.randn((1, 1), generator=common(generator), device=mu.device)
        return mu + torch.exp(0.5 * logvar) * eps

    def reconstruction(self, module: nn.Autoencoder, output: Tensor, x: Any) -> Tensor:
        """Return the reconstruction term for the decoder's output; x is what ``target`` returns."""
        return LIKELIHOODS[self.config.likelihood].nll(module, output, x, self.gene_weights)

    def kl(self, mu: Tensor, logvar: Tensor) -> Tensor:
        """Return the KL term, without its gradient where its weight is zero."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.kl_weight > 0):
            return nn.gaussian_kl(mu, logvar)

    def mmd(self, z: Tensor, generator: Noise) -> Tensor:
        """Return the squared MMD between a batch of z and draws from the prior.

        It is a statistic of the whole batch, so z of the processes that share a batch are gathered first.
        """
        z = self.gather(z)
        if len(z) < 2:
            return torch.zeros((), device=z.device)
        size = self.config.mmd_prior_size or len(z)
        prior = torch.randn(size, z.shape[1], generator=common(generator), device=z.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.mmd_weight > 0):
            return nn.mmd(z, prior, self.kernel(z, prior), unbiased=self.config.mmd_unbiased)

    def covariance(self, mu: Tensor) -> Tensor:
        r"""Return the sum of the squared covariances between dimensions of mu, as in DIP-VAE (Kumar et al. 2018).

        .. math:: \sum_{c \ne d} Cov(\mu_c, \mu_d)^2

        It is a statistic of the batch. Of independent dimensions with variances v it is not 0 but on average
        :math:`\sum_{c \ne d} v_c v_d / (n - 1)` with n cells, so that it also holds variances down, in small batches
        more. Subtracting this leaves it unbounded below: on 60 cells a training diverged.
        """
        mu = self.gather(mu)
        with torch.autocast(mu.device.type, enabled=False):  # single precision, like the MMD
            centred = mu.float() - mu.float().mean(0)
            covariance = centred.T @ centred / max(len(mu) - 1, 1)
            return covariance.square().sum() - covariance.diagonal().square().sum()

    def batch_mmd(self, mu: Tensor, codes: Tensor, partners: Tensor) -> Tensor:
        """Return the MMD between batches of cells, a statistic of the whole batch of the training."""
        n = mu.shape[1]
        together = self.gather(torch.cat([mu, codes[:, None].to(mu), partners], dim=1))  # one exchange for all
        mu, codes, partners = together[:, :n], together[:, n].long(), together[:, n + 1 :]
        return nn.batch_mmd(mu, codes, partners, nn.imq_kernel(n, BATCH_SCALES))

    def kernel(self, z: Tensor, prior: Tensor) -> nn._mmd.Kernel:
        """Return the kernel ``mmd_kernel``."""
        if self.config.mmd_kernel == "imq":
            return nn.imq_kernel(z.shape[1])
        if self.config.mmd_kernel == "rbf":
            return nn.rbf_kernel(self.config.mmd_bandwidth or nn.median_bandwidth(z, prior))
        return nn.released_kernel(z.shape[1])
