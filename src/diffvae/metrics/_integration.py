"""Whether batches are mixed and types kept apart: the scores of data integration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2
from sklearn.metrics import silhouette_samples

from diffvae._core.neighbors import nearest
from diffvae._core.validate import Number, Optional, Rule, Whole, check
from diffvae._random import Rng, generator
from diffvae.metrics._labels import as_labels, as_pair, as_points
from diffvae.metrics._neighbourhood import knn_purity, silhouette

RULES: dict[str, Rule] = {
    "n_neighbors": Whole(2),
    "alpha": Number("(0, 1)"),
    "sample_size": Optional(Whole(4)),
}
MIN_CELLS = 10
"""Smallest type of which kBET says anything, and smallest neighbourhood (scIB)."""
MAX_NEIGHBOURS = 70
"""Largest neighbourhood of kBET (scIB)."""
PURITY_NEIGHBOURS = 15
BLOCK = 10_000
"""Cells whose kernel widths are searched together, to limit memory."""


def ilisi(x: ArrayLike, batch: ArrayLike, *, n_neighbors: int = 90, rng: Rng = 0) -> float:
    r"""Compute how many batches the neighbourhood of a cell holds in effect: iLISI, 0 apart, 1 evenly mixed.

    .. math:: \mathrm{LISI}_i = \frac{1}{\sum_b \left(\sum_{j \in b} p_{ij}\right)^2}, \qquad
        p_{ij} \propto e^{-\beta_i d_{ij}}, \qquad
        \mathrm{iLISI} = \frac{\mathrm{median}_i\, \mathrm{LISI}_i - 1}{B - 1}

    over the k nearest other cells j at Euclidean distances :math:`d_{ij}`; :math:`\beta_i` gives :math:`p_i` the
    perplexity k / 3. B is the number of batches. Batches in shares :math:`\pi_b` that are mixed at random have about
    :math:`(1 / \sum_b \pi_b^2 - 1) / (B - 1)`, which is below 1 if the shares differ.

    Parameters
    ----------
    x
        N cells x D dimensions.
    batch
        Batch of each cell.
    n_neighbors
        k; of fewer cells, all others.
    rng
        Seed of the approximate search above 10,000 cells.

    Returns
    -------
    A number in [0, 1].

    Raises
    ------
    ValueError
        If there is one batch only, a batch of one cell, or a missing batch.

    Notes
    -----
    Measured against scib-metrics 0.5.10 on the mouse pancreas of Baron et al. (1,886 cells, two donors, 50 principal
    components): 0.126537 here, and the same to 1e-6 there with 90 other neighbours and perplexity 30. With its own
    90 neighbours, of which a cell itself is one, it gives 0.126671.

    References
    ----------
    Korsunsky et al., Fast, sensitive and accurate integration of single-cell data with Harmony, Nature Methods 16
    (2019); rescaled as in Luecken et al. (scIB), Nature Methods 19 (2022).

    Examples
    --------
    >>> round(ilisi(np.eye(4), ["a", "a", "b", "b"]), 3)  # each has 3 neighbours at one distance: 1 / (1/9 + 4/9) - 1
    0.8
    """
    batches, points = _batches(x, batch)
    check(RULES, n_neighbors=n_neighbors)
    n_batches = int(batches.max()) + 1
    found = nearest(points, min(n_neighbors, len(points) - 1), metric="euclidean", rng=rng)
    values = np.empty(len(points))
    for start in range(0, len(points), BLOCK):
        part = slice(start, start + BLOCK)
        near = batches[found.indices[part]]
        weight = _kernel(-found.scores[part].astype(np.float64))
        share = np.stack([(weight * (near == b)).sum(axis=1) for b in range(n_batches)])
        values[part] = 1 / np.square(share).sum(axis=0)
    return float((np.median(values) - 1) / (n_batches - 1))


def _kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights exp(-beta d) of k distances, which sum to 1 and have the perplexity k / 3; bisects log beta."""
    n, k = distance.shape
    target = np.log(max(k / 3, 1.0))
    d = distance - distance.min(axis=1, keepdims=True)
    d /= np.maximum(d.mean(axis=1, keepdims=True), np.finfo(float).tiny)
    low, high = np.full(n, -20.0), np.full(n, 20.0)
    for _ in range(50):
        middle = (low + high) / 2
        weight = np.exp(-np.exp(middle)[:, None] * d)
        total = weight.sum(axis=1)
        entropy = np.log(total) + np.exp(middle) * (weight * d).sum(axis=1) / total
        wide = entropy > target
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return weight / total[:, None]


