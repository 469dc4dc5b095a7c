"""The same model trained again: other seeds, other cells held out, and what is read off each training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae import _keys, _random
from diffvae._errors import DataError
from diffvae._seeds import alive_dimensions
from diffvae.model import PCA, Model
from diffvae.model._input import fingerprint, layer_matrix

if TYPE_CHECKING:
    from anndata import AnnData

READINGS = ("weights", "jacobian")
N_CELLS = 1000
"""Cells over which the Jacobian is averaged."""
HELD_OUT = 0.2
"""Share of the cells that a further training leaves out where the cells have no split, or none to watch."""


@dataclass(frozen=True)
class Training:
    """What one training says: cells x dimensions, which dimensions are alive, and their genes (dimensions x genes)."""

    z: np.ndarray
    alive: np.ndarray
    weights: np.ndarray
    jacobian: np.ndarray

    def rows(self, by: str) -> np.ndarray:
        """Return dimensions x genes, or x cells for ``"latent"``, whose cosine is then Pearson's correlation."""
        found: np.ndarray = (self.z - self.z.mean(axis=0)).T if by == "latent" else getattr(self, by)
        return found


def read(model: Model, adata: AnnData, cells: np.ndarray) -> Training:
    """Return what a trained model says of these cells; the Jacobian is averaged over the rows ``cells``."""
    latent = model.get_latent_representation(adata)
    z = latent.astype(np.float64)
    weights, jacobian = model.gene_weights(), model.gene_jacobian(latent[cells])
    return Training(z, alive_dimensions(z, has_prior(model)), weights, jacobian)


def has_prior(model: Model) -> bool:
    """Return whether the scale of the latent is fixed by a prior."""
    config = getattr(model, "config", None)
    return config is not None and config.noise != "none"


def prepare_reference(adata: AnnData, model: Model, training: Mapping[str, Any], rng: _random.Rng) -> dict[str, Any]:
    """Train an untrained model, refuse one of other cells; return how further trainings are to be called."""
    if not model.is_trained:
        model.train(adata, rng=_random.seed(rng, "stability reference"), **training)
        return dict(training)
    layer = model.features.layer
    if fingerprint(layer_matrix(adata, layer)) != model.features.fingerprint:
        raise DataError(
            "The model was trained on other cells or other values than those of adata; give the cells that it was "
            "trained on, as they were then."
        )
    # as many epochs as the reference had; models without epochs pass over it
    return {"layer": layer, "max_epochs": len(model.history)} | dict(training)


def held_out(adata: AnnData) -> float:
    """Return the share of cells that further trainings leave out: as many as the split of the cells does."""
    if _keys.SPLIT not in adata.obs:
        return HELD_OUT
    return float((adata.obs[_keys.SPLIT] == "validation").mean()) or HELD_OUT


def again(adata: AnnData, model: Model, how: Mapping[str, Any], seed: int) -> Model:
    """Return a model of the same configuration, trained with another seed."""
    return type(model)(**model.get_params()).train(adata, rng=seed, **how)


def baseline(adata: AnnData, model: Model) -> PCA:
    """Return PCA with as many components as the model has dimensions, or as the cells allow."""
    n_train = adata.n_obs - round(held_out(adata) * adata.n_obs)
    n_latent = min(model.n_latent, min(n_train, adata.n_vars) - 1)
    return PCA(n_latent).train(adata, layer=model.features.layer)
