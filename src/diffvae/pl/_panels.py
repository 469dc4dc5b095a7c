"""Several panels in one figure, and what the figures of changed cells share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffvae.pl import _text
from diffvae.pl._palette import INK
from diffvae.pl._style import TEXT, TITLE, WIDTH, NotebookAxes, axes_or_new

MAX_Q: Final = 0.05
"""Below it a figure stars a result."""


class Panels(np.ndarray):
    """Array of Axes of one figure, which a notebook shows as it shows a single Axes."""

    def _repr_png_(self) -> bytes:
        png: bytes = self.flat[0]._repr_png_()
        return png


def new_figure(n: int, ncols: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with `n` panels of our style, each `height` inches with its labels."""
    rows = -(-n // ncols)
    figure = Figure(figsize=(WIDTH, rows * height + 0.95), layout="constrained")
    panels = [figure.add_subplot(rows, ncols, i + 1, axes_class=NotebookAxes) for i in range(n)]
    return figure, [axes_or_new(panel, 0) for panel in panels]


def finish(figure: Figure, told: str, keys: Sequence[Any], names: Sequence[str]) -> None:
    """Write the title of all panels, and their legend below them."""
    told = _text.wrap(told, 72 * WIDTH - 10, size=TITLE, weight="bold")
    figure.suptitle(_text.plain(told), x=0.01, ha="left", fontsize=TITLE, weight="bold", color=INK)
    figure.legend(
        keys, names, loc="outside lower center", ncols=2 if len(names) > 3 else 3, fontsize=TEXT,
        handletextpad=0.5, columnspacing=1.5, labelspacing=0.3,
    )  # fmt: skip


def columns(ncols: int | None, default: int) -> int:
    if ncols is not None and ncols < 1:
        raise ValueError(f"ncols is {ncols}; give at least 1.")
    return default if ncols is None else ncols


def array(panels: Sequence[Axes]) -> np.ndarray:
    found = np.empty(len(panels), dtype=object)
    found[:] = panels
    return found.view(Panels)


def share(value: float) -> str:
    """Return "3%", and "<1%" where that would say 0%.

    Examples
    --------
    >>> share(0.0), share(0.004), share(0.034)
    ('0%', '<1%', '3%')
    """
    return "<1%" if 0 < value < 0.01 else f"{value:.0%}"


def check_perturbation(perturbation: object) -> None:
    if not hasattr(perturbation, "trajectories"):
        raise ValueError(f"perturbation is a {type(perturbation).__name__}; give what diffvae.tl.perturb returns.")
