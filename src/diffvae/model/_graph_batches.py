"""How cells and their links reach Graph-DiffVAE: all at once, or as parts of the graph that stand for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from diffvae import _links, _random
from diffvae._leiden import leiden
from diffvae.nn import Adjacency, Sampling
from diffvae.train import RowSource

EXACT_LIMIT = 20_000
"""Cells up to which every step sees all pairs; those of 10,000 cells (5 x 10^7) take 0.9 s on two cores."""
BATCH_CELLS = 8192
PART_CELLS = 256


@dataclass(frozen=True)
class GraphBatch:
    """Cells with the graph between them.

    Attributes
    ----------
    x
        Expression, cells x genes.
    adjacency
        What the convolutions propagate by.
    edges
        Linked pairs among the cells, each once, edges x 2.
    sampling
        What the cells stand for.
    """

    x: Tensor
    adjacency: Adjacency
    edges: Tensor
    sampling: Sampling


class WholeGraph:
    """One batch per epoch: all cells, all pairs, exactly."""

    def __init__(self, source: RowSource, adjacency: sparse.csr_matrix, edges: np.ndarray) -> None:
        n = len(source)
        self.batch = GraphBatch(
            source.rows(np.arange(n)),
            Adjacency(adjacency, source.device),
            torch.from_numpy(edges).to(source.device),
            Sampling(n, len(edges), (n,)),
        )

    def __str__(self) -> str:
        n = self.batch.sampling.n_pairs
        return f"all {n:,} pairs of cells in every step"

    def epoch(self, rng: np.random.Generator) -> Iterator[GraphBatch]:
        """Yield the batches of an epoch."""
        yield self.batch


class PartedGraph:
    """Batches of whole parts of the graph, dealt anew in every epoch.

    The graph is cut once into parts of about 256 cells that follow its communities (Cluster-GCN). With p of q parts in
    a batch, two cells of one part meet with probability p/q and two of different parts with p (p-1) / (q (q-1)); pairs
    weigh the inverse of that, so that for given latent places the loss is that of the whole graph in expectation.
    The latent places themselves are made of the neighbours within the batch, over the adjacency matrix normalised
    anew there, as in Cluster-GCN: weights that would make the sum over neighbours unbiased too (GraphSAINT) compound
    over the four propagations and diverge in small batches. What is predicted comes from the whole graph.
    Time is linear in cells, and memory is that of one batch beside the expression.

    References
    ----------
    Chiang et al., Cluster-GCN, KDD 2019. Zeng et al., GraphSAINT, ICLR 2020.
    """

    def __init__(
        self,
        source: RowSource,
        links: sparse.csr_matrix,
        adjacency_of: Callable[[sparse.csr_matrix], sparse.csr_matrix],
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        self.source, self.links, self.adjacency_of = source, links, adjacency_of
        n = len(source)
        size = min(PART_CELLS, max(1, batch_size // 4))
        n_parts = -(-n // size)
        communities = leiden(links, max(1.0, n_parts / 8), seed)
        order = np.lexsort((_random.generator(seed, "parts of the graph").random(n), communities))
        self.parts = np.array_split(order, n_parts)
        self.per_batch = max(2, min(batch_size // size, n_parts))

    def __str__(self) -> str:
        cells = self.per_batch * len(self.parts[0])
        return (
            f"batches of about {cells:,} cells, {self.per_batch} of {len(self.parts)} parts of the graph, with all "
            "pairs among them, weighed by the inverse of their probability"
        )

    def epoch(self, rng: np.random.Generator) -> Iterator[GraphBatch]:
        """Yield the batches of an epoch: every cell once."""
        q = len(self.parts)
        n_batches = max(1, round(q / self.per_batch))
        for chosen in np.array_split(rng.permutation(q), n_batches):
            parts = [self.parts[i] for i in chosen]
            p = len(parts)
            rows = np.concatenate(parts)
            sizes = tuple(len(part) for part in parts)
            links = self.links[rows][:, rows]
            yield GraphBatch(
                self.source.rows(rows),
                Adjacency(self.adjacency_of(links), self.source.device),
                torch.from_numpy(_links.edges_of(links)).to(self.source.device),
                Sampling(len(self.source), self.links.nnz // 2, sizes, q / p, q * (q - 1) / (p * (p - 1))),
            )
