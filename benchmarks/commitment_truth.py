"""Commitment calls of progenitors, compared with the simulated branches (5 seeds).

A progenitor has begun to commit if it lies on the branch of a later type. A call is right if it names that type or one
of its descendants. The model is compared with equally many neighbours by Pearson's correlation, and by the cosine of 50
principal components.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scanpy as sc

import diffvae as dv
from diffvae.tl._commitment import link_mass, name_cells

BRANCHES = {
    "HSPC": {
        "MEP": ["MEP", "Erythrocyte", "Thrombocyte"],
        "GMP": ["GMP", "Neutrophil", "Monocyte"],
        "Lymphocyte": ["Lymphocyte"],
    },
    "MEP": {"Erythrocyte": ["Erythrocyte"], "Thrombocyte": ["Thrombocyte"]},
    "GMP": {"Neutrophil": ["Neutrophil"], "Monocyte": ["Monocyte"]},
}


def main() -> None:
    rows, ratios = [], []
    for seed in range(5):
        adata = dv.datasets.simulate_differentiation(2000, 1000, rng=seed)
        dv.pp.prepare(adata, rng=seed)
        dv.pp.cell_graph(adata, k=5, rng=seed, progress=False)
        model = dv.model.GraphDiffVAE().train(adata, rng=seed, progress=False)
        dv.tl.links(adata, model, rng=seed)
        types = dv.tl.link_table(adata, "cell_type", graphs=["cell_graph", "diffvae_called_links"], rng=seed)
        ratios.append(_adjacency(types, adata.uns["diffvae_truth"]["lineage"]).assign(seed=seed))
        spaces = {
            "Graph-DiffVAE": (model.get_link_representation(), "cosine"),
            "Pearson": (adata.layers["unit"], "pearson"),
            "PCA": (sc.pp.pca(adata.X, 50, random_state=seed), "cosine"),
        }
        for method, (x, metric) in spaces.items():
            for source, branches in BRANCHES.items():
                rows.append((seed, method, source, *_calls(adata, x, metric, source, branches)))
    print(
        "Types adjacent in the tree and distant ones: mean log2 ratio of links to the degree-preserving null, and the"
    )
    print("p-value of the difference (trees with permuted types)")
    print(
        pd.concat(ratios).groupby("graph")[["adjacent", "distant", "p_value"]].agg(["mean", "max"]).round(3).to_string()
    )
    columns = ["seed", "method", "source", "begun", "right", "wrong", "not_begun", "false_calls"]
    table = pd.DataFrame(rows, columns=columns)
    sums = table.groupby(["source", "method"], sort=False)[columns[3:]].sum()
    print(f"\nCalled among progenitors without any fate (one Gaussian cloud beside a type): {_without_fate():.1%}")
    print("\nSums over 5 seeds:")
    print(sums.to_string())
    by_seed = table.groupby(["method", "seed"])[columns[3:]].sum()
    by_seed["agreement"] = (by_seed["right"] + by_seed["not_begun"] - by_seed["false_calls"]) / (
        by_seed["begun"] + by_seed["not_begun"]
    )
    by_seed["precision"] = by_seed["right"] / (by_seed["right"] + by_seed["wrong"] + by_seed["false_calls"])
    by_seed["recall"] = by_seed["right"] / by_seed["begun"]
    print("\nMean and sd over seeds:")
    found = by_seed.groupby("method")[["agreement", "precision", "recall"]].agg(["mean", "std"])
    print(found.round(3).to_string())


def _calls(adata, x, metric, source, branches):
    types, branch = (adata.obs[key].astype(str).to_numpy() for key in ("cell_type", "branch"))
    rows = np.flatnonzero(types == source)
    targets = [t for t in np.unique(types) if t != source]
    found = link_mass(x, metric, 15, rows, (types[:, None] == targets).astype(np.int64))
    leads_to = {t: b for b, reached in branches.items() for t in reached}
    calls = name_cells(found, targets, 0.05)["call"]
    first = [call.partition(": ")[2].split("/")[0] for call in calls]
    called = np.array([leads_to.get(name, "another") if name else "" for name in first])
    truth = np.where(np.isin(branch[rows], list(branches)), branch[rows], "")
    begun = truth != ""
    right = begun & (called == truth)
    return (
        begun.sum(),
        right.sum(),
        (begun & (called != "") & ~right).sum(),
        (~begun).sum(),
        (~begun & (called != "")).sum(),
    )


def _without_fate():
    """Return the share of 500 progenitors of one cloud that are called, mean over 5 seeds."""
    shares = []
    for seed in range(5):
        x = np.random.default_rng(seed).normal(size=(1000, 20))
        x[500:, 0] += 2.5
        member = (np.arange(1000) >= 500)[:, None].astype(np.int64)
        table = link_mass(x, "euclidean", 15, np.arange(500), member)
        shares.append((table["q_value"] < 0.05).mean())
    return np.mean(shares)


def _adjacency(table, lineage):
    near, rng, rows = lineage | lineage.T, np.random.default_rng(0), []
    names = list(lineage.index)
    for graph, own in table[table["type_1"] != table["type_2"]].groupby("graph"):
        ratio = own.pivot(index="type_1", columns="type_2", values="log2_ratio").reindex(index=names, columns=names)
        values = np.fmax(ratio.to_numpy(), ratio.to_numpy().T)
        upper = np.triu_indices(len(names), 1)

        def gap(order, values=values, upper=upper):
            linked = near.to_numpy()[np.ix_(order, order)][upper]
            return values[upper][linked].mean(), values[upper][~linked].mean()

        adjacent, distant = gap(np.arange(len(names)))
        null = [np.subtract(*gap(rng.permutation(len(names)))) for _ in range(999)]
        p = (1 + np.sum(np.array(null) >= adjacent - distant)) / 1000
        rows.append((graph, adjacent, distant, p))
    return pd.DataFrame(rows, columns=["graph", "adjacent", "distant", "p_value"])


if __name__ == "__main__":
    main()
