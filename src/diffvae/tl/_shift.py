"""Where to move a cell: the ways from a source type to a target type, and random ways of the same length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae.tl._cells import Cells
from diffvae.tl._dimensions import latent_dimensions

if TYPE_CHECKING:
    from diffvae.model import Model

METHODS = ("shift", "mean", "expression_mean", "none")
JACOBIAN_CELLS = 200
"""Cells over which the decoder's slope is averaged to see which dimensions it heeds."""


@dataclass(frozen=True)
class Way:
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


def ways(
    cells: Cells, source: str, target: str, chosen: pd.DataFrame, *, sd_from: str, direction: str
) -> dict[str, Way]:
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
        "shift": Way(table, shift, still),
        "mean": Way(table, part * delta, still),
        "expression_mean": Way(table, np.zeros_like(shift), part * delta_x),
        "none": Way(table, np.zeros_like(shift), still),
    }


def random_ways(way: Way, sd: np.ndarray, n: int, rng: np.random.Generator) -> list[Way]:
    r"""Return ways as long as a given one that lead anywhere.

    In latent space the direction is drawn from :math:`N(0, diag(\sigma^2))`, with the cells' own standard deviations:
    a direction through dimensions that no cell uses would be too easy to beat. In gene space the changes are dealt
    out to the genes at random.
    """
    found = []
    for _ in range(n):
        if way.x.any():
            found.append(Way(way.dimensions, way.z, rng.permutation(way.x)))
        else:
            step = rng.standard_normal(len(sd)) * sd
            length = np.linalg.norm(way.z) / max(float(np.linalg.norm(step)), 1e-12)
            found.append(Way(way.dimensions, (length * step).astype(way.z.dtype), way.x))
    return found
