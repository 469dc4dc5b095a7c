"""CPU time and memory of everything on the graph of cells, from 10,000 to 20,000 to 40,000 cells x 2,000 genes.

python benchmarks/graph_scale.py [CELLS ...]

Each size runs in its own process. Prints CPU seconds per step (training: per epoch) and peak memory, and their growth.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

SIZES = (10_000, 20_000, 40_000)
EPOCHS = 3


def one(n_cells: int) -> None:
    import diffvae as dv

    adata = dv.datasets.simulate_differentiation(n_cells, 2000)
    dv.pp.prepare(adata, n_top_genes=None)
    took = {"GiB before": _peak()}

    def timed(name: str, step: Callable[[], object], per: int = 1) -> None:
        start = time.process_time()
        step()
        took[name] = (time.process_time() - start) / per

    model = dv.model.GraphDiffVAE()
    timed("cell graph", lambda: dv.pp.cell_graph(adata, progress=False))
    timed("first epoch", lambda: model.train(adata, max_epochs=1, progress=False))
    timed("epochs", lambda: model.train(adata, max_epochs=1 + EPOCHS, progress=False))
    took["epoch"] = (took.pop("epochs") - took["first epoch"]) / EPOCHS
    # after so few epochs the model need not be better than chance
    timed("links", lambda: dv.tl.links(adata, model, threshold=0.5))
    timed("link table", lambda: dv.tl.link_table(adata, "cell_type", graphs=["cell_graph"]))
    roles = {"targets": ["Erythrocyte", "Thrombocyte"], "earlier": ["HSPC"]}
    timed("commitment", lambda: dv.tl.commitment(adata, "MEP", "cell_type", **roles))
    timed("fates", lambda: dv.tl.fates(adata, "MEP", "cell_type", **roles, n_bootstraps=20))
    print(model.scheme, file=sys.stderr)
    print(json.dumps({**took, "GiB": _peak()}))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(sizes: tuple[int, ...]) -> None:
    before: dict[str, float] = {}
    for n in sizes:
        command = [sys.executable, __file__, "--one", str(n)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(f"{n:,} cells", flush=True)
        for name, value in found.items():
            growth = f"  {value / before[name]:.2f} x" if name in before else ""
            print(f"  {name:12s} {value:8.2f}{growth}", flush=True)
        before = found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(int(sys.argv[2]))
    else:
        main(tuple(map(int, sys.argv[1:])) or SIZES)
