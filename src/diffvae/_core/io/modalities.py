"""Which features of a matrix are genes, which rows are cells: all others are set aside, and one genome is chosen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from diffvae._core.genes import GENOME
from diffvae._core.io.features import is_counter, is_quality_column, rows_of_annotation
from diffvae._core.io.orientation import is_known_gene
from diffvae._core.io.totals import far_beyond, running, sums, totals
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
    r"(AB_|ADT[_.]|HTO[_.]).+|(ADT|HTO)-.*[A-Z].*|.*TotalSeq.*|Hashtag[-_ ]?\w*|.+[-_.](ADT|Total[A-D])|.+_prot(ein)?",
    re.IGNORECASE,
)
"""Of antibodies; ``adt-1`` is a gene of the worm."""
_PROTEIN_NUMBER = re.compile(r"(ADT|HTO)-?\d+")
_CONTROL_NAME = re.compile(
    r"blank[-_. ]?\d+|neg(ative)?[-_. ]?(control|ctrl)?[-_. ]?(probe|codeword|prb)?[-_. ]?\d+"
    r"|(unassigned|deprecated)[-_. ]?codeword[-_. ]?\d+|genomic[-_. ]?control\S*|system[-_. ]?control[-_. ]?\d+"
    r"|falsecode[-_. ]?\d+|intergenic_region_\d+\S*|antisense_[A-Z0-9]+",
    re.IGNORECASE,
)
"""Of Xenium, CosMx, MERSCOPE: probes and codes that no transcript has."""
_PEAK_NAME = re.compile(r"(chr[\w.]+?|\d{1,2}|X|Y|MT|(GL|KI|JH)\d+\.\d+)[:_-]\d+[-_:]\d+", re.IGNORECASE)
_MULTIPLEXING_NAME = re.compile(r"CMO3\d\d")
_NAMES = (
    (_PROTEIN_NAME, PROTEIN),
    (_PROTEIN_NUMBER, PROTEIN),
    (_CONTROL_NAME, "control"),
    (_PEAK_NAME, "peaks"),
    (_MULTIPLEXING_NAME, "multiplexing capture"),
)
"""Names of features that are no genes, and the kind of each."""
_SAID = {
    "counter": "counters of reads",
    "quality": "columns of quality control",
    "control": "control probes",
    "total": "columns that are a total of the others",
    "running": "columns that number the rows",
}
_OF_CELLS = ("quality", "total", "running")
"""Kinds whose values are kept in ``obs``."""
MIN_GENOME = 0.2
"""Share of the genes that a second genome has; a few genes of a virus or a transgene belong to the first."""
PROTEIN_KEY = "protein"
"""Key of the counts of antibodies in ``obsm``."""


def feature_kinds(var: pd.DataFrame) -> np.ndarray:
    """Return "" for a gene, else what a feature is, in lower case: the type of 10x Genomics, "counter", "quality"...

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
    kinds[(kinds == "") & (is_quality_column(names) | rows_of_annotation(names))] = "quality"
    for pattern, kind in _NAMES:
        kinds[(kinds == "") & np.array([pattern.fullmatch(name) is not None for name in names], dtype=bool)] = kind
    return kinds


def left_out(var: pd.DataFrame, kinds: np.ndarray, *, kept: bool = False) -> str:
    """Say which features are left out; "" if none is. ``kept``: antibodies are in ``obsm``."""
    if (kinds == "").all():
        return ""
    parts = []
    for kind in dict.fromkeys(kinds[kinds != ""]):
        names = var.index[kinds == kind]
        what = _SAID.get(kind, f"type {kind!r}")
        place = ""
        if kept and (kind == PROTEIN or kind in _OF_CELLS):
            place = f", kept in obsm[{PROTEIN_KEY!r}]" if kind == PROTEIN else ", kept in obs"
        parts.append(f"{len(names):,} of {what} ({quoted(names)}){place}")
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


