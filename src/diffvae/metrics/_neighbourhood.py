"""How well groups of cells cluster in a representation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from diffvae._core.validate import Optional, Whole, check
from diffvae._random import Rng, generator
from diffvae.metrics._labels import as_labels, as_points


def silhouette(
    x: ArrayLike, labels: ArrayLike, *, sample_size: int | None = 5000, metric: str = "euclidean", rng: Rng = 0
) -> float:
    r"""Compute the mean silhouette width of labelled cells.

    .. math:: s_i = \frac{b_i - a_i}{\max(a_i, b_i)}

    with :math:`a_i` the mean distance of cell :math:`i` to the other cells of its group and :math:`b_i` the smallest
    mean distance to the cells of another group. A cell that is alone in its group counts 0.

    Parameters
    ----------
    x
        Cells x dimensions.
    labels
        One label per cell.
    sample_size
        Largest number of cells, since time is quadratic in it; of more, a random sample is drawn. None takes all.
    metric
        Distance, by the names of :func:`sklearn.metrics.pairwise_distances`.
    rng
        Seed or generator of the draw.

    Returns
    -------
    The mean over cells, in [-1, 1].

    References
    ----------
    Rousseeuw, Silhouettes, Journal of Computational and Applied Mathematics 20 (1987).

    Examples
    --------
    >>> round(silhouette([[0.0], [1.0], [10.0], [11.0]], ["a", "a", "b", "b"]), 3)
    0.9
    """
    groups = as_labels(labels)
    points = as_points(x, len(groups))
    check({"sample_size": Optional(Whole(2))}, sample_size=sample_size)
    n_groups = len(np.unique(groups))
    if not 2 <= n_groups < len(groups):
        raise ValueError(
            f"labels put {len(groups)} cells into {n_groups} groups; a silhouette needs at least 2 groups "
            "and fewer groups than cells."
        )
    if sample_size is not None and sample_size < len(groups):
        chosen = generator(rng, "silhouette").choice(len(groups), sample_size, replace=False)
        points, groups = points[chosen], groups[chosen]
        n_groups = len(np.unique(groups))
        if not 2 <= n_groups < len(groups):
            raise ValueError(
                f"the {sample_size} cells drawn fall into {n_groups} groups; raise sample_size or set it to None."
            )
    return float(silhouette_score(points, groups, metric=metric))


def knn_purity(x: ArrayLike, labels: ArrayLike, *, n_neighbors: int = 15, metric: str = "euclidean") -> float:
    r"""Compute the share of a cell's nearest neighbours that carry its label, averaged over cells.

    .. math:: \frac{1}{N k} \sum_{i=1}^{N} \sum_{j \in \mathrm{kNN}(i)} [\,l_j = l_i\,]

    A cell is not a neighbour of itself. Under random labels the expectation is
    :math:`\sum_l n_l (n_l - 1) / (N (N - 1))`, so that large groups raise it. Memory grows with :math:`N k`.

    Parameters
    ----------
    x
        Cells x dimensions.
    labels
        One label per cell.
    n_neighbors
        k, smaller than the number of cells.
    metric
        Distance, by the names of :class:`sklearn.neighbors.NearestNeighbors`.

    Returns
    -------
    A number in [0, 1].

    Examples
    --------
    >>> knn_purity([[0.0], [1.0], [10.0], [11.0]], ["a", "a", "b", "b"], n_neighbors=1)
    1.0
    """
    groups = as_labels(labels)
    points = as_points(x, len(groups))
    check({"n_neighbors": Whole(1, len(groups) - 1)}, n_neighbors=n_neighbors)
    neighbours = NearestNeighbors(n_neighbors=n_neighbors, metric=metric).fit(points)
    # without points, scikit-learn excludes each cell from its own neighbours, also among duplicates
    indices = neighbours.kneighbors(return_distance=False)
    _, codes = np.unique(groups, return_inverse=True)
    return float((codes[indices] == codes[:, None]).mean())
