"""Expression matrices in Matrix Market files with names in files beside them, and the folders of common programs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import scipy.io
import scipy.sparse as sp
from anndata import AnnData

from diffvae._core.io.dialect import split
from diffvae._core.io.features import is_chromosome
from diffvae._core.io.modalities import GENE, OTHER_TYPES
from diffvae._core.io.orientation import cell_share, evidence, gene_share
from diffvae._core.io.text_file import opened, read_lines, reading
from diffvae._errors import DataError, quoted

_IDENTIFIED = re.compile(r"ENS[A-Z]*G\d+(\.\d+)? \S+")
"""An identifier and a symbol with a blank between."""
_TYPES = {GENE, *OTHER_TYPES}
_PACKED = r"(\.gz)?$"
_TEXT = re.compile(rf".*\.(tsv|txt|csv|mtx_rows|mtx_cols|mtx_rownames|mtx_colnames){_PACKED}|[^.]*$", re.IGNORECASE)
_GENES = re.compile(r"(?<![a-z])(gene|feature|transcript|rowdata|var)(s|_?names?|_?ids?)?(?![a-z])")
_CELLS = re.compile(r"(?<![a-z])((cell_?)?barcode|cell|bc|spot|nuclei|obs|coldata)(s|_?names?|_?ids?)?(?![a-z])")
_COMMON = re.compile(
    r"(matrix|counts?|mat|dge|barcodes?|features?|genes?|cells?|names?|ids?|filtered|raw|x|all|metadata)"
)
_ROWS = re.compile(r"(?<![a-z])rows?(_?names?)?(?![a-z])")
_COLUMNS = re.compile(r"(?<![a-z])col(umn)?s?(_?names?)?(?![a-z])")
_INNER = (
    *("filtered_feature_bc_matrix", "outs/filtered_feature_bc_matrix", "count/sample_filtered_feature_bc_matrix"),
    *("sample_filtered_feature_bc_matrix", "filtered_gene_bc_matrices/*", "outs/filtered_gene_bc_matrices/*"),
    *("Gene/filtered", "Solo.out/Gene/filtered", "*Solo.out/Gene/filtered"),
    *("GeneFull/filtered", "Solo.out/GeneFull/filtered", "*Solo.out/GeneFull/filtered"),
    *("counts_filtered", "counts_unfiltered"),
    *("alevin", "quants/alevin", "af_quant/alevin", "quant/alevin"),
    *("DGE_filtered", "all-sample/DGE_filtered", "all-well/DGE_filtered"),
)
"""Folders below that of a run, in the layouts of Cell Ranger, STARsolo, kallisto | bustools, alevin-fry and Parse."""


@dataclass(frozen=True)
class _Names:
    """A file of names; what it is for, by its own name; how far it is from the matrix, by folder, prefix and word."""

    path: Path
    kind: str  # "genes", "cells", "rows" or "columns"
    far: tuple[int, ...]


@dataclass(frozen=True)
class _Fit:
    """Two files of names whose lengths fit a matrix."""

    far: tuple[int, ...]
    genes_in_rows: bool
    genes: pd.DataFrame
    cells: pd.DataFrame
    files: tuple[Path, Path]


def read_mtx(path: Path, *, transpose: bool | None) -> AnnData:
    """Read a ``.mtx(.gz)`` file with the names beside it.

    Files of names are found by the words in their file names and by their lengths, which also show whether genes are in
    rows. See :func:`diffvae._core.io.read.read`.
    """
    matrix = _matrix(path)
    near = _files_of_names(path)
    genes, cells, in_rows = _matched(path, matrix.shape, near, transpose)
    if transpose is not None and in_rows != transpose:
        warnings.warn(
            f"The names beside {str(path)!r} show that its genes are in {'rows' if in_rows else 'columns'}; "
            f"transpose={transpose} is left aside.",
            UserWarning,
            stacklevel=3,
        )
    adata = AnnData(matrix.T.tocsr() if in_rows else matrix)
    if cells is not None:
        adata.obs = _cell_table(cells)
    if genes is not None:
        adata.var = _gene_table(_with_symbols(genes, path))
        adata = _without_introns(adata, path)
        adata.var_names_make_unique()
    adata.X = sp.csr_matrix(adata.X)
    return adata


def _matrix(path: Path) -> sp.csr_matrix:
    with reading(path), opened(path) as file:
        return sp.csr_matrix(scipy.io.mmread(file), dtype="float32")


# Files of names


def _stem(path: Path) -> str:
    return re.sub(r"(\.mtx)?(\.gz)?$", "", path.name.lower())


def _prefix(path: Path) -> str:
    """Return the name of a matrix file without its ending and the word that it shares with others: GSM1_S1-."""
    return re.sub(r"(sparse_?|count_?|gene_?)?(matrix|counts?|mat|dge)$", "", _stem(path))


def _files_of_names(matrix: Path) -> list[_Names]:
    """Return files that may hold the names of rows or columns of a matrix, the nearest first."""
    found = []
    others = [file for file in matrix.parent.glob("*.mtx*") if _stem(file) != _stem(matrix) and _is_matrix(file)]
    folders = [(0, matrix.parent)]
    if matrix.parent.resolve().parent != matrix.parent.resolve():
        folders.append((1, matrix.parent.resolve().parent))
    for distance, folder in folders:
        try:
            files = sorted(file for file in folder.iterdir() if file.is_file() and file != matrix)
        except OSError:
            continue
        for file in files:
            kind = _kind(file, matrix)
            # in the folder above there may be a shared table of genes, but no barcodes
            if kind is None or (distance and kind != "genes"):
                continue
            found.append(_Names(file, kind, (distance, *_distance(file, matrix, others))))
    return sorted(found, key=lambda names: (names.far, names.path.name))


def _kind(file: Path, matrix: Path) -> str | None:
    """Return what a file of names is for, by its name; None if it is not one."""
    name = file.name.lower()
    if not _TEXT.fullmatch(name) or name.endswith((".mtx", ".mtx.gz", ".log", ".json")):
        return None
    if re.search(rf"\.mtx_row(s|names){_PACKED}", name):
        return "rows"
    if re.search(rf"\.mtx_col(s|names){_PACKED}", name):
        return "columns"
    for stem in (_stem(matrix), _prefix(matrix)):  # cells_x_genes.barcodes.txt
        if stem and name.startswith(stem):
            name = name[len(stem) :] or name
            break
    words = re.sub(rf"\.(tsv|txt|csv){_PACKED}", "", name)
    ends = {
        kind: max((match.end() for match in pattern.finditer(words)), default=-1)
        for kind, pattern in (("cells", _CELLS), ("genes", _GENES), ("rows", _ROWS), ("columns", _COLUMNS))
    }
    kind = max(ends, key=lambda kind: ends[kind])  # of gene_panel_barcodes.tsv the last word tells
    if ends[kind] >= 0:
        return kind
    return "cells" if "metadata" in words else None


def _distance(file: Path, matrix: Path, others: Sequence[Path]) -> tuple[int, ...]:
    """Return how far the name of a file is from that of the matrix: the file of another matrix is far."""
    name, prefix = file.name.lower(), _prefix(matrix)
    shared = next(
        (i for i, (a, b) in enumerate(zip(prefix, name, strict=False)) if a != b), min(len(prefix), len(name))
    )
    own = max((len(start) for start in (_stem(matrix), prefix) if name.startswith(start)), default=0)
    other = max((len(s) for m in others for s in (_stem(m), _prefix(m)) if name.startswith(s)), default=0)
    word = re.search(r"barcode|feature|gene|\.mtx_|rows|cols", name[own:])
    usual = word is not None and "metadata" not in name and ".names." not in name
    parts = _parts(matrix)  # of matrix_S1.mtx and barcodes_S1.tsv
    foreign = len(parts - _parts(file)) + len(_parts(file) - parts)
    start = word.start() if word else 0
    return int(other > own), int(shared < len(prefix)), -shared, foreign, start, int(not usual)


def _parts(file: Path) -> frozenset[str]:
    """Return the parts of a file name that name neither its kind nor its format."""
    parts = re.split(r"[^a-z0-9]+", re.sub(r"(\.(tsv|txt|csv|mtx\w*))?(\.gz)?$", "", file.name.lower()))
    return frozenset(part for part in parts if part and not _COMMON.fullmatch(part))


def _matched(
    path: Path, shape: tuple[int, int], near: Sequence[_Names], transpose: bool | None
) -> tuple[pd.DataFrame | None, pd.DataFrame | None, bool]:
    """Return the tables of genes and cells, and whether genes are in rows."""
    fits = sorted(_fits(shape, near), key=lambda fit: fit.far)
    if not fits:
        if transpose is None:
            raise DataError(_no_names(path, shape, near))
        n_genes, n_cells = shape if transpose else shape[::-1]
        return _of_kind("genes", n_genes, near), _of_kind("cells", n_cells, near), transpose
    nearest = [fit for fit in fits if fit.far == fits[0].far]
    ways = {fit.genes_in_rows for fit in nearest}
    in_rows = nearest[0].genes_in_rows
    if len(ways) == 2:  # a square matrix
        custom = _custom(path) if transpose is None else transpose
        if custom is None:
            raise DataError(
                f"{str(path)!r} is {shape[0]:,} x {shape[1]:,}, and the names beside it fit both ways; read it with "
                "transpose=True if genes are in rows, with transpose=False if cells are."
            )
        in_rows = custom
    best, *others = [fit for fit in nearest if fit.genes_in_rows == in_rows]
    for other in others:
        if not (_same(best.genes, other.genes) and _same(best.cells, other.cells)):
            files = dict.fromkeys(file.name for fit in (best, other) for file in fit.files)
            raise DataError(
                f"{str(path)!r} has several files of names beside it that fit, {quoted(files)}; leave in its folder "
                "those that belong to it, or begin their names as that of the matrix."
            )
    return best.genes, best.cells, in_rows


def _same(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Return whether two tables hold the same names."""
    return any(a[i].tolist() == b[j].tolist() for i in a for j in b if len(a) < 2 or not _counts(a[i]))


