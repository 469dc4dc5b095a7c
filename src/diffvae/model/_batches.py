"""What differs between batches of cells, measured on cells that are each other's nearest neighbours.

Batches may hold different shares of the cell types, and some types only one of them. Differences are therefore measured
between mutual nearest neighbours (Haghverdi et al. 2018), which are cells of one type as long as the effect of a batch
is smaller than the differences between types, or nearly orthogonal to them.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from diffvae._core.runtime import in_one_thread

N_NEIGHBORS = 20
"""Neighbours in the other batch among which a partner must be; at most a tenth of the cells of a batch."""
N_ROUNDS = 5
"""Searches of partners, each after the differences found by the one before are removed."""


class Partners:
    """Batch and numbers of partners of cells, for :func:`diffvae.nn.batch_mmd`."""

    def __init__(self, codes: np.ndarray, partners: np.ndarray, device: torch.device) -> None:
        self.codes = torch.from_numpy(codes.astype(np.int64)).to(device)
        self.partners = torch.from_numpy(partners.astype(np.float32, copy=False)).to(device)

    def __call__(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the batches of the given cells, and their partners in each batch."""
        index = torch.from_numpy(rows).to(self.codes.device)
        return self.codes[index], self.partners[index]


def mutual_neighbors(y: np.ndarray, codes: np.ndarray, n_batches: int) -> sparse.csr_matrix:
    """Return the graph of mutual nearest neighbours between batches: cells x cells, symmetric, ones.

    A cell of batch a and a cell of batch b are linked if each is among the nearest of the other in the other's batch.
    """
    from sklearn.neighbors import NearestNeighbors

    rows = [np.flatnonzero(codes == b) for b in range(n_batches)]
    present = [b for b in range(n_batches) if len(rows[b])]
    searches = {b: NearestNeighbors(algorithm="brute").fit(y[rows[b]]) for b in present}
    sizes = [max(1, min(N_NEIGHBORS, len(cells) // 10)) for cells in rows]

    def graph(a: int, b: int) -> sparse.csr_matrix:
        return searches[b].kneighbors_graph(y[rows[a]], sizes[b])

    first, second = [], []
    for a, b in itertools.combinations(present, 2):
        mutual = graph(a, b).multiply(graph(b, a).T).tocoo()
        first.append(rows[a][mutual.row])
        second.append(rows[b][mutual.col])
    i, j = (np.concatenate([*side, np.zeros(0, int)]) for side in (first, second))
    ones = np.ones(2 * len(i), np.float32)
    return sparse.csr_matrix((ones, (np.r_[i, j], np.r_[j, i])), shape=(len(y), len(y)))


def offsets(x: np.ndarray, partners: np.ndarray, codes: np.ndarray) -> np.ndarray:
    r"""Return the difference of each batch from the mean of all batches, batches x columns of x.

    .. math:: \min_o \sum_{(i, j)} \| (x_i - o_{b(i)}) - (x_j - o_{b(j)}) \|^2, \qquad \sum_b o_b = 0

    over all pairs of partners. Of batches that no chain of pairs connects only differences within a chain are known.

    Parameters
    ----------
    x
        Cells x columns.
    partners
        Number of partners of each cell in each batch, cells x batches.
    codes
        Batch of each cell.
    """
    n_batches = partners.shape[1]
    member = sparse.csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)), shape=(len(codes), n_batches))
    pairs = member.T @ partners
    laplacian = np.diag(pairs.sum(axis=1)) - pairs
    difference = member.multiply(partners.sum(axis=1)[:, None]).T @ x - partners.T @ x
    return np.linalg.pinv(laplacian, hermitian=True) @ difference


@in_one_thread
def partners_of(y: np.ndarray, codes: np.ndarray, n_batches: int) -> np.ndarray:
    """Return the number of partners of each cell in each batch, cells x batches; y are scores on components.

    Cells of each pair of batches are compared exactly, so time is quadratic in the reference cells, which are 20,000 at
    most: 13 s for three batches of them in one thread, 73 s for a hundred.
    """
    y = np.asarray(y, np.float64)
    member = np.eye(n_batches, dtype=np.float32)[codes]
    for _ in range(N_ROUNDS - 1):
        y = y - offsets(y, mutual_neighbors(y, codes, n_batches) @ member, codes)[codes]
    return mutual_neighbors(y, codes, n_batches) @ member
