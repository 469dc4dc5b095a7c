"""The cells of a reproduction, and the numbers that the paper reports for them, each with its place in the paper."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae._core.io import read
from diffvae._errors import DataError
from diffvae.benchmark._tasks import fingerprint_of, labels_of, require_raw
from diffvae.pipeline import _checks

if TYPE_CHECKING:
    from anndata import AnnData

CITATION: Final = (
    "Bica, Andrés-Terré, Cvejic, Liò, Unsupervised generative and graph representation learning for modelling cell "
    "differentiation, Scientific Reports 10:9790 (2020), doi 10.1038/s41598-020-66166-8"
)
METHOD_OF: Final = {"paper": "DiffVAE (paper)", "code": "DiffVAE (code)", "default": "DiffVAE"}
"""Preset to the name of the method in :func:`diffvae.benchmark.run`."""
PRESETS: Final = tuple(METHOD_OF)
OTHERS: Final = {"VAE": "VAE", "AE": "AE", "PCA": "PCA (unit)"}
"""Baseline as the paper names it to the name of the method."""
ALL_TYPES, MATURE_TYPES = "with progenitors", "mature types alone"
"""The types of the classifier that conversions need, and of the paper's."""
_TABLE_2: Final = """
kmeans  20   .803 .771 .799 .633    .809 .738 .699 .717
kmeans  50   .829 .775 .811 .629    .831 .801 .759 .709
kmeans  100  .844 .831 .815 .627    .815 .796 .806 .680
dbscan  20   .007 .004 .001 .0002   .753 .717 .556 .506
dbscan  50   .474 .243 .223 .0009   .710 .667 .573 .590
dbscan  100  .154 .018 .011 .002    .813 .799 .749 .570
"""
"""Zebrafish, mean adjusted Rand index of DiffVAE, VAE, AE and PCA: on the latent, then on its t-SNE."""


@dataclass(frozen=True)
class Published:
    """What the paper reports for a data set; empty where its main text reports nothing.

    Attributes
    ----------
    n_cells, n_genes
        Section "Data details and pre-processing".
    n_latent, batch_size
        Section "Hyperparameter selection".
    clusterer
        On the t-SNE map (section "Using DiffVAE to obtain cell clusters").
    n_dims, n_top
        Latent dimensions per cluster and genes per dimension (section "Additional implementation details").
    separable
        Whether the paper finds separable clusters (section "Identifying cell types").
    overlap
        Share of the cells whose cluster has the reference type (section "Identifying high weight genes").
    types
        Cells of each reference type, counted in the annotation that the authors published with their code.
    genes
        Type to its genes (Table 1).
    source, converted
        Progenitors, and how many of them convert to each target at lambda = 1 (text below Figure 3).
    most_genes, half_genes, gene_share
        Target with the most genes that a cell needs, with the number of genes that converts half of the cells, and with
        the share of all genes that is needed (text on Figure 3).
    accuracy
        Of the classifier of mature types, which are the targets in ``converted`` (section "Characterization of cell
        states").
    ari
        Table 2: ``clusterer``, ``n_latent``, ``space``, ``method``, ``ari``.
    linked_to
        Type with the most predicted links of the progenitors (text on Figure 4d).
    missing
        What the main text does not give.
    """

    title: str
    n_cells: int
    n_genes: int
    n_latent: int
    batch_size: int
    clusterer: str
    n_dims: int
    n_top: int
    separable: bool = True
    overlap: float | None = None
    types: Mapping[str, int] = field(default_factory=dict)
    genes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str | None = None
    converted: Mapping[str, int] = field(default_factory=dict)
    most_genes: tuple[str, int] = ("", 0)
    half_genes: tuple[str, int] = ("", 0)
    gene_share: tuple[str, float] = ("", 0)
    accuracy: float | None = None
    ari: pd.DataFrame | None = None
    linked_to: str | None = None
    missing: tuple[str, ...] = ()

    @property
    def easiest(self) -> str:
        """Target to which most progenitors convert."""
        return max(self.converted, key=lambda target: self.converted[target])


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
    columns = [(space, method) for space in ("latent", "tsne") for method in ("DiffVAE", *OTHERS)]
    table_2 = [
        (clusterer, int(n_latent), *column, float(value))
        for clusterer, n_latent, *values in map(str.split, _TABLE_2.strip().splitlines())
        for column, value in zip(columns, values, strict=True)
    ]
    return {
        "zebrafish": Published(
            title="zebrafish blood, Athanasiadis et al. 2017", n_cells=1422, n_genes=1845, n_latent=50, batch_size=128,
            clusterer="kmeans", n_dims=10, n_top=3, overlap=0.899,
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
            most_genes=("Erythrocytes", 25), half_genes=("Thrombocytes", 20), gene_share=("Monocytes", 0.7),
            accuracy=0.995,
            ari=pd.DataFrame(table_2, columns=["clusterer", "n_latent", "space", "method", "ari"]),
            linked_to="Erythrocytes",
            missing=(
                "The paper shows the conversions at lambda = 0.5 only as the image of Figure 3, without numbers.",
                "The paper gives neither the spread over its 50 clusterings nor the parameters of its DBSCAN. The "
                "caption of Table 2 names k-means and Gaussian mixtures, its rows k-means and DBSCAN; all three "
                "are run here.",
            ),
        ),
        "pancreas": Published(
            title="human pancreas, Muraro et al. 2016", n_cells=2285, n_genes=4000, n_latent=100, batch_size=256,
            clusterer="dbscan", n_dims=5, n_top=5, overlap=0.962,
            missing=(
                "The genes of the clusters (Supplementary Table 1) and the adjusted Rand indices (Supplementary "
                "Table 2) are only in the paper's supplement.",
                "The paper neither perturbs these cells (Figure 3) nor predicts links between them (Figure 4).",
            ),
        ),
        "human-hsc": Published(
            title="human stem and progenitor cells, Velten et al. 2017", n_cells=1034, n_genes=700, n_latent=50,
            batch_size=128, clusterer="dbscan", n_dims=10, n_top=3, separable=False,
            missing=(
                "These cells have no labels. Overlap, adjusted Rand index (Table 2), conversions (Figure 3) and links "
                "between types (Figure 4) cannot be computed; the paper reports none of them for this set either.",
            ),
        ),
    }  # fmt: skip


