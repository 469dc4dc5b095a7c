"""Noise and batch normalisation for batches that are divided among several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LocalRows:
    """A generator with the same state in all processes, and the rows of a batch that this process computes.

    Each process draws the noise of the whole batch and takes its rows, so that the noise does not depend on the number
    of processes.

    Attributes
    ----------
    generator
        The generator.
    n_rows
        Number of rows of the whole batch.
    first
        First row of this process.
    """

    generator: torch.Generator
    n_rows: int
    first: int


Noise: TypeAlias = torch.Generator | LocalRows | None


def uniform(shape: Sequence[int], noise: Noise, device: torch.device) -> Tensor:
    """Return numbers from [0, 1), rows x columns."""
    return _draw(torch.rand, shape, noise, device)


def kept(shape: Sequence[int], share: float, noise: Noise, device: torch.device) -> Tensor:
    """Return which of rows x columns values stay when a share is dropped; two random bytes decide on each."""

    def draw(n_rows: int, n_columns: int, **options: Any) -> Tensor:
        words = torch.empty((n_rows, -(-n_columns // 4)), dtype=torch.int64, device=options["device"])
        words.random_(-(2**63), None, generator=options["generator"])
        return words.view(torch.int16)[:, :n_columns]

    return _draw(draw, shape, noise, device) >= round(share * 2**16) - 2**15


def normal(shape: Sequence[int], noise: Noise, device: torch.device) -> Tensor:
    """Return numbers from N(0, 1), rows x columns."""
    return _draw(torch.randn, shape, noise, device)


def common(noise: Noise) -> torch.Generator | None:
    """Return the generator for noise that is the same in all processes."""
    return noise.generator if isinstance(noise, LocalRows) else noise


def _draw(draw: Callable[..., Any], shape: Sequence[int], noise: Noise, device: torch.device) -> Tensor:
    if not isinstance(noise, LocalRows):
        return draw(*shape, generator=noise, device=device)
    whole = draw(noise.n_rows, *shape[1:], generator=noise.generator, device=device)
    return whole[noise.first : noise.first + shape[0]]


class SharedBatchNorm(nn.BatchNorm1d):
    """Batch norm with the mean and variance of the whole batch, on any device (torch's SyncBatchNorm needs a GPU).

    One exchange sums x - running mean and its square over the processes. Since the mean changes little in a step, the
    variance loses few digits. In evaluation mode it is a plain batch norm.

    Parameters
    ----------
    plain
        The layer that it replaces; weights and running statistics are shared with it.
    total
        Returns the sum of a tensor over all processes; gradients pass through it.
    """

    def __init__(self, plain: nn.BatchNorm1d, total: Callable[[Tensor], Tensor]) -> None:
        super().__init__(plain.num_features, plain.eps, plain.momentum)
        self.weight, self.bias = plain.weight, plain.bias
        self.running_mean, self.running_var = plain.running_mean, plain.running_var
        self.num_batches_tracked = plain.num_batches_tracked
        self._total = total

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised batch."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        shift = self.running_mean.clone()
        shifted = x.float() - shift
        sums = self._total(torch.cat([shifted.sum(0), shifted.square().sum(0), shifted.new_full((1,), len(x))]))
        n, (first, second) = sums[-1], sums[:-1].view(2, -1)
        mean = first / n
        variance = (second / n - mean.square()).clamp_min(0)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(shift + mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        out = (shifted - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return out.to(x.dtype)


def share_batch_norm(module: nn.Module, total: Callable[[Tensor], Tensor]) -> None:
    """Replace every batch norm of a module with a :class:`SharedBatchNorm`."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d):
            setattr(module, name, SharedBatchNorm(child, total))
        else:
            share_batch_norm(child, total)


def unshare_batch_norm(module: nn.Module) -> None:
    """Restore plain batch norms after the training."""
    for name, child in module.named_children():
        if isinstance(child, SharedBatchNorm):
            plain = nn.BatchNorm1d(child.num_features, child.eps, child.momentum, device=child.weight.device)
            plain.load_state_dict(child.state_dict())
            setattr(module, name, plain.train(child.training))
        else:
            unshare_batch_norm(child)