def _of_kind(kind: str, n: int, near: Sequence[_Names]) -> pd.DataFrame | None:
    """Return the nearest table of one kind that has n names."""
    tables = (_names_table(names.path, n) for names in near if names.kind == kind and names.far[0] == 0)
    return next((table for table in tables if table is not None), None)


def _fits(shape: tuple[int, int], near: Sequence[_Names]) -> Iterator[_Fit]:
    """Yield two files of names for each way to lay them along the margins of a matrix."""
    tables = {(names.path, n): _names_table(names.path, n) for names in near for n in set(shape)}
    for a in near:
        for b in near:
            rows, columns = tables[a.path, shape[0]], tables[b.path, shape[1]]
            if a.path == b.path or rows is None or columns is None:
                continue
            if a.kind == b.kind or a.kind == "columns" or b.kind == "rows":
                continue
            far = tuple(x + y for x, y in zip(a.far, b.far, strict=True))
            if "genes" in (a.kind, b.kind) or "cells" in (a.kind, b.kind):
                found: bool | None = a.kind == "genes" or b.kind == "cells"
            else:
                found = _by_content(rows, columns)
            for in_rows in (True, False) if found is None else (found,):
                files = (a.path, b.path)
                yield _Fit(far, True, rows, columns, files) if in_rows else _Fit(far, False, columns, rows, files)


