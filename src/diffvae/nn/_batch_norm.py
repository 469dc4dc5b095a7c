"""Batch normalisation over a batch that several processes share, on any device (torch's own needs a GPU)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class SharedBatchNorm(nn.BatchNorm1d):
    """Batch norm whose means and variances are of the whole batch, wherever its rows are.

    Sums of distances to the running mean, and of their squares, are taken over the processes in one go; since the mean
    doesn't move far in a step, little is lost by the difference of the two. In evaluation it is a plain batch norm.

    Parameters
    ----------
    plain
        The layer whose place it takes; weights and running statistics stay the same tensors.
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
    """Put a :class:`SharedBatchNorm` in the place of every batch norm of a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d):
            setattr(module, name, SharedBatchNorm(child, total))
        else:
            share_batch_norm(child, total)


def unshare_batch_norm(module: nn.Module) -> None:
    """Put plain batch norms back: after the training there is nobody to share with."""
    for name, child in module.named_children():
        if isinstance(child, SharedBatchNorm):
            plain = nn.BatchNorm1d(child.num_features, child.eps, child.momentum, device=child.weight.device)
            plain.load_state_dict(child.state_dict())
            setattr(module, name, plain.train(child.training))
        else:
            unshare_batch_norm(child)
