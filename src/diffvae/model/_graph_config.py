"""Hyper-parameters of Graph-DiffVAE, checked once, and the named presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from diffvae.model._config import _require_choice
from diffvae.nn._graph import CONVOLUTIONS

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