def only_genes(
    adata: AnnData, genome: str | None = None, *, one_genome: bool = True, by_values: bool = False
) -> tuple[AnnData, list[str]]:
    """Return cells with their genes only, and remarks on what was left out.

    Counts of antibodies are kept in ``obsm["protein"]``, columns that describe cells in ``obs``, rows that describe
    genes in ``var``, if there is nothing yet. The cells are returned as they are if nothing is left out.

    Parameters
    ----------
    adata
        Cells x genes.
    genome
        Keep its genes.
    one_genome
        Refuse two genomes without a choice.
    by_values
        Look at the names of cells and at the values as well: rows that describe genes, totals of the others and running
        numbers are no cells and no genes. By default all rows stay, and names of features decide.

    Raises
    ------
    DataError
        If no feature is a gene, or the genes are of several genomes.

    Examples
    --------
    >>> from anndata import AnnData
    >>> adata = AnnData(np.ones((2, 3)), var=pd.DataFrame(index=["Gata1", "__no_feature", "nCount_RNA"]))
    >>> kept, notes = only_genes(adata)
    >>> kept.var_names.tolist(), kept.obs.columns.tolist()
    (['Gata1'], ['nCount_RNA'])
    """
    kinds = feature_kinds(adata.var)
    notes: list[str] = []
    no_cells = np.zeros(adata.n_obs, dtype=bool)
    if by_values:
        kinds, no_cells, notes = _by_values(adata, kinds)
    if (kinds != "").all() and len(kinds):
        raise DataError(
            f"No feature is a gene: they are of type {quoted(dict.fromkeys(kinds))}; give a matrix of gene expression."
        )
    if note := left_out(adata.var, kinds, kept=True):
        notes.insert(0, note)
    keep = kinds == ""
    chosen = choose_genome(adata.var[keep], genome) if one_genome else None
    if chosen is not None and not chosen.all():
        notes.append(f"Genes of other genomes than {genome!r} were left out: {int((~chosen).sum()):,}.")
        keep[keep] = chosen
    if no_cells.any():
        notes.append(f"Rows that describe genes and are no cells are kept in var: {quoted(adata.obs_names[no_cells])}.")
    if keep.all() and not no_cells.any():
        return adata, notes
    made = adata[~no_cells, keep].copy()
    if adata.raw is not None:
        raw = adata.raw.to_adata()
        inside = (feature_kinds(raw.var) == "") & ~raw.var_names.isin(adata.var_names[np.isin(kinds, _OF_CELLS)])
        if genome is not None and (of_genome := choose_genome(raw.var[inside], genome)) is not None:
            inside[inside] = of_genome
        made.raw = raw[~no_cells, inside].copy()
    rows = _dense(adata.X[no_cells])[:, keep] if no_cells.any() else np.zeros((0, 0))
    for name, values in zip(adata.obs_names[no_cells].astype(str), rows, strict=True):
        if name not in made.var:
            made.var[name] = values
    if chosen is not None:
        made.var_names = made.var_names.astype(str).str.replace(GENOME, "", n=1, regex=True)
    if (protein := kinds == PROTEIN).any() and PROTEIN_KEY not in made.obsm:
        values = _dense(adata.X[:, protein])[~no_cells]
        made.obsm[PROTEIN_KEY] = pd.DataFrame(values, made.obs_names, adata.var_names[protein])
    if (of_cells := np.isin(kinds, _OF_CELLS)).any():
        columns = _dense(adata.X[:, of_cells])[~no_cells].T
        for name, values in zip(adata.var_names[of_cells].astype(str), columns, strict=True):
            if name not in made.obs:
                made.obs[name] = values
    return made, notes


def _by_values(adata: AnnData, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return kinds of features and which rows are no cells, by values too; remarks on columns that may be no genes."""
    kinds, no_cells, genes = kinds.copy(), rows_of_annotation(adata.obs_names), kinds == ""
    if no_cells.all() or not genes.any():
        return kinds, np.zeros_like(no_cells), []
    x = adata.X
    if not (isinstance(x, np.ndarray) or (sp.issparse(x) and x.format in ("csr", "csc"))) or x.dtype.kind not in "biuf":
        return kinds, no_cells, []
    if no_cells.any():
        x = x[~no_cells]
    if not genes.all():
        x = x[:, genes]
    of = sums(x)
    numbers = running(x, of.by_column)
    numbers = numbers[~is_known_gene(adata.var_names[genes][numbers])]
    if len(numbers):  # no part of a total
        kinds[np.flatnonzero(genes)[numbers]] = "running"
        genes = kinds == ""
        x = x[:, np.delete(np.arange(x.shape[1]), numbers)]
        of = sums(x)
    at, rows = np.flatnonzero(genes), np.flatnonzero(~no_cells)
    columns, lines = totals(x, of)
    kinds[at[columns]] = "total"
    no_cells[rows[lines]] = True
    left = np.flatnonzero(kinds[at] == "")
    odd = far_beyond(of.by_column[left], is_known_gene(adata.var_names[at[left]]))
    notes = []
    if len(odd):
        notes.append(
            f"The values of {quoted(adata.var_names[at[left[odd]]])} go far beyond those of all genes, and their names "
            "are no known genes; leave them out if they describe cells."
        )
    return kinds, no_cells, notes


def _dense(part: Any) -> np.ndarray:
    return part.toarray() if hasattr(part, "toarray") else np.asarray(part)
