"""The one training loop: any module, any objective, batches of rows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from diffvae import _random
from diffvae._progress import progress_bar
from diffvae.nn._noise import Noise
from diffvae.train._checkpoint import Checkpoint, keeping
from diffvae.train._data import Source
from diffvae.train._distributed import Alone
from diffvae.train._engine import clear_denormal_moments, keep_freed_memory
from diffvae.train._guard import Guard
from diffvae.train._state import Best, State, Sums

LOOKED_AT = 4096
"""Cells in which a cause is looked for, when a training diverges."""
CLEAR_EVERY = 100
"""Steps between two looks for moments that have become too small to matter."""


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


@dataclass(frozen=True)
class Epoch:
    """What there is at the end of an epoch, for those who watch a training.

    Attributes
    ----------
    number
        From 1.
    record
        The epoch's row of the history: ``train_<term>`` and ``validation_<term>``.
    module
        The network, in evaluation mode.
    optimizer
        Adam, with its moments.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> seen = []
    >>> model = dv.model.DiffVAE(n_latent=5)
    >>> _ = model.train(adata, max_epochs=2, progress=False, on_epoch=lambda epoch: seen.append(epoch.number))
    >>> seen
    [1, 2]
    """

    number: int
    record: Mapping[str, float]
    module: nn.Module
    optimizer: torch.optim.Optimizer


OnEpoch: TypeAlias = Callable[[Epoch], None]


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


def optimise(
    module: nn.Module,
    batches: Callable[[int], Iterable[tuple[Any, int]]],
    objective: Callable[[Any], Mapping[str, Tensor]],
    evaluate: Callable[[], Mapping[str, float]],
    *,
    max_epochs: int,
    lr: float,
    patience: int | None = None,
    device: torch.device,
    largest: Callable[[], float],
    progress: bool = True,
    description: str = "training",
    on_epoch: OnEpoch | None = None,
    order: np.random.Generator | None = None,
    noise: torch.Generator | None = None,
    checkpoint: Checkpoint | None = None,
    share: Alone | None = None,
) -> pd.DataFrame:
    """Minimise an objective over batches of any kind with Adam; :func:`fit` is this for rows of a matrix.

    Parameters
    ----------
    module
        On ``device``; left in evaluation mode.
    batches
        Called once per epoch, with its number from 1, for (batch, number of cells in it).
    objective
        Returns the terms of a batch by name, means over its cells, the one to minimise under ``"loss"``.
    evaluate
        Called after each epoch, with the module in evaluation mode, for what is watched, ``"validation_loss"`` among
        it; empty where nothing is.
    max_epochs, lr, patience, progress, description, on_epoch
        As in :func:`fit`.
    device
        Where the module is.
    largest
        Returns the largest value that reaches the network: called when the loss is lost, to say why.
    order, noise
        The generators that ``batches`` draws from when an epoch begins, and ``objective`` in each batch: a checkpoint
        holds them.
    share
        As in :func:`fit`; the batches are whole, and their numbers of cells those of all processes.
    checkpoint
        As in :func:`fit`; ``max_epochs``, ``lr`` and ``patience`` are added to what it is about.

    Returns
    -------
    One row per epoch, as :func:`fit`.

    Examples
    --------
    >>> import diffvae as dv
    >>> import torch
    >>> module, x = torch.nn.Linear(3, 3), torch.eye(3)
    >>> history = dv.train.optimise(
    ...     module, lambda epoch: [(x, 3)], lambda batch: {"loss": (module(batch) - batch).square().mean()}, dict,
    ...     max_epochs=2, lr=1e-3, device=torch.device("cpu"), largest=lambda: 1.0, progress=False,
    ... )
    >>> len(history)
    2
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=lr, fused=True)
    share = share or Alone()
    state = State(module, optimizer, Best(module, patience), order, noise)
    guard = Guard(state, lr, largest)
    if checkpoint is not None:
        checkpoint = checkpoint.of({"max_epochs": max_epochs, "lr": lr, "patience": patience})
    keep_freed_memory()
    with (
        share.training(module),
        progress_bar(description, max_epochs, show=progress and share.is_writer) as advance,
        keeping(checkpoint, state, share) as keeper,
    ):
        for _ in state.records:
            advance()
        while state.epoch <= max_epochs and not state.finished:
            module.train()
            for batch, n_cells in state.remaining(batches):
                terms = objective(batch)
                optimizer.zero_grad(set_to_none=True)
                share.backward(terms["loss"], n_cells)
                optimizer.step()
                state.batch_done(terms, share.count(n_cells))
                if device.type == "cpu" and state.step % CLEAR_EVERY == 0:
                    clear_denormal_moments(optimizer)
                keeper.after_batch()
            module.eval()
            share.pool(state.sums)
            record = state.sums.means("train_") | dict(evaluate())
            assert state.begun is not None
            state.begun = share.same(state.begun)
            guard.require_sound(record)
            state.records.append(record)
            loss = record.get("validation_loss", record["train_loss"])
            advance(f"loss {loss:.4g}")
            if on_epoch is not None:
                on_epoch(Epoch(state.epoch, record, module, optimizer))
            state.finished = state.best.is_past(loss)
            state.epoch_done()
            keeper.after_epoch(is_last=state.finished or state.epoch > max_epochs)
        module.eval()
    state.best.restore()
    return pd.DataFrame(state.records, index=pd.RangeIndex(1, len(state.records) + 1, name="epoch"))
