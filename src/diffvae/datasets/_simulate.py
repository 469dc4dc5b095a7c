"""Counts from a branching differentiation tree whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from diffvae import _keys, _random
from diffvae.datasets._programmes import NOISE_PROGRAMMES, Genes, activation, draw_genes
from diffvae.datasets._tree import (
    HEMATOPOIESIS,
    HEMATOPOIESIS_ABUNDANCE,
    Tree,
    adjacency,
    nested,
    parents_of,
    path_to,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

_BLOCK = 2_000_000
"""Matrix entries drawn at a time: bounds memory; the blocks are part of what a seed means."""
_CYCLING = 0.4
"""Share of cells that cycle."""


def simulate_differentiation(
    n_cells: int = 1000,
    n_genes: int = 1000,
    *,
    tree: str | Tree = "hematopoiesis",
    abundance: Mapping[str, float] | None = None,
    n_batches: int = 1,
    n_drivers: int | None = None,
    housekeeping: float = 0.2,
    effect: float = 1.5,
    noise: float = 1.0,
    batch_effect: float = 0.3,
    library_size: float = 2000.0,
    library_sd: float = 0.4,
    dispersion: float = 0.3,
    dropout: float = 0.2,
    commitment: float = 0.4,
    rng: _random.Rng = 0,
) -> AnnData:
    r"""Simulate counts of cells on a branching differentiation tree and keep the truth.

    Every type of the tree has a branch that ends in it. A cell :math:`c` sits on one branch at a position
    :math:`s \in [0, 1]`; the branches above it lie behind (:math:`s = 1`). Gene :math:`g` has the expected count

    .. math::

        \log \lambda_{cg} = \log L_c + \log p_g
            + \sum_{b \in \mathrm{path}(c)} \beta_{gb} \, a\!\left(\frac{s_{cb} - o_{gb}}{e_{gb} - o_{gb}}\right)
            + \sum_m w_{gm} u_{cm} + \delta_{g, \mathrm{batch}(c)}

    with library sizes :math:`L_c` and base shares :math:`p_g` both lognormal, the drivers' log fold changes
    :math:`\beta_{gb}` and :math:`a(t) = 3t^2 - 2t^3`, which turns a driver on between its own onset
    :math:`o_{gb}` and end :math:`e_{gb}`. Counts are negative binomial with variance
    :math:`\lambda + \varphi_g \lambda^2`, then set to zero with probability ``dropout`` :math:`\times e^{-\lambda}`.

    What makes it hard: half of the genes that rise on a branch fall again on the branches that leave it, so that
    intermediate types are marked by what is passing; drivers start at different times; cells early on a branch
    still look like, and are called, the type before; and two programmes that have nothing to do with the tree,
    a cell cycle with two peaks (40 % of the cells) and stress, move genes of their own.

    Parameters
    ----------
    n_cells, n_genes
        Size.
    tree
        "hematopoiesis" (HSPC to MEP and GMP, to Erythrocyte, Thrombocyte, Neutrophil, Monocyte and Lymphocyte)
        or a nested mapping from parent to children with one root; children that have none themselves may be a
        list of names: ``{"stem": {"early": ["red", "white"], "late": None}}``.
    abundance
        Weight of each type's branch, any positive scale. By default unequal for "hematopoiesis" and equal for
        another tree.
    n_batches
        Cells are dealt out to batches at random; with more than one, every gene is shifted in every batch and
        every batch has its own depth.
    n_drivers
        Own drivers of each branch; by default 6 % of the genes (at least 2).
    housekeeping
        Share of genes that take part in no programme (a batch shifts them like all others).
    effect, noise, batch_effect
        Mean absolute log fold change (natural log) of a driver and of a gene of a noise programme at full
        activity; standard deviation of the batch shifts on the same scale.
    library_size, library_sd
        Mean expected counts of a cell at the root, and the standard deviation of the log library size.
    dispersion
        Mean of :math:`\varphi_g`.
    dropout
        Probability that a count is lost where hardly any is expected, 0 to 1.
    commitment
        Position on a branch from which a cell is called by the branch's type and no longer by its parent's.
    rng
        Seed, or a generator.

    Returns
    -------
    AnnData, n_cells x n_genes
        ``X``: counts (float32, CSR).
        ``obs``: ``cell_type``; ``branch`` (the branch, named after the type at its end: the fate of cells that
        aren't committed yet); ``pseudotime`` (0 at the root, 1 at the deepest type); ``batch``; ``cell_cycle``
        (phase in turns, NaN in cells that don't cycle); ``stress``; ``library_size``.
        ``var``: ``housekeeping``; ``noise_programme`` ("none", "cell_cycle_s", "cell_cycle_g2m" or "stress");
        ``base`` (expected count at the root in a cell of mean library size); ``dispersion``.
        ``varm["batch_effect"]`` with more than one batch.
        ``uns["diffvae_truth"]``: ``drivers`` (one row per gene and branch: ``gene``, ``branch``, ``direction``
        "up" or "down", ``effect`` the log fold change, ``onset``, ``end``), ``lineage`` (types x types, true
        where the row is the parent of the column; ``lineage | lineage.T`` is undirected) and ``tree`` (JSON).
        ``uns["diffvae_dataset"]``: name, source, progenitors (the root).

    Raises
    ------
    ValueError
        If a number is out of its range or the tree is not one.

    Notes
    -----
    How hard it is: with the defaults, k-means with the true number of types (8) on 50 principal components of
    scanpy's log-normalised data scores a mean adjusted Rand index of **0.00** (five data sets, ``rng`` 0 to 4, ten
    k-means seeds each, one start per seed; ``benchmarks/simulation_difficulty.py`` prints it). One is perfect.

    Counts are drawn in blocks of two million entries, so that memory beyond the result stays small; 50,000 cells
    x 1,000 genes take well under a minute.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.simulate_differentiation(200, 100, rng=1)
    >>> adata.shape, adata.obs["cell_type"].nunique()
    ((200, 100), 8)
    >>> truth = adata.uns["diffvae_truth"]
    >>> [str(child) for child in truth["lineage"].columns[truth["lineage"].loc["GMP"]]]
    ['Neutrophil', 'Monocyte']
    """
    if isinstance(tree, str) and tree != "hematopoiesis":
        raise ValueError(f"tree is {tree!r}; give 'hematopoiesis' or a nested mapping from parent to children.")
    parents = parents_of(HEMATOPOIESIS if isinstance(tree, str) else tree)
    if abundance is None:
        abundance = HEMATOPOIESIS_ABUNDANCE if isinstance(tree, str) else dict.fromkeys(parents, 1.0)
    share = _shares(abundance, parents)
    n_drivers = max(2, round(0.06 * n_genes)) if n_drivers is None else n_drivers
    n_noise, n_housekeeping = max(1, round(0.04 * n_genes)), round(housekeeping * n_genes)
    _check_ranges(
        at_least_one={"n_cells": n_cells, "n_genes": n_genes, "n_batches": n_batches, "n_drivers": n_drivers},
        not_negative={"effect": effect, "noise": noise, "batch_effect": batch_effect, "library_sd": library_sd},
        positive={"library_size": library_size, "dispersion": dispersion},
        shares={"housekeeping": housekeeping, "dropout": dropout, "commitment": commitment},
    )
    free = n_genes - n_housekeeping - n_noise * len(NOISE_PROGRAMMES)
    if free < 2 * n_drivers:
        raise ValueError(
            f"{n_genes} genes with housekeeping={housekeeping} leave {free} for the tree; {n_drivers} drivers per "
            f"branch need {2 * n_drivers}. Give more n_genes or fewer n_drivers."
        )

    genes = draw_genes(
        n_genes,
        parents,
        n_drivers=n_drivers,
        n_housekeeping=n_housekeeping,
        n_noise=n_noise,
        effect=effect,
        noise=noise,
        dispersion=dispersion,
        rng=_random.generator(rng, "simulate", "genes"),
    )
    obs, position, activity = _draw_cells(
        n_cells, parents, share, n_batches, library_size, library_sd, commitment, _random.generator(rng, "simulate", "cells")
    )
    batch_rng = _random.generator(rng, "simulate", "batches")
    shift = batch_effect * batch_rng.standard_normal((n_batches, n_genes)) if n_batches > 1 else np.zeros((1, n_genes))
    counts = _draw_counts(obs, position, activity, genes, parents, shift, dropout, _random.generator(rng, "simulate", "counts"))
    return _assemble(counts, obs, genes, parents, shift, library_size)


def _shares(abundance: Mapping[str, float], parents: Mapping[str, str | None]) -> np.ndarray:
    """Return the share of cells on each branch, in the order of the tree."""
    if set(abundance) != set(parents):
        odd = sorted(set(abundance) ^ set(parents))
        raise ValueError(f"abundance must weigh exactly the types of the tree; {', '.join(odd)} stand in only one of the two.")
    weights = np.array([abundance[name] for name in parents], dtype=float)
    if not np.all(np.isfinite(weights)) or np.any(weights <= 0):
        raise ValueError(f"abundance is {dict(abundance)}; every weight must be a positive number.")
    return np.asarray(weights / weights.sum())


def _check_ranges(
    *,
    at_least_one: Mapping[str, int],
    not_negative: Mapping[str, float],
    positive: Mapping[str, float],
    shares: Mapping[str, float],
) -> None:
    for name, value in at_least_one.items():
        if int(value) != value or value < 1:
            raise ValueError(f"{name} is {value}; it must be a whole number of at least 1.")
    for name, value in not_negative.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} is {value}; it must be 0 or more.")
    for name, value in positive.items():
        if not 0 < value < np.inf:
            raise ValueError(f"{name} is {value}; it must be more than 0.")
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it must lie between 0 and 1.")


def _draw_cells(
    n_cells: int,
    parents: Mapping[str, str | None],
    share: np.ndarray,
    n_batches: int,
    library_size: float,
    library_sd: float,
    commitment: float,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return ``obs``, each cell's position on its branch, and the activities of the noise programmes (cells x 3)."""
    import pandas as pd

    names = np.array(list(parents))
    # Rounded shares instead of independent draws: small simulations keep their rare types.
    per_branch = np.diff(np.round(np.cumsum(share) * n_cells), prepend=0).astype(int)
    branch = rng.permutation(np.repeat(np.arange(len(names)), per_branch))
    position = rng.beta(1.5, 1.0, size=n_cells)  # more cells towards a branch's end than on the way
    before = np.array([len(path_to(parents, name)) - 1 for name in names])
    above = np.array([list(parents).index(p) if p is not None else i for i, p in enumerate(parents.values())])
    cell_type = np.where(position < commitment, above[branch], branch)

    batch = rng.integers(n_batches, size=n_cells)
    depth = rng.lognormal(-0.02, 0.2, size=n_batches) if n_batches > 1 else np.ones(1)
    library = library_size * depth[batch] * rng.lognormal(-(library_sd**2) / 2, library_sd, size=n_cells)

    phase = np.where(rng.random(n_cells) < _CYCLING, rng.random(n_cells), np.nan)
    stress = rng.beta(1.0, 2.0, size=n_cells)
    turn = 2 * np.pi * phase
    cycle = np.nan_to_num(np.clip(np.column_stack([np.cos(turn), np.cos(turn - np.pi / 2)]), 0, None))
    obs = pd.DataFrame(
        {
            _keys.LABEL: pd.Categorical.from_codes(cell_type, categories=names),
            _keys.BRANCH: pd.Categorical.from_codes(branch, categories=names),
            _keys.PSEUDOTIME: (before[branch] + position) / (before.max() + 1),
            _keys.BATCH: pd.Categorical.from_codes(batch, categories=[f"batch_{i + 1}" for i in range(n_batches)]),
            "cell_cycle": phase,
            "stress": stress,
            "library_size": library,
        },
        index=[f"cell_{i:0{len(str(n_cells))}d}" for i in range(1, n_cells + 1)],
    )
    return obs, position, np.column_stack([cycle, stress])


def _draw_counts(
    obs: pd.DataFrame,
    position: np.ndarray,
    activity: np.ndarray,
    genes: Genes,
    parents: Mapping[str, str | None],
    shift: np.ndarray,
    dropout: float,
    rng: np.random.Generator,
) -> sparse.csr_matrix:
    """Draw the counts block by block, each block from its own stream."""
    from scipy import sparse

    n_cells, n_genes = len(obs), len(genes.log_share)
    names = list(parents)
    of_branch = {name: table for name, table in genes.drivers.groupby("branch")}
    behind = np.zeros((len(names), n_genes))  # what the branches above have added by their ends
    for code, name in enumerate(names):
        for above in path_to(parents, name)[:-1]:
            behind[code, of_branch[above]["gene"]] += of_branch[above]["effect"]
    branch = obs[_keys.BRANCH].cat.codes.to_numpy()
    batch = obs[_keys.BATCH].cat.codes.to_numpy()
    log_library = np.log(obs["library_size"].to_numpy())

    size = max(1, _BLOCK // n_genes)
    starts = range(0, n_cells, size)
    blocks = []
    for start, stream in zip(starts, rng.spawn(len(starts)), strict=True):
        cells = np.arange(start, min(start + size, n_cells))
        log_mean = genes.log_share + log_library[cells, None] + activity[cells] @ genes.noise
        log_mean += behind[branch[cells]] + shift[batch[cells]]
        for code, name in enumerate(names):
            rows, table = np.flatnonzero(branch[cells] == code), of_branch[name]
            on = activation(position[cells[rows]], table["onset"].to_numpy(), table["end"].to_numpy())
            log_mean[np.ix_(rows, table["gene"])] += table["effect"].to_numpy() * on
        mean = np.exp(log_mean, out=log_mean)
        lost = stream.random(mean.shape) < dropout * np.exp(-mean)
        mean *= stream.gamma(1 / genes.dispersion, genes.dispersion, size=mean.shape)
        mean[lost] = 0.0
        blocks.append(sparse.csr_matrix(stream.poisson(mean).astype(np.float32)))
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))


