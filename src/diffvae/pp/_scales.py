"""Do all cells hold one kind of values? Counts beside logs, logs of other bases or totals, roots, logs of logs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae._core.io.matrix import quoted
from diffvae._random import generator

SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: x,
    "ln": np.expm1,
    "log2": lambda x: np.expm1(x * np.log(2.0)),
    "log10": lambda x: np.expm1(x * np.log(10.0)),
    "ln twice": lambda x: np.expm1(np.expm1(x)),
    "square root": np.square,
}
"""Functions that undo a scale."""
TWICE, ROOT = "ln twice", "square root"
LOGS = ("ln", "log2", "log10")
OF_COUNTS = " of counts"
"""Mark of logs whose smallest value is one count, so that cells were not normalised."""
OTHER = "other"
"""Scale of values that look like logs, and show nothing else."""
LARGEST_LOG = 20.0
"""log2(10^6 + 1) = 19.93: the largest value that log-normalised data hold, whatever base and target sum."""
UNLOGGED = ("linear", ROOT)
"""Scales on which values may be whole; logs are so by accident only."""
LARGEST = {"linear": np.inf, "ln": 50.0, "log2": 50.0, "log10": 20.0, TWICE: 3.5, ROOT: np.inf}
"""Largest value of a cell on a scale; undoing the scale of larger ones gives more than any expression, or overflows."""
N_CELLS = 2_000
"""Cells that are examined, spread over the whole matrix."""
N_VALUES = 300
"""Values of a cell whose ratios are examined."""
MIN_STEPS = 3
"""Values of a cell that must be a multiple of its smallest, 2 or more times as large."""
MAX_RATIO = 50
"""Largest multiple that is examined: of larger ones the distance to a whole number is lost in rounding."""
WIDTH = 0.002
"""Relative half width within which totals count as one total."""
SURROUNDINGS = 0.04
"""Relative half width of the totals around it, which say how many would be equal by chance."""
MIN_CELLS, MIN_SHARE = 5, 0.01
"""Fewest cells, and smallest share of the examined ones, that are a kind of their own."""
APART = 0.98
"""Share of the cells by whose values a column separates the kinds."""
SAME_TOTAL = 1.05
"""Ratio of two totals up to which logs are on the same scale."""
MOST = 0.8
"""Share of the examined cells that have the kind of the matrix, if it has one."""
FEW = 0.05
"""Share of logs whose undone values are whole by chance, at most."""
UNITS = 10.0
"""Ratio of the units of logs above which two totals may have been used."""
FEW_WHOLE = 0.2
"""Share of whole numbers among the values of a cell below which it holds no counts, not even corrected ones."""


@dataclass(frozen=True)
class Group:
    """Cells with one kind of values.

    Attributes
    ----------
    scale
        ``"counts"``, ``"negative"``, a name in ``SCALES``, or ``"other"`` (no counts, and below the largest log).
    total
        Total that all cells have with the scale undone; None if totals differ.
    rows
        Numbers of the cells.
    """

    scale: str
    total: float | None
    rows: np.ndarray

    @property
    def base(self) -> str:
        """The base of the logs, "ln", "log2" or "log10"; "" if the values are no logs."""
        name = self.scale.removesuffix(OF_COUNTS)
        return name if name in LOGS else ""

    @property
    def of_counts(self) -> bool:
        """Whether the values are logs of counts, not of normalised counts."""
        return self.scale.endswith(OF_COUNTS)

    @property
    def what(self) -> str:
        """The kind in words."""
        sums = "" if self.total is None else f" of cells that sum to {self.total:,.6g}"
        names = {
            "counts": "whole numbers",
            "negative": "negative values",
            "linear": f"values without a log{sums}",
            TWICE: f"ln(1 + ln(1 + x)){sums}, logs of logs",
            ROOT: f"square roots{sums}",
            OTHER: "values that look like logs",
            **{name + OF_COUNTS: f"{name}(count + 1)" for name in LOGS},
        }
        return names.get(self.scale, f"{self.scale}(x + 1){sums}")


def near_whole(x: np.ndarray) -> np.ndarray:
    """Return which values are whole numbers up to the rounding of float32 and of an undone log."""
    # The upper bound excludes large CPM values, which float32 holds to 0.01
    return np.abs(x - np.rint(x)) <= np.minimum(1e-3 + 1e-5 * np.abs(x), 0.05)


def examined(x: Any) -> tuple[np.ndarray, sp.csr_matrix]:
    """Return the numbers of some cells, spread over the matrix, and their values without zeros."""
    n = x.shape[0]
    if isinstance(x, BackedMatrix):
        rows, part = x.sample(N_CELLS, generator(0, "scale of cells"))
    else:
        rows = np.unique(np.linspace(0, n - 1, min(n, N_CELLS)).astype(np.int64))
        part = x[rows]
    part = sp.csr_matrix(part, dtype=np.float64, copy=True)
    part.sum_duplicates()
    part.eliminate_zeros()
    return rows, part


@dataclass(frozen=True)
class Kinds:
    """The kinds of values that the examined cells hold, the most frequent first."""

    groups: list[Group]
    n_examined: int

    @property
    def main(self) -> Group | None:
        """The kind of nearly all cells, if they have one."""
        few = not self.groups or len(self.groups[0].rows) < MOST * self.n_examined
        return None if few else self.groups[0]

    @property
    def unlogged_total(self) -> tuple[str, float] | None:
        """The base of the log and the total of cells, if nearly all cells have one total with the log undone."""
        main = self.main
        return (main.base, main.total) if main is not None and main.base and main.total is not None else None


def kinds_of_cells(x: Any) -> Kinds:
    r"""Return the kinds of values that the cells of a matrix hold.

    The counts k of a cell are known up to a factor if a scale f is undone: :math:`f^{-1}(x_g) = s k_g`. Where the
    smallest is one count, as in nearly every cell of UMI data, all others are multiples of it, on the right scale only.
    Where counts are unknown (TPM, for example), cells that were normalised have one total
    :math:`\sum_g f^{-1}(x_g)`, again on the right scale only. Cells of which neither is so have no kind.

    Parameters
    ----------
    x
        Cells x genes, of finite values.
    """
    rows, part = examined(x)
    length = np.diff(part.indptr)
    occupied = np.flatnonzero(length >= MIN_STEPS)
    rows, part, length = rows[occupied], part[occupied], length[occupied]
    if not len(rows):
        return Kinds([], 0)
    cells = _Cells(part, length)
    scale, smallest = cells.by_ratios()
    scale, total = cells.by_totals(scale)
    rest = (scale == "") & (cells.whole < FEW_WHOLE)
    if (scale == "counts").sum() >= MIN_CELLS and (cells.largest[rest] <= LARGEST_LOG).all():
        scale[rest] = OTHER  # logs of non-UMI data with some genes left out show neither sign
    _merge_few(scale, total)
    part_of = _two_units(scale, total, smallest, length)
    kinds = pd.Series(list(zip(scale, np.nan_to_num(total, nan=-1.0), part_of, strict=True)))
    groups = [
        Group(name, None if value < 0 else value, rows[members.to_numpy()])
        for (name, value, _), members in kinds.groupby(kinds).groups.items()
        if name and len(members) >= MIN_CELLS
    ]
    groups = sorted(groups, key=lambda group: -len(group.rows))
    if groups and len(groups[0].rows) < MOST * len(rows):  # a few cells of a kind say little among many without one
        groups = [group for group in groups if len(group.rows) >= MIN_SHARE * len(rows)]
    return Kinds(groups, len(rows))


class _Cells:
    """The examined cells, a sparse matrix of which each row has values."""

    def __init__(self, part: sp.csr_matrix, length: np.ndarray) -> None:
        self.data, self.starts, self.length = part.data, part.indptr[:-1], length
        self.owner = np.repeat(np.arange(len(length)), length)
        self.largest = np.maximum.reduceat(self.data, self.starts)
        self.smallest = np.minimum.reduceat(self.data, self.starts)
        self.whole = np.add.reduceat(near_whole(self.data).astype(float), self.starts) / length

    def _able(self, name: str) -> np.ndarray:
        """Return the cells whose values may be on a scale; logs are whole by accident only."""
        return (self.largest <= LARGEST[name]) & ((self.whole < FEW_WHOLE) | (name in UNLOGGED))

    def by_ratios(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the scale on which all values of a cell are multiples of its smallest, and this smallest value."""
        n = len(self.length)
        scale, unit = np.full(n, "", object), np.full(n, np.nan)
        scale[(self.whole == 1) & (self.largest > 1)] = "counts"
        scale[self.smallest < 0] = "negative"
        first = np.arange(len(self.data)) - np.repeat(self.starts, self.length) < N_VALUES
        some, owner = self.data[first], self.owner[first]
        for name, undo in SCALES.items():
            able = self.largest <= LARGEST[name] if name == "log2" else self._able(name)  # log2 of 2, 4 and 8 is whole
            use = ((scale == "") & able)[owner]
            if not use.any():
                continue
            undone, cells = undo(some[use]), owner[use]
            starts = np.flatnonzero(np.diff(cells, prepend=-1))
            if name in LOGS:
                # the smallest count is 1, rarely 2 or 3; a larger unit is whole where the total divides 10,000
                whole = np.minimum.reduceat(near_whole(undone), starts) & (np.minimum.reduceat(undone, starts) < 3.5)
                scale[cells[starts][whole]] = name + OF_COUNTS
            members = _are_multiples(undone, cells, without_squares=name == ROOT)
            members = members[(scale[members] == "") & self._able(name)[members]]
            scale[members] = name
            least = np.full(n, np.nan)
            least[cells[starts]] = np.minimum.reduceat(undone, starts)
            unit[members] = least[members]
        counts, of_log2 = scale == "counts", scale == "log2" + OF_COUNTS
        if counts.sum() < FEW * of_log2.sum():  # log2 of the counts 1, 3 and 7 is whole
            scale[counts & (self.largest <= 4)] = "log2" + OF_COUNTS
        elif counts.any():  # nothing but ones may be counts as well
            scale[of_log2 & (self.largest == 1)] = ""
        return scale, unit

    def by_totals(self, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the scale of each cell, also of those that only their total tells, and the total if many have it."""
        total = np.full(len(scale), np.nan)
        sums: dict[str, np.ndarray] = {}
        for name in ("linear", *LOGS):
            usable = self._able(name) & np.isin(scale, ["", name, name + OF_COUNTS])
            with np.errstate(over="ignore"):
                added = np.add.reduceat(SCALES[name](np.where(usable[self.owner], self.data, 0.0)), self.starts)
            sums[name] = np.where(usable & np.isfinite(added) & (added > 0), np.log(np.maximum(added, 1e-300)), np.nan)
        while True:  # the largest group first: cells with few values have equal sums on any scale
            left = {name: np.isin(scale, ["", name]) & np.isnan(total) for name in sums}
            found = [(*_equal(sums[name], left[name], len(scale)), name) for name in sums]
            n, middle, name = max(found)
            if not n:
                return scale, total
            # a total may by chance be that of the counts
            known = left[name] | ((scale == name + OF_COUNTS) & np.isnan(total))
            members = known & (np.abs(sums[name] - middle) <= 2 * WIDTH)
            scale[members], total[members] = name, np.exp(np.median(sums[name][members]))


def _merge_few(scale: np.ndarray, total: np.ndarray) -> None:
    """Give a few cells whose undone logs are whole the kind of the others: totals such as 2,500 divide 10,000."""
    for name in LOGS:
        parts = [np.flatnonzero((scale == kind) & np.isnan(total)) for kind in (name, name + OF_COUNTS)]
        few, many = sorted(parts, key=len)
        if 0 < len(few) < FEW * len(many):
            scale[few] = scale[many[0]]


def _two_units(scale: np.ndarray, total: np.ndarray, unit: np.ndarray, n_expressed: np.ndarray) -> np.ndarray:
    """Return a number for each cell, 1 for logs of cells that were normalised to a total many times larger.

    One count is ``target sum / total of the cell``. Cells of a tenth of the depth have ten times this unit, but express
    far fewer genes as well.
    """
    out = np.zeros(len(scale), int)
    for name in LOGS:
        members = np.flatnonzero((scale == name) & np.isnan(total) & np.isfinite(unit))
        if len(members) < 2 * MIN_CELLS:
            continue
        order = members[np.argsort(unit[members], kind="stable")]
        steps = np.diff(np.log(unit[order]))
        cut = int(np.argmax(steps)) + 1
        low, high = order[:cut], order[cut:]
        if min(len(low), len(high)) < max(MIN_CELLS, MIN_SHARE * len(members)):
            continue
        ratio = np.median(unit[high]) / np.median(unit[low])
        genes = np.median(n_expressed[low]) / np.median(n_expressed[high])
        if ratio > UNITS and genes < np.sqrt(ratio) / 2:
            out[high] = 1
    return out


def _are_multiples(y: np.ndarray, owner: np.ndarray, *, without_squares: bool = False) -> np.ndarray:
    """Return the cells whose values are multiples of their smallest one; ``owner`` is the cell of each, in order.

    Multiples on a linear scale are perfect squares if they are squared, so that these say nothing of roots.
    """
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    groups = owner[starts]
    ratio = y / np.repeat(np.minimum.reduceat(y, starts), np.diff(starts, append=len(y)))
    used = ratio <= MAX_RATIO
    error = np.where(used, np.abs(ratio - np.rint(ratio)), 0.0)
    multiple = used & (ratio > 1.5)
    if without_squares:
        multiple &= np.rint(np.sqrt(ratio)) ** 2 != np.rint(ratio)
    worst = np.maximum.reduceat(error - 1e-4 * np.where(used, ratio, 0.0), starts)
    return groups[(worst < 0.005) & (np.add.reduceat(multiple.astype(int), starts) >= MIN_STEPS)]


def _equal(sums: np.ndarray, able: np.ndarray, n_all: int) -> tuple[int, float]:
    """Return how many cells have the most frequent total, and its logarithm; 0 if as many have it by chance."""
    at = np.sort(sums[able & np.isfinite(sums)])

    def within(half: float) -> np.ndarray:
        return np.searchsorted(at, at + half, "right") - np.searchsorted(at, at - half, "left")

    near, around = within(WIDTH), within(SURROUNDINGS)
    chance = (around - near) * WIDTH / (SURROUNDINGS - WIDTH)
    clear = near * ((near >= max(MIN_CELLS, MIN_SHARE * n_all)) & (near >= MIN_CELLS + 5 * chance))
    best = int(np.argmax(clear)) if len(at) else 0
    return (int(clear[best]), float(at[best])) if len(at) and clear[best] else (0, 0.0)


def verdict(groups: list[Group], names: pd.Index, obs: pd.DataFrame) -> tuple[str, str]:
    """Return why the values can't be used together, and a remark on them; "" for neither.

    Counts beside normalised values are remarked on only: normalised to one total both become the same.
    """
    on_a_scale = [g for g in groups if g.scale not in ("counts", "linear")]
    if not on_a_scale:
        totals = [g.total for g in groups if g.total is not None]
        if len(groups) > 1 and (len(totals) > 1 or {g.scale for g in groups} == {"counts", "linear"}):
            return "", f"{_listed(groups, names, obs)} Each cell is normalised to one total, which makes them alike."
        return "", ""
    if len({g.scale for g in groups}) > 1 or _differ([g.total for g in groups]) or _twice(groups):
        return _listed(groups, names, obs), ""
    return (f"The values are {groups[0].what}.", "") if groups[0].scale in (TWICE, ROOT) else ("", "")


def _twice(groups: list[Group]) -> bool:
    """Return whether logs without equal totals have two units."""
    return sum(g.total is None for g in groups) > 1


def _differ(totals: list[float | None]) -> bool:
    known = [total for total in totals if total is not None]
    return len(known) > 1 and max(known) > SAME_TOTAL * min(known)


def _listed(groups: list[Group], names: pd.Index, obs: pd.DataFrame) -> str:
    """Say which cells hold which kind of values, and which column of ``obs`` separates them."""
    kinds = ", ".join(f"{g.what} in {len(g.rows):,} ({quoted(names[np.sort(g.rows)], 3)})" for g in groups)
    column = _separating(groups, obs)
    apart = "" if column is None else f" obs[{column!r}] separates them."
    return f"Cells hold different kinds of values; of those examined: {kinds}.{apart}"


def _separating(groups: list[Group], obs: pd.DataFrame) -> str | None:
    """Return the first column of ``obs`` that tells the groups apart, but for a few cells."""
    rows = np.concatenate([g.rows for g in groups])
    group = np.repeat(np.arange(len(groups)), [len(g.rows) for g in groups])
    for column in obs:
        table = pd.crosstab(obs[column].iloc[rows].astype(str).to_numpy(), group).to_numpy()
        apart = table.max(axis=1).sum() >= APART * len(rows) and len(set(table.argmax(axis=1))) == len(groups)
        if apart and len(table) <= len(rows) / 5:
            return str(column)
    return None
