"""Marker genes of cell types: tables, matching by name, and scores of gene sets against a null."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from importlib.resources import files
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.stats import rankdata

from diffvae._core.genes import positions
from diffvae._core.io.dialect import split
from diffvae._core.io.text_file import read_lines
from diffvae._errors import DataError
from diffvae._random import Rng, generator

Markers: TypeAlias = str | PathLike[str] | Mapping[str, Iterable[str]] | pd.DataFrame
COLUMNS = ["cell_type", "gene", "direction", "source"]
_BUNDLED = files("diffvae.tl") / "markers"


def bundled_names() -> list[str]:
    """Return the names of the bundled marker tables."""
    return sorted(file.name.removesuffix(".csv") for file in _BUNDLED.iterdir() if file.name.endswith(".csv"))


def load_markers(name: str) -> pd.DataFrame:
    """Load a bundled table of marker genes.

    Parameters
    ----------
    name
        ``"blood-human"``, ``"blood-mouse"`` (with bone marrow progenitors), ``"blood-zebrafish"`` (the paper's
        Table 1 and a few classical markers), ``"islet-human"`` or ``"islet-mouse"`` (adult pancreas), or
        ``"endocrine-mouse"`` (embryonic pancreas: progenitors, precursors and endocrine cells).

    Returns
    -------
    One row per cell type and gene: ``cell_type``, ``gene`` (symbol), ``direction`` ("up": higher in the type;
    "down": absent from it, but present in a similar type), ``source`` (publication). :func:`annotate` reads tables of
    your own with the same columns.

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
        raise ValueError(f"There is no bundled marker table {name!r}; the tables are: {', '.join(bundled_names())}.")
    with (_BUNDLED / f"{name}.csv").open() as file:
        return pd.read_csv(file, dtype=str)


def read_markers(markers: Markers) -> tuple[str, pd.DataFrame]:
    """Return the name of the markers and a clean table with the columns of :func:`load_markers`."""
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
    return path.name, _clean(_read_table(path), str(path))


def _read_table(path: Path) -> pd.DataFrame:
    """Read a table of markers: comments in front are skipped, and its header shows what separates the columns."""
    lines = [line for line in read_lines(path) if line.strip()]
    while lines and lines[0].lstrip().startswith("#") and not set(COLUMNS) & set(lines[0].lower().strip("# ").split()):
        lines = lines[1:]
    header = lines[0].lstrip("# ") if lines else ""
    separator = max(
        "\t", ",", ";", "|", key=lambda mark: (len(set(COLUMNS) & set(split(header, mark))), header.count(mark))
    )
    try:
        table = pd.read_csv(
            io.StringIO("\n".join([header, *lines[1:]])), sep=separator, dtype=str, skipinitialspace=True
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} can't be read as a table of markers: {error}.") from error
    return table.loc[:, ~(table.columns.str.startswith("Unnamed") & table.isna().all())]  # a separator at the end


def _from_mapping(markers: Mapping[str, Iterable[str]]) -> pd.DataFrame:
    for cell_type, genes in markers.items():
        if isinstance(genes, str):
            raise DataError(f"markers[{cell_type!r}] is the string {genes!r}; give a list of genes.")
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
    table["cell_type"] = table["cell_type"].str.replace(" / ", "/")  # " / " joins the names of two types
    table = table[(table["cell_type"] != "") & (table["gene"] != "")].drop_duplicates(COLUMNS[:3])
    if table.empty:
        raise DataError(f"{where} holds no marker genes; give at least one.")
    table["direction"] = table["direction"].str.lower()
    odd = table.loc[~table["direction"].isin(["up", "down"]), "direction"]
    if len(odd):
        raise DataError(f"{where} has the direction {odd.iloc[0]!r}; it must be 'up' or 'down'.")
    both = table[table.duplicated(COLUMNS[:2])]
    if len(both):
        cell_type, gene = both.iloc[0][COLUMNS[:2]]
        raise DataError(f"{where} lists {gene!r} both up and down for {cell_type!r}; remove one.")
    return table.reset_index(drop=True)


def match_genes(genes: pd.Series, names: pd.Index) -> pd.Series:
    """Return the position of each gene among names: an exact match, else a unique match that ignores case, else -1."""
    return pd.Series(positions(genes, names), index=genes.index)


N_BINS = 25
"""Levels of expression within which control genes are drawn (as in scanpy's score_genes)."""
N_CONTROLS = 100
"""Control genes per level, at most."""
N_SHOWN = 5
"""Genes listed per group and set."""


