"""A network behind the protocol, once it is trained: encode, decode, weights, and what is stored of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from diffvae import _random, nn
from diffvae._threads import torch_in_one_thread
from diffvae.model._base import Model
from diffvae.model._config import AutoencoderConfig
from diffvae.model._input import Matrix
from diffvae.nn._mlp import arrays_of, with_arrays
from diffvae.train import RowSource

DECODE_BLOCK = 4096
"""Cells per pass where nothing is learnt; bounds the memory of activations."""


class NetworkModel(Model, abstract=True):
    """What :class:`diffvae.nn.Autoencoder` gives a model, whatever it was trained for.

    Parameters
    ----------
    config
        Hyper-parameters.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.n_latent = config.n_latent
        self._module: nn.Autoencoder | None = None

    def __repr__(self) -> str:
        state = f"trained on {self.features.n_cells} cells" if self.is_trained else "not trained"
        return f"{type(self).__name__}(n_latent={self.n_latent}, hidden={self.config.hidden}; {state})"

    @property
    def module(self) -> nn.Autoencoder:
        """The torch module, in evaluation mode."""
        if self._module is None:
            raise self._not_trained()
        return self._module

    def get_params(self) -> dict[str, Any]:
        """Return the hyper-parameters."""
        return asdict(self.config)

    def _build(self, n_genes: int, rng: _random.Rng) -> nn.Autoencoder:
        c = self.config
        with _random.torch_seeded(rng, "weights"):
            return nn.Autoencoder(
                n_genes,
                c.hidden,
                c.n_latent,
                head=c.head,
                batch_norm=c.batch_norm,
                dropout=c.dropout,
                input_dropout=c.input_dropout,
                gene_variance=c.likelihood == "gaussian",
            )

    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _points(self, z: np.ndarray) -> np.ndarray:
        z = np.require(z, np.float32, ["C", "W"])
        if z.ndim != 2 or z.shape[1] != self.n_latent:
            raise ValueError(f"z has shape {z.shape}; it must be points x {self.n_latent} latent dimensions.")
        return z

    @torch_in_one_thread
    @torch.no_grad()
    def _encode(self, matrix: Matrix) -> np.ndarray:
        source = RowSource(matrix, self._device(), resident_limit=0)
        blocks = [self.module.encoder(source.rows(b))[0].cpu().numpy() for b in source.blocks(DECODE_BLOCK)]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.n_latent), np.float32)

    @torch_in_one_thread
    @torch.no_grad()
    def decode(self, z: np.ndarray) -> np.ndarray:
        """Return expected expression, on the scale of the training layer, for points of the latent space.

        Parameters
        ----------
        z
            Points x latent dimensions.

        Returns
        -------
        Points x genes, float32. Under the Bernoulli likelihood the logistic function of the decoder's output (eq 11).
        """
        z = self._points(z)
        blocks = []
        for i in range(0, len(z), DECODE_BLOCK):
            out = self.module.decoder(torch.from_numpy(z[i : i + DECODE_BLOCK]).to(self._device()))
            blocks.append((torch.sigmoid(out) if self.config.likelihood == "bernoulli" else out).cpu().numpy())
        return np.concatenate(blocks) if blocks else np.zeros((0, len(self.gene_names)), np.float32)

    @torch_in_one_thread
    @torch.no_grad()
    def gene_weights(self) -> np.ndarray:
        """Return omega = W_0 W_1 W_2, the product of the decoder's weights: latent dimensions x genes."""
        return nn.weight_product(self.module.decoder).cpu().numpy()

    @torch_in_one_thread
    def gene_jacobian(self, z: np.ndarray) -> np.ndarray:
        """Return the Jacobian of :meth:`decode`, averaged over points z: latent dimensions x genes."""
        points = torch.from_numpy(self._points(z)).to(self._device())
        logistic = self.config.likelihood == "bernoulli"
        return nn.mean_jacobian(self.module.decoder, points, logistic=logistic).cpu().numpy()

    def _draw_prior(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal((n, self.n_latent), dtype=np.float32)

    def _arrays(self) -> dict[str, np.ndarray]:
        return arrays_of(self.module)

    def _set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._module = with_arrays(lambda: self._build(len(self.features.gene_names), 0), arrays)
