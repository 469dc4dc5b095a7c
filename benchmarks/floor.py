"""Time per training step, compared with a lower bound for the device.

The bound is the larger of two times: operations divided by the measured rate of matrix products, and bytes divided by
the measured bandwidth. There are two sizes: that of the paper (batch 128, 1845 genes), whose steps are so small that a
GPU mostly waits for kernel launches, and 4096 cells x 4000 genes. The bytes are the minimum with float32 weights:
weights are read twice; gradients, Adam's moments and each necessary cells x genes array are written and read once.

    python benchmarks/floor.py --device cuda      (also printed by benchmarks/train_speed.py --device cuda)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from diffvae.model._config import from_preset
from diffvae.model._objective import InfoVAEObjective
from diffvae.nn import Autoencoder
from diffvae.train import RowSource, best_device, best_precision, fit

HIDDEN, N_LATENT = (512, 256), 50
SIZES = {"the paper's": (128, 1845, 11), "large": (4096, 4000, 4)}
"""Cells per step, genes, and steps per epoch."""


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_of(work: Callable[[], object], device: torch.device, times: int = 10) -> float:
    """Return the shortest time of several runs, in seconds."""
    work()  # caches, and kernels that are chosen at their first call
    found = []
    for _ in range(times):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        found.append(time.perf_counter() - start)
    return min(found)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a square matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / best_of(lambda: a @ a, device)


def bandwidth(device: torch.device) -> float:
    """Return the bytes read and written per second when copying an array larger than any cache."""
    a = torch.empty(2**30 if device.type == "cuda" else 2**28, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * len(a) / best_of(lambda: b.copy_(a), device)


def operations(batch: int, n_genes: int) -> float:
    """Return the operations of a step; a multiply-add counts as two. The first layer needs no gradient of its input."""
    h1, h2 = HIDDEN
    rest = h1 * h2 + 2 * h2 * N_LATENT + N_LATENT * h2 + h2 * h1 + h1 * n_genes
    network = 2 * batch * (2 * n_genes * h1 + 3 * rest)
    return network + 2 * 3 * (2 * batch) ** 2 * N_LATENT  # the MMD of the batch and as many draws


def least_bytes(batch: int, n_genes: int, n_parameters: int) -> float:
    """Return the bytes that a step must read and write even if all operations were fused."""
    weights = (2 + 2 + 2 * 3) * n_parameters  # forward, backward; gradient; weights and two moments in Adam
    cells = 2 + 2 * 2  # the batch is read and written; the hidden input and the logits' gradient written and read
    return 4.0 * (weights + cells * batch * n_genes + 2 * (2 * batch) ** 2)


def seconds_per_step(device: torch.device, batch: int, n_genes: int, steps: int, rounds: int) -> tuple[float, int]:
    """Train with the package's loop; return the seconds of a step and the number of parameters."""
    torch.manual_seed(0)
    config = from_preset("default", {})
    module = Autoencoder(n_genes, HIDDEN, N_LATENT, input_dropout=config.input_dropout).to(device)
    rng = np.random.default_rng(0)
    sparse = rng.random((batch * steps, n_genes), np.float32) * (rng.random((batch * steps, n_genes)) < 0.2)
    source, objective = RowSource(sparse.astype(np.float32), device), InfoVAEObjective(config)
    epochs = max(1, 20 // steps)

    def train() -> None:
        fit(
            module,
            source,
            objective,
            train_rows=np.arange(len(source)),
            validation_rows=np.arange(0),
            max_epochs=epochs,
            batch_size=batch,
            lr=1e-4,
            precision=best_precision("auto", device),
            progress=False,
        )

    return best_of(train, device, rounds) / (epochs * steps), sum(p.numel() for p in module.parameters())


def main(device: str = "auto", rounds: int = 3) -> None:
    target = best_device(device)
    dtype = best_precision("auto", target)
    rate, speed = matrix_rate(target, dtype), bandwidth(target)
    name = torch.cuda.get_device_name(target) if target.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{target} ({name}): {rate / 1e12:.3g} TFLOP/s in {dtype}, {speed / 1e9:.3g} GB/s")
    for size, (batch, n_genes, steps) in SIZES.items():
        seconds, n_parameters = seconds_per_step(target, batch, n_genes, steps, rounds)
        by_rate = operations(batch, n_genes) / rate
        by_bytes = least_bytes(batch, n_genes, n_parameters) / speed
        floor = max(by_rate, by_bytes)
        print(
            f"{size:12} {batch:5} cells x {n_genes} genes: {1e3 * seconds:8.3f} ms per step; "
            f"floor {1e3 * floor:.3f} ms (operations {1e3 * by_rate:.3f}, bytes {1e3 * by_bytes:.3f}); "
            f"ratio {seconds / floor:.1f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    main(arguments.device, arguments.rounds)
