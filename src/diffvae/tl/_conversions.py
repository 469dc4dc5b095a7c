"""What do moved cells become, by the classifier and by the judge, and what do cells become that move at random?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from diffvae.tl._change import AT_ONCE, FACTORS, bracket, change_curve, factors_for, lengths
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
    _unmoved: dict[tuple[bytes, bool], tuple[np.ndarray, ...]] = field(default_factory=dict, repr=False)

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
            y = f * along.x
            y += cells.x[rows][:, None]
            return cells.clip(y)
        z = cells.z[rows][:, None] + f * along.z.reshape(-1, 1, cells.z.shape[1])
        y = self.decode(z.reshape(-1, z.shape[2]), np.repeat(rows, f.shape[1])).reshape(*f.shape[:2], -1)
        if not along.x.any():
            return y
        y += f * along.x
        return cells.clip(y)

    def anchored(self, rows: np.ndarray, delta: np.ndarray, target: str) -> np.ndarray:
        """Return the anchored direction of each cell."""
        return anchored(self.model, self.classifier, self.cells, rows, delta, target)

    def follow(
        self, rows: np.ndarray, along: Direction, grid: Sequence[float], unit: str, target: str, distance: float
    ) -> Trajectory:
        """Move cells along a direction and classify them at each step."""
        code, scale, steps = self.code(target), self.cells.scale, np.asarray(grid, np.float32)
        moves = bool(along.z.any() or along.x.any())
        if unit == "n_sd":
            factor = np.broadcast_to(steps[:, None] / max(along.sd, 1e-12), (len(steps), len(rows)))
        elif moves:
            most = float(distance * steps.max())
            curve = change_curve(lambda own, f: self.moved(rows[own], along.part(own), f), len(rows), scale, most)
            factor = factors_for(curve, distance * steps).T
        else:
            factor = np.zeros((len(steps), len(rows)), np.float32)
        p, judged, nearest = (np.repeat(answer[None], len(steps), axis=0) for answer in self._at_0(rows, along))
        moved = np.zeros(factor.shape, np.float32)
        at_once = max(1, AT_ONCE // len(steps))
        for start in range(0, len(rows) if moves else 0, at_once):
            part = slice(start, start + at_once)
            before, y = (
                self.moved(rows[part], along.part(part), factor[at, part].T) for at in (slice(1), slice(1, None))
            )
            moved[1:, part] = lengths(y - before, scale).T / max(distance, 1e-12)
            for answers, new in zip((p, judged, nearest), self.ask(y.reshape(-1, y.shape[2])), strict=True):
                answers[1:, part] = new.reshape(*y.shape[:2], *new.shape[1:]).swapaxes(0, 1)
        return Trajectory(
            rows, along, factor, p[..., code], p.argmax(axis=2) == code, judged == code, nearest == code, moved
        )

    def ask(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the probabilities of the types by the classifier, and the type by regression and by nearest cells."""
        return (self.classifier.predict_proba(y), *self.judge.types(y))

    def _at_0(self, rows: np.ndarray, along: Direction) -> tuple[np.ndarray, ...]:
        """Return the answers on cells that do not move, which are the same for all targets."""
        key = (rows.tobytes(), along.decoded)
        if key not in self._unmoved:
            still = replace(along, z=np.zeros(self.cells.z.shape[1], np.float32), x=np.zeros_like(along.x))
            parts = [rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE)]
            asked = [self.ask(self.moved(part, still, np.zeros((len(part), 1)))[:, 0]) for part in parts]
            self._unmoved[key] = tuple(map(np.concatenate, zip(*asked, strict=True)))
        return self._unmoved[key]


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
        still = move.decode(cells.z[rows], rows)
        first = (np.zeros(len(rows)), move.classifier.predict_proba(still), move.judge.probability(still))
        found = [np.repeat(np.repeat(a[None, :, None], len(FACTORS), axis=2), n_random, axis=0) for a in first]
        for start in range(0, n_random, at_once):
            part = slice(start, start + at_once)
            z = cells.z[rows][:, None] + drawn[part, None, None] * FACTORS[1:, None]  # draws x cells x factors x latent
            y = move.decode(z.reshape(-1, z.shape[-1]), np.tile(np.repeat(rows, len(FACTORS) - 1), len(z)))
            change = lengths(y.reshape(*z.shape[:3], -1) - still[:, None], cells.scale)
            answers = (change, move.classifier.predict_proba(y), move.judge.probability(y))
            for every, new in zip(found, answers, strict=True):
                every[part, :, 1:] = new.reshape(*z.shape[:3], *new.shape[3 if new is change else 1 :])
        curve, probability, judged = found
        return cls(np.maximum.accumulate(curve, axis=2), probability, judged, tried, drawn)

    def moved(self, move: Mover, rows: np.ndarray, wanted: float) -> Iterator[np.ndarray]:
        """Yield for some directions at a time the cells moved until their expression changes as wanted; see ``rows``.

        ``rows`` are the numbers of the cells that were tried. Each result is a change of decoded expression, directions
        x cells x genes.
        """
        z = move.cells.z[rows]
        before = move.decode(z, rows)
        at_once = max(1, AT_ONCE // len(rows))
        for start in range(0, len(self.directions), at_once):
            part = slice(start, start + at_once)
            curves, steps = self.curve[part], self.directions[part, None]
            factor = factors_for(curves.reshape(-1, curves.shape[2]), np.array([wanted])).reshape(*curves.shape[:2], 1)
            moved = z + factor * steps
            y = move.decode(moved.reshape(-1, z.shape[1]), np.tile(rows, len(moved))).reshape(*moved.shape[:2], -1)
            y -= before
            yield y

    def shares(self, code: int, wanted: np.ndarray, min_probability: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the shares converted and judged to be a type at given changes, draws x steps each.

        Log probabilities between two factors are interpolated: they are nearly linear along a direction, while
        probabilities jump. A cell whose expression does not change as much counts with its largest change.
        """
        n_draws, n_cells, n_factors = self.curve.shape
        found = bracket(self.curve.reshape(-1, n_factors), wanted)
        low, weight = (part.reshape(n_draws, n_cells, -1, 1) for part in found)

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
