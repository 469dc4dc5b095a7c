"""Section "Evidence for the types": dimensions, clusters and genes; and expression to colour the map by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from diffvae import _keys
from diffvae._core.anndata import groups, posterior
from diffvae._core.information import informative
from diffvae.pl._style import GREY
from diffvae.report._encode import deflated, distinct, levels, short, to_json
from diffvae.report._folder import DamagedError
from diffvae.tl._gene_weights import scaled_weights
from diffvae.tl._names import AND
from diffvae.tl._passport import batches_of_dimensions

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.report._folder import Folder
    from diffvae.report._map import Cells

AT_ONCE = 256
"""Number of genes that are made dense at once."""


def shown(adata: AnnData) -> dict[str, str]:
    """Return the distinct display name of every gene."""
    everything: Any = adata.raw if adata.raw is not None else adata
    names = [str(name) for name in everything.var_names]
    return dict(zip(names, distinct(names), strict=True))


def gene_data(cells: Cells, first: Iterable[str], shown: Mapping[str, str], room: int) -> dict[str, Any]:
    """Return the expression of every expressed gene, one compressed column of 8 bits each, while there is room.

    Parameters
    ----------
    cells
        The drawn cells.
    first
        Genes that the tables name. They come first, whether expressed or not.
    shown
        Display names.
    room
        Maximum size in bytes. If not all genes fit, the most variable stay.

    Returns
    -------
    The genes (``stored``), the number of those that are in tables or expressed (``n_all``), and that of the others
    (``n_silent``), which no drawn cell expresses.
    """
    adata = cells.adata
    everything: Any = adata.raw if adata.raw is not None else adata
    place = {str(name): i for i, name in enumerate(everything.var_names)}
    names, columns = np.array(list(place), dtype=object), np.fromiter(place.values(), np.int64, len(place))
    given = everything.X[cells.rows]
    matrix: Any = given.tocsc() if sparse.issparse(given) else np.asarray(given)
    named = list(dict.fromkeys(g for g in first if g in place))
    variance, expressed = _variance(matrix)
    in_tables = np.isin(names, named)
    rest = np.flatnonzero(expressed[columns] & ~in_tables)
    rest = rest[np.argsort(-variance[columns[rest]], kind="stable")]
    order = [*(place[g] for g in named), *columns[rest]]
    ordered = [*named, *names[rest]]
    found: dict[str, Any] = {"stored": [], "n_all": len(ordered), "n_silent": len(names) - len(ordered)}
    for i in range(0, len(ordered), AT_ONCE):
        block: Any = matrix[:, order[i : i + AT_ONCE]]
        for name, column in zip(ordered[i:], (block.toarray() if sparse.issparse(block) else block).T, strict=False):
            column_levels = levels(column)
            text = deflated(column_levels.values)
            gene = {"name": shown[name], "values": text, "low": column_levels.low, "high": column_levels.high}
            room -= len(to_json(gene)) + len(", ")
            if room < 0:
                return found
            found["stored"].append(gene)
    return found


def _variance(matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of each gene, and whether any cell expresses it."""
    if not sparse.issparse(matrix):
        return matrix.var(0), (matrix != 0).any(0)
    squared = matrix.copy()
    squared.data = squared.data.astype(np.float64) ** 2
    mean = np.asarray(matrix.mean(0, dtype=np.float64)).ravel()
    power = np.asarray(squared.mean(0)).ravel()
    return power - mean**2, power > 0


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
N_GENES = 10
"""Listed genes of a dimension, on each side."""


