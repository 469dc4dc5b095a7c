"""From AnnData to the matrix that a model takes, for training cells and for new cells."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import sparse

from diffvae import _keys, _random
from diffvae._core.fingerprint import fingerprint
from diffvae._core.io.backed import BackedAnnData, is_on_disk
from diffvae._core.io.backed_matrix import BackedMatrix, select_genes, stack
from diffvae._core.io.matrix import source
from diffvae._core.validate import Number, Rule, check
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

Matrix: TypeAlias = Any
"""numpy array, scipy CSR matrix, or :class:`diffvae._core.io.backed_matrix.BackedMatrix` on disk; cells x genes."""


BLOCK = 2048
"""Cells that are dense at once outside the training."""
RULES: dict[str, Rule] = {"validation_size": Number("[0, 1)")}


@dataclass(frozen=True)
class Features:
    """Genes of a model and the scaling of their values, by which new cells get the same form."""

    gene_names: tuple[str, ...]
    layer: str | None
    minimum: np.ndarray | None
    maximum: np.ndarray | None
    target_sum: float | None
    n_cells: int
    fingerprint: str

    @property
    def scaling(self) -> list[list[float]]:
        """Lower and upper limit of each gene; empty without a scaling."""
        return [] if self.minimum is None or self.maximum is None else [self.minimum.tolist(), self.maximum.tolist()]

    @property
    def limits(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Lower and upper limits of the genes; None without a scaling."""
        return None if self.minimum is None or self.maximum is None else (self.minimum, self.maximum)

    @property
    def scaled(self) -> bool:
        """Whether the values are on the unit scale of ``pp.prepare``."""
        return self.minimum is not None


def layer_matrix(adata: AnnData | BackedAnnData, layer: str | None) -> Matrix:
    """Return ``adata.layers[layer]`` (``adata.X`` for None) as CSR or a dense array of finite numbers.

    Cells on disk are read once and returned as a :class:`BackedMatrix`.
    """
    if isinstance(adata, BackedAnnData):
        rows = adata.matrix(layer)
        adata.warn(stacklevel=5)
        if not rows.survey.finite:
            raise DataError(f"{source(layer)} holds NaN or infinite values; put 0 where missing means not detected.")
        return rows
    # anndata reads the layers of a backed object into memory, and leaves only X on disk
    if is_on_disk(adata) and (layer is None or not hasattr(adata, "layers")):
        raise in_memory_only()
    if layer is None:
        matrix = adata.X
    elif layer in adata.layers:
        matrix = adata.layers[layer]
    else:
        way_out = "run diffvae.pp.prepare(adata) first" if layer == _keys.UNIT else f"there are: {list(adata.layers)}"
        raise DataError(f"adata.layers[{layer!r}] is missing; {way_out}.")
    if matrix is None:
        raise DataError("adata.X is empty; name the layer that holds the expression values.")
    if np.ma.is_masked(matrix):
        raise DataError(
            f"{source(layer)} is a masked array with {np.ma.count_masked(matrix):,} values masked; fill them."
        )
    matrix = matrix.tocsr() if sparse.issparse(matrix) else np.asarray(matrix)
    values: Any = matrix.data if sparse.issparse(matrix) else matrix
    if values.dtype.kind not in "biuf":
        raise DataError(f"{source(layer)} holds {values.dtype}, not numbers; convert it to float first.")
    if not np.isfinite(values).all():
        raise DataError(f"{source(layer)} holds NaN or infinite values; diffvae.pp.check(adata) says where.")
    return matrix


def read_counts(adata: AnnData | BackedAnnData, features: Features) -> Matrix:
    """Return the counts of cells that ``pp.prepare`` prepared, in memory."""
    if isinstance(adata, BackedAnnData):
        raise DataError("likelihood='nb' needs the cells in memory; choose another likelihood for cells on disk.")
    if features.target_sum is None or not features.scaled or _keys.COUNTS not in adata.layers:
        raise DataError(
            f"likelihood='nb' models counts, but adata.layers[{_keys.COUNTS!r}] is missing, or the training layer is "
            f"not {_keys.UNIT!r}; run diffvae.pp.prepare on raw counts, or choose likelihood='bernoulli'."
        )
    counts = layer_matrix(adata, _keys.COUNTS)
    values: Any = counts.data if sparse.issparse(counts) else counts
    if (values < 0).any() or (values != np.rint(values)).any():
        raise DataError(
            f"likelihood='nb' models counts, but adata.layers[{_keys.COUNTS!r}] holds other values than whole numbers "
            "of 0 or more; choose likelihood='bernoulli'."
        )
    return counts


def in_memory_only() -> DataError:
    """Return the error for cells on disk where they must be in memory."""
    return DataError(
        "These cells are on disk. DiffVAE, VAE and AutoEncoder can be trained on them, and all models can embed them; "
        "for anything else read them, or some of them, into memory first."
    )


def dense(matrix: Matrix) -> np.ndarray:
    """Return a matrix in memory as a dense array of float32."""
    return np.require(matrix.toarray() if sparse.issparse(matrix) else matrix, np.float32, ["C", "W"])