def _assemble(
    counts: sparse.csr_matrix,
    obs: pd.DataFrame,
    genes: Genes,
    parents: Mapping[str, str | None],
    shift: np.ndarray,
    library_size: float,
) -> AnnData:
    import pandas as pd
    from anndata import AnnData

    n_genes = len(genes.log_share)
    labels = ("none", *NOISE_PROGRAMMES)
    moved = genes.noise > 0
    var = pd.DataFrame(
        {
            _keys.HOUSEKEEPING: genes.housekeeping,
            _keys.NOISE_PROGRAMME: pd.Categorical.from_codes(
                np.where(moved.any(axis=0), moved.argmax(axis=0) + 1, 0), categories=labels
            ),
            "base": library_size * np.exp(genes.log_share),
            "dispersion": genes.dispersion,
        },
        index=[f"gene_{i:0{len(str(n_genes))}d}" for i in range(1, n_genes + 1)],
    )
    adata = AnnData(counts, obs=obs, var=var)
    if len(shift) > 1:
        adata.varm["batch_effect"] = pd.DataFrame(shift.T, index=var.index, columns=obs[_keys.BATCH].cat.categories)
    drivers = genes.drivers.assign(gene=var.index.to_numpy()[genes.drivers["gene"]])
    drivers.insert(2, "direction", np.where(drivers["effect"] > 0, "up", "down"))
    drivers.index = drivers.index.astype(str)
    adata.uns[_keys.DATASET] = {
        "name": "simulate_differentiation",
        "source": "simulated by diffvae",
        "progenitors": next(iter(parents)),
    }
    adata.uns[_keys.TRUTH] = {
        "drivers": drivers,
        "lineage": adjacency(parents),
        "tree": json.dumps(nested(parents)),
    }
    return adata
