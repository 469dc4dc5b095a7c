"""DiffVAE beside what a user would take instead, on the same cells, in one process with one thread.

Types: DiffVAE, its graph and Leiden (``diffvae.tl.cluster``); scVI with its defaults, scanpy's neighbours and Leiden.
Fates: ``diffvae.pp.cell_graph`` and ``diffvae.tl.fates``; CellRank's connectivity kernel on scanpy's neighbours, with
the same terminal types. Times are CPU seconds. Clusters are compared with the labels (adjusted Rand index), the fates
of the two programs with each other (Spearman correlation over the source cells, mean over fates).

    pip install -r benchmarks/peers.lock
    python benchmarks/peers.py FILE.h5ad --source "Ngn3 high EP" --target Alpha Beta Delta Epsilon
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import anndata as ad
import numpy as np
import scanpy as sc
import torch
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score

import diffvae as dv


def by_diffvae(counts: ad.AnnData, seed: int) -> tuple[float, Any]:
    """Return CPU seconds and clusters."""
    adata, start = counts.copy(), time.process_time()
    dv.pp.prepare(adata, rng=seed)
    dv.tl.embed(adata, dv.model.DiffVAE().train(adata, rng=seed, progress=False))
    dv.tl.cluster(adata, rng=seed)
    return time.process_time() - start, adata.obs["diffvae_cluster"]


def by_scvi(counts: ad.AnnData, seed: int) -> tuple[float, Any]:
    """Return CPU seconds and clusters."""
    import scvi

    scvi.settings.seed = seed
    adata, start = counts.copy(), time.process_time()
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata)
    model.train(enable_progress_bar=False)
    adata.obsm["X_scvi"] = model.get_latent_representation()
    sc.pp.neighbors(adata, use_rep="X_scvi", random_state=seed)
    sc.tl.leiden(adata, flavor="igraph", directed=False, n_iterations=2, random_state=seed)
    return time.process_time() - start, adata.obs["leiden"]


def fates_by_diffvae(counts: ad.AnnData, key: str, source: str, target: list[str], seed: int) -> tuple[float, Any]:
    """Return CPU seconds and the fates of the source cells."""
    adata = counts.copy()
    dv.pp.prepare(adata, rng=seed)
    start = time.process_time()
    dv.pp.cell_graph(adata)
    table = dv.tl.fates(adata, source, key, targets=target, rng=seed)
    return time.process_time() - start, table


def fates_by_cellrank(counts: ad.AnnData, key: str, source: str, target: list[str], seed: int) -> tuple[float, Any]:
    """Return CPU seconds and the fates of the source cells."""
    import cellrank as cr
    import pandas as pd

    adata = counts.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    start = time.process_time()
    sc.pp.pca(adata, n_comps=50, random_state=seed)
    sc.pp.neighbors(adata, random_state=seed)
    kernel = cr.kernels.ConnectivityKernel(adata).compute_transition_matrix()
    estimator = cr.estimators.GPCCA(kernel)
    estimator.set_terminal_states({name: adata.obs_names[adata.obs[key] == name].tolist() for name in target})
    estimator.compute_fate_probabilities(show_progress_bar=False, n_jobs=1)
    seconds = time.process_time() - start
    table = pd.DataFrame(np.asarray(estimator.fate_probabilities), adata.obs_names, estimator.fate_probabilities.names)
    return seconds, table.loc[adata.obs[key] == source, target]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help=".h5ad with counts in X")
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--source", required=True)
    parser.add_argument("--target", nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counts = ad.read_h5ad(options.file)
    counts.obs[options.label_key] = counts.obs[options.label_key].astype(str).astype("category")
    labels = counts.obs[options.label_key]
    first = {}
    for name, work in (("DiffVAE, Leiden", by_diffvae), ("scVI, scanpy", by_scvi)):
        seconds, clusters = work(counts, options.seed)
        first.setdefault("types", seconds)
        quality = f"{clusters.nunique()} clusters, ARI {adjusted_rand_score(labels, clusters):.3f}"
        print(f"types  {name:18s} {seconds:7.1f} CPU s, {seconds / first['types']:5.2f} x; {quality}", flush=True)
    found = {}
    for name, work in (("diffvae.tl.fates", fates_by_diffvae), ("CellRank", fates_by_cellrank)):
        seconds, found[name] = work(counts, options.label_key, options.source, options.target, options.seed)
        first.setdefault("fates", seconds)
        print(f"fates  {name:18s} {seconds:7.1f} CPU s, {seconds / first['fates']:5.2f} x", flush=True)
    ours, theirs = found.values()
    agreement = np.mean([spearmanr(ours[t], theirs.loc[ours.index, t]).statistic for t in options.target])
    print(f"fates  Spearman correlation of the two, mean over {len(options.target)} fates: {agreement:.2f}")


if __name__ == "__main__":
    main()