def _custom(path: Path) -> bool | None:
    """Return whether genes are in rows of a file of this name: the custom of the program that writes it."""
    stem = _stem(path)
    if re.search(r"(cells_x_(genes|tcc\w*)|quants_mat|count_matrix|dge)$", stem):
        return False
    if stem.endswith("matrix"):
        return True
    return None


def _by_content(rows: pd.DataFrame, columns: pd.DataFrame) -> bool | None:
    """Return whether genes are in rows, by the names themselves."""

    def names(table: pd.DataFrame) -> list[str]:
        return max((table[c].tolist() for c in table), key=lambda v: gene_share(v) + cell_share(v))

    return evidence(names(rows), names(columns)).transpose


def _no_names(path: Path, shape: tuple[int, int], near: Sequence[_Names]) -> str:
    """Return why a matrix can't be read without the user's word: its names are missing or of other lengths."""
    advice = "Without names, read it with transpose=True if genes are in rows, with transpose=False if cells are."
    looked = [names for names in near if names.far[0] == 0]
    if not looked:
        return (
            f"{str(path)!r} ({shape[0]:,} x {shape[1]:,}) has no names of genes and cells beside it "
            "(features.tsv, genes.tsv, barcodes.tsv, .mtx_rows, .mtx_cols or the like), so nothing tells which are the "
            f"genes. {advice}"
        )
    kinds = {names.kind for names in looked}
    for missing, other, words in (
        ("cells", "genes", "barcodes.tsv(.gz)"),
        ("genes", "cells", "features.tsv or genes.tsv(.gz)"),
    ):
        if other in kinds and not kinds & {missing, "rows", "columns"}:
            there = next(names.path.name for names in looked if names.kind == other)
            return f"{str(path)!r} has no {words} beside it, only {there!r}. {advice}"
    for names in looked:
        n = len(_lines(names.path))
        if n - 1 not in shape and n not in shape:
            # for this kind of names, the margin that no other file names
            others = [len(_lines(other.path)) for other in looked if other.kind != names.kind]
            needed = next((m for i, m in enumerate(shape) if shape[1 - i] in others), None)
            size = f"{needed:,}" if needed is not None else f"{shape[0]:,} or {shape[1]:,}"
            return f"{str(names.path)!r} has {n:,} lines, but {path.name!r} needs {size} names. {advice}"
    return (
        f"The files beside {str(path)!r} ({shape[0]:,} x {shape[1]:,}) don't name both its margins: "
        f"{quoted([names.path.name for names in looked])}. {advice}"
    )


