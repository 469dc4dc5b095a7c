"""Time and memory of each step of ``diffvae run``, beside a floor, and how both grow with the number of cells.

Every step is measured in CPU seconds of one process with one thread, so that a busy machine changes little. In the same
process, on the same cells, runs what a user of scanpy does: PCA, neighbours, Leiden, UMAP and marker genes. The time of
a step is also given as a ratio to this. Where a floor is known it stands beside the step: the least that its main
operation takes with the library or the matrix products that do it.

    python benchmarks/run_time.py                              the bundled cells
    python benchmarks/run_time.py FILE.h5ad --label-key cell_type --source "Ngn3 high EP"
    python benchmarks/run_time.py --sizes 10000 20000 40000      simulated cells x 2,000 genes, each in its own process

The second form prints the growth of time and of peak memory per doubling.
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
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
LABELS, SIMULATED, BUNDLED = "cell_type", "HSPC", "Ngn3 high EP"
"""Column of types, and the type that is perturbed."""
N_GENES = 2000


def peak() -> float:
    """Return the peak memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Clock:
    """CPU seconds and peak memory of steps, each from its start to the start of the next."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self._name, self._start = "", 0.0

    def start(self, name: str) -> None:
        """End the step before, and start another one; "" starts none."""
        now = time.process_time()
        if self._name:
            self.steps.append({"step": self._name, "seconds": now - self._start, "peak": peak()})
        self._name, self._start = name, time.process_time()


def scanpy_seconds(path: str) -> float:
    """Return the CPU seconds of the usual steps of scanpy."""
    import anndata as ad
    import scanpy as sc

    adata = ad.read_h5ad(path)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        sc.pp.highly_variable_genes(adata, n_top_genes=min(N_GENES, adata.n_vars))
        sc.pp.pca(adata, n_comps=50)
        sc.pp.neighbors(adata, transformer="sklearn")  # its default above 8,192 cells fails with scikit-learn 1.9
        sc.tl.leiden(adata, flavor="igraph", directed=False, n_iterations=2)
        sc.tl.umap(adata)
        sc.tl.rank_genes_groups(adata, "leiden", method="wilcoxon")
    return time.process_time() - start


def floors(result: Any) -> dict[str, tuple[float, str]]:
    """Return the floor of some steps: CPU seconds, and what they are spent on."""
    import numpy as np
    import scanpy as sc
    import torch
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PrecomputedAffinities

    from diffvae.tl._tsne import AFFINITIES

    def seconds(work: Any) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    adata, model = result.adata, result.model
    a = torch.randn(1024, 1024)
    rate = 20 * 2 * 1024**3 / seconds(lambda: [a @ a for _ in range(20)])
    weights = sum(p.numel() for p in model.module.parameters())
    n_trained = int((adata.obs["diffvae_split"] == "train").sum())
    found = {"train DiffVAE": (6 * weights * n_trained * len(model.history) / rate, "matrix products of all epochs")}
    p = adata.obsp[AFFINITIES]
    start = np.asarray(adata.obsm["X_diffvae_tsne"], dtype=float)
    start = start / start.std() * 1e-4

    def optimise() -> None:
        TSNEEmbedding(start, PrecomputedAffinities(p.copy(), normalize=False), n_jobs=1).optimize(250)

    found["t-SNE"] = (seconds(optimise), "250 iterations of openTSNE")

    def clusters() -> None:
        sc.pp.neighbors(adata, use_rep="X_diffvae", transformer="sklearn", key_added="floor")
        sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False, neighbors_key="floor", key_added="floor")

    found["cluster"] = (seconds(clusters), "one graph and one Leiden of scanpy")
    return found


def one(path: str, label_key: str, source: str) -> dict[str, Any]:
    """Run everything on a file and return the steps."""
    warnings.simplefilter("ignore")
    import diffvae as dv

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        result = dv.pipeline.run(
            path,
            Path(folder) / "out",
            label_key=label_key,
            source=source,
            n_jobs=1,
            progress=False,
            on_step=clock.start,
        )
        clock.start("")
    highest = peak()
    for step in clock.steps:
        print(f"{step['step'][:44]:44s} {step['seconds']:7.1f} s {step['peak']:5.2f} GiB", file=sys.stderr, flush=True)
    known = floors(result)
    for step in clock.steps:
        step["floor"], step["of"] = known.get(step["step"], (None, ""))
    return {"steps": clock.steps, "peak": highest, "n_cells": result.adata.n_obs, "scanpy": scanpy_seconds(path)}


def show(found: dict[str, Any]) -> None:
    """Print the steps of one run."""
    print(
        f"{found['n_cells']:,} cells; scanpy's steps {found['scanpy']:.1f} CPU s; peak memory {found['peak']:.2f} GiB"
    )
    print(f"{'step':44s} {'CPU s':>7s} {'/ scanpy':>8s} {'GiB':>5s} {'floor':>6s}  of what")
    for step in found["steps"]:
        floor = "" if step["floor"] is None else f"{step['floor']:.1f}"
        name, seconds, ratio = step["step"][:44], step["seconds"], step["seconds"] / found["scanpy"]
        print(f"{name:44s} {seconds:7.1f} {ratio:8.2f} {step['peak']:5.2f} {floor:>6s}  {step['of']}")
    total = sum(step["seconds"] for step in found["steps"])
    print(f"{'all':44s} {total:7.1f} {total / found['scanpy']:8.2f}")


def show_growth(runs: list[dict[str, Any]]) -> None:
    """Print the seconds of each step by size, and the largest growth per doubling."""
    print(f"{'step':44s}" + "".join(f"{run['n_cells']:>9,}" for run in runs) + "   growth")
    for i, step in enumerate(runs[0]["steps"]):
        times = [run["steps"][i]["seconds"] for run in runs]
        growth = max((b / max(a, 1e-9) for a, b in pairwise(times)), default=float("nan"))
        print(f"{step['step'][:44]:44s}" + "".join(f"{t:9.1f}" for t in times) + f"   {growth:.2f}")
    peaks = [run["peak"] for run in runs]
    growth = max((b / a for a, b in pairwise(peaks)), default=float("nan"))
    print(f"{'peak memory, GiB':44s}" + "".join(f"{p:9.2f}" for p in peaks) + f"   {growth:.2f}", flush=True)


def simulated(n_cells: int, folder: str) -> str:
    """Write simulated counts and return the path."""
    import diffvae as dv

    path = str(Path(folder) / f"{n_cells}.h5ad")
    dv.datasets.simulate_differentiation(n_cells, N_GENES).write_h5ad(path)
    return path


def bundled(folder: str) -> str:
    """Write the bundled cells and return the path."""
    import diffvae as dv

    path = str(Path(folder) / "bundled.h5ad")
    dv.datasets.pancreas_endocrinogenesis().write_h5ad(path)
    return path


def in_own_process(*arguments: str) -> dict[str, Any]:
    """Run this file on one data set in a process of its own, with one thread."""
    environment = os.environ | dict.fromkeys(THREADS, "1")
    out = subprocess.run(
        [sys.executable, __file__, "--json", *arguments], check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    return json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?")
    parser.add_argument("--label-key", default=LABELS)
    parser.add_argument("--source", default=BUNDLED)
    parser.add_argument("--sizes", type=int, nargs="+", default=[])
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.json:
        print(json.dumps(one(options.file, options.label_key, options.source)))
        return
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        if options.file or not options.sizes:
            path = options.file or bundled(folder)
            show(in_own_process(path, "--label-key", options.label_key, "--source", options.source))
        for n in options.sizes:
            runs.append(in_own_process(simulated(n, folder), "--source", SIMULATED))
            show(runs[-1])
    if len(runs) > 1:
        show_growth(runs)


if __name__ == "__main__":
    main()
