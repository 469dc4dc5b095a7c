"""Memory and speed with cells on disk: 200,000 and 1,000,000 simulated cells x 2,000 genes.

The data are counts of 20 cell types, sorted by type (the worst order for reading in blocks), about 9 % nonzero, written
in blocks as float32 CSR in .h5ad. Prints the peak memory (resident set) of preparing, of one epoch of DiffVAE and of
embedding all cells, each in its own process. Also prints the training speed with the large file divided by that in
memory; the two alternate in one process, so that disturbances affect both.

    python benchmarks/stream.py [--sizes 200000 1000000] [--rounds 3] [--folder DIR]

The files take about 1 GB per 200,000 cells in the folder (by default a temporary one) and are removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

N_GENES, N_TYPES, BLOCK = 2_000, 20, 8_192
IN_MEMORY = 60_000
"""Cells of the comparison in memory."""


def generate(path: str, n_cells: int) -> dict[str, Any]:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    from diffvae._core.io.writer import adata_writer

    rng = np.random.default_rng(0)
    rates = rng.gamma(0.3, 0.35, (N_TYPES, N_GENES)).astype(np.float32)
    types = np.sort(rng.integers(0, N_TYPES, n_cells))
    obs = pd.DataFrame({"type": pd.Categorical(types.astype(str))}, index=[f"cell{i}" for i in range(n_cells)])
    nonzero = 0
    with adata_writer(path, AnnData(obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]))) as file:
        for start in range(0, n_cells, BLOCK):
            block = sparse.csr_matrix(rng.poisson(rates[types[start : start + BLOCK]]).astype(np.float32))
            nonzero += block.nnz
            file.append("X", block)
    return {"nonzero": nonzero / n_cells / N_GENES}


def prepare(raw: str, prepared: str) -> dict[str, Any]:
    import diffvae as dv

    dv.pp.prepare(raw, out=prepared, n_top_genes=None)
    return {}


def train(prepared: str, model: str) -> dict[str, Any]:
    import diffvae as dv

    trained = dv.model.DiffVAE().train(prepared, max_epochs=1, progress=False)
    trained.save(model, overwrite=True)
    return {"loss": float(trained.history["validation_loss"].iloc[-1])}


def embed(prepared: str, model: str, out: str) -> dict[str, Any]:
    import diffvae as dv

    dv.tl.embed(prepared, dv.model.load(model), out=out, overwrite=True)
    return {}


def ratio(prepared: str, rounds: int) -> dict[str, Any]:
    """Alternate training on cells in memory and on equally many cells of the file, in blocks from the whole file."""
    import numpy as np

    import diffvae as dv
    from diffvae._core.io.backed import open_store
    from diffvae.model._objective import InfoVAEObjective
    from diffvae.train import RowSource, Source, StreamSource, best_device, best_precision, fit

    device = best_device()
    matrix = open_store(prepared).matrix("unit")
    rng = np.random.default_rng(0)
    size = min(IN_MEMORY, len(matrix))
    streamed = StreamSource(matrix, device)
    places = rng.permutation(len(matrix) // streamed.block)[: size // streamed.block]
    rows = np.sort((places[:, None] * streamed.block + np.arange(streamed.block)).ravel())
    sources: dict[str, tuple[Source, np.ndarray]] = {
        "memory": (RowSource(matrix.read(0, size), device), np.arange(len(rows))),
        "disk": (streamed, rows),
    }
    config = dv.model.DiffVAE().config

    def rate(source: Source, rows: np.ndarray) -> float:
        module = dv.model.DiffVAE()._build(N_GENES, 0).to(device)
        start = time.perf_counter()
        fit(
            module, source, InfoVAEObjective(config), train_rows=rows, validation_rows=rows[:0], max_epochs=1,
            precision=best_precision("auto", device), progress=False,
        )  # fmt: skip
        return len(rows) / (time.perf_counter() - start)

    for source, some in sources.values():
        rate(source, some[:4096])  # threads and caches
    rates: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(rounds):
        for name, (source, some) in sources.items():
            rates[name].append(rate(source, some))
    return rates | {"cells": [len(rows)]}


STEPS = {"generate": generate, "prepare": prepare, "train": train, "embed": embed, "ratio": ratio}


def measured(step: str, *arguments: Any) -> dict[str, Any]:
    """Run a step in a fresh process. The parent stays small, because a child inherits its peak memory."""
    command = [sys.executable, "-W", "ignore", __file__, "--step", step, json.dumps(arguments)]
    waits = {"GOMP_SPINCOUNT": "1000"}  # as the program does: threads don't spin where others want the processor
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | waits).stdout
    return json.loads(out.splitlines()[-1])


def run_step(step: str, arguments: str) -> None:
    start = time.perf_counter()
    found = STEPS[step](*json.loads(arguments))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(found | {"seconds": time.perf_counter() - start, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--step", nargs=2, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(*arguments.step)
        return
    peaks: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        raw, prepared, model, out = (f"{folder}/{name}" for name in ("raw.h5ad", "unit.h5ad", "model", "z.h5ad"))
        for n in arguments.sizes:
            for file in (raw, prepared):
                Path(file).unlink(missing_ok=True)
            made = measured("generate", raw, n)
            print(f"{n:,} cells x {N_GENES:,} genes, {made['nonzero']:.1%} of the values not zero", flush=True)
            for step, given in (
                ("prepare", (raw, prepared)),
                ("train", (prepared, model)),
                ("embed", (prepared, model, out)),
            ):
                found = measured(step, *given)
                peaks.setdefault(step, []).append(found["peak"])
                print(f"  {step:8s} peak {found['peak']:.2f} GiB, {n / found['seconds']:,.0f} cells/s", flush=True)
        if len(arguments.sizes) > 1:
            growth = ", ".join(f"{step} {found[-1] / found[0]:.2f} x" for step, found in peaks.items())
            print(f"memory, {arguments.sizes[-1]:,} over {arguments.sizes[0]:,} cells: {growth}", flush=True)
        rates = measured("ratio", prepared, arguments.rounds)
        pairs = sorted(disk / memory for disk, memory in zip(rates["disk"], rates["memory"], strict=True))
        print(
            f"training from disk over in memory ({rates['cells'][0]:,} cells): {pairs[len(pairs) // 2]:.2f} x (rounds: "
            f"{', '.join(f'{pair:.2f}' for pair in pairs)}; in memory {max(rates['memory']):,.0f} cells/s at best)"
        )


if __name__ == "__main__":
    main()
