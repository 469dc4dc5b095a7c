"""Models made of :class:`diffvae.nn.Autoencoder`: training, encoding, decoding, weights and diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import pandas as pd
import torch

from diffvae import _keys, _random, nn
from diffvae._core.fingerprint import fingerprint
from diffvae._core.io.backed import OnDisk, is_on_disk, open_store
from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae._core.runtime import torch_in_one_thread
from diffvae._core.validate import Number, Optional, Rule, Whole, check
from diffvae.model._adapt import adapt, reference_of
from diffvae.model._base import Model
from diffvae.model._batches import N_NEIGHBORS, Partners
from diffvae.model._config import AutoencoderConfig, default_epochs
from diffvae.model._covariates import Covariates
from diffvae.model._diagnosis import Diagnosis, diagnose, has_active_dimension
from diffvae.model._features import (
    Features,
    Matrix,
    about,
    dense,
    in_memory_only,
    layer_matrix,
    read_counts,
    read_features,
    require_unit_interval,
    split_rows,
)
from diffvae.model._likelihoods import LIKELIHOODS, Counts, Likelihood, log_sizes
from diffvae.model._objective import InfoVAEObjective, gene_weights
from diffvae.model._pca_start import (
    NeighborMean,
    neighbor_weights,
    partners_of_all,
    principal_components,
    start_at_components,
)
from diffvae.nn._mlp import arrays_of, with_arrays
from diffvae.train import Checkpoint, RowSource, Source, StreamSource, TrainingError, best_device, best_precision, fit
from diffvae.train._distributed import share

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.train._loop import OnEpoch

DECODE_BLOCK = 4096
"""Cells per forward pass outside the training; bounds the memory of activations."""
DIAGNOSED = 16_384
"""Cells that a diagnosis draws from those on disk."""
LEAST_STEPS, WATCHED = 100, 1000
"""Steps before a training may stop early, and about the number of cells in which a dimension must be active then."""
REFERENCE_NAME = "batches.reference"
"""Name of the array of latent means that a model with batches keeps."""
RULES: dict[str, Rule] = {
    "max_epochs": Optional(Whole(1)),
    "batch_size": Optional(Whole(2)),
    "patience": Whole(1),
    "lr": Optional(Number("(0, inf)")),
}


def source_of(matrix: Matrix, device: torch.device) -> Source:
    """Return the source of rows for a matrix in memory or on disk."""
    return StreamSource(matrix, device) if isinstance(matrix, BackedMatrix) else RowSource(matrix, device)


class NeuralModel(Model, abstract=True):
    """A model made of :class:`diffvae.nn.Autoencoder`; the subclasses fix its objective.

    Parameters
    ----------
    config
        Hyper-parameters.

    Examples
    --------
    >>> import diffvae as dv
    >>> isinstance(dv.model.DiffVAE(), dv.model.NeuralModel), isinstance(dv.model.PCA(), dv.model.NeuralModel)
    (True, False)
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.n_latent = config.n_latent
        self._module: nn.Autoencoder | None = None
        self._validation: np.ndarray | None = None
        self._split: str | None = None
        self._covariates: Covariates | None = None
        self._training_design: np.ndarray | None = None
        self._reference: np.ndarray | None = None

    def __repr__(self) -> str:
        state = f"trained on {self.features.n_cells} cells" if self.is_trained else "not trained"
        return f"{type(self).__name__}(n_latent={self.n_latent}, hidden={self.config.hidden}; {state})"

    @property
    def _likelihood(self) -> Likelihood:
        return LIKELIHOODS[self.config.likelihood].on_scale_of(self.features)

    @property
    def module(self) -> nn.Autoencoder:
        """The torch module, in evaluation mode."""
        if self._module is None:
            raise self._not_trained()
        return self._module

    def get_params(self) -> dict[str, Any]:
        """Return the hyper-parameters."""
        return asdict(self.config)

    def _build(self, n_genes: int, rng: _random.Rng, n_covariates: int = 0) -> nn.Autoencoder:
        c = self.config
        with _random.torch_seeded(rng, "weights"):
            return nn.Autoencoder(
                n_genes,
                c.hidden,
                c.n_latent,
                head=c.head,
                batch_norm=c.batch_norm,
                dropout=c.dropout,
                input_dropout=c.input_dropout,
                linear_skip=c.linear_skip,
                n_covariates=n_covariates,
                encode_covariates=c.encode_covariates,
                gene_variance=LIKELIHOODS[c.likelihood].gene_variance,
            )

    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _points(self, z: np.ndarray) -> np.ndarray:
        z = np.require(z, np.float32, ["C", "W"])
        if z.ndim != 2 or z.shape[1] != self.n_latent:
            raise ValueError(f"z has shape {z.shape}; it must be points x {self.n_latent} latent dimensions.")
        return z

    def _encode(self, matrix: Matrix, design: np.ndarray | None = None) -> np.ndarray:
        return self._posterior(matrix, design)[0]

    @torch_in_one_thread
    @torch.no_grad()
    def _posterior(self, matrix: Matrix, design: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        source = RowSource(matrix, self._device(), resident_limit=0)
        mean = np.zeros((matrix.shape[0], self.n_latent), np.float32)
        sd = np.zeros_like(mean)
        seen = self._seen(design, len(mean))
        for rows in source.blocks(DECODE_BLOCK):
            mu, logvar = self.module.encoder(source.rows(rows), covariates=None if seen is None else seen[rows])
            mean[rows] = mu.cpu().numpy()
            if self.config.noise != "none":
                sd[rows] = torch.exp(0.5 * logvar).cpu().numpy()
        return mean, sd

    def _covariates_of(self, design: np.ndarray | None, n: int) -> Callable[[np.ndarray], torch.Tensor | None]:
        """Return a function from numbers of cells to their covariates on the device."""
        seen = self._seen(design, n)
        return lambda rows: None if seen is None else seen[torch.from_numpy(rows).to(seen.device)]

    def _seen(self, design: np.ndarray | None, n: int) -> torch.Tensor | None:
        """Return the covariates of n cells on the device, average without a design; None if the model has none."""
        if self._covariates is None:
            return None
        return torch.from_numpy(self._covariates.average(n) if design is None else design).to(self._device())

    @torch_in_one_thread
    @torch.no_grad()
    def decode(self, z: np.ndarray, *, batch: Any = None) -> np.ndarray:
        """Return expected expression, on the scale of the training layer, for points of the latent space.

        Parameters
        ----------
        z
            Points x latent dimensions.
        batch
            The batch in which to express the points: the name of one, one name for each point, or the covariates of
            cells from :meth:`design`. None for an average batch. Only for a model trained with ``batch_key`` or
            ``covariates``.

        Returns
        -------
        Points x genes, float32. Under the Bernoulli likelihood this is the logistic function of the decoder's output
        (eq 11).
        """
        mean = self._likelihood.mean
        return self._decode(z, mean or (lambda output: output), self._design_of_batch(batch, len(z)))

    def _design_of_batch(self, batch: Any, n: int, own: np.ndarray | None = None) -> np.ndarray | None:
        if self._covariates is None or batch is None:
            return super()._design_of_batch(batch, n, own)
        return self._covariates.of_batch(batch, n, own)

    @property
    def columns(self) -> dict[str, Any]:
        """The arguments ``batch_key`` and ``covariates`` of the training; see :attr:`Model.columns`."""
        if self._covariates is None:
            return {}
        batch_key = self._covariates.batch_key
        return {"batch_key": batch_key, "covariates": [key for key in self._covariates.keys if key != batch_key]}

    def design(self, adata: AnnData | OnDisk | None = None) -> np.ndarray | None:
        """Return the covariates of cells, cells x covariates; see :meth:`Model.design`."""
        if self._covariates is None:
            return None
        if adata is not None:
            cells: Any = open_store(adata) if is_on_disk(adata) else adata
            return self._covariates.design(cells.obs)
        if self._training_design is None:
            self._matrix(None, 0)  # explains why the model has no cells
        return self._training_design

    def _decode(
        self, z: np.ndarray, mean: Callable[[torch.Tensor], torch.Tensor], design: np.ndarray | None = None
    ) -> np.ndarray:
        z, blocks = self._points(z), []
        seen = self._seen(design, len(z))
        for i in range(0, len(z), DECODE_BLOCK):
            points = torch.from_numpy(z[i : i + DECODE_BLOCK]).to(self._device())
            out = self.module.decoder(points, None if seen is None else seen[i : i + DECODE_BLOCK])
            blocks.append(mean(out).cpu().numpy())
        return np.concatenate(blocks) if blocks else np.zeros((0, len(self.gene_names)), np.float32)

    @torch_in_one_thread
    @torch.no_grad()
    def _draw_counts(
        self, z: np.ndarray, rng: np.random.Generator, design: np.ndarray | None = None
    ) -> np.ndarray | None:
        if not self._likelihood.counts:
            return None
        assert self.module.logvar_x is not None
        theta = np.exp(-self.module.logvar_x.cpu().numpy().astype(np.float64))
        rates = self._decode(z, torch.exp, design).astype(np.float64)
        return rng.negative_binomial(theta, theta / (theta + rates)).astype(np.float32)

    @torch_in_one_thread
    @torch.no_grad()
    def gene_weights(self) -> np.ndarray:
        """Return omega = W_0 W_1 W_2, the product of the decoder's weights: latent dimensions x genes."""
        return nn.weight_product(self.module.decoder).cpu().numpy()

    @torch_in_one_thread
    def gene_jacobian(self, z: np.ndarray, *, batch: Any = None) -> np.ndarray:
        """Return the Jacobian of :meth:`decode`, averaged over points z: latent dimensions x genes."""
        points = torch.from_numpy(self._points(z)).to(self._device())
        seen = self._seen(self._design_of_batch(batch, len(z)), len(z))
        return (
            nn.mean_jacobian(self.module.decoder, points, slope=self._likelihood.slope, covariates=seen).cpu().numpy()
        )

    def _draw_prior(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal((n, self.n_latent), dtype=np.float32)

    def _arrays(self) -> dict[str, np.ndarray]:
        reference = {} if self._reference is None else {REFERENCE_NAME: self._reference}
        return arrays_of(self.module) | reference

    def _state(self) -> dict[str, Any]:
        batches = {} if self._covariates is None else {"covariates": self._covariates.as_json()}
        return {"split": self._split, **batches}

    def _set_state(self, state: Mapping[str, Any]) -> None:
        self._split = state.get("split")
        self._covariates = Covariates.from_json(state["covariates"]) if "covariates" in state else None

    def _set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._reference = arrays.get(REFERENCE_NAME)
        if self._reference is not None and self._reference.shape[1:] != (self.n_latent,):
            raise ValueError(
                f"{REFERENCE_NAME} has the shape {self._reference.shape}; it must be cells x {self.n_latent}"
            )
        arrays = {name: array for name, array in arrays.items() if name != REFERENCE_NAME}
        width = 0 if self._covariates is None else self._covariates.width
        self._module = with_arrays(lambda: self._build(len(self.features.gene_names), 0, width), arrays)

    def train(
        self,
        adata: AnnData | OnDisk,
        *,
        layer: str | None = "unit",
        batch_key: str | None = None,
        covariates: Sequence[str] = (),
        max_epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        validation_size: float | None = None,
        early_stopping: bool | None = None,
        patience: int = 20,
        device: str = "auto",
        precision: str = "auto",
        rng: _random.Rng = 0,
        progress: bool = True,
        on_epoch: OnEpoch | None = None,
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: int | None = 10,
        resume: bool = False,
    ) -> Self:
        """Train on cells with Adam. A second call trains again from random weights.

        Parameters
        ----------
        adata
            Cells prepared by :func:`diffvae.pp.prepare`. A file of AnnData (``.h5ad``, ``.zarr``), a list of such files
            or a backed AnnData stays on disk: each epoch reads it in blocks, in random order and while the steps
            compute, and only the rows of a batch are made dense.
        layer
            Layer of the expression values; None for X.
        batch_key
            Column of ``obs`` with the batches (donors, runs, labs), whose effect is removed from the latent
            representation; numbers are taken as names. Of several files, ``"file"`` takes each as a batch.
        covariates
            Further columns of ``obs`` that encoder and decoder see. Text, categories and True/False are one number per
            level; other numbers are continuous.
        max_epochs
            Passes over the training cells. None for the paper's 100, or more where 100 epochs have fewer than
            ``min_steps`` steps (400 in the default preset).
        batch_size
            Largest number of cells per step, for each process where several share a training
            (:func:`diffvae.train.processes`); None for that of the constructor.
        lr
            Learning rate; None for that of the constructor.
        validation_size
            Share of the cells that is held out for validation. None for the split of ``pp.prepare``, which fitted the
            scaling on the training cells, or a fifth where there is none.
        early_stopping, patience
            Stop after ``patience`` epochs without improvement of the validation loss, and keep the best weights; not
            before 100 steps, and not while no dimension carries information, since the loss of few cells is level
            before the first one does. None for ``early_stopping`` of the constructor.
        device
            ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        precision
            ``"auto"``, ``"float32"`` or ``"bfloat16"``: type of the matrix products. Weights are always float32.
        rng
            Seed of the initial weights, the order of cells and the noise.
        progress
            Show a bar on a terminal.
        on_epoch
            Called with a :class:`diffvae.train.Epoch` (its number, losses, network and optimiser) at the end of each
            epoch. An exception that it raises ends the training and leaves the model as it was before.
        checkpoint
            File for the state of the training at the end of an epoch (safetensors and JSON): weights, moments,
            generators, history. On SIGINT (Ctrl-C) and SIGTERM the training stops at once, and the state at the end of
            the last complete epoch is written. The file is not removed when the training ends.
        checkpoint_every
            Number of epochs between two checkpoints; the last epoch is always written. None writes one only if the
            training is stopped.
        resume
            Continue from the file, if there is one. On the CPU the model is then bit for bit that of an uninterrupted
            training (if steps are large, with the same number of threads). A file of other cells or settings is
            refused. If False, an earlier file is replaced.

        Returns
        -------
        The model itself.

        Raises
        ------
        DataError
            If the layer is missing, not finite, or outside [0, 1] under the Bernoulli likelihood; if a column of
            batches or covariates is missing or has missing values, only one level, or a level of fewer than three
            cells; or if the checkpoint is of another training.
        TrainingError
            If the loss diverges. An untrained model then has the weights and history of the last epoch before the
            divergence (of the best epoch under early stopping). A trained model stays as it was.
        """
        check(RULES, max_epochs=max_epochs, batch_size=batch_size, patience=patience, lr=lr)
        file = Checkpoint.at(checkpoint, checkpoint_every, resume)
        cells: Any = open_store(adata) if is_on_disk(adata) else adata
        matrix = layer_matrix(cells, layer)
        if LIKELIHOODS[self.config.likelihood].unit_interval:
            require_unit_interval(matrix, layer)
        seen = Covariates.of(cells, batch_key, covariates)
        train_rows, validation_rows = split_rows(cells, validation_size, rng)
        features = read_features(cells, layer, matrix)
        likelihood = LIKELIHOODS[self.config.likelihood].on_scale_of(features)
        target = best_device(device)
        batch_size = batch_size or self.config.batch_size
        # the early stopping of the constructor needs validation cells
        stops = self.config.early_stopping and len(validation_rows) > 0 if early_stopping is None else early_stopping
        together = share()
        settings = (self.get_params(), max_epochs, batch_size, lr, stops, patience, precision)
        together.require_same((features.fingerprint, features.gene_names, train_rows.tolist(), settings))
        design = None if seen is None else seen.design(cells.obs)
        codes = None if seen is None or design is None else seen.codes(design)
        together.require_same(None if design is None else (seen, fingerprint(design)))
        module = self._build(matrix.shape[1], rng, 0 if seen is None else seen.width)
        reconstructed = read_counts(cells, features) if likelihood.counts else matrix
        if likelihood.initialise is not None:
            likelihood.initialise(module, reconstructed, train_rows)
        weights = gene_weights(self.config, features)
        objective = InfoVAEObjective(self.config, None if weights is None else weights.to(target), together.gather)
        if likelihood.counts:
            sizes = torch.from_numpy(log_sizes(reconstructed, matrix, features)).to(target)
            objective.target = Counts(RowSource(reconstructed, target), sizes)
        if design is not None:
            on_device = torch.from_numpy(design).to(target)
            objective.covariates = lambda rows: on_device[torch.from_numpy(rows).to(target)]
        self._start_at_pca(module, objective, matrix, features, likelihood, train_rows, codes, target, rng, progress)
        module = module.to(target)
        batches = {} if seen is None else {"batch_key": batch_key, "covariates": fingerprint(design)}
        source, watched = source_of(matrix, target), np.sort(train_rows)[:: max(1, len(train_rows) // WATCHED)]
        try:
            history = fit(
                module,
                source,
                objective,
                train_rows=train_rows,
                validation_rows=validation_rows,
                max_epochs=max_epochs or default_epochs(self.config, len(train_rows), together.size * batch_size),
                batch_size=batch_size,
                lr=self.config.lr if lr is None else lr,
                patience=patience if stops else None,
                precision=best_precision(precision, target),
                rng=rng,
                progress=progress,
                description=f"training {type(self).__name__}",
                on_epoch=on_epoch,
                share=together,
                least_steps=LEAST_STEPS,
                may_stop=partial(has_active_dimension, objective, module, source, watched),
                checkpoint=None
                if file is None
                else file.of({"model": type(self).__name__, **about(features), **asdict(self.config), **batches}),
            )
        except TrainingError as error:
            if not self.is_trained and len(error.history):
                self._set_trained(module, features, error.history, matrix, seen, design)
            raise
        self._set_trained(module, features, history, matrix, seen, design)
        self._reference = None
        if codes is not None and design is not None:
            self._reference = reference_of(self, matrix, design, train_rows, rng)
        self._validation = np.isin(np.arange(features.n_cells), validation_rows)
        self._keep_cells()
        self._split = fingerprint(self._validation)
        if isinstance(matrix, BackedMatrix):  # the file may be gone when cells are drawn
            self._measured_noise()
        return self

    def _start_at_pca(
        self,
        module: nn.Autoencoder,
        objective: InfoVAEObjective,
        matrix: Matrix,
        features: Features,
        likelihood: Likelihood,
        train_rows: np.ndarray,
        codes: np.ndarray | None,
        device: torch.device,
        rng: _random.Rng,
        progress: bool,
    ) -> None:
        """Start the linear maps at the components, average the targets over neighbours, and find partners of cells."""
        n_neighbors = 0 if likelihood.counts else self.config.target_neighbors
        with_codes = codes if self.config.batch_mmd_weight else None
        if not (self.config.linear_skip or n_neighbors or with_codes is not None):
            return
        components = principal_components(matrix, features, train_rows, self.n_latent, rng, codes)
        values = components.values
        if n_neighbors or with_codes is not None:
            weights = neighbor_weights(matrix, components, n_neighbors or N_NEIGHBORS, codes, progress=progress)
        if n_neighbors:
            means = NeighborMean(matrix, components, weights, device, codes, unit_interval=likelihood.unit_interval)
            objective.target, values = means, means.of_reference(components)
        if with_codes is not None:
            objective.partners = Partners(with_codes, partners_of_all(components, weights, with_codes), device)
        if self.config.linear_skip:
            start_at_components(module, components, dense(values), likelihood)

    def _set_trained(
        self,
        module: nn.Autoencoder,
        features: Features,
        history: pd.DataFrame,
        matrix: Matrix,
        covariates: Covariates | None,
        design: np.ndarray | None,
    ) -> None:
        """Store the results of a training."""
        self._module, self._features, self._history, self._training_matrix = module, features, history, matrix
        self._covariates, self._training_design = covariates, design
        self._noise = self._noise_cells = self._validation = None

    def adapt(self, adata: AnnData) -> Self:
        """Return a copy of the model that knows the batches of new cells; all other weights stay as they are.

        The difference of a new batch is measured between its cells and 2,000 training cells, of which the model keeps
        the latent means, wherever they are mutual nearest neighbours in the latent space. It becomes the weights of the
        batch in encoder and decoder. No gradient step is taken.

        Parameters
        ----------
        adata
            Cells in memory, raw or prepared, with the names of their batches in the column of ``obs`` of the training.
            Cells of known batches are not used.

        Returns
        -------
        The adapted model, which holds no cells.

        Raises
        ------
        DataError
            If no batch is new, if a new batch has fewer than three cells, or if batches are missing.
        ValueError
            If the model was trained without ``batch_key``.

        Examples
        --------
        >>> import diffvae as dv
        >>> adata = dv.datasets.simulate_differentiation(600, 200, n_batches=3)
        >>> third = adata.obs["batch"] == "batch_3"
        >>> old, new = adata[~third].copy(), adata[third].copy()
        >>> dv.pp.prepare(old)
        >>> model = dv.model.DiffVAE(n_latent=10).train(old, batch_key="batch", max_epochs=2, progress=False)
        >>> model.adapt(new).get_latent_representation(new).shape[1]
        10
        """
        if is_on_disk(adata):
            raise in_memory_only()
        self._measured_noise()  # the copy holds no cells
        return adapt(self, self._matrix(adata, max_missing=0.2), adata.obs)

    def diagnose(self, adata: AnnData | OnDisk | None = None, *, rng: _random.Rng = 0) -> Diagnosis:
        """Examine what the model has learnt, which dimensions carry it, and whether each term of the loss acts.

        All cells are examined, in time linear in their number; the held-out cells are also compared with PCA.

        Parameters
        ----------
        adata
            Cells on which to examine the model; None for the training cells. Of cells on disk 16,384 are drawn, and
            held-out cells are not scored. Of cells in memory they are scored if these are the training cells, unchanged
            and with the split of :func:`diffvae.pp.prepare` by which the model was trained.
        rng
            Seed of the batches and draws.

        Returns
        -------
        A diagnosis; print it for its messages.
        """
        matrix, design = self._matrix(adata, max_missing=0.2), self.design(adata)
        if isinstance(matrix, BackedMatrix):
            rows, sampled = matrix.sample(DIAGNOSED, _random.generator(rng, "diagnosed cells"))
            return diagnose(self, sampled, design=None if design is None else design[rows], rng=rng)
        validation = self._validation if adata is None else self._held_out_of(cast("AnnData", adata), matrix)
        return diagnose(self, matrix, validation, design, rng=rng)

    def _held_out_of(self, adata: AnnData, matrix: Matrix) -> np.ndarray | None:
        """Return which cells were held out; None unless they are those of the training, with its split."""
        if _keys.SPLIT not in adata.obs or fingerprint(matrix) != self.features.fingerprint:
            return None
        held_out = (adata.obs[_keys.SPLIT] == "validation").to_numpy()
        return held_out if fingerprint(held_out) == self._split else None
