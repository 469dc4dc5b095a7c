"""What the machine can do: device, precision, denormals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Result = TypeVar("Result")
PRECISIONS = ("auto", "float32", "bfloat16")


def best_device(device: str = "auto") -> torch.device:
    """Return the device that a name stands for; ``"auto"`` is the first GPU, or the processor.

    Parameters
    ----------
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...

    Raises
    ------
    ValueError
        If torch can't use that device here.
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
    """Return the type of the matrix products; weights, sums and losses stay float32.

    Parameters
    ----------
    precision
        ``"float32"``, ``"bfloat16"``, or ``"auto"``: bfloat16 where the hardware multiplies it (NVIDIA cards since
        Ampere, processors with AVX512-BF16 or AMX). Elsewhere it is emulated and slower than float32.
    device
        From :func:`best_device`.

    Raises
    ------
    ValueError
        For any other name.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it is one of {', '.join(PRECISIONS)}.")
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


def run_flushing_denormals(work: Callable[[threading.Event], Result]) -> Result:
    """Run ``work(stop)`` in a thread in which numbers below 1e-38 count as zero; return or raise what it does.

    Adam's moments of weights that no longer move decay into that range, where each operation takes the processor a
    hundred cycles: with rarely expressed genes an epoch takes several times as long. The setting belongs to a thread
    and is inherited by the threads that it starts. So a fresh one gets a fresh team of workers that flush as well,
    which setting it here would not give, and nothing of it outlives the work.

    Parameters
    ----------
    work
        It should look at the event now and then and leave when it is set: the caller was interrupted.
    """
    stop = threading.Event()

    def flushed() -> Result:
        torch.set_flush_denormal(True)
        return work(stop)

    with ThreadPoolExecutor(1, thread_name_prefix="diffvae-train") as executor:
        try:
            future = executor.submit(flushed)
            while not future.done():  # look up now and then: not every interrupt wakes a thread that waits
                wait([future], timeout=0.2)
            return future.result()
        except BaseException:
            stop.set()
            raise
