"""Marker genes of cell types: the bundled tables, the user's own, and how genes are matched by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from os import PathLike, fspath
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from diffvae._errors import DataError

Markers: TypeAlias = str | PathLike[str] | Mapping[str, Iterable[str]] | pd.DataFrame
COLUMNS = ["cell_type", "gene", "direction", "source"]
_BUNDLED = files("diffvae") / "_markers"


def bundled_names() -> list[str]:
    """Return the names of the bundled marker tables."""
    return sorted(file.name.removesuffix(".csv") for file in _BUNDLED.iterdir() if file.name.endswith(".csv"))


def load_markers(name: str) -> pd.DataFrame:
    """Load a bundled table of marker genes.

    Parameters
    ----------
    name
        ``"blood-human"``, ``"blood-mouse"`` (with bone marrow progenitors), ``"blood-zebrafish"`` (the paper's
        Table 1 and a few classical markers), ``"islet-human"`` or ``"islet-mouse"`` (pancreas).

    Returns
    -------
    One row per cell type and gene: ``cell_type``, ``gene`` (symbol), ``direction`` ("up": higher in the type;
    "down": absent from it, where a neighbouring type has it), ``source`` (publication). A template for your own
    table too: :func:`annotate` reads the same columns from a CSV file.

    Raises
    ------
    ValueError
        If there is no such table.

    Examples
    --------
    >>> import diffvae as dv
    >>> table = dv.tl.load_markers("blood-zebrafish")
    >>> table["cell_type"].unique().tolist()
    ['HSPC', 'Neutrophil', 'Monocyte', 'Erythrocyte', 'Thrombocyte']
    """
    if name not in bundled_names():
        raise ValueError(f"There is no bundled marker table {name!r}; there are: {', '.join(bundled_names())}.")
    with (_BUNDLED / f"{name}.csv").open() as file:
        return pd.read_csv(file, dtype=str)


def read_markers(markers: Markers) -> tuple[str, pd.DataFrame]:
    """Return a name and a clean table (columns as in :func:`load_markers`) of whatever the user gave."""
    if isinstance(markers, Mapping):
        return "dict", _clean(_from_mapping(markers), "markers")
    if isinstance(markers, pd.DataFrame):
        return "DataFrame", _clean(markers, "markers")
    if not isinstance(markers, str | PathLike):
        raise DataError(
            f"markers is of type {type(markers).__name__}; give the name of a bundled table, a dictionary "
            "{cell type: [genes]}, a DataFrame or a CSV file."
        )
    path = Path(fspath(markers))
    if isinstance(markers, str) and markers in bundled_names():
        return markers, load_markers(markers)
    if not path.is_file():
        raise DataError(
            f"{fspath(markers)!r} is neither a bundled marker table ({', '.join(bundled_names())}) nor a file."
        )
    separator = "\t" if path.suffixes and path.suffixes[0].lower() in {".tsv", ".txt"} else ","
    try:
        table = pd.read_csv(path, sep=separator, dtype=str, skipinitialspace=True, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as a table of markers: {error}.") from error
    return path.name, _clean(table, str(path))


def _from_mapping(markers: Mapping[str, Iterable[str]]) -> pd.DataFrame:
    for cell_type, genes in markers.items():
        if isinstance(genes, str):
            raise DataError(f"markers[{cell_type!r}] is the text {genes!r}; give a list of genes.")
    pairs = [(cell_type, gene) for cell_type, genes in markers.items() for gene in genes]
    return pd.DataFrame(pairs, columns=["cell_type", "gene"])


def _clean(table: pd.DataFrame, where: str) -> pd.DataFrame:
    missing = [column for column in COLUMNS[:2] if column not in table]
    if missing:
        raise DataError(
            f"{where} lacks the column {missing[0]!r}; it needs 'cell_type' and 'gene' and may have 'direction' "
            f"(up or down) and 'source'. It has: {', '.join(map(str, table.columns))}."
        )
    table = table.dropna(subset=COLUMNS[:2]).reindex(columns=COLUMNS)
    table["direction"] = table["direction"].fillna("up")
    table["source"] = table["source"].fillna("")
    table = table.astype(str).apply(lambda column: column.str.strip())
    table = table[(table["cell_type"] != "") & (table["gene"] != "")].drop_duplicates(COLUMNS[:3])
    if table.empty:
        raise DataError(f"{where} holds no marker genes; give at least one gene for one cell type.")
    table["direction"] = table["direction"].str.lower()
    odd = table.loc[~table["direction"].isin(["up", "down"]), "direction"]
    if len(odd):
        raise DataError(f"{where} has the direction {odd.iloc[0]!r}; use 'up' or 'down'.")
    both = table[table.duplicated(COLUMNS[:2])]
    if len(both):
        cell_type, gene = both.iloc[0][COLUMNS[:2]]
        raise DataError(f"{where} lists {gene!r} both up and down for {cell_type!r}; keep one.")
    return table.reset_index(drop=True)


def match_genes(genes: pd.Series, names: pd.Index) -> pd.Series:
    """Return the position of each gene among names: exact match, else without regard to case, else -1.

    Of names that occur twice the first is taken; a match without regard to case must be the only one.
    """
    exact = pd.Series(range(len(names)), index=names.astype(str))
    folded = exact.set_axis(exact.index.str.casefold())
    exact, folded = exact[~exact.index.duplicated()], folded[~folded.index.duplicated(keep=False)]
    found = genes.map(exact)
    return found.fillna(genes.str.casefold().map(folded)).fillna(-1).astype(int)
