"""The training loop: for batches of any kind, and for rows of a matrix."""

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
from diffvae._core.runtime import for_steps, progress_bar
from diffvae.nn._shared_batch import Noise
from diffvae.train._checkpoint import Checkpoint, checkpointing
from diffvae.train._data import Source
from diffvae.train._distributed import SingleProcess
from diffvae.train._engine import clear_denormal_moments, keep_freed_memory
from diffvae.train._guard import DivergenceMonitor
from diffvae.train._state import BestWeights, State, Sums

CLEAR_EVERY = 100
"""Steps between two calls of :func:`clear_denormal_moments`."""
CELLS_EXAMINED = 4096
"""Cells whose largest value is reported when a training diverges."""


@dataclass(frozen=True)
class Epoch:
    """A finished epoch, as ``on_epoch`` receives it.

    Attributes
    ----------
    number
        Number of the epoch, from 1.
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
    share: SingleProcess | None = None,
    least_steps: int = 0,
    may_stop: Callable[[], bool] | None = None,
) -> pd.DataFrame:
    """Minimise an objective over batches of any kind with Adam; :func:`diffvae.train.fit` is this for rows of a matrix.

    Parameters
    ----------
    module
        On ``device``; left in evaluation mode.
    batches
        Called once per epoch with its number (from 1); returns pairs of a batch and its number of cells.
    objective
        Returns the terms of a batch by name, as means over its cells; ``"loss"`` is minimised.
    evaluate
        Called after each epoch with the module in evaluation mode; returns the record of the validation cells with
        ``"validation_loss"``, or an empty dictionary.
    max_epochs, lr, patience, progress, description, on_epoch, least_steps, may_stop
        As in :func:`diffvae.train.fit`.
    device
        Device of the module.
    largest
        Returns the largest value of the input; called to explain a divergence.
    order, noise
        The generators that ``batches`` and ``objective`` use; a checkpoint includes them.
    share
        As in :func:`diffvae.train.fit`; ``batches`` gives whole batches, with the cells of all processes.
    checkpoint
        As in :func:`diffvae.train.fit`; ``max_epochs``, ``lr``, ``patience`` and the type of device are added to
        ``about``.

    Returns
    -------
    One row per epoch, as :func:`diffvae.train.fit`.

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
    share = share or SingleProcess()
    state = State(module, optimizer, BestWeights(module, patience), order, noise)
    monitor = DivergenceMonitor(state, lr, largest)
    if checkpoint is not None:
        settings = {"max_epochs": max_epochs, "lr": lr, "patience": patience}
        checkpoint = checkpoint.of({**settings, "device": device.type})  # noise differs between types of devices
    keep_freed_memory()
    with (
        share.training(module),
        progress_bar(description, max_epochs, show=progress and share.is_writer) as advance,
        checkpointing(checkpoint, state, share) as epoch_done,
    ):
        monitor.resume()
        for _ in state.records:
            advance()
        while state.epoch <= max_epochs and not state.finished:
            epoch, sums = state.epoch, Sums()
            module.train()
            for batch, n_cells in batches(epoch):
                terms = objective(batch)
                optimizer.zero_grad(set_to_none=True)
                share.backward(terms["loss"], n_cells)
                optimizer.step()
                sums.add(terms, share.n_local(n_cells))
                state.step += 1
                if state.first_loss is None:
                    state.first_loss = terms["loss"].detach()
                if device.type == "cpu" and state.step % CLEAR_EVERY == 0:
                    clear_denormal_moments(optimizer)
            module.eval()
            share.pool(sums)
            record = sums.means("train_") | dict(evaluate())
            assert state.first_loss is not None
            state.first_loss = share.broadcast(state.first_loss)
            monitor.require_sound(record)
            state.records.append(record)
            loss = record.get("validation_loss", record["train_loss"])
            advance(f"loss {loss:.4g}")
            if on_epoch is not None:
                on_epoch(Epoch(epoch, record, module, optimizer))
            state.finished = state.best.update(loss)
            if state.finished and state.step < least_steps:
                state.finished = False
            if state.finished and may_stop is not None:
                with state.best.in_place():
                    allowed = torch.tensor(float(may_stop()), device=device)
                state.finished = bool(share.broadcast(allowed))
                if not state.finished:
                    state.best.forget()
            epoch_done(state.finished or epoch == max_epochs)
        module.eval()
    state.best.restore()
    return pd.DataFrame(state.records, index=pd.RangeIndex(1, len(state.records) + 1, name="epoch"))


