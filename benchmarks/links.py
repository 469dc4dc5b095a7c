"""Predicted links scored on independent data: Graph-DiffVAE, Pearson, PCA, DiffVAE and popularity.

python benchmarks/links.py FILE.h5ad LABEL_KEY [K [pearson]]      (without arguments: simulated cells)
"""

from __future__ import annotations

import sys

import anndata as ad

import diffvae as dv


def main() -> None:
    if len(sys.argv) > 2:
        adata, key = ad.read_h5ad(sys.argv[1]), sys.argv[2]
    else:
        adata, key = dv.datasets.simulate_differentiation(2000, 1000), "cell_type"
    k = int(sys.argv[3]) if len(sys.argv) > 3 else 15
    metric = sys.argv[4] if len(sys.argv) > 4 else "cosine"
    table = dv.benchmark.links(adata, label_key=key, k=k, metric=metric)
    print(f"{adata.n_obs} cells, k = {k}, {metric}, counts halved, 5 seeds")
    print(dv.benchmark.link_summary(table).round(3).to_string(index=False))
    print(table.groupby("method", sort=False)["seconds"].mean().round(1).to_string())


if __name__ == "__main__":
    main()
