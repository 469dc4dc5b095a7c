"""Hyper-parameters of the autoencoders and of Graph-DiffVAE, checked once, and their presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from diffvae._core.validate import Choice, Flag, Number, Optional, Rule, Whole, check
from diffvae.model._likelihoods import LIKELIHOODS
from diffvae.nn._graph import CONVOLUTIONS
from diffvae.nn._mlp import HEADS


class Widths:
    """Widths of one or more layers."""

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, tuple) and len(value) > 0 and all(width in Whole(1) for width in value)

    def __str__(self) -> str:
        return "the widths of one or more layers, each a whole number of 1 or more"


def plain(value: Any) -> Any:
    """Return numbers of numpy as Python's and sequences as tuples, so that a saved configuration is plain JSON."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(plain, value)) if isinstance(value, list | tuple | np.ndarray) else value


RULES: dict[str, Rule] = {
    "n_latent": Whole(1),
    "n_components": Whole(0),
    "likelihood": Choice(*LIKELIHOODS),
    "gene_weighting": Choice("equal", "range"),
    "kl_weight": Number("[0, inf)"),
    "mmd_weight": Number("[0, inf)"),
    "covariance_weight": Number("[0, inf)"),
    "batch_mmd_weight": Number("[0, inf)"),
    "encode_covariates": Flag(),
    "mmd_kernel": Choice("imq", "rbf", "released"),
    "mmd_bandwidth": Optional(Number("(0, inf)")),
    "mmd_unbiased": Flag(),
    "mmd_prior_size": Optional(Whole(2)),
    "noise": Choice("independent", "shared", "none"),
    "head": Choice(*HEADS),
    "batch_norm": Flag(),
    "dropout": Number("[0, 1)"),
    "input_dropout": Number("[0, 1)"),
    "linear_skip": Flag(),
    "target_neighbors": Whole(0),
    "batch_size": Whole(2),
    "lr": Number("(0, inf)"),
    "min_steps": Whole(0),
    "early_stopping": Flag(),
    "conv": Choice(*CONVOLUTIONS),
    "decoder": Choice("direction", "graphite", "inner"),
    "kl_warmup": Number("[0, 1]"),
    "link_loss": Choice("bernoulli", "categorical"),
    "positive_weight": Optional(Number("(0, inf)")),
    "joint_weight": Number("[0, inf)"),
    "normalize": Flag(),
    "self_loops": Flag(),
    "max_epochs": Whole(1),
}


class Config:
    """Base of the configurations: checks the hyper-parameters and stores them as plain values."""

    hidden_rule: ClassVar[Rule]

    def __post_init__(self) -> None:
        rules = RULES | {"hidden": self.hidden_rule}
        for name, value in vars(self).items():
            object.__setattr__(self, name, plain(value))
            check(rules, **{name: plain(value)})


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(Config):
    """Hyper-parameters of an autoencoder; :class:`diffvae.model.DiffVAE` explains them."""

    hidden_rule: ClassVar[Rule] = Widths()
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
    covariance_weight: float = 0.0
    batch_mmd_weight: float = 0.0
    encode_covariates: bool = True
    noise: str = "independent"
    head: str = "linear"
    batch_norm: bool = True
    dropout: float = 0.0
    input_dropout: float = 0.0
    linear_skip: bool = False
    target_neighbors: int = 0
    batch_size: int = 128
    lr: float = 1e-3
    min_steps: int = 1000
    early_stopping: bool = False


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Tuned on thirteen data sets (docs/study.md has the evidence and its limits, docs/tried.md what did not help).
        # KL keeps the posterior variance from vanishing. The covariance penalty keeps the means uncorrelated. Weights
        # by range undo what scaling to [0, 1] does to rarely expressed genes. Early stopping matters with few cells.
        "default": {
            "hidden": (128,),
            "gene_weighting": "range",
            "kl_weight": 0.3,
            "mmd_weight": 300.0,
            "mmd_kernel": "imq",
            "covariance_weight": 1.0,
            "batch_mmd_weight": 100.0,
            "input_dropout": 0.5,
            "linear_skip": True,
            "target_neighbors": 15,
            "batch_size": 256,
            "lr": 2e-3,
            "min_steps": 400,
            "early_stopping": True,
        },
        # Eqs 2-12 as printed. The paper names no kernel; this is a Gaussian with the median bandwidth.
        "paper": {"mmd_weight": 1.0, "mmd_kernel": "rbf", "head": "relu", "lr": 1e-3, "min_steps": 0},
        # The released code: batch norm on both heads, one noise value per batch, a kernel that does not see collapse.
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
CONFIG_FIELDS = tuple(field.name for field in fields(AutoencoderConfig))
EPOCHS = 100
"""Passes over the data in the paper."""


def from_preset(preset: str, overrides: Mapping[str, Any]) -> AutoencoderConfig:
    """Return a preset with those of the overrides that are not None."""
    return AutoencoderConfig(**_overridden(PRESETS, preset, overrides))


def _overridden(presets: Mapping[str, Mapping[str, Any]], preset: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    check({"preset": Choice(*presets)}, preset=preset)
    return {**presets[preset], **{name: value for name, value in overrides.items() if value is not None}}


def default_epochs(config: AutoencoderConfig, n_cells: int, batch_size: int) -> int:
    """Return the paper's 100 epochs, or more where there are too few cells for ``min_steps`` steps in 100 epochs.

    Examples
    --------
    >>> default_epochs(AutoencoderConfig(), 5000, 128), default_epochs(AutoencoderConfig(), 217, 128)
    (100, 500)
    """
    steps_per_epoch = -(-n_cells // batch_size)
    return max(EPOCHS, -(-config.min_steps // steps_per_epoch))


@dataclass(frozen=True, kw_only=True)
class GraphConfig(Config):
    """Hyper-parameters of a Graph-DiffVAE; :class:`diffvae.model.GraphDiffVAE` explains them."""

    hidden_rule: ClassVar[Rule] = Whole(1)
    n_latent: int = 50
    hidden: int = 512
    n_components: int = 128
    conv: str = "gcn"
    decoder: str = "direction"
    kl_weight: float = 1.0
    kl_warmup: float = 0.5
    link_loss: str = "bernoulli"
    positive_weight: float | None = None
    joint_weight: float = 0.0
    mmd_weight: float = 0.0
    normalize: bool = True
    self_loops: bool = True
    dropout: float = 0.0
    lr: float = 1e-3
    max_epochs: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conv != "gcn" or self.joint_weight:  # these take expression as it is
            object.__setattr__(self, "n_components", 0)
        if self.conv == "gat" and self.hidden % 4:
            raise ValueError(f"hidden is {self.hidden}; with conv='gat' it must be a multiple of its 4 heads.")


GRAPH_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {},
        # Eqs 14-22 as printed: the plain Bernoulli likelihood of all pairs, Adam at 1e-4 for 200 epochs.
        "paper": {
            "n_components": 0,
            "decoder": "graphite",
            "positive_weight": 1.0,
            "kl_warmup": 0.0,
            "lr": 1e-4,
        },
        # The released code: one categorical distribution over all pairs, a graph that is not normalised and has no
        # self-loops, and a KL term averaged over cells beside a sum over links.
        "code": {
            "n_components": 0,
            "decoder": "graphite",
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
    return GraphConfig(**_overridden(GRAPH_PRESETS, preset, overrides))
