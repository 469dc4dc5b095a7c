"""Diagnosis of a trained autoencoder: does each term of the objective act, and does each dimension carry anything?"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffvae import _random, nn
from diffvae._core.information import MIN_NATS, alive_dimensions, informative, nats
from diffvae._core.runtime import torch_in_one_thread
from diffvae._errors import DataError
from diffvae.model._config import AutoencoderConfig
from diffvae.model._features import Features, Matrix, dense
from diffvae.model._objective import InfoVAEObjective, gene_weights
from diffvae.train import RowSource
from diffvae.train._data import Source

N_BATCHES, BATCH_SIZE = 8, 128
N_NULL = 200
"""Batches from the prior by which the noise floor of the MMD is measured."""
CORRELATED, DUPLICATE = 0.2, 0.8
"""Mean |r| of dimensions that are named as correlated, and |r| of two that are named as duplicates."""
NEGLIGIBLE_SHARE = 0.01
"""Share of the gradient below which a term has no effect."""
FAR_FROM_PRIOR = 0.1
"""Share of the way from a perfect match to a single point, by MMD."""
PCA_CELLS = 5000
"""Most cells of either split on which PCA is fitted and reconstructions are scored."""
NOTHING_LEARNT, HALF = 0.02, 0.5
"""Held-out R^2 of a model that has learnt nothing, and the share of PCA's below which it is named."""
LATE = 0.8
"""Share of the epochs after which a best epoch counts as late: the training had not ended."""
FIRST_EPOCHS, LATER_EPOCHS = 3, 5
"""A training whose best epoch is among the first few, with at least this many after it, hardly improved."""
LOWER_KL = "lower kl_weight"
WIDTH = 96


