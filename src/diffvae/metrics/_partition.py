"""Agreement of two partitions of the same cells."""

from __future__ import annotations

from numpy.typing import ArrayLike
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from diffvae.metrics._labels import as_pair


def adjusted_rand_index(labels: ArrayLike, clusters: ArrayLike) -> float:
    r"""Compute the adjusted Rand index of two partitions.

    .. math:: \mathrm{ARI} = \frac{R - E[R]}{\max R - E[R]}

    where :math:`R` counts the pairs of cells that both partitions put together and the expectation is over
    partitions with the same group sizes. 1 for equal partitions, 0 on average for unrelated ones, below 0 for
    less agreement than chance gives. Symmetric, and blind to the names of the groups.

    Parameters
    ----------
    labels, clusters
        One label per cell, of any type; the same cells in the same order.

    Returns
    -------
    The index, at most 1.

    Raises
    ------
    ValueError
        If the lengths differ or a label is missing.

    References
    ----------
    Hubert and Arabie, Comparing partitions, Journal of Classification 2 (1985).

    Examples
    --------
    >>> adjusted_rand_index(["a", "a", "b", "b"], [1, 1, 0, 0])
    1.0
    >>> round(adjusted_rand_index(["a", "a", "b", "b"], [0, 0, 1, 2]), 3)
    0.571
    """
    return float(adjusted_rand_score(*as_pair(labels, clusters)))


def normalized_mutual_info(labels: ArrayLike, clusters: ArrayLike) -> float:
    r"""Compute the mutual information of two partitions over the mean of their entropies.

    .. math:: \mathrm{NMI} = \frac{2\, I(L; C)}{H(L) + H(C)}

    Between 0 (independent) and 1 (equal). Not adjusted for chance: it rises with the number of clusters, so
    read it beside :func:`adjusted_rand_index`.

    Parameters
    ----------
    labels, clusters
        One label per cell, of any type; the same cells in the same order.

    Returns
    -------
    A number in [0, 1].

    Raises
    ------
    ValueError
        If the lengths differ or a label is missing.

    References
    ----------
    Vinh, Epps and Bailey, Information theoretic measures for clusterings comparison, JMLR 11 (2010).

    Examples
    --------
    >>> round(normalized_mutual_info(["a", "a", "b", "b"], [0, 0, 1, 2]), 3)
    0.8
    """
    return float(normalized_mutual_info_score(*as_pair(labels, clusters)))