def _lines(path: Path, most: int | None = None) -> list[str]:
    """Return the lines of a file of names, without empty ones at its end; at most ``most``."""
    lines = read_lines(path, most)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _names_table(path: Path, n: int) -> pd.DataFrame | None:
    """Return the fields of a file of n lines, or of n and a header; None if it has another length.

    Columns are called by the header, else 0, 1, ...
    """
    try:
        lines = _lines(path, n + 3)
    except DataError:  # if the file is needed, it is read again for the message
        return None
    if n == 0 or len(lines) not in (n, n + 1):
        return None
    header = len(lines) == n + 1
    body = lines[1:] if header else lines
    ending = path.name.lower().removesuffix(".gz")
    if not header and all(_IDENTIFIED.fullmatch(line) for line in body):
        body = [line.replace(" ", "\t", 1) for line in body]
    if not any("\t" in line or "," in line for line in body) and len({len(line.split()) for line in body}) == 1:
        body, lines = (["\t".join(line.split()) for line in some] for some in (body, lines))  # columns between blanks
    separator = "\t" if any("\t" in line for line in body[:100]) else ","
    if separator == "," and not (ending.endswith(".csv") or all("," in line for line in body)):
        separator = "\t"
    rows = [_fields(line, separator) for line in body]
    width = max(map(len, rows))
    rows = [row + [""] * (width - len(row)) for row in rows]
    if not header:
        return pd.DataFrame(rows, dtype=str)
    names = _fields(lines[0], separator)
    if len(names) == width - 1:  # R
        names = ["", *names]
    names += [f"column_{i + 1}" for i in range(len(names), width)]
    table = pd.DataFrame(rows, dtype=str)
    table.columns = pd.Index([name.strip() or f"column_{i + 1}" for i, name in enumerate(names[:width])])
    return table.loc[:, ~table.columns.duplicated()]