def kbet_acceptance(
    x: ArrayLike, batch: ArrayLike, labels: ArrayLike | None = None, *, alpha: float = 0.05, rng: Rng = 0
) -> float:
    r"""Compute the share of neighbourhoods whose batches a chi-square test does not reject: kBET, 1 if mixed.

    .. math:: \chi^2_i = \sum_b \frac{(n_{ib} - k \pi_b)^2}{k \pi_b}

    is compared with its distribution of B - 1 degrees of freedom; :math:`n_{ib}` counts batch b among cell i and its
    k - 1 nearest others, and :math:`\pi_b` is the share of the batch in all cells. k is a quarter of the mean size of
    a batch, between 10 and 70. Batches that are mixed at random have about 1 - ``alpha``.

    With labels it is computed within each type and averaged over the types, so that a type which a batch lacks does not
    count against the mixing. Types of one batch or of fewer than 10 cells are left out.

    Parameters
    ----------
    x
        Cells x dimensions.
    batch
        Batch of each cell.
    labels
        Type of each cell; None to take all cells together.
    alpha
        Level of the test.
    rng
        Seed of the approximate search above 10,000 cells.

    Returns
    -------
    A number in [0, 1]; NaN if no type has 10 cells and two batches.

    Raises
    ------
    ValueError
        If there is one batch only, a batch of one cell, or a missing batch or label.

    Notes
    -----
    The neighbours are those of x. ``scib_metrics.kbet_per_label`` takes neighbours by diffusion distance instead, and
    sets a type to 0 if its graph falls apart. Measured against scib-metrics 0.5.10 on the mouse pancreas of Baron et
    al.: 0.570 here, 0.569 there; without labels and with its own 70 neighbours both give 0.160657. With two types taken
    out of one batch: 0.585 and 0.544.

    References
    ----------
    Büttner et al., A test metric for assessing single-cell RNA-seq batch correction, Nature Methods 16 (2019); within
    types as in Luecken et al. (scIB), Nature Methods 19 (2022).

    Examples
    --------
    >>> x = np.arange(40.0)[:, None]
    >>> kbet_acceptance(x, ["a", "b"] * 20), kbet_acceptance(x, ["a"] * 20 + ["b"] * 20)
    (1.0, 0.175)
    """
    check(RULES, alpha=alpha)
    batches, points = _batches(x, batch)
    if labels is None:
        return _acceptance(points, batches, alpha, rng)
    types, _ = as_pair(labels, batch, ("labels", "batch"))
    scores = [_acceptance(points[of], batches[of], alpha, rng) for of in _mixed_types(types, batches, MIN_CELLS)]
    return float(np.mean(scores)) if scores else float("nan")


def _acceptance(points: NDArray[np.floating], batches: NDArray[np.intp], alpha: float, rng: Rng) -> float:
    size = np.bincount(batches)
    size, batches = size[size > 0], np.unique(batches, return_inverse=True)[1]
    k = min(max(int(size.mean() / 4), MIN_CELLS), MAX_NEIGHBOURS, len(points))
    near = nearest(points, k - 1, metric="euclidean", rng=rng).indices
    around = batches[np.column_stack([np.arange(len(points)), near])]
    observed = np.stack([(around == b).sum(axis=1) for b in range(len(size))])
    expected = (k * size / size.sum())[:, None]
    statistic = (np.square(observed - expected) / expected).sum(axis=0)
    return float((chi2.sf(statistic, len(size) - 1) >= alpha).mean())


