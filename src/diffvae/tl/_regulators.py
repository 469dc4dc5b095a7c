"""Which genes are transcription factors, and which genes does a list of a user name?"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from diffvae._core import genes as _genes
from diffvae._core.io.dialect import split
from diffvae._core.io.orientation import gene_share
from diffvae._core.io.text_file import read_lines
from diffvae._errors import DataError
from diffvae.tl._markers import bundled_names, load_markers

SYMBOLS = ("symbol", "hgnc symbol", "gene", "gene symbol", "gene_name", "gene name")
"""Headers of the column that holds gene symbols in published tables (AnimalTFDB: Symbol; humantfs: HGNC symbol)."""
IS_TF = "is tf?"
"""Column of humantfs with Yes or No."""


@cache
def _known() -> frozenset[str]:
    text = files("diffvae.tl").joinpath("regulators/transcription_factors.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


@cache
def _well_known() -> tuple[str, ...]:
    """Return the transcription factors and the genes of the bundled marker tables."""
    return tuple(sorted({*_known(), *(gene for name in bundled_names() for gene in load_markers(name)["gene"])}))


def transcription_factors(genes: Iterable[str]) -> np.ndarray:
    """Return which genes are transcription factors with a known DNA motif (human, mouse, zebrafish).

    Parameters
    ----------
    genes
        Gene symbols. They are compared without regard to case, because orthologs of human, mouse and zebrafish mostly
        have the same symbol (GATA1, Gata1, gata1). Of a zebrafish symbol in lower case, a last "a" or "b" that numbers
        the copy is left out if the symbol is unknown with it (gata1a).

    Returns
    -------
    One flag per gene. Ensembl identifiers are never flagged.

    References
    ----------
    Bruse and van Heeringen, GimmeMotifs: an analysis framework for transcription factor motif analysis, bioRxiv 474403
    (2018); the 1,150 factors of its vertebrate motifs, version 5.0. Factors without a known motif are missing.

    Examples
    --------
    >>> transcription_factors(["Gata1", "HBB", "PDX1", "runx1", "cebpa", "sox9a"]).tolist()
    [True, False, True, True, True, True]
    """
    known = _known()

    def is_one(symbol: str) -> bool:
        name = symbol.upper()
        copy = symbol.islower() and symbol[-1:] in "ab" and name[:-1] in known
        return name in known or copy

    return np.array([is_one(str(gene)) for gene in genes], dtype=bool)


def symbols(names: pd.Index, var: pd.DataFrame) -> pd.Index:
    """Return the symbols of genes by their names, where a table of genes has symbols of well-known genes.

    Examples
    --------
    >>> var = pd.DataFrame({"symbol": ["GATA1", "HBB"]}, index=["ENSG00000102145", "ENSG00000244734"])
    >>> symbols(var.index, var).tolist()
    ['GATA1', 'HBB']
    """
    return _genes.find(_well_known(), var.loc[~var.index.duplicated()].reindex(names)).names


def by_symbol(var: pd.DataFrame) -> dict[str, str]:
    """Return the symbol of each gene of a table by its name."""
    return dict(zip(var.index.astype(str), symbols(var.index, var), strict=True))


def read_genes(path: str | PathLike[str]) -> list[str]:
    """Return the genes of a text file: one per line, or the column of symbols of a published table.

    A header is recognised by the names that AnimalTFDB and humantfs use; of the latter only genes marked as factors are
    taken. Lines that begin with # are comments.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(
            f"restrict is {str(path)!r}, and there is no such file; give 'tf', a list of genes, or a text file with "
            "one per line (transcription factors: AnimalTFDB, or humantfs.ccbr.utoronto.ca for human)."
        )
    lines = [line for line in read_lines(file) if line.strip() and line[0] != "#"]
    if not lines:
        return []
    delimiter = next((mark for mark in "\t,;|" if mark in lines[0]), ",")
    rows = [split(line, delimiter) for line in lines]
    header = [name.strip().lower() for name in rows[0]]
    column = next((header.index(name) for name in SYMBOLS if name in header), None)
    if column is None and len(rows[0]) > 1 and len({row[0] for row in rows}) == 1 < len(rows):
        # a table without a header whose first column is the species: the column of symbols that are known
        table = pd.DataFrame(rows)
        texts = {c: table[c].astype(str) for c in table}
        column = max(texts, key=lambda c: (gene_share(texts[c].tolist()), not texts[c].str.startswith("ENS").any(), -c))
        return [str(symbol) for symbol in table[column].dropna() if symbol]
    if column is None:
        return [line.split()[0].strip(",;\"'") for line in lines]
    table = pd.DataFrame([row for row in rows[1:] if len(row) > column])
    if IS_TF in header:
        table = table[table[header.index(IS_TF)].str.strip().str.lower() == "yes"]
    return [str(symbol).strip() for symbol in table[column] if str(symbol).strip()]
