"""Detection of a diverging training: the term, the likely cause, and the last sound weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pandas as pd
import torch
from torch import Tensor

from diffvae.train._state import State

KEEP_EVERY = 100
"""Least number of steps between two copies of sound weights; copying takes a thousandth of the time."""
LARGE = 20.0
"""A larger value is not scaled and not on a log scale: e^20 exceeds the number of molecules in a cell."""


class TrainingError(RuntimeError):
    """Training can't continue; the message says at which epoch, why, and what to try.

    Attributes
    ----------
    history
        History up to the epoch whose weights were restored; empty if there is none.

    Examples
    --------
    >>> import diffvae as dv, numpy as np
    >>> def broken(module, x, rows, generator):
    ...     return {"loss": module(x).sum() * float("nan")}
    >>> source = dv.train.RowSource(np.eye(3, dtype=np.float32), "cpu")
    >>> rows = {"train_rows": np.arange(3), "validation_rows": np.arange(0)}
    >>> try:
    ...     dv.train.fit(torch.nn.Linear(3, 3), source, broken, **rows, progress=False)
    ... except dv.train.TrainingError as error:
    ...     print(len(error.history))
    0
    """

    def __init__(self, message: str, history: pd.DataFrame | None = None) -> None:
        super().__init__(message)
        self.history = pd.DataFrame() if history is None else history


class DivergenceMonitor:
    """Watches the losses of a training, and keeps a copy of the last sound weights.

    Parameters
    ----------
    state
        The training.
    lr
        Its learning rate.
    largest
        Returns the largest value of the input; called after a divergence.
    """

    def __init__(self, state: State, lr: float, largest: Callable[[], float]) -> None:
        self.state, self.lr, self.largest = state, lr, largest
        self._epoch, self._step = 0, -KEEP_EVERY
        self._weights: dict[str, Tensor] = {}

    def require_sound(self, record: Mapping[str, float]) -> None:
        """Raise if an epoch's losses are not finite or have grown a hundredfold; else copy its weights."""
        assert self.state.first_loss is not None
        first = float(self.state.first_loss)
        bad = [name for name, value in record.items() if not math.isfinite(value)]
        bad = [name for name in bad if not name.endswith("_loss")] or bad
        if not bad and record["train_loss"] > first + 100 * (abs(first) + 1):
            bad = ["train_loss"]  # finite, but no training recovers from such a loss
        if bad:
            self._restore()
            records = self.state.records[: self._epoch]
            history = pd.DataFrame(records, index=pd.RangeIndex(1, len(records) + 1, name="epoch"))
            value = f"{bad[0].replace('_', ' ')} is {record[bad[0]]:.4g}"
            raise TrainingError(
                f"At epoch {self.state.epoch} {value}: the training diverged. {self._cause()}"
                f"{_largest_term(record, bad[0])}",
                history,
            )
        if self.state.step - self._step >= KEEP_EVERY:
            self._copy_weights(self.state.epoch)

    def resume(self) -> None:
        """Copy the weights of a checkpoint, which were sound when it was written."""
        if self.state.records:
            self._copy_weights(len(self.state.records))

    @torch.no_grad()
    def _copy_weights(self, epoch: int) -> None:
        now = self.state.module.state_dict()
        if self._weights:
            for name, value in now.items():
                self._weights[name].copy_(value)
        else:
            self._weights = {name: value.clone() for name, value in now.items()}
        self._epoch, self._step = epoch, self.state.step

    def _restore(self) -> None:
        if self.state.best.weights is not None:  # with early stopping, the best epoch
            self._weights = self.state.best.weights
            self._epoch = len(self.state.records) - self.state.best.waited
        if self._weights:
            self.state.module.load_state_dict(self._weights)

    def _cause(self) -> str:
        largest = self.largest()
        if largest > LARGE:
            return (
                f"Scale the layer to [0, 1], as diffvae.pp.prepare does: values up to {largest:.4g} reach the network, "
                "the likely cause."
            )
        return (
            f"Lower the learning rate (it is {self.lr:g}): the likely cause, since no value beyond {largest:.3g} "
            "reaches the network."
        )


def _largest_term(record: Mapping[str, float], bad: str) -> str:
    """Name the largest term, unless the loss is NaN or a term is not finite."""
    split = bad.partition("_")[0] + "_"
    terms = {k.removeprefix(split): v for k, v in record.items() if k.startswith(split) and k != f"{split}loss"}
    if math.isnan(record[bad]) or not terms or not all(map(math.isfinite, terms.values())):
        return ""
    name = max(terms, key=lambda term: abs(terms[term]))
    return f" Of its terms {name} is the largest ({terms[name]:.4g})."
