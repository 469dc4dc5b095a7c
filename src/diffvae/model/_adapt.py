"""Weights for batches that a trained model has not seen; all else stays as it is."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from diffvae import _random
from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae._core.io.matrix import quoted
from diffvae._errors import DataError
from diffvae.model._batches import mutual_neighbors, offsets
from diffvae.model._covariates import MIN_CELLS, Covariates, names_of
from diffvae.model._features import Matrix, dense

if TYPE_CHECKING:
    from diffvae.model._neural import NeuralModel

REFERENCE = 2000
"""Training cells whose latent means a model with batches keeps, to adapt to others."""
N_ROUNDS = 5


def reference_of(
    model: NeuralModel, matrix: Matrix, design: np.ndarray, rows: np.ndarray, rng: _random.Rng
) -> np.ndarray:
    """Return the latent means of up to 2,000 random training cells."""
    if len(rows) > REFERENCE:
        rows = np.sort(_random.generator(rng, "reference of batches").choice(rows, REFERENCE, replace=False))
    return model._posterior(matrix.at(rows) if isinstance(matrix, BackedMatrix) else matrix[rows], design[rows])[0]


def new_levels(covariates: Covariates, obs: pd.DataFrame) -> list[str]:
    """Return the batches that the model has not seen, or refuse the cells."""
    key = covariates.batch_key
    assert key is not None
    if key not in obs:
        raise DataError(f"obs has no column {key!r}, which names the batches of this model; add it to the new cells.")
    if missing := int(obs[key].isna().sum()):
        raise DataError(f"obs[{key!r}] is missing for {missing:,} cells; give them a batch.")
    sizes = names_of(obs[key]).value_counts()
    sizes = sizes[~sizes.index.isin(covariates.batches)]
    if sizes.empty:
        raise DataError(f"The model knows all batches of the cells ({quoted(covariates.batches)}); use it as it is.")
    if sizes.min() < MIN_CELLS:
        raise DataError(
            f"obs[{key!r}] is {sizes.index[-1]!r} in only {sizes.min()} cell{'s' if sizes.min() > 1 else ''}; at least "
            f"{MIN_CELLS} are needed to adapt to a batch."
        )
    return sorted(sizes.index)


def adapt(model: NeuralModel, matrix: Matrix, obs: pd.DataFrame) -> Any:
    """Return a copy of a model with weights for the new batches; see :meth:`NeuralModel.adapt`."""
    covariates = model._covariates
    if covariates is None or covariates.batch_key is None or model._reference is None:
        raise ValueError("This model was trained without batch_key, so it has no batches; train it with batch_key=....")
    names = new_levels(covariates, obs)
    n_old, n_new = len(covariates.batches), len(names)
    x, reference = dense(matrix), model._reference
    codes = pd.Index(names).get_indexer(pd.Index(names_of(obs[covariates.batch_key])))
    is_new = codes >= 0
    x, codes = x[is_new], codes[is_new]
    design = covariates.in_average_batch(obs[is_new])
    both = np.r_[np.zeros(len(reference), int), codes + 1]
    at_reference = model.decode(reference)
    shift = np.zeros((n_new, x.shape[1]), np.float32)
    for _ in range(N_ROUNDS):
        z = model._posterior(x - shift[codes], design)[0]
        partners = mutual_neighbors(np.r_[reference, z], both, 1 + n_new) @ np.eye(1 + n_new, dtype=np.float32)[both]
        of_covariates = model.decode(z, batch=design) - model.decode(z)
        found = offsets(np.r_[at_reference, x - of_covariates], partners, both)
        shift = (found[1:] - found[0]).astype(np.float32)
    return _with_batches(model, names, shift, at_reference.mean(axis=0), n_old)


@torch.no_grad()
def _with_batches(model: NeuralModel, names: list[str], shift: np.ndarray, mean: np.ndarray, n_old: int) -> Any:
    """Return a copy of the model whose maps of covariates have a column for each new batch, after the other batches."""
    adapted = copy.copy(model)
    covariates = model._covariates
    assert covariates is not None
    assert covariates.batch_key is not None
    levels = {**covariates.levels, covariates.batch_key: (*covariates.batches, *names)}
    adapted._covariates = replace(covariates, levels=levels)
    adapted._training_matrix = adapted._training_design = adapted._validation = None
    module, likelihood = model.module, model._likelihood
    new = torch.from_numpy(shift)
    average = torch.from_numpy(mean)
    link = likelihood.link or (lambda values: values)
    columns = {
        "encoder.covariates.weight": new,
        "decoder.covariates.weight": link(average + new) - link(average),
    }
    arrays = model._arrays()
    for name, array in arrays.items():
        if name.endswith("covariates.weight"):
            old = array[:, :n_old]
            added = columns.get(name)
            # relative to the average batch, in which the network was asked for the reference
            column = old[:, : covariates.n_trained].mean(axis=1, keepdims=True) + (
                0.0 if added is None else added.T.numpy()
            )
            arrays[name] = np.concatenate([old, np.broadcast_to(column, (len(old), len(names))), array[:, n_old:]], 1)
    adapted._set_arrays(arrays)
    adapted._module = adapted.module.to(next(module.parameters()).device)
    return adapted
