"""Real cells with the tables that diffvae.tl writes, computed here in the plainest way, for the tests of diffvae.pl."""

from functools import cache

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from sklearn.cluster import KMeans


def dimension_table(z: np.ndarray, groups: pd.Series, n_top: int = 10) -> pd.DataFrame:
    centred = (z - z.mean(0)) / z.std(0)
    rows = []
    for group in groups.cat.categories:
        inside = (groups == group).to_numpy()
        for k in range(z.shape[1]):
            low, high = centred[:, k] <= -1, centred[:, k] >= 1
            out = low | high
            table = np.array([[(out & inside).sum(), (out & ~inside).sum()], [0, 0]], dtype=float)
            table[1] = [inside.sum() - table[0, 0], (~inside).sum() - table[0, 1]]
            with np.errstate(divide="ignore", invalid="ignore"):
                odds = table[0, 0] * table[1, 1] / (table[0, 1] * table[1, 0])
            side = "+" if inside[high].sum() >= inside[low].sum() else "-"
            rows.append(
                (group, k, out.sum(), inside[out].mean(), inside[high].mean(), inside[low].mean(), odds, side)
            )
    names = ["group", "dimension", "n_cells", "share", "share_high", "share_low", "odds_ratio", "side"]
    frame = pd.DataFrame(rows, columns=names)
    frame["rank"] = frame.groupby("group")["share"].rank(ascending=False, method="first").astype(int)
    frame["chosen"] = frame["rank"] <= n_top
    return frame.assign(p_value=0.01, q_value=0.02)


def gene_table(adata: AnnData, groups: pd.Series, n_genes: int = 5) -> pd.DataFrame:
    x = pd.DataFrame(adata.raw.X.toarray(), columns=adata.raw.var_names)
    by_group = groups.to_numpy()
    rows = []
    for group in groups.cat.categories:
        gap = x[by_group == group].mean() - x[by_group != group].mean()
        for direction, sign in (("up", 1), ("down", -1)):
            best = (sign * gap).nlargest(n_genes)
            rows += [
                (group, gene, direction, 3, sign * w, "weights", i + 1)
                for i, (gene, w) in enumerate(best.items())
            ]
    return pd.DataFrame(rows, columns=["group", "gene", "direction", "n_dims", "weight", "ranking", "rank"])


def name_of(i: int) -> str:
    return f"common myeloid progenitor-like cells n {i:02d}"[:41]


@cache
def _cells() -> AnnData:
    adata = sc.datasets.pbmc68k_reduced()
    adata.obsm["X_diffvae_tsne"] = adata.obsm["X_umap"].astype(float)
    adata.obsm["X_diffvae"] = adata.obsm["X_pca"][:, :50].astype(float)
    adata.obs["cell_type"] = adata.obs["bulk_labels"]
    for k in (3, 10, 25):
        found = KMeans(k, random_state=0, n_init=1).fit_predict(adata.obsm["X_pca"][:, :20])
        adata.obs[f"k{k}"] = pd.Categorical.from_codes(found, [str(i) for i in range(k)])
        adata.obs[f"long{k}"] = pd.Categorical.from_codes(found, [name_of(i) for i in range(k)])
    adata.obs["diffvae_cluster"] = adata.obs["k10"]
    types = adata.obs["bulk_labels"].astype(str).replace({"CD34+": "unassigned"})
    adata.obs["diffvae_cell_type"] = types.astype("category")
    return adata


def cells(groupby: str = "diffvae_cluster") -> AnnData:
    """Return pbmc68k_reduced with UMAP for t-SNE, PCA for the latent space, and tables about `groupby`."""
    adata = _cells().copy()
    adata.uns["diffvae"] = {
        "latent_dimensions": dimension_table(adata.obsm["X_diffvae"], adata.obs[groupby]),
        "high_weight_genes": gene_table(adata, adata.obs[groupby]),
    }
    return adata
