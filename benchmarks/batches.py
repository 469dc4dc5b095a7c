"""Batches mixed and types kept: methods of data integration on simulated, real and artificial batches.

    python benchmarks/batches.py --sets tree0.3 paul15 --methods PCA Harmony --seeds 0 1 2 --data data --out batches.csv

The sets:

- ``tree0.3``, ``tree0.6``, ``tree1.0``: simulated trees of 2,000 cells x 1,000 genes in three batches with this
  ``batch_effect``; the first batch has no neutrophils.
- ``baron_mouse_pancreas``: two donors.
- ``paul15``, ``pancreas_endocrinogenesis``, ``zeisel_cortex``: real cells with artificial batches (see
  :func:`artificial_batches`), so that the truth is known: without the batches, the cells would be mixed.

The real sets are read from ``--data``; those that are not there are left out. The scores are those of
``diffvae.metrics.integration`` in a latent space of 50 dimensions, and the adjusted Rand index of Leiden at resolution
1 and with the number of types given, on the graph of the means and on the posterior graph. The method ``"PCA, no
batches"`` is PCA of the same cells without the effects on genes: no method needs to mix better. The two donors have no
such reference.

PCA and both settings of Harmony on all sets took 80 seconds for a seed, on one core.
"""

from __future__ import annotations

import argparse
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import diffvae as dv
from diffvae import _random
from diffvae.benchmark import Method
from diffvae.benchmark._harmony import Harmony

N_LATENT = 50
LABELS = {"paul15": "paul15_clusters"}
"""Reference labels in ``obs``, where they are not ``cell_type``."""
ARTIFICIAL = {"paul15": 2, "pancreas_endocrinogenesis": 3, "zeisel_cortex": 3}
"""Set to its number of artificial batches."""
SCORES = (
    "ilisi", "kbet_acceptance", "batch_silhouette", "batch_r2", "knn_purity", "silhouette", "isolated_types",
)  # fmt: skip
ARI = ("ari_leiden", "ari_leiden_k", "ari_posterior", "ari_posterior_k")
"""Leiden on the graph of the means, and on the posterior graph, which a run uses; methods without posterior lack it."""
UNTOUCHED = "PCA, no batches"
Sets = Mapping[str, Callable[[int], tuple[ad.AnnData, str, str]]]
"""Name to a function from the seed to cells, the column of types and that of batches."""


def artificial_batches(
    adata: ad.AnnData,
    n_batches: int = 2,
    scale_sd: float = 0.5,
    dropout: float = 0.3,
    missing_type: tuple[str, str] | None = None,
    rng: _random.Rng = 0,
) -> ad.AnnData:
    r"""Return a copy of counts in which the cells are divided into batches at random, with effects on every gene.

    Gene g of batch b is scaled by :math:`f_{gb}`, lognormal with median 1. A count c becomes
    :math:`\lfloor f \rfloor c` plus a binomial draw of c with the rest of f, so that its mean is f c and a scale below
    1 thins. Then a count c is lost with probability :math:`d_b e^{1 - c}`, where :math:`d_b` rises from 0 in the first
    batch to ``dropout`` in the last.

    Parameters
    ----------
    adata
        Counts in X.
    n_batches
        Number of batches.
    scale_sd
        Standard deviation of log f.
    dropout
        Probability that a single molecule is lost in the last batch.
    missing_type
        Column of ``obs`` and the type that has no cells in the first batch; they are in the other batches instead.
    rng
        Seed or generator.

    Returns
    -------
    The same cells and genes with ``obs["batch"]``, and the unchanged counts in ``layers["original"]``.
    """
    draw = _random.generator(rng, "artificial batches")
    batch = draw.permutation(np.arange(adata.n_obs) % n_batches)
    if missing_type is not None:
        key, name = missing_type
        moved = np.flatnonzero((batch == 0) & (adata.obs[key].astype(str) == name))
        batch[moved] = draw.integers(1, n_batches, size=len(moved))
    scale = draw.lognormal(0.0, scale_sd, size=(n_batches, adata.n_vars))
    lost = np.linspace(0.0, dropout, n_batches)
    x = sparse.csr_matrix(adata.X).tocoo()
    counts, f, d = x.data.astype(np.int64), scale[batch[x.row], x.col], lost[batch[x.row]]
    whole = np.floor(f)
    new = whole.astype(np.int64) * counts + draw.binomial(counts, f - whole)
    new[draw.random(len(new)) < d * np.exp(1.0 - new)] = 0
    changed = adata.copy()
    changed.layers["original"] = adata.X.copy()
    changed.X = sparse.csr_matrix((new.astype(np.float32), (x.row, x.col)), shape=adata.shape)
    changed.X.eliminate_zeros()
    changed.obs["batch"] = pd.Categorical([f"batch_{b + 1}" for b in batch])
    return changed


