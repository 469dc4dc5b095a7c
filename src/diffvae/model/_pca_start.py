"""What a training takes from PCA: the start of the linear maps, and targets averaged over neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from diffvae import _random, nn
from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae._core.runtime import in_one_thread, progress_bar
from diffvae.model._batches import offsets, partners_of
from diffvae.model._features import BLOCK, Features, Matrix, dense
from diffvae.model._likelihoods import Likelihood
from diffvae.train._data import RESIDENT_LIMIT

REFERENCE_CELLS = 20_000
REFERENCE_BYTES = 2**29
"""Limits of the training cells that give components and neighbours: their number, and their dense values in memory."""
N_COMPONENTS = 50
"""Components in which neighbours are found; the last of them has the level of the noise."""
MIN_SHARE = 1e-4
MIN_VARIANCE = 0.02
MIN_SLOPE = 1e-3
SMALL_START = 0.1
"""Factor on the random weights beside the linear maps, so that the training starts near the linear model."""


@dataclass(frozen=True)
class Components:
    r"""Principal components of the reference cells, on the scale of log-normalised expression.

    Attributes
    ----------
    values
        The reference cells: cells x genes, on the scale of the training layer, without the offsets of their batches.
    rows
        Their numbers among all cells, ascending.
    center, scale
        m and r: components are those of :math:`(x - m) \odot r`.
    axes
        V: components x genes.
    singular_values
        S, largest first.
    offsets
        Offsets of the batches, batches x genes, on the scale of ``values``; None without batches.
    partners
        Number of partners of each reference cell in each batch; None without batches.
    """

    values: Any
    rows: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    singular_values: np.ndarray
    offsets: np.ndarray | None = None
    partners: np.ndarray | None = None

    def scores(self, x: Any, codes: np.ndarray | None = None) -> np.ndarray:
        """Return cells x components, float32; the same for sparse and dense values.

        ``codes`` are the batches of cells whose values have the offsets of their batches.
        """
        weights = self.axes.T * self.scale[:, None]
        blocks = (dense(x[i : i + BLOCK]) for i in range(0, x.shape[0], BLOCK))
        scores = np.concatenate([block @ weights - self.center @ weights for block in blocks])
        return scores if codes is None or self.offsets is None else scores - (self.offsets @ weights)[codes]


@in_one_thread
def principal_components(
    matrix: Matrix,
    features: Features,
    train_rows: np.ndarray,
    n_latent: int,
    rng: _random.Rng,
    codes: np.ndarray | None = None,
) -> Components:
    """Compute the components of up to 20,000 random training cells (512 MiB of dense values), in memory or on disk.

    With ``codes``, the batch of each cell, partners are searched on components of variation within batches; components
    are then computed again after the differences between partners are removed.
    """
    n_genes = matrix.shape[1]
    limit = max(2, min(REFERENCE_CELLS, REFERENCE_BYTES // (4 * n_genes)))
    rows = train_rows
    if len(rows) > limit:
        rows = np.sort(_random.generator(rng, "reference cells").choice(rows, limit, replace=False))
    values = matrix.at(rows) if isinstance(matrix, BackedMatrix) else matrix[rows]
    x = np.array(values.toarray() if sparse.issparse(values) else values, dtype=np.float32)
    scale = np.ones(n_genes, np.float32)
    if features.minimum is not None and features.maximum is not None:
        scale = (features.maximum - features.minimum).astype(np.float32)
    n = max(n_latent, N_COMPONENTS)
    shifts = partners = None
    if codes is not None:
        codes, n_batches = codes[rows], int(codes.max()) + 1
        means = np.stack(
            [x[codes == b].mean(axis=0) if (codes == b).any() else x.mean(axis=0) for b in range(n_batches)]
        )
        axes, _ = _svd((x - means[codes]) * scale, n, rng)
        partners = partners_of((x * scale) @ axes[:N_COMPONENTS].T, codes, n_batches)
        shifts = offsets(x, partners, codes).astype(np.float32)
        x -= shifts[codes]
        values = x.copy()
    center = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    x -= center
    x *= scale
    return Components(values, rows, center, scale, *_svd(x, n, rng), shifts, partners)


def _svd(x: np.ndarray, n: int, rng: _random.Rng) -> tuple[np.ndarray, np.ndarray]:
    """Return the first right singular vectors and singular values of x; fewer than n of a small x."""
    from sklearn.utils.extmath import randomized_svd, svd_flip

    n = min(n, *x.shape)
    if min(x.shape) <= max(500, 4 * n):
        u, s, v = np.linalg.svd(x, full_matrices=False)
        return svd_flip(u, v, u_based_decision=False)[1][:n], s[:n]
    _, s, v = randomized_svd(x, n, n_iter=7, random_state=_random.seed(rng, "components") % 2**31)
    return v, s


@torch.no_grad()
def start_at_components(
    module: nn.Autoencoder, components: Components, target_values: np.ndarray, likelihood: Likelihood
) -> None:
    r"""Set the linear maps of encoder and decoder to PCA, filtered as by Wiener, and the other weights close to zero.

    With S the singular values, n the number of cells, V the axes, and :math:`S_0` the level of the noise,

    .. math:: s_d = \sqrt{\max(1 - S_0^2 / S_d^2, 10^{-4})}, \qquad
              \mu_d = s_d \sqrt{n} \, v_d^T (r \odot (x - m)) / S_d, \qquad \log \sigma_d^2 = \log \max(1 - s_d^2, .02)

    which is the posterior of a linear model with unit prior variance. :math:`S_0` is the 50th singular value, the last
    one that is not zero where there are fewer cells, and 0 with 50 genes or fewer. The decoder starts at the linear
    regression of the targets T on the scores, divided by the slope of the likelihood's mean at the mean of T.

    Parameters
    ----------
    module
        Network with ``linear_skip``; changed in place.
    components
        Components of the reference cells.
    target_values
        Targets of the reference cells, cells x genes.
    likelihood
        Likelihood of the network.
    """
    encoder, decoder = module.encoder, module.decoder
    assert encoder.skip is not None
    assert decoder.skip is not None
    s, n = components.singular_values.astype(np.float64), len(components.rows)
    s = s[s > 1e-6 * s[0]]
    noise = s[:N_COMPONENTS][-1] if len(components.center) > N_COMPONENTS and len(s) else 0.0
    s = s[: encoder.skip.out_features]
    n_set = len(s)
    share = np.sqrt(np.maximum(1 - (noise / s) ** 2, MIN_SHARE))
    unit = np.sqrt(n) / s  # makes the scores' variance one
    center, scale = torch.from_numpy(components.center), torch.from_numpy(components.scale)
    encoder.center.copy_(center)
    encoder.scale.copy_(scale)
    for weight in (encoder.mu.weight, encoder.logvar.weight, decoder.linears[-1].weight):
        weight.mul_(SMALL_START)
    encoder.mu.bias.zero_()
    encoder.logvar.bias.zero_()
    encoder.logvar.bias[:n_set] = _tensor(np.log(np.maximum(1 - share**2, MIN_VARIANCE)))
    encoder.skip.weight.zero_()
    encoder.skip.weight[:n_set] = _tensor(components.axes[:n_set] * (share * unit)[:, None])
    mean = target_values.mean(axis=0, dtype=np.float64)
    scores = components.scores(components.values)[:, :n_set] * unit
    output = _tensor(mean) if likelihood.link is None else likelihood.link(_tensor(mean))
    slope = 1.0 if likelihood.slope is None else likelihood.slope(output).clamp(min=MIN_SLOPE)[:, None]
    decoder.linears[-1].bias.copy_(output)
    decoder.skip.weight.zero_()
    if components.offsets is not None:  # batches are the first covariates
        batches, by_batch = slice(0, len(components.offsets)), torch.from_numpy(components.offsets)
        if encoder.covariates is not None:
            encoder.covariates.weight[:, batches] = by_batch.T
        of_batch = _tensor(mean) + by_batch
        of_batch = of_batch if likelihood.link is None else likelihood.link(of_batch)
        assert decoder.covariates is not None
        decoder.covariates.weight[:, batches] = (of_batch - output).T
    # the scores have mean zero, so the targets need no centring
    decoder.skip.weight[:, :n_set] = _tensor(target_values.T @ scores.astype(np.float32) / n) / slope


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


class NeighborMean:
    r"""Targets of a training: the mean of each cell and its nearest training cells in PCA.

    .. math:: T_i = \frac{1}{k + 1} \Big( x_i + \sum_{j \in N_k(i)} (x_j - o_{b(j)} + o_{b(i)}) \Big)

    with o the offsets of the batches, if there are any: cells of other batches count as if they were of the cell's own.
    Neighbours are training cells for training and validation cells alike, so validation cells are in nobody's target.
    Targets of a matrix in memory are computed once; where they would take more than 2 GiB, or the cells are on disk,
    those of each batch are computed when it is used.

    Parameters
    ----------
    matrix
        All cells.
    components
        Components of the reference cells.
    weights
        From :func:`neighbor_weights`.
    device
        Device of the targets.
    codes
        Batch of each cell; None without batches.
    unit_interval
        Whether targets must stay in [0, 1], which offsets may leave.
    """

    def __init__(
        self,
        matrix: Matrix,
        components: Components,
        weights: sparse.csr_matrix,
        device: torch.device,
        codes: np.ndarray | None = None,
        *,
        unit_interval: bool = True,
    ) -> None:
        self.device = device
        self.reference, self.weights, self.codes = components.values, weights, codes
        self.n_averaged = 1 + (int(weights.indptr[1]) if weights.shape[0] else 0)
        self.offsets, self.unit_interval = components.offsets, unit_interval
        self._dense: Tensor | None = None
        if not isinstance(matrix, BackedMatrix) and 4 * matrix.shape[0] * matrix.shape[1] <= RESIDENT_LIMIT:
            targets = np.empty(matrix.shape, np.float32)
            for i in range(0, len(targets), BLOCK):
                rows = np.arange(i, min(i + BLOCK, len(targets)))
                targets[rows] = self._targets(rows, dense(matrix[rows]))
            self._dense = torch.from_numpy(targets).to(device)

    def _targets(self, rows: np.ndarray, x: np.ndarray) -> np.ndarray:
        means = dense(self.weights[rows] @ self.reference)
        means += x / self.n_averaged
        if self.codes is not None and self.offsets is not None:
            means += (1 - 1 / self.n_averaged) * self.offsets[self.codes[rows]]
            if self.unit_interval:
                means = means.clip(0, 1)
        return means

    def __call__(self, rows: np.ndarray, x: Tensor) -> Tensor:
        """Return the targets of the cells ``rows`` with values ``x``."""
        if self._dense is not None:
            return self._dense.index_select(0, torch.from_numpy(rows).to(self.device))
        return torch.from_numpy(self._targets(rows, x.cpu().numpy())).to(self.device)

    def of_reference(self, components: Components) -> np.ndarray:
        """Return the targets of the reference cells without the offsets of their batches, cells x genes."""
        means = dense(self.weights[components.rows] @ self.reference)
        means += dense(self.reference) / self.n_averaged
        return means


@in_one_thread
def neighbor_weights(
    matrix: Matrix, components: Components, n_neighbors: int, codes: np.ndarray | None = None, *, progress: bool = False
) -> sparse.csr_matrix:
    """Return 1 / (k + 1) for the k nearest reference cells of each cell, other than itself: cells x reference cells.

    They are searched exactly among the reference cells, which are all k of them if there are few.
    """
    from sklearn.neighbors import NearestNeighbors

    n_reference = len(components.rows)
    k = min(n_neighbors, n_reference - 1)
    axes = slice(0, N_COMPONENTS)
    search = NearestNeighbors(n_neighbors=k + 1).fit(components.scores(components.values)[:, axes])
    own = np.full(matrix.shape[0], -1)
    own[components.rows] = np.arange(n_reference)
    indices = np.empty((matrix.shape[0], k), np.int32)
    n = len(indices)
    n_blocks = len(matrix.cuts()) if isinstance(matrix, BackedMatrix) else -(-n // BLOCK)
    with progress_bar("finding neighbours", n_blocks, show=progress) as advance:
        for cells, block in _blocks(matrix):
            scores = components.scores(block, None if codes is None else codes[cells])
            found = search.kneighbors(scores[:, axes], return_distance=False)
            others = found != own[cells, None]
            others[others.all(axis=1), -1] = False  # the cell itself is not among them: leave out the furthest
            indices[cells] = found[others].reshape(-1, k)
            advance()
    weights = np.full(n * k, 1 / (k + 1), np.float32)
    return sparse.csr_matrix((weights, indices.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n_reference))


def partners_of_all(components: Components, weights: sparse.csr_matrix, codes: np.ndarray) -> np.ndarray:
    """Return the number of partners of all cells in each batch: of other than reference cells, that of neighbours."""
    assert components.partners is not None
    n_batches = components.partners.shape[1]
    total = np.zeros((len(codes), n_batches), np.float32)
    for b in range(n_batches):
        of_batch, same = np.flatnonzero(codes == b), np.flatnonzero(codes[components.rows] == b)
        near = weights[of_batch][:, same]  # their neighbours of the same batch
        total[of_batch] = (near @ components.partners[same]) / np.maximum(near.sum(axis=1), 1e-6)
    total[components.rows] = components.partners
    return total


def _blocks(matrix: Matrix) -> Iterator[tuple[slice, Any]]:
    if isinstance(matrix, BackedMatrix):
        yield from matrix.blocks()
        return
    for start in range(0, matrix.shape[0], BLOCK):
        cells = slice(start, min(start + BLOCK, matrix.shape[0]))
        yield cells, matrix[cells]
