"""Check of expression values: are they counts, normalised, logged or scaled, and can they be used?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from diffvae._core.io.backed import BackedAnnData
from diffvae._core.io.matrix import GeneRange, blocks, is_sparse, matrix_of, n_stored, quoted, source, values
from diffvae._core.validate import Choice, Optional, Rule
from diffvae._core.validate import check as check_arguments
from diffvae._core.words import argument, either
from diffvae._errors import DataError
from diffvae.pp._scales import LARGEST_LOG, Kinds, kinds_of_cells, near_whole, verdict
from diffvae.pp._unfiltered import looks_unfiltered

Kind = Literal["counts", "normalised", "log", "scaled"]

RULES: dict[str, Rule] = {"kind": Optional(Choice("counts", "normalised", "log"))}
WIDE = 5.0
"""99 % quantile over median of non-zero values; logs of UMI data have 1.4 to 4, linear values 5 to 100."""
SAMPLE = 200_000
"""Number of values from which quantiles are computed."""


@dataclass
class Summary:
    """Summary of a matrix from one pass over it."""

    n_bad: int
    first_bad: tuple[int, int]
    n_negative: int
    smallest: float
    largest: float
    whole: bool
    whole_share: float
    constant_genes: np.ndarray
    cell_sums: np.ndarray
    sample: np.ndarray
    kinds: Kinds | None = None
    """The kinds of values of single cells, once they were looked for."""


def summarise(x: Any) -> Summary:
    """Summarise a matrix in one pass of bounded memory."""
    stride = n_stored(x) // SAMPLE + 1
    n_bad = n_negative = n_whole = n_nonzero = 0
    first_bad = (x.shape[0], x.shape[1])
    smallest, largest = np.inf, -np.inf
    sums, sample, extremes = np.zeros(x.shape[0]), [], GeneRange(x.shape[1])
    for rows, columns, block in blocks(x):
        stored = values(block)
        if not np.isfinite(stored).all():
            bad = ~np.isfinite(stored)
            n_bad += int(bad.sum())
            at = block.tocoo() if sp.issparse(block) else None
            row, column = (at.row[bad], at.col[bad]) if at is not None else np.divmod(bad.nonzero()[0], block.shape[1])
            first = min(zip(row.tolist(), column.tolist(), strict=True))
            first_bad = min(first_bad, (first[0] + rows.start, first[1] + columns.start))
            continue
        nonzero = stored[stored != 0]
        n_negative += int((stored < 0).sum())
        n_nonzero += nonzero.size
        n_whole += int(near_whole(nonzero).sum())
        if stored.size:
            smallest, largest = min(smallest, stored.min()), max(largest, stored.max())
        with np.errstate(over="ignore"):  # totals that overflow are infinite, and refused later
            sums[rows] += np.asarray(block.sum(axis=1)).ravel()
        sample.append(nonzero[::stride].copy())  # a view would keep all values
        extremes.update(block, columns)
    if 0 < largest < 0.5:
        n_whole = 0  # shares of the total of each cell are near 0, but not whole
    return Summary(
        n_bad=n_bad,
        first_bad=first_bad,
        n_negative=n_negative,
        smallest=float(min(smallest, 0.0) if is_sparse(x) else smallest),
        largest=float(max(largest, 0.0) if is_sparse(x) else largest),
        whole=n_whole == n_nonzero,
        whole_share=n_whole / max(n_nonzero, 1),
        constant_genes=extremes.low == extremes.high,
        cell_sums=sums,
        sample=np.concatenate(sample) if sample else np.zeros(0),
    )


MIN_VALUES = 30
"""Fewest values just below a whole number, and fewest cells with a common unit, that tell corrected counts."""


def corrected_counts(sample: np.ndarray) -> str:
    """Return why values that are not whole are counts that were corrected for background (SoupX); "" if they aren't.

    A correction takes a little from each count, so that most values lie just below 1, 2 and 3. Logs don't.
    """
    below = []
    for count in (1, 2, 3):
        values_ = sample[(sample > count - 1) & (sample <= count)]
        below.append(float((values_ > count - 0.3).mean()) if len(values_) >= MIN_VALUES else 0.0)
    if min(below) <= 0.6:
        return ""
    return f"{min(below):.0%} or more of the values up to 1, 2 and 3 lie just below them, as in corrected counts"


def detect_kind(x: Any, summary: Summary) -> tuple[Kind, str, tuple[str, ...]]:
    """Return the kind of values, the reason, and doubts about it; the kinds of single cells go to the summary."""
    largest = f"{summary.largest:,.6g}"
    if summary.n_negative:
        return "scaled", f"{summary.n_negative:,} values are negative, down to {summary.smallest:.6g}", ()
    if summary.whole:
        return "counts", f"all values are whole numbers, up to {largest}", ()
    summary.kinds = kinds_of_cells(x)
    main = summary.kinds.main
    corrected = "These look like corrected counts; they are normalised as counts are, but not kept in layers['counts']."
    if main is not None and main.base and not main.of_counts:
        multiples = "values of a cell are multiples of its smallest"
        sums = multiples if main.total is None else f"every cell sums to {main.total:,.6g}"
        return "log", f"undoing {main.base}(x + 1), {sums}", ()
    if main is not None and main.of_counts:
        doubt = (
            f"The values are {main.base}(count + 1) without normalisation for sequencing depth; "
            "pass the counts themselves if you have them."
        )
        return "log", f"undoing {main.base}(x + 1) leaves whole numbers", (doubt,)
    if summary.whole_share > 0.5:
        doubt = (
            f"{summary.whole_share:.0%} of the non-zero values are whole numbers: these look like estimated "
            "or corrected counts; they are normalised as counts are, but not kept in layers['counts']."
        )
        return "normalised", "most values are whole numbers, and some are not", (doubt,)
    if main is not None and main.scale == "linear" and main.total is not None:
        return "normalised", f"every cell sums to {main.total:,.6g} without undoing a log", ()
    if summary.largest > LARGEST_LOG:
        return "normalised", f"values go up to {largest}, beyond any log of expression, and are not whole", ()
    if main is not None and main.scale == "linear":
        reason = "the values of each cell are multiples of one number: counts, scaled by a factor for each cell"
        return "normalised", reason, (corrected,)
    if reason := corrected_counts(summary.sample):
        return "normalised", reason, (corrected,)
    doubts = []
    if summary.largest <= 1:
        doubts.append(
            "All values lie between 0 and 1: they may have been scaled per gene already; "
            "pass log-normalised values or counts if you have them."
        )
    median, high = np.quantile(summary.sample, [0.5, 0.99])
    if high > WIDE * median:
        doubts.append(
            f"Values up to {largest} were taken as logs, but their spread (99 % quantile {high:.3g}, median "
            f"{median:.3g} of those above zero) would also fit FPKM, TPM or CPM: "
            f"if that is what they are, pass {argument('kind')}='normalised'."
        )
    return "log", f"values are not whole and go up to {largest} only", tuple(doubts)


MIN_CELLS = 10
"""Fewest cells that can be split, scaled and clustered."""
LARGEST_GIVEN_LOG = 50.0
"""Above this ``kind="log"`` can't be right, and undoing the log overflows."""
LARGEST_TOTAL = 1e30
"""Largest value or total of a cell, below the limit of float32 (3e38)."""