def pairwise_auc(x: Any, codes: np.ndarray, votes: np.ndarray) -> np.ndarray:
    r"""Return how far the cells of each group lie above those of the other groups, for each gene.

    .. math:: \delta_{cg} = \frac{\sum_{c' \ne c} v_{c'} \left(2\, \mathrm{AUC}_g(c, c') - 1\right)}
        {\sum_{c' \ne c} v_{c'}}

    with :math:`\mathrm{AUC}_g(c, c')` the probability that a cell of c expresses gene g more than a cell of c' (ties
    count half) and :math:`v` the votes of the groups, whatever their size. Compared with all other *cells*, markers of
    a common type would look weak.

    Parameters
    ----------
    x
        Cells x genes, dense or sparse.
    codes
        Group of each cell, 0 to K - 1, without empty groups.
    votes
        Positive, one per group.

    Returns
    -------
    K x genes, in [-1, 1]; all 0 for a single group.
    """
    columns = sp.csc_matrix(x, copy=True)
    columns.sum_duplicates()
    columns.eliminate_zeros()
    n_groups = len(votes)
    out = np.zeros((n_groups, columns.shape[1]))
    if n_groups < 2:
        return out
    sizes = np.bincount(codes, minlength=n_groups)
    votes = votes / votes.sum()
    mass_of_cell = votes / sizes
    for gene in range(columns.shape[1]):
        stored = slice(columns.indptr[gene], columns.indptr[gene + 1])
        group = codes[columns.indices[stored]]
        distinct, level = np.unique(columns.data[stored], return_inverse=True)
        mass = np.bincount(level, weights=mass_of_cell[group], minlength=len(distinct))
        # distribution function over all groups, weighted by votes, at the middle of each step; zeros are one step
        zero = max(0.0, 1.0 - mass.sum())
        middle = np.cumsum(mass) - mass / 2 + zero * (distinct > 0)
        middle_of_zero = mass[distinct < 0].sum() + zero / 2
        zeros = sizes - np.bincount(group, minlength=n_groups)
        total = np.bincount(group, weights=middle[level], minlength=n_groups) + zeros * middle_of_zero
        # remove the comparison of the group with itself, whose AUC is 1/2
        out[:, gene] = (2 * total / sizes - votes) / (1 - votes) - 1
    return out


def share_votes(delta: np.ndarray) -> np.ndarray:
    r"""Return the votes of groups; groups with similar expression share one.

    .. math:: v_c = 1 / \sum_{c'} \max(0, \rho_{cc'})

    with :math:`\rho` the correlation of the rows of :func:`pairwise_auc` under equal votes. Otherwise a type that was
    cut into ten clusters would have most votes against its own markers.
    """
    centred = delta - delta.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=1))
    alike = centred @ centred.T / np.maximum(np.outer(length, length), 1e-12)
    np.fill_diagonal(alike, 1.0)
    return 1.0 / np.clip(alike, 0.0, 1.0).sum(axis=1)


class GeneLevels:
    """Levels of mean expression of the genes, and control genes of each level."""

    def __init__(self, x: Any, rng: Rng) -> None:
        mean = np.asarray(x.mean(axis=0)).ravel()
        n_bins = int(np.clip(len(mean) // 50, 1, N_BINS))
        # genes without expression are neither markers nor controls
        present = np.flatnonzero(np.asarray((x != 0).sum(axis=0)).ravel())
        self.level = np.full(len(mean), -1)
        ranks = rankdata(mean[present], method="ordinal") - 1
        self.level[present] = ranks * n_bins // max(len(present), 1)
        draw = generator(rng, "controls")
        self.controls = []
        for level in range(n_bins):
            genes = np.flatnonzero(self.level == level)
            self.controls.append(np.sort(draw.choice(genes, min(N_CONTROLS, len(genes)), replace=False)))

    def pool(self, gene: int, gene_set: np.ndarray) -> np.ndarray:
        """Return the controls at the level of a gene, without the genes of the set."""
        controls = self.controls[self.level[gene]]
        others = controls[~np.isin(controls, gene_set)]
        return others if len(others) else controls


def score_sets(
    delta: np.ndarray, sets: dict[str, pd.DataFrame], levels: GeneLevels, n_permutations: int, rng: Rng
) -> pd.DataFrame:
    """Score gene sets in every group, as in :func:`annotate`, against random sets of the same size and expression.

    The p-value is the share of random sets, and the set itself, that reach the score. A random set replaces every gene
    by a control of its level.

    Parameters
    ----------
    delta
        Groups x genes, from :func:`pairwise_auc`, at the genes of the sets and the controls.
    sets
        By name: ``gene``, ``position`` (column of delta), ``weight`` and ``sign`` (-1 for genes that should be absent).
    levels
        Control genes.
    n_permutations, rng
        Random sets to draw, seed or generator.

    Returns
    -------
    One row per group (integer) and set: ``group``, ``cell_type``, ``score``, ``p_value``, ``n_markers`` (genes
    that should be present), ``n_up`` (those above the other groups) and ``genes`` (the largest contributions, comma
    separated, with "-" behind genes that should be absent).
    """
    rows = []
    for name, genes in sets.items():
        draw = generator(rng, "sets", name)
        position, sign = genes["position"].to_numpy(), genes["sign"].to_numpy()
        weight = sign * genes["weight"].to_numpy() / genes["weight"].sum()
        parts = delta[:, position] * weight
        observed = parts.sum(axis=1)
        expected = np.zeros(len(delta))
        null = np.zeros((len(delta), n_permutations))
        for gene, share in zip(position, weight, strict=True):
            pool = delta[:, levels.pool(gene, position)]
            expected += share * pool.mean(axis=1)
            null += share * pool[:, draw.integers(pool.shape[1], size=n_permutations)]
        # sums of the same numbers in another order are ties
        n_reached = (null >= observed[:, None] - 1e-12).sum(axis=1)
        up = position[sign > 0]
        labels = (genes["gene"] + np.where(sign > 0, "", "-")).to_numpy()
        rows.append(
            pd.DataFrame(
                {
                    "group": np.arange(len(delta)),
                    "cell_type": name,
                    "score": observed - expected,
                    "p_value": (1 + n_reached) / (1 + n_permutations),
                    "n_markers": len(up),
                    "n_up": (delta[:, up] > 0).sum(axis=1),
                    "genes": [_largest(part, labels) for part in parts],
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def _largest(parts: np.ndarray, genes: np.ndarray) -> str:
    order = np.argsort(-parts, kind="stable")[:N_SHOWN]
    return ",".join(genes[order[parts[order] > 0]])
