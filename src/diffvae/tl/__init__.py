"""Tools: clusters, genes, cell types, perturbations and links from a latent representation."""

from diffvae.tl._annotate import annotate
from diffvae.tl._batches import batch_association
from diffvae.tl._cluster import cluster
from diffvae.tl._commitment import commitment
from diffvae.tl._dimensions import latent_dimensions
from diffvae.tl._embed import embed
from diffvae.tl._fates import fates
from diffvae.tl._gene_weights import gene_weights, high_weight_genes
from diffvae.tl._integration import integration
from diffvae.tl._link_table import link_table
from diffvae.tl._links import links
from diffvae.tl._markers import load_markers
from diffvae.tl._minimal_genes import MinimalGenes, minimal_genes
from diffvae.tl._neighbors import neighbors
from diffvae.tl._passport import Passport, passport
from diffvae.tl._perturb import Perturbation, perturb
from diffvae.tl._route import route
from diffvae.tl._tsne import tsne, tsne_transform

__all__ = [
    "MinimalGenes",
    "Passport",
    "Perturbation",
    "annotate",
    "batch_association",
    "cluster",
    "commitment",
    "embed",
    "fates",
    "gene_weights",
    "high_weight_genes",
    "integration",
    "latent_dimensions",
    "link_table",
    "links",
    "load_markers",
    "minimal_genes",
    "neighbors",
    "passport",
    "perturb",
    "route",
    "tsne",
    "tsne_transform",
]
