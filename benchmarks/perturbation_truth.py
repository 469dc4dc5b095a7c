"""Perturbations and minimal gene sets, compared with the truth of simulated trees.

For each seed the script simulates cells (``simulate_differentiation``), trains a DiffVAE and a classifier, and moves
two progenitor types towards their children and towards leaves of other branches. It prints:

1. per method, at a change of 75 % of the distance between the types: the share of the cells that the classifier, the
   judge and the nearest real cells call target; and the share of true drivers (gene and direction) among the 20 and the
   50 genes with the largest effect, beside those of a t-test;
2. the area under the ROC curve for true against absent branches, by the judge at one absolute change for all targets of
   a source, and by the length of the way through cells that exist;
3. the minimal sets: share of the cells that flip, of the sets that the judge confirms, number of genes, and true
   drivers among the first 20.

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
METHODS = ("mean", "shift", "ot", "anchored", "expression_mean", "none")
STEP = 0.75
OPINIONS = ["converted", "judged", "nearest"]


def drivers(adata, target: str) -> set[tuple[str, str]]:
    """Return the true drivers of the target's branch, and their direction."""
    table = adata.uns["diffvae_truth"]["drivers"]
    return set(table.loc[table["branch"] == target, ["gene", "direction"]].itertuples(index=False, name=None))


def right(genes: pd.DataFrame, true: set[tuple[str, str]], n: int) -> float:
    """Return the share of true drivers among the first n genes."""
    return np.mean([pair in true for pair in genes[["gene", "direction"]].head(n).itertuples(index=False, name=None)])


def by_test(adata, source: str, target: str) -> pd.DataFrame:
    """Return the genes by t between source and target."""
    x, of = adata.layers["unit"], adata.obs["cell_type"].to_numpy()
    x = x.toarray() if hasattr(x, "toarray") else x
    t = np.nan_to_num(stats.ttest_ind(x[of == target], x[of == source], equal_var=False).statistic)
    table = pd.DataFrame({"gene": adata.var_names, "direction": np.where(t > 0, "up", "down")})
    return table.iloc[np.argsort(-np.abs(t), kind="stable")]


def at_one_change(rows: pd.DataFrame, change: float) -> float:
    """Return the share that the judge calls target at an absolute change of expression."""
    return float(np.interp(change, rows["step"] * rows["distance"], rows["judged"]))


def run(seed: int, n_cells: int, n_genes: int) -> tuple[list[dict], list[dict]]:
    """Return one row per source, target and method, and one per minimal set."""
    adata = dv.datasets.simulate_differentiation(n_cells, n_genes, rng=seed)
    dv.pp.prepare(adata, rng=seed)
    model = dv.model.DiffVAE().train(adata, rng=seed, progress=False)
    dv.tl.embed(adata, model)
    classifier = dv.model.CellStateClassifier().train(adata, "cell_type", rng=seed, progress=False)
    rows, sets = [], []
    for source, (true, absent) in CASES.items():
        targets = [*true, *absent]
        found = dv.tl.perturb(
            adata, model, classifier, source=source, target=targets, method=METHODS, rng=seed, progress=False
        )
        ways = dv.tl.route(adata, source, targets, groupby="cell_type").set_index("target")["route"]
        change = STEP * np.mean([found.rows(t)["distance"].iloc[0] for t in true])
        for target in targets:
            right_genes = drivers(adata, target)
            tested = by_test(adata, source, target)
            about = {"seed": seed, "source": source, "target": target, "true": target in true, "way": ways[target]}
            for method in METHODS:
                table = found.rows(target, method=method)
                own = table[table["step"] == STEP].iloc[0]
                row = about | {"method": method, **own[["null_mean", "q_value", *OPINIONS]]}
                row["judged at one change"] = at_one_change(table, change)
                if method != "none":
                    effects = found.effects(target, STEP, method=method)
                    row |= {f"right of {n}": right(effects, right_genes, n) for n in (20, 50)}
                rows.append(row)
            rows.append(
                about | {"method": "t-test"} | {f"right of {n}": right(tested, right_genes, n) for n in (20, 50)}
            )
            if target not in true:
                continue
            for method in ("mean", "shift", "expression_mean"):
                genes = dv.tl.minimal_genes(
                    adata, model, classifier, source=source, target=target, method=method, n_random=20, rng=seed,
                    progress=False,
                )  # fmt: skip
                flipped = genes.counts["flipped"]
                sets.append(
                    {
                        "method": method,
                        "flipped": flipped / genes.counts["source"],
                        "judged": genes.cells["judged"].mean() if flipped else np.nan,
                        "median genes": genes.cells["n_genes"].median() if flipped else np.nan,
                        "first flip": genes.cells["n_first"].median() if flipped else np.nan,
                        "right of 20": right(genes.genes, right_genes, 20) if flipped else np.nan,
                        "as many DE genes flip": genes.baselines["flipped"].iloc[1],
                        "random genes flip": genes.baselines["flipped"].iloc[2],
                    }
                )
    return rows, sets


def auc(table: pd.DataFrame, column: str) -> float:
    """Return the area under the ROC curve of a column for true against absent branches."""
    u = stats.mannwhitneyu(table.loc[table["true"], column], table.loc[~table["true"], column]).statistic
    return u / (table["true"].sum() * (~table["true"]).sum())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--genes", type=int, default=1000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, sets = [], []
    for seed in range(arguments.seeds):
        for all_rows, new in zip((rows, sets), run(seed, arguments.cells, arguments.genes), strict=True):
            all_rows += new
    table, sets = pd.DataFrame(rows), pd.DataFrame(sets)
    by_method = table[table["true"]].groupby("method", sort=False)
    shown = by_method[[*OPINIONS, "null_mean", "right of 20", "right of 50"]].mean()
    shown.insert(2, "judged: se", by_method["judged"].sem())
    print(f"true branches, at {STEP:.0%} of the distance\n{shown.round(2).to_string()}\n")
    print("true against absent branches: AUC by the judge at one absolute change, and shares beyond chance at q < 0.1")
    for name, own in table[table["method"].isin(METHODS[:-1])].groupby("method", sort=False):
        beyond = (own["q_value"] < 0.1).groupby(own["true"]).mean()
        print(f"{name:16} {auc(own, 'judged at one change'):.2f}   true {beyond[True]:.2f}, absent {beyond[False]:.2f}")
    ways = table[table["method"] == "mean"]
    print(f"{'way':16} {1 - auc(ways, 'way'):.2f}\n")
    print(f"minimal sets, at the distance\n{sets.groupby('method', sort=False).mean().round(2).to_string()}")


if __name__ == "__main__":
    main()
