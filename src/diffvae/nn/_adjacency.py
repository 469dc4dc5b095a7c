"""A graph of cells as the networks see it."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor


class Adjacency:
    """Sparse matrix that carries values from cell to cell; ``adjacency @ h`` is one propagation.

    Parameters
    ----------
    matrix
        Cells x cells, scipy sparse, symmetric.
    device
        Where it is wanted.

    Examples
    --------
    >>> import diffvae as dv
    >>> import torch
    >>> graph = dv.nn.Adjacency(dv.nn.normalized_adjacency([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))
    >>> (graph @ torch.ones(3, 1)).shape
    torch.Size([3, 1])
    """

    def __init__(self, matrix: Any, device: str | torch.device = "cpu") -> None:
        matrix = sparse.csr_matrix(matrix)
        rows, columns = (torch.from_numpy(i.astype(np.int64)) for i in (matrix.indptr, matrix.indices))
        values = torch.from_numpy(matrix.data.astype(np.float32))
        self.matrix = _csr(rows, columns, values, matrix.shape).to(device)

    def __matmul__(self, h: Tensor) -> Tensor:
        product: Tensor = _Propagate.apply(self.matrix, h)
        return product

    @cached_property
    def ones(self) -> Tensor:
        """The same entries, all one: what torch-geometric's mean over neighbours takes, which heeds values."""
        matrix = self.matrix
        ones = torch.ones_like(matrix.values())
        return _csr(matrix.crow_indices(), matrix.col_indices(), ones, matrix.shape)

    @cached_property
    def edge_index(self) -> Tensor:
        """Both ends of every entry, 2 x entries: the form that torch-geometric's attention layer takes."""
        rows = torch.repeat_interleave(self.matrix.crow_indices().diff())
        return torch.stack([self.matrix.col_indices(), rows])


def _csr(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():  # torch calls its CSR layout beta
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(rows, columns, values, size=shape)


class _Propagate(torch.autograd.Function):
    """A H for a symmetric A that needs no gradient: backward is the same product again, with nothing transposed."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, h: Tensor) -> Tensor:
        ctx.matrix = matrix
        return torch.sparse.mm(matrix, h)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, torch.sparse.mm(ctx.matrix, grads[0])


def normalized_adjacency(graph: Any, *, self_loops: bool = True, normalize: bool = True) -> sparse.csr_matrix:
    r"""Return the matrix by which a graph convolution propagates.

    .. math:: \tilde A = D^{-1/2} (A + I) D^{-1/2}, \qquad D_{ii} = \sum_j (A + I)_{ij}

    Parameters
    ----------
    graph
        Cells x cells, symmetric; every entry that is not zero is a link. Its own diagonal is ignored.
    self_loops
        Add I, so that a cell is among its own neighbours.
    normalize
        False gives A + I as it is, as the released code had it.

    Returns
    -------
    CSR, float32. A cell without any link keeps its self-loop, of weight 1, or a row of zeros without self-loops.

    References
    ----------
    Kipf and Welling, Semi-supervised classification with graph convolutional networks, ICLR 2017.

    Examples
    --------
    >>> normalized_adjacency([[0, 1], [1, 0]]).toarray().round(2).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    links = sparse.csr_matrix(graph, copy=True)
    links.setdiag(0)
    links.eliminate_zeros()
    links.data[:] = 1
    links = links.astype(np.float32)
    if self_loops:
        links = links + sparse.eye_array(links.shape[0], dtype=np.float32, format="csr")
    if normalize:
        degree = np.asarray(links.sum(1)).ravel()
        scale = sparse.diags_array(1 / np.sqrt(np.maximum(degree, 1)))
        links = scale @ links @ scale
    return sparse.csr_matrix(links, dtype=np.float32)
