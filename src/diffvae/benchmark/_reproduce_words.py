"""What the sections of the page share: rows of a preset, and means over trainings in words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from diffvae.benchmark import _markdown as md

Tables = Mapping[str, pd.DataFrame]


def of_preset(table: pd.DataFrame, preset: str) -> pd.DataFrame:
    return table[table["preset"] == preset] if len(table) else table


def mean(values: pd.Series, digits: int = 3) -> str:
    return md.spread(float(values.mean()), float(values.std()), digits) if len(values) else "–"


def share(values: pd.Series) -> str:
    """Return a mean share and its spread in percent."""
    if values.empty or not np.isfinite(values.mean()):
        return "–"
    return f"{values.mean():.1%}" + (f" ± {values.std():.1%}" if len(values) > 1 else "")
