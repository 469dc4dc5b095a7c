"""How many cells of each type convert to each other type, at one change of expression?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from diffvae._core.validate import Number, Optional, Rule, check

if TYPE_CHECKING:
    from diffvae.tl._perturb import Perturbation

RULES: dict[str, Rule] = {"change": Optional(Number("(0, inf)"))}


def median_change(table: pd.DataFrame) -> float:
    """Return the median length of the changes of expression of all pairs and steps, without step 0.

    Examples
    --------
    >>> median_change(pd.DataFrame({"step": [0, 0.5, 1, 0, 0.5, 1], "distance": [4, 4, 4, 8, 8, 8]}))
    4.0
    """
    moved = table[table["step"] > 0]
    return float((moved["step"] * moved["distance"]).median())


def plasticity_table(
    perturbation: Perturbation, change: float | None, step: float | None, method: str | None
) -> pd.DataFrame:
    """Return one row per source and target; see :meth:`diffvae.tl.Perturbation.plasticity`."""
    check(RULES, change=change)
    if change is not None and step is not None:
        raise ValueError("change and step are both given; give one of them.")
    method, unit = perturbation.methods[0] if method is None else method, perturbation.unit
    if step is None and change is None:
        change = median_change(perturbation.table[perturbation.table["method"] == method])
    rows = []
    for source, target in dict.fromkeys((a, b) for a, b, _ in perturbation.trajectories):
        moved = perturbation.trajectory(target, source, method).moved
        own = perturbation.rows(target, source, method)
        distance = float(own["distance"].iloc[0])
        # not the step: some cells cannot change as much
        tried = np.median(moved, axis=1) * distance
        if step is not None:
            at = float(tried[perturbation.index(step)])
            share = float(own["excess_agreed"].iloc[perturbation.index(step)])
        else:
            assert change is not None
            at, in_order = change, np.argsort(tried, kind="stable")
            share = float(np.interp(change, tried[in_order], own["excess_agreed"].to_numpy(float)[in_order]))
        reaching = perturbation.reaching_step(target, source=source, method=method)
        rows.append(
            {
                "source": source,
                "target": target,
                "change": at,
                "distance": distance,
                "excess_agreed": share,
                "within": bool(at <= tried.max() * 1.05),
                "reached": reaching is not None,
                f"reaching_{unit}": np.nan if reaching is None else reaching,
            }
        )
    return pd.DataFrame(rows)
