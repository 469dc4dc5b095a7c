"""Device, precision, memory and denormal numbers."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch

from diffvae._core.validate import Choice, check

LIBC: Any = None if sys.platform == "win32" else ctypes.CDLL(None)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Constants of malloc.h."""
PRECISIONS = ("auto", "float32", "bfloat16")


def best_device(device: str = "auto") -> torch.device:
    """Return a device by name; ``"auto"`` is the first GPU, or the CPU if there is none.

    Parameters
    ----------
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...

    Raises
    ------
    ValueError
        If torch can't use that device here.

    Examples
    --------
    >>> best_device("cpu")
    device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={device!r} can't be used here ({reason}); device='auto' always works.") from error
    return chosen


def best_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the type of matrix products; weights, sums and losses are float32.

    Parameters
    ----------
    precision
        ``"float32"``, ``"bfloat16"``, or ``"auto"``: bfloat16 if the hardware supports it (NVIDIA cards since Ampere,
        CPUs with AVX512-BF16 or AMX). Elsewhere it is emulated and slower than float32.
    device
        From :func:`best_device`.

    Examples
    --------
    >>> best_precision("float32", torch.device("cpu"))
    torch.float32
    """
    check({"precision": Choice(*PRECISIONS)}, precision=precision)
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and _cpu_multiplies_bf16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step, instead of returning it to the system.

    Each step frees and allocates the gradients of the large layers; new pages from the system would cost a third of the
    step. By default glibc adapts its limits and keeps the memory, but not if the limits are fixed, as in Dask's workers
    (a training took twice as long there). So both are set to the values that glibc would reach (mallopt(3)).
    """
    if hasattr(LIBC, "gnu_get_libc_version"):
        LIBC.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        LIBC.mallopt(M_TRIM_THRESHOLD, 64 * 2**20)


@torch.no_grad()
def clear_denormal_moments(optimizer: torch.optim.Optimizer) -> None:
    """Set Adam's moments below 1e-30 to zero.

    First moments of weights that no longer change shrink by a tenth per step, to denormal numbers (below 1e-38) whose
    operations take a hundred cycles: with rarely expressed genes an epoch takes twice as long. A moment of 1e-30
    changes no float32 weight, and in the hundred steps between two calls (0.9^100 = 3e-5) none falls below 1e-38.
    """
    for state in optimizer.state.values():
        for name in ("exp_avg", "exp_avg_sq"):
            state[name].masked_fill_(state[name].abs() < 1e-30, 0.0)