@dataclass(frozen=True)
class Diagnosis:
    """Result of :meth:`NeuralModel.diagnose`.

    Attributes
    ----------
    terms
        For each term of the objective: weight, value (nats per cell; MMD and covariance have no unit), share of the
        loss, and share of the gradient norm at the encoder; means over at most 8 batches of 128 cells. ``nll`` is that
        of the cells themselves, not of the means of neighbours, and with ``likelihood="nb"`` that of their normalised
        counts.
    mmd
        MMD of the posterior (``value``, mean over batches of all cells); mean and 95 % quantile of the same mean for a
        posterior equal to the prior (``floor_mean``, ``floor_95``; noise drawn as in the model), its mean for
        independent draws from the prior (``matched``), and its mean for a latent that is a single point
        (``collapsed``). Empty for a model without posterior.
    dimensions
        For each latent dimension: variance of the posterior mean, mean posterior variance, its share of the KL term
        (``kl``), what it carries (``nats``), ``active``, and ``duplicate_of`` (-1: of none). Active dimensions carry
        more than 0.1 nat: half the log of 1 + variance of the posterior mean / mean posterior variance. Without a
        posterior, their variance exceeds a hundredth of the mean.
    correlation
        Absolute correlation of the posterior means of two active dimensions: ``mean``, ``largest`` and ``chance``, the
        mean of independent dimensions of as many cells. Empty with fewer than two active dimensions.
    held_out
        Validation cells, at the posterior mean, on the scale of log-normalised expression where the scaling is known:
        ``r2`` as in :func:`diffvae.metrics.reconstruction_r2`, ``r2_pca`` of PCA with as many dimensions fitted on the
        training cells, and ``n_cells``; of either split at most 5,000 cells. Empty where the validation cells are not
        known, and with ``likelihood="nb"``: the log of an expected count, which such a model decodes, is not the
        expected log that PCA predicts.
    training
        ``epochs``, and ``best_epoch`` by the loss of the validation cells; empty without it.
    messages
        One sentence for each problem: what is wrong, by which figure, and what helps.

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
    correlation: dict[str, float]
    held_out: dict[str, float]
    training: dict[str, int]
    messages: tuple[str, ...]

    @property
    def n_active(self) -> int:
        """Number of active dimensions."""
        return int(self.dimensions["active"].sum())

    def summary(self) -> dict[str, Any]:
        """Return the figures and the messages, as ``summary.json`` of a run has them."""
        figures = {name: getattr(self, name) for name in ("mmd", "correlation", "held_out", "training")}
        return {"n_active": self.n_active, **figures, "messages": list(self.messages)}

    def __str__(self) -> str:
        are = "are active"
        if "kl" in self.dimensions:
            are = f"carry more than {MIN_NATS} nat ({self.dimensions['nats'].sum():.3g} nats in all)"
        lines = [f"{self.n_active} of {len(self.dimensions)} latent dimensions {are}."]
        if c := self.correlation:
            lines.append(
                f"Their correlation: mean |r| {c['mean']:.2f} (chance {c['chance']:.2f}), largest {c['largest']:.2f}."
            )
        if h := self.held_out:
            lines.append(
                f"R^2 of {h['n_cells']:,} held-out cells: {h['r2']:.3f}; of PCA with as many dimensions: "
                f"{h['r2_pca']:.3f}."
            )
        if m := self.mmd:
            lines.append(
                f"MMD from the prior: {m['value']:.2g}; draws from the prior: up to {m['floor_95']:.2g}; a single "
                f"point: {m['collapsed']:.2g}."
            )
        if e := self.training:
            lines.append(f"The validation loss was lowest in epoch {e['best_epoch']} of {e['epochs']}.")
        lines += self.terms.to_string(float_format=lambda v: f"{v:.4g}").splitlines()
        for message in self.messages or ("No problem found.",):
            lines += textwrap.wrap(message, WIDTH, initial_indent="- ", subsequent_indent="  ")
        return "\n".join(lines)


@torch_in_one_thread
def diagnose(
    model: Any,
    matrix: Matrix,
    validation: np.ndarray | None = None,
    design: np.ndarray | None = None,
    *,
    rng: _random.Rng = 0,
) -> Diagnosis:
    """Examine a trained model on cells with covariates ``design``; ``validation`` marks those held out.

    See :meth:`NeuralModel.diagnose`.
    """
    module = model.module
    if not matrix.shape[0]:
        raise DataError("There are no cells on which to examine the model; give at least one.")
    source = RowSource(matrix, next(module.parameters()).device)
    weights = gene_weights(model.config, model.features)
    objective = InfoVAEObjective(model.config, None if weights is None else weights.to(source.device))
    if model._likelihood.counts:
        objective.target = cast(Any, _NormalisedCounts(model.features, source.device))
    objective.covariates = model._covariates_of(design, len(source))
    order = _random.generator(rng, "diagnose").permutation(len(source))
    noise = _random.torch_generator(rng, "diagnose", device=source.device)
    size = min(BATCH_SIZE, len(source))
    batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]

    terms = _terms(module, objective, source, batches[:N_BATCHES], noise)
    mu, logvar = _posterior(objective, module, source)
    mmd = _mmd(objective, mu, logvar, batches, noise) if "mmd" in terms.index else {}
    means = mu.double().cpu().numpy()
    dimensions = what_dimensions_carry(means, logvar.double().cpu().numpy() if "kl" in terms.index else None)
    correlation = _correlate(means, dimensions)
    scored = validation is not None and not model._likelihood.counts
    held_out = _held_out(model, matrix, means, cast(np.ndarray, validation), design, rng) if scored else {}
    training = _training(model.history)
    messages = _messages(model.config, terms, mmd, dimensions, correlation, held_out, training)
    return Diagnosis(terms, mmd, dimensions, correlation, held_out, training, tuple(messages))


class _NormalisedCounts:
    """Normalised expression in place of counts, of which the model keeps none, with the same library size for all."""

    def __init__(self, features: Features, device: torch.device) -> None:
        low, high = np.asarray(features.minimum, np.float32), np.asarray(features.maximum, np.float32)
        self.low, self.scale = (torch.from_numpy(v).to(device) for v in (low, high - low))

    def __call__(self, rows: np.ndarray, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values of cells on the linear scale (cells x genes) and log sizes of 0 (cells x 1)."""
        return torch.expm1(x * self.scale + self.low).clamp(min=0), x.new_zeros((len(x), 1))