def _fields(line: str, separator: str) -> list[str]:
    # a 10x table of names is not quoted; one of R is
    if separator == "," or (line.count('"') % 2 == 0 and line.startswith('"')):
        return split(line, separator)
    return line.split(separator)


# Tables of genes and cells


def _cell_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return ``obs``: names of cells, and the other columns if a header names them."""
    distinct = [c for c in table if table[c].nunique() > 0.99 * len(table) and not _counts(table[c])]
    distinct = [c for c in distinct if not table[c].str.fullmatch(r"\d+").all()] or distinct
    name = distinct[0] if distinct else table.columns[0]
    obs = pd.DataFrame(index=pd.Index(table[name].to_numpy(), dtype=str))
    if isinstance(table.columns[0], str):
        for column in table.columns.drop(name):
            values = table[column]
            numbers = pd.to_numeric(values, errors="coerce")
            obs[column] = (numbers if numbers.notna().all() else values).to_numpy()
    return obs


def _counts(column: pd.Series) -> bool:
    """Return whether a column numbers its lines."""
    numbers = pd.to_numeric(column, errors="coerce")
    return bool(len(column) > 1 and numbers.notna().all() and (numbers.diff().dropna() == 1).all())


def _gene_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return ``var``: symbols as names, identifiers in ``gene_ids``, types of 10x in ``feature_types``."""
    columns = [c for c in table if not _counts(table[c])] or list(table.columns)
    kinds = next((c for c in columns if len(table.columns) > 1 and table[c].str.lower().isin(_TYPES).any()), None)
    columns = [c for c in columns if c != kinds] or columns
    columns = [c for c in columns if is_chromosome(table[c]).mean() < 0.9] or columns
    # constant columns are no names, nor are the few words of a biotype or chromosome
    distinct = [c for c in columns if len(table) < 3 or table[c].nunique() > 0.5 * len(table)] or columns[:1]
    words = {c: str(c).strip().lower() for c in distinct}
    ids = [
        c
        for c in distinct
        if re.fullmatch(r".*(gene|feature|ensembl|transcript|accession)[_. ]?(gene[_. ]?)?ids?", words[c])
    ]
    ids = ids or [c for c in distinct if table[c].str.fullmatch(r"(ENS[A-Z]*[GT]|FBgn|WBGene)\d+\S*").mean() > 0.5]
    named = [c for c in distinct if re.fullmatch(r".*(symbol|name)s?", words[c]) and c not in ids]
    others = [c for c in distinct if c not in ids[:1]]
    position = list(table.columns)
    second = [c for c in others if position.index(c) == 1]  # of 10x: identifier, symbol, type
    best = (named or second or others or distinct)[0]
    if best in ids and gene_share(table[ids[0]].tolist()) >= gene_share(table[best].tolist()):
        best = ids[0]  # EBI: the identifier twice
    symbols = table[best].where(table[best].str.strip() != "", table[distinct[0]])
    var = pd.DataFrame(index=pd.Index(symbols.to_numpy(), dtype=str))
    first = ids[0] if ids else distinct[0]
    if len(table.columns) > 1 or ids:
        var["gene_ids"] = table[first].to_numpy()
    if kinds is not None:
        var["feature_types"] = table[kinds].to_numpy()
    if isinstance(table.columns[0], str):
        for column in table.columns:
            if column not in (best, first, kinds) and column not in var and not _counts(table[column]):
                var[column] = table[column].to_numpy()
    return var


