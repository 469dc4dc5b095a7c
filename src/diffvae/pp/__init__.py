"""Preprocessing: say what the data are, normalise, choose genes, scale to [0, 1] and back, join cells."""

from diffvae._errors import DataError
from diffvae.pp._cell_graph import cell_graph
from diffvae.pp._check import DataReport, check
from diffvae.pp._doublets import doublet_score
from diffvae.pp._new import align_genes, prepare_new
from diffvae.pp._prepare import prepare
from diffvae.pp._scale import from_unit, to_unit, unscale
from diffvae.pp._split_links import LinkSplit, split_links
from diffvae.pp._whiten import whiten

__all__ = [
    "DataError",
    "DataReport",
    "LinkSplit",
    "align_genes",
    "cell_graph",
    "check",
    "doublet_score",
    "from_unit",
    "prepare",
    "prepare_new",
    "split_links",
    "to_unit",
    "unscale",
    "whiten",
]
