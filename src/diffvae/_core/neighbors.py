"""Nearest neighbours of each cell: exact, or for many cells approximate with a measured recall."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from diffvae import _random
from diffvae._core.runtime import progress_bar
from diffvae._core.validate import Choice, Rule, Whole, check

METRICS = ("pearson", "cosine", "euclidean", "inner")
RULES: dict[str, Rule] = {"metric": Choice(*METRICS), "k": Whole(1)}
BLOCK, MIN_ROWS = 2**20, 64
"""Similarities in one block, 4 MB in float32 that stay near the processor, and the least number of its rows."""
GATHERED = 2**18
"""Values in one piece of rows that are gathered: 2 MB in float64."""
SPARE = 4
"""Candidates beyond k that are scored again in double precision."""
CROWD = 256
"""Candidates beyond k if more than ``SPARE`` cells are as near as the k-th within single precision."""
TOLERANCE = 2e-6
"""Error of a similarity in single precision, relative to the lengths of the two rows."""
EXACT_LIMIT = 10_000
"""Largest number of cells for an exact search by default; beyond it only near parts of the space are searched."""
PART, SEARCHED = 125, 80
"""Cells in a part of the space, on average, and parts that are searched for the neighbours of a cell."""
RETURNED = 2
"""Multiple of k nearest cells of a neighbour in another batch, among which a cell must be to keep that neighbour."""
ENOUGH = 0.8
"""Recall below which the user is warned."""
SAMPLE = 500
"""Cells on which the recall is measured."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest others of each of N cells, nearest first.

    Attributes
    ----------
    indices
        int64, N x k; -1 where a cell has fewer than k neighbours. :func:`nearest_per_batch` puts the batches side by
        side.
    scores
        float32, N x k, larger = nearer: Pearson's r, cosine, inner product or minus the Euclidean distance; -inf
        where the index is -1.
    recall
        Share of the true neighbours of 500 random cells that were found; None if the search was exact.
    approximate
        Whether only near parts of the space were searched.
    """

    indices: np.ndarray
    scores: np.ndarray
    recall: float | None
    approximate: bool


def nearest(
    x: Any,
    k: int,
    *,
    metric: str,
    rng: _random.Rng = 0,
    exact_limit: int = EXACT_LIMIT,
    progress: bool = False,
    description: str = "Searching for neighbours",
) -> Neighbours:
    r"""Return the k nearest other cells of each cell.

    Exact up to ``exact_limit`` cells: every pair is compared in single precision, block by block, and the best
    ``k + 4`` of each cell again in double precision. Above it, k-means divides the space into parts of 125 cells on
    average, and the neighbours of the cells of a part are searched among the 10,000 cells of the 80 nearest parts
    (an inverted file, Jégou et al. 2011). So the time is linear in cells. Parts are near by the metric; for inner
    products each row gets the further value :math:`\sqrt{M^2 - \|x\|^2}` with M the longest row and each query 0, so
    that :math:`\|q - x\|^2 = \|q\|^2 + M^2 - 2 q \cdot x` (Bachrach et al. 2014).

    Memory: the N x G rows in float32, twice for inner products of many cells, and 4 MB for a block of similarities (256
    bytes per cell above 16,384 cells).

    Parameters
    ----------
    x
        Finite values, cells x features: an array or a sparse matrix.
    k
        Neighbours of each cell.
    metric
        ``"pearson"``, ``"cosine"``, ``"euclidean"`` or ``"inner"``. Cells without variance (Pearson) or with zeros
        only (cosine) have no neighbours and are nobody's neighbours.
    rng
        Seed of the parts and of the cells on which the recall is measured.
    exact_limit
        Largest number of cells for an exact search.
    progress
        Whether to show a bar on a terminal.
    description
        Text beside the bar.

    Returns
    -------
    Neighbours
        A cell is not a neighbour of itself. Of cells with the same score (in float32) the lower index comes first.

    References
    ----------
    Jégou, Douze and Schmid 2011 (inverted file); Bachrach et al. 2014 (inner products as distances).
    """
    check(RULES, metric=metric, k=k)
    n = x.shape[0]
    rows, usable = standardised(x, metric)
    n_found = min(k, len(rows) - 1)
    indices, scores = np.full((n, k), -1, dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)
    if n_found < 1:
        return Neighbours(indices, scores, None, False)
    approximate = len(rows) > exact_limit
    recall = None
    if approximate:
        seed = _random.seed(rng, "neighbours") % 2**31
        every = np.arange(len(rows))
        near, score = _in_near_parts(rows, every, every, n_found, metric, seed, description, progress)
        sample = _random.generator(rng, "neighbours", "recall").permutation(len(rows))[:SAMPLE]
        truth = _exact(rows, sample, n_found, metric, description, progress)[1][:, -1:]
        # compared by score, because equally near cells are interchangeable
        recall = float((score[sample] >= truth - 1e-6 * np.abs(truth)).mean())
        _warn_of_noise(recall)
    else:
        near, score = _exact(rows, np.arange(len(rows)), n_found, metric, description, progress)
    indices[usable, :n_found] = np.where(near >= 0, usable[near], -1)
    scores[usable, :n_found] = score
    return Neighbours(indices, scores, recall, approximate)


def nearest_per_batch(
    x: Any,
    k: int,
    batch: np.ndarray,
    *,
    metric: str,
    rng: _random.Rng = 0,
    exact_limit: int = EXACT_LIMIT,
    progress: bool = False,
    description: str = "Searching for neighbours",
) -> Neighbours:
    r"""Return for each cell its ceil(k / B) nearest other cells in each of B batches, without those of missing types.

    The nearest cell in a batch that lacks the type of a cell is of another type. It has nearer cells of its own type in
    the batch of that cell. So a neighbour j of i in another batch b_j is kept only if i is among the 2 k nearest cells
    of j in the batch of i.

    Parameters
    ----------
    x, k, metric, rng, exact_limit, progress, description
        As in :func:`nearest`, without inner products. Above ``exact_limit`` cells each batch is searched in near
        parts.
    batch
        Batch of each cell, a number from 0.

    Returns
    -------
    Neighbours
        ``indices`` is N x (B ceil(k / B)), batch after batch, -1 for neighbours that were not kept. ``recall`` counts
        the neighbours before.

    References
    ----------
    Polanski et al. 2020 (BBKNN: neighbours in each batch); Haghverdi et al. 2018 (mutual neighbours).
    """
    check(RULES, metric=metric, k=k)
    rows, usable = standardised(x, metric)
    n, n_batches, n_rows, share = x.shape[0], int(batch.max()) + 1, len(rows), share_of(k, int(batch.max()) + 1)
    batch = batch[usable]
    chosen = np.full((n_rows, n_batches * share), -1, dtype=np.int64)
    score, reach = np.full(chosen.shape, -np.inf, dtype=np.float32), np.full((n_rows, n_batches), np.inf, np.float32)
    sample = _random.generator(rng, "neighbours", "recall").permutation(n_rows)[:SAMPLE]
    seed, recall, every = _random.seed(rng, "neighbours") % 2**31, [], np.arange(n_rows)
    for b in range(n_batches):
        among = np.flatnonzero(batch == b)
        width = min(RETURNED * k, len(among) - 1)
        if width < 1:  # the others can't be compared
            continue
        approximate = n_rows > exact_limit and len(among) > SEARCHED * PART
        if approximate:
            near, found = _in_near_parts(rows, every, among, width, metric, seed, description, progress)
            truth = _exact(rows, sample, share, metric, description, progress, among)[1][:, -1:]
            recall.append(float((found[sample, :share] >= truth - 1e-6 * np.abs(truth)).mean()))
        else:
            near, found = _exact(rows, every, width, metric, description, progress, among)
        columns = slice(b * share, b * share + min(share, width))
        chosen[:, columns], score[:, columns], reach[:, b] = near[:, :share], found[:, :share], found[:, -1]
    returned = score >= reach[chosen, batch[:, None]]
    kept = (chosen >= 0) & (returned | (batch[chosen] == batch[:, None]))
    indices, scores = (
        np.full((n, chosen.shape[1]), fill, kind) for fill, kind in ((-1, np.int64), (-np.inf, np.float32))
    )
    indices[usable], scores[usable] = np.where(kept, usable[chosen], -1), np.where(kept, score, -np.inf)
    if recall:
        _warn_of_noise(min(recall))
    return Neighbours(indices, scores, float(np.mean(recall)) if recall else None, bool(recall))


def nearest_among(
    points: np.ndarray, x: np.ndarray, k: int, *, rng: _random.Rng = 0, exact_limit: int = EXACT_LIMIT
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k rows of x that are nearest to each of the points, and their Euclidean distances (float64).

    Exact up to ``exact_limit`` rows of x; above it the search is that of :func:`nearest`.
    """
    rows = (np.concatenate([x, points]) - x.mean(axis=0, dtype=np.float64)).astype(np.float32)
    among, queries = np.arange(len(x)), np.arange(len(x), len(rows))
    if len(x) <= exact_limit:
        near, score = _exact(rows, queries, k, "euclidean", "", False, among)
    else:
        seed = _random.seed(rng, "neighbours") % 2**31
        near, score = _in_near_parts(rows, queries, among, k, "euclidean", seed, "", False)
    return near, -score.astype(np.float64)