def batch_silhouette(
    x: ArrayLike, batch: ArrayLike, labels: ArrayLike, *, sample_size: int | None = 5000, rng: Rng = 0
) -> float:
    r"""Compute how little batches form clusters within types: scIB's batch silhouette, 1 if mixed.

    .. math:: \frac{1}{T} \sum_t \frac{1}{n_t} \sum_{i \in t} \left( 1 - |s_i| \right)

    with :math:`s_i` the silhouette width (:func:`silhouette`) of cell i among the batches of its type t. A cell that is
    alone in its batch has width 0. Types of one batch, or with as many batches as cells, are left out.

    Parameters
    ----------
    x
        Cells x dimensions.
    batch
        Batch of each cell.
    labels
        Type of each cell.
    sample_size
        Largest number of cells of a type, since time is quadratic in it; of more, each batch gives equally many at
        random, and the mean is weighted by the sizes of the batches. None takes all.
    rng
        Seed or generator of the draw.

    Returns
    -------
    A number in [0, 1]; NaN if no type has two batches.

    Raises
    ------
    ValueError
        If there is one batch only, a batch of one cell, or a missing batch or label.

    Notes
    -----
    Equal to scib-metrics 0.5.10 to 1e-6 on the mouse pancreas of Baron et al. The score is high for many spaces without
    mixing, because widths are small in many dimensions: 0.856 there, where iLISI is 0.127. Look at both.

    References
    ----------
    Luecken et al., Benchmarking atlas-level data integration in single-cell genomics, Nature Methods 19 (2022).

    Examples
    --------
    >>> x = [[0.0], [1.0], [10.0], [11.0]]
    >>> round(batch_silhouette(x, ["a", "a", "b", "b"], ["T"] * 4), 3)
    0.1
    """
    check(RULES, sample_size=sample_size)
    batches, points = _batches(x, batch)
    types, _ = as_pair(labels, batch, ("labels", "batch"))
    draw, scores = generator(rng, "batch_silhouette"), []
    for of in _mixed_types(types, batches):
        if len(np.unique(batches[of])) < len(of):
            width, weight, _ = _widths(points[of], batches[of], sample_size, draw)
            scores.append(1 - np.average(np.abs(width), weights=weight))
    return float(np.mean(scores)) if scores else float("nan")


def batch_r2(x: ArrayLike, batch: ArrayLike) -> float:
    r"""Compute the share of a representation's variance that the batch explains: 0 if the batches have equal means.

    .. math:: R^2 = 1 - \frac{\sum_i \lVert x_i - \bar x_{b(i)} \rVert^2}{\sum_i \lVert x_i - \bar x \rVert^2}

    It is scIB's principal-component regression with all components: the mean of the :math:`R^2` of each component on
    the batch, weighted by variance, does not depend on the rotation. Batches that are mixed at random have
    (B - 1) / (N - 1) on average. Types that the batches have in different shares raise it, also without batch effects.

    Parameters
    ----------
    x
        N cells x D dimensions.
    batch
        Batch of each cell.

    Returns
    -------
    A number in [0, 1]; less is better. NaN if all cells are the same.

    Raises
    ------
    ValueError
        If there is one batch only, a batch of one cell, or a missing batch.

    Notes
    -----
    Equal to scib-metrics 0.5.10 to 1e-6 on the mouse pancreas of Baron et al.

    References
    ----------
    Büttner et al., Nature Methods 16 (2019); Luecken et al. (scIB), Nature Methods 19 (2022).

    Examples
    --------
    >>> batch_r2([[0.0], [2.0], [4.0], [6.0]], ["a", "a", "b", "b"])
    0.8
    """
    batches, points = _batches(x, batch)
    centred = points - points.mean(axis=0, dtype=np.float64)
    total = np.square(centred).sum()
    if total == 0:
        return float("nan")
    means = pd.DataFrame(centred).groupby(batches).mean().to_numpy()
    return float((np.bincount(batches) * np.square(means).sum(axis=1)).sum() / total)


