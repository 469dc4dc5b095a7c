"""Noise for the rows of a batch, of which other processes may have the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class OwnRows:
    """A generator that all processes have in the same state, and which rows of a batch are this one's.

    Each process draws for the whole batch and takes its own rows: so a batch has the same noise however many processes
    share it.

    Attributes
    ----------
    generator
        The generator.
    n_rows
        Rows of the whole batch.
    first
        Number of the first own row.
    """

    generator: torch.Generator
    n_rows: int
    first: int


Noise: TypeAlias = torch.Generator | OwnRows | None


def uniform(shape: Sequence[int], noise: Noise, device: torch.device) -> Tensor:
    """Return numbers from [0, 1), rows x columns."""
    return _draw(torch.rand, shape, noise, device)


def normal(shape: Sequence[int], noise: Noise, device: torch.device) -> Tensor:
    """Return numbers from N(0, 1), rows x columns."""
    return _draw(torch.randn, shape, noise, device)


def common(noise: Noise) -> torch.Generator | None:
    """Return the generator for what is not of rows: every process draws the same."""
    return noise.generator if isinstance(noise, OwnRows) else noise


def _draw(draw: Callable[..., Any], shape: Sequence[int], noise: Noise, device: torch.device) -> Tensor:
    if not isinstance(noise, OwnRows):
        return draw(*shape, generator=noise, device=device)
    whole = draw(noise.n_rows, *shape[1:], generator=noise.generator, device=device)
    return whole[noise.first : noise.first + shape[0]]