_OTHER_CELLS: Final = Published("", 0, 0, n_latent=50, batch_size=128, clusterer="kmeans", n_dims=10, n_top=3)
"""Settings for other cells than the paper's: those of its main set."""


@dataclass(frozen=True)
class Subject:
    """Raw cells with their labels and progenitors, and the paper's numbers for a set of the paper."""

    name: str
    adata: AnnData
    origin: str
    label_key: str | None
    source: str | None
    n_top_genes: int | None
    published: Published | None
    differences: tuple[str, ...]
    fingerprint: str

    @property
    def labels(self) -> np.ndarray | None:
        """Type of each cell, None for a cell without a label; None if there are no labels."""
        return None if self.label_key is None else labels_of(self.adata, self.label_key)

    @property
    def types(self) -> dict[str, int]:
        """Cells of each type, the largest first."""
        if self.label_key is None:
            return {}
        counts = self.adata.obs[self.label_key].dropna().astype(str).value_counts()
        return {str(name): int(n) for name, n in counts.items()}

    @property
    def targets(self) -> list[str]:
        """Types towards which the source is shifted: those with enough cells for the classifier."""
        return [t for t, n in self.types.items() if t != self.source and n >= _checks.MIN_TYPE]

    @property
    def mature(self) -> list[str]:
        """Types of the paper's classifier, which has no progenitors; of other cells all types but the source."""
        known = self.settings.converted
        return [t for t, n in self.types.items() if t in known and n >= _checks.MIN_TYPE] or self.targets

    @property
    def settings(self) -> Published:
        """The paper's settings for this set, or those of its main set."""
        return self.published or _OTHER_CELLS

    @property
    def clusterer(self) -> str:
        """The paper's clusterer; without labels Leiden, which chooses the number of clusters and tests it."""
        return "leiden" if self.label_key is None else self.settings.clusterer

    @property
    def reading(self) -> tuple[int, int]:
        """Latent dimensions per cluster, genes per dimension."""
        return self.settings.n_dims, self.settings.n_top


