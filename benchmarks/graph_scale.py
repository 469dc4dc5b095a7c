"""Time and memory of Graph-DiffVAE from 25,000 to 50,000 cells x 1,000 genes, with k = 5 and 20 epochs.

Each size runs in its own process. Prints time and memory, their growth, and the size of one dense N x N matrix.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

SIZES = (25_000, 50_000)
EPOCHS = 20


def one(n_cells: int) -> None:
    import diffvae as dv

    adata = dv.datasets.simulate_differentiation(n_cells, 1000)
    dv.pp.prepare(adata, n_top_genes=None)
    start = time.perf_counter()
    dv.pp.cell_graph(adata, k=5, exact_limit=100_000, progress=False)
    graph = time.perf_counter() - start
    start = time.perf_counter()
    model = dv.model.GraphDiffVAE().train(adata, max_epochs=EPOCHS, progress=False)
    training = time.perf_counter() - start
    start = time.perf_counter()
    model.predict_top_links(15)
    links = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    last = model.history.iloc[-1]
    print(model.scheme, file=sys.stderr)
    print(f"held-out AUC {last['validation_auc']:.3f}", file=sys.stderr)
    print(graph, training, links, peak)


def main() -> None:
    found = []
    for n in SIZES:
        out = subprocess.run([sys.executable, __file__, str(n)], check=True, stdout=subprocess.PIPE, text=True).stdout
        graph, training, links, peak = map(float, out.split())
        found.append((training, peak))
        print(
            f"{n:,} cells: graph {graph:.0f} s, {EPOCHS} epochs {training:.0f} s, top links {links:.0f} s; peak "
            f"{peak:.2f} GiB (one dense N x N matrix: {4 * n * n / 2**30:.1f} GiB, and the textbook's step holds five)",
            flush=True,
        )
    (t1, m1), (t2, m2) = found
    print(f"growth from {SIZES[0]:,} to {SIZES[1]:,}: training {t2 / t1:.2f} x, memory {m2 / m1:.2f} x")


if __name__ == "__main__":
    one(int(sys.argv[1])) if len(sys.argv) > 1 else main()
