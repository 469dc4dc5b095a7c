"""Trees of cell types, and the genes that change along their branches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Tree = Mapping[str, Any]
"""``{parent: {child: {...}, child: None}}``; children without children may also be a list of names."""

HEMATOPOIESIS: Tree = {
    "HSPC": {"MEP": ["Erythrocyte", "Thrombocyte"], "GMP": ["Neutrophil", "Monocyte"], "Lymphocyte": None}
}
"""The default: one stem cell, two intermediate progenitors and five mature types."""

HEMATOPOIESIS_ABUNDANCE = {
    "HSPC": 0.18,
    "MEP": 0.12,
    "GMP": 0.12,
    "Erythrocyte": 0.19,
    "Thrombocyte": 0.07,
    "Neutrophil": 0.16,
    "Monocyte": 0.10,
    "Lymphocyte": 0.06,
}


def parents_of(tree: Tree) -> dict[str, str | None]:
    """Return the parent of every type, parents before children, ``None`` for the root.

    A tree with several roots, a repeated name or a cycle raises ValueError.

    Examples
    --------
    >>> parents_of({"stem": {"early": ["red", "white"], "late": None}})
    {'stem': None, 'early': 'stem', 'red': 'early', 'white': 'early', 'late': 'stem'}
    """
    if not isinstance(tree, Mapping) or len(tree) != 1:
        roots = list(tree) if isinstance(tree, Mapping) else tree
        raise ValueError(
            f"A tree is a mapping with one root, such as {{'stem': ['red', 'white']}}; this one has {roots!r} on top."
        )
    parents: dict[str, str | None] = {}
    for name, parent in _walk(tree, None):
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"{name!r} can't name a cell type: names are non-empty strings without '/'.")
        if name in parents:
            raise ValueError(f"{name!r} occurs in the tree twice (or above itself); each type may occur once.")
        parents[name] = parent
    return parents


def _walk(children: Any, parent: str | None) -> Iterator[tuple[Any, str | None]]:
    # a generator, since the caller stops at the first repeated name: a mapping that contains itself would not end
    if children is None:
        return
    if isinstance(children, Mapping):
        for name, below in children.items():
            yield name, parent
            yield from _walk(below, name)
    elif isinstance(children, Sequence) and not isinstance(children, str):
        for name in children:
            yield name, parent
    else:
        raise ValueError(f"The children of {parent!r} are {children!r}; give a mapping, a list of names or None.")


def path_to(parents: Mapping[str, str | None], name: str) -> list[str]:
    """Return the types from the root to a type, inclusive."""
    path = [name]
    while (above := parents[path[-1]]) is not None:
        path.append(above)
    return path[::-1]


def nested(parents: Mapping[str, str | None], name: str | None = None) -> dict[str, Any]:
    """Return the tree as nested dictionaries."""
    return {child: nested(parents, child) for child, parent in parents.items() if parent == name}


def adjacency(parents: Mapping[str, str | None]) -> pd.DataFrame:
    """Return the types x types table that is true where the row is the parent of the column."""
    import pandas as pd

    names = list(parents)
    table = pd.DataFrame(np.zeros((len(names), len(names)), dtype=bool), index=names, columns=names)
    for child, parent in parents.items():
        if parent is not None:
            table.loc[parent, child] = True
    return table


NOISE_PROGRAMMES = ("cell_cycle_s", "cell_cycle_g2m", "stress")

_UP = 0.65
"""Share of the drivers of a branch that rise."""
_SWITCHED_OFF = 0.5
"""Share of the rising drivers of a branch that fall again on the branches below."""
_BASE_SD = 1.5
"""Standard deviation of log base expression between genes."""
_HOUSEKEEPING_SHIFT = 0.7
"""Higher log base expression of housekeeping genes."""


@dataclass(frozen=True)
class Genes:
    """Properties of the simulated genes."""

    log_share: np.ndarray
    """Log of each gene's share of the counts at the root."""
    dispersion: np.ndarray
    """phi of each gene; the variance of its counts is lambda + phi lambda^2."""
    housekeeping: np.ndarray
    """Boolean, one per gene."""
    in_noise: np.ndarray
    """Programmes x genes, boolean: which gene belongs to which noise programme."""
    noise: np.ndarray
    """Programmes x genes: log fold change of each gene at full activity of each noise programme."""
    drivers: pd.DataFrame
    """One row per gene (its position) and branch: ``effect``, ``onset``, ``end``."""


