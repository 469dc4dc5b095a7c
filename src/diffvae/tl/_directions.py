"""Cells of a perturbation, and the directions from one type to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae._errors import DataError
from diffvae.tl._dimensions import latent_dimensions

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model


@dataclass(frozen=True)
class Cells:
    """All cells: expression x, latent representation z, code of the type (-1 = none), and the range of expression.

    ``design`` are the covariates of the cells, None if the model has none.
    """

    x: np.ndarray
    z: np.ndarray
    codes: np.ndarray
    classes: tuple[str, ...]
    limits: tuple[float | None, float | None]
    design: np.ndarray | None = None

    def clip(self, values: np.ndarray) -> np.ndarray:
        """Clip expression to the range of the layer, which the output of a linear decoder may leave."""
        low, high = self.limits
        return values if low is None else values.clip(low, high)

    def decode(self, model: Model, z: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the expression of points of the latent space, each in the batch of the cell in ``rows``."""
        return self.clip(model.decode(z) if self.design is None else model.decode(z, batch=self.design[rows]))

    def jacobian(self, model: Model, rows: slice) -> np.ndarray:
        """Return the Jacobian of the decoder, averaged over some of the cells."""
        if self.design is None:
            return model.gene_jacobian(self.z[rows])
        return model.gene_jacobian(self.z[rows], batch=self.design[rows])

    def encode(self, model: Model, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the latent representation of changed cells, each from the batch of the cell in ``rows``."""
        return model._encode(x, None if self.design is None else self.design[rows])

    def of(self, name: str) -> np.ndarray:
        """Return the row numbers of a type."""
        return np.flatnonzero(self.codes == self.classes.index(name))


def read_cells(adata: AnnData, model: Model, classifier: CellStateClassifier, groupby: str) -> Cells:
    """Return the cells, or raise if model, classifier and cells do not match."""
    a, b = model.features, classifier.features
    if a.layer != b.layer:
        raise DataError(
            f"The classifier was trained on layer {b.layer!r} and the model on {a.layer!r}; train both on one layer."
        )
    if a.gene_names != b.gene_names:
        n = len(set(a.gene_names) ^ set(b.gene_names))
        raise DataError(f"The genes of model and classifier differ ({n} of them); train both on the same cells.")
    if a.scaling != b.scaling:
        raise DataError(
            "Model and classifier were trained on different scalings; train both on the same prepared cells."
        )
    if groupby not in adata.obs:
        raise DataError(f"adata.obs[{groupby!r}] is missing; the columns are: {', '.join(adata.obs) or 'none'}.")
    missing = [g for g in a.gene_names if g not in adata.var_names]
    if missing:
        raise DataError(
            f"adata lacks {len(missing)} of the model's {len(a.gene_names)} genes, {missing[0]!r} among them; give the "
            "cells on which the model was trained, or others with its genes."
        )
    matrix = model._matrix(adata, 0.0)
    x = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float32)
    codes = pd.Categorical(adata.obs[groupby].astype("string"), categories=list(classifier.classes)).codes
    limits = (0.0, 1.0) if a.scaled else (0.0 if x.min(initial=0) >= 0 else None, None)
    design = model.design(adata)
    z = model._encode(matrix, design).astype(np.float32)
    return Cells(x, z, codes, classifier.classes, limits, design)


def check_pair(classifier: CellStateClassifier, cells: Cells, source: str, target: str) -> None:
    """Raise if a type is unknown or has too few cells, or if source and target are the same."""
    for name in (source, target):
        classifier.code(name)
        if len(cells.of(name)) < 2:
            raise DataError(f"{name!r} has {len(cells.of(name))} cells in these data; it needs at least two.")
    if source == target:
        raise DataError(f"{source!r} is source and target at once; name another target.")


def pairs_of(
    classifier: CellStateClassifier, cells: Cells, source: str | Sequence[str], target: str | Sequence[str] | None
) -> list[tuple[str, str]]:
    """Return the pairs of source and target; without targets, all other types."""
    sources = one_or_more(source)
    present = tuple(c for c in classifier.classes if len(cells.of(c)) > 1)
    pairs = []
    for a in sources:
        classifier.code(a)
        for b in present if target is None else one_or_more(target):
            if b != a or (target is not None and len(sources) == 1):
                check_pair(classifier, cells, a, b)
                pairs.append((a, b))
    return pairs


def one_or_more(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return a name or several as a tuple without duplicates."""
    unique = (names,) if isinstance(names, str) else tuple(dict.fromkeys(str(n) for n in names))
    if not unique:
        raise ValueError("The list is empty; give at least one name.")
    return unique


METHODS = ("shift", "mean", "expression_mean", "none")
JACOBIAN_CELLS = 200
"""Cells over which the Jacobian of the decoder is averaged."""
MIN_INFLUENCE = 0.1
"""Smallest influence of a dimension on expression, relative to the strongest, at which it is shifted."""


@dataclass(frozen=True)
class Direction:
    """A direction: the dimensions, and the latent vector z and expression vector x that ``n_sd = 1`` adds."""

    dimensions: pd.DataFrame
    z: np.ndarray
    x: np.ndarray


def enriched_dimensions(cells: Cells, model: Model, n_dims: int) -> pd.DataFrame:
    r"""Return the dimensions that :func:`latent_dimensions` chooses for each type, among those that affect expression.

    A collapsed dimension may separate types slightly and rank high by chance, but shifting it changes nothing. A
    dimension therefore needs an influence :math:`\sigma_j \|J_j\|` on expression of at least a tenth of the largest.
    """
    every = slice(None, None, max(1, len(cells.z) // JACOBIAN_CELLS))
    influence = cells.z.std(0) * np.linalg.norm(cells.jacobian(model, every), axis=1)
    used = np.flatnonzero(influence >= MIN_INFLUENCE * influence.max())
    labelled = cells.codes >= 0
    names = np.array(cells.classes, dtype=object)[cells.codes[labelled]]
    labelled_cells = ad.AnnData(obs=pd.DataFrame({"type": names}, index=np.flatnonzero(labelled).astype(str)))
    labelled_cells.obsm[_keys.LATENT] = cells.z[labelled][:, used]
    table = latent_dimensions(labelled_cells, "type", n_top=n_dims, copy=True)
    # no dimension is enriched in a type that is most of the cells; it gets those with the largest share, as the paper
    by_share = latent_dimensions(labelled_cells, "type", n_top=n_dims, max_q=1, copy=True)
    without = ~by_share["group"].isin(table.loc[table["chosen"], "group"])
    chosen = pd.concat([table[table["chosen"]], by_share[by_share["chosen"] & without]], ignore_index=True)
    chosen["dimension"] = used[chosen["dimension"]]
    return chosen


def directions(
    cells: Cells, source: str, target: str, chosen: pd.DataFrame, *, sd_from: str, direction: str
) -> dict[str, Direction]:
    """Return the direction of each method from one type to another; see :func:`diffvae.tl.perturb`.

    The shift of the paper moves each dimension of the target by its standard deviation. ``"mean"`` has the same length,
    along the line between the latent means of the two types; ``"expression_mean"`` is the same fraction of the line
    between their mean expression.
    """
    sources, targets = cells.of(source), cells.of(target)
    table = chosen.loc[chosen["group"] == target, ["dimension", "rank", "share", "odds_ratio", "q_value"]]
    delta = cells.z[targets].mean(0) - cells.z[sources].mean(0)
    sd = cells.z[sources].std(0) if sd_from == "group" else cells.z.std(0)
    dimensions = table["dimension"].to_numpy()
    shift = np.zeros_like(delta)
    sign = np.ones(len(dimensions)) if direction == "plus" else np.where(delta[dimensions] < 0, -1.0, 1.0)
    shift[dimensions] = sign * sd[dimensions]
    table = table.assign(shift=shift[dimensions]).reset_index(drop=True)
    fraction = np.linalg.norm(shift) / max(float(np.linalg.norm(delta)), 1e-12)
    delta_x = cells.x[targets].mean(0) - cells.x[sources].mean(0)
    zero = np.zeros_like(delta_x)
    return {
        "shift": Direction(table, shift, zero),
        "mean": Direction(table, fraction * delta, zero),
        "expression_mean": Direction(table, np.zeros_like(shift), fraction * delta_x),
        "none": Direction(table, np.zeros_like(shift), zero),
    }


def random_directions(direction: Direction, sd: np.ndarray, n: int, rng: np.random.Generator) -> list[Direction]:
    r"""Return random directions with the length of a given one.

    In latent space they are drawn from :math:`N(0, diag(\sigma^2))` with the standard deviations of the cells, because
    directions along unused dimensions would be too easy to beat. In gene space the changes are permuted over genes.
    """
    random = []
    for _ in range(n):
        if direction.x.any():
            random.append(Direction(direction.dimensions, direction.z, rng.permutation(direction.x)))
        else:
            step = rng.standard_normal(len(sd)) * sd
            length = np.linalg.norm(direction.z) / max(float(np.linalg.norm(step)), 1e-12)
            z = (length * step).astype(direction.z.dtype)
            random.append(Direction(direction.dimensions, z, direction.x))
    return random
