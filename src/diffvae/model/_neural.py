"""A network behind the protocol, once it is trained: encode, decode, weights, and what is stored of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffvae import _random, nn
from diffvae._core.fingerprint import ACTIVE_VARIANCE
from diffvae._core.io.backed import OnDisk, is_on_disk, open_store
from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae._core.runtime import torch_in_one_thread
from diffvae._errors import DataError
from diffvae.model._base import Model
from diffvae.model._config import AutoencoderConfig, default_epochs
from diffvae.model._features import (
    Features,
    Matrix,
    about,
    gene_moments,
    layer_matrix,
    read_features,
    require_unit_interval,
    split_rows,
)
from diffvae.model._objective import InfoVAEObjective, gene_weights
from diffvae.nn._mlp import arrays_of, with_arrays
from diffvae.train import Checkpoint, RowSource, Source, StreamSource, TrainingError, best_device, best_precision, fit
from diffvae.train._distributed import share

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.train._loop import OnEpoch

DECODE_BLOCK = 4096
"""Cells per pass where nothing is learnt; bounds the memory of activations."""


class NetworkModel(Model, abstract=True):
    """What :class:`diffvae.nn.Autoencoder` gives a model, whatever it was trained for.

    Parameters
    ----------
    config
        Hyper-parameters.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.n_latent = config.n_latent
        self._module: nn.Autoencoder | None = None

    def __repr__(self) -> str:
        state = f"trained on {self.features.n_cells} cells" if self.is_trained else "not trained"
        return f"{type(self).__name__}(n_latent={self.n_latent}, hidden={self.config.hidden}; {state})"

    @property
    def module(self) -> nn.Autoencoder:
        """The torch module, in evaluation mode."""
        if self._module is None:
            raise self._not_trained()
        return self._module

    def get_params(self) -> dict[str, Any]:
        """Return the hyper-parameters."""
        return asdict(self.config)

    def _build(self, n_genes: int, rng: _random.Rng) -> nn.Autoencoder:
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
                gene_variance=c.likelihood == "gaussian",
            )

    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _points(self, z: np.ndarray) -> np.ndarray:
        z = np.require(z, np.float32, ["C", "W"])
        if z.ndim != 2 or z.shape[1] != self.n_latent:
            raise ValueError(f"z has shape {z.shape}; it must be points x {self.n_latent} latent dimensions.")
        return z

    @torch_in_one_thread
    @torch.no_grad()
    def _encode(self, matrix: Matrix) -> np.ndarray:
        source = RowSource(matrix, self._device(), resident_limit=0)
        blocks = [self.module.encoder(source.rows(b))[0].cpu().numpy() for b in source.blocks(DECODE_BLOCK)]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.n_latent), np.float32)

    @torch_in_one_thread
    @torch.no_grad()
    def decode(self, z: np.ndarray) -> np.ndarray:
        """Return expected expression, on the scale of the training layer, for points of the latent space.

        Parameters
        ----------
        z
            Points x latent dimensions.

        Returns
        -------
        Points x genes, float32. Under the Bernoulli likelihood the logistic function of the decoder's output (eq 11).
        """
        z = self._points(z)
        blocks = []
        for i in range(0, len(z), DECODE_BLOCK):
            out = self.module.decoder(torch.from_numpy(z[i : i + DECODE_BLOCK]).to(self._device()))
            blocks.append((torch.sigmoid(out) if self.config.likelihood == "bernoulli" else out).cpu().numpy())
        return np.concatenate(blocks) if blocks else np.zeros((0, len(self.gene_names)), np.float32)

    @torch_in_one_thread
    @torch.no_grad()
    def gene_weights(self) -> np.ndarray:
        """Return omega = W_0 W_1 W_2, the product of the decoder's weights: latent dimensions x genes."""
        return nn.weight_product(self.module.decoder).cpu().numpy()

    @torch_in_one_thread
    def gene_jacobian(self, z: np.ndarray) -> np.ndarray:
        """Return the Jacobian of :meth:`decode`, averaged over points z: latent dimensions x genes."""
        points = torch.from_numpy(self._points(z)).to(self._device())
        logistic = self.config.likelihood == "bernoulli"
        return nn.mean_jacobian(self.module.decoder, points, logistic=logistic).cpu().numpy()

    def _draw_prior(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal((n, self.n_latent), dtype=np.float32)

    def _arrays(self) -> dict[str, np.ndarray]:
        return arrays_of(self.module)

    def _set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._module = with_arrays(lambda: self._build(len(self.features.gene_names), 0), arrays)


N_BATCHES = 8
BATCH_SIZE = 128
N_NULL = 200
DUPLICATE_CORRELATION = 0.95
NEGLIGIBLE_SHARE = 0.01


@dataclass(frozen=True)
class Diagnosis:
    """What :meth:`NeuralModel.diagnose` found.

    Attributes
    ----------
    terms
        Per term of the objective: weight, value (nats per cell; MMD has no unit), share of the loss, share of the
        gradient norm at the encoder.
    mmd
        The MMD of a batch (``value``) beside its noise floor (``floor_mean``, ``floor_95``: what a posterior equal to
        the prior scores, drawn as the model draws), and whether the kernel sees anything: what independent draws from
        the prior score (``matched``) and a latent in one point (``collapsed``). Empty for a model without posterior.
    dimensions
        Per latent dimension: variance of the mean, mean posterior variance, KL in nats, active, duplicate_of.
    messages
        A sentence for each fault; empty if none was found.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.DiffVAE("code", n_latent=5).train(adata, max_epochs=2, progress=False)
    >>> model.diagnose().terms.index.tolist()
    ['nll', 'kl', 'mmd']
    """

    terms: pd.DataFrame
    mmd: dict[str, float]
    dimensions: pd.DataFrame
    messages: tuple[str, ...]

    @property
    def n_active(self) -> int:
        """Number of active dimensions."""
        return int(self.dimensions["active"].sum())

    def __str__(self) -> str:
        table = self.terms.to_string(float_format=lambda v: f"{v:.4g}")
        head = f"{self.n_active} of {len(self.dimensions)} latent dimensions are active.\n{table}"
        return "\n".join([head, *(f"- {m}" for m in self.messages or ("No fault found.",))])


@torch_in_one_thread
def diagnose(model: NeuralModel, matrix: Matrix, *, rng: _random.Rng = 0) -> Diagnosis:
    """Examine a trained model on cells; see :meth:`NeuralModel.diagnose`."""
    module = model.module
    if not matrix.shape[0]:
        raise DataError("There are no cells to examine the model on; give one at least.")
    source = RowSource(matrix, next(module.parameters()).device)
    weights = gene_weights(model.config, model.features)
    objective = InfoVAEObjective(model.config, None if weights is None else weights.to(source.device))
    order = _random.generator(rng, "diagnose").permutation(len(source))
    noise = _random.torch_generator(rng, "diagnose", device=source.device)
    size = min(BATCH_SIZE, len(source))
    batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)][:N_BATCHES]

    terms = _terms(module, objective, source, batches, noise)
    floor = _noise_floor(objective, model.n_latent, size, noise) if "mmd" in terms.index else {}
    if floor:
        floor["value"] = float(terms.loc["mmd", "value"])
    dimensions = _dimensions(module, source, has_posterior="kl" in terms.index)
    return Diagnosis(terms, floor, dimensions, tuple(_sentences(terms, floor, dimensions)))