@dataclass(frozen=True)
class IsolatedTypes:
    """Result of :func:`isolated_types`.

    Attributes
    ----------
    score
        Mean over the isolated types of their silhouette, scaled to [0, 1]; NaN if there are none.
    types
        Names of the isolated types.
    n_batches
        Number of batches in which each of them occurs.

    Examples
    --------
    >>> x = [[0.0], [1.0], [0.5], [1.5], [10.0], [11.0]]
    >>> isolated_types(x, ["T", "T", "T", "T", "B", "B"], ["a", "a", "b", "b", "a", "b"])
    IsolatedTypes(score=nan, types=(), n_batches=2)
    """

    score: float
    types: tuple[str, ...]
    n_batches: int


def isolated_types(
    x: ArrayLike, labels: ArrayLike, batch: ArrayLike, *, sample_size: int | None = 5000, rng: Rng = 0
) -> IsolatedTypes:
    r"""Score how well the types that occur in the fewest batches stay apart from the others.

    .. math:: \frac{1}{|I|} \sum_{t \in I} \frac{1}{n_t} \sum_{i \in t} \frac{s_i + 1}{2}

    with I the types in the fewest batches and :math:`s_i` the silhouette width of cell i among all types. A method that
    mixes too much puts such a type onto another one. There is none if each type occurs in each batch.

    Parameters
    ----------
    x
        Cells x dimensions.
    labels
        Type of each cell.
    batch
        Batch of each cell.
    sample_size
        Largest number of cells, since time is quadratic in it; of more, each type gives equally many at random. None
        takes all.
    rng
        Seed or generator of the draw.

    Returns
    -------
    IsolatedTypes
        Score, names, and the number of batches in which they occur.

    Raises
    ------
    ValueError
        If there is one batch or type only, a batch of one cell, or a missing batch or label.

    Notes
    -----
    Equal to scib-metrics 0.5.10 to 1e-6 on the mouse pancreas of Baron et al. with two types taken out of one batch.
    That package scores all types if each of them occurs in each batch.

    References
    ----------
    Luecken et al., Benchmarking atlas-level data integration in single-cell genomics, Nature Methods 19 (2022).

    Examples
    --------
    >>> x = [[0.0], [1.0], [0.5], [1.5], [10.0], [11.0]]
    >>> found = isolated_types(x, ["T", "T", "T", "T", "B", "B"], ["a", "a", "b", "b", "a", "a"])
    >>> found.types, found.n_batches, round(found.score, 3)
    (('B',), 1, 0.949)
    """
    check(RULES, sample_size=sample_size)
    batches, points = _batches(x, batch)
    cells, _ = as_pair(labels, batch, ("labels", "batch"))
    names, types = np.unique(cells, return_inverse=True)
    if not 2 <= len(names) < len(cells):
        raise ValueError(
            f"labels put {len(cells)} cells into {len(names)} types; isolated types need at least 2 types and fewer "
            "types than cells."
        )
    n_batches = pd.Series(batches).groupby(types).nunique().to_numpy()
    fewest = int(n_batches.min())
    chosen = np.flatnonzero(n_batches == fewest) if fewest <= batches.max() else np.empty(0, dtype=int)
    score = float("nan")
    if len(chosen):
        width, _, kept = _widths(points, types, sample_size, generator(rng, "isolated_types"))
        score = float(np.mean([(width[kept == t].mean() + 1) / 2 for t in chosen]))
    return IsolatedTypes(score, tuple(str(name) for name in names[chosen]), fewest)


