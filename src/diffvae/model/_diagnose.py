"""Does each term of the objective do something, and does each latent dimension carry something?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffvae import _random, nn
from diffvae._errors import DataError
from diffvae._seeds import ACTIVE_VARIANCE
from diffvae._threads import torch_in_one_thread
from diffvae.model._input import Matrix
from diffvae.model._objective import InfoVAEObjective, gene_weights
from diffvae.train import RowSource

if TYPE_CHECKING:
    from diffvae.model._neural import NeuralModel

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
