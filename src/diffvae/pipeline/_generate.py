"""Artificial cells of a saved model, and whether they look like the real cells of its result."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae import _keys, _random, metrics, pp
from diffvae import model as models
from diffvae._core.io import folders, read
from diffvae._errors import DataError, OutputError
from diffvae.metrics._realism import MIN_CELLS
from diffvae.model import Model
from diffvae.pipeline._perturb import type_key

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

N_NEIGHBORS = 15
"""Real cells by which an artificial cell gets a type."""
MAX_REAL = 5000
"""Real cells that artificial cells are compared with."""


def generate(
    model: str | PathLike[str],
    out: str | PathLike[str],
    n_cells: int = 100,
    *,
    noise: bool = True,
    batch: Any = None,
    seed: int = 0,
    overwrite: bool = False,
) -> tuple[AnnData, pd.DataFrame | None]:
    """Write artificial cells, and beside them how they compare with real cells where these are at hand.

    Parameters
    ----------
    model
        Folder of a saved model. Real cells are at hand if it is in the folder of a result.
    out
        Output file of the cells, such as ``cells.h5ad``; the comparison is ``cells_realism.csv`` beside it.
    n_cells, noise, batch, seed
        As in :meth:`diffvae.model.Model.sample`.
    overwrite
        Replace both files. A comparison of earlier cells is removed if the new ones have none.

    Returns
    -------
    The cells, with the sentence on the comparison in ``uns["diffvae"]["realism"]``, and the table of
    :func:`diffvae.metrics.realism`; None without real cells or with fewer than 10 artificial ones.

    Raises
    ------
    OutputError
        If one of the files exists, before anything is computed.
    DataError
        If the folder holds a classifier or another model that makes no cells.
    """
    file = Path(out).expanduser()
    beside = file.with_name(f"{file.stem}_realism.csv")
    for path in (file, beside):
        if path.exists() and not overwrite:
            raise OutputError(f"'{path}' exists already; name another file, or pass overwrite=True.")
    trained = models.load(model)
    if not isinstance(trained, Model):
        raise DataError(
            f"'{model}' holds a {type(trained).__name__}, which makes no cells; give the folder of a model that "
            "'diffvae run' or 'diffvae train' wrote, such as results/model."
        )
    artificial = trained.sample(n_cells, noise=noise, batch=batch, rng=seed)
    table = compare(trained, artificial, Path(model).expanduser().resolve().parent / _keys.RESULTS, seed)
    if table is not None:
        artificial.uns[_keys.UNS] = {"realism": sentence(table)}
    folders.write_h5ad(artificial, file)
    if table is not None:
        folders.write_csv(table, beside, index=True)
    elif overwrite:
        beside.unlink(missing_ok=True)  # of the cells that were there before
    return artificial, table


def compare(model: Model, artificial: AnnData, result: Path, seed: int) -> pd.DataFrame | None:
    """Return the realism of artificial cells beside those of a result, None if there is none with the model's genes."""
    if not result.is_file() or artificial.n_obs < MIN_CELLS:
        return None
    real = read.read(result)
    layer = model.features.layer
    if not set(model.gene_names) <= set(real.var_names) or (layer is not None and layer not in real.layers):
        return None
    rows = _random.generator(seed, "real cells beside artificial").permutation(real.n_obs)[:MAX_REAL]
    real = real[np.sort(rows), model.gene_names].copy()
    if real.n_obs < 2 * MIN_CELLS:
        return None
    labels = made = None
    types = _types(real, result.parent)
    if len(set(types) - {_keys.UNASSIGNED}) > 1 and _keys.LATENT in real.obsm:
        near = _nearest_types(model, artificial, np.asarray(real.obsm[_keys.LATENT]), types)
        no_type = np.array(None, object)
        # cells without a type count as neighbours, but not in the shares
        labels, made = (np.where(found == _keys.UNASSIGNED, no_type, found) for found in (types, near))
    if model.features.scaled:
        expression = pp.from_unit(real.layers[layer], model.features.minimum, model.features.maximum)
    else:
        expression = real.X if layer is None else real.layers[layer]
    return metrics.realism(expression, artificial.X, labels, made, rng=seed)


def _types(real: AnnData, folder: Path) -> np.ndarray:
    """Return the types of a result's cells, by which the run was told to name them or else by its clusters."""
    has_summary = (folder / _keys.SUMMARY).is_file()
    parameters = folders.read_summary(folder).get("parameters", {}) if has_summary else {}
    key = type_key(parameters)
    if key not in real.obs:
        return np.full(real.n_obs, _keys.UNASSIGNED, object)
    types = real.obs[key].astype(object)
    return types.where(types.notna(), _keys.UNASSIGNED).astype(str).to_numpy(object)


def _nearest_types(model: Model, artificial: AnnData, z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the type of most of the nearest real cells, after the expression was encoded as that of any new cell."""
    from sklearn.neighbors import KNeighborsClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # artificial cells of an average batch have no batch
        encoded = model.get_latent_representation(artificial)
    neighbors = KNeighborsClassifier(min(N_NEIGHBORS, len(z))).fit(z, labels)
    return np.asarray(neighbors.predict(encoded))


def sentence(table: pd.DataFrame) -> str:
    """Return the comparison in words."""
    found, null = table["artificial"], table["real"]
    likeness = "look like" if found["auc"] < 0.6 else "resemble" if found["auc"] < 0.8 else "differ from"
    text = (
        f"The artificial cells {likeness} real ones: a classifier tells them apart with AUC {found['auc']:.2f} "
        f"(real from other real cells {null['auc']:.2f}; 0.5 is chance, 1 is always). The standard deviation of a gene "
        f"is {found['sd_ratio']:.2f} times that of real cells (median), and its share of zeros is off by "
        f"{found['zeros_error']:.3f} on average (among real cells {null['zeros_error']:.3f})."
    )
    if np.isfinite(found.get("type_error", np.nan)):
        text += (
            f" Types have other shares for {found['type_error']:.0%} of the cells "
            f"(among real cells {null['type_error']:.0%})."
        )
    return text
