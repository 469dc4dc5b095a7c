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
        The reference cells: cells x genes, on the scale of the training layer.
    rows
        Their numbers among all cells, ascending.
    center, scale
        m and r: components are those of :math:`(x - m) \odot r`.
    axes
        V: components x genes.
    singular_values
        S, largest first.
    """

    values: Any
    rows: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    singular_values: np.ndarray

    def scores(self, x: Any) -> np.ndarray:
        """Return cells x components, float32; the same for sparse and dense values."""
        weights = self.axes.T * self.scale[:, None]
        blocks = (dense(x[i : i + BLOCK]) for i in range(0, x.shape[0], BLOCK))
        return np.concatenate([block @ weights - self.center @ weights for block in blocks])


@in_one_thread
def principal_components(
    matrix: Matrix, features: Features, train_rows: np.ndarray, n_latent: int, rng: _random.Rng
) -> Components:
    """Compute the components of up to 20,000 random training cells (512 MiB of dense values), in memory or on disk."""
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
    center = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    x -= center
    x *= scale
    return Components(values, rows, center, scale, *_svd(x, max(n_latent, N_COMPONENTS), rng))


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
    # the scores have mean zero, so the targets need no centring
    decoder.skip.weight[:, :n_set] = _tensor(target_values.T @ scores.astype(np.float32) / n) / slope


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


class NeighborMean:
    r"""Targets of a training: the mean of each cell and its nearest training cells in PCA.

    .. math:: T_i = \frac{1}{k + 1} \Big( x_i + \sum_{j \in N_k(i)} x_j \Big)

    Neighbours are training cells for training and validation cells alike, so validation cells are in nobody's target.
    They are searched exactly among the reference cells. Targets of a matrix in memory are computed once; where they
    would take more than 2 GiB, or the cells are on disk, those of each batch are computed when it is used.

    Parameters
    ----------
    matrix
        All cells.
    components
        Components of the reference cells.
    n_neighbors
        Number of neighbours k. With fewer other reference cells, all of them.
    device
        Device of the targets.
    progress
        Whether to show a bar on a terminal while neighbours are searched.
    """

    def __init__(
        self,
        matrix: Matrix,
        components: Components,
        n_neighbors: int,
        device: torch.device,
        *,
        progress: bool = False,
    ) -> None:
        self.device = device
        self.reference = components.values
        self.weights = _neighbor_weights(matrix, components, n_neighbors, progress)
        self._dense: Tensor | None = None
        if not isinstance(matrix, BackedMatrix) and 4 * matrix.shape[0] * matrix.shape[1] <= RESIDENT_LIMIT:
            targets = np.empty(matrix.shape, np.float32)
            for i in range(0, len(targets), BLOCK):
                block = slice(i, i + BLOCK)
                targets[block] = dense(self.weights[block] @ self.reference)
                targets[block] += dense(matrix[block]) / (self._n_neighbors + 1)
            self._dense = torch.from_numpy(targets).to(device)

    @property
    def _n_neighbors(self) -> int:
        return int(self.weights.indptr[1]) if self.weights.shape[0] else 0

    def __call__(self, rows: np.ndarray, x: Tensor) -> Tensor:
        """Return the targets of the cells ``rows`` with values ``x``."""
        if self._dense is not None:
            return self._dense.index_select(0, torch.from_numpy(rows).to(self.device))
        neighbors = torch.from_numpy(dense(self.weights[rows] @ self.reference)).to(self.device)
        return neighbors + x / (self._n_neighbors + 1)

    def of_reference(self, components: Components) -> np.ndarray:
        """Return the targets of the reference cells, cells x genes."""
        if self._dense is not None:
            return self._dense[torch.from_numpy(components.rows)].cpu().numpy()
        return dense(self.weights[components.rows] @ self.reference) + dense(self.reference) / (self._n_neighbors + 1)


@in_one_thread
def _neighbor_weights(matrix: Matrix, components: Components, n_neighbors: int, progress: bool) -> sparse.csr_matrix:
    """Return 1 / (k + 1) for the k nearest reference cells of each cell, other than itself: cells x reference cells."""
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
            found = search.kneighbors(components.scores(block)[:, axes], return_distance=False)
            others = found != own[cells, None]
            others[others.all(axis=1), -1] = False  # the cell itself is not among them: leave out the furthest
            indices[cells] = found[others].reshape(-1, k)
            advance()
    weights = np.full(n * k, 1 / (k + 1), np.float32)
    return sparse.csr_matrix((weights, indices.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n_reference))


def _blocks(matrix: Matrix) -> Iterator[tuple[slice, Any]]:
    if isinstance(matrix, BackedMatrix):
        yield from matrix.blocks()
        return
    for start in range(0, matrix.shape[0], BLOCK):
        cells = slice(start, min(start + BLOCK, matrix.shape[0]))
        yield cells, matrix[cells]
