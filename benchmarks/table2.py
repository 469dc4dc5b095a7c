"""The paper's Table 2 at its original size: the total time and its largest part.

    python benchmarks/table2.py [N_WORKERS]

The table covers 1,422 simulated cells x 1,845 genes; DiffVAE, VAE, AE and PCA with 20, 50 and 100 dimensions and one
training each; and 50 clusterings by k-means, DBSCAN, mixtures and Leiden on the latent representation and on as many
t-SNE maps. The printed lower bound is the time of the t-SNE maps alone: each takes 750 iterations, which maps cannot
share. The affinities are shared and computed once per training.
"""

from __future__ import annotations

import sys
import time

import diffvae as dv

N_CELLS, N_GENES, N_CLUSTERINGS = 1422, 1845, 50
METHODS = ("DiffVAE", "VAE", "AE", "PCA")


def main(n_workers: int) -> None:
    cells = dv.datasets.simulate_differentiation(N_CELLS, N_GENES, rng=0)
    start = time.perf_counter()
    found = dv.benchmark.run(
        {"tree": cells},
        METHODS,
        label_key="cell_type",
        n_trainings=1,
        n_clusterings=N_CLUSTERINGS,
        n_workers=n_workers,
        n_top_genes=None,
    )
    wall = time.perf_counter() - start
    table = found.table
    training = table.drop_duplicates(["method", "n_latent"])["training_seconds"].sum()
    clustering = table.groupby(["space", "clusterer"])["clustering_seconds"].sum()
    maps = len(METHODS) * 3 * N_CLUSTERINGS
    print(f"Table 2 of {N_CELLS} x {N_GENES}: {wall / 60:.1f} minutes with {n_workers} workers")
    print(f"{len(table)} clusterings, {maps} t-SNE maps, {len(METHODS) * 3} trainings")
    for name, seconds in {"training": training, **{f"{c} on {s}": v for (s, c), v in clustering.items()}}.items():
        print(f"  {name:22s} {seconds:7.1f} s of one core, {seconds / (wall * n_workers):6.1%} of the time")
    rest = wall * n_workers - training - clustering.sum()
    print(f"  t-SNE, scores, start   {rest:7.1f} s of one core, {rest / (wall * n_workers):6.1%} of the time")
    one = _one_map(cells)
    print(f"t-SNE alone: {one:.2f} s a map, {maps} maps {one * maps:.0f} s: the whole takes")
    print(f"{wall * n_workers / (one * maps):.2f} x that floor")


def _one_map(cells) -> float:
    """Return the seconds of one map in one thread, the shortest of three."""
    from diffvae import _random
    from diffvae.benchmark import _jobs, _tasks
    from diffvae.tl import _tsne

    dv.pp.prepare(cells, n_top_genes=None)
    z = dv.model.PCA(50).train(cells).get_latent_representation().astype("float64")
    p = _tsne.affinities(z, _tasks.PERPLEXITY, 0, n_jobs=1)
    best = float("inf")
    for repeat in range(3):
        start = time.perf_counter()
        state = _random.seed(repeat, "table 2") % 2**31
        _jobs.call_in_one_thread(
            lambda s=state, n=_tasks.N_ITER: _tsne.layout(p, z, init="random", n_iter=n, random_state=s, n_jobs=1)
        )
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
