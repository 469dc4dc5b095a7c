"""Networks and losses: torch only, nothing of AnnData."""

from diffvae.nn._jacobian import mean_jacobian, weight_product
from diffvae.nn._losses import bernoulli_nll, gaussian_kl, gaussian_nll, squared_error
from diffvae.nn._mlp import MLP, Autoencoder, Decoder, Encoder
from diffvae.nn._mmd import imq_kernel, median_bandwidth, mmd, rbf_kernel, released_kernel

__all__ = [
    "MLP",
    "Autoencoder",
    "Decoder",
    "Encoder",
    "bernoulli_nll",
    "gaussian_kl",
    "gaussian_nll",
    "imq_kernel",
    "mean_jacobian",
    "median_bandwidth",
    "mmd",
    "rbf_kernel",
    "released_kernel",
    "squared_error",
    "weight_product",
]