def draw_genes(
    n_genes: int,
    parents: Mapping[str, str | None],
    *,
    n_drivers: int,
    n_housekeeping: int,
    n_noise: int,
    effect: float,
    noise: float,
    dispersion: float,
    rng: np.random.Generator,
) -> Genes:
    """Assign genes to programmes: ``n_drivers`` drivers per branch, ``n_noise`` genes per noise programme."""
    order = rng.permutation(n_genes)
    n_all_noise = n_noise * len(NOISE_PROGRAMMES)
    housekeeping = np.zeros(n_genes, dtype=bool)
    housekeeping[order[:n_housekeeping]] = True
    in_noise = np.zeros((len(NOISE_PROGRAMMES), n_genes), dtype=bool)
    of_noise = order[n_housekeeping : n_housekeeping + n_all_noise].reshape(len(NOISE_PROGRAMMES), n_noise)
    np.put_along_axis(in_noise, of_noise, True, axis=1)
    base = _BASE_SD * rng.standard_normal(n_genes) + _HOUSEKEEPING_SHIFT * housekeeping
    return Genes(
        log_share=base - np.log(np.exp(base).sum()),
        dispersion=dispersion * rng.lognormal(-0.125, 0.5, size=n_genes),
        housekeeping=housekeeping,
        in_noise=in_noise,
        noise=in_noise * noise * rng.gamma(4, 1 / 4, size=in_noise.shape),
        drivers=_draw_drivers(order[n_housekeeping + n_all_noise :], parents, n_drivers, effect, rng),
    )


def _draw_drivers(
    pool: np.ndarray, parents: Mapping[str, str | None], n_drivers: int, effect: float, rng: np.random.Generator
) -> pd.DataFrame:
    """Draw the drivers of every branch; part of those that rise on the parent's branch fall again."""
    import pandas as pd

    tables: list[pd.DataFrame] = []
    transient: dict[str | None, pd.DataFrame] = {}
    for branch, parent in parents.items():
        falling = transient.get(parent)
        taken = falling["gene"].to_numpy() if falling is not None else np.empty(0, dtype=int)
        genes = rng.choice(np.setdiff1d(pool, taken), size=n_drivers, replace=False)
        sign = np.where(rng.random(n_drivers) < _UP, 1.0, -1.0)
        drivers = pd.DataFrame({"gene": genes, "effect": sign * effect * rng.gamma(4, 1 / 4, size=n_drivers)})
        up = drivers[drivers["effect"] > 0]
        transient[branch] = up.iloc[: round(_SWITCHED_OFF * len(up))]
        # the same genes fall on all branches below the parent, so that they mark the parent
        table = drivers if falling is None else pd.concat([drivers, falling.assign(effect=-falling["effect"])])
        onset = rng.uniform(0.0, 0.6, size=len(table))
        end = rng.uniform(onset + 0.25, 1.0)
        tables.append(table.assign(branch=branch, onset=onset, end=end))
    return pd.concat(tables, ignore_index=True)[["gene", "branch", "effect", "onset", "end"]]


def activation(position: np.ndarray, onset: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the activation of genes, 3 t^2 - 2 t^3 with t = (s - onset) / (end - onset) clipped to [0, 1].

    Cells x genes, from the positions s of cells on a branch. It is exactly 0 up to the onset and 1 from the end, so
    that expression is continuous where branches join.
    """
    t = np.clip((position[:, None] - onset) / (end - onset), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
