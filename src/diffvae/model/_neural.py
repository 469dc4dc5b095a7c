"""An autoencoder behind the protocol, and its training: what DiffVAE, VAE and the plain autoencoder share."""

from __future__ import annotations

from dataclasses import asdict
from os import PathLike
from typing import TYPE_CHECKING, Self

import pandas as pd
import torch

from diffvae import _random, nn
from diffvae._rows import Rows
from diffvae._store import OnDisk, is_on_disk, open_store
from diffvae.model._config import default_epochs
from diffvae.model._input import (
    Features,
    Matrix,
    about,
    gene_moments,
    layer_matrix,
    read_features,
    require_unit_interval,
    split_rows,
)
from diffvae.model._network import NetworkModel
from diffvae.model._objective import InfoVAEObjective, gene_weights
from diffvae.train import Checkpoint, RowSource, Source, StreamSource, TrainingError, best_device, best_precision, fit
from diffvae.train._distributed import share

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model._diagnose import Diagnosis
    from diffvae.train._loop import OnEpoch

DIAGNOSED = 16_384
"""Cells on disk that a diagnosis looks at."""


def source_of(matrix: Matrix, device: torch.device) -> Source:
    """Return what hands rows of a matrix, in memory or on disk, to the training."""
    return StreamSource(matrix, device) if isinstance(matrix, Rows) else RowSource(matrix, device)


class NeuralModel(NetworkModel, abstract=True):
    """An autoencoder made of :class:`diffvae.nn.Autoencoder`; the subclasses fix its objective.

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

    def train(
        self,
        adata: AnnData | OnDisk,
        *,
        layer: str | None = "unit",
        max_epochs: int | None = None,
        batch_size: int = 128,
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
        """Learn from cells, with Adam. A second call starts anew.

        Parameters
        ----------
        adata
            Cells that went through :func:`diffvae.pp.prepare`. A file of AnnData (``.h5ad``, ``.zarr``), a list of such
            files or an AnnData that is backed by one stays on disk: an epoch reads it in blocks, in random order and
            while the steps compute, and makes the rows of a batch dense only.
        layer
            Where the expression values are; None for X.
        max_epochs
            Passes over the training cells. None for the paper's 100, or as many as make ``min_steps`` steps (1,000 in
            the default preset) where there are so few cells that 100 would leave the model half trained.
        batch_size
            Cells per step, at most; of each process where several share a training (:func:`diffvae.train.processes`).
        lr
            Learning rate; None for the preset's.
        validation_size
            Share of the cells that is watched and not learnt from. None for the split of ``pp.prepare``, on whose
            training cells the scaling was fitted, or a fifth where there is none.
        early_stopping, patience
            Stop after ``patience`` epochs in which the validation loss did not improve, and keep the best weights. None
            for the preset's.
        device
            ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        precision
            ``"auto"``, ``"float32"`` or ``"bfloat16"``: type of the matrix products. Weights are float32 always.
        rng
            Seed of the initial weights, of the order of cells and of the noise.
        progress
            Show a bar on a terminal.
        on_epoch
            Called with a :class:`diffvae.train.Epoch` (its number, losses, network and optimiser) at the end of each
            epoch. What it raises ends the training, and the model is what it was before.
        checkpoint
            File that keeps the training at the end of an epoch (safetensors and JSON): weights, moments, generators,
            history. On SIGINT (Ctrl-C) and SIGTERM the training stops at once, and the file gets the state at the end
            of the last complete epoch. The file is not removed when the training ends.
        checkpoint_every
            Number of epochs between two checkpoints; the last epoch is always written. None writes one only if the
            training is stopped.
        resume
            Continue from the file, if there is one: on the CPU the model is bit for bit that of an uninterrupted
            training (if steps are large, with the same number of threads). A file of other cells or settings is
            refused. Without it an earlier file is replaced.

        Returns
        -------
        The model itself.

        Raises
        ------
        DataError
            If the layer is missing, not finite, or outside [0, 1] under the Bernoulli likelihood; or if the checkpoint
            is of another training.
        TrainingError
            If the loss diverges. A model that was not trained before then has the weights and the history of the last
            epoch that was kept while all was well (the best one under early stopping); one that was stays as it was.
        """
        for name, value in (
            ("max_epochs", 1 if max_epochs is None else max_epochs),
            ("batch_size", batch_size),
            ("patience", patience),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        if batch_size < 2:
            raise ValueError("batch_size is 1; batch normalisation and MMD need two cells at least.")
        if lr is not None and not 0 < lr < float("inf"):
            raise ValueError(f"lr is {lr}; the learning rate must be a positive number.")
        file = Checkpoint.at(checkpoint, checkpoint_every, resume)
        cells = open_store(adata) if is_on_disk(adata) else adata
        matrix = layer_matrix(cells, layer)
        if self.config.likelihood == "bernoulli":
            require_unit_interval(matrix, layer)
        train_rows, validation_rows = split_rows(cells, validation_size, rng)
        features = read_features(cells, layer, matrix)
        target = best_device(device)
        weights = gene_weights(self.config, features)
        weights = None if weights is None else weights.to(target)
        # of itself it stops only where there are cells to see by that it is time
        stops = self.config.early_stopping and len(validation_rows) > 0 if early_stopping is None else early_stopping
        together = share()
        settings = (self.get_params(), max_epochs, batch_size, lr, stops, patience, precision)
        together.require_same((features.fingerprint, features.gene_names, train_rows.tolist(), settings))
        module = self._build(matrix.shape[1], rng)
        if module.logvar_x is not None:  # start at each gene's own Gaussian: Adam's steps are too small to walk there
            mean, logvar = map(torch.from_numpy, gene_moments(matrix, train_rows))
            module.logvar_x.data = logvar
            module.decoder.linears[-1].bias.data = mean
            module.decoder.linears[-1].weight.data *= torch.exp(0.5 * logvar)[:, None]
        module = module.to(target)
        try:
            history = fit(
                module,
                source_of(matrix, target),
                InfoVAEObjective(self.config, weights, together.gather),
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
                checkpoint=None
                if file is None
                else file.of({"model": type(self).__name__, **about(features), **asdict(self.config)}),
            )
        except TrainingError as error:
            if not self.is_trained and len(error.history):
                self._become(module, features, error.history, matrix)
            raise
        self._become(module, features, history, matrix)
        return self

    def _become(self, module: nn.Autoencoder, features: Features, history: pd.DataFrame, matrix: Matrix) -> None:
        """Take over what a training has made."""
        self._module, self._features, self._history, self._training_matrix = module, features, history, matrix

    def diagnose(self, adata: AnnData | OnDisk | None = None, *, rng: _random.Rng = 0) -> Diagnosis:
        """Examine whether each term of the objective does something and each dimension carries something.

        Parameters
        ----------
        adata
            Cells to examine it on; None for those of the training. Of cells on disk about 16,000 are drawn.
        rng
            Seed of the batches and draws.

        Returns
        -------
        Diagnosis; ``print`` it for the sentences.
        """
        from diffvae.model._diagnose import diagnose

        matrix = self._matrix(adata, max_missing=0.2)
        if isinstance(matrix, Rows):
            matrix = matrix.sample(DIAGNOSED, _random.generator(rng, "diagnosed cells"))
        return diagnose(self, matrix, rng=rng)
