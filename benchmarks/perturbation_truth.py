"""Perturbations and minimal gene sets, compared with the truth of simulated trees, in one table over seeds.

For each seed the script simulates cells (``simulate_differentiation``), trains a DiffVAE and a classifier, and perturbs
two progenitor types towards their children and towards leaves of other branches. Prints the classifier's held-out
accuracy; the number of true and absent branches that convert beyond chance (q < 0.05); the area under the ROC curve of
the excess over chance for true against absent branches; and the share of true drivers (gene and direction) among the 20
genes in most minimal sets, and among the top differentially expressed genes.

    python benchmarks/perturbation_truth.py [--seeds 5]
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd
from scipy import stats

import diffvae as dv

CASES = {  # source: true targets, absent targets
    "MEP": (("Erythrocyte", "Thrombocyte"), ("Neutrophil", "Monocyte", "Lymphocyte")),
    "GMP": (("Neutrophil", "Monocyte"), ("Erythrocyte", "Thrombocyte", "Lymphocyte")),
}
TOP = 20


def drivers(adata, source: str, target: str) -> set[tuple[str, str]]:
    """Return the true drivers of the target's branch, and their direction."""
    table = adata.uns["diffvae_truth"]["drivers"]
    own = table[table["branch"] == target]
    return set(own[["gene", "direction"]].itertuples(index=False, name=None))


def differential(adata, source: str, target: str) -> list[tuple[str, str]]:
    """Return the genes with the largest t between source and target, and their direction."""
    x = adata.layers["unit"]
    x = x.toarray() if hasattr(x, "toarray") else x
    of = adata.obs["cell_type"].to_numpy()
    t = np.nan_to_num(stats.ttest_ind(x[of == target], x[of == source], equal_var=False).statistic)
    top = np.argsort(-np.abs(t))[:TOP]
    return [(adata.var_names[i], "up" if t[i] > 0 else "down") for i in top]


def run(seed: int, n_cells: int, n_genes: int, n_sd: float) -> tuple[list[dict], float]:
    adata = dv.datasets.simulate_differentiation(n_cells, n_genes, rng=seed)
    dv.pp.prepare(adata, rng=seed)
    model = dv.model.DiffVAE().train(adata, rng=seed, progress=False)
    classifier = dv.model.CellStateClassifier().train(adata, "cell_type", rng=seed, progress=False)
    rows = []
    for source, (true, absent) in CASES.items():
        found = dv.tl.perturb(
            adata, model, classifier, source=source, target=[*true, *absent], n_sd=(1, n_sd), rng=seed, progress=False
        )
        last = found.table[found.table["n_sd"] == n_sd].set_index(["target", "method"])
        half = found.table[found.table["n_sd"] == 1].set_index(["target", "method"])
        for target in (*true, *absent):
            row = last.loc[(target, "shift")]
            rows.append(
                {
                    "seed": seed, "source": source, "target": target, "branch": "true" if target in true else "absent",
                    "at 1 sd": half.loc[(target, "shift"), "converted"], "converted": row["converted"],
                    "excess": row["excess"],
                    "chance": row["null_mean"], "beyond chance": row["q_value"] < 0.05,
                    "to mean": last.loc[(target, "mean"), "converted"],
                    "in genes": last.loc[(target, "expression_mean"), "converted"],
                }
            )  # fmt: skip
            if target not in true:
                continue
            right = drivers(adata, source, target)
            rows[-1]["DE right"] = np.mean([pair in right for pair in differential(adata, source, target)])
            for order in ("effect", "gradient"):
                genes = dv.tl.minimal_genes(
                    adata, model, classifier, source=source, target=target, n_sd=n_sd, order=order, n_random=20,
                    rng=seed, progress=False,
                )  # fmt: skip
                top = genes.genes.head(TOP)
                rows[-1][f"{order}: genes"] = genes.cells["n_genes"].median()
                if len(top) == TOP:
                    pairs = top[["gene", "direction"]].itertuples(index=False, name=None)
                    rows[-1][f"{order}: right"] = np.mean([pair in right for pair in pairs])
    return rows, classifier.evaluation.accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--n-sd", type=float, default=2.0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, accuracy = [], []
    for seed in range(arguments.seeds):
        found, right = run(seed, arguments.cells, arguments.genes, arguments.n_sd)
        rows += found
        accuracy.append(right)
    table = pd.DataFrame(rows)
    print(table.round(2).to_string(index=False))
    print(f"\nclassifier: held-out accuracy {np.mean(accuracy):.3f} ± {np.std(accuracy, ddof=1):.3f} over seeds")
    print(
        table.groupby("branch")[["at 1 sd", "converted", "chance", "beyond chance", "to mean", "in genes"]]
        .mean()
        .round(2)
    )
    true = table["branch"] == "true"
    for name in ("at 1 sd", "excess", "to mean", "in genes"):
        u = stats.mannwhitneyu(table.loc[true, name], table.loc[~true, name])
        print(f"true against absent branches by {name!r}: AUC {u.statistic / (true.sum() * (~true).sum()):.2f}")
    shown = ["DE right", "effect: right", "gradient: right", "effect: genes", "gradient: genes"]
    print(table.loc[true, shown].agg(["mean", "std", "count"]).round(2))


if __name__ == "__main__":
    main()
