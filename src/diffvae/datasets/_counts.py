"""Cells on the branches of a tree, and their counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffvae.datasets._programmes import Genes, activation
from diffvae.datasets._tree import path_to

if TYPE_CHECKING:
    from scipy import sparse

_BLOCK = 2_000_000
"""Matrix entries drawn at a time: bounds memory; the blocks are part of what a seed means."""
_CYCLING = 0.4
"""Share of cells that cycle."""


@dataclass(frozen=True)
class Cells:
    """Everything about the cells that the genes don't change; one entry per cell, types and batches as codes."""

    cell_type: np.ndarray
    branch: np.ndarray
    position: np.ndarray
    """On the branch, 0 to 1."""
    pseudotime: np.ndarray
    batch: np.ndarray
    library: np.ndarray
    phase: np.ndarray
    """Of the cell cycle, in turns; NaN in cells that don't cycle."""
    stress: np.ndarray

    @property
    def activity(self) -> np.ndarray:
        """Cells x noise programmes: S phase, G2/M a quarter turn later, stress; each 0 to 1."""
        turn = 2 * np.pi * self.phase
        cycle = np.nan_to_num(np.clip([np.cos(turn), np.cos(turn - np.pi / 2)], 0, None))
        return np.column_stack([*cycle, self.stress])


def draw_cells(
    n_cells: int,
    parents: Mapping[str, str | None],
    *,
    share: np.ndarray,
    n_batches: int,
    library_size: float,
    library_sd: float,
    commitment: float,
    rng: np.random.Generator,
) -> Cells:
    """Spread cells over branches by ``share``, and over positions, batches, library sizes and noise programmes."""
    names = list(parents)
    # Rounded shares instead of independent draws: small simulations keep their rare types.
    per_branch = np.diff(np.round(np.cumsum(share) * n_cells), prepend=0).astype(int)
    branch = rng.permutation(np.repeat(np.arange(len(names)), per_branch))
    position = rng.beta(1.5, 1.0, size=n_cells)  # more cells towards a branch's end than on the way
    above = np.array([i if p is None else names.index(p) for i, p in enumerate(parents.values())])
    depth = np.array([len(path_to(parents, name)) for name in names])

    batch = rng.integers(n_batches, size=n_cells)
    batch_depth = rng.lognormal(-0.02, 0.2, size=n_batches) if n_batches > 1 else np.ones(1)
    return Cells(
        cell_type=np.where(position < commitment, above[branch], branch),
        branch=branch,
        position=position,
        pseudotime=(depth[branch] - 1 + position) / depth.max(),
        batch=batch,
        library=library_size * batch_depth[batch] * rng.lognormal(-(library_sd**2) / 2, library_sd, n_cells),
        phase=np.where(rng.random(n_cells) < _CYCLING, rng.random(n_cells), np.nan),
        stress=rng.beta(1.0, 2.0, size=n_cells),
    )


def draw_counts(
    cells: Cells,
    genes: Genes,
    parents: Mapping[str, str | None],
    *,
    shift: np.ndarray,
    dropout: float,
    rng: np.random.Generator,
) -> sparse.csr_matrix:
    """Draw the counts (cells x genes) block by block, each block from its own stream; ``shift`` is batches x genes."""
    from scipy import sparse

    n_cells, n_genes = len(cells.branch), len(genes.log_share)
    names = list(parents)
    table = {name: genes.drivers[genes.drivers["branch"] == name] for name in names}
    behind = np.zeros((len(names), n_genes))  # what the branches above have added by their ends
    for code, name in enumerate(names):
        for above in path_to(parents, name)[:-1]:
            behind[code, table[above]["gene"]] += table[above]["effect"]
    activity, log_library = cells.activity, np.log(cells.library)

    size = max(1, _BLOCK // n_genes)
    starts = range(0, n_cells, size)
    blocks = []
    for start, stream in zip(starts, rng.spawn(len(starts)), strict=True):
        block = slice(start, start + size)
        branch = cells.branch[block]
        log_mean = genes.log_share + log_library[block, None] + activity[block] @ genes.noise
        log_mean += behind[branch] + shift[cells.batch[block]]
        for code, name in enumerate(names):
            rows = np.flatnonzero(branch == code)
            gene, effect, onset, end = (table[name][c].to_numpy() for c in ("gene", "effect", "onset", "end"))
            log_mean[rows[:, None], gene] += effect * activation(cells.position[block][rows], onset, end)
        mean = np.exp(log_mean, out=log_mean)
        lost = stream.random(mean.shape) < dropout * np.exp(-mean)
        mean *= stream.gamma(1 / genes.dispersion, genes.dispersion, size=mean.shape)
        mean[lost] = 0.0
        blocks.append(sparse.csr_matrix(stream.poisson(mean).astype(np.float32)))
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))
