"""Genes by name: where the symbols or identifiers are that somebody asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffvae._errors import DataError

COLUMNS = [
    "featurename", "genename", "genenames", "genesymbol", "genesymbols", "symbol", "symbols", "geneshortname",
    "hgncsymbol", "mgisymbol", "externalgenename", "gene", "genes", "name", "names", "originalgenename", "featureid",
    "geneid", "geneids", "ensembl", "ensemblid", "ensemblgeneid", "ensgid", "id",
]  # fmt: skip
"""Columns of ``var`` that usually hold names of genes, without case, blanks, dots and underscores."""
GAIN = 1.5
"""Another form of the names is used only if it has this many times the genes that ``var_names`` have."""
LOOKED_AT = 200
"""Names from which it is seen whether a form changes any."""
N_PIECES = 9

GENOME = re.compile(
    r"^((?:GRC[a-z]+\d+|hg\d+|mm\d+|rn\d+|danRer\d+|[A-Z]?Rnor\d+|BDGP\d+|WBcel\d+|TAIR\d+|T2T|human|mouse)"
    r"(?:[._]p?\d+)?)[_-]+(?=\w)",
    re.IGNORECASE,
)
"""Prefix of a gene that Cell Ranger adds for a reference of several genomes: ``GRCh38_``, ``mm10___``."""
_PLACE = re.compile(r"(?:__|--)chr[\w.-]+$", re.IGNORECASE)
_VERSION = re.compile(r"^(ENS[A-Z]*\d{6,})\.\d+$")
_ID = r"ENS[A-Z]*G\d{6,}(?:\.\d+)?"
_ID_FIRST = re.compile(rf"^({_ID})[_|:;,.\s-]+(.+)$")
_ID_LAST = re.compile(rf"^(.+?)[_|:;,.\s-]+({_ID})$")


def plain(name: str) -> str:
    """Return a name without blanks around it, genome before it, chromosome behind it, and version of an identifier.

    Examples
    --------
    >>> [plain(name) for name in ("GRCh38_CD3D", "mm10___Gata1", "Sox9__chr11", "ENSG00000167286.9", " CD2 ")]
    ['CD3D', 'Gata1', 'Sox9', 'ENSG00000167286', 'CD2']
    """
    return _VERSION.sub(r"\1", _PLACE.sub("", GENOME.sub("", name.strip(" \t'\""))))


def _symbol(name: str) -> str:
    if found := _ID_FIRST.match(name):
        return plain(found[2])
    return plain(found[1]) if (found := _ID_LAST.match(name)) else name


def _identifier(name: str) -> str:
    if found := _ID_FIRST.match(name):
        return plain(found[1])
    return plain(found[2]) if (found := _ID_LAST.match(name)) else name


def _piece(separators: str, at: int) -> Callable[[str], str]:
    split = re.compile(separators)

    def piece(name: str) -> str:
        pieces = split.split(plain(name))
        return plain(pieces[at]) if at < len(pieces) and pieces[at] else name

    return piece


PARTS: dict[str, Callable[[str], str]] = {
    "": lambda name: name,
    "blanks": str.strip,
    "plain": plain,
    "symbol": _symbol,
    "identifier": _identifier,
    **{f"piece {at}": _piece(r"[|;,:\s]+|__+", at) for at in range(N_PIECES)},
    **{f"part {at}": _piece(r"[_]+", at) for at in range(3)},
}
"""Ways to read a name: all of it, or a part."""


@dataclass(frozen=True)
class Form:
    """Names of genes by a column of ``var`` (None: ``var_names``), whole or in part."""

    column: str | None = None
    part: str = ""

    def of(self, var: pd.DataFrame) -> pd.Index:
        """Return the name of each gene; genes without an entry keep theirs."""
        return read_as(_texts(var, self.column), self.part)


def read_as(names: pd.Index, part: str) -> pd.Index:
    """Return names in one of the :data:`PARTS`."""
    return names if not part else pd.Index([PARTS[part](name) for name in names], dtype=object)


def _texts(var: pd.DataFrame, column: str | None) -> pd.Index:
    old = pd.Index(var.index.astype(str), dtype=object)
    if column is None or column not in var:
        return old
    given = var[column].astype(object)
    texts = given.where(given.notna(), "").astype(str).str.strip().to_numpy()
    return pd.Index(np.where((texts == "") | (texts == "nan"), old, texts), dtype=object)


def _columns(var: pd.DataFrame) -> list[str]:
    """Return the columns of text, those that usually name genes first."""
    texts = [c for c in var if isinstance(c, str) and var[c].dtype.kind not in "biufcmM"]
    return sorted([c for c in texts if var[c].nunique() > 1], key=_place)


def _place(column: str) -> int:
    """Return the place of a column among those that usually name genes, or behind all of them."""
    name = re.sub(r"[\s._-]+", "", column).casefold()
    return COLUMNS.index(name) if name in COLUMNS else len(COLUMNS)


def is_usual(column: str | None) -> bool:
    """Return whether a column usually names genes; None stands for ``var_names``."""
    return column is None or _place(column) < len(COLUMNS)


def _parts(names: pd.Index) -> list[str]:
    """Return the parts that change any of the first, middle and last names."""
    some = names[np.unique(np.linspace(0, len(names) - 1, LOOKED_AT).astype(int))] if len(names) else names
    out, seen = [""], {tuple(some)}
    for part in PARTS:
        read = tuple(read_as(some, part))
        if read not in seen:
            seen.add(read)
            out.append(part)
    return out


def forms(var: pd.DataFrame) -> Iterator[Form]:
    """Yield the forms in which a table of genes may name them, the most usual first."""
    for column in (None, *_columns(var)):
        for part in _parts(_texts(var, column)) if is_usual(column) else ("",):
            yield Form(column, part)


def positions(wanted: Iterable[str], names: pd.Index, *, fold: bool = True) -> np.ndarray:
    """Return the position of each gene among names: an exact match, else a unique one that ignores case, else -1.

    Examples
    --------
    >>> positions(["Gata1", "SPI1", "Sox9"], pd.Index(["GATA1", "gata1", "Spi1"])).tolist()
    [-1, 2, -1]
    """
    genes = pd.Series(list(wanted), dtype=object)
    exact = pd.Series(range(len(names)), index=names.astype(str))
    folded = exact.set_axis(exact.index.str.casefold())
    exact, folded = exact[~exact.index.duplicated()], folded[~folded.index.duplicated(keep=False)]
    found = genes.map(exact)
    if fold:
        found = found.fillna(genes.str.casefold().map(folded))
    return found.fillna(-1).astype(int).to_numpy()


@dataclass(frozen=True)
class Found:
    """Genes that were looked for in a table of genes.

    Attributes
    ----------
    position
        Row of each gene, -1 where there is none.
    names
        The names of the rows, in the form that was used.
    form
        That form.
    wanted
        The genes as they were looked for, for example without the version of an identifier.
    how
        Where the names stand, as a part of a sentence; "" if in ``var_names`` as they are.
    """

    position: np.ndarray
    names: pd.Index
    form: Form
    wanted: pd.Index
    how: str = ""


def find(
    wanted: Iterable[Any],
    var: pd.DataFrame,
    *,
    column: str | None = None,
    fold: bool = True,
    both: bool = False,
    where: str = "adata.var",
) -> Found:
    """Look for genes in ``var_names``, in the columns of ``var`` that hold names, and in parts of both.

    The names that match most of the genes are used, and ``var_names`` unless others match clearly more. The table is
    left as it is.

    Parameters
    ----------
    wanted
        Symbols or identifiers.
    var
        Table of genes.
    column
        Use this column, whatever it matches.
    fold
        Accept unique matches that ignore case.
    both
        Read the genes that are looked for in parts as well, where they come from another file. They must stay
        different; case is ignored only if that gives clearly more matches, for all genes.
    where
        What the table is, for the sentence about a column that is missing.

    Examples
    --------
    >>> var = pd.DataFrame({"feature_name": ["CD3D", "CD19"]}, index=["ENSG00000167286", "ENSG00000177455"])
    >>> found = find(["CD19", "CD14", "CD3D"], var)
    >>> found.position.tolist(), found.how
    ([1, -1, 0], "var['feature_name'] ('ENSG00000177455' is 'CD19')")
    """
    genes = pd.Index([str(gene) for gene in wanted], dtype=object)
    if column is not None:
        if column not in var:
            raise DataError(f"{where} has no column {column!r}; it has: {', '.join(map(str, var)) or 'none'}.")
        names = Form(column).of(var)
        return Found(positions(genes, names, fold=fold), names, Form(column), genes)
    own = Form().of(var)
    n_own, target = _count(genes, own, fold and not both), len(genes)
    best: tuple[float, Form, str, bool] = (n_own, Form(), "", fold and not both)
    if n_own * GAIN < target:
        needed = max(min(2, target), GAIN * n_own)
        readings = {part: read_as(genes, part) for part in _parts(genes) if both or part in ("", "blanks", "plain")}
        for form in forms(var):
            names = form.of(var)
            least = needed if is_usual(form.column) else max(needed, 0.5 * target)  # a ligand of the gene, for example
            for part, read in readings.items():
                if both and not read.is_unique:
                    continue
                for folded in (False, True) if both and fold else (fold,):
                    n = _count(read, names, folded)
                    # case is ignored for two genomes or species only where nothing else helps
                    if n >= least and n > best[0] * (GAIN if folded and both else 1):
                        best = (n, form, part, folded)
    _, form, part, folded = best
    names, read = form.of(var), read_as(genes, part)
    at = positions(read, names, fold=folded)
    return Found(at, names, form, read, _how(genes, own, names, at, form, part, folded and both))


def _count(genes: pd.Index, names: pd.Index, fold: bool) -> int:
    """Return how many genes are among the names."""
    n = len(set(genes).intersection(names))
    if fold and n < len(genes):
        n = max(n, len(set(genes.str.casefold()).intersection(names.str.casefold())))
    return n


def _how(genes: pd.Index, own: pd.Index, names: pd.Index, at: np.ndarray, form: Form, part: str, folded: bool) -> str:
    """Return where the names stand, with one gene as the example; "" if nothing is unusual."""
    matched = np.flatnonzero(at >= 0)
    differ = matched[genes.to_numpy()[matched] != own.to_numpy()[at[matched]]]
    if not len(differ) or (form == Form() and not part and not folded):
        return ""
    first = differ[0]
    what = "var_names" if form.column is None else f"var[{form.column!r}]"
    parts = ", in part" if form.part not in ("", "blanks") or part not in ("", "blanks") else ""
    case = ", whatever their case" if folded else ""
    return f"{what}{parts}{case} ({own[at[first]]!r} is {genes[first]!r})"


def table(adata: Any, *, raw: bool = False) -> pd.DataFrame:
    """Return the table of genes of X, or of ``raw``, with the columns that only the other of the two has."""
    if adata.raw is None:
        return adata.var
    var, others = (adata.raw.var, adata.var) if raw else (adata.var, adata.raw.var)
    more = [column for column in others if column not in var]
    if not more:
        return var
    unique = others.loc[~others.index.duplicated(), more]
    return pd.concat([var, unique.reindex(var.index).set_axis(var.index, axis=0)], axis=1)
