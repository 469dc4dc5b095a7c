"""Which features of a matrix are genes: proteins, peaks and counters are left out, and one genome is chosen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae._core.genes import GENOME
from diffvae._core.io.features import is_counter, is_quality_column
from diffvae._errors import DataError, quoted

if TYPE_CHECKING:
    from anndata import AnnData

TYPE_COLUMNS = ("feature_types", "feature_type")
GENE = "gene expression"
PROTEIN = "antibody capture"
OTHER_TYPES = {
    PROTEIN, "crispr guide capture", "multiplexing capture", "custom", "peaks", "antigen capture", "vdj", "vdj-t",
    "vdj-b", "adt", "hto", "crispr", "protein", "negative control probe", "negative control codeword",
    "blank codeword", "unassigned codeword", "deprecated codeword", "genomic control",
}  # fmt: skip
"""Feature types of 10x Genomics and others that are no genes, in lower case."""
_PROTEIN_NAME = re.compile(
    r"(AB_|ADT[_\-.]|HTO[_\-.]).+|.*TotalSeq.*|Hashtag[-_ ]?\w*|.+_(ADT|TotalC|TotalA)", re.IGNORECASE
)
MIN_GENOME = 0.2
"""Share of the genes that a second genome has; a few genes of a virus or a transgene belong to the first."""
PROTEIN_KEY = "protein"
"""Key of the counts of antibodies in ``obsm``."""


def feature_kinds(var: pd.DataFrame) -> np.ndarray:
    """Return "" for a gene, else what a feature is, in lower case: the type of 10x Genomics, "counter" or "quality".

    A column of feature types counts only if it has one of those of 10x Genomics, since other programs write biotypes
    there.

    Examples
    --------
    >>> var = pd.DataFrame({"feature_types": ["Gene Expression", "Antibody Capture"]}, index=["CD3D", "CD3"])
    >>> feature_kinds(var).tolist()
    ['', 'antibody capture']
    """
    kinds = np.full(len(var), "", object)
    for column in (c for c in TYPE_COLUMNS if c in var):
        types = var[column].astype(object).where(var[column].notna(), "").astype(str).str.strip().str.lower()
        if types.isin({GENE, *OTHER_TYPES}).any():
            other = types != GENE if (types == GENE).any() else types.isin(OTHER_TYPES)
            kinds[other.to_numpy()] = types[other].replace("", "unknown").to_numpy()
    names = var.index.astype(str)
    kinds[(kinds == "") & is_counter(names)] = "counter"
    kinds[(kinds == "") & is_quality_column(names)] = "quality"
    protein = np.array([_PROTEIN_NAME.fullmatch(name) is not None for name in names], dtype=bool)
    kinds[(kinds == "") & protein] = PROTEIN
    return kinds


def left_out(var: pd.DataFrame, kinds: np.ndarray, *, kept: bool = False) -> str:
    """Say which features are left out; "" if none is. ``kept``: antibodies are in ``obsm``."""
    if (kinds == "").all():
        return ""
    parts = []
    for kind in dict.fromkeys(kinds[kinds != ""]):
        names = var.index[kinds == kind]
        what = {"counter": "counters of reads", "quality": "columns of quality control"}.get(kind, f"type {kind!r}")
        place = f", kept in obsm[{PROTEIN_KEY!r}]" if kept and kind == PROTEIN else ""
        parts.append(f"{len(names):,} of {what} ({quoted(names, 3)}){place}")
    return f"Features that are no genes were left out: {'; '.join(parts)}."


def genomes(var: pd.DataFrame) -> pd.Series:
    """Return the genome of each gene, by the column ``genome`` or the prefix of its name; "" if unknown."""
    names = var.index.to_series().astype(str)
    if "genome" in var and (column := var["genome"].astype(str)).replace({"nan": "", "None": ""}).nunique() > 1:
        return column.set_axis(names.index)
    return names.str.extract(GENOME, expand=False).fillna("")


def choose_genome(var: pd.DataFrame, genome: str | None) -> np.ndarray | None:
    """Return which genes are of a genome; None for all. Two genomes without a choice are refused."""
    found = genomes(var)
    sizes = found[found != ""].value_counts()
    several = sizes[sizes >= MIN_GENOME * len(found)]
    if genome is None:
        if len(several) > 1:
            listed = " and ".join(f"{name!r} ({n:,} genes)" for name, n in several.items())
            raise DataError(f"The genes are of several genomes, {listed}; choose one of them (genome).")
        return None
    if genome not in sizes.index:
        known = quoted(sizes.index) if len(sizes) else "the file names none"
        raise DataError(f"genome is {genome!r}, but no gene is of this genome; genomes: {known}.")
    return (found == genome).to_numpy()


def only_genes(adata: AnnData, genome: str | None = None, *, one_genome: bool = True) -> tuple[AnnData, list[str]]:
    """Return cells with their genes only, and remarks on what was left out.

    Two genomes without a choice are refused, unless ``one_genome`` is False.

    Counts of antibodies are kept in ``obsm["protein"]``, those of cells in quality-control columns in ``obs``, if there
    is nothing yet. The cells are returned as they are if nothing is left out.
    """
    kinds = feature_kinds(adata.var)
    if (kinds != "").all() and len(kinds):
        raise DataError(
            f"No feature is a gene: they are of type {quoted(dict.fromkeys(kinds))}; give a matrix of gene expression."
        )
    notes = [note] if (note := left_out(adata.var, kinds, kept=True)) else []
    keep = kinds == ""
    chosen = choose_genome(adata.var[keep], genome) if one_genome else None
    if chosen is not None and not chosen.all():
        notes.append(f"Genes of other genomes than {genome!r} were left out: {int((~chosen).sum()):,}.")
        keep[keep] = chosen
    if keep.all():
        return adata, notes
    made = adata[:, keep].copy()
    if adata.raw is not None:
        raw = adata.raw.to_adata()
        inside = feature_kinds(raw.var) == ""
        if genome is not None and (of_genome := choose_genome(raw.var[inside], genome)) is not None:
            inside[inside] = of_genome
        made.raw = raw[:, inside].copy()
    if chosen is not None:
        made.var_names = made.var_names.astype(str).str.replace(GENOME, "", n=1, regex=True)
    if (protein := kinds == PROTEIN).any() and PROTEIN_KEY not in made.obsm:
        made.obsm[PROTEIN_KEY] = pd.DataFrame(_dense(adata.X, protein), made.obs_names, adata.var_names[protein])
    for position in np.flatnonzero(kinds == "quality"):
        name = str(adata.var_names[position])
        if name not in made.obs:
            made.obs[name] = _dense(adata.X, np.array([position]))[:, 0]
    return made, notes


def _dense(x: Any, columns: np.ndarray) -> np.ndarray:
    part = x[:, columns]
    return part.toarray() if hasattr(part, "toarray") else np.asarray(part)
