"""All that a training is at one moment: what a checkpoint must hold for it to go on as if nothing had happened."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffvae.train._plausible import require_fit


class Sums:
    """Sums of the terms over cells, kept on the device until they are read."""

    def __init__(self) -> None:
        self.names: Sequence[str] = ()
        self.total: Tensor | None = None
        self.n_cells = 0

    def add(self, terms: Mapping[str, Tensor], n_cells: int) -> None:
        """Take a batch in: means over its cells, and how many these are."""
        values = torch.stack([t.detach().float() for t in terms.values()]) * n_cells
        self.names = tuple(terms)
        self.total = values if self.total is None else self.total.add_(values)
        self.n_cells += n_cells

    def clear(self) -> None:
        """Forget everything but the names."""
        self.n_cells = 0
        if self.total is not None:
            self.total.zero_()

    def means(self, prefix: str) -> dict[str, float]:
        """Return the mean of each term over the cells; this waits for the device."""
        assert self.total is not None
        values = (self.total / self.n_cells).tolist()
        return {prefix + name: value for name, value in zip(self.names, values, strict=True)}


class Best:
    """The weights of the best epoch so far, where early stopping asks for them."""

    def __init__(self, module: nn.Module, patience: int | None) -> None:
        self.module, self.patience = module, patience
        self.loss, self.waited = math.inf, 0
        self.weights: dict[str, Tensor] | None = None

    def is_past(self, loss: float) -> bool:
        """Take note of an epoch's loss and say whether patience has run out."""
        if self.patience is None:
            return False
        if loss < self.loss:
            self.loss, self.waited = loss, 0
            self.weights = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore(self) -> None:
        """Put the best weights back."""
        if self.weights is not None:
            self.module.load_state_dict(self.weights)


@dataclass
class State:
    """A training between two batches.

    Attributes
    ----------
    module, optimizer, best
        The network, Adam, and what early stopping remembers.
    order, noise
        The generators of the order of batches, which draws when an epoch begins, and of the noise, which draws in every
        batch; None where the training has no such thing.
    epoch, batch, step
        The epoch under way (from 1), and the batches that are done in it and in all.
    finished
        Whether early stopping has ended the training.
    records, sums, begun
        The history, the sums of the epoch under way, and the loss of the first batch of all.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    best: Best
    order: np.random.Generator | None = None
    noise: torch.Generator | None = None
    epoch: int = 1
    batch: int = 0
    step: int = 0
    finished: bool = False
    records: list[dict[str, float]] = field(default_factory=list)
    sums: Sums = field(default_factory=Sums)
    begun: Tensor | None = None
    _order_state: Any = None

    def remaining(self, batches: Callable[[int], Iterable[tuple[Any, int]]]) -> Iterator[tuple[Any, int]]:
        """Yield those batches of the epoch under way that are not done; the order is drawn as it was before."""
        self._order_state = self.order.bit_generator.state if self.order is not None else None
        return itertools.islice(batches(self.epoch), self.batch, None)

    def batch_done(self, terms: Mapping[str, Tensor], n_cells: int) -> None:
        """Take note of a batch."""
        self.sums.add(terms, n_cells)
        self.batch += 1
        self.step += 1
        if self.begun is None:
            self.begun = terms["loss"].detach()

    def epoch_done(self) -> None:
        """Go to the next epoch."""
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, Sums()

    @property
    def is_sound(self) -> bool:
        """Whether all that a checkpoint would hold is finite; this waits for the device."""
        return all(bool(torch.isfinite(v).all()) for v in self.tensors().values() if v.is_floating_point())

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that is made of floating point numbers, by name."""
        found = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        found |= {f"best.{k}": v for k, v in (self.best.weights or {}).items()}
        single = {"sums": self.sums.total, "begun": self.begun}
        single["noise"] = None if self.noise is None else self.noise.get_state()
        found |= {k: v for k, v in single.items() if v is not None}
        return {k: v.detach().cpu().contiguous() for k, v in found.items()}

    def numbers(self) -> dict[str, Any]:
        """Return everything else, ready for JSON."""
        order = self._order_state
        if self.batch == 0 and self.order is not None:  # no batch has been asked for since the epoch before ended
            order = self.order.bit_generator.state
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "finished": self.finished,
            "records": self.records,
            "sums": {"names": list(self.sums.names), "n_cells": self.sums.n_cells},
            "best": {"loss": self.best.loss, "waited": self.best.waited},
            "order": order,
        }

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Become what :meth:`tensors` and :meth:`numbers` told of another State of the same making.

        Raises
        ------
        ValueError
            If they can't be such a state's; nothing has changed then.
        """
        require_fit(self, tensors, numbers)
        device = next(self.module.parameters()).device

        def under(prefix: str) -> dict[str, Tensor]:
            # copies, since rounding may depend on where in memory a number lies, and files don't align them
            start = len(prefix)
            return {k[start:]: v.clone().to(device) for k, v in tensors.items() if k.startswith(prefix)}

        self.module.load_state_dict(under("module."))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in under("optimizer.").items():
            i, _, name = key.partition(".")
            moments.setdefault(int(i), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self.best.weights = under("best.") or None
        self.best.loss, self.best.waited = numbers["best"]["loss"], numbers["best"]["waited"]
        self.sums = Sums()
        self.sums.names, self.sums.n_cells = tuple(numbers["sums"]["names"]), numbers["sums"]["n_cells"]
        self.sums.total, self.begun = under("sums").get(""), under("begun").get("")
        if self.noise is not None:
            self.noise.set_state(tensors["noise"].clone())
        if self.order is not None:
            self.order.bit_generator.state = numbers["order"]
        self.epoch, self.batch, self.step = numbers["epoch"], numbers["batch"], numbers["step"]
        self.finished, self.records = numbers["finished"], list(numbers["records"])
