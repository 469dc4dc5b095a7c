"""Names of groups on a map: in the white space beside their cells, clear of each other."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from scipy import ndimage

from diffvae.pl._palette import INK
from diffvae.pl._style import TEXT
from diffvae.pl._text import LINE, plain, width, wrap

_BIN = 2.0  # points
_AWAY = 400.0
"""Points that a label would rather move than lie on cells altogether."""
_TOO_MUCH = 200.0
"""Cost in points above which a place is as good as none."""
_CROSSED = 100.0
"""Points that a label would rather move than let its line cross another label, or cover another's line."""


def place_names(ax: Axes, xy: np.ndarray, names: np.ndarray, order: list[str], radius: float) -> bool:
    """Write each group's name beside its cells, with a thin line to the middle of the group, if there's room.

    Each label, largest group first, takes the place that costs least: its distance from the group's middle
    plus `_AWAY` times the share of it that would lie on cells, plus `_CROSSED` if lines and labels would
    cross. Places on an earlier label are out.

    Parameters
    ----------
    xy
        Cells x 2, in data coordinates.
    names
        Group of each cell.
    order
        Groups to name.
    radius
        Of a dot, in points.

    Returns
    -------
    Whether there was room; if not, nothing is drawn.
    """
    margins = 0.05 if (now := ax.margins()) is None else now[0]
    ax.margins(0.16)
    ax.figure.figure.draw_without_rendering()  # the layout decides how many points the map is wide
    scale = 72 / ax.figure.dpi
    frame = ax.get_window_extent()
    origin, size = np.array([frame.x0, frame.y0]), np.array([frame.width, frame.height]) * scale
    cells = (ax.transData.transform(xy) - origin) * scale
    shape = np.maximum(np.ceil(size / _BIN).astype(int), 1)
    at = np.clip((cells / _BIN).astype(int), 0, shape - 1)
    taken = np.zeros(shape, dtype=bool)
    taken[at[:, 0], at[:, 1]] = True
    covered = ndimage.binary_dilation(taken, iterations=max(1, round(radius / _BIN)))
    total = np.pad(covered.cumsum(0).cumsum(1), ((1, 0), (1, 0)))  # any rectangle's sum is four look-ups

    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    rings = np.arange(0, _TOO_MUCH, 5.0)
    offsets = np.concatenate([[[0.0, 0.0]], *(r * np.c_[np.cos(angles), np.sin(angles)] for r in rings[1:])])
    steps = np.linspace(0, 1, 24)[:, None]
    placed, lines = np.empty((0, 4)), np.empty((0, 2))
    ready = []
    for name in order:
        mine = cells[names == name]
        middle = mine[np.argmin(np.hypot(*(mine - np.median(mine, axis=0)).T))]
        text = wrap(name, 110)
        # 5 % more than measured: at low resolution glyphs are hinted wider.
        half = np.array([1.05 * width(text) + 4, (text.count("\n") + 1) * TEXT * LINE + 2]) / 2
        centre = np.clip(middle + offsets, half, np.maximum(size - half, half))
        low, high = centre - half, centre + half
        a, b = (np.clip((v / _BIN).round().astype(int), 0, shape) for v in (low, high))
        on = total[b[:, 0], b[:, 1]] - total[a[:, 0], b[:, 1]] - total[b[:, 0], a[:, 1]] + total[a[:, 0], a[:, 1]]
        cost = np.hypot(*(centre - middle).T) + _AWAY * on / np.maximum((b - a).prod(1), 1)
        gap = np.minimum(high[:, None], placed[:, 2:]) - np.maximum(low[:, None], placed[:, :2])
        free = ~(gap > 0).all(2).any(1) & (cost <= _TOO_MUCH)
        centre, low, high, cost = centre[free], low[free], high[free], cost[free]
        line = middle + steps * (centre - middle)[:, None]
        crossing = _inside(lines[None], low[:, None], high[:, None])
        for box in placed:
            crossing |= _inside(line, box[:2], box[2:])
        cost = cost + _CROSSED * crossing
        if cost.min(initial=np.inf) > _TOO_MUCH:
            ax.margins(margins)
            return False
        best = int(np.argmin(cost))
        placed = np.vstack([placed, [*low[best], *high[best]]])
        lines = np.vstack([lines, line[best]])
        ready.append((text, middle, centre[best], half))

    inverse = ax.transData.inverted().transform
    for text, middle, centre, half in ready:
        apart = (np.abs(centre - middle) > half).any()
        ax.annotate(
            plain(text),
            xy=tuple(inverse(middle / scale + origin)),
            xytext=tuple(inverse(centre / scale + origin)),
            ha="center",
            va="center",
            fontsize=TEXT,
            linespacing=1.0,
            color=INK,
            zorder=5,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            arrowprops={"arrowstyle": "-", "lw": 0.7, "color": INK, "shrinkB": 0, "zorder": 4} if apart else None,
        )
    return True


def _inside(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether any point lies in the box: shapes (..., points, 2) and (..., 1, 2)."""
    return np.asarray(((points > low) & (points < high)).all(-1).any(-1))
