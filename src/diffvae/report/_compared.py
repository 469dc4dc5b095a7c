"""Section "Comparison": the scores of each method and setting, and paired differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from diffvae.metrics import _names
from diffvae.report._encode import short

if TYPE_CHECKING:
    from diffvae.report._folder import Folder


def data(folder: Folder) -> dict[str, Any] | None:
    """Return means and spread per method and setting, and paired differences from the reference."""
    summary, paired = folder.table("summary"), folder.table("paired")
    if summary is None or paired is None:
        return None
    folder.require_summary("benchmark")
    settings = []
    by = ["metric", "space", "n_latent", "clusterer", "k_given"]
    for keys, rows in summary.groupby(by, sort=False, dropna=False):
        metric, space, n_latent, clusterer, k_given = keys
        means = rows.groupby("method", sort=False)["mean"]
        row = paired[
            (paired["metric"] == metric)
            & _same(paired["space"], space)
            & (paired["n_latent"] == n_latent)
            & _same(paired["clusterer"], clusterer)
            & _same(paired["k_given"], k_given)
        ].set_index("method")
        settings.append(
            {
                "title": _title(metric, space, n_latent, clusterer, k_given),
                "methods": [short(m) for m in means.groups],
                "mean": [float(v) for v in means.mean()],
                "points": [[short(r.method), short(r.dataset), r.mean, r.sd] for r in rows.itertuples()],
                "difference": {short(m): [-r.difference, -r.high, -r.low] for m, r in row.iterrows()},
            }
        )
    return {"reference": short(folder.summary["reference"]), "settings": settings}


def _same(column: pd.Series, value: Any) -> pd.Series:
    return column.isna() if pd.isna(value) else column.astype(str) == str(value)


def _title(metric: str, space: Any, n_latent: Any, clusterer: Any, k_given: Any) -> str:
    words = [_names.NAMES.get(metric, metric)]
    if pd.notna(clusterer):
        k = "k given" if str(k_given) == "True" else "k not given"
        words += [_names.CLUSTERERS.get(clusterer, clusterer), k]
    if pd.notna(space):
        words.append(_names.SPACES.get(space, space))
    return ", ".join([*words, f"{int(n_latent)} dimensions"])
