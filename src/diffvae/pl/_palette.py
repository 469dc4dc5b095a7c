"""Colours of categories and of numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap, is_color_like, to_hex, to_rgb

# Okabe and Ito's seven colours (yellow darkened, since it is read on white; black left to text), then 25
# found greedily: each is the sRGB colour farthest, in OKLab, from those before it, from white and from GREY,
# the distance being the least of normal, deuteranopic and protanopic vision (Machado et al. 2009).
# fmt: off
CATEGORIES: Final = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#E3D21B",
    "#78003C", "#480CA8", "#906CFC", "#6C5418", "#B41878", "#00CC78", "#186060", "#1848CC", "#48306C",
    "#00E4F0", "#9C6048", "#84E490", "#3C90D8", "#F0546C", "#603000", "#54489C", "#6060D8", "#906C90",
    "#FC84FC", "#908448", "#C078FC", "#843C48", "#C00018", "#FC9C6C", "#CC9CB4",
)
# fmt: on
GREY: Final = "#BDBDBD"
INK: Final = "#262626"

NOT_AVAILABLE: Final = "NA"
_UNASSIGNED = {"", "-1", "na", "nan", "none", "noise", "outlier", "unassigned", "unknown"}

Palette = Mapping[str, str] | Sequence[str]


def _luma(colour: Sequence[float]) -> float:
    return sum(w * c for w, c in zip((0.299, 0.587, 0.114), colour, strict=False))


def _sequential() -> Colormap:
    """Return magma from light to dark, perceptually uniform; the light end is grey: zero shows on white."""
    steps = []
    for i in range(64):
        t = i / 63
        colour = colormaps["magma_r"](0.1 + 0.8 * t)[:3]
        full = min(1.0, t / 0.4)
        steps.append([full * c + (1 - full) * _luma(colour) for c in colour])
    return LinearSegmentedColormap.from_list("diffvae_sequential", steps)


SEQUENTIAL: Final = _sequential()
# Light grey in the middle: neither hidden on white nor a value of its own.
DIVERGING: Final = colormaps["coolwarm"]


def is_unassigned(name: str) -> bool:
    """Whether a category says that a cell has no category; it is drawn grey, behind and last."""
    return name.strip().lower() in _UNASSIGNED


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which "2" comes before "10".

    Examples
    --------
    >>> sorted(["c10", "c2", "c1"], key=natural_key)
    ['c1', 'c2', 'c10']
    """
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p]


def colours(categories: Sequence[str], palette: Palette | None = None) -> dict[str, str]:
    """Return the colour of each category.

    A category's colour follows from its place among `categories` alone (categories such as "unassigned" are
    grey and take no place), so it is the same in every figure that is given the same categories. The first 32
    colours are all different; later ones are the same, lighter.

    Parameters
    ----------
    categories
        All categories, in their order, those without a cell included.
    palette
        Category -> colour (those left out keep ours), or one colour per category.

    Examples
    --------
    >>> colours(["B", "T", "unassigned", "NK"])
    {'B': '#0072b2', 'T': '#e69f00', 'unassigned': '#bdbdbd', 'NK': '#009e73'}
    """
    if isinstance(palette, str):
        raise ValueError(f"palette is {palette!r}; give a list of colours or a dictionary category -> colour.")
    assigned = [c for c in categories if not is_unassigned(c)]
    result = {c: to_hex(GREY) for c in categories} | {c: _nth(i) for i, c in enumerate(assigned)}
    if palette is None:
        return result
    if isinstance(palette, Mapping):
        chosen = {str(k): v for k, v in palette.items() if str(k) in result}
    elif len(palette) < len(categories):
        raise ValueError(
            f"palette has {len(palette)} colours for {len(categories)} categories; "
            "give one for each or a dictionary category -> colour."
        )
    else:
        chosen = dict(zip(categories, palette, strict=False))
    for category, colour in chosen.items():
        if not is_color_like(colour):
            raise ValueError(f"palette gives {category!r} the colour {colour!r}, which matplotlib doesn't know.")
    return result | {c: to_hex(v) for c, v in chosen.items()}


def _nth(i: int) -> str:
    lighter, place = divmod(i, len(CATEGORIES))
    white = 1 - 0.6**lighter
    return to_hex([c + (1 - c) * white for c in to_rgb(CATEGORIES[place])])


def ink_on(colour: Sequence[float]) -> str:
    """Return black or white, whichever reads better on a colour."""
    return INK if _luma(colour) > 0.55 else "white"
