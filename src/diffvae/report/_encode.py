"""Numbers and names in the form that the page stores: compact, and never markup."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from diffvae._core.runtime import printable

MAX_NAME = 60
"""Longest name on the page."""


class Levels(NamedTuple):
    """Values as 0..255 between two ends."""

    values: np.ndarray
    low: float
    high: float


def levels(values: np.ndarray) -> Levels:
    """Return values as 256 levels between their minimum and maximum."""
    values = np.asarray(values, np.float32)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    wide = high - low
    scaled = np.zeros(values.shape, np.uint8) if wide <= 0 else np.rint((values - low) * (255 / wide)).astype(np.uint8)
    return Levels(scaled, low, high)


def packed(values: np.ndarray) -> str:
    """Return the bytes of an array, little-endian, as base64."""
    array = np.ascontiguousarray(values)
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()).decode()


def deflated(values: np.ndarray) -> str:
    """Return the bytes of an array, compressed by zlib, as base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 6)).decode()


def to_json(value: Any) -> Markup:
    r"""Return JSON for a script element: no name in it can end the element.

    Examples
    --------
    >>> print(to_json({"a": "</script><b>", "x": float("nan")}))
    {"a": "\u003c/script\u003e\u003cb\u003e", "x": null}
    """
    text = json.dumps(_plain(value), allow_nan=False)
    return Markup(text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026"))


def _plain(value: Any) -> Any:
    """Return numbers and arrays of numpy as those of Python, and None for NaN and infinity."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def clean(text: Any) -> str:
    """Return text in one line without control and direction characters."""
    return printable(re.sub(r"\s+", " ", str(text)).strip())


def short(name: Any) -> str:
    """Return a name for display: one line, no control characters, shortened in the middle if it is long.

    Examples
    --------
    >>> short("a" * 100), short("CD4+ T\u202e")
    ('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…aaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'CD4+ T')
    """
    text = clean(name)
    if len(text) <= MAX_NAME:
        return text
    return f"{text[: MAX_NAME // 2]}…{text[len(text) - MAX_NAME // 2 + 1 :]}"


def distinct(names: Iterable[Any]) -> list[str]:
    """Return distinct names for display.

    Examples
    --------
    >>> distinct(["a", "b", "a", "\u200b"])
    ['a', 'b', 'a (2)', '(no name)']
    """
    shown: list[str] = []
    taken: set[str] = set()
    for name in names:
        text = first = short(name) or "(no name)"
        i = 1
        while text in taken:
            text = f"{first} ({(i := i + 1)})"
        taken.add(text)
        shown.append(text)
    return shown


def number(value: Any, digits: int = 3) -> str:
    """Return a number as text; an empty text if it is missing.

    Examples
    --------
    >>> number(0.01234), number(1234567), number(1e-9), number(float("nan"))
    ('0.0123', '1,234,567', '1e-09', '')
    """
    if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        return "∞" if value is not None and value > 0 and np.isinf(value) else ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
