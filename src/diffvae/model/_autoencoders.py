"""DiffVAE, and the same network with other objectives: VAE and the plain autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np

from diffvae.model._config import AutoencoderConfig, from_preset
from diffvae.model._neural import NeuralModel

FIXED = (
    "mmd_weight", "mmd_kernel", "mmd_bandwidth", "mmd_unbiased", "mmd_prior_size", "noise",
    "covariance_weight", "batch_mmd_weight", "encode_covariates", "linear_skip", "target_neighbors", "batch_size",
)  # fmt: skip
"""Hyper-parameters that the baselines do not have."""


class DiffVAE(NeuralModel):
    r"""The MMD-VAE of the paper, a member of the InfoVAE family.

    .. math:: L = -E_{q(z|x)} \log p(x|z) + w_{KL}\, KL(q(z|x) \| p(z)) + w_{MMD}\, MMD^2(q(z), p(z))

    in nats per cell, summed over genes. The default has both divergences: with MMD alone, as in the paper (eq 2), the
    posterior variance may vanish; KL alone switches dimensions off. It starts at the principal components, reconstructs
    the mean of each cell and its neighbours, and penalises covariances between dimensions (docs/study.md has the
    evidence). Arguments that are None are taken from the preset.

    Parameters
    ----------
    preset
        ``"default"``: recommended. ``"paper"``: the equations as printed. ``"code"``: the released code with its faults
        (one noise value per batch, a kernel that does not detect collapse).
    n_latent
        Latent dimensions D (50).
    hidden
        Widths of the encoder; the decoder mirrors them: (128,), in the other presets (512, 256).
    likelihood
        ``"bernoulli"`` from logits, for values in [0, 1]; ``"gaussian"`` with a variance per gene; ``"mse"``; ``"nb"``,
        the negative binomial of the counts in ``layers["counts"]``, with the library size as an offset and a dispersion
        per gene. The encoder sees ``"unit"`` under ``"nb"`` as well, and :meth:`decode` returns the scaled log1p of
        expected normalised counts.
    gene_weighting
        ``"equal"``, or ``"range"``: the weight of a gene in the reconstruction is the square of its range before
        scaling, so that errors weigh as on log-normalised expression. ``"gaussian"`` and ``"nb"`` ignore it.
    kl_weight, mmd_weight
        Weights of the two divergences.
    mmd_kernel
        ``"imq"`` (multi-scale), ``"rbf"`` (median bandwidth, or ``mmd_bandwidth``), ``"released"``.
    mmd_bandwidth
        Bandwidth of the RBF kernel; None for the median rule.
    mmd_unbiased
        Use the unbiased U-statistic; False for the biased estimator of the released code.
    mmd_prior_size
        Draws from the prior per batch; None for the number of cells in the batch.
    covariance_weight
        Weight of the squared covariances between dimensions of mu (DIP-VAE, Kumar et al. 2018). KL and MMD do not see
        them where the noise of the posterior hides them (docs/tried.md has its effect).
    batch_mmd_weight
        Weight of the MMD between batches (:func:`diffvae.nn.batch_mmd`), if the model is trained with ``batch_key``.
    encode_covariates
        Whether the encoder sees batches and covariates. Without them it can encode cells of any batch, but removes less
        of the effect.
    noise
        ``"independent"``: one draw per cell and dimension (eq 8). ``"shared"``: one per batch, as in the released code.
        ``"none"``: no noise and no prior.
    head
        Activation of mu and log sigma^2: ``"linear"``, ``"relu"`` (eqs 6 and 7 as printed) or ``"relu_bn"`` (released
        code).
    batch_norm
        Batch normalisation after each hidden layer of the encoder.
    dropout
        Dropout in the encoder after its first layer.
    input_dropout
        Share of a cell's genes that are hidden from the encoder in training, but still reconstructed.
    linear_skip
        Add a linear map to encoder and decoder, beside the hidden layers. The maps start at the principal components,
        each shrunk by its share of noise (Wiener filter), so that the training starts at PCA.
    target_neighbors
        Reconstruct the mean of each cell and this many nearest neighbours, instead of the cell alone. Neighbours are
        training cells, found in 50 principal components; above 20,000 training cells, 20,000 of them at random.
        ``"nb"`` reconstructs the counts of the cell alone.
    batch_size
        Largest number of cells per step, if :meth:`train` gets none.
    lr
        Learning rate of Adam, if :meth:`train` gets none.
    min_steps
        Smallest number of optimisation steps, if :meth:`train` gets no ``max_epochs``.
    early_stopping
        Whether to stop when the validation loss no longer improves, if :meth:`train` gets no ``early_stopping``.

    References
    ----------
    Bica et al., Unsupervised generative and graph representation learning for modelling cell differentiation,
    Scientific Reports 10:9790 (2020), eqs 2-12. Zhao et al., InfoVAE, AAAI 2019.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.DiffVAE(n_latent=10).train(adata, max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 10)
    """

    def __init__(
        self,
        preset: str = "default",
        *,
        n_latent: int | None = None,
        hidden: Sequence[int] | None = None,
        likelihood: str | None = None,
        gene_weighting: str | None = None,
        kl_weight: float | None = None,
        mmd_weight: float | None = None,
        mmd_kernel: str | None = None,
        mmd_bandwidth: float | None = None,
        mmd_unbiased: bool | None = None,
        mmd_prior_size: int | None = None,
        covariance_weight: float | None = None,
        batch_mmd_weight: float | None = None,
        encode_covariates: bool | None = None,
        noise: str | None = None,
        head: str | None = None,
        batch_norm: bool | None = None,
        dropout: float | None = None,
        input_dropout: float | None = None,
        linear_skip: bool | None = None,
        target_neighbors: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        min_steps: int | None = None,
        early_stopping: bool | None = None,
    ) -> None:
        overrides = {k: v for k, v in locals().items() if k not in ("self", "preset", "__class__")}
        super().__init__(from_preset(preset, overrides))
        self.preset = preset

    @classmethod
    def _from_params(cls, params: Mapping[str, Any]) -> Self:
        # a parameter that the version which saved the model did not have has the value of the equations
        return cls(**{**asdict(AutoencoderConfig()), **params})

    def get_params(self) -> dict[str, Any]:
        """Return the preset and the hyper-parameters."""
        return {"preset": self.preset, **super().get_params()}


class VAE(NeuralModel):
    r"""Standard variational autoencoder, the first baseline of the paper (eq 13): KL weight 1, no MMD.

    .. math:: L = -E_{q(z|x)} \log p(x|z) + w_{KL}\, KL(q(z|x) \| p(z))

    Parameters
    ----------
    n_latent, hidden, likelihood, gene_weighting, kl_weight, head, batch_norm, dropout, input_dropout, lr, min_steps
        As in :class:`DiffVAE`.
    early_stopping
        As in :class:`DiffVAE`.

    References
    ----------
    Kingma and Welling, Auto-encoding variational Bayes, ICLR 2014.

    Examples
    --------
    >>> VAE(n_latent=10)
    VAE(n_latent=10, hidden=(512, 256); not trained)
    """

    def __init__(
        self,
        *,
        n_latent: int = 50,
        hidden: Sequence[int] = (512, 256),
        likelihood: str = "bernoulli",
        gene_weighting: str = "equal",
        kl_weight: float = 1.0,
        head: str = "linear",
        batch_norm: bool = True,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        lr: float = 1e-3,
        min_steps: int = 1000,
        early_stopping: bool = False,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(AutoencoderConfig(**arguments))

    def get_params(self) -> dict[str, Any]:
        """Return the hyper-parameters."""
        return {k: v for k, v in super().get_params().items() if k not in FIXED}


class AutoEncoder(NeuralModel):
    """Plain autoencoder, the second baseline of the paper: no noise, no prior, reconstruction only.

    Parameters
    ----------
    n_latent, hidden, gene_weighting, batch_norm, dropout, input_dropout, lr, min_steps, early_stopping
        As in :class:`DiffVAE`.
    likelihood
        ``"mse"`` as in the paper, ``"bernoulli"`` as in its code, or ``"gaussian"``.

    Notes
    -----
    There is no prior, so ``sample(noise=False)`` draws from a Gaussian fitted to the latent of the training cells.

    Examples
    --------
    >>> AutoEncoder(n_latent=10)
    AutoEncoder(n_latent=10, hidden=(512, 256); not trained)
    """

    def __init__(
        self,
        *,
        n_latent: int = 50,
        hidden: Sequence[int] = (512, 256),
        likelihood: str = "bernoulli",
        gene_weighting: str = "equal",
        batch_norm: bool = True,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        lr: float = 1e-3,
        min_steps: int = 1000,
        early_stopping: bool = False,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(AutoencoderConfig(noise="none", **arguments))

    def get_params(self) -> dict[str, Any]:
        """Return the hyper-parameters."""
        return {k: v for k, v in super().get_params().items() if k not in (*FIXED, "kl_weight", "head")}

    def _set_trained(self, *results: Any) -> None:
        super()._set_trained(*results)
        z = self.get_latent_representation().astype(np.float64)
        self._moments = {"latent_mean": z.mean(0), "latent_covariance": np.cov(z.T).reshape(2 * (self.n_latent,))}

    def _draw_prior(self, n: int, rng: np.random.Generator) -> np.ndarray:
        mean, covariance = self._moments["latent_mean"], self._moments["latent_covariance"]
        return rng.multivariate_normal(mean, covariance, size=n).astype(np.float32)

    def _arrays(self) -> dict[str, np.ndarray]:
        return super()._arrays() | self._moments

    def _set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._moments = {k: arrays[k] for k in ("latent_mean", "latent_covariance")}
        super()._set_arrays({k: v for k, v in arrays.items() if k not in self._moments})
