"""Which progenitors have begun towards a type? Ranks and calls, compared with the branches of simulated trees.

    python benchmarks/commitment_truth.py [standard|easy|hard] [--seeds 5] [--first 0] [--without-model]
    python benchmarks/commitment_truth.py --merged paul15.h5ad

A progenitor has begun if it lies on the branch of a later type. Ranks: average precision and AUROC within the
progenitors of a type, per next branch, of a score that is summed over the types below the branch. Calls: right if they
name a type on the branch or below it. The null has the same cells without those that have begun; its components,
whitening and calls are made anew.

``--merged`` takes the cells of Paul et al. 2015, gives MEP and GMP one label, and asks which of the two a cell was: the
AUROC of the summed scores of the erythroid types, and of the myeloid types.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

import diffvae as dv
from diffvae._core.components import principal_components
from diffvae.tl._fates import absorption, neighbor_graph
from diffvae.tl._link_mass import link_mass, name_cells
from diffvae.tl._paths import call_cells, path_ends, projected

BRANCHES = {
    "HSPC": {
        "MEP": ["MEP", "Erythrocyte", "Thrombocyte"],
        "GMP": ["GMP", "Neutrophil", "Monocyte"],
        "Lymphocyte": ["Lymphocyte"],
    },
    "MEP": {"Erythrocyte": ["Erythrocyte"], "Thrombocyte": ["Thrombocyte"]},
    "GMP": {"Neutrophil": ["Neutrophil"], "Monocyte": ["Monocyte"]},
}
EARLIER = {"HSPC": [], "MEP": ["HSPC"], "GMP": ["HSPC"]}
VARIANTS = {"standard": {}, "easy": {"noise": 0.0, "effect": 3.0}, "hard": {"effect": 1.0, "library_size": 1000.0}}
KEY = "cell_type"
LINEAGES = {"MEP": ["Ery", "Mk"], "GMP": ["Mo", "Neu", "Baso", "Eos", "DC"]}
"""Pools of Paul et al. 2015 and the types after them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", nargs="?", choices=list(VARIANTS), default="standard")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--without-model", action="store_true", help="leave out what Graph-DiffVAE predicts")
    parser.add_argument("--merged", help="file of Paul et al. 2015; prints the ranks in its merged pools instead")
    options = parser.parse_args()
    if options.merged:
        _merged(ad.read_h5ad(options.merged))
        return
    ranks, calls = [], []
    for seed in range(options.first, options.first + options.seeds):
        adata = dv.datasets.simulate_differentiation(2000, 1000, rng=seed, **VARIANTS[options.variant])
        dv.pp.prepare(adata, rng=seed)
        if not options.without_model:
            dv.pp.cell_graph(adata, rng=seed, progress=False)
            dv.tl.links(adata, dv.model.GraphDiffVAE().train(adata, rng=seed, progress=False), rng=seed)
        ranks += [(seed, *row) for row in _ranks(adata)]
        calls += [(seed, *row) for row in _calls(adata)]
    table = pd.DataFrame(ranks, columns=["seed", "score", "source", "branch", "AP", "AUROC", "base"])
    print(f"Ranks within progenitors, {options.variant} trees: mean over seeds and branches, sd over seeds")
    by_seed = table.groupby(["score", "seed"], sort=False)[["AP", "AUROC", "base"]].mean()
    print(by_seed.groupby("score", sort=False).agg(["mean", "std"]).round(3).to_string())
    print("\nPer branch")
    print(table.pivot_table(index="score", columns=["source", "branch"], values="AP", sort=False).round(2).to_string())
    columns = ["begun", "called", "right", "null", "null_called"]
    table = pd.DataFrame(calls, columns=["seed", "rule", "source", *columns])
    print("\nCalls: sums over seeds, and the worst pool without begun cells")
    sums = table.groupby("rule", sort=False)[columns].sum()
    share = (table["null_called"] / table["null"]).groupby(table["rule"]).max()
    sums = sums.assign(
        precision=sums["right"] / sums["called"], recall=sums["right"] / sums["begun"],
        null_share=sums["null_called"] / sums["null"], worst_null=share,
    )  # fmt: skip
    print(sums.round(3).to_string())
    each = table.groupby(["rule", "seed"], sort=False)[columns].sum()
    each = pd.DataFrame({"precision": each["right"] / each["called"], "recall": each["right"] / each["begun"]})
    print("\nMean and sd over seeds")
    print(each.groupby("rule", sort=False).agg(["mean", "std"]).round(3).to_string())