def _terms(
    module: nn.Autoencoder,
    objective: InfoVAEObjective,
    source: RowSource,
    batches: list[np.ndarray],
    noise: torch.Generator,
) -> pd.DataFrame:
    """Return the table of the terms, means over the batches."""
    encoder: list[Tensor] = list(module.encoder.parameters())
    values: list[dict[str, float]] = []
    norms: list[dict[str, float]] = []
    for rows in batches:
        computed = objective(module, source.rows(rows), rows, noise)
        del computed["loss"]
        weights = {name: 1.0 if name == "nll" else getattr(objective.config, f"{name}_weight") for name in computed}
        values.append({name: float(value.detach()) for name, value in computed.items()})
        norms.append({n: _gradient_norm(v, encoder, weights[n]) for n, v in computed.items()})
    terms = pd.DataFrame({"value": pd.DataFrame(values).mean()})
    terms.insert(0, "weight", [weights[name] for name in terms.index])
    weighted = (terms["weight"] * terms["value"]).abs()
    gradient = pd.DataFrame(norms).mean()
    terms["loss_share"] = weighted / weighted.sum()
    terms["gradient_share"] = gradient / max(gradient.sum(), np.finfo(float).tiny)  # all zero for a dead encoder
    terms.index.name = "term"
    return terms


def _gradient_norm(value: Tensor, parameters: list[Tensor], weight: float) -> float:
    if weight == 0 or not value.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(weight * value, parameters, retain_graph=True, allow_unused=True)
    return float(torch.sqrt(sum((g.square().sum() for g in gradients if g is not None), torch.zeros(()))))


@torch.no_grad()
def _posterior(objective: InfoVAEObjective, module: nn.Autoencoder, source: RowSource) -> tuple[Tensor, Tensor]:
    """Return mean and log variance of the posterior of all cells."""
    parts = [module.encoder(source.rows(rows), None, objective.covariates(rows)) for rows in source.blocks()]
    return torch.cat([p[0] for p in parts]).float(), torch.cat([p[1] for p in parts]).float()


@torch.no_grad()
def _mmd(
    objective: InfoVAEObjective, mu: Tensor, logvar: Tensor, batches: list[np.ndarray], noise: torch.Generator
) -> dict[str, float]:
    """Return the MMD, as mean over batches of all cells, and what draws from the prior give."""

    def score(z: Tensor) -> float:
        return float(objective.mmd(z, noise))

    zero = torch.zeros(len(batches[0]), mu.shape[1], device=noise.device)
    numbers = [torch.from_numpy(rows).to(mu.device) for rows in batches]
    value = np.mean([score(objective.draw(mu[rows], logvar[rows], noise)) for rows in numbers])
    # the noise is drawn as in the model: noise shared by a batch has a high floor
    floor = np.array([score(objective.draw(zero, zero, noise)) for _ in range(N_NULL)])
    matched = [score(torch.randn(zero.shape, generator=noise, device=noise.device)) for _ in range(N_NULL)]
    # the mean over many batches varies less than a single one
    spread = (np.quantile(floor, 0.95) - floor.mean()) / np.sqrt(len(batches))
    return {
        "value": float(value),
        "floor_mean": float(floor.mean()),
        "floor_95": float(floor.mean() + spread),
        "matched": float(np.mean(matched)),
        "collapsed": float(np.mean([score(zero) for _ in range(10)])),
    }


@torch.no_grad()
def has_active_dimension(objective: InfoVAEObjective, module: nn.Autoencoder, source: Source, rows: np.ndarray) -> bool:
    """Return whether a dimension carries information in some cells; always, where the model has no posterior."""
    if objective.config.noise == "none":
        return True
    mean, logvar = module.encoder(source.rows(rows), None, objective.covariates(rows))[:2]
    return bool(informative(mean.double().cpu().numpy(), np.exp(0.5 * logvar.double().cpu().numpy())).any())


def what_dimensions_carry(mu: np.ndarray, logvar: np.ndarray | None) -> pd.DataFrame:
    """Return what each dimension carries; ``logvar`` is None without a posterior."""
    frame = pd.DataFrame({"variance": mu.var(axis=0)}, index=pd.RangeIndex(mu.shape[1], name="dimension"))
    if logvar is None:  # no prior fixes the scale of the latent, so the threshold is relative
        frame["active"] = alive_dimensions(mu, prior=False)
    else:
        frame["posterior_variance"] = np.exp(logvar).mean(axis=0)
        frame["kl"] = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).mean(axis=0)
        sd = np.exp(0.5 * logvar)
        frame["nats"] = nats(mu, sd)
        frame["active"] = informative(mu, sd)
    frame["duplicate_of"] = -1
    return frame