def _warn_of_noise(recall: float) -> None:
    if recall < ENOUGH:
        warnings.warn(
            f"Only {recall:.0%} of the nearest cells were found, because the cells lie about as near to one another as "
            "noise would; use a representation with fewer dimensions.",
            UserWarning,
            stacklevel=4,
        )


def share_of(k: int, n_batches: int) -> int:
    """Return how many of k neighbours are taken from each batch: k / B, rounded up."""
    return -(-k // n_batches)


def standardised(x: Any, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 rows whose inner products (or distances) are the metric, and the numbers of their cells."""
    n, n_features = x.shape
    x = x.tocsr() if sp.issparse(x) else np.asarray(x)
    if metric == "inner" and not sp.issparse(x):
        return np.require(x, np.float32, ["C", "W"]), np.arange(n)  # torch warns of read-only arrays
    rows, usable = np.empty((n, n_features), dtype=np.float32), np.ones(n, dtype=bool)
    # subtracting the mean keeps distances and improves their precision
    centre = np.asarray(x.mean(axis=0, dtype=np.float64)).ravel() if metric == "euclidean" else None
    step = max(1, GATHERED // max(n_features, 1))
    for start in range(0, n, step):
        part = slice(start, start + step)
        block = (x[part].toarray() if sp.issparse(x) else x[part]).astype(np.float64)
        if centre is not None:
            block -= centre
        elif metric != "inner":
            length = np.linalg.norm(block, axis=1, keepdims=True)
            if metric == "pearson":
                block -= block.mean(axis=1, keepdims=True)
            deviation = np.linalg.norm(block, axis=1, keepdims=True)
            # of a constant row only rounding errors remain
            usable[part] = (deviation > 1e-6 * length).ravel()
            block /= np.where(deviation > 0, deviation, 1)
        rows[part] = block
    return (rows if usable.all() else rows[usable]), np.flatnonzero(usable)


def _exact(
    rows: np.ndarray,
    queries: np.ndarray,
    k: int,
    metric: str,
    description: str,
    progress: bool,
    among: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the neighbours of some of the rows among all rows, or among those with the numbers ``among``."""
    import torch

    among = np.arange(len(rows)) if among is None else among
    table = torch.from_numpy(rows if len(among) == len(rows) else rows[among])
    place = torch.full((len(rows),), -1)
    place[torch.from_numpy(among)] = torch.arange(len(among))
    squares = torch.from_numpy(np.einsum("ij,ij->i", rows, rows))
    lengths, squares = squares.sqrt(), squares[torch.from_numpy(among)]
    indices, scores = np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k), dtype=np.float32)
    step = max(MIN_ROWS, BLOCK // len(among))
    starts = range(0, len(queries), step)
    with progress_bar(description, len(starts), show=progress) as advance:
        for start in starts:
            part = queries[start : start + step]
            similarity = torch.from_numpy(rows[part]) @ table.T
            # relative to the length of the row itself, so that a long row far away does not blur the near ones
            tolerance = TOLERANCE * lengths[part] * (lengths.max() if metric == "inner" else lengths[part])
            if metric == "euclidean":
                similarity.mul_(2).sub_(squares)
            own = place[torch.from_numpy(part)]
            similarity[own >= 0, own[own >= 0]] = -torch.inf
            columns = _candidates(similarity, k, tolerance)
            candidates = among[columns] if isinstance(columns, np.ndarray) else [among[c] for c in columns]
            indices[start : start + step], scores[start : start + step] = _best(rows, part, candidates, k, metric)
            advance()
    return indices, scores


def _candidates(similarity: Any, k: int, tolerance: Any) -> list[np.ndarray] | np.ndarray:
    """Return for each row of a block columns that include its k best, whatever the rounding."""
    top = similarity.topk(min(k + SPARE, similarity.shape[1]), dim=1)
    kth = top.values[:, k - 1]
    crowded = (top.values[:, -1] >= kth - tolerance).nonzero().ravel().tolist()
    candidates = top.indices.numpy()
    if not crowded:
        return candidates
    several = list(candidates)
    for row in crowded:
        low, high = kth[row] - tolerance[row], kth[row] + tolerance[row]
        sure = (similarity[row] > high).nonzero().ravel().numpy()
        tied = ((similarity[row] >= low) & (similarity[row] <= high)).nonzero().ravel().numpy()
        several[row] = np.concatenate([sure, tied[: k - len(sure) + CROWD]])
    return several


def _best(
    rows: np.ndarray, queries: np.ndarray, candidates: list[np.ndarray] | np.ndarray, k: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of each query's candidates, scored in double precision; -1 stands for no candidate."""
    width = max(map(len, candidates))
    padded = np.full((len(queries), width), -1, dtype=np.int64)
    for row, columns in enumerate(candidates):
        padded[row, : len(columns)] = columns
    padded.sort(axis=1)  # the stable sort below then puts the lower index first
    scores = np.empty(padded.shape, dtype=np.float32)
    step = max(1, GATHERED // (width * max(rows.shape[1], 1)))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        query, others = rows[queries[part], None].astype(np.float64), rows[padded[part]].astype(np.float64)
        if metric == "euclidean":
            scores[part] = -np.linalg.norm(others - query, axis=2)
        else:
            scores[part] = np.einsum("ijk,ijk->ij", others, np.broadcast_to(query, others.shape))
    scores[(padded < 0) | (padded == queries[:, None])] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best, score = np.take_along_axis(padded, order, axis=1), np.take_along_axis(scores, order, axis=1)
    best[np.isneginf(score)] = -1
    return best, score


def _in_near_parts(
    rows: np.ndarray,
    queries: np.ndarray,
    among: np.ndarray,
    k: int,
    metric: str,
    seed: int,
    description: str,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the neighbours of some of the rows among some, searched in the parts of the space near each row."""
    from sklearn.cluster import MiniBatchKMeans

    points, sought = rows[among], rows[queries]
    if metric == "inner":  # Euclidean distances that order as the inner products do
        squares = np.einsum("ij,ij->i", points, points, dtype=np.float64)
        points = np.column_stack([points, np.sqrt(squares.max() - squares).astype(np.float32)])
        sought = np.column_stack([sought, np.zeros(len(sought), dtype=np.float32)])
    n_parts = max(1, len(among) // PART)
    means = MiniBatchKMeans(n_parts, init="random", n_init=1, max_iter=10, batch_size=4096, random_state=seed)
    members, homes = _groups(means.fit_predict(points), n_parts), _groups(means.predict(sought), n_parts)
    indices, scores = np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k), dtype=np.float32)
    needed = np.empty(len(rows), dtype=bool)
    with progress_bar(description, n_parts, show=progress) as advance:
        for home in homes:
            if len(home):
                distances = np.linalg.norm(means.cluster_centers_ - sought[home].mean(axis=0), axis=1)
                order = np.argsort(distances, kind="stable")
                n_held = np.cumsum([len(members[i]) for i in order])
                n_taken = np.searchsorted(n_held, max(SEARCHED * PART, 2 * k + 1)) + 1
                columns = among[np.sort(np.concatenate([members[i] for i in order[:n_taken]]))]
                needed[:] = False
                needed[columns] = needed[queries[home]] = True
                here = np.flatnonzero(needed)
                own, others = np.searchsorted(here, queries[home]), np.searchsorted(here, columns)
                near, scores[home] = _exact(rows[here], own, k, metric, "", False, others)
                indices[home] = np.where(near >= 0, here[near], -1)
            advance()
    return indices, scores


def _groups(labels: np.ndarray, n_groups: int) -> list[np.ndarray]:
    """Return the numbers of the rows with each label."""
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=n_groups))[:-1])