class Objective(Protocol):
    """A loss: ``objective(module, x, rows, generator)``.

    It returns means over the cells of the batch by name; ``"loss"`` is minimised. ``rows`` are the numbers of the
    cells, for example to look up labels; ``generator`` draws the noise.

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
    share: SingleProcess | None = None,
    least_steps: int = 0,
    may_stop: Callable[[], bool] | None = None,
) -> pd.DataFrame:
    """Minimise an objective with Adam and leave the module in evaluation mode.

    The terms are summed on the device and read once per epoch, so that no step waits for the device. Validation uses
    the same noise in each epoch, so that its curve changes with the weights only.

    Parameters
    ----------
    module
        On ``source.device``.
    source
        The cells.
    objective
        See :class:`Objective`.
    train_rows, validation_rows
        Numbers of the training cells and of the validation cells; the latter may be empty.
    max_epochs, batch_size, lr
        ``batch_size`` is an upper limit; the batches of an epoch have equal sizes.
    patience
        Stop when the validation loss has not improved for this many epochs, and restore the best weights.
    precision
        Type of the matrix products; the weights are float32.
    rng
        Seed or generator of the order of cells and of the noise.
    progress
        Show a bar on a terminal.
    description
        Text beside the bar.
    on_epoch
        Called with an :class:`Epoch` after each epoch; an exception in it ends the training.
    checkpoint
        File from which the training can continue; None writes none.
    share
        The processes that train one module together, each on a part of every batch; None for one process.
        ``batch_size`` is per process.
    least_steps
        Steps before which ``patience`` doesn't end the training.
    may_stop
        Called when ``patience`` has run out, with the best weights in the module; False trains on, and the best weights
        are sought anew.

    Returns
    -------
    One row per epoch (index ``epoch``, from 1), columns ``train_<term>`` and ``validation_<term>``.

    Raises
    ------
    TrainingError
        If the loss is no longer finite, or has grown a hundredfold since the first batch. The module then has the
        weights of an earlier epoch (with early stopping the best one), with which ``history`` of the error ends.

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
    validation_rows = np.asarray(validation_rows, dtype=np.int64)
    cast = torch.autocast(source.device.type, precision) if precision != torch.float32 else nullcontext()

    share = share or SingleProcess()
    batch_size *= share.size
    if checkpoint is not None:
        cells = {"training cells": _digest(train_rows), "validation cells": _digest(validation_rows)}
        settings = {"batch_size": batch_size, "precision": str(precision), "seed of the noise": validation_seed}
        checkpoint = checkpoint.of({**cells, **settings})

    def terms(rows: np.ndarray, generator: torch.Generator = noise) -> Mapping[str, Tensor]:
        local = share.local_rows(rows)
        with cast:
            return objective(module, source.rows(local), local, share.local_noise(generator, rows))

    @torch.no_grad()
    def validate() -> dict[str, float]:
        if not len(validation_rows):
            return {}
        generator, sums = torch.Generator(source.device).manual_seed(validation_seed), Sums()
        for rows in source.in_order(validation_rows, batch_size):
            sums.add(terms(rows, generator), share.n_local(len(rows)))
        share.pool(sums)
        return sums.means("validation_")

    with for_steps(min(batch_size, len(train_rows)), module):
        return optimise(
            module,
            lambda epoch: ((rows, len(rows)) for rows in source.shuffled(train_rows, batch_size, order_rng)),
            terms,
            validate,
            max_epochs=max_epochs,
            lr=lr,
            patience=patience,
            device=source.device,
            largest=lambda: float(source.rows(np.sort(train_rows)[:CELLS_EXAMINED]).abs().max()),
            progress=progress,
            description=description,
            on_epoch=on_epoch,
            order=order_rng,
            noise=noise,
            share=share,
            checkpoint=checkpoint,
            least_steps=least_steps,
            may_stop=may_stop,
        )


def _digest(rows: np.ndarray) -> str:
    """Return the number of rows and a checksum of them."""
    content = np.ascontiguousarray(rows, np.int64).tobytes()
    return f"{len(rows)} ({zlib.crc32(content):08x})"
