"""Diagnosis of a trained autoencoder: does each term of the objective act, and does each dimension carry anything?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffvae import _random, nn
from diffvae._core.fingerprint import ACTIVE_VARIANCE
from diffvae._core.runtime import torch_in_one_thread
from diffvae._errors import DataError
from diffvae.model._features import Matrix
from diffvae.model._objective import InfoVAEObjective, gene_weights
from diffvae.train import RowSource

N_BATCHES, BATCH_SIZE = 8, 128
N_NULL = 200
"""Batches from the prior by which the noise floor of the MMD is measured."""
DUPLICATE_CORRELATION = 0.95
NEGLIGIBLE_SHARE = 0.01
"""Share of the gradient below which a term has no effect."""


@dataclass(frozen=True)
class Diagnosis:
    """Result of :meth:`NeuralModel.diagnose`.

    Attributes
    ----------
    terms
        For each term of the objective: weight, value (nats per cell; MMD has no unit), share of the loss, and share of
        the gradient norm at the encoder.
    mmd
        MMD of a batch (``value``), its mean and 95 % quantile for a posterior equal to the prior (``floor_mean``,
        ``floor_95``; noise drawn as in the model), its mean for independent draws from the prior (``matched``), and
        its mean for a latent that is a single point (``collapsed``). Empty for a model without posterior.
    dimensions
        For each latent dimension: variance of the posterior mean, mean posterior variance, KL in nats, ``active``, and
        ``duplicate_of`` (-1: of none).
    messages
        One sentence for each problem.

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
        return "\n".join([head, *(f"- {m}" for m in self.messages or ("No problem found.",))])


@torch_in_one_thread
def diagnose(model: Any, matrix: Matrix, *, rng: _random.Rng = 0) -> Diagnosis:
    """Examine a trained model on cells; see :meth:`NeuralModel.diagnose`."""
    module = model.module
    if not matrix.shape[0]:
        raise DataError("There are no cells on which to examine the model; give at least one.")
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
    return Diagnosis(terms, floor, dimensions, tuple(_messages(terms, floor, dimensions)))


def _terms(
    module: nn.Autoencoder,
    objective: InfoVAEObjective,
    source: RowSource,
    batches: list[np.ndarray],
    noise: torch.Generator,
) -> pd.DataFrame:
    """Return the table of the terms, means over the batches."""
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
    terms["gradient_share"] = gradient / max(gradient.sum(), np.finfo(float).tiny)  # all zero for a dead encoder
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
    # the noise is drawn as in the model: noise shared by a batch has a high floor
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
    else:  # no prior fixes the scale of the latent, so the threshold is relative
        threshold *= variance.mean()
    frame.attrs["threshold"] = threshold
    frame["active"] = variance > threshold
    frame["duplicate_of"] = _duplicates(mu, frame["active"].to_numpy())
    return frame


def _duplicates(mu: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Return for each dimension the first earlier active one with which it is correlated, or -1."""
    columns = np.flatnonzero(active)
    result = np.full(mu.shape[1], -1)
    if len(columns) > 1:
        same = np.abs(np.corrcoef(mu[:, columns].T)) > DUPLICATE_CORRELATION
        for position in range(1, len(columns)):
            earlier = np.flatnonzero(same[position, :position])
            if len(earlier):
                result[columns[position]] = columns[earlier[0]]
    return result


def _messages(terms: pd.DataFrame, floor: dict[str, float], dimensions: pd.DataFrame) -> list[str]:
    messages = []
    if floor and terms.loc["mmd", "weight"] > 0:
        share, of_loss = terms.loc["mmd", "gradient_share"], terms.loc["mmd", "loss_share"]
        blind = floor["collapsed"] <= 20 * max(abs(floor["matched"]), 1e-12)
        at_floor = floor["value"] <= floor["floor_95"]
        if share < NEGLIGIBLE_SHARE:
            verb = "is at its noise floor and contributes" if at_floor else "contributes"
            messages.append(
                f"The MMD term {verb} {of_loss:.1%} of the loss and {share:.1%} of the gradient, so it regularises "
                "nothing. Raise mmd_weight, or choose a kernel that detects collapse (mmd_kernel='imq')."
            )
        if blind:
            messages.append(
                f"The kernel does not detect collapse: the MMD of a collapsed latent is {floor['collapsed']:.2g}, and "
                f"that of draws from the prior {floor['matched']:.2g}."
            )
    if "kl" in terms.index and terms.loc["kl", "weight"] > 0 and terms.loc["kl", "gradient_share"] < NEGLIGIBLE_SHARE:
        messages.append(f"The KL term contributes {terms.loc['kl', 'gradient_share']:.1%} of the gradient.")
    n, n_active = len(dimensions), int(dimensions["active"].sum())
    if n_active < n:
        inactive, threshold = dimensions.index[~dimensions["active"]], dimensions.attrs["threshold"]
        listed = ", ".join(map(str, inactive[:10])) + (", ..." if len(inactive) > 10 else "")
        messages.append(
            f"{n - n_active} of {n} latent dimensions are inactive (variance below {threshold:.2g}): {listed}."
        )
    duplicates = dimensions.index[dimensions["duplicate_of"] >= 0]
    if len(duplicates):
        pairs = ", ".join(f"{d} = {dimensions.loc[d, 'duplicate_of']}" for d in duplicates[:5])
        messages.append(
            f"{len(duplicates)} latent dimensions duplicate another (|r| > {DUPLICATE_CORRELATION}): {pairs}."
        )
    if "posterior_variance" in dimensions and (dimensions["posterior_variance"] < 1e-3).all():
        messages.append(
            "The posterior variance has vanished in every dimension, which makes the model a plain autoencoder; "
            "set kl_weight above 0."
        )
    return messages
