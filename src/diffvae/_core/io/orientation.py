"""Which margin of a matrix holds the genes: evidence from the names."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import numpy as np

N_NAMES = 3000
"""Names of a margin that are looked at, evenly spaced."""
GENES = 0.02
"""Share of known gene names from which on a margin may hold genes; a few names of cells look like genes."""
CELLS = 0.5
"""Share of names of cells from which on a margin holds cells."""
_GENE_CORNER = re.compile(
    r"#?(gene|genes|gene[_. ]?(id|name|symbol)s?|symbols?|geneid|ensembl([_. ]?(gene[_. ]?)?id)?)"
)
_CELL_CORNER = re.compile(r"#?((single[_. ]?)?cells?|(cell[_. ]?)?(barcode|bc)s?|cell[_. ]?(id|name|index|barcode)s?)")
_WELL = r"(?-i:[A-P](?:0?[1-9]|1\d|2[0-4])|[a-p]0[1-9])"
"""Capitals, since c1000_g1 is a contig."""
_ALNUM = "[A-Za-z0-9]"
_GENE = re.compile(
    rf"""ENS[A-Z]*[GT]\d{{6,}}(\.\d+)?(_\w+)? | FBgn\d{{7}} | WBGene\d{{8}} | AT[1-5CM]G\d{{5}}
    | Y[A-P][LR]\d{{3}}[WC](-[A-Z])? | SP[ABC]C\d+\.\d+c? | Os\d\dg\d{{5,}} | LOC_?Os\d\dg\d+ | Zm\d{{5}}d\d+
    | (GRMZM|Glyma)\w+ | CG\d{{4,5}} | Solyc\d\w+ | PF3D7_\w+ | (gene|GENE|Gene)[_ .-]?\d+
    | [NX][MR]_\d{{5,}}(\.\d+)? | ERCC-\d{{5}}
    | (GRCh38|GRCm38|GRCm39|hg19|hg38|mm10|mm39)_+\S+
    | (\S+_)?c\d+_g\d+(_i\d+)? | TRINITY_\S+ | comp\d+_c\d+(_seq\d+)?
    | dd_Smed\w* | SMEST?G?\d+\S* | (XLOC_|MSTRG\.|STRG\.|HLOC_)\d+\S* | evm\.\S+ | augustus\S+ | maker-\S+
    | (?i:MT)-(?i:ND|CO|CYB|CYTB|ATP|RNR|T|TR)[A-Za-z0-9]*
    | (M?RP[LS]|M?rp[ls]|M?Rp[ls]|Mrp[ls])\d+{_ALNUM}*(-{_ALNUM}+)?
    | LOC\d{{3,}} | LINC\d{{4,}}(-\w+)? | MIR\d+\w*(HG)? | [Mm]ir-?\d+\w*
    | (SNOR|Snor)[ADad]\d+\w* | RNU\d\S* | RNA5S\S*
    | [A-Za-z0-9]+-(AS|as|IT|OT)\d | C\d{{1,2}}orf\d+ | C[XY]orf\d+ | c\d+[a-z]*orf\d+\w* | KIAA\d{{4}} | Gm\d{{2,5}}
    | \w{{4,}}Rik | A[CFLPJ]\d{{6}}(\.\d+)?
    | (RP\d+|CT[ABCD]|KB|AC|LA16c|GS1|CH17|XX-\w+|LL\w+)-\d+[A-Z]{{1,3}}\d+\w*(--\w)?(\.\d+)?
    | (KB|XXbac|LA16c)-\S*\d\.\d+
    | (hsa|mmu)-(mir|miR|let)-\S+ | (HLA|H2)-[A-Z]\S* | (zgc|wu|im|zmp|sb|mhc|MGC):\S+ | si[:-](ch|dkey|rp|zfos|busm)\S*
    | (zgc|zmp|MGC)-\d{{4,}} | (Olfr|OR)\d+{_ALNUM}* | ZNF\d+{_ALNUM}* | (Zfp|znf|zfp)\d+{_ALNUM}*
    | (SLC|Slc|slc)\d+[Aa]\d+{_ALNUM}* | (TMEM|Tmem|tmem|CCDC|Ccdc|ccdc|FAM|Fam|fam)\d+{_ALNUM}*
    | (COL|Col|col)\d+[Aa]\d+{_ALNUM}*
    | (IL|Il|CXCL|Cxcl|CCL|Ccl|CXCR|Cxcr|CCR|Ccr|KRT|Krt|KIF|Kif|USP|Usp|WDR|Wdr|RAB|Rab|TRIM|Trim|ZDHHC|Zdhhc)
      \d+{_ALNUM}*
    | (NDUF|Nduf|COX|Cox|PSM|Psm|EIF|Eif|UBE|Ube|TUB|Tub|HIST|Hist|SERPIN|Serpin|IGH|Igh|IGK|Igk|IGL|Igl)
      [A-Za-z]?\d*{_ALNUM}+(-\d+)?
    | (CD|Cd)\d{{1,3}}[A-Za-z]? | (TRAV|TRBV|Trav|Trbv)\d+[A-Za-z0-9/-]* | (ATP|Atp)\d+{_ALNUM}+
    | (MRP|HSP|Hsp|hsp){_ALNUM}+""",
    re.VERBOSE,
)
"""Families of gene names, the identifiers of data bases, and those of assembled transcripts."""
_CELL = re.compile(
    rf"""(\S*[^A-Za-z])?[ACGTN]{{10,}}([^A-Za-z]\S*)? | (\S*[^A-Za-z])?[ACGT]{{6,}}([_.:+-][ACGT]{{6,}})+([^A-Za-z]\S*)?
    | (.*[^A-Za-z0-9])?{_WELL}([_.-](S\d+|L\d+|R\d|rep\w*))* | (plate|p)\w*[_.-]\w*{_WELL}([_.-].*)?
    | [SED]R[RXS]\d{{5,}}\S* | GSM\d{{5,}}\S* | SAM[NED]A?\d{{5,}} | E-MTAB-\S+ | \S+\.(bam|sam|fastq|fq|cram)(\.gz)?
    | (\S*[^a-z])?(cell|barcode|nucleus|nuclei|sample|spot|bead|bc|sc|well|lane|plate)s?[ _.:#-]?\d+(\D.*)?
    | (\S*[_.-])?c[_.-]?\d+ | bc[A-Z]{{4}}\S* | \d\d_\d\d_\d\d(_\S+)? | [0-9a-f]{{8}}-[0-9a-f]{{4}}-\S+
    | c?(_?\d+)(_\d+)+""",
    re.VERBOSE | re.IGNORECASE,
)
"""Barcodes, wells of plates, accessions of archives, files of reads, numbered cells."""
_BARCODE = re.compile(
    r"(\S*[^A-Za-z])?[ACGTN]{10,}([^A-Za-z]\S*)?|[SED]R[RXS]\d{5,}\S*|GSM\d{5,}\S*|SAM[NED]A?\d{5,}|\S+\.(bam|fastq|fq)(\.gz)?"
)
"""Cells beyond doubt."""
_PLAIN_CELL = re.compile(rf"{_WELL}|c\d+", re.IGNORECASE)
"""Names that are wells, but might be symbols of genes (C3, c7)."""


@cache
def _known() -> frozenset[str]:
    """Return the symbols of the bundled marker tables, transcription factors and cells, in lower case."""
    known: set[str] = set()
    package = files("diffvae")  # the room "tl" itself would load torch
    tools = package / "tl"
    for table in (tools / "markers").iterdir():
        if table.name.endswith(".csv"):
            known |= {row["gene"] for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())}
    known |= set((tools / "regulators" / "transcription_factors.txt").read_text(encoding="utf-8").splitlines())
    with as_file(package / "datasets" / "pancreas_endocrinogenesis.npz") as file, np.load(file) as arrays:
        known |= {name.decode() for name in arrays["genes"]}
    return frozenset(name.strip().casefold() for name in known if len(name.strip()) > 1 and not name.startswith("#"))


def _some(names: Sequence[str]) -> list[str]:
    step = max(1, len(names) // N_NAMES)
    return [str(name).strip() for name in names[::step]]


def is_known_gene(names: Sequence[str]) -> np.ndarray:
    """Return which names are gene symbols that the package knows, or have the form of one.

    Examples
    --------
    >>> is_known_gene(["Gata1", "MT-ND1", "ENSMUSG00000000001.4", "RP11-34P13.7", "P01_A05", "B cell"]).tolist()
    [True, True, True, True, False, False]
    """
    known = _known()
    return np.array([n.casefold() in known or _GENE.fullmatch(n) is not None for n in map(str, names)], dtype=bool)


def gene_share(names: Sequence[str]) -> float:
    """Return the share of names that are gene symbols or identifiers of genes."""
    some = _some(names)
    return float(is_known_gene(some).mean()) if some else 0.0


def cell_share(names: Sequence[str]) -> float:
    """Return the share of names that name cells: barcodes, wells, accessions, numbered cells.

    Examples
    --------
    >>> names = ["AAACCTGAGCATCATC-1", "P01_A05", "SRR1234567", "Cell12", "bcETOJ", "Gata1", "CD3D"]
    >>> round(cell_share(names), 3)
    0.714
    """
    some = _some(names)
    genes = is_known_gene(some)
    odd = [_CELL.fullmatch(name) is not None and not gene for name, gene in zip(some, genes, strict=True)]
    return float(np.mean(odd)) if some else 0.0


def _are_barcodes(names: Sequence[str]) -> bool:
    some = _some(names)
    return bool(some) and sum(_BARCODE.fullmatch(name) is not None for name in some) >= CELLS * len(some)


def _are_running(names: Sequence[str]) -> bool:
    """Return whether names are 0, 1, 2, ... or 1, 2, 3, ..., as programs number what has no names."""
    first = str(names[0]) if len(names) > 2 else ""
    return first in ("0", "1") and all(str(name) == str(i) for i, name in enumerate(names, int(first)))


def _are_of_ncbi(names: Sequence[str]) -> bool:
    """Return whether names are numbers as NCBI gives to genes: far apart and in no order."""
    numbers = [int(name) for name in map(str, names) if name.isdecimal()]
    if len(numbers) < max(10, 0.9 * len(names)):
        return False
    return max(numbers) > 5 * len(numbers) and sorted(numbers) != numbers and len(set(numbers)) == len(numbers)


def odd_cells(names: Sequence[str]) -> list[str]:
    """Return the few names that are no names of cells, if nearly all others clearly are; else none.

    Examples
    --------
    >>> odd_cells([*(f"P01_A{i:02d}" for i in range(1, 21)), "Coverage"])
    ['Coverage']
    >>> odd_cells(["P01_A01", "Coverage"])
    []
    """
    if len(names) < 20 or cell_share(names) < 0.95:
        return []
    odd = [str(name) for name in names if not _CELL.fullmatch(str(name).strip())]
    return odd if len(odd) <= 5 else []


def is_corner(name: str) -> bool:
    """Return whether a name is that of a column of names, not that of a gene or cell.

    Examples
    --------
    >>> [is_corner(name) for name in ("", "Geneid", "cell_id", "Gata1", "cell1")]
    [True, True, True, False, False]
    """
    label = name.strip().lower()
    return not label or _GENE_CORNER.fullmatch(label) is not None or _CELL_CORNER.fullmatch(label) is not None


@dataclass(frozen=True)
class Evidence:
    """What the names of both margins tell.

    Attributes
    ----------
    genes_in_rows, cells_in_rows
        Reasons for either; empty if there are none.
    """

    genes_in_rows: tuple[str, ...]
    cells_in_rows: tuple[str, ...]

    @property
    def transpose(self) -> bool | None:
        """Whether rows and columns must be swapped; None without evidence, or if it contradicts itself."""
        if bool(self.genes_in_rows) == bool(self.cells_in_rows):
            return None
        return bool(self.genes_in_rows)


def evidence(rows: Sequence[str], columns: Sequence[str], corner: str = "") -> Evidence:
    """Return what names tell about the orientation of a matrix.

    Parameters
    ----------
    rows, columns
        Names.
    corner
        Name of the column of row names. It decides if the margins don't; if both margins say the same, they are
        believed.

    Examples
    --------
    >>> evidence(["Gata1", "Spi1"], ["P01_A01", "P01_A02"]).transpose
    True
    >>> evidence(["a", "b"], ["x", "y"], "cell").transpose
    False
    >>> evidence(["a", "b"], ["x", "y"]).transpose is None
    True
    >>> evidence(["TRINITY_DN1_c0_g1", "TRINITY_DN2_c0_g1"], ["S1", "S2"]).transpose
    True
    """
    genes = gene_share(rows), gene_share(columns)
    cells = cell_share(rows), cell_share(columns)
    barcodes = _are_barcodes(rows), _are_barcodes(columns)
    numbered = _are_running(rows), _are_running(columns)
    for_rows: list[str] = []
    for_columns: list[str] = []
    sides = ((0, rows, for_rows, for_columns, "rows"), (1, columns, for_columns, for_rows, "columns"))
    for side, names, genes_here, cells_here, word in sides:
        other = 1 - side
        if len(names) and _hold_genes(genes[side], genes[other], cells[side], len(names)):
            shown = names[int(np.argmax(is_known_gene(_some(names)))) * max(1, len(names) // N_NAMES)]
            genes_here.append(f"the {word} have names such as {str(shown)!r}")
        elif len(names) and not barcodes[side] and _are_of_ncbi(names) and not _are_of_ncbi((columns, rows)[side]):
            genes_here.append(f"the {word} have numbers of genes such as {str(names[0])!r}")
        elif (barcodes[side] and not barcodes[other]) or (
            len(names) and cells[side] >= CELLS and cells[other] < CELLS and not _wells_of_genes(names, genes[side])
        ):
            cells_here.append(f"the {word} have names such as {str(names[0])!r}")
        elif numbered[side] and not numbered[other] and cells[other] < CELLS:
            cells_here.append(f"the {word} are numbered")
    label = corner.strip().lower()
    if _GENE_CORNER.fullmatch(label) and len(for_columns) < 2:
        for_rows.append(f"the first column is called {corner!r}")
    if _CELL_CORNER.fullmatch(label) and len(for_rows) < 2:
        for_columns.append(f"the first column is called {corner!r}")
    return Evidence(tuple(for_rows), tuple(for_columns))


def _hold_genes(share: float, other: float, cells: float, n: int) -> bool:
    """Return whether a margin holds genes: enough known names, many more than the other margin."""
    return share >= max(GENES, min(1.5 / n, 0.5)) and share > 3 * other and cells < CELLS


def _wells_of_genes(names: Sequence[str], genes: float) -> bool:
    """Return whether a few short names that look like wells are too weak an evidence."""
    return genes > 0 and all(_PLAIN_CELL.fullmatch(str(name)) for name in names)
