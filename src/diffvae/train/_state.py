"""The state of a training at the end of an epoch, from which it continues bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Sums:
    """Sums of the terms over the cells of an epoch, on the device until they are read."""

    def __init__(self) -> None:
        self.names: Sequence[str] = ()
        self.total: Tensor | None = None
        self.n_cells = 0

    def add(self, terms: Mapping[str, Tensor], n_cells: int) -> None:
        """Add the terms of a batch, which are means over its cells."""
        values = torch.stack([t.detach().float() for t in terms.values()]) * n_cells
        self.names = tuple(terms)
        self.total = values if self.total is None else self.total.add_(values)
        self.n_cells += n_cells

    def means(self, prefix: str) -> dict[str, float]:
        """Return the mean of each term over the cells (waits for the device)."""
        assert self.total is not None
        values = (self.total / self.n_cells).tolist()
        return {prefix + name: value for name, value in zip(self.names, values, strict=True)}


class BestWeights:
    """The weights of the best epoch so far, with early stopping."""

    def __init__(self, module: nn.Module, patience: int | None) -> None:
        self.module, self.patience = module, patience
        self.loss, self.waited = math.inf, 0
        self.weights: dict[str, Tensor] | None = None

    def update(self, loss: float) -> bool:
        """Record the loss of an epoch and return whether patience has run out."""
        if self.patience is None:
            return False
        if loss < self.loss:
            self.loss, self.waited = loss, 0
            self.weights = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore(self) -> None:
        """Put the best weights back into the module."""
        if self.weights is not None:
            self.module.load_state_dict(self.weights)

    def forget(self) -> None:
        """Look for the best epoch among those to come."""
        self.loss, self.waited = math.inf, 0

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the best weights in the module for the duration of the block."""
        latest = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.restore()
        try:
            yield
        finally:
            self.module.load_state_dict(latest)


@dataclass
class State:
    """The state of a training.

    Attributes
    ----------
    module, optimizer, best
        The network, Adam, and the weights of the best epoch.
    order, noise
        The generators of the order of batches and of the noise, if there are any.
    step
        Number of batches so far.
    finished
        Whether early stopping has ended the training.
    records
        The history, one record per epoch.
    first_loss
        The loss of the very first batch.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    best: BestWeights
    order: np.random.Generator | None = None
    noise: torch.Generator | None = None
    step: int = 0
    finished: bool = False
    records: list[dict[str, float]] = field(default_factory=list)
    first_loss: Tensor | None = None

    @property
    def epoch(self) -> int:
        """Number of the current or next epoch, from 1."""
        return len(self.records) + 1

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, on the CPU and independent of later steps."""
        live = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            live |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        if self.first_loss is not None:
            live["first_loss"] = self.first_loss
        if self.noise is not None:
            live["noise"] = self.noise.get_state()
        copies = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in live.items()}
        return copies | {f"best.{k}": v.cpu() for k, v in (self.best.weights or {}).items()}  # already copies

    def numbers(self) -> dict[str, Any]:
        """Return everything that is not a tensor, in a form that JSON can hold."""
        return {
            "step": self.step,
            "finished": self.finished,
            "records": list(self.records),
            "best": {"loss": self.best.loss, "waited": self.best.waited},
            "order": None if self.order is None else self.order.bit_generator.state,
        }

    def require_fit(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless tensors have the names, shapes and types of :meth:`tensors`.

        Torch does not check them: Adam writes beyond the end of moments that are too small.
        """
        module = self.module.state_dict()
        required = {f"module.{k}": v for k, v in module.items()} | {"first_loss": torch.zeros(())}
        if self.noise is not None:
            required["noise"] = self.noise.get_state()
        if missing := required.keys() - tensors.keys():
            raise ValueError(f"{min(missing)} is missing")
        allowed = required | {f"best.{k}": v for k, v in module.items()}
        for i, p in enumerate(p for group in self.optimizer.param_groups for p in group["params"]):
            moments = {"exp_avg": p, "exp_avg_sq": p, "step": torch.zeros(())}
            allowed |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        for name, value in tensors.items():
            if name not in allowed:
                raise ValueError(f"{name} is unknown")
            if (value.shape, value.dtype) != (allowed[name].shape, allowed[name].dtype):
                raise ValueError(f"{name} has another shape or type")

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Restore :meth:`tensors` and :meth:`numbers` of an earlier state of the training."""
        device = next(self.module.parameters()).device

        def with_prefix(prefix: str) -> dict[str, Tensor]:
            # copied, since rounding may depend on memory alignment, and tensors in files are not aligned
            return {k.removeprefix(prefix): v.clone().to(device) for k, v in tensors.items() if k.startswith(prefix)}

        self.module.load_state_dict(with_prefix("module."))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in with_prefix("optimizer.").items():
            i, _, name = key.partition(".")
            moments.setdefault(int(i), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self.best.weights = with_prefix("best.") or None
        self.best.loss, self.best.waited = numbers["best"]["loss"], numbers["best"]["waited"]
        self.first_loss = tensors["first_loss"].clone().to(device)
        if self.noise is not None:
            self.noise.set_state(tensors["noise"].clone())
        if self.order is not None:
            self.order.bit_generator.state = numbers["order"]
        self.step, self.finished, self.records = numbers["step"], numbers["finished"], list(numbers["records"])
