"""What single cells have beyond their expected expression: zeros, spread and depth, measured on training cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self, TypeAlias

import numpy as np
from scipy.special import ndtr, ndtri

Limits: TypeAlias = tuple[np.ndarray, np.ndarray] | None
"""What the unit scale maps to 0 and to 1."""
MAX_CELLS = 5000
"""Training cells on which the noise is measured and from which artificial cells are drawn."""
N_BINS, N_ABOVE, N_LEVELS = 10, 8, 17
"""Bins of the share of zeros, bins of the values above, and quantiles in each of these."""
CELLS_PER_BIN, ABOVE_PER_BIN = 40, 25
MAX_FACTORS, N_ROUNDS = 30, 3
BLOCK = 1024
"""Cells whose noise is drawn at once."""
MAX_SMALLEST, MAX_CLIPPED = 8, 0.001
"""Largest count that may be the smallest of a cell, and the share of its values that may be clipped."""
NEVER = np.float32(3e38)
"""Edge of a bin that no value reaches; the arrays of a saved model must be finite."""
TINY = 1e-4


@dataclass(frozen=True)
class Noise:
    r"""Latent posteriors of training cells, and the distribution of each gene given its decoded value.

    A gene with the decoded value m is at its floor (0 for counts) with the probability :math:`p_g(m)`, and otherwise
    has a quantile :math:`Q_g(w | m)` of the values above the floor. Both are tables over bins of m:

    .. math:: x_{ig} = Q_g\!\left(\frac{u_{ig} - p}{1 - p} \Big| m\right) \text{ if } u_{ig} > p = p_g(m),
        \quad u_{ig} = \Phi\!\left(f_i \cdot l_g + \sqrt{1 - |l_g|^2}\, \epsilon_{ig}\right)

    The factors f are what genes share beyond z (a Gaussian copula). Where the values are scaled logs of counts, x are
    the counts and m their expected number, for the depth of the cell: one value then tells how much another can be. An
    artificial cell takes z and f from the posteriors of one training cell, with its depth, and :math:`\epsilon` anew.

    Attributes
    ----------
    mean, sd
        Posterior of z, cells x latent dimensions.
    factors
        Posterior means of f, cells x factors.
    size
        Depth of each cell, counts per unit of normalised expression; empty if the values are not those of counts.
    root
        Root of the posterior covariance of f, factors x factors.
    loadings
        l, genes x factors.
    floor
        Smallest value of each gene.
    zeros, edges
        p, bins x genes, and the m between the bins.
    above, above_edges
        Q, bins x levels x genes, and the m between the bins.
    """

    mean: np.ndarray
    sd: np.ndarray
    factors: np.ndarray
    size: np.ndarray
    root: np.ndarray
    loadings: np.ndarray
    floor: np.ndarray
    zeros: np.ndarray
    edges: np.ndarray
    above: np.ndarray
    above_edges: np.ndarray

    @classmethod
    def fit(
        cls,
        x: np.ndarray,
        decoded: np.ndarray,
        mean: np.ndarray,
        sd: np.ndarray,
        limits: Limits,
        rng: np.random.Generator,
    ) -> Self:
        """Measure the noise of cells.

        Parameters
        ----------
        x
            Expression, cells x genes.
        decoded
            Decoded draws from the posteriors of the same cells, cells x genes.
        mean, sd
            These posteriors, cells x latent dimensions.
        limits
            Limits of each gene on the log scale; None if the values are on another scale.
        rng
            Generator of ranks among equal values.
        """
        size = np.empty(0)
        if limits is not None and (counted := counts_of(_logs(x, limits))) is not None:
            x, size = counted
            decoded = _expected(decoded, size, limits)
        floor = x.min(axis=0)
        is_above = x > floor
        edges, zeros = _share_of_floor(decoded, is_above)
        above, above_edges, rank = _values_above(x, decoded, is_above, rng)
        share = np.clip(_of_bin(zeros, _bins(decoded, edges)), TINY, 1 - TINY)
        factors, root, loadings = _shared(share, is_above, rank, rng)
        arrays = (mean, sd, factors, size, root, loadings, floor, zeros, edges, above, above_edges)
        return cls(*(np.asarray(array, np.float32) for array in arrays))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], n_latent: int, n_genes: int) -> Self | None:
        """Return what :meth:`arrays` returned, None for a model that has none; arrays of another shape are refused."""
        if not arrays:
            return None
        noise = cls(**{field.name: arrays[field.name] for field in fields(cls)})
        n_cells, n_factors = noise.factors.shape
        n_above, n_levels, _ = noise.above.shape  # another version may have other tables
        if len(noise.size) not in (0, n_cells):
            raise ValueError(f"size of the noise has {len(noise.size)} values for {n_cells} cells")
        expected = {
            "mean": (n_cells, n_latent), "sd": (n_cells, n_latent), "root": (n_factors, n_factors),
            "loadings": (n_genes, n_factors), "floor": (n_genes,), "zeros": (len(noise.edges) + 1, n_genes),
            "edges": (len(noise.zeros) - 1, n_genes), "above": (n_above, n_levels, n_genes),
            "above_edges": (n_above - 1, n_genes),
        }  # fmt: skip
        for name, shape in expected.items():
            if (found := getattr(noise, name).shape) != shape:
                raise ValueError(f"{name} of the noise has the shape {found}; it must be {shape}")
        return noise

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, for saving."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return z, f and depth of n artificial cells, each drawn from the posteriors of a training cell."""
        cells = rng.integers(len(self.mean), size=n)
        z = self.mean[cells] + self.sd[cells] * rng.standard_normal((n, self.mean.shape[1]), np.float32)
        factors = self.factors[cells] + rng.standard_normal((n, len(self.root)), np.float32) @ self.root.T
        return z, factors, self.size[cells] if len(self.size) else None

    def values(
        self,
        decoded: np.ndarray,
        factors: np.ndarray,
        size: np.ndarray | None,
        limits: Limits,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return expression of single cells on the scale of ``decoded``, and their counts if there are any."""
        if size is None or limits is None:
            return self._drawn(decoded, factors, rng), None
        counts = np.rint(self._drawn(_expected(decoded, size, limits), factors, rng))
        low, high = limits
        span = np.where(high > low, high - low, 1)
        return np.clip((np.log1p(counts / size[:, None]) - low) / span, 0, 1).astype(np.float32), counts

    def _drawn(self, decoded: np.ndarray, factors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        values = np.empty(decoded.shape, np.float32)
        unique = _unique_sd(self.loadings)
        genes, top = np.arange(decoded.shape[1]), self.above.shape[1] - 1
        for start in range(0, len(decoded), BLOCK):
            m, f = decoded[start : start + BLOCK], factors[start : start + BLOCK]
            u = ndtr(f @ self.loadings.T + unique * rng.standard_normal(m.shape, np.float32))
            share = _of_bin(self.zeros, _bins(m, self.edges))
            level = np.clip((u - share) / np.maximum(1 - share, TINY), 0, 1) * top
            lower = np.minimum(level.astype(np.intp), top - 1)
            part, bins = level - lower, _bins(m, self.above_edges)
            quantile = (1 - part) * self.above[bins, lower, genes] + part * self.above[bins, lower + 1, genes]
            values[start : start + BLOCK] = np.where(u < share, self.floor, quantile)
        return values


def counts_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the counts whose normalised logs are given, and the depth of each cell; None for logs of other values.

    The smallest value of a cell is that of the count 1, of which all others are whole multiples; if they are not, it
    is that of a slightly larger count.

    Examples
    --------
    >>> counts = np.array([[0, 1, 3], [2, 0, 1]])
    >>> counts_of(np.log1p(counts / np.array([[2.0], [0.5]])))
    (array([[0., 1., 3.],
           [2., 0., 1.]], dtype=float32), array([2. , 0.5], dtype=float32))
    >>> counts_of(np.random.default_rng(0).random((5, 50))) is None
    True
    """
    rates = np.expm1(x.astype(np.float64))
    one = np.where(rates > TINY**2, rates, np.inf).min(axis=1)
    if x.min() < -TINY or not np.isfinite(one).any():
        return None
    size = 1 / np.where(np.isfinite(one), one, np.median(one[np.isfinite(one)]))
    of_one = size.copy()
    for smallest in range(1, MAX_SMALLEST + 1):
        counts = rates * size[:, None]
        whole = np.rint(counts)
        is_off = np.abs(counts - whole) > 0.1
        # values that were clipped at the limits are off as well, but few
        misfits = is_off.mean(axis=1) > MAX_CLIPPED
        if not misfits.any() or smallest == MAX_SMALLEST:
            break
        size = np.where(misfits, (smallest + 1) * of_one, size)
    if is_off.mean() > TINY:
        return None
    return whole.astype(np.float32), size.astype(np.float32)


def _logs(unit: np.ndarray, limits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    low, high = limits
    return unit * (high - low) + low


def _expected(unit: np.ndarray, size: np.ndarray, limits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return expected counts for decoded values and depths."""
    return (np.expm1(_logs(unit, limits)) * size[:, None]).astype(np.float32)


def _bins(decoded: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the bin of each value, cells x genes; an edge belongs to the bin above."""
    bins = np.zeros(decoded.shape, np.intp)
    for edge in edges:
        bins += decoded >= edge
    return bins


def _of_bin(table: np.ndarray, bins: np.ndarray) -> np.ndarray:
    return np.take_along_axis(table, bins, axis=0)


def _share_of_floor(decoded: np.ndarray, is_above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of bins with equally many cells, and the share of cells at the floor in each bin."""
    n_bins = max(1, min(N_BINS, len(decoded) // CELLS_PER_BIN))
    edges = np.quantile(decoded, np.arange(1, n_bins) / n_bins, axis=0).astype(np.float32)
    bins = _bins(decoded, edges)
    overall = 1 - is_above.mean(axis=0)
    zeros = []
    for number in range(n_bins):
        n = (bins == number).sum(axis=0)
        n_above = (is_above & (bins == number)).sum(axis=0)
        zeros.append(np.where(n > 0, 1 - n_above / np.maximum(n, 1), overall))
    return edges, np.stack(zeros)


def _values_above(
    x: np.ndarray, decoded: np.ndarray, is_above: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return quantiles of the values above the floor in bins of the decoded value, the edges, and the cells' ranks."""
    n_genes = x.shape[1]
    above, edges = np.tile(x.min(axis=0), (N_ABOVE, N_LEVELS, 1)), np.full((N_ABOVE - 1, n_genes), NEVER)
    rank = np.zeros(x.shape, np.float32)
    levels = np.linspace(0, 1, N_LEVELS)
    for gene in range(n_genes):
        cells = np.flatnonzero(is_above[:, gene])
        if not len(cells):
            continue
        cells = cells[np.argsort(decoded[cells, gene], kind="stable")]
        parts = np.array_split(cells, max(1, min(N_ABOVE, len(cells) // ABOVE_PER_BIN)))
        for number in range(N_ABOVE):
            part = parts[min(number, len(parts) - 1)]
            above[number, :, gene] = np.quantile(x[part, gene], levels)
            if number < len(parts):
                place = np.lexsort((rng.random(len(part)), x[part, gene])).argsort()
                rank[part, gene] = (place + 0.5) / len(part)
                if number:
                    edges[number - 1, gene] = decoded[part[0], gene]
    return above, edges, rank


def _unique_sd(loadings: np.ndarray) -> np.ndarray:
    return np.sqrt(1 - np.square(loadings).sum(axis=1))


def _shared(
    share: np.ndarray, is_above: np.ndarray, rank: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return posterior means and root covariance of the factors, and the loadings, of the normal scores of the values.

    The score of a value at the floor is only known to be below that of the share. It is drawn, first evenly and then
    given the factors, from which new factors follow.
    """
    n_cells, n_genes = share.shape
    known = ndtri(np.clip(share + (1 - share) * rank, TINY, 1 - TINY)).astype(np.float32)
    limit = ndtri(share).astype(np.float32)
    expected, unique = np.float32(0), np.ones(n_genes, np.float32)
    factors: np.ndarray = np.zeros((n_cells, 0))
    root: np.ndarray = np.zeros((0, 0))
    loadings: np.ndarray = np.zeros((n_genes, 0))
    for _ in range(N_ROUNDS):
        below = ndtr((limit - expected) / unique) * rng.random(share.shape, np.float32)
        scores = np.where(is_above, known, expected + unique * ndtri(np.clip(below, TINY**2, 1 - TINY)))
        loadings = _loadings(scores.astype(np.float32), rng)
        unique = _unique_sd(loadings).astype(np.float32)
        weighted = loadings / np.square(unique)[:, None]
        covariance = np.linalg.inv(np.eye(loadings.shape[1]) + loadings.T @ weighted)
        root = np.linalg.cholesky(covariance) if len(covariance) else covariance
        factors = scores @ weighted @ covariance
        draws = factors + rng.standard_normal(factors.shape) @ root.T
        expected = (draws @ loadings.T).astype(np.float32)
    return factors, root, loadings


def _loadings(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return loadings of the components above the noise edge of random scores, shrunk as in a spiked model."""
    from sklearn.utils.extmath import randomized_svd

    n_cells, n_genes = scores.shape
    centred = scores - scores.mean(axis=0)
    centred /= np.maximum(centred.std(axis=0), TINY)
    n = min(MAX_FACTORS, n_cells - 1, n_genes - 1)
    if n < 1:
        return np.zeros((n_genes, 0))
    _, singular, axes = randomized_svd(centred, n, random_state=int(rng.integers(2**31)))
    variance, ratio = singular.astype(np.float64) ** 2 / n_cells, n_genes / n_cells
    is_real = variance > 1.02 * (1 + np.sqrt(ratio)) ** 2
    shifted = variance[is_real] + 1 - ratio
    spike = (shifted + np.sqrt(np.maximum(shifted**2 - 4 * variance[is_real], 0))) / 2
    loadings = axes[is_real].T.astype(np.float64) * np.sqrt(np.maximum(spike - 1, 0))
    shared = np.square(loadings).sum(axis=1, keepdims=True)
    return loadings * np.sqrt(np.minimum(shared, 0.95) / np.maximum(shared, TINY**2))