def require_unit_interval(matrix: Matrix, layer: str | None) -> None:
    """Refuse values outside [0, 1], which can't be Bernoulli targets."""
    if isinstance(matrix, BackedMatrix):
        low, high = matrix.survey.smallest, matrix.survey.largest
    else:
        low, high = (float(matrix.min()), float(matrix.max())) if min(matrix.shape) else (0.0, 0.0)
    if low < 0 or high > 1:
        raise DataError(
            f"{source(layer)} holds values from {low:.3g} to {high:.3g}, but the Bernoulli likelihood needs [0, 1]; "
            "train on layer='unit' (diffvae.pp.prepare makes it) or choose likelihood='gaussian'."
        )


def gene_means(matrix: Matrix) -> np.ndarray:
    """Return the mean of each gene, summed in double precision (scipy sums single-precision values in single)."""
    if sparse.issparse(matrix):
        return np.ones(matrix.shape[0]) @ matrix / matrix.shape[0]
    return matrix.mean(axis=0, dtype=np.float64)


def read_features(adata: AnnData | BackedAnnData, layer: str | None, matrix: Matrix) -> Features:
    """Describe the training data."""
    if not adata.var_names.is_unique:
        raise DataError("adata.var_names has duplicates; run adata.var_names_make_unique() first.")
    minimum = maximum = target_sum = None
    if layer == _keys.UNIT and _keys.UNIT_MIN in adata.var and _keys.UNIT_MAX in adata.var:
        minimum = adata.var[_keys.UNIT_MIN].to_numpy(np.float64)
        maximum = adata.var[_keys.UNIT_MAX].to_numpy(np.float64)
        recorded = adata.uns.get(_keys.UNS, {}).get("prepare", {}).get("target_sum")
        target_sum = None if recorded is None else float(recorded)  # None: the data were logs
    return Features(
        tuple(map(str, adata.var_names)), layer, minimum, maximum, target_sum, adata.n_obs, fingerprint(matrix)
    )


def about(features: Features) -> dict[str, str | None]:
    """Return what identifies the training cells in a checkpoint."""
    genes = hashlib.sha256("\n".join(features.gene_names).encode()).hexdigest()[:16]
    return {"cells": features.fingerprint, "genes": genes, "layer": features.layer}


def split_rows(
    adata: AnnData | BackedAnnData, validation_size: float | None, rng: _random.Rng
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the training cells and of the validation cells.

    Without a size this is the split of ``pp.prepare``, which fitted the scaling on the training cells only, or a
    random fifth of the cells where there is none.
    """
    split = adata.obs_column(_keys.SPLIT) if isinstance(adata, BackedAnnData) else adata.obs.get(_keys.SPLIT)
    if isinstance(adata, BackedAnnData):
        adata.warn(stacklevel=4)
    if validation_size is None and split is not None:
        held_out = (split == "validation").to_numpy()
    else:
        size = 0.2 if validation_size is None else validation_size
        check(RULES, validation_size=size)
        held_out = np.zeros(adata.n_obs, dtype=bool)
        n_held_out = round(size * adata.n_obs)
        held_out[_random.generator(rng, "split").permutation(adata.n_obs)[:n_held_out]] = True
    train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if len(train) < 2:
        raise DataError(f"{len(train)} of {adata.n_obs} cells are left for training; at least two are needed.")
    return train, validation


def match_new(adata: AnnData | BackedAnnData, features: Features, max_missing: float) -> Matrix:
    """Return the matrix of new cells in the form that a model was trained on, genes matched by name.

    Cells with the scaling of the model are taken as they are. Others are prepared by :func:`diffvae.pp.prepare_new`
    with the model's genes and scaling; each of several files by itself, so that totals of cells are taken over all
    genes of their file.
    """
    names = list(features.gene_names)
    if features.scaled and not _same_scaling(adata, features):
        if isinstance(adata, BackedAnnData) and len(adata.shards) > 1 and adata.n_obs:
            return stack([match_new(part, features, max_missing) for part in adata.parts()])
        from diffvae import pp

        unit, report = pp.prepare_new(
            adata,
            gene_names=names,
            minimum=features.minimum,
            maximum=features.maximum,
            target_sum=features.target_sum,
            max_missing=max_missing,
        )
        of_file = f"{adata.name}: " if isinstance(adata, BackedAnnData) else ""
        for message in report["warnings"]:
            warnings.warn(of_file + message, UserWarning, stacklevel=4)
        return unit
    matrix = layer_matrix(adata, features.layer)
    if list(map(str, adata.var_names)) == names:
        return matrix
    if not adata.var_names.is_unique:
        raise DataError("adata.var_names has duplicates; run adata.var_names_make_unique() first.")
    positions = adata.var_names.get_indexer(names)
    if (positions < 0).any():
        missing = [n for n, p in zip(names, positions, strict=True) if p < 0]
        raise DataError(
            f"{len(missing)} of the model's {len(names)} genes are not in adata.var_names, for example "
            f"{missing[0]!r}; give cells with the genes on which the model was trained."
        )
    return select_genes(matrix, positions) if isinstance(matrix, BackedMatrix) else matrix[:, positions]


def _same_scaling(adata: AnnData | BackedAnnData, features: Features) -> bool:
    if features.layer not in adata.layers or not {_keys.UNIT_MIN, _keys.UNIT_MAX} <= set(adata.var):
        return False
    if not (adata.var_names.is_unique and set(features.gene_names) <= set(adata.var_names)):
        return False
    scaling = adata.var.loc[list(features.gene_names), [_keys.UNIT_MIN, _keys.UNIT_MAX]].to_numpy(np.float64)
    return bool(([features.minimum, features.maximum] == scaling.T).all())
