"""Telling counts, normalised, logged and scaled expression apart by their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp

from diffvae.pp._matrix import GeneRange, blocks, is_sparse, n_stored, values

Kind = Literal["counts", "normalised", "log", "scaled"]

LARGEST_LOG = 20.0
"""log2(10^6 + 1) = 19.93: the largest value that log-normalised data hold, whatever base and target sum."""
CONSTANT = 0.01
"""Coefficient of variation below which totals of cells count as equal."""
WIDE = 5.0
"""99 % quantile over median of non-zero values; logs of UMI data have 1.4 to 4, linear values 5 to 100."""
SAMPLE = 200_000
"""Values that quantiles are taken of."""
BASES = {"ln": np.e, "log2": 2.0, "log10": 10.0}


@dataclass
class Summary:
    """What one pass over a matrix says about it."""

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


def near_whole(x: np.ndarray) -> np.ndarray:
    """Return which values are whole numbers but for the rounding of float32 and of an undone log."""
    # The bound keeps large CPM values, which float32 holds to 0.01, from passing as whole.
    return np.abs(x - np.rint(x)) <= np.minimum(1e-3 + 1e-5 * np.abs(x), 0.05)


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
        with np.errstate(over="ignore"):  # a total beyond its type is infinite, and refused
            sums[rows] += np.asarray(block.sum(axis=1)).ravel()
        sample.append(nonzero[::stride].copy())  # a view would keep all values
        extremes.see(block, columns)
    if 0 < largest < 0.5:
        n_whole = 0  # all near 0, such as shares of each cell's total, which is not to be whole
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


def _spread(sums: np.ndarray) -> float:
    """Return the coefficient of variation of the totals of cells that have any."""
    sums = sums[sums > 0]
    # A handful of cells may agree by chance.
    return float(sums.std() / sums.mean()) if sums.size >= 10 else np.inf


def _expm1(block: Any) -> Any:
    return block.expm1() if sp.issparse(block) else np.expm1(block)


def unlogged_total(x: Any) -> tuple[str, float] | None:
    """Return base and common total of cells once the log is undone, where they have one."""
    sums = {name: np.zeros(x.shape[0]) for name in BASES}
    for rows, _, block in blocks(x):
        for name, base in BASES.items():
            # Zero stays zero, so that scipy's expm1 keeps a sparse block sparse.
            sums[name][rows] += np.asarray(_expm1(block * np.log(base)).sum(axis=1)).ravel()
    best = min(sums, key=lambda name: _spread(sums[name]))
    return (best, float(np.median(sums[best]))) if _spread(sums[best]) < CONSTANT else None


def logged_counts(sample: np.ndarray) -> str | None:
    """Return the base of a log that, undone, leaves whole numbers only."""
    for name, base in BASES.items():
        if sample.size and 0.3 <= sample.max() <= LARGEST_LOG and near_whole(np.expm1(sample * np.log(base))).all():
            return name
    return None


def tell_kind(x: Any, summary: Summary) -> tuple[Kind, str, tuple[str, ...]]:
    """Return the kind, the reason, and what makes it doubtful."""
    largest = f"{summary.largest:,.6g}"
    if summary.n_negative:
        return "scaled", f"{summary.n_negative:,} values are negative, down to {summary.smallest:.6g}", ()
    if summary.whole:
        return "counts", f"all values are whole numbers, up to {largest}", ()
    if base := logged_counts(summary.sample):
        doubt = (
            f"The values are {base}(count + 1) without normalisation for sequencing depth; "
            "pass the counts themselves if you have them."
        )
        return "log", f"undoing {base}(x + 1) leaves whole numbers", (doubt,)
    if summary.whole_share > 0.5:
        doubt = (
            f"{summary.whole_share:.0%} of the non-zero values are whole numbers: these look like estimated "
            "or corrected counts; they are normalised as counts are, but not kept in layers['counts']."
        )
        return "normalised", "most values are whole numbers, and some are not", (doubt,)
    if summary.largest > LARGEST_LOG:
        return "normalised", f"values go up to {largest}, beyond any log of expression, and are not whole", ()
    if _spread(summary.cell_sums) < CONSTANT:
        total = np.median(summary.cell_sums)
        return "normalised", f"every cell sums to {total:,.6g} without undoing a log", ()
    if total_of := unlogged_total(x):
        return "log", f"undoing {total_of[0]}(x + 1), every cell sums to {total_of[1]:,.6g}", ()
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
            "if that is what they are, pass kind='normalised'."
        )
    return "log", f"values are not whole and go up to {largest} only", tuple(doubts)
