"""Noise and batch normalisation for a batch whose rows are spread over several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LocalRows:
    """A generator that is in the same state in all processes, and the rows of a batch that this process has.

    Each process draws for the whole batch and takes its rows, so that the noise of a batch does not depend on the
    number of processes.

    Attributes
    ----------
    generator
        The generator.
    n_rows
        Rows of the whole batch.
    first
        Number of the first row of this process.
    """

    generator: torch.Generator
    n_rows: int
    first: int


Noise: TypeAlias = torch.Generator | LocalRows | None


def uniform(shape: Sequence[int], noise: Noise, device: torch.device) -> Tensor:
    """Return numbers from [0, 1), rows x columns."""
    return _draw(torch.rand, shape, noise, device)


def normal(shape: Sequence[int], noise: Noise, device: torch.device) -> Tensor:
    """Return numbers from N(0, 1), rows x columns."""
    return _draw(torch.randn, shape, noise, device)


def common(noise: Noise) -> torch.Generator | None:
    """Return the generator for noise that does not belong to rows; every process draws the same."""
    return noise.generator if isinstance(noise, LocalRows) else noise


def _draw(draw: Callable[..., Any], shape: Sequence[int], noise: Noise, device: torch.device) -> Tensor:
    if not isinstance(noise, LocalRows):
        return draw(*shape, generator=noise, device=device)
    whole = draw(noise.n_rows, *shape[1:], generator=noise.generator, device=device)
    return whole[noise.first : noise.first + shape[0]]


class SharedBatchNorm(nn.BatchNorm1d):
    """Batch norm whose means and variances are those of the whole batch, on any device (torch's own needs a GPU).

    The sums of the distances to the running mean and of their squares are taken over the processes in one exchange.
    The mean moves little in a step, so that their difference loses few digits. In evaluation it is a plain batch norm.

    Parameters
    ----------
    plain
        The layer that it replaces; weights and running statistics stay the same tensors.
    total
        Returns the sum of a tensor over all processes, and lets gradients through.
    """

    def __init__(self, plain: nn.BatchNorm1d, total: Callable[[Tensor], Tensor]) -> None:
        super().__init__(plain.num_features, plain.eps, plain.momentum)
        self.weight, self.bias = plain.weight, plain.bias
        self.running_mean, self.running_var = plain.running_mean, plain.running_var
        self.num_batches_tracked = plain.num_batches_tracked
        self._total = total

    def forward(self, x: Tensor) -> Tensor:
        """Return x normalised."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        shift = self.running_mean.clone()
        off = x.float() - shift
        sums = self._total(torch.cat([off.sum(0), off.square().sum(0), off.new_full((1,), len(x))]))
        n, (first, second) = sums[-1], sums[:-1].view(2, -1)
        mean = first / n
        variance = (second / n - mean.square()).clamp_min(0)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(shift + mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        out = (off - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return out.to(x.dtype)


def share_batch_norm(module: nn.Module, total: Callable[[Tensor], Tensor]) -> None:
    """Replace every batch norm of a module with a :class:`SharedBatchNorm`."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d):
            setattr(module, name, SharedBatchNorm(child, total))
        else:
            share_batch_norm(child, total)


def unshare_batch_norm(module: nn.Module) -> None:
    """Put plain batch norms back when the training has ended."""
    for name, child in module.named_children():
        if isinstance(child, SharedBatchNorm):
            plain = nn.BatchNorm1d(child.num_features, child.eps, child.momentum, device=child.weight.device)
            plain.load_state_dict(child.state_dict())
            setattr(module, name, plain.train(child.training))
        else:
            unshare_batch_norm(child)
