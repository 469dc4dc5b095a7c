"""Link losses: exact over all pairs of cells, or an unbiased estimate from a batch of cells.

Sums over all pairs are computed block by block, so that no N x N matrix is needed, forward or backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffvae._core.validate import Choice, check
from diffvae.nn._graph import csr_tensor

BLOCK = 512
"""Cells on each side of a block, whose scores stay in the cache of a core: 35 ms for 3,584 cells, 48 ms with 1,024."""
GPU_BLOCK = 1024
"""The same on a GPU, for which larger blocks are fewer launches."""
MANY_CELLS = 256
"""Cells from which the logistic function gives the softplus: its rounding, up to 1e-5 in a pair, averages out."""
LARGEST = 80.0
"""Size of scores up to which it can: the logistic function underflows at -87."""
MULTIPLIED = 8
"""Slopes of which one logarithm is taken at most: in bfloat16 three quarters of the time of a sum with each slope's."""


class _PairSum(torch.autograd.Function):
    """Sum of f(z_i . z_j) over pairs i < j, with its gradient sum_j f'(z_i . z_j) z_j computed in the same pass.

    The blocks on and above the diagonal hold every pair once and add to the gradients of both sides, so that scores are
    computed once; autograd would store or recompute them.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, function: str, among: Tensor | None, precision: torch.dtype) -> Tensor:
        total, grad = (
            _all_pairs(z, function, precision) if among is None else _pairs_among(z, function, among, precision)
        )
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None, None


def _all_pairs(z: Tensor, function: str, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the sum over all pairs and its gradient."""
    n = len(z)
    grad, factors = torch.zeros_like(z), z.to(precision)
    evaluate, nothing, total = _evaluation(function, z, None)
    no_pair, _ = evaluate(factors.new_full((1, 1), nothing))
    block = _block(z)
    for i in range(0, n, block):
        rows = slice(i, min(i + block, n))
        for j in range(i, n, block):
            columns = slice(j, min(j + block, n))
            scores = factors[rows] @ factors[columns].T
            if i == j:
                scores.fill_diagonal_(nothing)
            value, slope = evaluate(scores)
            if i == j:  # exclude pairs of a cell with itself, and halve: the block holds each of its pairs twice
                slope.fill_diagonal_(0)
                value = 0.5 * (value - len(slope) * no_pair)
            grad[rows] += slope @ factors[columns]
            if i != j:
                grad[columns] += slope.T @ factors[rows]
            total += value
    return total, grad