def _correlate(mu: np.ndarray, dimensions: pd.DataFrame) -> dict[str, float]:
    """Return the correlations of active dimensions, and write into ``duplicate_of`` the first earlier duplicate."""
    columns = np.flatnonzero(dimensions["active"])
    if len(columns) < 2 or len(mu) < 3:
        return {}
    r = np.abs(np.corrcoef(mu[:, columns].T))
    pairs = np.triu_indices(len(columns), 1)
    for position in range(1, len(columns)):
        earlier = np.flatnonzero(r[position, :position] > DUPLICATE)
        if len(earlier):
            dimensions.loc[columns[position], "duplicate_of"] = columns[earlier[0]]
    chance = np.sqrt(2 / (np.pi * len(mu)))  # of a normal r with variance 1 / n
    return {"mean": float(r[pairs].mean()), "largest": float(r[pairs].max()), "chance": float(chance)}


def _held_out(
    model: Any, matrix: Matrix, mu: np.ndarray, validation: np.ndarray, design: np.ndarray | None, rng: _random.Rng
) -> dict[str, float]:
    """Return R^2 of the validation cells, of the model and of PCA fitted on the training cells."""
    from sklearn.utils.extmath import randomized_svd

    random = _random.generator(rng, "diagnosed splits")
    splits = [random.permutation(np.flatnonzero(rows))[:PCA_CELLS] for rows in (~validation, validation)]
    n = min(mu.shape[1], len(splits[0]) - 1, matrix.shape[1])
    if n < 1 or not len(splits[1]):
        return {}
    low, high = model.features.minimum, model.features.maximum
    scale = 1.0 if low is None or high is None else (high - low).astype(np.float32)
    train, held_out = (dense(matrix[np.sort(rows)]) * scale for rows in splits)
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    variation = np.square(held_out - mean, dtype=np.float64).sum()
    if variation == 0:
        return {}
    rows = np.sort(splits[1])
    decoded = model.decode(mu[rows].astype(np.float32), batch=None if design is None else design[rows]) * scale
    error = np.square(held_out - decoded, dtype=np.float64).sum()
    seed = _random.seed(rng, "diagnosed components") % 2**31
    axes = randomized_svd(train - mean, n, n_iter=2, random_state=seed)[2]
    explained = np.square((held_out - mean) @ axes.T, dtype=np.float64).sum()
    return {
        "r2": float(1 - error / variation),
        "r2_pca": float(explained / variation),
        "n_cells": len(splits[1]),
    }


def _training(history: pd.DataFrame) -> dict[str, int]:
    if "validation_loss" not in history or history["validation_loss"].isna().all():
        return {}
    return {"epochs": len(history), "best_epoch": int(history["validation_loss"].idxmin())}


def _messages(
    config: AutoencoderConfig,
    terms: pd.DataFrame,
    mmd: dict[str, float],
    dimensions: pd.DataFrame,
    correlation: dict[str, float],
    held_out: dict[str, float],
    training: dict[str, int],
) -> list[str]:
    """Return the faults: first what the model lacks, then the terms of the loss that have no effect."""
    messages = [
        *_of_training(config, held_out, training),
        *_of_dimensions(config, dimensions, correlation),
        *(_of_mmd(terms, mmd) if mmd and terms.loc["mmd", "weight"] > 0 else []),
    ]
    # a posterior equal to the prior has no KL gradient either, and a higher weight is no remedy
    return messages if any(LOWER_KL in message for message in messages) else [*messages, *_of_kl(terms, dimensions)]


def _of_training(config: AutoencoderConfig, held_out: dict[str, float], training: dict[str, int]) -> list[str]:
    messages = []
    best, epochs = training.get("best_epoch", 0), training.get("epochs", 0)
    early = 0 < best <= FIRST_EPOCHS and epochs - best >= LATER_EPOCHS
    remedy = "Train longer (max_epochs)"
    if best < LATE * epochs and not config.early_stopping:
        remedy = f"Set early_stopping=True: the validation loss was lowest in epoch {best} of {epochs}"
    remedy += f", or {LOWER_KL}." if config.kl_weight > 0 and config.noise != "none" else "."
    if held_out and held_out["r2"] < NOTHING_LEARNT:
        messages.append(
            "The model has learnt nothing that holds for new cells: it reconstructs held-out cells no better than the "
            f"means of the genes do (R^2 {held_out['r2']:.3f}). {remedy}"
        )
    elif held_out and held_out["r2"] < HALF * held_out["r2_pca"]:
        messages.append(
            "The model explains less than half of what PCA explains of held-out cells: R^2 "
            f"{held_out['r2']:.3f} against {held_out['r2_pca']:.3f}. {remedy}"
        )
    if early:
        messages.append(
            f"The validation loss was lowest in epoch {best} of {epochs}, before the model could learn much. Lower lr, "
            "or set early_stopping=False, which keeps the last epoch."
        )
    return messages


