"""Networks on a graph of cells: the graph as a sparse matrix, encoders, and the Graphite decoder (eqs 14-21)."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from diffvae.nn._mlp import LOGVAR_RANGE

CONVOLUTIONS = ("gcn", "gat", "sage")


class Adjacency:
    """Sparse matrix by which values propagate between cells: ``adjacency @ h``.

    Parameters
    ----------
    matrix
        Cells x cells, scipy sparse, symmetric.
    device
        Device of the matrix.

    Examples
    --------
    >>> graph = Adjacency(normalized_adjacency([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))
    >>> (graph @ torch.ones(3, 1)).shape
    torch.Size([3, 1])
    """

    def __init__(self, matrix: Any, device: str | torch.device = "cpu") -> None:
        matrix = sparse.csr_matrix(matrix)
        rows, columns = (torch.from_numpy(i.astype(np.int64)) for i in (matrix.indptr, matrix.indices))
        values = torch.from_numpy(matrix.data.astype(np.float32))
        self.matrix = csr_tensor(rows, columns, values, matrix.shape).to(device)

    def __matmul__(self, h: Tensor) -> Tensor:
        product: Tensor = _Propagate.apply(self.matrix, h)
        return product

    @cached_property
    def ones(self) -> Tensor:
        """The same entries with all values one, for torch-geometric's mean over neighbours, which uses the values."""
        matrix = self.matrix
        ones = torch.ones_like(matrix.values())
        return csr_tensor(matrix.crow_indices(), matrix.col_indices(), ones, matrix.shape)

    @cached_property
    def edge_index(self) -> Tensor:
        """Source and target of every entry, 2 x entries, as torch-geometric's attention layer takes them."""
        rows = torch.repeat_interleave(self.matrix.crow_indices().diff())
        return torch.stack([self.matrix.col_indices(), rows])


def csr_tensor(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a sparse matrix from the starts of its rows, the columns and the values of its entries."""
    with warnings.catch_warnings():  # torch calls its CSR layout beta
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(rows, columns, values, size=shape)


class _Propagate(torch.autograd.Function):
    """A H for a symmetric A without gradient: the backward pass is the same product, without a transposed copy."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, h: Tensor) -> Tensor:
        ctx.matrix = matrix
        with torch.autocast(h.device.type, enabled=False):
            return torch.sparse.mm(matrix, h)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, torch.sparse.mm(ctx.matrix, grads[0])


class Propagated:
    r"""The expression of cells and their neighbours, which a graph convolution of expression starts from.

    .. math:: \tilde A (X W) = (\tilde A X) W

    The right side propagates once, whatever the weights are; the left side does in every step, forward and backward.

    Parameters
    ----------
    x
        Expression, cells x genes.
    adjacency
        Of the same cells.
    precision
        Type in which it is multiplied with weights: float32 or bfloat16.

    Examples
    --------
    >>> graph = Adjacency(normalized_adjacency([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))
    >>> x, layer = torch.rand(3, 4), GCN(4, 2)
    >>> torch.allclose(layer(Propagated(x, graph), graph), layer(x, graph), atol=1e-6)
    True
    """

    def __init__(self, x: Tensor, adjacency: Adjacency, precision: torch.dtype = torch.float32) -> None:
        self.values = (adjacency @ x).to(precision)

    def __len__(self) -> int:
        return len(self.values)

    def autocast(self) -> torch.autocast:
        """Return the context in which layers multiply in its precision."""
        return torch.autocast(self.values.device.type, self.values.dtype, enabled=self.values.dtype != torch.float32)


def normalized_adjacency(graph: Any, *, self_loops: bool = True, normalize: bool = True) -> sparse.csr_matrix:
    r"""Return the matrix by which a graph convolution propagates.

    .. math:: \tilde A = D^{-1/2} (A + I) D^{-1/2}, \qquad D_{ii} = \sum_j (A + I)_{ij}

    Parameters
    ----------
    graph
        Cells x cells, symmetric; every nonzero entry is a link. The diagonal is ignored.
    self_loops
        Add I, so that a cell is one of its neighbours.
    normalize
        False gives A + I, as in the released code.

    Returns
    -------
    CSR, float32. The row of a cell without links holds its self-loop of weight 1, or zeros without self-loops.

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


class GCN(nn.Module):
    r"""One graph convolution (eq 14), before the activation.

    .. math:: GCN(A, H) = \tilde A H W + b, \qquad \tilde A = D^{-1/2} (A + I) D^{-1/2}

    Parameters
    ----------
    n_input, n_output
        Widths.

    Notes
    -----
    torch-geometric's ``GCNConv`` gives the same numbers (a test compares them). This layer separates the product H W
    from the propagation, so that the expression matrix gets no gradient and can come in blocks.

    Examples
    --------
    >>> graph = Adjacency(normalized_adjacency([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))
    >>> GCN(4, 2)(torch.ones(3, 4), graph).shape
    torch.Size([3, 2])
    """

    def __init__(self, n_input: int, n_output: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_input, n_output, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_output))
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, h: Tensor | Propagated, adjacency: Adjacency) -> Tensor:
        """Return the convolution of H, cells x n_output."""
        if isinstance(h, Propagated):
            with h.autocast():
                return F.linear(h.values, self.linear.weight, self.bias).float()
        return self.propagate(self.linear(h), adjacency)

    def propagate(self, product: Tensor, adjacency: Adjacency) -> Tensor:
        """Return the convolution for a given product H W."""
        return adjacency @ product.float() + self.bias


class GraphEncoder(nn.Module):
    r"""Two graph convolutions to the mean and log variance of q(Z|X, A) (eqs 15-17).

    .. math:: H = ReLU(GCN(A, X)), \quad \mu = GCN_\mu(A, H), \quad \log\sigma^2 = GCN_\sigma(A, H)

    Parameters
    ----------
    n_input, hidden, n_latent
        Genes, width, latent dimensions.
    conv
        ``"gcn"``; ``"gat"`` (attention, 4 heads) and ``"sage"`` (the cell and the mean of its neighbours)
        are torch-geometric's.
    dropout
        Share of the hidden values that are set to zero in training.

    Examples
    --------
    >>> graph = Adjacency(normalized_adjacency([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))
    >>> mu, logvar = GraphEncoder(4, 8, 2)(torch.ones(3, 4), graph)
    >>> mu.shape
    torch.Size([3, 2])
    """

    def __init__(self, n_input: int, hidden: int, n_latent: int, *, conv: str = "gcn", dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = conv
        self.dropout = dropout
        self.first = _convolution(conv, n_input, hidden)
        self.heads = _convolution(conv, hidden, 2 * n_latent, last=True)  # both in one propagation

    def forward(
        self, x: Tensor | Propagated, adjacency: Adjacency, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2, cells x latent dimensions; ``generator`` draws the dropout."""
        if isinstance(x, Propagated):  # only with conv="gcn"
            with x.autocast():
                return self._heads(self.first(x, adjacency), adjacency, generator)
        return self.finish(self.product(x), adjacency, generator)

    def product(self, x: Tensor) -> Tensor:
        """Return what the first layer computes from the expression of each cell alone."""
        return self.first.linear(x) if isinstance(self.first, GCN) else x

    def finish(
        self, product: Tensor, adjacency: Adjacency, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 from the result of :meth:`product` for all cells."""
        if isinstance(self.first, GCN):
            h = self.first.propagate(product, adjacency)
        else:
            h = self._convolve(self.first, product, adjacency)
        return self._heads(h, adjacency, generator)

    def _heads(self, h: Tensor, adjacency: Adjacency, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        h = h.relu_()
        if self.dropout and self.training:
            mask = torch.rand(h.shape, generator=generator, device=h.device) >= self.dropout
            h = h * mask / (1 - self.dropout)
        mu, logvar = self._convolve(self.heads, h, adjacency).chunk(2, dim=1)
        return mu, logvar.clamp(*LOGVAR_RANGE)

    def _convolve(self, layer: Any, h: Tensor, adjacency: Adjacency) -> Tensor:
        if self.conv == "gcn":
            return layer(h, adjacency)
        return layer(h, adjacency.ones if self.conv == "sage" else adjacency.edge_index)

    def attention(self, x: Tensor, adjacency: Adjacency) -> Tensor:
        """Return the attention of each cell to each neighbour and itself, one number per entry of A + I.

        The mean over heads of the first layer, in the order of ``adjacency.edge_index``.
        """
        if self.conv != "gat":
            raise ValueError(f"conv is {self.conv!r}; only conv='gat' has attention weights.")
        _, (edges, weights) = self.first(x, adjacency.edge_index, return_attention_weights=True)
        assert torch.equal(edges, adjacency.edge_index)
        return weights.mean(1)


def _convolution(conv: str, n_input: int, n_output: int, *, last: bool = False) -> Any:
    if conv == "gcn":
        return GCN(n_input, n_output)
    with warnings.catch_warnings():  # torch warns of modules that torch-geometric scripts on import
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch_geometric.nn import GATConv, SAGEConv

    if conv == "sage":
        return SAGEConv(n_input, n_output)
    # self-loops are in the adjacency already; the last layer takes the mean of its heads
    heads = 4
    width = n_output if last else n_output // heads
    return GATConv(n_input, width, heads=heads, concat=not last, add_self_loops=False)


class GraphiteDecoder(nn.Module):
    r"""From Z to the coordinates Z* whose inner products are the logits of links (eqs 20 and 21).

    .. math:: Z' = GCN(A, ReLU(GCN(A, [Z | X]))), \quad Z^* = (Z + Z') / 2, \quad
              p(A_{ij} = 1) = \sigma(z^{*\top}_i z^*_j)

    Parameters
    ----------
    n_latent, n_input, hidden
        Latent dimensions, genes, width.

    References
    ----------
    Grover, Zweig, Ermon, Graphite: iterative generative modeling of graphs, ICML 2019.

    Examples
    --------
    >>> graph = Adjacency(normalized_adjacency([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))
    >>> GraphiteDecoder(2, 4, 8)(torch.zeros(3, 2), torch.ones(3, 4), graph).shape
    torch.Size([3, 2])
    """

    def __init__(self, n_latent: int, n_input: int, hidden: int) -> None:
        super().__init__()
        self.first = GCN(n_latent, hidden)
        self.expression = nn.Linear(n_input, hidden, bias=False)
        # one matrix for [Z | X], initialised as such
        bound = (6 / (n_latent + n_input + hidden)) ** 0.5
        for weight in (self.first.linear.weight, self.expression.weight):
            nn.init.uniform_(weight, -bound, bound)
        self.last = GCN(hidden, n_latent)

    def forward(self, z: Tensor, x: Tensor | Propagated, adjacency: Adjacency) -> Tensor:
        """Return Z*, cells x latent dimensions."""
        if isinstance(x, Propagated):
            with x.autocast():
                inputs = torch.cat([x.values, (adjacency @ z).to(x.values.dtype)], dim=1)
                weight = torch.cat([self.expression.weight, self.first.linear.weight], dim=1)
                return self._last(z, F.linear(inputs, weight, self.first.bias), adjacency)
        return self.finish(z, self.product(x), adjacency)

    def product(self, x: Tensor) -> Tensor:
        """Return the contribution of the expression of cells to the first layer."""
        product: Tensor = self.expression(x)
        return product

    def finish(self, z: Tensor, product: Tensor, adjacency: Adjacency) -> Tensor:
        """Return Z* from the result of :meth:`product` for all cells."""
        return self._last(z, self.first.propagate(self.first.linear(z) + product, adjacency), adjacency)

    def _last(self, z: Tensor, h: Tensor, adjacency: Adjacency) -> Tensor:
        return 0.5 * (z + self.last(h.relu_(), adjacency))


class InnerProductDecoder(nn.Module):
    r"""The plain decoder of a graph autoencoder: Z itself gives the logits, :math:`p = \sigma(z_i^\top z_j)`.

    Examples
    --------
    >>> graph = Adjacency(normalized_adjacency([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))
    >>> z = torch.rand(3, 2)
    >>> InnerProductDecoder()(z, torch.ones(3, 4), graph) is z
    True
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, z: Tensor, x: Tensor | Propagated, adjacency: Adjacency) -> Tensor:
        """Return Z."""
        return z

    def product(self, x: Tensor) -> Tensor:
        """Return no columns: the decoder does not use expression."""
        return x[:, :0]

    def finish(self, z: Tensor, product: Tensor, adjacency: Adjacency) -> Tensor:
        """Return Z."""
        return z
