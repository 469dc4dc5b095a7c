"""Hyper-parameters of the autoencoders, checked once, and the named presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from diffvae.nn._graph import CONVOLUTIONS
from diffvae.nn._mlp import HEADS

LIKELIHOODS = ("bernoulli", "gaussian", "mse")
KERNELS = ("imq", "rbf", "released")
NOISES = ("independent", "shared", "none")
GENE_WEIGHTINGS = ("equal", "range")


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """What defines an autoencoder of this package, data apart. See :class:`diffvae.model.DiffVAE` for the meaning."""

    n_latent: int = 50
    hidden: tuple[int, ...] = (512, 256)
    likelihood: str = "bernoulli"
    gene_weighting: str = "equal"
    kl_weight: float = 0.0
    mmd_weight: float = 0.0
    mmd_kernel: str = "imq"
    mmd_bandwidth: float | None = None
    mmd_unbiased: bool = True
    mmd_prior_size: int | None = None
    noise: str = "independent"
    head: str = "linear"
    batch_norm: bool = True
    dropout: float = 0.0
    input_dropout: float = 0.0
    lr: float = 1e-3
    min_steps: int = 1000
    early_stopping: bool = False

    def __post_init__(self) -> None:
        # numbers of numpy become Python's, so that a saved configuration is plain JSON
        for field in fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, value.item() if isinstance(value, np.generic) else value)
        object.__setattr__(self, "hidden", tuple(int(h) for h in self.hidden))
        _require_choice("likelihood", self.likelihood, LIKELIHOODS)
        _require_choice("gene_weighting", self.gene_weighting, GENE_WEIGHTINGS)
        _require_choice("mmd_kernel", self.mmd_kernel, KERNELS)
        _require_choice("noise", self.noise, NOISES)
        _require_choice("head", self.head, HEADS)
        if self.n_latent < 1 or not self.hidden or min(self.hidden) < 1:
            raise ValueError(
                f"n_latent={self.n_latent} and hidden={self.hidden} must be positive, with one hidden layer at least."
            )
        for name in ("kl_weight", "mmd_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be zero or a positive number.")
        for name in ("dropout", "input_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, at least 0 and below 1.")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr is {self.lr}; the learning rate must be a positive number.")
        if self.mmd_prior_size is not None and self.mmd_prior_size < 2:
            raise ValueError(
                f"mmd_prior_size is {self.mmd_prior_size}; it must be 2 or more, or None for the batch size."
            )
        if self.min_steps < 0:
            raise ValueError(f"min_steps is {self.min_steps}; it must be zero or more.")
        if self.mmd_bandwidth is not None and not self.mmd_bandwidth > 0:
            raise ValueError(
                f"mmd_bandwidth is {self.mmd_bandwidth}; it must be positive, or None for the median rule."
            )


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it is one of {', '.join(map(repr, choices))}.")


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Chosen among four on eight data sets (docs/study.md has the evidence, and its limits). KL keeps the posterior
        # variance from vanishing, MMD keeps dimensions alive. Weights by range undo what scaling to [0, 1] does to
        # rarely expressed genes; early stopping matters where cells are few.
        "default": {
            "gene_weighting": "range",
            "kl_weight": 0.3,
            "mmd_weight": 300.0,
            "mmd_kernel": "imq",
            "input_dropout": 0.5,
            "lr": 1e-3,
            "early_stopping": True,
        },
        # Eqs 2-12 to the letter; the paper names no kernel, so a Gaussian with the median bandwidth.
        "paper": {"mmd_weight": 1.0, "mmd_kernel": "rbf", "head": "relu", "lr": 1e-3, "min_steps": 0},
        # What the authors ran: batch norm on both heads, one noise value per batch, a kernel that sees nothing.
        "code": {
            "mmd_weight": 1.0,
            "mmd_kernel": "released",
            "mmd_unbiased": False,
            "mmd_prior_size": 128,
            "head": "relu_bn",
            "noise": "shared",
            "lr": 1e-3,
            "min_steps": 0,
        },
    }
)


EPOCHS = 100
"""Passes over the data, as the paper has it."""


def default_epochs(config: AutoencoderConfig, n_cells: int, batch_size: int) -> int:
    """Return the paper's 100 epochs, or as many as make ``min_steps`` steps where there are few cells.

    Examples
    --------
    >>> default_epochs(AutoencoderConfig(), 5000, 128), default_epochs(AutoencoderConfig(), 217, 128)
    (100, 500)
    """
    steps_per_epoch = -(-n_cells // batch_size)
    return max(EPOCHS, -(-config.min_steps // steps_per_epoch))


def from_preset(preset: str, overrides: Mapping[str, Any]) -> AutoencoderConfig:
    """Return a preset with those of the overrides that are not None."""
    _require_choice("preset", preset, tuple(PRESETS))
    return AutoencoderConfig(**{**PRESETS[preset], **{k: v for k, v in overrides.items() if v is not None}})


CONFIG_FIELDS = tuple(f.name for f in fields(AutoencoderConfig))


DECODERS = ("graphite", "inner")
LINK_LOSSES = ("bernoulli", "categorical")


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """What defines a Graph-DiffVAE, data apart. See :class:`diffvae.model.GraphDiffVAE` for the meaning."""

    n_latent: int = 50
    hidden: int = 512
    conv: str = "gcn"
    decoder: str = "graphite"
    kl_weight: float = 1.0
    kl_warmup: float = 0.5
    link_loss: str = "bernoulli"
    positive_weight: float | None = None
    joint_weight: float = 0.0
    normalize: bool = True
    self_loops: bool = True
    dropout: float = 0.0
    lr: float = 1e-3
    max_epochs: int = 200

    def __post_init__(self) -> None:
        for field in fields(self):  # numbers of numpy become Python's, so that a saved configuration is plain JSON
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, value.item() if isinstance(value, np.generic) else value)
        _require_choice("conv", self.conv, CONVOLUTIONS)
        _require_choice("decoder", self.decoder, DECODERS)
        _require_choice("link_loss", self.link_loss, LINK_LOSSES)
        for name in ("n_latent", "hidden", "max_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if self.conv == "gat" and self.hidden % 4:
            raise ValueError(f"hidden is {self.hidden}; with conv='gat' it must be a multiple of its 4 heads.")
        for name in ("kl_weight", "joint_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be zero or a positive number.")
        if not 0 <= self.kl_warmup <= 1:
            raise ValueError(f"kl_warmup is {self.kl_warmup}; it is a share of the epochs, between 0 and 1.")
        if self.positive_weight is not None and not 0 < self.positive_weight < float("inf"):
            raise ValueError(f"positive_weight is {self.positive_weight}; it must be positive, or None to balance.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it is a share, at least 0 and below 1.")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr is {self.lr}; the learning rate must be a positive number.")


GRAPH_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {},
        # Eqs 14-22 to the letter: the plain Bernoulli likelihood of all pairs, Adam at 1e-4 for 200 epochs.
        "paper": {"positive_weight": 1.0, "kl_warmup": 0.0, "lr": 1e-4},
        # What the authors ran: one categorical distribution over all pairs, a graph that is not normalised and has no
        # self-loops, and a KL term whose mean over cells stands beside a sum over the links.
        "code": {
            "link_loss": "categorical",
            "normalize": False,
            "self_loops": False,
            "kl_weight": 0.5,
            "kl_warmup": 0.0,
            "lr": 1e-4,
        },
    }
)


def graph_config(preset: str, overrides: Mapping[str, Any]) -> GraphConfig:
    """Return a preset with those of the overrides that are not None."""
    _require_choice("preset", preset, tuple(GRAPH_PRESETS))
    return GraphConfig(**{**GRAPH_PRESETS[preset], **{k: v for k, v in overrides.items() if v is not None}})