def integration(x: ArrayLike, batch: ArrayLike, labels: ArrayLike | None = None, *, rng: Rng = 0) -> dict[str, float]:
    """Compute all scores of data integration: whether batches are mixed, and whether types are kept.

    Read both sides together. A space without any information mixes the batches perfectly and keeps no type.

    Parameters
    ----------
    x
        Cells x dimensions.
    batch
        Batch of each cell.
    labels
        Type of each cell; without them the scores that need types are left out.
    rng
        Seed or generator of the samples.

    Returns
    -------
    Name to score. **Batches mixed**: ``ilisi``, ``kbet_acceptance`` (within types if there are labels),
    ``batch_silhouette`` (more is better) and ``batch_r2`` (less is better). **Types kept** (more is better):
    ``knn_purity`` of the 15 nearest neighbours, ``silhouette`` in [-1, 1], ``isolated_types``; ``n_isolated_types`` is
    their number. NaN where a score is undefined, such as ``isolated_types`` if each type occurs in each batch.

    Raises
    ------
    ValueError
        If there is one batch or type only, a batch of one cell, or a missing batch or label.

    References
    ----------
    Luecken et al., Benchmarking atlas-level data integration in single-cell genomics, Nature Methods 19 (2022).

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(200, 3)) + np.repeat([[0], [9]], 100, axis=0)
    >>> found = integration(x, ["a", "b"] * 100, ["T"] * 100 + ["B"] * 100)
    >>> found["knn_purity"], found["n_isolated_types"], bool(found["ilisi"] > 0.9), bool(found["batch_r2"] < 0.01)
    (1.0, 0.0, True, True)
    """
    scores = {"ilisi": ilisi(x, batch, rng=rng), "kbet_acceptance": kbet_acceptance(x, batch, labels, rng=rng)}
    if labels is None:
        return scores | {"batch_r2": batch_r2(x, batch)}
    isolated = isolated_types(x, labels, batch, rng=rng)
    return scores | {
        "batch_silhouette": batch_silhouette(x, batch, labels, rng=rng),
        "batch_r2": batch_r2(x, batch),
        "knn_purity": knn_purity(x, labels, n_neighbors=min(PURITY_NEIGHBOURS, np.size(labels) - 1)),
        "silhouette": silhouette(x, labels, rng=rng),
        "isolated_types": isolated.score,
        "n_isolated_types": float(len(isolated.types)),
    }


def _batches(x: ArrayLike, batch: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.floating]]:
    """Return the code of each cell's batch, and the points; refuse what has nothing to mix."""
    cells = as_labels(batch, "batch")
    points = as_points(x, len(cells))
    names, codes, size = np.unique(cells, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(
            f"batch has one value only, {str(names[0])!r}; there is nothing to mix with fewer than 2 batches."
        )
    if size.min() < 2:
        raise ValueError(
            f"batch {str(names[size.argmin()])!r} has 1 cell; leave out batches of one cell, which are never among "
            "their own neighbours."
        )
    return codes, points


def _mixed_types(types: NDArray[np.str_], batches: NDArray[np.intp], least: int = 2) -> list[NDArray[np.intp]]:
    """Return the cells of each type that has at least two batches and so many cells."""
    of_type = [np.flatnonzero(types == name) for name in np.unique(types)]
    return [cells for cells in of_type if len(cells) >= least and len(np.unique(batches[cells])) > 1]


def _widths(
    points: NDArray[np.floating], groups: NDArray[np.intp], size: int | None, draw: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    """Return silhouette widths of a sample, the number of cells that each stands for, and its groups.

    At most ``size`` cells, equally many of each group where there are enough: a width compares means over groups, which
    needs no equal shares, and no group is lost.
    """
    names, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if size is None or size >= len(groups):
        chosen = np.arange(len(groups))
    else:
        each = max(2, size // len(names))
        chosen = np.concatenate([draw.permutation(np.flatnonzero(codes == g))[:each] for g in range(len(names))])
        chosen.sort()
    kept = np.bincount(codes[chosen])
    return silhouette_samples(points[chosen], codes[chosen]), (counts / kept)[codes[chosen]], groups[chosen]
