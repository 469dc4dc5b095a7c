"""Random numbers: numpy and torch generators from one seed, without global state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    import torch

Rng = int | np.random.Generator


def generator(rng: Rng, *purpose: str) -> np.random.Generator:
    """Return the numpy generator for a seed and a purpose.

    Parameters
    ----------
    rng
        A seed, or a generator, which is returned.
    purpose
        Names of the calling step. Steps with the same seed get independent streams, so that the number of draws in one
        step doesn't change the others.

    Examples
    --------
    >>> a, b = generator(0, "tsne"), generator(0, "tsne")
    >>> bool(a.random() == b.random())
    True
    >>> bool(generator(0, "tsne").random() == generator(0, "kmeans").random())
    False
    """
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or rng < 0:
        raise ValueError(f"rng is {rng!r}; give a non-negative integer or a numpy.random.Generator.")
    return np.random.default_rng([int(rng), *(crc32(p.encode()) for p in purpose)])


def seed(rng: Rng, *purpose: str) -> int:
    """Return a 32-bit integer seed for a library that takes no generator.

    Examples
    --------
    >>> seed(0, "kmeans") == seed(0, "kmeans") != seed(1, "kmeans")
    True
    """
    return int(generator(rng, *purpose).integers(2**32, dtype=np.uint32))


def torch_generator(rng: Rng, *purpose: str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return the torch generator for a seed and a purpose on a device."""
    import torch

    return torch.Generator(device=device).manual_seed(seed(rng, *purpose))


@contextmanager
def torch_seeded(rng: Rng, *purpose: str) -> Iterator[None]:
    """Seed torch's global generator in the block; layers draw their initial weights from it."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed(rng, *purpose))  # not those of GPUs
        yield