def middle_type(labels: pd.Series) -> str:
    """Return the type of median size."""
    sizes = labels.dropna().astype(str).value_counts()
    return str(sizes.index[len(sizes) // 2])


def simulated(batch_effect: float, seed: int) -> tuple[ad.AnnData, str, str]:
    """Return a tree in three batches, the first of which lacks a type."""
    simulate = partial(
        dv.datasets.simulate_differentiation, 2000, 1000, n_batches=3, missing={"batch_1": ["Neutrophil"]}, rng=seed
    )
    cells = simulate(batch_effect=batch_effect)
    cells.layers["original"] = simulate(batch_effect=0.0).X
    return cells, "cell_type", "batch"


def donors(data: Path, seed: int) -> tuple[ad.AnnData, str, str]:
    """Return real cells of two donors."""
    return ad.read_h5ad(data / "baron_mouse_pancreas.h5ad"), "cell_type", "donor"


def divided(name: str, data: Path, seed: int) -> tuple[ad.AnnData, str, str]:
    """Return real cells with artificial batches, the first of which lacks the type of median size."""
    cells, key = ad.read_h5ad(data / f"{name}.h5ad"), LABELS.get(name, "cell_type")
    missing = (key, middle_type(cells.obs[key]))
    return artificial_batches(cells, ARTIFICIAL[name], missing_type=missing, rng=seed), key, "batch"


def all_sets(data: Path) -> Sets:
    """Return every set by name."""
    trees: dict[str, Any] = {f"tree{effect}": partial(simulated, effect) for effect in (0.3, 0.6, 1.0)}
    real = {name: partial(divided, name, data) for name in ARTIFICIAL}
    found = {"baron_mouse_pancreas": partial(donors, data), **real}
    return trees | {name: make for name, make in found.items() if (data / f"{name}.h5ad").exists()}


def all_methods() -> dict[str, Method]:
    """Return the methods that are installed, by name; a model that can't be trained with batches is there once."""
    known, takes = dv.benchmark.methods(), "batch_key" in inspect.signature(dv.model.DiffVAE.train).parameters
    found = {"PCA": known["PCA"]}
    if find_spec("harmonypy"):
        found |= {"Harmony": known["Harmony"], "Harmony, sigma 0.3": Method("", partial(Harmony, sigma=0.3))}
    found["DiffVAE"] = Method("", known["DiffVAE"].make, {"batch_key": None} if takes else {})
    if takes:
        found["DiffVAE, batches"] = known["DiffVAE"]
    if find_spec("scvi"):
        found |= {"scVI": Method("", known["scVI"].make, {"batch_key": None}), "scVI, batches": known["scVI"]}
    return found


def measure(name: str, sets: Sets, methods: Mapping[str, Method], seed: int) -> pd.DataFrame:
    """Return one row per method: the scores of integration and the adjusted Rand indices of Leiden."""
    cells, key, batch_key = sets[name](seed)
    options: dict[str, Any] = {
        "label_key": key, "batch_key": batch_key, "n_latent": N_LATENT,
        "clusterers": ["leiden", "leiden_posterior"], "spaces": ["latent"],
        "n_trainings": 1, "n_clusterings": 1, "k_given": (False, True), "metrics": ["ari", *SCORES], "rng": seed,
        "progress": False,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        table = dv.benchmark.run({name: cells}, methods, **options).table
        if "original" in cells.layers:
            cells.X = cells.layers["original"]
            untouched = dv.benchmark.run({name: cells}, {UNTOUCHED: dv.benchmark.methods()["PCA"]}, **options).table
            table = pd.concat([untouched, table])
    ari = table.pivot(index="method", columns=["clusterer", "k_given"], values="ari")
    ari = ari.reindex(columns=[(c, k) for c in ("leiden", "leiden_posterior") for k in (False, True)])
    ari = ari.set_axis(list(ARI), axis=1)
    scores = table.drop_duplicates("method").set_index("method")[[*SCORES, "training_seconds"]]
    found = scores.join(ari).reset_index()[["method", *SCORES, *ARI, "training_seconds"]]
    found.insert(0, "seed", seed)
    found.insert(0, "set", name)
    return found


def main(names: Iterable[str], methods: Iterable[str], seeds: Iterable[int], data: Path, out: Path | None) -> None:
    sets, known = all_sets(data), all_methods()
    chosen = {name: known[name] for name in methods if name in known}
    if absent := [name for name in methods if name not in known]:
        print(f"Not installed, or not trainable with batches: {', '.join(absent)}")
    if absent := [name for name in names if name not in sets]:
        print(f"Not in {data}: {', '.join(absent)}")
    rows = []
    for name in [name for name in names if name in sets]:
        for seed in seeds:
            rows.append(measure(name, sets, chosen, seed))
            if out is not None:
                pd.concat(rows).to_csv(out, index=False)
        here = pd.concat([row for row in rows if row["set"].iloc[0] == name])
        means = here.drop(columns=["set", "seed"]).groupby("method", sort=False).mean()
        print(f"\n{name}\n{means.round(3).to_string()}", flush=True)


if __name__ == "__main__":
    sets = ("tree0.3", "tree0.6", "tree1.0", "baron_mouse_pancreas", *ARTIFICIAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=sets, choices=sets)
    parser.add_argument("--methods", nargs="+", default=list(all_methods()))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the real sets (.h5ad)")
    parser.add_argument("--out", type=Path, help="csv, one row per set, seed and method")
    arguments = parser.parse_args()
    main(arguments.sets, arguments.methods, arguments.seeds, arguments.data, arguments.out)
