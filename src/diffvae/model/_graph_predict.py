"""What Graph-DiffVAE says of cells: their places, their links, and the attention between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from diffvae import _keys, _links, _neighbours, _random, nn
from diffvae._adata import graph as graph_in
from diffvae._threads import torch_in_one_thread
from diffvae.model._calibration import Calibration
from diffvae.model._estimator import Estimator
from diffvae.model._graph_config import GraphConfig
from diffvae.model._graph_objective import GraphAutoencoder
from diffvae.model._held_out import BLOCK, cell_numbers, encode
from diffvae.model._input import Matrix
from diffvae.nn._mlp import arrays_of, with_arrays
from diffvae.train import RowSource

if TYPE_CHECKING:
    from anndata import AnnData

EXACT_LIMIT = 100_000
"""Cells up to which the most probable links are searched among all pairs; of 25,000 cells it takes 4 s on two cores."""


class LinkPredictor(Estimator, abstract=True):
    """A graph autoencoder, however it was trained.

    Parameters
    ----------
    config
        Hyper-parameters.
    """

    def __init__(self, config: GraphConfig) -> None:
        super().__init__()
        self.config = config
        self.n_latent = config.n_latent
        self.graph_key = _keys.CELL_GRAPH
        self.scheme = ""
        self.calibration: Calibration | None = None
        self._module: GraphAutoencoder | None = None
        self._graph: sparse.csr_matrix | None = None
        self._places: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def module(self) -> GraphAutoencoder:
        """The torch module, in evaluation mode."""
        if self._module is None:
            raise self._not_trained()
        return self._module

    def get_latent_representation(self, adata: AnnData | None = None, *, max_missing: float = 0.2) -> np.ndarray:
        """Return the posterior mean of each cell, given its expression and its links: cells x latent dimensions.

        Parameters
        ----------
        adata
            Cells with a graph under the key of the training; None for those of the training.
        max_missing
            See :meth:`diffvae.model.Model.get_latent_representation`.
        """
        return self._placed(adata, max_missing)[0]

    def get_link_representation(self, adata: AnnData | None = None, *, max_missing: float = 0.2) -> np.ndarray:
        """Return Z*, the places whose inner products are the logits of links: cells x latent dimensions.

        Computed from the posterior mean, never from a draw. Parameters as in :meth:`get_latent_representation`.
        """
        return self._placed(adata, max_missing)[1]

    @torch_in_one_thread
    @torch.no_grad()
    def reconstruct(self, adata: AnnData | None = None, *, max_missing: float = 0.2) -> np.ndarray:
        """Return the expression that the joint model expects of each cell, cells x genes in [0, 1].

        Only with ``joint_weight`` above 0. Parameters as in :meth:`get_latent_representation`.
        """
        decoder = self.module.expression
        if decoder is None:
            raise ValueError("joint_weight is 0, so this model knows no expression; train one with joint_weight=10.")
        z = torch.from_numpy(self.get_latent_representation(adata, max_missing=max_missing)).to(self._device())
        return torch.cat([torch.sigmoid(decoder(part)) for part in z.split(BLOCK)]).cpu().numpy()

    def predict_links(
        self, pairs: Any, adata: AnnData | None = None, *, calibrated: bool = True, max_missing: float = 0.2
    ) -> np.ndarray:
        """Return the probability that each pair of cells is linked.

        Parameters
        ----------
        pairs
            Pairs x 2: numbers of cells, or their names (``adata`` is needed for names).
        adata
            Cells with a graph; None for those of the training.
        calibrated
            True: the share of all pairs with such a score, known edges among them, that are linked in the graph. False:
            the logistic function of the score, as in eq 21, in which linked and unlinked pairs are equally frequent.
        max_missing
            See :meth:`get_latent_representation`.
        """
        places = self.get_link_representation(adata, max_missing=max_missing)
        pairs = cell_numbers(pairs, adata, len(places))
        return self.probabilities(_links.inner_products(places, pairs), adata, calibrated=calibrated)

    def probabilities(self, scores: np.ndarray, adata: AnnData | None = None, *, calibrated: bool = True) -> np.ndarray:
        """Return the probabilities of links for scores, the inner products of Z*, of the training's cells or of others.

        In a graph of another density the odds of a link are as many times as large.
        """
        curve = self.curve(adata) if calibrated else Calibration(1.0, 0.0, 0.5, np.nan, np.nan, 0)
        if curve is None:
            raise ValueError(
                "Nothing was calibrated, because validation_size was 0 or every pair of the graph is linked; pass "
                "calibrated=False, or train with some edges held out."
            )
        return curve(scores)

    def curve(self, adata: AnnData | None = None) -> Calibration | None:
        """Return the calibration at the density of the cells' graph; None where nothing was calibrated."""
        if adata is None or self.calibration is None:
            return self.calibration
        graph = graph_in(adata, self.graph_key)
        return self.calibration.at(graph.nnz / (graph.shape[0] * (graph.shape[0] - 1)))

    def predict_top_links(
        self,
        k: int = 15,
        adata: AnnData | None = None,
        *,
        calibrated: bool = True,
        max_missing: float = 0.2,
        rng: _random.Rng = 0,
    ) -> sparse.csr_matrix:
        """Return the k most probable links of each cell, searched in blocks, or approximately for many cells.

        Parameters
        ----------
        k
            Links per cell; a cell has more of them where others chose it.
        adata, calibrated, max_missing
            As in :meth:`predict_links`.
        rng
            Seed of the approximate search.

        Returns
        -------
        Symmetric CSR, cells x cells, of probabilities.
        """
        places = self.get_link_representation(adata, max_missing=max_missing)
        return self._top_links(places, k, adata, calibrated=calibrated, rng=rng)

    def _top_links(
        self, places: np.ndarray, k: int, adata: AnnData | None, *, calibrated: bool, rng: _random.Rng
    ) -> sparse.csr_matrix:
        found = _neighbours.nearest(places, min(k, len(places) - 1), metric="inner", rng=rng, exact_limit=EXACT_LIMIT)
        rows = np.repeat(np.arange(len(places)), found.indices.shape[1])
        there = found.indices.ravel() >= 0
        values = self.probabilities(found.scores.ravel()[there], adata, calibrated=calibrated)
        entries = values, (rows[there], found.indices.ravel()[there])
        top = sparse.csr_matrix(entries, shape=(len(places), len(places)), dtype=np.float32)
        top = sparse.csr_matrix(top.maximum(top.T))
        top.sort_indices()
        return top

    @torch_in_one_thread
    def attention(self, adata: AnnData | None = None, *, max_missing: float = 0.2) -> sparse.csr_matrix:
        """Return the attention that each cell (row) gives to its neighbours and itself (with self-loops).

        Rows sum to one. The mean over heads of the first layer; only with ``conv="gat"``. Parameters as in
        :meth:`get_latent_representation`.
        """
        matrix, graph = self._cells(adata, max_missing)
        source = RowSource(matrix, self._device())
        adjacency = nn.Adjacency(self._adjacency(graph), self._device())
        with torch.no_grad():
            weights = self.module.encoder.attention(source.rows(np.arange(len(source))), adjacency)
        sources, targets = adjacency.edge_index.cpu().numpy()
        return sparse.csr_matrix((weights.cpu().numpy(), (targets, sources)), shape=graph.shape)

    def _adjacency(self, graph: sparse.csr_matrix) -> sparse.csr_matrix:
        return nn.normalized_adjacency(graph, self_loops=self.config.self_loops, normalize=self.config.normalize)

    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _cells(self, adata: AnnData | None, max_missing: float) -> tuple[Matrix, sparse.csr_matrix]:
        matrix = self._matrix(adata, max_missing)
        if adata is None:
            assert self._graph is not None
            return matrix, self._graph
        return matrix, graph_in(adata, self.graph_key)

    def _placed(self, adata: AnnData | None, max_missing: float) -> tuple[np.ndarray, np.ndarray]:
        if adata is None and self._places is not None:
            return self._places
        matrix, graph = self._cells(adata, max_missing)
        source = RowSource(matrix, self._device(), resident_limit=0)
        places = encode(self.module, source, self._adjacency(graph))
        if adata is None:
            self._places = places
        return places

    def _state(self) -> dict[str, Any]:
        calibration = None if self.calibration is None else self.calibration.to_dict()
        return {"graph_key": self.graph_key, "scheme": self.scheme, "calibration": calibration}

    def _set_state(self, state: Mapping[str, Any]) -> None:
        self.graph_key, self.scheme = state["graph_key"], state["scheme"]
        self.calibration = None if state["calibration"] is None else Calibration(**state["calibration"])

    def _arrays(self) -> dict[str, np.ndarray]:
        return arrays_of(self.module)

    def _set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._module = with_arrays(lambda: GraphAutoencoder(len(self.features.gene_names), self.config), arrays)
