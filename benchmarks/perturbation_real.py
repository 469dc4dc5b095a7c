"""Do cells convert better than after a step between mean expressions, over all pairs of types of real data sets?

For each file the script prepares the cells, trains a DiffVAE and a classifier, and moves every type towards every other
by equal changes of expression. It prints the shares that classifier, judge and nearest real cells call target, mean
over pairs, and in how many pairs the default is better or worse by more than .01 by the judge.

    python benchmarks/perturbation_real.py FILE.h5ad ... [--label-key cell_type]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata as ad
import pandas as pd

import diffvae as dv

METHODS = ("mean", "expression_mean", "shift")
STEPS = (0.5, 0.75, 1.0)
OPINIONS = ["converted", "judged", "nearest"]


def run(path: Path, label_key: str) -> pd.DataFrame:
    """Return the table of all pairs and methods."""
    adata = ad.read_h5ad(path)
    dv.pp.prepare(adata)
    model = dv.model.DiffVAE().train(adata, progress=False)
    classifier = dv.model.CellStateClassifier().train(adata, label_key, progress=False)
    found = dv.tl.perturb(
        adata, model, classifier, source="all", method=METHODS, step=STEPS, n_random=3, progress=False
    )
    return found.table[found.table["step"] > 0]


def main() -> None:
    """Print one table per file, and their mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--label-key", default="cell_type")
    arguments = parser.parse_args()
    means = []
    for path in arguments.files:
        table = run(path, arguments.label_key)
        means.append(table.groupby(["step", "method"])[OPINIONS].mean())
        judged = table.pivot(index=["source", "target", "step"], columns="method", values="judged")
        gain = judged["mean"] - judged["expression_mean"]
        n = gain.groupby("step").agg(better=lambda g: (g > 0.01).sum(), worse=lambda g: (g < -0.01).sum(), of="size")
        print(f"\n{path.stem}\n{means[-1].round(3)}\n{n}", flush=True)
    print(f"\nmean of {len(means)} files\n{(sum(means) / len(means)).round(3)}")


if __name__ == "__main__":
    main()