KIND_NAMES = {
    "counts": "counts",
    "normalised": "normalised but not logged (CPM, TPM or FPKM-like)",
    "log": "log-normalised",
    "scaled": "scaled or centred",
}


@dataclass(frozen=True)
class DataReport:
    """Result of :func:`check`.

    Attributes
    ----------
    kind
        ``"counts"``, ``"normalised"`` (CPM, TPM or FPKM-like: not negative, not logged), ``"log"``
        (log-normalised) or ``"scaled"`` (has negative values).
    reason
        Why.
    n_cells, n_genes
        Size of the matrix.
    n_constant_genes
        Number of genes with the same value, mostly 0, in all cells; :func:`prepare` leaves them out.
    warnings
        Sentences about problems that don't prevent the use of the data.

    Examples
    --------
    >>> import diffvae as dv
    >>> report = dv.pp.check(dv.datasets.pbmc68k_reduced())
    >>> report.kind, report.n_cells
    ('log', 700)
    """

    kind: Kind
    reason: str
    n_cells: int
    n_genes: int
    n_constant_genes: int
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.n_cells:,} cells x {self.n_genes:,} genes, {KIND_NAMES[self.kind]}: {self.reason}.",
            f"Genes that don't vary: {self.n_constant_genes:,}.",
            *(f"Warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


def check(adata: AnnData, *, layer: str | None = None, kind: Kind | None = None) -> DataReport:
    """Detect what an expression matrix holds: counts, normalised, log-normalised or scaled values.

    Nothing is changed. The matrix is read in blocks of a few megabytes and never made dense.

    Parameters
    ----------
    adata
        Cells x genes.
    layer
        Layer to check; ``adata.X`` by default.
    kind
        What the values are, if detection is wrong: ``"counts"``, ``"normalised"`` or ``"log"``.

    Returns
    -------
    DataReport
        The kind of data and warnings. It prints as a few sentences.

    Raises
    ------
    DataError
        If the data can't be used: no cells or genes, fewer than 10 cells, values that are not numbers, missing, masked,
        infinite or above 1e30, duplicated cell names, names that can't be written to a file, no gene that varies; or
        if ``kind`` contradicts the values.

    Notes
    -----
    Whole numbers are counts. Negative values mean scaled data. Values above 20 = log2(10⁶) that are not whole are
    normalised and not logged. Otherwise equal totals of cells decide, before or after undoing a log of base e, 2 or 10.
    If totals are unequal, the values are taken as logs, with a warning if their spread fits linear values too.

    Examples
    --------
    >>> import diffvae as dv, numpy as np
    >>> from anndata import AnnData
    >>> adata = AnnData(np.random.default_rng(0).poisson(2.0, (50, 4)).astype("float32"))
    >>> print(dv.pp.check(adata))
    50 cells x 4 genes, counts: all values are whole numbers, up to 9.
    Genes that don't vary: 0.
    """
    return examine(adata, layer=layer, kind=kind)[0]


def examine(
    adata: AnnData | BackedAnnData, *, layer: str | None, kind: Kind | None, fitting: bool = True
) -> tuple[DataReport, Summary]:
    """Do what :func:`check` does, and return the summary too; without ``fitting`` cells may be few and alike."""
    check_arguments(RULES, kind=kind)
    x = matrix_of(adata, layer)
    name = source(layer)
    n_cells, n_genes = x.shape
    if n_cells == 0 or n_genes == 0:
        raise DataError(f"{name} is empty: {n_cells:,} cells x {n_genes:,} genes.")
    if fitting and n_cells < MIN_CELLS:
        raise DataError(
            f"adata has {n_cells} cell{'s' * (n_cells > 1)}; at least {MIN_CELLS} are needed. If cells are "
            f"in columns here, {either('transpose it first: adata = adata.T', 'pass transpose=True')}."
        )
    if fitting and not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()].unique()
        raise DataError(f"Cell names occur more than once: {quoted(twice)}; call adata.obs_names_make_unique() first.")
    _refuse_damaged(x, name)
    _refuse_unwritable(adata.obs_names, "Cell")
    _refuse_unwritable(adata.var_names, "Gene")
    summary = summarise(x)
    _refuse_bad_values(adata, summary, name)
    if fitting and summary.constant_genes.all():
        raise DataError(f"No gene varies in {name}: each of the {n_genes:,} has one value in all cells.")
    detected, reason, warnings = detect_kind(x, summary)
    mixed = ""
    if not summary.whole:
        groups = (summary.kinds or kinds_of_cells(x)).groups  # values below zero are not looked at before
        mixed, remark = verdict(groups, adata.obs_names, adata.obs)
        if mixed and kind is None and not summary.n_negative:
            raise DataError(
                f"{name} can't be used: {mixed} Give one kind for all cells, such as counts (layer=..., {_raw()}), "
                f"or each part by itself; if this is wrong, say what the values are ({argument('kind')}=...)."
            )
        warnings = (*warnings, *filter(None, [mixed, remark]))
    if kind is not None:
        _refuse_wrong_kind(kind, summary, name)
        detected, reason, warnings = kind, f"as given by {argument('kind')}=...", (mixed,) if mixed else ()
    if detected == "scaled":
        warnings = (*warnings, way_out_of_scaled(adata, layer, summary))
    warnings = (*warnings, *_warnings(adata, detected, layer, summary))
    n_constant = int(summary.constant_genes.sum())
    return DataReport(detected, reason, n_cells, n_genes, n_constant, warnings), summary


