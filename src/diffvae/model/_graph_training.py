"""Training of Graph-DiffVAE: network, objective, batches of the graph, held-out edges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from diffvae import _random, nn
from diffvae._core import graphs
from diffvae._core.graphs import leiden
from diffvae._core.runtime import in_one_thread, torch_in_one_thread
from diffvae._core.words import either
from diffvae._errors import DataError
from diffvae.metrics import link_auc, link_average_precision
from diffvae.model._calibration import Calibration, calibrate
from diffvae.model._config import GraphConfig
from diffvae.model._features import Matrix, dense
from diffvae.model._pca_start import REFERENCE_CELLS, Components
from diffvae.nn import Adjacency, LinkedPairs, Sampling
from diffvae.train import RowSource

if TYPE_CHECKING:
    from anndata import AnnData

WHOLE_LIMIT = 20_000
"""Cells up to which every step sees the whole graph."""
PAIRED_CELLS = 4096
"""Cells with which every cell is paired in a step, as samples of the pairs without a link; all pairs of fewer cells.

On 8,000 simulated cells the AUC of hidden edges is .9906 and .9903 (two seeds), with all pairs .9902 and .9896.
"""
BATCH_CELLS = 8192
PART_CELLS = 256


@dataclass(frozen=True)
class GraphBatch:
    """A batch: cells and the graph among them.

    Attributes
    ----------
    x
        Expression, cells x genes, or the same propagated.
    adjacency
        Adjacency matrix of the convolutions.
    edges
        Linked pairs among the cells.
    sampling
        How the cells were sampled, by which pairs are weighed.
    """

    x: Tensor | nn.Propagated
    adjacency: Adjacency
    edges: LinkedPairs
    sampling: Sampling


class WholeGraph:
    """One batch per epoch with all cells, and all pairs or those of all cells with a random sample of them.

    With a ``precision`` expression is propagated once and multiplied in this type, for graph convolutions of the type
    ``"gcn"``; other networks take it as it is.
    """

    def __init__(
        self,
        source: RowSource,
        adjacency: sparse.csr_matrix,
        edges: np.ndarray,
        *,
        precision: torch.dtype | None = None,
        paired: int = PAIRED_CELLS,
    ) -> None:
        n = len(source)
        self.paired = paired
        x, propagation = source.rows(np.arange(n)), Adjacency(adjacency, source.device)
        self.batch = GraphBatch(
            x if precision is None else nn.Propagated(x, propagation, precision),
            propagation,
            LinkedPairs(torch.from_numpy(edges).to(source.device), n),
            Sampling(n, len(edges), (n,), precision=precision),
        )

    def __str__(self) -> str:
        n, n_pairs = self.batch.sampling.n_cells, self.batch.sampling.n_pairs
        if n > self.paired:
            return f"in every step all links, and the pairs of {n:,} cells with {self.paired:,} random ones"
        return f"all {n_pairs:,} pairs of cells in every step"

    def epoch(self, rng: np.random.Generator) -> Iterator[GraphBatch]:
        """Yield the batches of an epoch."""
        n = self.batch.sampling.n_cells
        if n <= self.paired:
            yield self.batch
            return
        among = torch.from_numpy(rng.choice(n, self.paired, replace=False)).to(self.batch.edges.edges.device)
        yield replace(self.batch, sampling=replace(self.batch.sampling, among=among))

    @torch.no_grad()
    def encode(self, module: GraphAutoencoder) -> tuple[np.ndarray, np.ndarray]:
        """Return mu and Z* of all cells, with the products of the training."""
        x, adjacency = self.batch.x, self.batch.adjacency
        mu, _ = module.encoder(x, adjacency)
        return mu.cpu().numpy(), module.decoder(mu, x, adjacency).cpu().numpy()


class PartedGraph:
    """Batches of parts of the graph, combined at random in every epoch.

    The graph is cut once into parts of about 256 cells that follow its communities (Cluster-GCN). With p of q parts in
    a batch, two cells of one part meet with probability p/q and two of different parts with p (p-1) / (q (q-1)). Pairs
    are weighed by the inverse, so that for given Z* the expected loss is that of the whole graph. Z* itself is computed
    from neighbours within the batch, with the adjacency matrix of the batch, as in Cluster-GCN: weights that make the
    sum over neighbours unbiased (GraphSAINT) multiply over the four propagations and diverge in small batches.
    Predictions use the whole graph. Time is linear in the number of cells; memory is that of the expression and one
    batch.

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
        """Yield the batches of an epoch, which hold every cell once."""
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
                LinkedPairs(torch.from_numpy(graphs.edges_of(links)).to(self.source.device), len(rows)),
                Sampling(len(self.source), self.links.nnz // 2, sizes, q / p, q * (q - 1) / (p * (p - 1))),
            )

    def encode(self, module: GraphAutoencoder) -> tuple[np.ndarray, np.ndarray]:
        """Return mu and Z* of all cells."""
        return encode(module, self.source, self.adjacency_of(self.links))


