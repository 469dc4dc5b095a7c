"""Training in one thread, compared with all threads: the ratio of the times of an epoch, in one process.

Small steps use one thread, so that results do not depend on the number of threads (diffvae._core.runtime); larger steps
use all threads. Prints a line per size. Run it on an idle machine: ``python benchmarks/threads.py``.
"""

from __future__ import annotations

import time

import numpy as np
import torch

import diffvae as dv
from diffvae._core import runtime
from diffvae.model._objective import InfoVAEObjective
from diffvae.train import RowSource, best_precision, fit

SIZES = ((1_422, 1_845, 128), (4_096, 4_000, 128), (4_096, 10_000, 128), (8_192, 4_000, 1_024))
"""Cells, genes, cells per step."""
ROUNDS = 3


def main() -> None:
    device = torch.device("cpu")
    for n_cells, n_genes, batch in SIZES:
        x = np.random.default_rng(0).random((n_cells, n_genes), dtype=np.float32)
        source, rows = RowSource(x, device), np.arange(n_cells)
        seconds: dict[float, list[float]] = {np.inf: [], 0: []}  # the limit: one thread always, or never
        for repeat in range(ROUNDS + 1):
            for limit, taken in seconds.items():
                runtime.LARGE_STEP = limit
                model = dv.model.DiffVAE()
                module = model._build(n_genes, 0)
                start = time.perf_counter()
                fit(
                    module, source, InfoVAEObjective(model.config), train_rows=rows, validation_rows=rows[:0],
                    batch_size=batch, max_epochs=2, precision=best_precision("auto", device), progress=False,
                )  # fmt: skip
                if repeat:  # the first warms up
                    taken.append(time.perf_counter() - start)
        products = batch * sum(p.numel() for p in module.parameters())
        print(
            f"{n_cells:,} cells x {n_genes:,} genes, {batch:,} a step ({products:.1e} products): one thread takes "
            f"{min(seconds[np.inf]) / min(seconds[0]):.2f} x the time of {torch.get_num_threads()}",
            flush=True,
        )


if __name__ == "__main__":
    main()