def way_out_of_scaled(adata: AnnData | BackedAnnData, layer: str | None, summary: Summary) -> str:
    """Return the message for data with negative values."""
    ways = []
    also = ""
    if adata.raw is not None and kind_of(adata.raw.X) is None:
        also = ", and so was adata.raw"
    elif adata.raw is not None:
        ways.append(f"adata.raw has {adata.raw.n_vars:,} genes: pass {_raw()} instead")
    if others := [name for name in adata.layers if name != layer]:
        ways.append(f"adata has the layers {quoted(others)}: pass layer=... if one holds counts or logs")
    if not ways:
        ways.append("pass counts or log-normalised values instead")
    return (
        f"{source(layer)} has {summary.n_negative:,} negative values, down to {summary.smallest:.6g}: it "
        f"was scaled, centred or corrected{also}, and that can't be undone; {', or '.join(ways)}."
    )


def kind_of(x: Any) -> Kind | None:
    """Return the kind of values; None if they can't be used."""
    if getattr(x, "dtype", None) is None or x.dtype.kind not in "biuf":
        return None
    summary = summarise(x)
    kind = None if summary.n_bad else detect_kind(x, summary)[0]
    return None if kind == "scaled" else kind


def _raw() -> str:
    return either("adata.raw.to_adata()", "use_raw=True")