class GraphAutoencoder(torch.nn.Module):
    """Graph encoder, decoder of links and, in the joint model, decoder of expression.

    Parameters
    ----------
    n_genes
        Genes.
    config
        Hyper-parameters.
    """

    def __init__(self, n_genes: int, config: GraphConfig) -> None:
        super().__init__()
        n, hidden = config.n_latent, config.hidden
        self.encoder = nn.GraphEncoder(n_genes, hidden, n, conv=config.conv, dropout=config.dropout)
        self.decoder: nn.GraphiteDecoder | nn.InnerProductDecoder = (
            nn.InnerProductDecoder() if config.decoder == "inner" else nn.GraphiteDecoder(n, n_genes, hidden)
        )
        self.expression = nn.Decoder(n, (hidden // 2, hidden), n_genes) if config.joint_weight else None

    @torch.no_grad()
    def change_inputs(self, axes: Tensor) -> None:
        """Take the coordinates ``x @ axes`` in place of ``x``; the axes are inputs x coordinates, orthonormal.

        The same with ``axes.T`` brings it back: x axes W'^T is x W^T with W = W' axes^T.
        """
        layers = [self.encoder.first.linear]
        if isinstance(self.decoder, nn.GraphiteDecoder):
            layers.append(self.decoder.expression)
        for linear in layers:
            linear.weight = torch.nn.Parameter(linear.weight @ axes)
            linear.in_features = axes.shape[1]


class GraphObjective:
    r"""Loss of Graph-DiffVAE, per (weighted) pair of cells.

    .. math:: L = L_{links}(Z^*) + w_{KL} \frac{1}{N} \overline{KL}(q(z_i) \| N(0, I))
              + w_{joint} \frac{1}{G} \overline{-\log p(x_i | z_i)} + w_{MMD} MMD^2(Z, N(0, I))

    With the plain Bernoulli likelihood and w_KL = 1 the first two terms are eq 22 divided by the N^2 ordered pairs. The
    weight of the KL term grows from zero over the first epochs (``warmup``).

    Parameters
    ----------
    config
        Hyper-parameters.
    """

    def __init__(self, config: GraphConfig) -> None:
        self.config = config

    def __call__(
        self, module: GraphAutoencoder, batch: GraphBatch, generator: torch.Generator, *, warmup: float = 1.0
    ) -> dict[str, Tensor]:
        """Return ``loss`` and its unweighted terms: ``links``, and in nats per cell ``kl`` and, if joint, ``nll``."""
        c = self.config
        mu, logvar = module.encoder(batch.x, batch.adjacency, generator)
        eps = torch.randn(mu.shape, generator=generator, device=mu.device)
        z = mu + torch.exp(0.5 * logvar) * eps
        places = module.decoder(z, batch.x, batch.adjacency)
        kl = nn.gaussian_kl(mu, logvar)
        links = self.links(places, batch)
        loss = links + c.kl_weight * warmup / batch.sampling.n_cells * kl
        terms = {"links": links, "kl": kl}
        if c.mmd_weight:
            some = z[torch.randperm(len(z), generator=generator, device=z.device)[:MMD_CELLS]]
            prior = torch.randn(some.shape, generator=generator, device=z.device)
            terms["mmd"] = nn.mmd(some, prior, nn.imq_kernel(c.n_latent))
            loss = loss + c.mmd_weight * terms["mmd"]
        if module.expression is not None:
            assert isinstance(batch.x, Tensor)
            terms["nll"] = nn.bernoulli_nll(module.expression(z), batch.x)
            loss = loss + c.joint_weight / batch.x.shape[1] * terms["nll"]
        return {"loss": loss, **terms}

    def links(self, places: Tensor, batch: GraphBatch) -> Tensor:
        """Return the loss of the links of a batch for Z*."""
        if self.config.link_loss == "categorical":
            return nn.categorical_link_nll(places, batch.edges, sampling=batch.sampling)
        return nn.link_nll(places, batch.edges, positive_weight=self.config.positive_weight, sampling=batch.sampling)


def pair_products(n_cells: int, config: GraphConfig) -> int:
    """Return the multiplications of a step in the scores of pairs of cells, and in their gradients."""
    return 2 * n_cells * min(n_cells, PAIRED_CELLS) * config.n_latent


@in_one_thread
def principal_axes(matrix: Matrix, adjacency: sparse.csr_matrix, n: int, rng: _random.Rng) -> tuple[Tensor, np.ndarray]:
    """Return the first right singular vectors of propagated expression, genes x n, and expression in these coordinates.

    They are those of up to 20,000 cells. The singular vectors of expression itself have more of its noise: hidden links
    of paul15 then have an AUC of .934, not .936, and of .675, not .690, against pairs of one type. Blocks are dense, so
    that the sums of sparse and dense matrices have the same order.
    """
    from sklearn.utils.extmath import randomized_svd

    rows = np.arange(matrix.shape[0])
    if len(rows) > REFERENCE_CELLS:
        rows = np.sort(_random.generator(rng, "cells of axes").choice(len(rows), REFERENCE_CELLS, replace=False))
    n = min(n, len(rows), matrix.shape[1])
    seed = _random.seed(rng, "axes") % 2**31
    links, columns = adjacency[rows], sparse.csc_matrix(matrix) if sparse.issparse(matrix) else matrix
    propagated = np.empty((len(rows), matrix.shape[1]), np.float32)
    for start in range(0, matrix.shape[1], GENES):
        genes = slice(start, start + GENES)
        propagated[:, genes] = links @ dense(columns[:, genes])
    _, _, axes = randomized_svd(propagated, n, n_iter=4, random_state=seed)
    axes = np.ascontiguousarray(axes.T, np.float32)
    blocks = (dense(matrix[i : i + BLOCK]) @ axes for i in range(0, matrix.shape[0], BLOCK))
    return torch.from_numpy(axes), np.concatenate(list(blocks))


BLOCK, GENES = 4096, 256
"""Cells per forward pass outside the training, and genes that are propagated at once to find the axes."""
SIMILARITY_SHARE = 0.3
"""Share of the cosine of principal components in the score of a link, beside that of Z*.

With half of the counts, AUC for links of the other half against any pairs, pairs as popular, and pairs of one type,
with a share of 0, .3 and .5: paul15 .925/.922/.751, .930/.922/.767, .930/.917/.767; pancreas .953/.951/.778,
.956/.951/.796, .956/.949/.796; zeisel .970/.969/.848, .974/.970/.878, .973/.967/.879.
"""
MMD_CELLS = 1000
"""Cells of a step that are compared with the prior: the MMD is quadratic in them."""
N_UNLINKED = 200_000
PER_CELL = 40
"""Pairs without an edge for the calibration: N_UNLINKED, or PER_CELL for each cell if that is more."""


@dataclass(frozen=True)
class Projection:
    """Projection of expression on the principal components of the training cells.

    Attributes
    ----------
    axes, offset
        Scores of cells x are x axes - offset: genes x components, components.
    """

    axes: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, components: Components) -> Self:
        """Return the projection on components."""
        axes = np.ascontiguousarray(components.axes.T * components.scale[:, None])  # as when loaded: sums depend on it
        return cls(axes, components.center @ axes)

    def __call__(self, matrix: Matrix) -> np.ndarray:
        """Return the scores of cells, cells x components."""
        return np.asarray(matrix @ self.axes) - self.offset


class Placed(NamedTuple):
    """Cells as a model sees them.

    Attributes
    ----------
    latent
        Posterior means, cells x latent dimensions.
    places
        What the scores of links are inner products of: Z*, cells x latent dimensions, or the directions of Z* and of
        the principal components of expression, cells x (latent dimensions + 50).
    popularity
        Length of Z*, one number per cell.
    """

    latent: np.ndarray
    places: np.ndarray
    popularity: np.ndarray


def scored(latent: np.ndarray, places: np.ndarray, components: np.ndarray | None) -> Placed:
    """Return cells with the places by which links are scored; with ``components`` these are directions."""
    length = np.linalg.norm(places.astype(np.float64), axis=1)
    if components is not None:
        parts = (
            (1 - SIMILARITY_SHARE, places, length),
            (SIMILARITY_SHARE, components, np.linalg.norm(components, axis=1)),
        )
        unit = [np.sqrt(w) * x / np.maximum(n, 1e-12)[:, None] for w, x, n in parts]
        places = np.concatenate(unit, axis=1).astype(np.float32)
    return Placed(latent, places, length.astype(np.float32))


@torch_in_one_thread
@torch.no_grad()
def encode(module: GraphAutoencoder, source: RowSource, adjacency: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return mu and Z* of all cells. Expression is read in blocks; the largest array is N x hidden."""
    propagation = nn.Adjacency(adjacency, source.device)
    blocks = source.blocks(BLOCK)
    product = torch.cat([module.encoder.product(source.rows(b)) for b in blocks])
    mu, _ = module.encoder.finish(product, propagation)
    del product
    product = torch.cat([module.decoder.product(source.rows(b)) for b in blocks])
    return mu.cpu().numpy(), module.decoder.finish(mu, product, propagation).cpu().numpy()


class HeldOut:
    """Edges held out of the training and sampled pairs without an edge, for validation and calibration."""

    def __init__(self, graph: sparse.csr_matrix, size: float, rng: _random.Rng) -> None:
        edges = graphs.edges_of(graph)
        self.n_cells, self.n_edges = graph.shape[0], len(edges)
        n_linked = round(size * len(edges))
        if size and (n_linked < 1 or n_linked == len(edges)):
            raise DataError(
                f"The graph has {len(edges)} edges; a share of {size:g} leaves {n_linked} for validation and "
                f"{len(edges) - n_linked} for training. Pass {either('validation_size=0 or ', '')}a graph with more "
                f"edges{either('', ', by a larger k=...')}."
            )
        chance = _random.generator(rng, "held-out links")
        self.linked, self.known_edges = graphs.hold_out(edges, self.n_cells, (n_linked,), chance)
        self.known = graphs.graph_of(self.known_edges, self.n_cells) if n_linked else graph
        self.graph = graph
        # a small graph may have few unlinked pairs
        n_unlinked = min(max(n_linked, 1000), (self.n_pairs - self.n_edges) // 2)
        self.unlinked = graphs.sample_negatives(graph, n_unlinked, chance) if n_linked else edges[:0]

    @property
    def n_pairs(self) -> int:
        return self.n_cells * (self.n_cells - 1) // 2

    def __bool__(self) -> bool:
        return len(self.linked) > 0 and len(self.unlinked) > 0

    def scores(self, places: np.ndarray, components: np.ndarray | None) -> dict[str, float]:
        """Return the balanced link loss of the inner products of Z*, and AUC and average precision of the scores."""
        linked, unlinked = graphs.inner_products(places, self.linked), graphs.inner_products(places, self.unlinked)
        if not (np.isfinite(linked).all() and np.isfinite(unlinked).all()):
            return {"validation_loss": float("nan")}
        loss = 0.5 * (np.logaddexp(0, -linked).mean() + np.logaddexp(0, unlinked).mean())
        if components is not None:
            places = scored(places, places, components).places
            linked, unlinked = graphs.inner_products(places, self.linked), graphs.inner_products(places, self.unlinked)
        return {
            "validation_loss": float(loss),
            "validation_auc": link_auc(linked, unlinked),
            "validation_average_precision": link_average_precision(linked, unlinked),
        }

    def similarity(self, matrix: Matrix, components: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the cosine of components of linked and of unlinked pairs; without them Pearson's r of expression."""
        if components is None:
            return graphs.pearson(matrix, self.linked), graphs.pearson(matrix, self.unlinked)
        x = components / np.maximum(np.linalg.norm(components, axis=1, keepdims=True), 1e-12)
        return graphs.inner_products(x, self.linked), graphs.inner_products(x, self.unlinked)

    def calibrate(self, places: np.ndarray, rng: _random.Rng) -> Calibration:
        """Fit probabilities and threshold to half of the held-out pairs; measure precision and recall on the others."""
        n = min(max(N_UNLINKED, PER_CELL * self.n_cells), (self.n_pairs - self.n_edges) // 2)
        unlinked = graphs.sample_negatives(self.graph, n, _random.generator(rng, "unlinked pairs"))
        chance = _random.generator(rng, "halves of held-out pairs")
        pairs = [graphs.inner_products(places, chance.permutation(pairs)) for pairs in (self.linked, unlinked)]
        if min(map(len, pairs)) < 2:  # a single pair can't be on both sides
            return calibrate(*pairs, n_edges=self.n_edges, n_pairs=self.n_pairs)
        fitted, other = ([scores[start::2] for scores in pairs] for start in (0, 1))
        curve = calibrate(*fitted, n_edges=self.n_edges, n_pairs=self.n_pairs)
        curve = replace(curve, n_held_out=len(self.linked))
        return curve.measured(*other, n_edges=self.n_edges, n_pairs=self.n_pairs)


def cell_numbers(pairs: Any, adata: AnnData | None, n_cells: int) -> np.ndarray:
    """Return pairs of cell names or numbers as numbers, pairs x 2."""
    pairs = pairs.to_numpy() if isinstance(pairs, pd.DataFrame) else np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs has shape {pairs.shape}; give pairs x 2 cells.")
    if pairs.dtype.kind in "iu":
        if len(pairs) and not 0 <= pairs.min() <= pairs.max() < n_cells:
            raise ValueError(f"pairs holds cells {pairs.min()} to {pairs.max()}; the cells are 0 to {n_cells - 1}.")
        return pairs.astype(np.int64)
    if adata is None:
        raise ValueError("pairs holds names of cells; pass adata too, or numbers of cells.")
    numbers = adata.obs_names.get_indexer(pairs.ravel().astype(str)).reshape(pairs.shape)
    if (numbers < 0).any():
        unknown = pairs[numbers < 0]
        raise DataError(f"{len(unknown)} cells of pairs are not in adata.obs_names, for example {str(unknown[0])!r}.")
    return numbers