def read_subject(
    dataset: AnnData | str | os.PathLike[str],
    path: str | os.PathLike[str] | None,
    label_key: str | None,
    source: str | None,
    n_top_genes: int | None,
) -> Subject:
    """Read and check the cells before anything is computed."""
    known = published()
    if isinstance(dataset, str) and dataset in known:
        about, name, n_top_genes = known[dataset], dataset, None
        adata, differences = _read_published(dataset, path, about)
        origin = adata.uns[_keys.DATASET]["source"]
        if label_key is None and _keys.LABEL in adata.obs:
            label_key = _keys.LABEL
    else:
        if path is not None:
            raise ValueError(f"path is for the sets {', '.join(known)}; give the file itself in place of the name.")
        if isinstance(dataset, str) and not Path(dataset).expanduser().exists():
            raise DataError(
                f"{dataset!r} is neither one of the paper's sets ({', '.join(known)}) nor a file that exists."
            )
        adata, origin = read.load(dataset, None)
        about, differences = None, []
        name = Path(dataset).stem if isinstance(dataset, str | os.PathLike) else "cells"
        if label_key is None:
            raise ValueError("label_key is missing; name the column of obs that holds the reference types.")
    source = source or (adata.uns.get(_keys.DATASET) or {}).get("progenitors") or None
    _checks.require_labels(adata, label_key)
    _checks.require_types(adata, label_key, source, None)
    if source is not None and label_key is None:
        raise DataError(f"source is {source!r}, but the cells have no labels; leave it out.")
    require_raw(adata)
    if not adata.obs_names.is_unique:
        adata.obs_names_make_unique()
    mark = fingerprint_of(adata, *([] if label_key is None else [adata.obs[label_key].astype(str)]))
    return Subject(name, adata, origin, label_key, source, n_top_genes, about, tuple(differences), mark)


def _read_published(name: str, path: str | os.PathLike[str] | None, about: Published) -> tuple[AnnData, list[str]]:
    """Return the cells of one of the paper's sets, and a sentence for each difference from the paper's cells."""
    from diffvae import datasets
    from diffvae.datasets import _zebrafish
    from diffvae.datasets._files import check_blobs, locate

    readers: dict[str, Callable[..., AnnData]] = {
        "zebrafish": datasets.zebrafish,
        "pancreas": datasets.pancreas,
        "human-hsc": datasets.human_hsc,
    }
    place = None if path is None else Path(path).expanduser()
    try:
        adata = readers[name](place, check=False)
    except DataError as error:
        raise DataError(
            f"{name} can't be reproduced without its cells. {error} On the command line the folder is --path FOLDER."
        ) from error
    differences = []
    if adata.shape != (about.n_cells, about.n_genes):
        differences.append(
            f"{adata.n_obs:,} cells x {adata.n_vars:,} genes were read; the paper has {about.n_cells:,} x "
            f"{about.n_genes:,}."
        )
    if about.types:
        counts = adata.obs[_keys.LABEL].dropna().astype(str).value_counts().to_dict()
        pairs = [(t, counts.get(t, 0), about.types.get(t, 0)) for t in sorted({*about.types, *counts})]
        if wrong := [f"{t} {here:,} instead of {there:,}" for t, here, there in pairs if here != there]:
            differences.append(f"Cells of a type: {'; '.join(wrong)}.")
    if name == "zebrafish":
        try:
            check_blobs(locate("zebrafish", place, _zebrafish.SOURCES), _zebrafish.SOURCES)
        except DataError as error:
            differences.append(f"The files are not byte for byte the published ones: {str(error).partition(': ')[0]}.")
    else:
        differences.append(
            "The paper does not say how it chose these cells and genes from the published table. The reader has its "
            "own rule (see its documentation), so the genes may differ from the paper's."
        )
    if _keys.LABEL not in adata.obs:
        differences.append("No labels were read, so analyses that need reference types are not possible.")
        if name == "pancreas":
            differences[-1] += " A table of labels in the folder of the counts is used (see diffvae.datasets.pancreas)."
    elif missing := int(adata.obs[_keys.LABEL].isna().sum()):
        differences.append(f"{missing:,} cells have no label; they are trained on and clustered, but not scored.")
    return adata, differences
