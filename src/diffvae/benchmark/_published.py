"""The numbers of the paper, each with its place there.

Bica, Andrés-Terré, Cvejic, Liò, Unsupervised generative and graph representation learning for modelling cell
differentiation, Scientific Reports 10:9790 (2020), doi 10.1038/s41598-020-66166-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

CITATION: Final = (
    "Bica, Andrés-Terré, Cvejic, Liò, Unsupervised generative and graph representation learning for modelling cell "
    "differentiation, Scientific Reports 10:9790 (2020), doi 10.1038/s41598-020-66166-8"
)


@dataclass(frozen=True)
class Published:
    """What the paper says of a data set; empty where it says nothing in its main text.

    Attributes
    ----------
    title
        What the cells are.
    n_cells, n_genes
        Section "Data details and pre-processing".
    n_latent, batch_size
        Section "Hyperparameter selection".
    clusterer
        On the t-SNE map (section "Using DiffVAE to obtain cell clusters").
    n_dims, n_top
        Latent dimensions per cluster and genes per dimension (section "Additional implementation details").
    overlap
        Share of the cells whose cluster has the reference type.
    types
        Cells of each reference type, counted in the annotation that the authors published beside their code.
    genes
        Type to its genes of Table 1.
    source, converted
        Progenitors, and how many of them are converted at lambda = 1, by target (text below Figure 3).
    accuracy
        Of the classifier of mature types.
    ari
        Table 2: ``clusterer``, ``n_latent``, ``space``, ``method``, ``ari``.
    linked_to
        Type with the most predicted links of the progenitors (text on Figure 4d).
    separable
        Whether the paper finds separable clusters.
    lacking
        What the paper's main text doesn't give, so that it can't stand beside ours.
    """

    title: str
    n_cells: int
    n_genes: int
    n_latent: int
    batch_size: int
    clusterer: str
    n_dims: int
    n_top: int
    overlap: float | None = None
    types: Mapping[str, int] = field(default_factory=dict)
    genes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str | None = None
    converted: Mapping[str, int] = field(default_factory=dict)
    accuracy: float | None = None
    ari: pd.DataFrame | None = None
    linked_to: str | None = None
    separable: bool = True
    lacking: tuple[str, ...] = ()


METHODS: Final = ("DiffVAE", "VAE", "AE", "PCA")
_TABLE_2: Final = """
kmeans  20   .803 .771 .799 .633    .809 .738 .699 .717
kmeans  50   .829 .775 .811 .629    .831 .801 .759 .709
kmeans  100  .844 .831 .815 .627    .815 .796 .806 .680
dbscan  20   .007 .004 .001 .0002   .753 .717 .556 .506
dbscan  50   .474 .243 .223 .0009   .710 .667 .573 .590
dbscan  100  .154 .018 .011 .002    .813 .799 .749 .570
"""
"""Zebrafish, mean adjusted Rand index: the four methods on the latent, then on its t-SNE."""


def _table_2() -> pd.DataFrame:
    rows = []
    for line in _TABLE_2.strip().splitlines():
        clusterer, n_latent, *values = line.split()
        columns = [(space, method) for space in ("latent", "tsne") for method in METHODS]
        for (space, method), value in zip(columns, values, strict=True):
            rows.append((clusterer, int(n_latent), space, method, float(value)))
    return pd.DataFrame(rows, columns=["clusterer", "n_latent", "space", "method", "ari"])


GENES_UP_TO: Final = ("Erythrocytes", 25)
"""The most genes that any HSPC needs to become this type."""
GENES_OF_HALF: Final = ("Thrombocytes", 20)
"""Genes with which half of the cells become this type."""
SHARE_OF_GENES: Final = ("Monocytes", 0.7)
"""Share of all genes that is needed for this type, "~70%"."""


def published() -> dict[str, Published]:
    """Return the paper's three data sets.

    Examples
    --------
    >>> sets = published()
    >>> list(sets), sets["zebrafish"].overlap
    (['zebrafish', 'pancreas', 'human-hsc'], 0.899)
    >>> table = sets["zebrafish"].ari
    >>> table[(table["method"] == "DiffVAE") & (table["n_latent"] == 50)]["ari"].tolist()
    [0.829, 0.831, 0.474, 0.71]
    """
    return {
        "zebrafish": Published(
            title="zebrafish blood, Athanasiadis et al. 2017",
            n_cells=1422,
            n_genes=1845,
            n_latent=50,
            batch_size=128,
            clusterer="kmeans",
            n_dims=10,
            n_top=3,
            overlap=0.899,
            types={"Thrombocytes": 425, "Neutrophils": 336, "Monocytes": 264, "HSPC": 245, "Erythrocytes": 152},
            genes={
                "HSPC": ("si:ch211-161c3.6", "cad", "pcna"),
                "Neutrophils": ("illr4", "ponzr6", "npsn", "abcb9", "lyz"),
                "Monocytes": ("lgals2a", "c1qc", "c1qa", "s100a10b", "mafbb"),
                "Erythrocytes": ("alas2", "ba1l", "aqp1a.1", "hbaa1", "slc4a1a", "ba1", "si:xx-by187g17.1"),
                "Thrombocytes": ("fn1b", "itga2b", "bmp6", "thbs1b", "fhl1a", "ctgfa", "apln"),
            },
            source="HSPC",
            converted={"Erythrocytes": 175, "Monocytes": 70, "Thrombocytes": 70, "Neutrophils": 3},
            accuracy=0.995,
            ari=_table_2(),
            linked_to="Erythrocytes",
            lacking=(
                "The conversions at lambda = 0.5 are in the image of Figure 3 only, not in the text; ours stand "
                "without a published number.",
                "The paper's spread over its 50 clusterings, and the parameters of its DBSCAN, are not given. The "
                "caption of Table 2 names k-means and Gaussian mixtures, its rows k-means and DBSCAN; all three "
                "are run here.",
            ),
        ),
        "pancreas": Published(
            title="human pancreas, Muraro et al. 2016",
            n_cells=2285,
            n_genes=4000,
            n_latent=100,
            batch_size=256,
            clusterer="dbscan",
            n_dims=5,
            n_top=5,
            overlap=0.962,
            lacking=(
                "The genes of the clusters (Supplementary Table 1) and the adjusted Rand indices (Supplementary "
                "Table 2) are in the paper's supplement, not in its text; ours stand without a published number.",
                "The paper neither perturbs these cells (Figure 3) nor predicts links between them (Figure 4).",
            ),
        ),
        "human-hsc": Published(
            title="human stem and progenitor cells, Velten et al. 2017",
            n_cells=1034,
            n_genes=700,
            n_latent=50,
            batch_size=128,
            clusterer="dbscan",
            n_dims=10,
            n_top=3,
            separable=False,
            lacking=(
                "No labels come with these cells, so that overlap, adjusted Rand index (Table 2), conversions "
                "(Figure 3) and links between types (Figure 4) can't be had; the paper reports none "
                "of them for this set either.",
            ),
        ),
    }
