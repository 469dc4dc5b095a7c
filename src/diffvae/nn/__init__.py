"""Networks and losses: torch only, no AnnData."""

from diffvae.nn._graph import (
    GCN,
    Adjacency,
    GraphEncoder,
    GraphiteDecoder,
    InnerProductDecoder,
    Propagated,
    normalized_adjacency,
)
from diffvae.nn._jacobian import mean_jacobian, weight_product
from diffvae.nn._link_loss import LinkedPairs, Sampling, categorical_link_nll, link_nll, pair_sum
from diffvae.nn._losses import bernoulli_nll, gaussian_kl, gaussian_nll, negative_binomial_nll, squared_error
from diffvae.nn._mlp import MLP, Autoencoder, Decoder, Encoder
from diffvae.nn._mmd import batch_mmd, imq_kernel, median_bandwidth, mmd, rbf_kernel, released_kernel

__all__ = [
    "GCN",
    "MLP",
    "Adjacency",
    "Autoencoder",
    "Decoder",
    "Encoder",
    "GraphEncoder",
    "GraphiteDecoder",
    "InnerProductDecoder",
    "LinkedPairs",
    "Propagated",
    "Sampling",
    "batch_mmd",
    "bernoulli_nll",
    "categorical_link_nll",
    "gaussian_kl",
    "gaussian_nll",
    "imq_kernel",
    "link_nll",
    "mean_jacobian",
    "median_bandwidth",
    "mmd",
    "negative_binomial_nll",
    "normalized_adjacency",
    "pair_sum",
    "rbf_kernel",
    "released_kernel",
    "squared_error",
    "weight_product",
]