def _truth(adata, source):
    types, branch = (adata.obs[key].astype(str).to_numpy() for key in (KEY, "branch"))
    rows = np.flatnonzero(types == source)
    return types, rows, np.where(np.isin(branch[rows], list(BRANCHES[source])), branch[rows], "")


def _spaces(adata):
    """Return name -> (values, metric) of the spaces whose direct neighbours are counted."""
    spaces = {"Pearson": (adata.layers["unit"], "pearson"), "PCA": (principal_components(adata.X, 0), "cosine")}
    if "X_diffvae_link" in adata.obsm:
        spaces = {"Graph-DiffVAE": (adata.obsm["X_diffvae_link"], "cosine"), **spaces}
    return spaces


def _ranks(adata):
    spaces = _spaces(adata)
    graphs = {
        "Pearson, k = 30": neighbor_graph(spaces["Pearson"][0], 30, metric="pearson"),
        "PCA, cosine, k = 30": neighbor_graph(spaces["PCA"][0], 30, metric="cosine"),
        "PCA, k = 30": neighbor_graph(spaces["PCA"][0], 30),
    }
    if "X_diffvae_link" in adata.obsm:
        graphs["Graph-DiffVAE's called links"] = adata.obsp["diffvae_called_links"]
    for source, branches in BRANCHES.items():
        types, rows, truth = _truth(adata, source)
        others = [t for t in np.unique(types) if t != source]
        later = [t for below in branches.values() for t in below]
        member = (types[:, None] == np.array(others)).astype(np.int64)
        scores = {f"{n}: links": (link_mass(x, m, 15, rows, member)["share"], others) for n, (x, m) in spaces.items()}
        for name, graph in graphs.items():
            scores[f"{name}: absorption"] = (absorption(graph, types == source, member.astype(float)), others)
        fates = dv.tl.fates(adata, source, KEY)
        scores["whitened PCA, k = 30: absorption (tl.fates)"] = (fates.to_numpy(), list(fates))
        dv.tl.commitment(adata, source, KEY, targets=later, earlier=EARLIER[source])
        found = adata.uns["diffvae"]["commitment_types"]
        found = found[found["graph"] == "pca"].pivot(index="cell", columns="type", values="posterior")
        scores["path mixture (tl.commitment)"] = (found.loc[adata.obs_names[rows], later].to_numpy(), later)
        for name, (values, names) in scores.items():
            for branch, below in branches.items():
                score, begun = values[:, [names.index(t) for t in below]].sum(axis=1), truth == branch
                area = roc_auc_score(begun, score)
                yield name, source, branch, average_precision_score(begun, score), area, begun.mean()


