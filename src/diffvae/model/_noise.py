"""What single cells have beyond their expected expression: zeros, spread and depth, measured on training cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Self, TypeAlias

import numpy as np
from scipy.special import ndtr, ndtri

from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae.model._features import Matrix

Limits: TypeAlias = tuple[np.ndarray, np.ndarray] | None
"""What the unit scale maps to 0 and to 1."""
MIN_CELLS, MAX_CELLS, MAX_VALUES = 1000, 5000, 5_000_000
"""Training cells on which the noise is measured and from which artificial cells are drawn: as many as have so many
values, within these limits."""
N_BINS, N_ABOVE, N_LEVELS = 10, 8, 17
"""Bins of the share of zeros, bins of the values above, and quantiles in each of these."""
CELLS_PER_BIN, ABOVE_PER_BIN = 40, 25
MAX_FACTORS, N_ROUNDS = 30, 3
BLOCK = 1024
"""Cells whose noise is drawn at once."""
COUNT_BLOCK = 64
"""Cells whose counts are read from their logs at once."""
MAX_BLOCK = 2**19
"""Values of genes whose tables are measured at once."""
PART_BIT = 60
"""Bits below the number of the bin, of whole numbers by which values are sorted."""
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
        # genes x cells: the values of a gene lie side by side
        x, decoded = (np.ascontiguousarray(array.T, np.float32) for array in (x, decoded))
        floor = x.min(axis=1)
        zeros, edges = np.empty((_n_bins(len(mean)), len(x))), np.empty((_n_bins(len(mean)) - 1, len(x)))
        above, above_edges = np.empty((N_ABOVE, N_LEVELS, len(x))), np.empty((N_ABOVE - 1, len(x)))
        score, limit = np.empty_like(x), np.empty_like(x)
        for genes in _blocks(*x.shape):
            is_above = x[genes] > floor[genes, None]
            zeros[:, genes], edges[:, genes], bins = _share_of_floor(decoded[genes], is_above)
            above[..., genes], above_edges[:, genes], rank = _values_above(x[genes], decoded[genes], is_above, rng)
            share = np.clip(zeros[:, genes], TINY, 1 - TINY).T.astype(np.float32)
            limit[genes] = np.take_along_axis(ndtri(share), bins, axis=1)
            share = np.take_along_axis(share, bins, axis=1)[is_above]
            known = ndtri(np.minimum(share + (1 - share) * rank[is_above], np.float32(1 - TINY)))
            score[genes][is_above] = known
        factors, root, loadings = _shared(score, limit, x > floor[:, None], rng)
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
        is_whole = all(np.array_equal(table, np.rint(table)) for table in (self.floor, self.above))
        return np.rint(values) if is_whole else values


def training_cells(
    matrix: Matrix, validation: np.ndarray | None, rng: np.random.Generator
) -> tuple[np.ndarray, Matrix]:
    """Return the numbers and a copy of the cells to measure, drawn from those that were not held out."""
    rows = np.arange(matrix.shape[0])
    n_cells = int(np.clip(MAX_VALUES // matrix.shape[1], MIN_CELLS, MAX_CELLS))
    if isinstance(matrix, BackedMatrix):
        rows, matrix = matrix.sample(MAX_CELLS, rng)
    kept = np.ones(len(rows), bool) if validation is None else ~validation[rows]
    chosen = np.flatnonzero(kept if kept.any() else ~kept)
    chosen = np.sort(rng.permutation(chosen)[:n_cells])
    return rows[chosen], matrix[chosen]


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
    if x.min() < -TINY:
        return None
    whole, ones, size, n_off = np.empty(x.shape, np.float32), np.empty(len(x)), np.empty(len(x)), 0
    for start in range(0, len(x), COUNT_BLOCK):
        block = slice(start, start + COUNT_BLOCK)
        rates = np.expm1(x[block].astype(np.float64))
        one = ones[block] = np.where(rates > TINY**2, rates, np.inf).min(axis=1)  # inf without counts
        off, left = np.zeros(len(one)), np.arange(len(one))
        for smallest in range(1, MAX_SMALLEST + 1):
            size[block][left] = smallest / one[left]
            counts = rates[left] * size[block][left, None]
            whole[block][left] = np.rint(counts)
            off[left] = (np.abs(counts - np.rint(counts)) > 0.1).sum(axis=1)
            # values that were clipped at the limits are off as well, but few
            left = left[off[left] > MAX_CLIPPED * x.shape[1]]
            if not len(left):
                break
        n_off += int(off.sum())
        if n_off > TINY * x.size:
            return None
    has_counts = np.isfinite(ones)
    if not has_counts.any():
        return None
    size[~has_counts] = 1 / np.median(ones[has_counts])
    return whole, size.astype(np.float32)


def _logs(unit: np.ndarray, limits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    low, high = limits
    return unit * (high - low) + low


def _expected(unit: np.ndarray, size: np.ndarray, limits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return expected counts for decoded values and depths."""
    return (np.expm1(_logs(unit, limits)) * size[:, None]).astype(np.float32)


