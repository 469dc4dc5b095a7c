"""Why these types: dimensions by clusters, and the genes behind both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae.report._encode import short

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.report._folder import Folder

N_GENES = 10
"""Genes of a dimension that are listed, on each side."""


def data(folder: Folder, adata: AnnData) -> dict[str, Any] | None:
    """Return the heat map of dimensions and clusters, and the genes of each."""
    table = folder.table("tables/latent_dimensions")
    clusters = folder.table("tables/clusters")
    genes = folder.table("tables/high_weight_genes")
    if table is None or clusters is None or genes is None:
        return None
    groups = clusters["cluster"].tolist()
    named = [short(f"{g} · {t}") for g, t in zip(groups, clusters["cell_type"], strict=True)]
    dimensions = _ordered(table, groups)
    wide = {
        column: table.pivot(index="group", columns="dimension", values=column).reindex(groups)[dimensions]
        for column in ("share", "odds_ratio", "q_value", "side", "chosen")
    }
    return {
        "clusters": named,
        "dimensions": dimensions,
        "share": wide["share"].to_numpy(float).round(4),
        "odds_ratio": _significant(wide["odds_ratio"].to_numpy(float)),
        "q_value": _significant(wide["q_value"].to_numpy(float)),
        "side": wide["side"].to_numpy(object).tolist(),
        "chosen": wide["chosen"].to_numpy(bool),
        "of_dimension": _of_dimensions(adata),
        "of_cluster": {name: _of_cluster(genes, group) for group, name in zip(groups, named, strict=True)},
    }


def _significant(values: np.ndarray) -> list[Any]:
    return [[None if not np.isfinite(v) else float(f"{v:.3g}") for v in row] for row in values]


def _ordered(table: pd.DataFrame, groups: list[str]) -> list[int]:
    """Return all dimensions: those chosen for a cluster first, by the cluster that they stand for; then the others."""
    place = {g: i for i, g in enumerate(groups)}
    chosen = table[table["chosen"] & table["group"].isin(groups)]
    best = chosen.sort_values("odds_ratio", ascending=False, kind="stable").drop_duplicates("dimension")
    best = best.assign(place=best["group"].map(place)).sort_values(["place", "rank"], kind="stable")
    first = best["dimension"].tolist()
    return first + sorted(set(table["dimension"]) - set(first))


def _of_dimensions(adata: AnnData) -> list[dict[str, Any]]:
    """Return, for each dimension, the genes that the decoder raises and lowers most as it grows."""
    if _keys.GENE_JACOBIAN not in adata.varm:
        return []
    jacobian = np.asarray(adata.varm[_keys.GENE_JACOBIAN])
    names = np.array([short(n) for n in adata.var_names], object)
    found = []
    for column in jacobian.T:
        order = np.argsort(column, kind="stable")
        up, down = order[::-1][:N_GENES], order[:N_GENES]
        up, down = up[column[up] > 0], down[column[down] < 0]
        found.append(
            {
                side: [[g, float(f"{v:.3g}")] for g, v in zip(names[rows], column[rows], strict=True)]
                for side, rows in (("up", up), ("down", down))
            }
        )
    return found


def _of_cluster(genes: pd.DataFrame, group: str) -> list[list[Any]]:
    own = genes[genes["group"] == group].sort_values(["ranking", "rank"], kind="stable")
    return [
        [short(r.gene), r.direction, r.ranking, short(r.dimensions), r.weight, r.difference, bool(r.confirmed)]
        for r in own.itertuples()
    ]
