"""One training by many processes: each takes its share of every batch, and all make the same step."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from diffvae._errors import DataError
from diffvae.nn._shared_batch import share_batch_norm, unshare_batch_norm
from diffvae.nn._shared_batch import Noise, LocalRows
from diffvae.train._engine import LIBC, best_device
from diffvae.train._guard import TrainingError
from diffvae.train._signals import Request
from diffvae.train._state import Sums

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others: they may read a large file from a slow disk before the first step."""
PR_SET_PDEATHSIG = 1
"""Of prctl.h."""
LOOK_EVERY = 100
"""Steps on a GPU from one look at whether somebody was told to stop to the next: each waits for the card."""


class Alone:
    """One process, which has all of every batch: nothing is shared, and nothing costs time."""

    rank, size = 0, 1
    is_writer = True

    def own(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of a batch that are this process's."""
        return rows

    def noise(self, generator: torch.Generator, rows: np.ndarray) -> Noise:
        """Return the noise for the own rows of a batch."""
        return generator

    def count(self, n_cells: int) -> int:
        """Return how many of so many cells are this process's."""
        return n_cells

    def backward(self, loss: Tensor, n_cells: int) -> None:
        """Compute the gradients of the mean loss of a batch of so many cells in all."""
        loss.backward()

    def gather(self, z: Tensor) -> Tensor:
        """Return the latent places of a whole batch; gradients reach the own ones."""
        return z

    def pool(self, sums: Sums) -> None:
        """Make sums those of all processes."""

    def same(self, value: Tensor) -> Tensor:
        """Return the value that the writing process has."""
        return value

    def wait(self) -> None:
        """Return when all processes have come here."""

    def watch(self, request: Request) -> None:
        """Look at a request to stop, of whichever process."""
        self._request = request

    def is_stopping(self, at_end: bool = False) -> bool:
        """Return whether a process was told to stop; all of them get the same answer."""
        return bool(self._request)

    @contextmanager
    def training(self, module: nn.Module) -> Iterator[None]:
        """Let a module be trained by all processes in the block, and need nobody else after it."""
        yield

    def require_same(self, about: Any) -> None:
        """Raise if the processes were given different things."""


class Group(Alone):
    """One of several processes under ``torch.distributed``.

    A batch of B cells per process is one batch of B times the number of processes, cut into shares. Gradients are
    summed over the processes in one flat buffer, each weighed by its share of the cells, and whether somebody was told
    to stop travels with them. (DistributedDataParallel, which overlaps this with the backward pass, was as fast: two
    processes and the paper's size took 127 to 137 ms a step against 131 to 136. It asks for one forward() that makes
    the whole loss, and for shares of one size.)
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.is_writer = self.rank == 0
        self._request: Request = Request()
        self._asked: Tensor | None = None
        self._steps = 0
        self._n_rows = 0
        self._module: nn.Module | None = None

    def own(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) < self.size:
            raise DataError(f"{len(rows)} cells can't be shared by {self.size} processes; start fewer of them.")
        return np.array_split(rows, self.size)[self.rank]

    def noise(self, generator: torch.Generator, rows: np.ndarray) -> Noise:
        self._n_rows = len(rows)
        return LocalRows(generator, len(rows), sum(self._counts(len(rows))[: self.rank]))

    def count(self, n_cells: int) -> int:
        return self._counts(n_cells)[self.rank]

    def _counts(self, n_cells: int) -> list[int]:
        return [n_cells // self.size + (i < n_cells % self.size) for i in range(self.size)]

    def backward(self, loss: Tensor, n_cells: int) -> None:
        assert self._module is not None
        (loss * (self.count(n_cells) / n_cells)).backward()
        parameters = [p for p in self._module.parameters() if p.requires_grad]
        pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        # whether this process was told to stop travels along: nobody can leave alone
        asked = loss.new_full((1,), float(bool(self._request)))
        flat = torch.cat([*(g.reshape(-1) for g in pieces), asked])
        self._talk(lambda: dist.all_reduce(flat))
        for p, piece in zip(parameters, flat[:-1].split([p.numel() for p in parameters]), strict=True):
            p.grad = piece.view_as(p)
        self._asked, self._steps = flat[-1], self._steps + 1

    def gather(self, z: Tensor) -> Tensor:
        return _Gather.apply(z, self)

    def pool(self, sums: Sums) -> None:
        if sums.total is None:
            return
        n = sums.total.new_tensor([sums.n_cells], dtype=torch.float64)
        together = torch.cat([sums.total.double(), n])
        self._talk(lambda: dist.all_reduce(together))
        sums.total, sums.n_cells = together[:-1].float(), int(together[-1])

    def same(self, value: Tensor) -> Tensor:
        value = value.clone()
        self._talk(lambda: dist.broadcast(value, 0))
        return value

    def wait(self) -> None:
        self._talk(dist.barrier)

    def is_stopping(self, at_end: bool = False) -> bool:
        if self._asked is None:
            return False
        if self._asked.device.type != "cpu" and not at_end and self._steps % LOOK_EVERY:
            return False
        asked = bool(self._asked)
        if asked:
            self._request.number = self._request.number or signal.SIGTERM  # told by another one: as if by SIGTERM
        return asked

    @contextmanager
    def training(self, module: nn.Module) -> Iterator[None]:
        self._module = module
        share_batch_norm(module, lambda x: _Total.apply(x, self))
        try:
            yield
        finally:
            self._module = None
            unshare_batch_norm(module)

    def require_same(self, about: Any) -> None:
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        mine = torch.tensor([zlib.crc32(repr(about).encode())], device=device)
        low, high = mine.clone(), mine.clone()
        self._talk(lambda: (dist.all_reduce(low, dist.ReduceOp.MIN), dist.all_reduce(high, dist.ReduceOp.MAX)))
        if int(low) != int(high):
            raise DataError("The processes were given different cells or settings; give all of them the same.")

    def _talk(self, exchange: Callable[[], Any]) -> None:
        try:
            exchange()
        except RuntimeError as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise TrainingError(
                f"Process {self.rank} of {self.size} has lost another one, which has died or is stuck ({reason}); what "
                "it said stands elsewhere. Start all of them again, with --resume if there is a checkpoint."
            ) from error


class _Total(torch.autograd.Function):
    """Sum over the processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        total = x.clone()
        group._talk(lambda: dist.all_reduce(total))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        ctx.group._talk(lambda: dist.all_reduce(total))
        return total, None


class _Gather(torch.autograd.Function):
    """Rows of all processes, in the order of the batch.

    Every process computes the same statistic of them, and the gradient in its own rows is all it needs: no gradient
    travels. It is scaled up by what :meth:`Group.backward` scales the loss of the process down by.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, group: Group) -> Tensor:
        sizes = group._counts(group._n_rows)
        padded = z.new_zeros(max(sizes), z.shape[1])
        padded[: len(z)] = z
        parts = [torch.empty_like(padded) for _ in sizes]
        group._talk(lambda: dist.all_gather(parts, padded))
        ctx.first, ctx.n, ctx.all = sum(sizes[: group.rank]), len(z), sum(sizes)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0][ctx.first : ctx.first + ctx.n] * (ctx.all / ctx.n), None


_current: ContextVar[Alone] = ContextVar("share")


def share() -> Alone:
    """Return the group that :func:`processes` has joined, or nobody."""
    return _current.get(None) or Alone()


def is_launched() -> bool:
    """Return whether torchrun started this process, and others with it."""
    return dist.is_available() and dist.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def processes(device: str = "auto") -> Iterator[Alone]:
    """Join the processes that ``torchrun`` started: in the block they train one model together.

    Parameters
    ----------
    device
        As for :meth:`diffvae.model.DiffVAE.train`. On GPUs each process takes that of its local rank and talks by NCCL,
        otherwise by Gloo.

    Yields
    ------
    Who is who: ``rank``, ``size``, ``is_writer``. Without torchrun there is one process, and all stays as it is.

    Examples
    --------
    >>> with processes("cpu") as share:
    ...     share.rank, share.size, share.is_writer
    (0, 1, True)
    """
    if not is_launched():
        yield Alone()
        return
    if hasattr(LIBC, "prctl"):  # Linux: who loses torchrun itself ends, too, and doesn't wait for it
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    on_gpu = best_device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    group = Group()
    token = _current.set(group)
    try:
        yield group
    finally:
        _current.reset(token)
        dist.destroy_process_group()
