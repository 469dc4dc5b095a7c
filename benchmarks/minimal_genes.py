"""Exact prefix search, compared with classifying each edited cell, in one process and with equal results.

The search covers 500 cells x 2,000 genes x every prefix length, by cumulative sums of the first layer's rows. The
alternative is timed on a few cells: with one call per edited cell, and with all 2,000 edited copies of a cell in one
call (the fastest way without access to the classifier's weights). Prints the ratios, edited cells per second and the
share of the peak rate of matrix products. Run it on an otherwise idle machine: ``python benchmarks/minimal_genes.py``.
"""

from __future__ import annotations

import time
import warnings

import anndata as ad
import numpy as np
import torch

import diffvae as dv
from diffvae.tl._gene_sets import Edits, IncrementalClassifier

N_CELLS, N_GENES, N_SINGLE, N_BATCHED = 500, 2000, 1, 10


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((N_CELLS, N_GENES), dtype=np.float32) * (rng.random((N_CELLS, N_GENES)) < 0.1)
    adata = ad.AnnData(x.astype(np.float32))
    adata.obs["type"] = np.where(x[:, :50].sum(1) > np.median(x[:, :50].sum(1)), "a", "b")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = dv.model.CellStateClassifier().train(adata, "type", layer=None, max_epochs=10, progress=False)
    x = adata.X
    change = (rng.normal(0, 0.1, x.shape)).astype(np.float32)
    order = np.argsort(-np.abs(change), axis=1)
    edited = IncrementalClassifier(classifier)

    def classified(i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return p of the first type, and whether it is the most probable, after every prefix of a cell."""
        prefixes = Edits(edited.hidden(x[i : i + 1])[0], change[i], order[i], np.arange(1, N_GENES + 1))
        return edited.classify(edited.edited([prefixes]), 0)

    classified(0)  # threads and caches

    start = time.perf_counter()
    ours = [classified(i) for i in range(N_CELLS)]
    per_cell = (time.perf_counter() - start) / N_CELLS

    def copies(i: int) -> np.ndarray:
        """Return all prefixes of a cell, one row each."""
        edits = np.repeat(x[i][None], N_GENES, axis=0)
        rank = np.empty(N_GENES, int)
        rank[order[i]] = np.arange(N_GENES)
        return edits + change[i] * (rank[None] <= np.arange(N_GENES)[:, None])

    start = time.perf_counter()
    batched = [classifier.predict_proba(copies(i)) for i in range(N_BATCHED)]
    at_once = (time.perf_counter() - start) / N_BATCHED
    start = time.perf_counter()
    for i in range(N_SINGLE):
        cell = x[i].copy()
        for gene in order[i]:
            cell[gene] += change[i, gene]
            classifier.predict_proba(cell[None])
    one_by_one = (time.perf_counter() - start) / N_SINGLE

    far = max(float(np.abs(ours[i][0] - batched[i][:, 0]).max()) for i in range(N_BATCHED))
    same = all((ours[i][1] == (batched[i].argmax(1) == 0)).all() for i in range(N_BATCHED))
    linears = classifier.module.linears
    operations = 2 * sum(layer.in_features * layer.out_features for layer in linears[1:]) + 2 * linears[0].out_features
    a = torch.randn(2048, 2048)
    peak = 0.0
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        peak = max(peak, 2 * 2048**3 / (time.perf_counter() - start))
    rate = N_GENES / per_cell
    print(f"one call per edited cell  {N_GENES / one_by_one:12,.0f} edited cells/s")
    print(f"all of a cell in one call {N_GENES / at_once:12,.0f} edited cells/s")
    print(f"prefix sums               {rate:12,.0f} edited cells/s, {N_CELLS * per_cell:.1f} s for {N_CELLS} cells")
    print(f"ratio                     {one_by_one / per_cell:12.1f} x ({at_once / per_cell:.1f} x all in one call)")
    print(f"answers                   {'the same calls' if same else 'CALLS DIFFER'}, probabilities within {far:.1e}")
    print(f"peak                      {peak / 1e9:12.0f} GFLOP/s; reached {rate * operations / peak:.0%} of it")


if __name__ == "__main__":
    main()