def _without_introns(adata: AnnData, path: Path) -> AnnData:
    """Return alevin-fry's three counts of each gene: spliced and ambiguous reads as X, unspliced ones as a layer."""
    names = adata.var_names
    n = adata.n_vars // 3
    kinds = [names[i * n : (i + 1) * n] for i in range(3)]
    if n == 0 or adata.n_vars % 3 or not ((kinds[0] + "-U").equals(kinds[1]) and (kinds[0] + "-A").equals(kinds[2])):
        return adata
    warnings.warn(
        f"{str(path)!r} counts spliced, unspliced (-U) and ambiguous (-A) reads of each gene: X is the sum of spliced "
        "and ambiguous ones, the layer 'unspliced' has the others. For nuclei add it.",
        UserWarning,
        stacklevel=4,
    )
    x = adata.X
    made = AnnData(sp.csr_matrix(x[:, :n] + x[:, 2 * n :]), obs=adata.obs, var=adata.var.iloc[:n])
    made.layers["unspliced"] = sp.csr_matrix(x[:, n : 2 * n])
    return made


def _with_symbols(genes: pd.DataFrame, matrix: Path) -> pd.DataFrame:
    """Return identifiers with the symbols that kallisto | bustools writes into a second file."""
    symbols = matrix.with_name(f"{re.sub(r'(.mtx)?(.gz)?$', '', matrix.name)}.genes.names.txt")
    if genes.shape[1] == 1 and symbols.is_file():
        table = _names_table(symbols, len(genes))
        if table is not None and table.shape[1] == 1 and not table.equals(genes):
            return pd.DataFrame({0: genes.iloc[:, 0].to_numpy(), 1: table.iloc[:, 0].to_numpy()})
    return genes


# Folders


def read_folder(folder: Path, *, transpose: bool | None) -> AnnData:
    """Read the one matrix of a folder, or of a folder below it in the layout of a common program.

    File names may share a prefix, as in GEO: ``GSM123_matrix.mtx.gz``, ``GSM123_barcodes.tsv.gz``, ...
    """
    matrices = _matrices(folder)
    if not matrices:
        inner = [below for pattern in _INNER for below in sorted(folder.glob(pattern)) if _matrices(below)]
        if not inner and (folder / "raw").is_dir() and _matrices(folder / "filtered"):  # STARsolo
            inner = [folder / "filtered"]
        if inner and len(_matrices(inner[0])) == 1 and len({below.parent for below in inner}) == 1:
            matrices = _matrices(inner[0])
            warnings.warn(f"Read from {str(matrices[0])!r}.", UserWarning, stacklevel=3)
    if len(matrices) > 1:
        names = ", ".join(repr(file.name) for file in matrices)
        raise DataError(f"Folder {str(folder)!r} holds several matrices ({names}); give one of these files.")
    if matrices:
        return read_mtx(matrices[0], transpose=transpose)
    below = [file.parent for file in folder.glob("*/*.mtx*") if _is_matrix(file)]
    below += [file for pattern in ("*.h5ad", "*.h5", "*.loom", "*.zarr") for file in folder.glob(pattern)]
    hint = f" Perhaps you mean {str(sorted(below)[0])!r}." if below else ""
    raise DataError(f"Folder {str(folder)!r} holds no matrix.mtx or matrix.mtx.gz, and is no .zarr either.{hint}")


def _matrices(folder: Path) -> list[Path]:
    """Return the matrices of a folder: the one called matrix.mtx as in 10x folders, else all."""
    if not folder.is_dir():
        return []
    files = sorted(file for file in folder.iterdir() if _is_matrix(file))
    packed = {file.name for file in files}
    files = [file for file in files if not file.name.endswith(".gz") or file.name.removesuffix(".gz") not in packed]
    usual = [file for file in files if file.name.endswith(("matrix.mtx", "matrix.mtx.gz"))]
    return usual if len(usual) == 1 and usual[0].name.startswith("matrix") else files


def _is_matrix(file: Path) -> bool:
    return file.name.lower().endswith((".mtx", ".mtx.gz"))
