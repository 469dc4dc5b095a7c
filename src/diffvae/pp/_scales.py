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
SAME_TOTAL = 1.05
"""Ratio of two totals up to which logs are on the same scale."""
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
    def what(self) -> str:
        """The kind in words."""
        sums = "" if self.total is None else f" of cells that sum to {self.total:,.6g}"
        names = {
            "counts": "whole numbers",
            "negative": "negative values",
            "linear": f"values without a log{sums}",
            TWICE: f"ln(1 + ln(1 + x)){sums}, logs of logs",
            ROOT: f"square roots{sums}",
            "other": "values that look like logs",
            **{name + OF_COUNTS: f"{name}(count + 1)" for name in LOGS},
        }
        return names.get(self.scale, f"{self.scale}(x + 1){sums}")


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


def kinds_of_cells(x: Any, near_whole: Callable[[np.ndarray], np.ndarray], largest_log: float) -> list[Group]:
    r"""Return the kinds of values that the cells of a matrix hold, the most frequent first.

    The counts k of a cell are known up to a factor if a scale f is undone: :math:`f^{-1}(x_g) = s k_g`. Where the
    smallest is one count, as in nearly every cell of UMI data, all others are multiples of it, on the right scale only.
    Where counts are unknown (TPM, for example), cells that were normalised have one total
    :math:`\sum_g f^{-1}(x_g)`, again on the right scale only. Cells of which neither is so have no kind.

    Parameters
    ----------
    x
        Cells x genes, of finite values.
    near_whole
        Function that says which values are whole numbers.
    largest_log
        Largest value that logs of expression have.
    """
    rows, part = examined(x)
    length = np.diff(part.indptr)
    occupied = np.flatnonzero(length >= MIN_STEPS)
    rows, part, length = rows[occupied], part[occupied], length[occupied]
    if not len(rows):
        return []
    starts = part.indptr[:-1]
    whole = np.add.reduceat(near_whole(part.data).astype(float), starts) / length
    largest, smallest = np.maximum.reduceat(part.data, starts), np.minimum.reduceat(part.data, starts)
    scale = np.full(len(rows), "", object)
    scale[(whole == 1) & (largest > 1)] = "counts"
    scale[smallest < 0] = "negative"
    of_cell = np.repeat(np.arange(len(rows)), length)
    first = np.arange(part.nnz) - np.repeat(starts, length) < N_VALUES
    some, owner = part.data[first], of_cell[first]
    for name, undo in SCALES.items():
        able = (scale == "") & (largest <= LARGEST[name]) & ((whole < FEW_WHOLE) | (name in UNLOGGED))
        use = able[owner]
        if use.any():
            undone = undo(some[use])
            members = _are_multiples(undone, owner[use], without_squares=name == ROOT)
            scale[members] = name
            if name in LOGS:
                least = np.full(len(rows), np.inf)
                np.minimum.at(least, owner[use], undone)
                scale[members[np.abs(least[members] - 1) < 1e-3]] = name + OF_COUNTS
    total = np.full(len(rows), np.nan)
    for name in ("linear", *LOGS):
        able = np.isin(scale, ["", name]) & (largest <= LARGEST[name]) & ((whole < FEW_WHOLE) | (name in UNLOGGED))
        if not able.any():
            continue
        with np.errstate(over="ignore"):
            sums = np.add.reduceat(SCALES[name](np.where(able[of_cell], part.data, 0.0)), starts)
        for value, members in _equal(sums, able, len(rows)):
            scale[members], total[members] = name, value
    fewest = max(MIN_CELLS, MIN_SHARE * len(rows))
    rest = (scale == "") & (whole < FEW_WHOLE)
    if (scale == "counts").sum() >= fewest and (largest[rest] <= largest_log).all():
        scale[rest] = "other"  # logs of non-UMI data with some genes left out show neither sign
    kinds = pd.Series(list(zip(scale, np.nan_to_num(total, nan=-1.0), strict=True)))
    groups = [
        Group(name, None if value < 0 else value, rows[members.to_numpy()])
        for (name, value), members in kinds.groupby(kinds).groups.items()
        if name and len(members) >= fewest
    ]
    return sorted(groups, key=lambda group: -len(group.rows))


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


def _equal(sums: np.ndarray, able: np.ndarray, n_all: int) -> list[tuple[float, np.ndarray]]:
    """Return totals that more cells have than by chance, each with these cells."""
    found = []
    left = np.flatnonzero(able & np.isfinite(sums) & (sums > 0))
    while len(left) >= max(MIN_CELLS, MIN_SHARE * n_all):
        at = np.sort(np.log(sums[left]))

        def within(half: float, at: np.ndarray = at) -> np.ndarray:
            return np.searchsorted(at, at + half, "right") - np.searchsorted(at, at - half, "left")

        near, around = within(WIDTH), within(SURROUNDINGS)
        chance = (around - near) * WIDTH / (SURROUNDINGS - WIDTH)
        clear = (near >= max(MIN_CELLS, MIN_SHARE * n_all)) & (near >= MIN_CELLS + 5 * chance)
        if not clear.any():
            break
        middle = at[np.argmax(np.where(clear, near, 0))]
        inside = np.abs(np.log(sums[left]) - middle) <= 2 * WIDTH
        found.append((float(np.median(sums[left[inside]])), left[inside]))
        left = left[~inside]
    return found


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
    if on_a_scale != groups or len({g.scale for g in groups}) > 1 or _differ([g.total for g in groups]):
        return _listed(groups, names, obs), ""
    return (f"The values are {groups[0].what}.", "") if groups[0].scale in (TWICE, ROOT) else ("", "")


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
    """Return the first column of ``obs`` of which no value occurs in two groups, but most values in several cells."""
    for column in obs:
        found = [set(obs[column].iloc[g.rows].astype(str)) for g in groups]
        n_values = sum(map(len, found))
        if len(set.union(*found)) == n_values and n_values <= sum(len(g.rows) for g in groups) / 5:
            return str(column)
    return None
