"""The loop over rows of a matrix: which are learnt from and watched, in which order, and with what noise."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from diffvae import _random
from diffvae._threads import for_steps
from diffvae.nn._shared_batch import Noise
from diffvae.train._checkpoint import Checkpoint
from diffvae.train._data import Source
from diffvae.train._distributed import Alone
from diffvae.train._loop import OnEpoch, optimise
from diffvae.train._state import Sums

LOOKED_AT = 4096
"""Cells in which a cause is looked for, when a training diverges."""


class Objective(Protocol):
    """A loss: ``objective(module, x, rows, generator)``.

    It returns means over the cells of the batch by name, the one to minimise under ``"loss"``. ``rows`` are the cells'
    numbers, for objectives that look something up (labels, say); ``generator`` makes the noise.

    Examples
    --------
    >>> import diffvae as dv
    >>> import torch
    >>> def squared_error(module, x, rows, generator):
    ...     return {"loss": (module(x) - x).square().sum(1).mean()}
    >>> history = dv.train.fit(
    ...     torch.nn.Linear(3, 3), dv.train.RowSource(np.eye(3, dtype=np.float32), "cpu"), squared_error,
    ...     train_rows=np.arange(3), validation_rows=np.arange(0), max_epochs=2, progress=False,
    ... )
    >>> history.columns.tolist()
    ['train_loss']
    """

    def __call__(self, module: Any, x: Tensor, rows: np.ndarray, generator: Noise) -> Mapping[str, Tensor]: ...


def fit(
    module: nn.Module,
    source: Source,
    objective: Objective,
    *,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    max_epochs: int = 100,
    batch_size: int = 128,
    lr: float = 1e-3,
    patience: int | None = None,
    precision: torch.dtype = torch.float32,
    rng: _random.Rng = 0,
    progress: bool = True,
    description: str = "training",
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
    share: Alone | None = None,
) -> pd.DataFrame:
    """Minimise an objective with Adam and leave the module in evaluation mode.

    Nothing in an epoch waits for a number: the terms are summed on the device and read once at its end. Validation
    uses the same noise in each epoch, so that its curve moves with the weights alone.

    Parameters
    ----------
    module
        On ``source.device``.
    source
        The cells.
    objective
        See :class:`Objective`.
    train_rows, validation_rows
        Numbers of the cells to learn from and to watch; the latter may be empty.
    max_epochs, batch_size, lr
        ``batch_size`` is an upper limit: an epoch is cut into batches of equal size.
    patience
        Stop when the validation loss has not improved for so many epochs, and go back to the best weights.
    precision
        Type of the matrix products; the weights are float32.
    rng
        Seed or generator of the order of cells and of the noise.
    progress
        Show a bar on a terminal.
    description
        Text beside the bar.
    on_epoch
        Called with an :class:`Epoch` at the end of each; what it raises ends the training.
    checkpoint
        Where to keep the training so that it can go on; None keeps nothing.
    share
        What this process has of each batch, where several train one module together; None for all of it.
        ``batch_size`` is per process.

    Returns
    -------
    One row per epoch (index ``epoch``, from 1), columns ``train_<term>`` and ``validation_<term>``.

    Raises
    ------
    TrainingError
        If the loss is no longer finite, or has grown a hundredfold since the first batch. The module has the weights of
        an epoch before that, the best one under early stopping, and ``history`` of the error ends with it.

    Examples
    --------
    >>> import diffvae as dv
    >>> import torch
    >>> def squared_error(module, x, rows, generator):
    ...     return {"loss": (module(x) - x).square().sum(1).mean()}
    >>> x = np.random.default_rng(0).random((40, 5), dtype=np.float32)
    >>> history = dv.train.fit(
    ...     torch.nn.Linear(5, 5), dv.train.RowSource(x, "cpu"), squared_error,
    ...     train_rows=np.arange(30), validation_rows=np.arange(30, 40), max_epochs=3, progress=False,
    ... )
    >>> history.shape
    (3, 2)
    """
    order_rng = _random.generator(rng, "order")
    noise = _random.torch_generator(rng, "noise", device=source.device)
    validation_seed = _random.seed(rng, "validation noise")
    watched = np.asarray(validation_rows, dtype=np.int64)
    cast = torch.autocast(source.device.type, precision) if precision != torch.float32 else nullcontext()

    share = share or Alone()
    batch_size *= share.size

    def terms(rows: np.ndarray, generator: torch.Generator = noise) -> Mapping[str, Tensor]:
        own = share.own(rows)
        with cast:
            return objective(module, source.rows(own), own, share.noise(generator, rows))

    @torch.no_grad()
    def watch() -> dict[str, float]:
        if not len(watched):
            return {}
        again, sums = torch.Generator(source.device).manual_seed(validation_seed), Sums()
        for rows in source.in_order(watched, batch_size):
            sums.add(terms(rows, again), share.count(len(rows)))
        share.pool(sums)
        return sums.means("validation_")

    with for_steps(min(batch_size, len(train_rows)), module):
        return optimise(
            module,
            lambda epoch: ((rows, len(rows)) for rows in source.shuffled(train_rows, batch_size, order_rng)),
            terms,
            watch,
            max_epochs=max_epochs,
            lr=lr,
            patience=patience,
            device=source.device,
            largest=lambda: float(source.rows(np.sort(train_rows)[:LOOKED_AT]).abs().max()),
            progress=progress,
            description=description,
            on_epoch=on_epoch,
            order=order_rng,
            noise=noise,
            share=share,
            checkpoint=None
            if checkpoint is None
            else checkpoint.of(
                {
                    "cells learnt from": _digest(train_rows),
                    "cells watched": _digest(watched),
                    "batch_size": batch_size,
                    "precision": str(precision),
                    "seed of the noise": validation_seed,
                }
            ),
        )


def _digest(rows: np.ndarray) -> str:
    """Return how many rows these are, and which in short."""
    content = np.ascontiguousarray(rows, np.int64).tobytes()
    return f"{len(rows)} ({zlib.crc32(content):08x})"
