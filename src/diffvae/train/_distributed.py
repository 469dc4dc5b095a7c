"""Training by several processes: each computes a part of every batch, and all make the same step."""

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
from diffvae.nn._shared_batch import LocalRows, Noise, share_batch_norm, unshare_batch_norm
from diffvae.train._engine import LIBC, best_device
from diffvae.train._guard import TrainingError
from diffvae.train._state import Sums

TIMEOUT = timedelta(minutes=10)
"""Time that a process waits for the others, which may read a large file from a slow disk before the first step."""
PR_SET_PDEATHSIG = 1
"""Constant of prctl.h."""


class LostProcessError(TrainingError):
    """Another process of the training has ended or does not respond."""


class SingleProcess:
    """A training by one process, which computes every batch alone."""

    rank, size = 0, 1
    is_writer = True

    def local_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of a batch that this process computes."""
        return rows

    def local_noise(self, generator: torch.Generator, rows: np.ndarray) -> Noise:
        """Return the noise for the local rows of a batch."""
        return generator

    def n_local(self, n_cells: int) -> int:
        """Return how many cells of a batch of ``n_cells`` this process computes."""
        return n_cells

    def backward(self, loss: Tensor, n_cells: int) -> None:
        """Compute the gradients of the mean loss of a batch of ``n_cells`` over all processes."""
        loss.backward()

    def gather(self, z: Tensor) -> Tensor:
        """Return the latent coordinates of the whole batch; gradients reach the local rows."""
        return z

    def pool(self, sums: Sums) -> None:
        """Add up the sums of all processes, in place."""

    def broadcast(self, value: Tensor) -> Tensor:
        """Return the value of the first process."""
        return value

    @contextmanager
    def training(self, module: nn.Module) -> Iterator[None]:
        """Connect a module with the other processes for the duration of the block."""
        yield

    def require_same(self, about: Any) -> None:
        """Raise DataError if the processes have different values."""


class ProcessGroup(SingleProcess):
    """One of several processes under ``torch.distributed``.

    With B cells per process, a batch has B times the number of processes, and each process computes a part of it.
    Gradients are summed over the processes in one buffer, weighted by the numbers of cells. When one process ends, the
    others raise :class:`LostProcessError`.

    DistributedDataParallel, which overlaps the exchange with the backward pass, is equally fast (127 to 137 ms per step
    against 131 to 136 with two processes at the paper's size), but it needs the loss in forward() and parts of equal
    size.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.is_writer = self.rank == 0
        self._n_rows = 0
        self._module: nn.Module | None = None

    def local_rows(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) < self.size:
            raise DataError(f"{len(rows)} cells can't be divided among {self.size} processes; start fewer processes.")
        return np.array_split(rows, self.size)[self.rank]

    def local_noise(self, generator: torch.Generator, rows: np.ndarray) -> Noise:
        self._n_rows = len(rows)
        return LocalRows(generator, len(rows), sum(self._sizes(len(rows))[: self.rank]))

    def n_local(self, n_cells: int) -> int:
        return self._sizes(n_cells)[self.rank]

    def _sizes(self, n_cells: int) -> list[int]:
        return [n_cells // self.size + (i < n_cells % self.size) for i in range(self.size)]

    def backward(self, loss: Tensor, n_cells: int) -> None:
        assert self._module is not None
        (loss * (self.n_local(n_cells) / n_cells)).backward()
        parameters = [p for p in self._module.parameters() if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        self._exchange(lambda: dist.all_reduce(flat))
        for p, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = gradient.view_as(p)

    def gather(self, z: Tensor) -> Tensor:
        return _Gather.apply(z, self)

    def pool(self, sums: Sums) -> None:
        if sums.total is None:
            return
        n = sums.total.new_tensor([sums.n_cells], dtype=torch.float64)
        together = torch.cat([sums.total.double(), n])
        self._exchange(lambda: dist.all_reduce(together))
        sums.total, sums.n_cells = together[:-1].float(), int(together[-1])

    def broadcast(self, value: Tensor) -> Tensor:
        value = value.clone()
        self._exchange(lambda: dist.broadcast(value, 0))
        return value

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
        self._exchange(lambda: (dist.all_reduce(low, dist.ReduceOp.MIN), dist.all_reduce(high, dist.ReduceOp.MAX)))
        if int(low) != int(high):
            raise DataError("The processes were given different cells or settings; give all of them the same.")

    def _exchange(self, exchange: Callable[[], Any]) -> None:
        try:
            exchange()
        except RuntimeError as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise LostProcessError(
                f"Process {self.rank} of {self.size} has lost another process, which has ended or is stuck ({reason}); "
                "see the message of that process. Start all processes again, with --resume if there is a checkpoint."
            ) from error


class _Total(torch.autograd.Function):
    """Sum over the processes, for values and gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone()
        group._exchange(lambda: dist.all_reduce(total))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        ctx.group._exchange(lambda: dist.all_reduce(total))
        return total, None


class _Gather(torch.autograd.Function):
    """Rows of all processes, in the order of the batch.

    Every process computes the same statistic of all rows and needs only the gradient of its local rows, so that
    gradients are not exchanged. They are scaled up by the factor by which :meth:`ProcessGroup.backward` scales the loss
    down.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, group: ProcessGroup) -> Tensor:
        sizes = group._sizes(group._n_rows)
        padded = z.new_zeros(max(sizes), z.shape[1])
        padded[: len(z)] = z
        parts = [torch.empty_like(padded) for _ in sizes]
        group._exchange(lambda: dist.all_gather(parts, padded))
        ctx.first, ctx.n, ctx.all = sum(sizes[: group.rank]), len(z), sum(sizes)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0][ctx.first : ctx.first + ctx.n] * (ctx.all / ctx.n), None


_current: ContextVar[SingleProcess] = ContextVar("share")


def share() -> SingleProcess:
    """Return the group that :func:`processes` has joined, or a single process."""
    return _current.get(None) or SingleProcess()


def is_launched() -> bool:
    """Return whether torchrun started this process together with others."""
    return dist.is_available() and dist.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def processes(device: str = "auto") -> Iterator[SingleProcess]:
    """Join the processes that ``torchrun`` started; in the block they train one model together.

    Parameters
    ----------
    device
        As for :meth:`diffvae.model.DiffVAE.train`. On GPUs each process uses the GPU of its local rank and communicates
        through NCCL, otherwise through Gloo.

    Yields
    ------
    The process: ``rank``, ``size``, ``is_writer``. Without torchrun there is one process.

    Examples
    --------
    >>> with processes("cpu") as share:
    ...     share.rank, share.size, share.is_writer
    (0, 1, True)
    """
    if not is_launched():
        yield SingleProcess()
        return
    if hasattr(LIBC, "prctl"):  # Linux: end when torchrun is killed
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    on_gpu = best_device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    group = ProcessGroup()
    token = _current.set(group)
    try:
        yield group
    finally:
        _current.reset(token)
        dist.destroy_process_group()
