"""The cells of a perturbation as both models see them, and the types that it goes from and to."""

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
    """All cells as the models see them: expression, latent place, label (-1 without one), and the range of values."""

    x: np.ndarray
    z: np.ndarray
    codes: np.ndarray
    classes: tuple[str, ...]
    limits: tuple[float | None, float | None]

    def clip(self, values: np.ndarray) -> np.ndarray:
        """Return expression within the range that the layer has: what a linear decoder gives may leave it."""
        low, high = self.limits
        return values if low is None else values.clip(low, high)

    def of(self, name: str) -> np.ndarray:
        """Row numbers of a type."""
        return np.flatnonzero(self.codes == self.classes.index(name))


def read_cells(adata: AnnData, model: Model, classifier: CellStateClassifier, groupby: str) -> Cells:
    """Return the cells as both models see them, or say why they don't fit together."""
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
    return Cells(x, model.get_latent_representation(adata).astype(np.float32), codes, classifier.classes, limits)


def check_pair(classifier: CellStateClassifier, cells: Cells, source: str, target: str) -> None:
    """Refuse types that aren't there, or are the same."""
    for name in (source, target):
        classifier.code(name)
        if len(cells.of(name)) < 2:
            raise DataError(f"{name!r} has {len(cells.of(name))} cells in these data; two are the least.")
    if source == target:
        raise DataError(f"{source!r} is source and target at once; name another target.")


def pairs_of(
    classifier: CellStateClassifier, cells: Cells, source: str | Sequence[str], target: str | Sequence[str] | None
) -> list[tuple[str, str]]:
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
    found = (names,) if isinstance(names, str) else tuple(dict.fromkeys(str(n) for n in names))
    if not found:
        raise ValueError("An empty list names nothing; give one name at least.")
    return found


METHODS = ("shift", "mean", "expression_mean", "none")
JACOBIAN_CELLS = 200
"""Cells over which the decoder's slope is averaged to see which dimensions it heeds."""


@dataclass(frozen=True)
class Direction:
    """From a source to a target: the latent vector and the expression vector that ``n_sd = 1`` adds."""

    dimensions: pd.DataFrame
    z: np.ndarray
    x: np.ndarray


def enriched_dimensions(cells: Cells, model: Model, n_dims: int) -> pd.DataFrame:
    r"""Return the dimensions that :func:`latent_dimensions` chooses for each type, of those that the decoder heeds.

    A dimension that the model has switched off still tells types apart, faintly, and wins the ranking by chance; to
    shift it changes nothing. So only those count whose standard deviation moves expression,
    :math:`\sigma_j \|J_j\|`, by a tenth at least of what the strongest does.
    """
    some = cells.z[:: max(1, len(cells.z) // JACOBIAN_CELLS)]
    influence = cells.z.std(0) * np.linalg.norm(model.gene_jacobian(some), axis=1)
    heeded = np.flatnonzero(influence >= 0.1 * influence.max())
    labelled = cells.codes >= 0
    names = np.array(cells.classes, dtype=object)[cells.codes[labelled]]
    light = ad.AnnData(obs=pd.DataFrame({"type": names}, index=np.flatnonzero(labelled).astype(str)))
    light.obsm[_keys.LATENT] = cells.z[labelled][:, heeded]
    table = latent_dimensions(light, "type", n_top=n_dims, copy=True)
    # a type that is most of the cells is enriched nowhere; then the paper's rule, which asks for the share alone
    by_share = latent_dimensions(light, "type", n_top=n_dims, max_q=1, copy=True)
    without = ~by_share["group"].isin(table.loc[table["chosen"], "group"])
    found = pd.concat([table[table["chosen"]], by_share[by_share["chosen"] & without]], ignore_index=True)
    found["dimension"] = heeded[found["dimension"]]
    return found


def directions(
    cells: Cells, source: str, target: str, chosen: pd.DataFrame, *, sd_from: str, direction: str
) -> dict[str, Direction]:
    r"""Return the way of each method from one type to another.

    The paper's shift moves each of the target's dimensions by its standard deviation, towards the target
    (``direction="signed"``) or always up (``"plus"``). The others go as far: ``"mean"`` as long a step along the
    line between the two types' latent means, ``"expression_mean"`` the same part of the line between their mean
    expressions.
    """
    own, other = cells.of(source), cells.of(target)
    table = chosen.loc[chosen["group"] == target, ["dimension", "rank", "share", "odds_ratio", "q_value"]]
    delta = cells.z[other].mean(0) - cells.z[own].mean(0)
    sd = cells.z[own].std(0) if sd_from == "group" else cells.z.std(0)
    dimensions = table["dimension"].to_numpy()
    shift = np.zeros_like(delta)
    sign = np.ones(len(dimensions)) if direction == "plus" else np.where(delta[dimensions] < 0, -1.0, 1.0)
    shift[dimensions] = sign * sd[dimensions]
    table = table.assign(shift=shift[dimensions]).reset_index(drop=True)
    part = np.linalg.norm(shift) / max(float(np.linalg.norm(delta)), 1e-12)
    delta_x = cells.x[other].mean(0) - cells.x[own].mean(0)
    still = np.zeros_like(delta_x)
    return {
        "shift": Direction(table, shift, still),
        "mean": Direction(table, part * delta, still),
        "expression_mean": Direction(table, np.zeros_like(shift), part * delta_x),
        "none": Direction(table, np.zeros_like(shift), still),
    }


def random_directions(way: Direction, sd: np.ndarray, n: int, rng: np.random.Generator) -> list[Direction]:
    r"""Return ways as long as a given one that lead anywhere.

    In latent space the direction is drawn from :math:`N(0, diag(\sigma^2))`, with the cells' own standard deviations:
    a direction through dimensions that no cell uses would be too easy to beat. In gene space the changes are dealt
    out to the genes at random.
    """
    found = []
    for _ in range(n):
        if way.x.any():
            found.append(Direction(way.dimensions, way.z, rng.permutation(way.x)))
        else:
            step = rng.standard_normal(len(sd)) * sd
            length = np.linalg.norm(way.z) / max(float(np.linalg.norm(step)), 1e-12)
            found.append(Direction(way.dimensions, (length * step).astype(way.z.dtype), way.x))
    return found
