"""Graph-DiffVAE: a variational autoencoder of the links between cells."""

from __future__ import annotations

from dataclasses import asdict
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

from diffvae import _keys, _random
from diffvae._adata import graph as graph_in
from diffvae._seeds import fingerprint
from diffvae._threads import for_steps
from diffvae.metrics import link_auc
from diffvae.model._graph_batches import BATCH_CELLS, EXACT_LIMIT, PartedGraph, WholeGraph
from diffvae.model._graph_config import graph_config
from diffvae.model._graph_objective import GraphAutoencoder, GraphObjective
from diffvae.model._graph_predict import LinkPredictor
from diffvae.model._held_out import HeldOut, encode
from diffvae.model._input import about, layer_matrix, read_features, require_unit_interval
from diffvae.train import Checkpoint, RowSource, best_device, optimise

if TYPE_CHECKING:
    from anndata import AnnData


class GraphDiffVAE(LinkPredictor):
    r"""Graph-DiffVAE (eqs 14-22): from expression and a graph of cells to the links that the graph should have.

    Graph convolutions encode each cell with its neighbours, the Graphite decoder refines the latent places on the
    graph, and two cells are linked with probability

    .. math:: p(A_{ij} = 1) = \sigma(z^{*\top}_i z^*_j)

    Every argument that is None is taken from the preset.

    Parameters
    ----------
    preset
        ``"default"``: what we would defend today. ``"paper"``: the equations as printed, the plain Bernoulli likelihood
        among them. ``"code"``: what the released code did (categorical loss over all pairs, graph not normalised, no
        self-loops); its graph was directed and had k = 2, ours is made by :func:`diffvae.pp.cell_graph`, undirected.
    n_latent
        Latent dimensions (50).
    hidden
        Width of the hidden convolutions (512).
    conv
        Convolutions of the encoder: ``"gcn"``, ``"gat"`` (see :meth:`attention`) or ``"sage"``.
    decoder
        ``"graphite"``, or ``"inner"`` for the plain inner product.
    kl_weight
        Of the KL term; 1 is eq 22.
    kl_warmup
        Share of the epochs over which the KL term grows from zero to its weight.
    link_loss
        ``"bernoulli"`` or ``"categorical"``.
    positive_weight
        Weight of a linked pair; None balances linked and unlinked pairs.
    joint_weight
        More than 0 adds the expression likelihood of DiffVAE from the same latent, per gene.
    normalize, self_loops
        Of the adjacency matrix.
    dropout
        In the encoder.
    lr, max_epochs
        Adam's learning rate and the passes over the graph, unless :meth:`train` is given others.

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
        conv: str | None = None,
        decoder: str | None = None,
        kl_weight: float | None = None,
        kl_warmup: float | None = None,
        link_loss: str | None = None,
        positive_weight: float | None = None,
        joint_weight: float | None = None,
        normalize: bool | None = None,
        self_loops: bool | None = None,
        dropout: float | None = None,
        lr: float | None = None,
        max_epochs: int | None = None,
    ) -> None:
        overrides = {k: v for k, v in locals().items() if k not in ("self", "preset", "__class__")}
        super().__init__(graph_config(preset, overrides))
        self.preset = preset
        self._held_out: HeldOut | None = None

    def __repr__(self) -> str:
        state = f"trained on {self.features.n_cells} cells" if self.is_trained else "not trained"
        c = self.config
        return (
            f"GraphDiffVAE(n_latent={c.n_latent}, hidden={c.hidden}, conv={c.conv!r}, decoder={c.decoder!r}; {state})"
        )

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
        """Learn from cells and a graph, with Adam. A second call starts anew.

        Parameters
        ----------
        adata
            Cells with a graph, from :func:`diffvae.pp.cell_graph` say.
        graph_key
            Where it is in ``obsp``. It is taken as undirected and unweighted.
        layer
            Where the expression values are; None for X.
        max_epochs, lr
            None for those of the constructor.
        validation_size
            Share of the edges that is hidden from the training: validation AUC and average precision are of these, and
            probabilities and threshold are calibrated on them. The validation loss is the balanced Bernoulli loss,
            whatever ``link_loss`` is. 0 hides none, and nothing is calibrated.
        validate_every
            Epochs from one look at the hidden edges to the next, each of which costs a third of an epoch; in between
            the history has NaN. With early stopping every epoch is looked at.
        early_stopping, patience
            Stop after ``patience`` epochs in which the validation loss did not improve, and keep the best weights.
        batch_size
            Cells per step. None for all of them up to 20,000 (every step sees all pairs, exactly, in blocks; no N x N
            matrix is held) and batches of 8,192 beyond; :attr:`scheme` says which.
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
            If graph or layer are missing or can't be used.
        TrainingError
            If the loss diverges.
        """
        c = self.config
        epochs, rate = max_epochs if max_epochs is not None else c.max_epochs, c.lr if lr is None else lr
        for name, value in (("max_epochs", epochs), ("patience", patience), ("validate_every", validate_every)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        if batch_size is not None and batch_size < 8:
            raise ValueError(f"batch_size is {batch_size}; give 8 cells at least, or None.")
        if not 0 < rate < float("inf"):
            raise ValueError(f"lr is {rate}; the learning rate must be a positive number.")
        if not 0 <= validation_size < 1:
            raise ValueError(f"validation_size is {validation_size}; it is a share of the edges, from 0 to below 1.")
        file = Checkpoint.at(checkpoint, checkpoint_every, resume)
        graph = graph_in(adata, graph_key)
        matrix = layer_matrix(adata, layer)
        if c.joint_weight:
            require_unit_interval(matrix, layer)
        features = read_features(adata, layer, matrix)
        held_out = HeldOut(graph, validation_size, rng)
        target = best_device(device)
        with _random.torch_seeded(rng, "graph weights"):
            module = GraphAutoencoder(matrix.shape[1], c).to(target)
        source = RowSource(matrix, target)
        known = self._adjacency(held_out.known)
        n = adata.n_obs
        size = batch_size or (n if n <= EXACT_LIMIT else BATCH_CELLS)
        batches: WholeGraph | PartedGraph = (
            WholeGraph(source, known, held_out.known_edges)
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

        def of_epoch(number: int) -> Any:
            nonlocal epoch
            epoch = number
            return ((batch, len(batch.x)) for batch in batches.epoch(order))

        def watch() -> dict[str, float]:
            due = early_stopping or epoch % validate_every == 0 or epoch in (1, epochs)
            return held_out.scores(encode(module, source, known)[1]) if due and held_out else {}

        with for_steps(size, module):
            history = optimise(
                module,
                of_epoch,
                lambda batch: objective(
                    module, batch, noise, warmup=min(1.0, epoch / (c.kl_warmup * epochs)) if c.kl_warmup else 1.0
                ),
                watch,
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
        self.calibration = held_out.calibrate(encode(module, source, known)[1], rng) if held_out else None
        self._module, self._features, self._history = module, features, history
        self._training_matrix, self._graph, self._places = matrix, graph, None
        self.graph_key, self.scheme, self._held_out = graph_key, str(batches), held_out
        return self

    def baseline_auc(self) -> float:
        """Return the AUC of Pearson's correlation on the hidden edges: what the validation AUC stands beside."""
        if not self._held_out:
            raise ValueError(
                "No edge was hidden from this model's training; train it here with validation_size above 0."
            )
        return link_auc(*self._held_out.pearson(self._training_matrix))
