"""One seed for everything: numpy and torch generators that are handed down, and never a global one."""

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
    """Return the numpy generator that belongs to a seed and a purpose.

    Parameters
    ----------
    rng
        A seed, or a generator that is used (and advanced) as it is.
    purpose
        Names of the step that asks. Two steps with one seed get independent streams, so that a step that
        draws more numbers than it used to doesn't change what comes after it.

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
    """Return an integer seed (32 bit) for a library that takes nothing else.

    Examples
    --------
    >>> seed(0, "kmeans") == seed(0, "kmeans") != seed(1, "kmeans")
    True
    """
    return int(generator(rng, *purpose).integers(2**32, dtype=np.uint32))


def torch_generator(rng: Rng, *purpose: str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return the torch generator that belongs to a seed and a purpose, on a device."""
    import torch

    return torch.Generator(device=device).manual_seed(seed(rng, *purpose))


@contextmanager
def torch_seeded(rng: Rng, *purpose: str) -> Iterator[None]:
    """Lend torch's global generator a seed: layers draw their first weights from nowhere else."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed(rng, *purpose))  # this one alone, not those of GPUs
        yield
