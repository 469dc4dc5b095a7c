"""Which cell types have more, or fewer, links than expected from the degrees of their cells?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse, stats

from diffvae import _keys
from diffvae._core.anndata import graph, groups, results
from diffvae._core.graphs import edges_of, rewired
from diffvae._core.validate import Rule, Whole, check
from diffvae._errors import DataError
from diffvae._random import Rng, generator

if TYPE_CHECKING:
    from anndata import AnnData

NORMAL_SD = 1.5
"""Smallest standard deviation of the null for a normal approximation."""
NORMAL_FROM = 5.0
"""Smallest expected number of links for a normal approximation, as for chi-square tests."""
RULES: dict[str, Rule] = {"n_null": Whole(2)}


def link_table(
    adata: AnnData,
    groupby: str,
    *,
    graphs: Sequence[str] = (_keys.CELL_GRAPH, _keys.CALLED_LINKS),
    n_null: int = 200,
    rng: Rng = 0,
) -> pd.DataFrame:
    r"""Count the links between cell types, and compare with random graphs of the same degrees.

    .. math:: n_{st} = |\{ \{i, j\} \in E : \{t_i, t_j\} = \{s, t\} \}|
        \qquad z_{st} = \frac{n_{st} - \mathrm{E}_0\, n_{st}}{\mathrm{sd}_0\, n_{st}}

    with mean and standard deviation over ``n_null`` graphs of double-edge swaps, which keep the types and degrees
    of the cells. Large or well connected types are therefore not enriched by that alone.

    If at least 5 links are expected and the standard deviation of the null is at least 1.5, p-values are those of a
    normal distribution with continuity correction. (Counts of 5 to 15 are slightly skewed: one in 300 random ones is
    "enriched" at 0.001.) Otherwise they are the share of null graphs, and the observed one, that reach the count, and
    so at least 1 / (n_null + 1). The two-sided p-value is twice the smaller one, at most 1.

    The null ignores that graphs of similar cells are clustered, and that types often come from the same expression as
    the graph. Types are then linked to themselves by construction, and to others less than expected; compare pairs of
    different types with one another. A link is not a conversion.

    Parameters
    ----------
    adata
        With graphs in ``obsp``.
    groupby
        Key of the types in ``obs``.
    graphs
        Keys in ``obsp``. A nonzero entry off the diagonal, in either triangle, is an undirected link; its value is not
        used.
    n_null
        Random graphs. 200 graphs take 4 s for 30,000 links and 3 minutes for a million, on one core.
    rng
        Seed or generator.

    Returns
    -------
    One row per graph and unordered pair of types (a type with itself too), in the order of the categories, with columns
    ``graph``, ``type_1``, ``type_2``, ``n_cells_1``, ``n_cells_2``, ``n_links``, ``expected`` (null mean), ``null_sd``,
    ``log2_ratio`` (of n_links + 1/2 to expected + 1/2), ``z`` (NaN if the null is constant), ``p_enriched``,
    ``p_depleted``, ``p_value`` (two-sided) and ``q_value`` (Benjamini-Hochberg within the graph). Written to
    ``uns["diffvae"]["link_table"]``.

    Raises
    ------
    DataError
        If a graph is missing, not finite or empty, or if there is only one type.

    References
    ----------
    Maslov and Sneppen, Specificity and stability in topology of protein networks, Science 296:910 (2002).

    Examples
    --------
    >>> import anndata as ad
    >>> obs = pd.DataFrame({"type": ["a"] * 30 + ["b"] * 30}, index=[f"c{i}" for i in range(60)])
    >>> ring = np.roll(np.eye(60), 1, axis=1)  # two links leave their type
    >>> adata = ad.AnnData(obs=obs, obsp={"cell_graph": sparse.csr_matrix(ring)})
    >>> table = link_table(adata, "type", graphs=["cell_graph"])
    >>> table[["type_1", "type_2", "n_links"]].values.tolist()
    [['a', 'a', 29], ['a', 'b', 2], ['b', 'b', 29]]
    >>> (table["q_value"] < 1e-6).tolist()
    [True, True, True]
    """
    check(RULES, n_null=n_null)
    labels = groups(adata, groupby)
    if len(labels.categories) < 2:
        raise DataError(f"adata.obs[{groupby!r}] has only one type; there is no other to compare it with.")
    names = [graphs] if isinstance(graphs, str) else list(graphs)
    if not names:
        raise ValueError("graphs is empty; give at least one key of adata.obsp.")
    matrices = {name: graph(adata, name) for name in names}
    tables = [_one_graph(name, matrix, labels, n_null, rng) for name, matrix in matrices.items()]
    table = pd.concat(tables, ignore_index=True)
    results(adata)["link_table"] = table
    results(adata)["link_table_params"] = {"groupby": groupby, "graphs": list(matrices), "n_null": n_null}
    return table


def _one_graph(name: str, matrix: sparse.csr_matrix, labels: pd.Categorical, n_null: int, rng: Rng) -> pd.DataFrame:
    n_types = len(labels.categories)
    type_1, type_2 = np.triu_indices(n_types)
    codes = labels.codes.astype(np.int64)
    scaled = n_types * codes

    def count(edges: np.ndarray) -> np.ndarray:
        ordered = np.bincount(scaled[edges[:, 0]] + codes[edges[:, 1]], minlength=n_types**2).reshape(n_types, n_types)
        either = ordered + ordered.T
        either[np.diag_indices(n_types)] //= 2
        return either[type_1, type_2]

    n_links = count(edges_of(matrix))
    random = generator(rng, "link_table", name)
    null = np.array([count(edges) for edges in rewired(matrix, n_null, rng=random)])
    expected, null_sd = null.mean(axis=0), null.std(axis=0, ddof=1)
    varies = null_sd > 0
    z = np.divide(n_links - expected, null_sd, out=np.full(len(null_sd), np.nan), where=varies)
    p_enriched = (1 + (null >= n_links).sum(axis=0)) / (n_null + 1)
    p_depleted = (1 + (null <= n_links).sum(axis=0)) / (n_null + 1)
    normal = (null_sd >= NORMAL_SD) & (expected >= NORMAL_FROM)
    half = 0.5 / null_sd[normal]
    p_enriched[normal] = stats.norm.sf(z[normal] - half)
    p_depleted[normal] = stats.norm.cdf(z[normal] + half)
    p_value = np.minimum(1.0, 2 * np.minimum(p_enriched, p_depleted))
    types, n_cells = labels.categories.to_numpy(dtype=object), np.bincount(labels.codes, minlength=n_types)
    return pd.DataFrame(
        {
            "graph": name,
            "type_1": types[type_1],
            "type_2": types[type_2],
            "n_cells_1": n_cells[type_1],
            "n_cells_2": n_cells[type_2],
            "n_links": n_links,
            "expected": expected,
            "null_sd": null_sd,
            "log2_ratio": np.log2((n_links + 0.5) / (expected + 0.5)),
            "z": z,
            "p_enriched": p_enriched,
            "p_depleted": p_depleted,
            "p_value": p_value,
            "q_value": stats.false_discovery_control(p_value),
        }
    )
