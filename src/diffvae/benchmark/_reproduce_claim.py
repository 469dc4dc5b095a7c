"""A claim of the paper: its number, the rule by which it holds, and what each preset measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from diffvae.benchmark import _markdown as md
from diffvae.benchmark._reproduce_tables import PRESETS

METHOD_OF = {"paper": "DiffVAE (paper)", "code": "DiffVAE (code)", "default": "DiffVAE"}
OTHERS = {"VAE": "VAE", "AE": "AE", "PCA": "PCA (unit)"}
"""The paper's name of a baseline to ours."""
SIGNIFICANT = 0.05
NO_RULE = "no rule"
Measured = tuple[str, bool | None]
"""What is shown, and whether the claim holds; None if it can't be tested."""
NOT_TESTED: Measured = ("–", None)


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper: its number, the rule, and what each preset measured."""

    claim: str
    where: str
    published: str
    rule: str
    measured: Mapping[str, Measured] = field(default_factory=dict)

    @property
    def holds(self) -> str:
        """Yes, no, under which presets, not testable, or a dash where there is no rule."""
        if self.rule.startswith(NO_RULE):
            return "–"
        known = {preset: value for preset, (_, value) in self.measured.items() if value is not None}
        yes = [preset for preset, value in known.items() if value]
        if not known:
            return "not testable"
        if len(yes) in (0, len(known)):
            return "yes" if yes else "no"
        return f"only {md.listed(yes)}"


def each(measure: Callable[[str], Measured]) -> dict[str, Measured]:
    return {preset: measure(preset) for preset in PRESETS}


def own_rows(table: pd.DataFrame, preset: str, **where: Any) -> pd.DataFrame:
    if table.empty:
        return table
    own = table[table["preset"] == preset]
    for column, value in where.items():
        own = own[own[column] == value]
    return own


def percent(values: pd.Series) -> str:
    sd = f" ± {values.std():.1%}" if len(values) > 1 else ""
    return f"{values.mean():.1%}{sd}"


def frame(found: list[Claim]) -> pd.DataFrame:
    """Return the claims as a table."""
    rows = []
    for claim in found:
        row = {"claim": claim.claim, "where": claim.where, "published": claim.published}
        row |= {preset: claim.measured[preset][0] for preset in PRESETS}
        rows.append(row | {"holds_here": claim.holds, "rule": claim.rule})
    return pd.DataFrame(rows)
