"""Data for tests of diffvae.pl: real cells with tables like those of diffvae.tl, and small results made by hand."""

import warnings
from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.text import Text
from sklearn.cluster import KMeans

from diffvae.tl._conversions import Trajectory
from diffvae.tl._minimal_genes import MinimalGenes
from diffvae.tl._perturb import Perturbation

STEPS = (0.0, 0.5, 1.0, 2.0)


def dimension_table(z: np.ndarray, groups: pd.Series, n_top: int = 10) -> pd.DataFrame:
    centred = (z - z.mean(0)) / z.std(0)
    low, high = centred <= -1, centred >= 1
    out, n = low | high, len(z)
    parts = []
    for group in groups.cat.categories:
        inside = (groups == group).to_numpy()
        both = (out & inside[:, None]).sum(0)
        a, b, c = both + 0.5, out.sum(0) - both + 0.5, inside.sum() - both + 0.5
        columns = {
            "group": group,
            "dimension": np.arange(z.shape[1]),
            "n_cells": out.sum(0),
            "share": inside @ out / out.sum(0),
            "share_high": inside @ high / high.sum(0).clip(1),
            "share_low": inside @ low / low.sum(0).clip(1),
            "odds_ratio": a * (n - out.sum(0) - inside.sum() + both + 0.5) / (b * c),
            "side": np.where(inside @ high >= inside @ low, "+", "-"),
        }
        parts.append(pd.DataFrame(columns))
    frame = pd.concat(parts, ignore_index=True)
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
                (group, gene, direction, 3, sign * w, "weights", i + 1) for i, (gene, w) in enumerate(best.items())
            ]
    return pd.DataFrame(rows, columns=["group", "gene", "direction", "n_dims", "weight", "ranking", "rank"])


def name_of(i: int) -> str:
    return f"common myeloid progenitor-like cells n{i:02d}"  # 40 characters


@cache
def _cells() -> AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old file, read by a new anndata
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


@cache
def _tables(groupby: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    adata = _cells()
    groups = adata.obs[groupby]
    return dimension_table(adata.obsm["X_diffvae"], groups), gene_table(adata, groups)


def cells(groupby: str = "diffvae_cluster") -> AnnData:
    """Return pbmc68k_reduced with UMAP for t-SNE, PCA for the latent space, and tables about `groupby`."""
    adata = _cells().copy()
    dimensions, genes = _tables(groupby)
    adata.uns["diffvae"] = {"latent_dimensions": dimensions.copy(), "high_weight_genes": genes.copy()}
    return adata


def perturbation(
    shares=(0.0, 0.25, 0.75, 0.8),
    methods=("mean", "shift", "none"),
    targets=("B", "C long name"),
    sources=("A",),
    unit="step",
) -> Perturbation:
    """Return forty cells, twenty per source; the same shares convert to each target, and the judge calls 0.1 fewer.

    A share above one half is beyond chance. By default all targets are reached at step 1, and lie at a distance of 4.
    """
    adata = AnnData(np.ones((40, 1)), obsm={"X_diffvae_tsne": np.random.default_rng(0).normal(size=(40, 2))})
    trajectories, rows = {}, []
    for source in sources:
        for target in targets:
            if source == target:
                continue
            for method in methods:
                share = np.zeros(len(STEPS)) if method == "none" else np.array(shares)
                probability = (np.arange(20) < 20 * share[:, None]).astype(float)
                called, judged = probability > 0, np.maximum(share - 0.1, 0)
                trajectories[source, target, method] = Trajectory(
                    np.arange(20),
                    None,
                    probability,
                    probability,
                    called,
                    called,
                    called,
                    np.repeat(np.array(STEPS)[:, None], 20, axis=1),
                )
                for i, step in enumerate(STEPS):
                    null = np.nan if method == "none" or not i else 0.1
                    q = np.nan if np.isnan(null) else 0.07 if share[i] > 0.5 else 0.5
                    other = 10 * step  # the other unit
                    rows.append(
                        (source, target, method, step, other, 20, int(20 * share[i]), share[i], judged[i], null,
                         0 * null, 2 * null, share[i] - np.nan_to_num(null), q)
                    )  # fmt: skip
    others = {"step": "n_sd", "n_sd": "step"}
    names = "n_cells n_converted converted judged null_mean null_low null_high excess q_value"
    columns = ["source", "target", "method", unit, others[unit], *names.split()]
    table = pd.DataFrame(rows, columns=columns)
    table["excess_agreed"], table["distance"] = table["excess"], 4.0
    return Perturbation(
        table, trajectories, {}, adata, None, None, None, None, "type", unit, STEPS, 0.5,
        methods,
    )  # fmt: skip


def minimal(sizes=(1, 2, 2, 4), converted=5, target="B", **size) -> MinimalGenes:
    """Return cells that flip with `sizes` genes; G0 goes up in all cells, G1 down in half, G2 up in a quarter."""
    genes = pd.DataFrame(
        {
            "gene": ["G0", "G1", "G2"],
            "n_cells": [4, 2, 1],
            "share": [1.0, 0.5, 0.25],
            "direction": ["up", "down", "up"],
            "mean_change": [0.2, -0.1, 0.1],
            "mean_log_change": [1.5, -0.25, 0.5],
            "null_share": [0.1, 0.6, 0.2],
            "p_value": [0.01, 0.8, 0.3],
            "q_value": [0.03, 0.8, np.nan],
        }
    )
    kinds = ["found", "differentially expressed", "random"]
    baselines = pd.DataFrame({"genes": kinds, "flipped": [1.0, 0.25, 0.004], "sd": np.nan})
    counts = {"source": 20, "already_target": 0, "converted": converted, "flipped": len(sizes)}
    cells = pd.DataFrame({"n_genes": np.array(sizes, dtype=int)})
    params = {"source": "A", "target": target, **(size or {"step": 1.5})}
    genes = genes if sizes else genes[:0]
    return MinimalGenes(cells, genes, baselines, counts, params, AnnData(), None, np.array([]), np.array([]))


def shown_texts(ax: Axes) -> list[Text]:
    """Return every text that is drawn in the figure of `ax`."""
    figure = ax.figure.figure
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    # Matplotlib keeps spare ticks outside the limits and doesn't draw them.
    spare = [
        tick
        for axes in figure.findobj(Axes)
        for axis in (axes.xaxis, axes.yaxis)
        for tick in [*axis.majorTicks, *axis.minorTicks]
        if tick not in axis._update_ticks() or not axes.axison
    ]
    hidden = {id(label) for tick in spare for label in (tick.label1, tick.label2)}
    return [t for t in texts if id(t) not in hidden]


def assert_legible(ax: Axes) -> None:
    """Every text is at least 9 points, inside the figure, and clear of every other text."""
    texts = shown_texts(ax)
    boxes = [Text.get_window_extent(t) for t in texts]  # an annotation's own counts its line too
    width, height = ax.figure.figure.bbox.size
    for text, box in zip(texts, boxes, strict=True):
        assert text.get_fontsize() >= 9, text
        assert box.x0 > -2, (text, box)
        assert box.y0 > -2, (text, box)
        assert box.x1 < width + 2, (text, box)
        assert box.y1 < height + 2, (text, box)
    for (one, a), (other, b) in combinations(zip(texts, boxes, strict=True), 2):
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, down) < 1.5, (one, other, across, down)  # pixels; a box is higher than its letters