def _terms(
    module: nn.Autoencoder,
    objective: InfoVAEObjective,
    source: RowSource,
    batches: list[np.ndarray],
    noise: torch.Generator,
) -> pd.DataFrame:
    c = objective.config
    encoder: list[Tensor] = list(module.encoder.parameters())
    weights = {"nll": 1.0, "kl": c.kl_weight, "mmd": c.mmd_weight}
    values: list[dict[str, float]] = []
    norms: list[dict[str, float]] = []
    for rows in batches:
        x = source.rows(rows)
        mu, logvar = (t.float() for t in module.encoder(x))
        z = objective.draw(mu, logvar, noise)
        computed = {"nll": objective.reconstruction(module, module.decoder(z), x)}
        if c.noise != "none":
            computed |= {"kl": objective.kl(mu, logvar), "mmd": objective.mmd(z, noise)}
        values.append({name: float(value.detach()) for name, value in computed.items()})
        norms.append({n: _gradient_norm(v, encoder, weights[n]) for n, v in computed.items()})
    terms = pd.DataFrame({"value": pd.DataFrame(values).mean()})
    terms.insert(0, "weight", [weights[name] for name in terms.index])
    weighted = (terms["weight"] * terms["value"]).abs()
    gradient = pd.DataFrame(norms).mean()
    terms["loss_share"] = weighted / weighted.sum()
    terms["gradient_share"] = gradient / max(gradient.sum(), np.finfo(float).tiny)  # of a dead encoder: all zero
    terms.index.name = "term"
    return terms


def _gradient_norm(value: Tensor, parameters: list[Tensor], weight: float) -> float:
    if weight == 0 or not value.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(weight * value, parameters, retain_graph=True, allow_unused=True)
    return float(torch.sqrt(sum((g.square().sum() for g in gradients if g is not None), torch.zeros(()))))


@torch.no_grad()
def _noise_floor(
    objective: InfoVAEObjective, n_latent: int, batch_size: int, noise: torch.Generator
) -> dict[str, float]:
    def score(z: Tensor) -> float:
        return float(objective.mmd(z, noise))

    zero = torch.zeros(batch_size, n_latent, device=noise.device)
    # the floor: each posterior equal to the prior, drawn in the model's own way (a shared draw has a high floor)
    floor = [score(objective.draw(zero, zero, noise)) for _ in range(N_NULL)]
    matched = [score(torch.randn(zero.shape, generator=noise, device=noise.device)) for _ in range(N_NULL)]
    return {
        "floor_mean": float(np.mean(floor)),
        "floor_95": float(np.quantile(floor, 0.95)),
        "matched": float(np.mean(matched)),
        "collapsed": float(np.mean([score(zero) for _ in range(10)])),
    }