def _pairs_among(z: Tensor, function: str, among: Tensor, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return estimates of the sum and of its gradient from the pairs of all cells with the cells ``among``.

    The gradient is estimated for each cell from its own pairs, N / m sum_{j in S} f'(z_i . z_j) z_j. That of the
    estimated sum is unbiased too, but weighs the cells of S by N / 2m: it varies more and costs a product more.
    """
    n, factors = len(z), z.to(precision)
    others = factors.index_select(0, among)
    grad = torch.zeros_like(z)
    evaluate, nothing, total = _evaluation(function, z, among)
    no_pair, _ = evaluate(factors.new_full((1, 1), nothing))
    block = _block(z)
    for part, chosen in zip(others.split(block), among.split(block), strict=True):
        for i in range(0, n, block):
            rows = slice(i, min(i + block, n))
            scores = factors[rows] @ part.T
            (own,) = ((chosen >= i) & (chosen < i + block)).nonzero(as_tuple=True)
            scores[chosen[own] - i, own] = nothing
            value, slope = evaluate(scores)
            slope[chosen[own] - i, own] = 0
            grad[rows] += slope @ part
            total += value - len(own) * no_pair
    return n / (2 * len(among)) * total, grad.mul_(n / len(among))


def _block(z: Tensor) -> int:
    return BLOCK if z.device.type == "cpu" else GPU_BLOCK


def _softplus(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of log(1 + e^s), and the logistic function."""
    return _sum(F.softplus(scores)), scores.sigmoid_()


def _log1p_exp_minus(scores: Tensor, multiplied: int) -> tuple[Tensor, Tensor]:
    """Return the sum of -log sigma(s), which is softplus(s) - s, and the logistic function, which must not underflow.

    So an exponential fewer is computed, and one logarithm for up to ``multiplied`` slopes whose product does not
    underflow either.
    """
    product = slope = scores.sigmoid_()
    while multiplied > 1 and len(product) % 2 == 0:
        product, multiplied = torch.mul(*product.chunk(2)), multiplied // 2
    return -_sum(product.log()), slope


def _sum(values: Tensor) -> Tensor:
    """Return the sum of a block: of each row in single, of the rows in double precision, without a copy in double."""
    return values.sum(-1, dtype=torch.promote_types(values.dtype, torch.float32)).sum(dtype=torch.float64)


def _sigmoid(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the logistic function, and its slope."""
    p = scores.sigmoid_()
    return _sum(p), p * (1 - p)


_FUNCTIONS = {"softplus": _softplus, "sigmoid": _sigmoid}
"""Of scores, which may be overwritten."""


def _evaluation(
    function: str, z: Tensor, among: Tensor | None
) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor]], float, Tensor]:
    """Return what gives the sum of a function and its slope at a block of scores, and what the sums are added to.

    Between them is the score of what is no pair. Its slope is to be taken as zero and its value subtracted, which must
    be zero itself where the sum may be far smaller.
    """
    if function == "softplus" and len(z) >= MANY_CELLS:
        largest = float(z.square().sum(1).max())  # no score is beyond
        if largest <= LARGEST:
            multiplied = int(min(LARGEST / max(largest, 1), MULTIPLIED))
            return partial(_log1p_exp_minus, multiplied=multiplied), 0.0, _sum_of_scores(z.double(), among)
    return _FUNCTIONS[function], -math.inf, z.new_zeros((), dtype=torch.float64)


def _sum_of_scores(z: Tensor, among: Tensor | None) -> Tensor:
    """Return the sum of z_i . z_j over all pairs, or those with the cells ``among``."""
    if among is None:
        return 0.5 * (z.sum(0).square().sum() - z.square().sum())
    others = z.index_select(0, among)
    return z.sum(0) @ others.sum(0) - others.square().sum()


def pair_sum(
    z: Tensor, function: str = "softplus", among: Tensor | None = None, precision: torch.dtype | None = None
) -> Tensor:
    r"""Compute the exact sum of a function of the inner product over all pairs of cells, in blocks.

    .. math:: \sum_{i < j} f(z_i^\top z_j)

    With f = softplus it is the negative log-likelihood of a graph without links, the part of the link loss that is
    quadratic in the number of cells. Time grows with N^2 D, memory with N D.

    With a random sample S of m cells the sum is estimated without bias, in a time that grows with N m D:

    .. math:: \frac{N}{2 m} \sum_i \sum_{j \in S, j \ne i} f(z_i^\top z_j)

    Parameters
    ----------
    z
        Cells x dimensions.
    function
        ``"softplus"``, or ``"sigmoid"`` for the normaliser of the categorical loss.
    among
        Numbers of the cells in S, each once; None for all pairs.
    precision
        Type of the scores and slopes, bfloat16 for example; None for that of ``z``, in which they are summed.

    Returns
    -------
    The sum in double precision; it has a first derivative in z.

    Examples
    --------
    >>> round(float(pair_sum(torch.zeros(3, 2))), 4)  # 3 pairs, each log 2
    2.0794
    """
    check({"function": Choice(*_FUNCTIONS)}, function=function)
    total: Tensor = _PairSum.apply(z, function, among, precision or z.dtype)
    return total


class LinkedPairs:
    """Linked pairs of cells with the sparse matrix that their scores need, for many evaluations of a loss.

    Parameters
    ----------
    edges
        Linked pairs, each once, edges x 2.
    n_cells
        Number of cells.

    Examples
    --------
    >>> pairs = LinkedPairs(torch.tensor([[0, 1], [1, 2]]), 3)
    >>> pairs.scores(torch.ones(3, 2)).tolist()
    [2.0, 2.0]
    """

    def __init__(self, edges: Tensor, n_cells: int) -> None:
        self.edges, self.n_cells = edges, n_cells
        both = torch.cat([edges, edges.flip(1)])
        order = torch.argsort(both[:, 0] * n_cells + both[:, 1])
        self.edge_of_entry = torch.arange(len(edges), device=edges.device).repeat(2)[order]
        self.entry_of_edge = torch.argsort(order)[: len(edges)]
        self.columns = both[order, 1]
        self.rows = F.pad(torch.bincount(both[:, 0], minlength=n_cells).cumsum(0), (1, 0))

    def __len__(self) -> int:
        return len(self.edges)

    def matrix(self, values: Tensor) -> Tensor:
        """Return the symmetric matrix with a value for each edge."""
        entries = values.index_select(0, self.edge_of_entry)
        return csr_tensor(self.rows, self.columns, entries, (self.n_cells, self.n_cells))

    def scores(self, z: Tensor) -> Tensor:
        """Return the inner product of each pair; it has a first derivative in z."""
        scores: Tensor = _Scores.apply(z, self)
        return scores


class _Scores(torch.autograd.Function):
    """s_e = z_i . z_j of edges e = (i, j); the gradient of cell i is the sum of g_e z_j over its edges.

    Both are products of cells by a sparse matrix, a fifth of the time that gathered rows and autograd take.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, pairs: LinkedPairs) -> Tensor:
        ctx.save_for_backward(z)
        ctx.pairs = pairs
        entries = torch.sparse.sampled_addmm(pairs.matrix(z.new_zeros(len(pairs))), z, z.T, beta=0.0).values()
        return entries.index_select(0, pairs.entry_of_edge)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return torch.sparse.mm(ctx.pairs.matrix(grads[0]), z), None


@dataclass(frozen=True)
class Sampling:
    """Weights with which a batch represents all cells: each pair weighs the inverse of its sampling probability.

    A batch consists of whole parts of the cells, so that pairs within a part are drawn more often than pairs between
    two.

    Attributes
    ----------
    n_cells, n_edges
        Numbers of cells and edges of the whole graph.
    parts
        Cells of each part in the batch, in the order of the batch's rows.
    within, between
        Weights of pairs within a part and between two.
    among
        Cells with which all cells are paired, a random sample, for the sum over all pairs; None for every cell.
    precision
        Type of the scores in the sum over all pairs; None for that of the cells.

    Examples
    --------
    >>> Sampling(n_cells=100, n_edges=300, parts=(10, 10)).n_pairs
    4950
    """

    n_cells: int
    n_edges: int
    parts: tuple[int, ...]
    within: float = 1.0
    between: float = 1.0
    among: Tensor | None = None
    precision: torch.dtype | None = None

    @property
    def n_pairs(self) -> int:
        """Pairs of cells in the whole graph."""
        return self.n_cells * (self.n_cells - 1) // 2

    def pair_sum(self, z: Tensor, function: str) -> Tensor:
        """Return the sum over all pairs of the whole graph, or its estimate."""
        total = self.between * pair_sum(z, function, self.among, self.precision)
        if self.within != self.between:
            inside = torch.stack(
                [pair_sum(part, function, precision=self.precision) for part in z.split(list(self.parts))]
            )
            total = total + (self.within - self.between) * inside.sum()
        return total

    def edge_weights(self, edges: Tensor) -> Tensor | None:
        """Return the weight of each edge of the batch; None if all are one."""
        if self.within == self.between == 1:
            return None
        part = torch.repeat_interleave(torch.tensor(self.parts, device=edges.device))
        same = part[edges[:, 0]] == part[edges[:, 1]]
        return torch.where(same, self.within, self.between)


def link_nll(
    z: Tensor, edges: Tensor | LinkedPairs, *, positive_weight: float | None = None, sampling: Sampling | None = None
) -> Tensor:
    r"""Negative log-likelihood of a graph under independent Bernoulli links, per pair of cells.

    .. math:: \frac{\sum_{i<j} w\, a_{ij}\, \mathrm{softplus}(-s_{ij}) + (1 - a_{ij})\, \mathrm{softplus}(s_{ij})}
              {w E + P - E}, \qquad s_{ij} = z_i^\top z_j

    with E linked pairs of P. With the balanced weight :math:`w = (P - E)/E` (Kipf and Welling 2016) linked and unlinked
    pairs have the same total weight; w = 1 is the mean over pairs, to which the links of a sparse graph add little.

    Parameters
    ----------
    z
        Cells x dimensions: Z* of a decoder.
    edges
        Linked pairs, each once, edges x 2, as rows of ``z``, or :class:`LinkedPairs` of them.
    positive_weight
        w; None for the balanced weight.
    sampling
        Weights of the pairs if the cells are a batch.

    Returns
    -------
    Nats per (weighted) pair.

    Examples
    --------
    >>> z = torch.zeros(3, 2)
    >>> round(float(link_nll(z, torch.tensor([[0, 1]]))), 4)  # log 2: all probabilities are 1/2
    0.6931
    """
    sampling = sampling or Sampling(len(z), len(edges), (len(z),))
    n_pairs, n_edges = sampling.n_pairs, sampling.n_edges
    weight = (n_pairs - n_edges) / n_edges if positive_weight is None else positive_weight
    pairs = _linked(edges, z)
    scores = pairs.scores(z)
    linked = weight * F.softplus(-scores) - F.softplus(scores)
    if (w := sampling.edge_weights(pairs.edges)) is not None:
        linked = linked * w
    total = sampling.pair_sum(z, "softplus") + linked.sum(dtype=torch.float64)
    return (total / (weight * n_edges + n_pairs - n_edges)).float()


def categorical_link_nll(z: Tensor, edges: Tensor | LinkedPairs, *, sampling: Sampling | None = None) -> Tensor:
    r"""Link loss of the code released with the paper: one categorical distribution over all pairs.

    .. math:: -\frac{1}{E} \sum_{(i,j) \in A} \log \frac{\sigma(s_{ij})}{\sum_{k<l} \sigma(s_{kl})}

    Parameters
    ----------
    z, edges, sampling
        As in :func:`link_nll`. In a batch the normaliser is estimated, and its logarithm has a small bias.

    Returns
    -------
    Nats per link. All pairs share one unit of probability, so that the loss grows with log N^2.

    Examples
    --------
    >>> round(float(categorical_link_nll(torch.zeros(3, 2), torch.tensor([[0, 1]]))), 4)  # one of 3 pairs
    1.0986
    """
    sampling = sampling or Sampling(len(z), len(edges), (len(z),))
    pairs = _linked(edges, z)
    logs = F.logsigmoid(pairs.scores(z))
    if (w := sampling.edge_weights(pairs.edges)) is not None:
        logs = logs * w
    normaliser = sampling.pair_sum(z, "sigmoid").log()
    return (normaliser - logs.sum(dtype=torch.float64) / sampling.n_edges).float()


def _linked(edges: Tensor | LinkedPairs, z: Tensor) -> LinkedPairs:
    return edges if isinstance(edges, LinkedPairs) else LinkedPairs(edges, len(z))