def data(
    folder: Folder,
    adata: AnnData,
    genes_shown: Mapping[str, str],
    palette: Mapping[str, str],
    batch_key: str | None = None,
) -> dict[str, Any] | None:
    """Return the heat map of dimensions and clusters, and the genes of both."""
    table = folder.table("tables/latent_dimensions")
    clusters = folder.table("tables/clusters")
    genes = folder.table("tables/high_weight_genes")
    if table is None or clusters is None or genes is None:
        return None
    names = clusters["cluster"].tolist()
    if set(names) != set(adata.obs[_keys.CLUSTER].astype(str)):
        raise DamagedError("tables/clusters.csv has other clusters than the cells")
    dimensions = _ordered(table, names, informative(*posterior(adata, _keys.LATENT)))
    wide = {
        column: table.pivot(index="group", columns="dimension", values=column).reindex(names)[dimensions]
        for column in ("share", "share_high", "share_low", "odds_ratio", "q_value", "side", "chosen")
    }
    return {
        "clusters": distinct(names),
        "types": clusters["cell_type"].map(short).tolist(),
        "colours": [palette.get(t, palette.get(str(t).split(AND)[0], GREY)) for t in clusters["cell_type"]],
        "dimensions": dimensions,
        "share": wide["share"].to_numpy(float).round(4),
        "share_high": wide["share_high"].to_numpy(float).round(4),
        "share_low": wide["share_low"].to_numpy(float).round(4),
        "odds_ratio": _significant(wide["odds_ratio"].to_numpy(float)),
        "q_value": _significant(wide["q_value"].to_numpy(float)),
        "side": wide["side"].to_numpy(object).tolist(),
        "chosen": wide["chosen"].eq(True).to_numpy(bool),
        "boxes": _boxes(adata, names),
        "batches": _batches(adata, batch_key),
        "of_dimension": _of_dimensions(adata, genes_shown),
        "of_cluster": [_of_cluster(genes, group, genes_shown) for group in names],
    }


def _significant(values: np.ndarray) -> list[Any]:
    return [["∞" if np.isposinf(v) else None if np.isnan(v) else float(f"{v:.3g}") for v in row] for row in values]


def _ordered(table: pd.DataFrame, groups: list[str], informative: np.ndarray) -> list[int]:
    """Return the dimensions: those chosen for a cluster first, in the order of clusters, then others that vary."""
    place = {g: i for i, g in enumerate(groups)}
    chosen = table[table["chosen"] & table["group"].isin(groups)]
    best = chosen.sort_values("odds_ratio", ascending=False, kind="stable").drop_duplicates("dimension")
    best = best.assign(place=best["group"].map(place)).sort_values(["place", "rank"], kind="stable")
    first = best["dimension"].tolist()
    return first + sorted(d for d in set(table["dimension"]) - set(first) if informative[d])


def _boxes(adata: AnnData, groups: list[str]) -> list[list[list[float]]]:
    """Return quantiles of each dimension in each cluster, over all cells: dimensions x clusters x 5."""
    latent, cluster = np.asarray(adata.obsm[_keys.LATENT], float), adata.obs[_keys.CLUSTER].astype(str).to_numpy()
    found = [np.quantile(latent[cluster == g], QUANTILES, axis=0) for g in groups]
    return np.stack(found).transpose(2, 0, 1).round(4).tolist()


def _batches(adata: AnnData, batch_key: str | None) -> list[list[float]]:
    """Return for each dimension the share of what clusters leave that batches explain, and that by chance."""
    if batch_key is None or batch_key not in adata.obs or adata.obs[batch_key].isna().any():
        return []
    z = np.asarray(adata.obsm[_keys.LATENT], np.float64)
    batch, clusters = groups(adata, batch_key), groups(adata, _keys.CLUSTER)
    if len(batch.categories) < 2:
        return []
    table = batches_of_dimensions(z, np.ones(z.shape[1], dtype=bool), batch, clusters)
    return table[["batch_eta2", "null_eta2"]].to_numpy().round(5).tolist()


def _of_dimensions(adata: AnnData, shown: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return, for each dimension, the genes that the decoder raises and lowers most as the dimension increases."""
    if _keys.GENE_JACOBIAN not in adata.varm:
        return []
    jacobian = scaled_weights(adata, _keys.GENE_JACOBIAN)
    names = np.array([shown.get(str(n), short(n)) for n in adata.var_names], object)
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


def _of_cluster(genes: pd.DataFrame, group: str, shown: Mapping[str, str]) -> list[list[Any]]:
    rows = genes[genes["group"] == group].sort_values(["ranking", "rank"], kind="stable")
    return [
        [
            shown.get(r.gene, short(r.gene)),
            r.direction,
            r.ranking,
            short(r.dimensions),
            r.weight,
            r.difference,
            bool(r.confirmed),
        ]
        for r in rows.itertuples()
    ]
