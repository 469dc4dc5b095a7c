"""Data to begin with: a real set that is always there, a simulator with known truth, the published sets."""

from diffvae.datasets._pbmc import pbmc68k_reduced
from diffvae.datasets._simulate import simulate_differentiation

__all__ = ["pbmc68k_reduced", "simulate_differentiation"]
