"""Data sets: bundled real ones, a simulator with known truth, and the published ones."""

from diffvae.datasets._bundled import list_datasets, pancreas_endocrinogenesis, pbmc68k_reduced
from diffvae.datasets._human_hsc import human_hsc
from diffvae.datasets._pancreas import pancreas
from diffvae.datasets._simulate import simulate_differentiation
from diffvae.datasets._zebrafish import zebrafish

__all__ = [
    "human_hsc",
    "list_datasets",
    "pancreas",
    "pancreas_endocrinogenesis",
    "pbmc68k_reduced",
    "simulate_differentiation",
    "zebrafish",
]