@torch.no_grad()
def _dimensions(module: nn.Autoencoder, source: RowSource, *, has_posterior: bool) -> pd.DataFrame:
    parts = [module.encoder(source.rows(rows)) for rows in source.blocks()]
    mu = torch.cat([p[0] for p in parts]).double().cpu().numpy()
    variance = mu.var(axis=0)
    frame = pd.DataFrame({"variance": variance}, index=pd.RangeIndex(mu.shape[1], name="dimension"))
    threshold = ACTIVE_VARIANCE
    if has_posterior:
        logvar = torch.cat([p[1] for p in parts]).double().cpu().numpy()
        frame["posterior_variance"] = np.exp(logvar).mean(axis=0)
        frame["kl"] = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).mean(axis=0)
    else:  # without a prior the scale of the latent is free, so activity is measured against its own
        threshold *= variance.mean()
    frame.attrs["threshold"] = threshold
    frame["active"] = variance > threshold
    frame["duplicate_of"] = _duplicates(mu, frame["active"].to_numpy())
    return frame


def _duplicates(mu: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Return for each dimension the first earlier active one that says the same, or -1."""
    columns = np.flatnonzero(active)
    result = np.full(mu.shape[1], -1)
    if len(columns) > 1:
        same = np.abs(np.corrcoef(mu[:, columns].T)) > DUPLICATE_CORRELATION
        for position in range(1, len(columns)):
            earlier = np.flatnonzero(same[position, :position])
            if len(earlier):
                result[columns[position]] = columns[earlier[0]]
    return result


def _sentences(terms: pd.DataFrame, floor: dict[str, float], dimensions: pd.DataFrame) -> list[str]:
    found = []
    if floor and terms.loc["mmd", "weight"] > 0:
        share, of_loss = terms.loc["mmd", "gradient_share"], terms.loc["mmd", "loss_share"]
        blind = floor["collapsed"] <= 20 * max(abs(floor["matched"]), 1e-12)
        at_floor = floor["value"] <= floor["floor_95"]
        if share < NEGLIGIBLE_SHARE:
            where = "is at its noise floor and contributes" if at_floor else "contributes"
            found.append(
                f"The MMD term {where} {of_loss:.1%} of the loss and {share:.1%} of the gradient: it "
                "regularises nothing. Raise mmd_weight, or choose a kernel that sees collapse (mmd_kernel='imq')."
            )
        if blind:
            found.append(
                f"The kernel is blind: a collapsed latent scores {floor['collapsed']:.2g} and a matched one "
                f"{floor['matched']:.2g}."
            )
    if "kl" in terms.index and terms.loc["kl", "weight"] > 0 and terms.loc["kl", "gradient_share"] < NEGLIGIBLE_SHARE:
        found.append(f"The KL term contributes {terms.loc['kl', 'gradient_share']:.1%} of the gradient.")
    n, n_active = len(dimensions), int(dimensions["active"].sum())
    if n_active < n:
        dead, threshold = dimensions.index[~dimensions["active"]], dimensions.attrs["threshold"]
        listed = ", ".join(map(str, dead[:10])) + (", ..." if len(dead) > 10 else "")
        found.append(f"{n - n_active} of {n} latent dimensions are dead (variance below {threshold:.2g}): {listed}.")
    duplicates = dimensions.index[dimensions["duplicate_of"] >= 0]
    if len(duplicates):
        pairs = ", ".join(f"{d} = {dimensions.loc[d, 'duplicate_of']}" for d in duplicates[:5])
        found.append(f"{len(duplicates)} latent dimensions repeat another (|r| > {DUPLICATE_CORRELATION}): {pairs}.")
    if "posterior_variance" in dimensions and (dimensions["posterior_variance"] < 1e-3).all():
        found.append(
            "The posterior variance has vanished in every dimension: the model is a plain autoencoder; give kl_weight."
        )
    return found


DIAGNOSED = 16_384
"""Cells on disk that a diagnosis looks at."""


def source_of(matrix: Matrix, device: torch.device) -> Source:
    """Return what hands rows of a matrix, in memory or on disk, to the training."""
    return StreamSource(matrix, device) if isinstance(matrix, BackedMatrix) else RowSource(matrix, device)


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
        matrix = self._matrix(adata, max_missing=0.2)
        if isinstance(matrix, BackedMatrix):
            matrix = matrix.sample(DIAGNOSED, _random.generator(rng, "diagnosed cells"))
        return diagnose(self, matrix, rng=rng)
