"""The one training loop: any module, any objective, batches of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from diffvae import _random
from diffvae._progress import progress_bar
from diffvae.train._data import Source
from diffvae.train._engine import clear_denormal_moments, keep_freed_memory

CLEAR_EVERY = 100
"""Steps between two looks for moments that have become too small to matter."""


class TrainingError(RuntimeError):
    """Training can't go on; the message says at which epoch, why, and what to try.

    Examples
    --------
    >>> import diffvae as dv
    >>> import torch
    >>> def broken(module, x, rows, generator):
    ...     return {"loss": module(x).sum() * float("nan")}
    >>> source = dv.train.RowSource(np.eye(3, dtype=np.float32), "cpu")
    >>> rows = {"train_rows": np.arange(3), "validation_rows": np.arange(0)}
    >>> try:
    ...     dv.train.fit(torch.nn.Linear(3, 3), source, broken, **rows, progress=False)
    ... except dv.train.TrainingError:
    ...     print("stopped")
    stopped
    """


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

    def __call__(
        self, module: Any, x: Tensor, rows: np.ndarray, generator: torch.Generator
    ) -> Mapping[str, Tensor]: ...


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

    Returns
    -------
    One row per epoch (index ``epoch``, from 1), columns ``train_<term>`` and ``validation_<term>``.

    Raises
    ------
    TrainingError
        If the loss is no longer finite, or has grown a hundredfold since the first batch.

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

    def terms(rows: np.ndarray) -> Mapping[str, Tensor]:
        with cast:
            return objective(module, source.rows(rows), rows, noise)

    return optimise(
        module,
        lambda: ((rows, len(rows)) for rows in source.shuffled(train_rows, batch_size, order_rng)),
        terms,
        lambda: (
            _evaluate(module, source, objective, watched, batch_size, validation_seed, cast) if len(watched) else {}
        ),
        max_epochs=max_epochs,
        lr=lr,
        patience=patience,
        device=source.device,
        progress=progress,
        description=description,
        on_epoch=on_epoch,
    )


def optimise(
    module: nn.Module,
    batches: Callable[[], Iterable[tuple[Any, int]]],
    objective: Callable[[Any], Mapping[str, Tensor]],
    evaluate: Callable[[], Mapping[str, float]],
    *,
    max_epochs: int,
    lr: float,
    patience: int | None = None,
    device: torch.device,
    progress: bool = True,
    description: str = "training",
    on_epoch: OnEpoch | None = None,
) -> pd.DataFrame:
    """Minimise an objective over batches of any kind with Adam; :func:`fit` is this for rows of a matrix.

    Parameters
    ----------
    module
        On ``device``; left in evaluation mode.
    batches
        Called once per epoch for (batch, number of cells in it).
    objective
        Returns the terms of a batch by name, means over its cells, the one to minimise under ``"loss"``.
    evaluate
        Called after each epoch, with the module in evaluation mode, for what is watched, ``"validation_loss"`` among
        it; empty where nothing is.
    max_epochs, lr, patience, progress, description, on_epoch
        As in :func:`fit`.
    device
        Where the module is.

    Returns
    -------
    One row per epoch, as :func:`fit`.

    Examples
    --------
    >>> import diffvae as dv
    >>> import torch
    >>> module, x = torch.nn.Linear(3, 3), torch.eye(3)
    >>> history = dv.train.optimise(
    ...     module, lambda: [(x, 3)], lambda batch: {"loss": (module(batch) - batch).square().mean()}, dict,
    ...     max_epochs=2, lr=1e-3, device=torch.device("cpu"), progress=False,
    ... )
    >>> len(history)
    2
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=lr, fused=True)
    best = _Best(module, patience)
    records: list[dict[str, float]] = []
    begun: Tensor | None = None  # the loss of the first batch, read at the end of an epoch
    step = 0
    keep_freed_memory()
    with progress_bar(description, max_epochs, show=progress) as advance:
        for epoch in range(1, max_epochs + 1):
            module.train()
            sums = _Sums()
            for batch, n_cells in batches():
                terms = objective(batch)
                optimizer.zero_grad(set_to_none=True)
                terms["loss"].backward()
                optimizer.step()
                sums.add(terms, n_cells)
                step += 1
                if begun is None:
                    begun = terms["loss"].detach()
                if device.type == "cpu" and step % CLEAR_EVERY == 0:
                    clear_denormal_moments(optimizer)
            module.eval()
            record = sums.means("train_") | dict(evaluate())
            assert begun is not None
            _require_sane(record, float(begun), epoch, lr)
            records.append(record)
            loss = record.get("validation_loss", record["train_loss"])
            advance(f"loss {loss:.4g}")
            if on_epoch is not None:
                on_epoch(Epoch(epoch, record, module, optimizer))
            if best.is_past(loss):
                break
    best.restore()
    return pd.DataFrame(records, index=pd.RangeIndex(1, len(records) + 1, name="epoch"))


class _Best:
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
        if self.weights is not None:
            self.module.load_state_dict(self.weights)


class _Sums:
    """Sums of the terms over cells, kept on the device until they are read."""

    def __init__(self) -> None:
        self.names: Sequence[str] = ()
        self.total: Tensor | None = None
        self.n_cells = 0

    def add(self, terms: Mapping[str, Tensor], n_cells: int) -> None:
        values = torch.stack([t.detach().float() for t in terms.values()]) * n_cells
        self.names = tuple(terms)
        self.total = values if self.total is None else self.total.add_(values)
        self.n_cells += n_cells

    def means(self, prefix: str) -> dict[str, float]:
        assert self.total is not None
        values = (self.total / self.n_cells).tolist()
        return {prefix + name: value for name, value in zip(self.names, values, strict=True)}


@torch.no_grad()
def _evaluate(
    module: nn.Module,
    source: Source,
    objective: Objective,
    rows: np.ndarray,
    batch_size: int,
    noise_seed: int,
    cast: torch.autocast | nullcontext,
) -> dict[str, float]:
    noise = torch.Generator(device=source.device).manual_seed(noise_seed)
    sums = _Sums()
    for batch in source.in_order(rows, batch_size):
        with cast:
            sums.add(objective(module, source.rows(batch), batch, noise), len(batch))
    return sums.means("validation_")


def _require_sane(record: Mapping[str, float], begun: float, epoch: int, lr: float) -> None:
    bad = [name for name, value in record.items() if not math.isfinite(value)]
    if not bad and record["train_loss"] > begun + 100 * (abs(begun) + 1):
        bad = ["train_loss"]  # finite still, but lost: no training comes back from a hundred times where it began
    if bad:
        raise TrainingError(
            f"At epoch {epoch} {bad[-1].replace('_', ' ')} is {record[bad[-1]]:.4g}: the training diverged. "
            f"Lower the learning rate (it is {lr:g}) and make sure that the layer is scaled to [0, 1]."
        )
