"""The one training loop: any module, any objective, batches of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from diffvae._progress import progress_bar
from diffvae.train._checkpoint import Checkpoint, keeping
from diffvae.train._distributed import Alone
from diffvae.train._engine import clear_denormal_moments, keep_freed_memory
from diffvae.train._guard import Guard
from diffvae.train._state import Best, State

CLEAR_EVERY = 100
"""Steps between two looks for moments that have become too small to matter."""


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
    """Minimise an objective over batches of any kind with Adam; :func:`diffvae.train.fit` is this for rows of a matrix.

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
        As in :func:`diffvae.train.fit`.
    device
        Where the module is.
    largest
        Returns the largest value that reaches the network: called when the loss is lost, to say why.
    order, noise
        The generators that ``batches`` draws from when an epoch begins, and ``objective`` in each batch: a checkpoint
        holds them.
    share
        As in :func:`diffvae.train.fit`; the batches are whole, and their numbers of cells those of all processes.
    checkpoint
        As in :func:`diffvae.train.fit`; ``max_epochs``, ``lr``, ``patience`` and the kind of device are added to what
        it is about.

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
    share = share or Alone()
    state = State(module, optimizer, Best(module, patience), order, noise)
    guard = Guard(state, lr, largest)
    if checkpoint is not None:
        settings = {"max_epochs": max_epochs, "lr": lr, "patience": patience}
        checkpoint = checkpoint.of({**settings, "device": device.type})  # noise is drawn otherwise on another one
    keep_freed_memory()
    with (
        share.training(module),
        progress_bar(description, max_epochs, show=progress and share.is_writer) as advance,
        keeping(checkpoint, state, share) as keeper,
    ):
        guard.resumed()
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