def _merged(adata):
    dv.pp.prepare(adata)
    truth = adata.obs[KEY].astype(str)
    adata.obs["merged"] = truth.where(~truth.isin(list(LINEAGES)), "pool")
    types = adata.obs["merged"].to_numpy()
    rows, others = np.flatnonzero(types == "pool"), sorted(set(types) - {"pool"})
    member = (types[:, None] == np.array(others)).astype(np.int64)
    spaces = _spaces(adata)
    scores = {f"{n}: links": (link_mass(x, m, 15, rows, member)["share"], others) for n, (x, m) in spaces.items()}
    graphs = {
        "Pearson, k = 30": neighbor_graph(adata.layers["unit"], 30, metric="pearson"),
        "PCA, k = 30": neighbor_graph(spaces["PCA"][0], 30),
    }
    for name, graph in graphs.items():
        scores[f"{name}: absorption"] = (absorption(graph, types == "pool", member.astype(float)), others)
    fates = dv.tl.fates(adata, "pool", "merged")
    scores["whitened PCA, k = 30: absorption (tl.fates)"] = (fates.to_numpy(), list(fates))
    clusters = dv.tl.fates(dv.pp.whiten(adata, copy=True), "pool", "merged", use_rep="X_white")
    scores["whitened within clusters, k = 30: absorption"] = (clusters.to_numpy(), list(clusters))
    dv.tl.commitment(adata, "pool", "merged")
    found = adata.uns["diffvae"]["commitment_types"]
    found = found[found["graph"] == "pca"].pivot(index="cell", columns="type", values="posterior")
    scores["path mixture (tl.commitment)"] = (found.loc[adata.obs_names[rows], others].to_numpy(), others)
    areas = {
        name: {
            pool: roc_auc_score(truth.iloc[rows] == pool, values[:, [names.index(t) for t in after]].sum(axis=1))
            for pool, after in LINEAGES.items()
        }
        for name, (values, names) in scores.items()
    }
    table = pd.DataFrame(areas).T
    print(table.assign(mean=table.mean(axis=1)).round(3).to_string())
    calls = adata.uns["diffvae"]["commitment"]["call"]
    print(pd.crosstab(calls.to_numpy(), truth.iloc[rows].to_numpy(), rownames=["call"], colnames=["was"]).to_string())


def _calls(adata):
    for source, branches in BRANCHES.items():
        _, rows, truth = _truth(adata, source)
        leads_to = {t: branch for branch, below in branches.items() for t in below}
        null = np.setdiff1d(np.arange(adata.n_obs), rows[truth != ""])
        without = adata[null].copy()
        for rule, call in _rules(adata, source).items():
            called = call(adata)
            first = [name.partition(": ")[2].split("/")[0] for name in called]
            branch = np.array([leads_to.get(name, "another") if name else "" for name in first])
            nobody = np.array(call(without)) != "uncommitted"
            right = ((branch == truth) & (truth != "")).sum()
            yield rule, source, (truth != "").sum(), (branch != "").sum(), right, len(nobody), nobody.sum()


def _rules(adata, source) -> dict[str, Callable]:
    later = [t for below in BRANCHES[source].values() for t in below]
    earlier = EARLIER[source]

    def by_links(space, targets=None):
        def call(cells):
            types = cells.obs[KEY].astype(str).to_numpy()
            to = targets or [t for t in np.unique(types) if t != source]
            x, metric = _spaces(cells)[space]
            member = (types[:, None] == np.array(to)).astype(np.int64)
            return name_cells(link_mass(x, metric, 15, np.flatnonzero(types == source), member), to, 0.05)["call"]

        return call

    def by_paths(**options):
        return lambda cells: list(dv.tl.commitment(cells, source, KEY, **options)["call"])

    rules = {f"{name}, all types": by_links(name) for name in _spaces(adata)}
    rules |= {f"{name}, later types": by_links(name, later) for name in _spaces(adata)}
    return rules | {
        "paths": by_paths(targets=later, earlier=earlier),
        "paths, core share at least .5": by_paths(targets=later, earlier=earlier, min_core=0.5),
        "paths, any type but earlier ones": by_paths(earlier=earlier),
        "paths, earlier types unnamed": by_paths(targets=later),
        "paths, whitened in clusters": lambda cells: _in_clusters(cells, source, later, earlier),
    }


def _in_clusters(cells, source, later, earlier):
    """Return calls in the space that is whitened without labels."""
    types = cells.obs[KEY].astype(str).to_numpy()
    y = dv.pp.whiten(cells, copy=True).obsm["X_white"].astype(float)
    paths = [*later, *earlier]
    pool, ends = projected(y[types == source], path_ends(y, types, source, paths))
    called = call_cells(pool, ends, len(later), 0.1, 0.6)[1]
    return [f"biased: {paths[i]}" if i >= 0 else "uncommitted" for i in called]


if __name__ == "__main__":
    main()