def _bins(decoded: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the bin of each value, cells x genes; an edge belongs to the bin above."""
    bins = np.zeros(decoded.shape, np.int8)
    for edge in edges:
        bins += decoded >= edge
    return bins


def _of_bin(table: np.ndarray, bins: np.ndarray) -> np.ndarray:
    return np.take_along_axis(table, bins, axis=0)


def _blocks(n_genes: int, n_cells: int) -> Iterator[slice]:
    """Yield slices of genes; their values fit into the cache, and arrays of 8 bytes per value stay small."""
    step = max(1, MAX_BLOCK // n_cells)
    for start in range(0, n_genes, step):
        yield slice(start, start + step)


def _n_bins(n_cells: int) -> int:
    return max(1, min(N_BINS, n_cells // CELLS_PER_BIN))


def _share_of_floor(decoded: np.ndarray, is_above: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the share of cells at the floor in bins with equally many cells, bins x genes, and the edges and bins.

    ``decoded`` and ``is_above`` are genes x cells, as are the bins.
    """
    n_genes, n_cells = decoded.shape
    n_bins = _n_bins(n_cells)
    edges = np.quantile(np.sort(decoded, axis=1), np.arange(1, n_bins) / n_bins, axis=1).astype(np.float32)
    bins = _bins(decoded.T, edges).T
    # one number for each gene, bin and side of the floor
    code = np.arange(n_genes)[:, None] * (2 * n_bins) + 2 * bins.astype(np.int32) + is_above
    counts = np.bincount(code.ravel(), minlength=n_genes * 2 * n_bins).reshape(n_genes, n_bins, 2)
    n = counts.sum(axis=2)
    overall = 1 - is_above.mean(axis=1, keepdims=True)
    return np.where(n > 0, counts[..., 0] / np.maximum(n, 1), overall).T, edges, bins


def _values_above(
    x: np.ndarray, decoded: np.ndarray, is_above: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return quantiles of the values above the floor in bins of the decoded value, the edges, and the cells' ranks.

    Arguments and ranks are genes x cells. Two sorts of whole numbers order all genes at once: by the decoded value,
    which divides the cells above the floor into bins, and by bin, value and a random number for equal values. The last
    bits of each number are those of the cell. The quantiles are values of cells, so those of whole numbers are whole.
    """
    n_genes, n_cells = x.shape
    genes, n_bits = np.arange(n_genes)[:, None], n_cells.bit_length()
    cell, of_cell = np.arange(n_cells, dtype=np.uint64), np.uint64((1 << n_bits) - 1)

    def cells_by(keys: np.ndarray) -> np.ndarray:
        """Return the cells of each gene in the order of the keys, as places in a flat array of genes x cells."""
        keys.sort(axis=1)
        return (keys & of_cell).view(np.int64) + genes * n_cells

    order = cells_by(np.where(is_above, _ordered(decoded), np.uint64(2**32 - 1)) << np.uint64(32) | cell)
    n_above = is_above.sum(axis=1)[:, None]
    n_parts = np.clip(n_above // ABOVE_PER_BIN, 1, N_ABOVE)
    start = np.minimum(np.arange(N_ABOVE + 1), n_parts) * n_above // n_parts
    size = np.diff(start, append=n_cells)  # the last is that of the cells at the floor
    inner, number = np.minimum(start[:, 1:-1], n_cells - 1), np.arange(1, N_ABOVE)
    edges = np.where(number < n_parts, decoded.ravel()[np.take_along_axis(order, inner, axis=1)], NEVER)

    part = np.empty(x.size, np.uint64)
    part[order.ravel()] = np.repeat(np.tile(np.arange(N_ABOVE + 1, dtype=np.uint64), n_genes), size.ravel())
    keys = part.reshape(x.shape) << np.uint64(PART_BIT) | _ordered(x) << np.uint64(PART_BIT - 32)
    random = rng.integers(1 << (PART_BIT - 32 - n_bits), size=x.shape, dtype=np.uint32)
    keys |= random.astype(np.uint64) << np.uint64(n_bits)
    order = cells_by(keys | cell)
    width = (1 / np.maximum(size, 1)).astype(np.float32)
    first = np.repeat(start.ravel().astype(np.float32), size.ravel()).reshape(x.shape)
    rank = np.empty(x.size, np.float32)
    place = np.arange(n_cells, dtype=np.float32) + np.float32(0.5) - first
    rank[order.ravel()] = place.ravel() * np.repeat(width.ravel(), size.ravel())

    used = np.minimum(np.arange(N_ABOVE), n_parts - 1)
    first, steps = (np.take_along_axis(array, used, axis=1)[..., None] for array in (start, size - 1))
    level = np.clip(first + np.rint(np.linspace(0, 1, N_LEVELS) * steps), 0, n_cells - 1).astype(np.intp)
    above = x.ravel()[order[genes[..., None], level]]
    return above.transpose(1, 2, 0), edges.T, rank.reshape(x.shape)


def _ordered(values: np.ndarray) -> np.ndarray:
    """Return whole numbers below 2**32 - 1 in the order of finite numbers of single precision."""
    bits = (values + np.float32(0)).view(np.uint32)  # -0 is 0
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)


def _unique_sd(loadings: np.ndarray) -> np.ndarray:
    return np.sqrt(1 - np.square(loadings).sum(axis=1))


def _shared(
    scores: np.ndarray, limit: np.ndarray, is_above: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return posterior means and root covariance of the factors, and the loadings, of the normal scores of the values.

    The score of a value at the floor is only known to be below the limit. It is drawn, first evenly and then given the
    factors, from which new factors follow. Arguments are genes x cells; the scores at the floor are overwritten.
    """
    n_genes, n_cells = scores.shape
    factors, loadings, root = np.zeros((n_cells, 0)), np.zeros((n_genes, 0)), np.zeros((0, 0))
    draws, unique = factors, np.ones(n_genes)
    for _ in range(N_ROUNDS):
        for genes in _blocks(n_genes, n_cells):
            spread = unique[genes, None].astype(np.float32)
            expected = (loadings[genes] @ draws.T).astype(np.float32)
            below = ndtr((limit[genes] - expected) / spread)
            below *= rng.random(below.shape, np.float32)
            drawn = expected + spread * ndtri(np.clip(below, TINY**2, 1 - TINY, out=below))
            np.copyto(scores[genes], drawn, where=~is_above[genes])
        loadings = _loadings(scores.T, rng)
        unique = _unique_sd(loadings)
        if not loadings.shape[1]:  # further draws would be alike
            return np.zeros((n_cells, 0)), np.zeros((0, 0)), loadings
        weighted = loadings / np.square(unique)[:, None]
        covariance = np.linalg.inv(np.eye(loadings.shape[1]) + loadings.T @ weighted)
        root = np.linalg.cholesky(covariance)
        factors = scores.T @ (weighted @ covariance).astype(np.float32)
        draws = factors + rng.standard_normal(factors.shape) @ root.T
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
