"""What do moved cells become, by the classifier and by the judge, and what do cells become that move at random?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from diffvae.tl._change import AT_ONCE, FACTORS, change_curve, factors_for, lengths
from diffvae.tl._directions import Cells, Direction, anchored, random_directions
from diffvae.tl._judge import Judge

if TYPE_CHECKING:
    from diffvae.model import CellStateClassifier, Model

NULL_CELLS = 20
"""Source cells on which the random directions are tried; directions differ far more than cells do."""


LEAST_REST = 0.2
"""If chance converts more than four in five cells, few are left, and their share would be noise."""


@dataclass(frozen=True)
class Trajectory:
    """Cells moved along a direction, each array steps x cells.

    ``factor`` are the multiples of the direction, ``probability`` is p(target) by the classifier, and ``is_top``,
    ``judged`` and ``nearest`` say whether target is the most probable type by the classifier, by the judge's regression
    and among the nearest real cells.
    """

    rows: np.ndarray
    direction: Direction
    factor: np.ndarray
    probability: np.ndarray
    is_top: np.ndarray
    judged: np.ndarray
    nearest: np.ndarray
    moved: np.ndarray
    """Length of the change of expression, as a share of the distance between the types."""

    def converted(self, min_probability: float) -> np.ndarray:
        """Return which cells are converted by the classifier, steps x cells."""
        return self.is_top & (self.probability >= min_probability)

    def resistance(self, grid: tuple[float, ...], min_probability: float) -> np.ndarray:
        """Return the smallest step from which a cell stays converted; infinity if there is none."""
        stays = np.logical_and.accumulate(self.converted(min_probability)[::-1])[::-1]
        return np.where(stays.any(0), np.array(grid)[stays.argmax(0)], np.inf)


@dataclass(frozen=True)
class Mover:
    """Moves cells, decodes them, and asks classifier and judge."""

    model: Model
    classifier: CellStateClassifier
    judge: Judge
    cells: Cells

    def code(self, name: str) -> int:
        """Return the number of a type."""
        return self.classifier.code(name)

    def decode(self, z: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the expression of points, each in the batch of the cell in ``rows``."""
        return self.cells.decode(self.model, np.require(z, np.float32), rows)

    def moved(self, rows: np.ndarray, along: Direction, factor: np.ndarray) -> np.ndarray:
        """Return the expression of cells moved by factors (cells x steps), cells x steps x genes."""
        cells, f = self.cells, np.asarray(factor, np.float32)[:, :, None]
        if not along.decoded:
            return cells.clip(cells.x[rows][:, None] + f * along.x)
        z = cells.z[rows][:, None] + f * along.z.reshape(-1, 1, cells.z.shape[1])
        y = self.decode(z.reshape(-1, z.shape[2]), np.repeat(rows, f.shape[1])).reshape(*f.shape[:2], -1)
        return cells.clip(y + f * along.x) if along.x.any() else y

    def anchored(self, rows: np.ndarray, delta: np.ndarray, target: str) -> np.ndarray:
        """Return the anchored direction of each cell."""
        return anchored(self.model, self.classifier, self.cells, rows, delta, target)

    def follow(
        self, rows: np.ndarray, along: Direction, grid: Sequence[float], unit: str, target: str, distance: float
    ) -> Trajectory:
        """Move cells along a direction and classify them at each step."""
        code, scale, steps = self.code(target), self.cells.scale, np.asarray(grid, np.float32)
        if unit == "n_sd":
            factor = np.broadcast_to(steps[:, None] / max(along.sd, 1e-12), (len(steps), len(rows)))
        elif along.z.any() or along.x.any():
            curve = change_curve(lambda cells, f: self.moved(rows[cells], along.part(cells), f), len(rows), scale)
            factor = factors_for(curve, distance * steps).T
        else:
            factor = np.zeros((len(steps), len(rows)), np.float32)
        columns: list[np.ndarray] = []
        at_once = max(1, AT_ONCE // len(steps))
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            y = self.moved(rows[part], along.part(part), factor[:, part].T)
            flat = y.reshape(-1, y.shape[2])
            p = self.classifier.predict_proba(flat)
            answers = (
                p[:, code], p.argmax(1) == code, self.judge.probability(flat).argmax(1) == code,
                self.judge.nearest(flat) == code, lengths(y - y[:, :1], scale).ravel() / max(distance, 1e-12),
            )  # fmt: skip
            columns.append(np.stack([a.reshape(y.shape[:2]).T for a in answers]))
        probability, is_top, judged, nearest, moved = np.concatenate(columns, axis=2)
        return Trajectory(
            rows, along, factor, probability, is_top.astype(bool), judged.astype(bool), nearest.astype(bool), moved
        )


@dataclass(frozen=True)
class Null:
    """Source cells moved along random directions of the latent space: how their expression changes, and to what.

    Attributes
    ----------
    curve
        Length of the change, draws x cells x factors.
    probability, judged
        Probabilities of the types by the classifier and by the judge, draws x cells x factors x types.
    tried
        The cells, by their position in the source.
    directions
        Draws x latent dimensions.
    """

    curve: np.ndarray
    probability: np.ndarray
    judged: np.ndarray
    tried: np.ndarray
    directions: np.ndarray

    @classmethod
    def of(cls, move: Mover, source: str, n_random: int, rng: np.random.Generator) -> Null:
        """Move some cells of the source along ``n_random`` directions."""
        cells, sources = move.cells, move.cells.of(source)
        tried = np.sort(rng.permutation(len(sources))[:NULL_CELLS])
        rows = sources[tried]
        drawn = random_directions(cells.z.std(0), n_random, rng)
        at_once = max(1, AT_ONCE // (len(rows) * len(FACTORS)))
        found: list[list[np.ndarray]] = [[], [], []]
        for start in range(0, n_random, at_once):
            steps = drawn[start : start + at_once, None, None] * FACTORS[:, None]  # draws x 1 x factors x dimensions
            z = cells.z[rows][:, None] + steps
            y = move.decode(z.reshape(-1, z.shape[-1]), np.tile(np.repeat(rows, len(FACTORS)), len(z)))
            p, q = move.classifier.predict_proba(y), move.judge.probability(y)
            y = y.reshape(*z.shape[:3], -1)
            found[0].append(np.maximum.accumulate(lengths(y - y[:, :, :1], cells.scale), axis=2))
            found[1].append(p.reshape(*z.shape[:3], -1))
            found[2].append(q.reshape(*z.shape[:3], -1))
        curve, probability, judged = (np.concatenate(part) for part in found)
        return cls(curve, probability, judged, tried, drawn)

    def moved(self, move: Mover, rows: np.ndarray, wanted: float) -> Iterator[np.ndarray]:
        """Yield for each direction the cells moved by it until their expression changes as wanted; see ``rows``.

        ``rows`` are the numbers of the cells that were tried. Each result is a change of decoded expression.
        """
        z = move.cells.z[rows]
        before = move.decode(z, rows)
        for curve, step in zip(self.curve, self.directions, strict=True):
            factor = factors_for(curve, np.array([wanted]))
            yield move.decode(z + factor * step, rows) - before

    def shares(self, code: int, wanted: np.ndarray, min_probability: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the shares converted and judged to be a type at given changes, draws x steps each.

        Log probabilities between two factors are interpolated: they are nearly linear along a direction, while
        probabilities jump. A cell whose expression does not change as much counts with its largest change.
        """
        n_draws, n_cells, n_factors = self.curve.shape
        flat = self.curve.reshape(-1, n_factors)
        at = np.stack([np.interp(wanted, row, np.arange(n_factors)) for row in flat]).reshape(n_draws, n_cells, -1)
        low = np.minimum(at.astype(int), n_factors - 2)[..., None]
        weight = at[..., None] - low

        def between(p: np.ndarray) -> np.ndarray:
            log_p = np.log(np.maximum(p, 1e-30))
            log_p = (1 - weight) * np.take_along_axis(log_p, low, 2) + weight * np.take_along_axis(log_p, low + 1, 2)
            return softmax(log_p, axis=3)

        p = between(self.probability)
        converted = (p.argmax(3) == code) & (p[..., code] >= min_probability)
        return converted.mean(1), (between(self.judged).argmax(3) == code).mean(1)


def agreed(trajectory: Trajectory, converted: np.ndarray, i: int, chance: float, judged_by_chance: float) -> float:
    r"""Return the share of the cells that a step converts, of those that chance does not: the median of three judges.

    .. math:: \frac{p - c}{\max(1 - c, 0.2)} \mbox{ if } p \ge c, \mbox{ else } \frac{p - c}{\max(c, 0.2)}

    with the share p, and for c the share under random directions, or without a step if that is larger.
    """
    chances = ((converted, chance), (trajectory.judged, judged_by_chance), (trajectory.nearest, judged_by_chance))
    shares = []
    for calls, by_chance in chances:
        least = max(float(calls[0].mean()), by_chance)
        share = float(calls[i].mean())
        shares.append((share - least) / max(1 - least if share >= least else least, LEAST_REST))
    return float(np.median(shares))
