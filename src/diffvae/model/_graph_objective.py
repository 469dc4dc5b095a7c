"""Graph-DiffVAE's network and objective (eq 22)."""

from __future__ import annotations

import torch
from torch import Tensor

from diffvae import nn
from diffvae.model._graph_batches import GraphBatch
from diffvae.model._graph_config import GraphConfig


class GraphAutoencoder(torch.nn.Module):
    """Encoder on a graph, decoder of links, and for the joint model a decoder of expression.

    Parameters
    ----------
    n_genes
        Genes.
    config
        Hyper-parameters.
    """

    def __init__(self, n_genes: int, config: GraphConfig) -> None:
        super().__init__()
        n, hidden = config.n_latent, config.hidden
        self.encoder = nn.GraphEncoder(n_genes, hidden, n, conv=config.conv, dropout=config.dropout)
        self.decoder: nn.GraphiteDecoder | nn.InnerProductDecoder = (
            nn.GraphiteDecoder(n, n_genes, hidden) if config.decoder == "graphite" else nn.InnerProductDecoder()
        )
        self.expression = nn.Decoder(n, (hidden // 2, hidden), n_genes) if config.joint_weight else None


class GraphObjective:
    r"""Loss of Graph-DiffVAE, per (weighted) pair of cells.

    .. math:: L = L_{links}(Z^*) + w_{KL} \frac{1}{N} \overline{KL}(q(z_i) \| N(0, I))
              + w_{joint} \frac{1}{G} \overline{-\log p(x_i | z_i)}

    With the plain Bernoulli likelihood and w_KL = 1 the first two are eq 22 divided by the N^2 ordered pairs. The KL
    term grows from zero over the first epochs (``warmup``).

    Parameters
    ----------
    config
        Hyper-parameters.
    """

    def __init__(self, config: GraphConfig) -> None:
        self.config = config

    def __call__(
        self, module: GraphAutoencoder, batch: GraphBatch, generator: torch.Generator, *, warmup: float = 1.0
    ) -> dict[str, Tensor]:
        """Return ``loss`` and its unweighted terms ``links``, ``kl`` (nats per cell) and, if joint, ``nll`` (too)."""
        c = self.config
        mu, logvar = module.encoder(batch.x, batch.adjacency, generator)
        eps = torch.randn(mu.shape, generator=generator, device=mu.device)
        z = mu + torch.exp(0.5 * logvar) * eps
        places = module.decoder(z, batch.x, batch.adjacency)
        kl = nn.gaussian_kl(mu, logvar)
        links = self.links(places, batch)
        loss = links + c.kl_weight * warmup / batch.sampling.n_cells * kl
        terms = {"links": links, "kl": kl}
        if module.expression is not None:
            terms["nll"] = nn.bernoulli_nll(module.expression(z), batch.x)
            loss = loss + c.joint_weight / batch.x.shape[1] * terms["nll"]
        return {"loss": loss, **terms}

    def links(self, places: Tensor, batch: GraphBatch) -> Tensor:
        """Return the loss of the links of a batch for places Z*."""
        if self.config.link_loss == "categorical":
            return nn.categorical_link_nll(places, batch.edges, sampling=batch.sampling)
        return nn.link_nll(places, batch.edges, positive_weight=self.config.positive_weight, sampling=batch.sampling)
