"""Places of all cells, and what edges that were hidden from the training say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from diffvae import _links, _random, nn
from diffvae._errors import DataError
from diffvae._threads import torch_in_one_thread
from diffvae.metrics import link_auc, link_average_precision
from diffvae.model._calibration import Calibration, calibrate
from diffvae.model._graph_objective import GraphAutoencoder
from diffvae.model._input import Matrix
from diffvae.train import RowSource

if TYPE_CHECKING:
    from anndata import AnnData

BLOCK = 4096
"""Cells per pass where nothing is learnt."""
N_UNLINKED = 200_000
PER_CELL = 40
"""Pairs without an edge to which probabilities are calibrated: as many, or so many per cell if that is more."""


@torch_in_one_thread
@torch.no_grad()
def encode(module: GraphAutoencoder, source: RowSource, adjacency: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return mu and Z* of all cells; expression passes in blocks, what is held is N x hidden."""
    carried = nn.Adjacency(adjacency, source.device)
    blocks = source.blocks(BLOCK)
    product = torch.cat([module.encoder.product(source.rows(b)) for b in blocks])
    mu, _ = module.encoder.finish(product, carried)
    del product
    product = torch.cat([module.decoder.product(source.rows(b)) for b in blocks])
    return mu.cpu().numpy(), module.decoder.finish(mu, product, carried).cpu().numpy()


class HeldOut:
    """The edges that are hidden from the training, pairs without an edge, and what they say of places Z*."""

    def __init__(self, graph: sparse.csr_matrix, size: float, rng: _random.Rng) -> None:
        edges = _links.edges_of(graph)
        self.n_cells, self.n_edges = graph.shape[0], len(edges)
        n_linked = round(size * len(edges))
        if size and (n_linked < 1 or n_linked == len(edges)):
            raise DataError(
                f"The graph has {len(edges)} edges; validation_size={size} would leave {n_linked} to watch and "
                f"{len(edges) - n_linked} to learn from. Pass validation_size=0 or a graph with more edges."
            )
        chance = _random.generator(rng, "held-out links")
        self.linked, self.known_edges = _links.hold_out(edges, self.n_cells, (n_linked,), chance)
        self.known = _links.graph_of(self.known_edges, self.n_cells) if n_linked else graph
        self.graph = graph
        # most pairs are unlinked; among very few cells there may be hardly any
        n_unlinked = min(max(n_linked, 1000), (self.n_pairs - self.n_edges) // 2)
        self.unlinked = _links.sample_negatives(graph, n_unlinked, chance) if n_linked else edges[:0]

    @property
    def n_pairs(self) -> int:
        return self.n_cells * (self.n_cells - 1) // 2

    def __bool__(self) -> bool:
        return len(self.linked) > 0 and len(self.unlinked) > 0

    def scores(self, places: np.ndarray) -> dict[str, float]:
        """Return the balanced link loss, AUC and average precision of the held-out pairs."""
        linked, unlinked = _links.inner_products(places, self.linked), _links.inner_products(places, self.unlinked)
        if not (np.isfinite(linked).all() and np.isfinite(unlinked).all()):
            return {"validation_loss": float("nan")}
        loss = 0.5 * (np.logaddexp(0, -linked).mean() + np.logaddexp(0, unlinked).mean())
        return {
            "validation_loss": float(loss),
            "validation_auc": link_auc(linked, unlinked),
            "validation_average_precision": link_average_precision(linked, unlinked),
        }

    def pearson(self, matrix: Matrix) -> tuple[np.ndarray, np.ndarray]:
        """Return Pearson's correlation of the expression of linked and of unlinked pairs."""
        return _links.pearson(matrix, self.linked), _links.pearson(matrix, self.unlinked)

    def calibrate(self, places: np.ndarray, rng: _random.Rng) -> Calibration:
        """Fit probabilities and threshold to the held-out pairs."""
        n = min(max(N_UNLINKED, PER_CELL * self.n_cells), (self.n_pairs - self.n_edges) // 2)
        unlinked = _links.sample_negatives(self.graph, n, _random.generator(rng, "unlinked pairs"))
        linked = _links.inner_products(places, self.linked)
        return calibrate(linked, _links.inner_products(places, unlinked), n_edges=self.n_edges, n_pairs=self.n_pairs)


def cell_numbers(pairs: Any, adata: AnnData | None, n_cells: int) -> np.ndarray:
    """Return pairs of cells as numbers, pairs x 2."""
    pairs = pairs.to_numpy() if isinstance(pairs, pd.DataFrame) else np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs has shape {pairs.shape}; give pairs x 2 cells.")
    if pairs.dtype.kind in "iu":
        if len(pairs) and not 0 <= pairs.min() <= pairs.max() < n_cells:
            raise ValueError(f"pairs name cells {pairs.min()} to {pairs.max()}; there are 0 to {n_cells - 1}.")
        return pairs.astype(np.int64)
    if adata is None:
        raise ValueError("pairs are names of cells; pass adata as well, or numbers of cells.")
    numbers = adata.obs_names.get_indexer(pairs.ravel().astype(str)).reshape(pairs.shape)
    if (numbers < 0).any():
        unknown = pairs[numbers < 0]
        raise DataError(f"{len(unknown)} cells of pairs are not in adata.obs_names, {str(unknown[0])!r} among them.")
    return numbers
