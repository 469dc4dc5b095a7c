"""Graph-DiffVAE: training on a graph of cells, latent and link representations, links and attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from scipy import sparse

from diffvae import _keys, _random, nn
from diffvae._core import graphs, neighbors
from diffvae._core.anndata import graph as graph_in
from diffvae._core.fingerprint import fingerprint
from diffvae._core.runtime import for_steps, torch_in_one_thread
from diffvae._core.validate import Choice, Number, Optional, Rule, Whole, check
from diffvae.metrics import link_auc
from diffvae.model._base import Estimator
from diffvae.model._calibration import Calibration
from diffvae.model._config import graph_config
from diffvae.model._features import Features, Matrix, about, layer_matrix, read_features, require_unit_interval
from diffvae.model._graph_training import (
    BATCH_CELLS,
    BLOCK,
    WHOLE_LIMIT,
    GraphAutoencoder,
    GraphObjective,
    HeldOut,
    PartedGraph,
    Placed,
    Projection,
    WholeGraph,
    cell_numbers,
    encode,
    pair_products,
    principal_axes,
    scored,
)
from diffvae.model._pca_start import N_COMPONENTS, principal_components
from diffvae.nn._mlp import arrays_of, with_arrays
from diffvae.train import Checkpoint, RowSource, best_device, best_precision, optimise

if TYPE_CHECKING:
    from anndata import AnnData

RULES: dict[str, Rule] = {
    "max_epochs": Optional(Whole(1)),
    "lr": Optional(Number("(0, inf)")),
    "validation_size": Number("[0, 1)"),
    "validate_every": Whole(1),
    "patience": Whole(1),
    "batch_size": Optional(Whole(8)),
    "metric": Choice("cosine", "pearson"),
}
PROJECTION = "similarity."
"""Prefix of the arrays of the projection in a saved model."""


class GraphDiffVAE(Estimator):
    r"""Graph-DiffVAE (eqs 14-22): predicts links between cells from expression and a graph of cells.

    Graph convolutions encode each cell with its neighbours, the Graphite decoder refines the latent representation on
    the graph, and two cells are linked with probability

    .. math:: p(A_{ij} = 1) = \sigma(z^{*\top}_i z^*_j), \qquad
              z^{*\top}_i z^*_j = |z^*_i| \, |z^*_j| \cos(z^*_i, z^*_j)

    The length of :math:`z^*` says how readily a cell is linked with any other, so links by the inner product crowd on
    popular cells. By default a link is therefore scored by directions alone, those of :math:`z^*` and of the 50
    principal components y of expression, with probabilities fitted to held-out edges:

    .. math:: s_{ij} = 0.7 \cos(z^*_i, z^*_j) + 0.3 \cos(y_i, y_j)

    Arguments that are None are taken from the preset.

    Parameters
    ----------
    preset
        ``"default"``: recommended. ``"paper"``: the equations as printed, with the plain Bernoulli likelihood.
        ``"code"``: the released code (categorical loss over all pairs, graph not normalised, no self-loops). The graph
        of the released code was directed and had k = 2; that of :func:`diffvae.pp.cell_graph` is undirected.
    n_latent
        Latent dimensions (50).
    hidden
        Width of the hidden convolutions (512).
    n_components
        Principal components of propagated expression in whose coordinates the weights of expression are trained (128);
        0 for the genes themselves, as in the paper. Adam scales the step of each weight, and in these coordinates 200
        epochs lead further: the AUC of links in the other half of the counts changes by -.005 to +.026 against any
        pairs and by -.013 to +.084 against pairs of one type (eight data sets, mean +.007 and +.027). Other
        convolutions and the joint model always take genes.
    conv
        Convolutions of the encoder: ``"gcn"``, ``"gat"`` (see :meth:`attention`) or ``"sage"``.
    decoder
        ``"direction"``: the paper's network (Graphite) with the score above. ``"graphite"``: the paper's score, the
        inner product of Z*, in which popular cells win: of the links that it calls in the mouse pancreas, in a graph by
        Pearson's r (k = 5), 18 % are estimated to be edges, and 32 % with ``"direction"``. ``"inner"``: the inner
        product of Z.
    kl_weight
        Weight of the KL term; 1 is eq 22.
    kl_warmup
        Share of the epochs over which the weight of the KL term grows from zero.
    link_loss
        ``"bernoulli"`` or ``"categorical"``.
    positive_weight
        Weight of a linked pair; None balances linked and unlinked pairs.
    joint_weight
        Weight of the Bernoulli likelihood of expression, per gene, from the same latent representation.
    mmd_weight
        Weight of the maximum mean discrepancy between Z and N(0, I), DiffVAE's regulariser; use it with a
        ``kl_weight`` below 1.
    normalize, self_loops
        Whether to normalise the adjacency matrix and to add self-loops.
    dropout
        Dropout in the encoder.
    lr, max_epochs
        Learning rate of Adam and passes over the graph, if :meth:`train` gets none.

    References
    ----------
    Bica et al., Scientific Reports 10:9790 (2020), eqs 14-22. Kipf and Welling, Variational graph auto-encoders, 2016.
    Grover et al., Graphite, ICML 2019.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.pp.cell_graph(adata, k=3)
    >>> model = dv.model.GraphDiffVAE(n_latent=10, hidden=32).train(adata, max_epochs=2, progress=False)
    >>> model.predict_links([[0, 1], [0, 2]]).shape
    (2,)
    """

    def __init__(
        self,
        preset: str = "default",
        *,
        n_latent: int | None = None,
        hidden: int | None = None,
        n_components: int | None = None,
        conv: str | None = None,
        decoder: str | None = None,
        kl_weight: float | None = None,
        kl_warmup: float | None = None,
        link_loss: str | None = None,
        positive_weight: float | None = None,
        joint_weight: float | None = None,
        mmd_weight: float | None = None,
        normalize: bool | None = None,
        self_loops: bool | None = None,
        dropout: float | None = None,
        lr: float | None = None,
        max_epochs: int | None = None,
    ) -> None:
        overrides = {k: v for k, v in locals().items() if k not in ("self", "preset", "__class__")}
        super().__init__()
        self.preset, self.config = preset, graph_config(preset, overrides)
        self.n_latent = self.config.n_latent
        self.graph_key = _keys.CELL_GRAPH
        self.scheme = ""
        self.calibration: Calibration | None = None
        self._module: GraphAutoencoder | None = None
        self._projection: Projection | None = None
        self._graph: sparse.csr_matrix | None = None
        self._places: Placed | None = None
        self._held_out: HeldOut | None = None

    def __repr__(self) -> str:
        state = f"trained on {self.features.n_cells} cells" if self.is_trained else "not trained"
        c = self.config
        return (
            f"GraphDiffVAE(n_latent={c.n_latent}, hidden={c.hidden}, conv={c.conv!r}, decoder={c.decoder!r}; {state})"
        )

    @classmethod
    def _from_params(cls, params: Mapping[str, Any]) -> Self:
        # a version that did not save the number of components had the weights of genes
        return cls(**{"n_components": 0, **params})

    def get_params(self) -> dict[str, Any]:
        """Return the preset and the hyper-parameters."""
        return {"preset": self.preset, **asdict(self.config)}

    def train(
        self,
        adata: AnnData,
        *,
        graph_key: str = _keys.CELL_GRAPH,
        layer: str | None = "unit",
        max_epochs: int | None = None,
        lr: float | None = None,
        validation_size: float = 0.1,
        validate_every: int = 10,
        early_stopping: bool = False,
        patience: int = 20,
        batch_size: int | None = None,
        device: str = "auto",
        rng: _random.Rng = 0,
        progress: bool = True,
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: int | None = 10,
        resume: bool = False,
    ) -> Self:
        """Train on cells and a graph with Adam. A second call trains again from random weights.

        Parameters
        ----------
        adata
            Cells with a graph, for example of :func:`diffvae.pp.cell_graph`.
        graph_key
            Key of the graph in ``obsp``. It is taken as undirected and unweighted.
        layer
            Layer of the expression values; None for X.
        max_epochs, lr
            None for those of the constructor.
        validation_size
            Share of the edges that is held out, for validation AUC and average precision and for the calibration of
            the probabilities. The validation loss is the balanced Bernoulli loss, whatever ``link_loss`` is. With 0
            probabilities are not calibrated.
        validate_every
            Epochs between two validations, each of which costs a third of an epoch; the history has NaN between them.
            With early stopping every epoch is validated.
        early_stopping, patience
            Stop after ``patience`` epochs without improvement of the validation loss, and keep the best weights.
        batch_size
            Cells per step. None for all cells up to 20,000, and 8,192 beyond. A step with up to 4,096 cells sees all
            pairs (in blocks, without an N x N matrix); one with all of more cells sees all links, and the pairs of
            each cell with 4,096 random ones, an unbiased estimate. :attr:`scheme` describes the choice.
        device
            ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        rng
            Seed of the split, the initial weights, the order of cells and the noise.
        progress
            Show a bar on a terminal.
        checkpoint, checkpoint_every, resume
            As in :meth:`DiffVAE.train`.

        Returns
        -------
        The model itself.

        Raises
        ------
        DataError
            If the graph or the layer is missing or can't be used.
        TrainingError
            If the loss diverges.
        """
        c = self.config
        check(
            RULES, max_epochs=max_epochs, lr=lr, validation_size=validation_size, validate_every=validate_every,
            patience=patience, batch_size=batch_size,
        )  # fmt: skip
        epochs, rate = c.max_epochs if max_epochs is None else max_epochs, c.lr if lr is None else lr
        file = Checkpoint.at(checkpoint, checkpoint_every, resume)
        graph = graph_in(adata, graph_key)
        matrix = layer_matrix(adata, layer)
        if c.joint_weight:
            require_unit_interval(matrix, layer)
        features = read_features(adata, layer, matrix)
        held_out = HeldOut(graph, validation_size, rng)
        projection = _projection(matrix, features, rng) if c.decoder == "direction" else None
        similarity = None if projection is None else projection(matrix)
        target = best_device(device)
        with _random.torch_seeded(rng, "graph weights"):
            module = GraphAutoencoder(matrix.shape[1], c).to(target)
        propagated = c.conv == "gcn" and not c.joint_weight
        adjacency = self._adjacency(held_out.known)
        axes = None
        if c.n_components:
            axes, coordinates = principal_axes(matrix, adjacency, c.n_components, rng)
            module.change_inputs(axes.to(target))
        source = RowSource(matrix if axes is None else coordinates, target)
        n = adata.n_obs
        size = batch_size or (n if n <= WHOLE_LIMIT else BATCH_CELLS)
        batches: WholeGraph | PartedGraph = (
            WholeGraph(
                source,
                adjacency,
                held_out.known_edges,
                precision=best_precision("auto", target) if propagated else None,
            )
            if size >= n
            else PartedGraph(
                source,
                held_out.known,
                self._adjacency,
                batch_size=size,
                seed=_random.seed(rng, "parts of the graph"),
            )
        )
        objective, noise = GraphObjective(c), _random.torch_generator(rng, "noise", device=target)
        order = _random.generator(rng, "order of parts")
        epoch = 0

        def batches_of_epoch(number: int) -> Any:
            nonlocal epoch
            epoch = number
            return ((batch, len(batch.x)) for batch in batches.epoch(order))

        def validate() -> dict[str, float]:
            due = early_stopping or epoch % validate_every == 0 or epoch in (1, epochs)
            return held_out.scores(batches.encode(module)[1], similarity) if due and held_out else {}

        with for_steps(size, module, pair_products(size, c)):
            history = optimise(
                module,
                batches_of_epoch,
                lambda batch: objective(
                    module, batch, noise, warmup=min(1.0, epoch / (c.kl_warmup * epochs)) if c.kl_warmup else 1.0
                ),
                validate,
                max_epochs=epochs,
                lr=rate,
                patience=patience if early_stopping else None,
                device=target,
                largest=lambda: float(abs(matrix).max()),
                progress=progress,
                description="training GraphDiffVAE",
                order=order,
                noise=noise,
                checkpoint=None
                if file is None
                else file.of(
                    {"model": type(self).__name__, **about(features), **asdict(c)}
                    | {"graph": fingerprint(graph), "training edges": fingerprint(held_out.known)}
                    | {"cells per step": size, "validate_every": validate_every}
                ),
            )
        placed = scored(*encode(module, source, adjacency), similarity)
        if axes is not None:
            module.change_inputs(axes.T.to(target))
        self.calibration = held_out.calibrate(placed.places, rng) if held_out else None
        self._module, self._features, self._history, self._projection = module, features, history, projection
        self._training_matrix, self._graph, self._places = matrix, graph, None
        self.graph_key, self.scheme, self._held_out = graph_key, str(batches), held_out
        return self

    def baseline_auc(self, metric: str = "cosine") -> float:
        """Return the AUC on the held-out edges of a similarity that needs no graph, to compare the validation AUC with.

        Parameters
        ----------
        metric
            ``"cosine"`` of 50 principal components of the log-normalised values, or ``"pearson"`` of the training
            layer. That which made the graph has an advantage: it defines the edges.
        """
        check(RULES, metric=metric)
        if not self._held_out:
            raise ValueError("The model has no held-out edges; train it in this session with validation_size above 0.")
        matrix, x = self._training_matrix, None
        assert matrix is not None
        if metric == "cosine":
            projection = self._projection or _projection(matrix, self.features, 0)
            x = projection(matrix)
        return link_auc(*self._held_out.similarity(matrix, x))

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
            Cells with a graph under the key of the training; None for the training cells.
        max_missing
            See :meth:`diffvae.model.Model.get_latent_representation`.
        """
        return self._placed(adata, max_missing).latent

    def get_link_representation(self, adata: AnnData | None = None, *, max_missing: float = 0.2) -> np.ndarray:
        """Return what the scores of links are inner products of.

        With ``decoder="direction"`` cells x (latent dimensions + 50), rows of length one: the directions of Z* and of
        the principal components, each times the root of its share. :meth:`get_popularity` has the lengths of Z*.
        Otherwise Z*, cells x latent dimensions. Z* is computed from the posterior mean. Parameters as in
        :meth:`get_latent_representation`.
        """
        return self._placed(adata, max_missing).places

    def get_popularity(self, adata: AnnData | None = None, *, max_missing: float = 0.2) -> np.ndarray:
        """Return the length of Z*, one number per cell: how readily it is linked with any cell of its direction.

        Parameters as in :meth:`get_latent_representation`.
        """
        return self._placed(adata, max_missing).popularity

    @torch_in_one_thread
    @torch.no_grad()
    def reconstruct(self, adata: AnnData | None = None, *, max_missing: float = 0.2) -> np.ndarray:
        """Return the expression that the joint model expects of each cell, cells x genes in [0, 1].

        Only with ``joint_weight`` above 0. Parameters as in :meth:`get_latent_representation`.
        """
        decoder = self.module.expression
        if decoder is None:
            raise ValueError("joint_weight is 0, so the model has no expression decoder; train with joint_weight=10.")
        z = torch.from_numpy(self.get_latent_representation(adata, max_missing=max_missing)).to(self._device())
        return torch.cat([torch.sigmoid(decoder(part)) for part in z.split(BLOCK)]).cpu().numpy()

    def predict_links(
        self, pairs: Any, adata: AnnData | None = None, *, calibrated: bool = True, max_missing: float = 0.2
    ) -> np.ndarray:
        """Return the probability that each pair of cells is linked.

        Parameters
        ----------
        pairs
            Pairs x 2: numbers of cells, or their names (which need ``adata``).
        adata
            Cells with a graph; None for the training cells.
        calibrated
            True: the share of linked pairs among all pairs with this score, edges of the training included. False: the
            logistic function of the score (eq 21), which takes linked and unlinked pairs as equally frequent.
        max_missing
            See :meth:`get_latent_representation`.
        """
        places = self.get_link_representation(adata, max_missing=max_missing)
        pairs = cell_numbers(pairs, adata, len(places))
        return self.probabilities(graphs.inner_products(places, pairs), adata, calibrated=calibrated)

    def probabilities(self, scores: np.ndarray, adata: AnnData | None = None, *, calibrated: bool = True) -> np.ndarray:
        """Return the probabilities of links for scores, the inner products of :meth:`get_link_representation`.

        Parameters as in :meth:`predict_links`; ``adata`` gives the density of the graph of other cells.
        """
        curve = self.curve(adata) if calibrated else Calibration(1.0, 0.0, 0.5, np.nan, np.nan, 0)
        if curve is None:
            raise ValueError(
                "The probabilities are not calibrated, because validation_size was 0 or every pair of the graph is "
                "linked; pass calibrated=False, or train with held-out edges."
            )
        return curve(scores)

    def curve(self, adata: AnnData | None = None) -> Calibration | None:
        """Return the calibration at the density of the cells' graph; None without held-out edges."""
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
        """Return the k most probable links of each cell; above 10,000 cells the search is approximate.

        Parameters
        ----------
        k
            Links per cell; a cell has more if it is among the k of other cells.
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
        near = neighbors.nearest(places, min(k, len(places) - 1), metric="inner", rng=rng)
        rows, positions = np.nonzero(near.indices >= 0)
        pairs = np.column_stack([rows, near.indices[rows, positions]])
        # in double precision, as in predict_links: curves can be steep
        entries = self.probabilities(graphs.inner_products(places, pairs), adata, calibrated=calibrated), pairs.T
        top = sparse.csr_matrix(entries, shape=(len(places), len(places)), dtype=np.float32)
        top = sparse.csr_matrix(top.maximum(top.T))
        top.sort_indices()
        return top

    @torch_in_one_thread
    def attention(
        self,
        adata: AnnData | None = None,
        *,
        candidates: sparse.spmatrix | np.ndarray | None = None,
        max_missing: float = 0.2,
    ) -> sparse.csr_matrix:
        """Return the attention of each cell (row) to its neighbours and, with self-loops, to itself.

        It is the mean over the heads of the first layer, and rows sum to one. Only with ``conv="gat"``.

        Parameters
        ----------
        adata, max_missing
            As in :meth:`get_latent_representation`.
        candidates
            Links that are no edges of the graph, cells x cells, for example ``adata.obsp["diffvae_called_links"]``:
            each cell then shares its attention among neighbours and candidates.
        """
        matrix, graph = self._cells(adata, max_missing)
        if candidates is not None:
            if candidates.shape != graph.shape:
                raise ValueError(f"candidates has the shape {candidates.shape}; the graph has {graph.shape}.")
            graph = graph.maximum(graphs.undirected(candidates))
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

    def _placed(self, adata: AnnData | None, max_missing: float) -> Placed:
        if adata is None and self._places is not None:
            return self._places
        matrix, graph = self._cells(adata, max_missing)
        source = RowSource(matrix, self._device(), resident_limit=0)
        similarity = None if self._projection is None else self._projection(matrix)
        places = scored(*encode(self.module, source, self._adjacency(graph)), similarity)
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
        stored = {} if self._projection is None else {PROJECTION + k: v for k, v in vars(self._projection).items()}
        return arrays_of(self.module) | stored

    def _set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        stored = {k.removeprefix(PROJECTION): v for k, v in arrays.items() if k.startswith(PROJECTION)}
        self._projection = Projection(**stored) if stored else None
        weights = {k: v for k, v in arrays.items() if not k.startswith(PROJECTION)}
        self._module = with_arrays(lambda: GraphAutoencoder(len(self.features.gene_names), self.config), weights)


def _projection(matrix: Matrix, features: Features, rng: _random.Rng) -> Projection:
    """Return the projection on the principal components of log-normalised expression."""
    return Projection.of(principal_components(matrix, features, np.arange(matrix.shape[0]), N_COMPONENTS, rng))
