"""Preprocessing: say what the data are, normalise, choose genes, scale to [0, 1] and back."""

from diffvae._errors import DataError
from diffvae.pp._align import align_genes
from diffvae.pp._check import DataReport, check
from diffvae.pp._new import prepare_new
from diffvae.pp._prepare import prepare
from diffvae.pp._scale import from_unit, to_unit, unscale

__all__ = [
    "DataError",
    "DataReport",
    "align_genes",
    "check",
    "from_unit",
    "prepare",
    "prepare_new",
    "to_unit",
    "unscale",
]