def _refuse_bad_values(adata: AnnData | BackedAnnData, summary: Summary, name: str) -> None:
    if summary.n_bad:
        row, column = summary.first_bad
        raise DataError(
            f"{name} has {summary.n_bad:,} missing or infinite value{'s' * (summary.n_bad > 1)}, the first "
            f"in cell {adata.obs_names[row]!r}, gene {adata.var_names[column]!r}; remove those cells or "
            "genes, or set the values to 0 if missing means not detected."
        )

    largest = max(summary.largest, -summary.smallest, float(summary.cell_sums.max(initial=0)))
    if largest > LARGEST_TOTAL:
        raise DataError(
            f"{name} has values, or totals of cells, up to {largest:.3g}, beyond {LARGEST_TOTAL:.0e}: no expression "
            "is that high, and single precision can't hold it; check how the matrix was made."
        )


def _refuse_damaged(x: Any, name: str) -> None:
    """Refuse a sparse matrix with indices out of range, for which scipy would read beyond its arrays."""
    if sp.issparse(x) and x.nnz:
        low, high, n = int(x.indices.min()), int(x.indices.max()), x.shape[1 if x.format == "csr" else 0]
        if low < 0 or high >= n:
            what = "genes" if x.format == "csr" else "cells"
            raise DataError(f"{name} is damaged: it has values of {what} {low:,} to {high:,}, of {n:,}; make it again.")


def _refuse_unwritable(names: Any, what: str) -> None:
    """Refuse names that can't be written to a file, before any computation."""
    for name in map(str, names):
        if "\0" in name or (not name.isascii() and name.encode(errors="replace").decode() != name):
            raise DataError(
                f"{what} name {name[:40]!r} holds a character that can't be written to a file (NUL or half a "
                "character); rename it."
            )


def _refuse_wrong_kind(kind: Kind, summary: Summary, name: str) -> None:
    if summary.n_negative:
        raise DataError(
            f"{argument('kind')} is {kind!r}, but {name} has {summary.n_negative:,} negative values, down to "
            f"{summary.smallest:.6g}; counts, normalised values and log(x + 1) have none."
        )
    if kind == "counts" and not summary.whole:
        raise DataError(
            f"{argument('kind')} is 'counts', but only {summary.whole_share:.1%} of the non-zero values of {name} are "
            f"whole numbers; {argument('kind')}='normalised' treats estimated counts the same way, without keeping "
            "them as counts."
        )
    if kind == "log" and summary.largest > LARGEST_GIVEN_LOG:
        raise DataError(
            f"{argument('kind')} is 'log', but {name} holds values up to {summary.largest:,.6g}; "
            f"use {argument('kind')}='normalised' if they are not logged."
        )


def _warnings(adata: AnnData | BackedAnnData, kind: Kind, layer: str | None, summary: Summary) -> list[str]:
    messages: list[str] = []
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        messages.append(
            f"Gene names occur more than once: {quoted(twice)}; preparing makes them unique by adding -1, -2, ... to "
            "all but the first."
        )
    if kind != "scaled" and (empty := int((summary.cell_sums == 0).sum())):
        messages.append(
            f"Cells without any expression: {empty:,}; they are kept with all values 0. "
            f"{either('scanpy.pp.filter_cells(adata, min_genes=1)', 'min_genes=1')} removes them."
        )
    if kind == "counts" and (said := looks_unfiltered(matrix_of(adata, layer), summary.cell_sums)):
        messages.append(said)
    raw = adata.raw
    if layer is None and kind in ("counts", "normalised") and raw is not None and raw.n_vars > adata.n_vars:
        messages.append(
            f"adata.raw has {raw.n_vars:,} genes and adata.X {adata.n_vars:,}: totals of cells are taken "
            f"over the latter only; pass {_raw()} to use all genes."
        )
    return messages


def unique_names(names: Any) -> np.ndarray:
    """Return names with -1, -2, ... added to all but the first of those that occur more than once."""
    import warnings

    from anndata.utils import make_index_unique

    if names.is_unique:
        return names.to_numpy()
    with warnings.catch_warnings():
        # anndata warns of names that end in a number already; the result is unique anyway
        warnings.simplefilter("ignore")
        return make_index_unique(names).to_numpy()