def _of_dimensions(config: AutoencoderConfig, dimensions: pd.DataFrame, correlation: dict[str, float]) -> list[str]:
    messages = []
    n, n_active = len(dimensions), int(dimensions["active"].sum())
    if n_active < n:
        what, more = "have at least a hundredth of the mean variance", ""
        if "kl" in dimensions:
            what = f"carry information (more than {MIN_NATS} nat)"
            more = f" A {LOWER_KL} activates more." if config.kl_weight > 0 else ""
        active = _listed(dimensions.index[dimensions["active"]])
        read = f"read only those: {active}.{more}"
        if not n_active:
            read = f"map, clusters and genes would be those of noise. Train longer (max_epochs), or {LOWER_KL}."
        messages.append(f"{n_active} of {n} latent dimensions {what}; {read}")
    duplicates = dimensions.index[dimensions["duplicate_of"] >= 0]
    if len(duplicates):
        pairs = _listed([f"{d} = {dimensions.loc[d, 'duplicate_of']}" for d in duplicates])
        messages.append(
            f"Duplicates of another latent dimension (|r| > {DUPLICATE}), {len(duplicates)} in number: {pairs}. Read "
            "each with its duplicate."
        )
    if correlation and correlation["mean"] > CORRELATED:
        weight = config.covariance_weight
        remedy = f"Raise covariance_weight (it is {weight:g})" if weight > 0 else "Set covariance_weight of DiffVAE"
        messages.append(
            f"The latent dimensions are correlated (mean |r| {correlation['mean']:.2f}, independent ones "
            f"{correlation['chance']:.2f}), so one dimension is not one process. {remedy}, or read "
            "clusters instead."
        )
    return messages


def _listed(names: Any, most: int = 10) -> str:
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")


def _of_mmd(terms: pd.DataFrame, mmd: dict[str, float]) -> list[str]:
    messages = []
    share, of_loss = terms.loc["mmd", "gradient_share"], terms.loc["mmd", "loss_share"]
    blind = mmd["collapsed"] <= 20 * max(abs(mmd["matched"]), 1e-12)
    at_floor = mmd["value"] <= mmd["floor_95"]
    away = (mmd["value"] - mmd["floor_mean"]) / max(mmd["collapsed"] - mmd["floor_mean"], 1e-12)
    if share < NEGLIGIBLE_SHARE:
        verb = "is at its noise floor and contributes" if at_floor else "contributes"
        messages.append(
            f"The MMD term {verb} {of_loss:.1%} of the loss and {share:.1%} of the gradient, so it regularises "
            "nothing. Raise mmd_weight, or choose a kernel that detects collapse (mmd_kernel='imq')."
        )
    if blind:
        messages.append(
            f"The kernel does not detect collapse: the MMD of a collapsed latent is {mmd['collapsed']:.2g}, and "
            f"that of draws from the prior {mmd['matched']:.2g}. Choose mmd_kernel='imq'."
        )
    elif not at_floor and away > FAR_FROM_PRIOR:
        messages.append(
            f"The cells do not follow the prior, so drawn cells may be unlike them: MMD {mmd['value']:.2g}, draws from "
            f"the prior up to {mmd['floor_95']:.2g}, a single point {mmd['collapsed']:.2g}. Raise mmd_weight."
        )
    return messages


def _of_kl(terms: pd.DataFrame, dimensions: pd.DataFrame) -> list[str]:
    messages = []
    if "kl" in terms.index and terms.loc["kl", "weight"] > 0 and terms.loc["kl", "gradient_share"] < NEGLIGIBLE_SHARE:
        share = terms.loc["kl", "gradient_share"]
        messages.append(f"The KL term contributes {share:.1%} of the gradient, so it has no effect. Raise kl_weight.")
    if "posterior_variance" in dimensions and (dimensions["posterior_variance"] < 1e-3).all():
        messages.append(
            "The posterior variance has vanished in every dimension, which makes the model a plain autoencoder; "
            "set kl_weight above 0."
        )
    return messages
