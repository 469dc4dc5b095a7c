"""Which types of cells are linked more, or less, than the numbers of links of their cells alone bring about?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse, stats

from diffvae import _keys
from diffvae._core.anndata import graph, groups, results
from diffvae._core.graphs import edges_of, rewired
from diffvae._errors import DataError
from diffvae._random import Rng, generator

if TYPE_CHECKING:
    from anndata import AnnData

NORMAL_SD = 1.5
"""Standard deviation of the null below which a count is too coarse for a normal."""
NORMAL_FROM = 5.0
"""Links expected from which on a count is near enough to normal (the usual rule of chi-square tests)."""


def link_table(
    adata: AnnData,
    groupby: str,
    *,
    graphs: Sequence[str] = (_keys.CELL_GRAPH, _keys.CALLED_LINKS),
    n_null: int = 200,
    rng: Rng = 0,
) -> pd.DataFrame:
    r"""Count the links between types of cells, beside random graphs in which each cell has as many links.

    .. math:: n_{st} = |\{ \{i, j\} \in E : \{t_i, t_j\} = \{s, t\} \}|
        \qquad z_{st} = \frac{n_{st} - \mathrm{E}_0\, n_{st}}{\mathrm{sd}_0\, n_{st}}

    with mean and standard deviation over ``n_null`` graphs of double-edge swaps: same cells, same types, same degrees.
    A pair of types is not called linked because both are large or well connected.

    Where at least 5 links are expected and the null varies by 1.5 or more (sd), the p-values are those of a normal with
    the null's mean and sd, half a link nearer to the mean (counts are whole), so that they resolve more than ``n_null``
    graphs can. (Counts of 5 to 15 are a little skewed: one in 300 random ones is "enriched" at 0.001.) Elsewhere they
    are the share of null graphs that reach the count, the observed one among them, and so at least 1 / (n_null + 1) on
    either side. The two-sided one is twice the smaller, at most 1.

    What the null does not know: neighbours of neighbours are neighbours in a graph of similar cells, and types are
    often named from the same expression that made the graph. Then types are linked to themselves by construction, and
    to others less than expected; compare the pairs of different types with each other. A link is no conversion.

    Parameters
    ----------
    adata
        With the graphs in ``obsp``.
    groupby
        Key in ``obs`` of the types.
    graphs
        Keys in ``obsp`` of matrices cells x cells. A nonzero entry off the diagonal, in either triangle, is a link
        without direction; its value (weight, probability) doesn't count here.
    n_null
        Random graphs per graph. Time grows with links x ``n_null``: 4 s for 30,000 links and 200 graphs on one core,
        3 minutes for a million.
    rng
        Seed or generator.

    Returns
    -------
    One row per graph and unordered pair of types (a type with itself too), in the order of the categories, with columns
    ``graph``, ``type_1``, ``type_2``, ``n_cells_1``, ``n_cells_2``, ``n_links``, ``expected`` (null mean), ``null_sd``,
    ``log2_ratio`` (of n_links + 1/2 to expected + 1/2), ``z`` (NaN where the null doesn't vary), ``p_enriched``,
    ``p_depleted``, ``p_value`` (two-sided) and ``q_value`` (Benjamini-Hochberg within the graph). Written to
    ``uns["diffvae"]["link_table"]``.

    Raises
    ------
    DataError
        If a graph is missing, isn't finite or has no link, or if there is one type only.

    References
    ----------
    Maslov and Sneppen, Specificity and stability in topology of protein networks, Science 296:910 (2002).

    Examples
    --------
    >>> import anndata as ad
    >>> obs = pd.DataFrame({"type": ["a"] * 30 + ["b"] * 30}, index=[f"c{i}" for i in range(60)])
    >>> ring = np.roll(np.eye(60), 1, axis=1)  # each cell with the next: only two links leave their type
    >>> adata = ad.AnnData(obs=obs, obsp={"cell_graph": sparse.csr_matrix(ring)})
    >>> table = link_table(adata, "type", graphs=["cell_graph"])
    >>> table[["type_1", "type_2", "n_links"]].values.tolist()
    [['a', 'a', 29], ['a', 'b', 2], ['b', 'b', 29]]
    >>> (table["q_value"] < 1e-6).tolist()
    [True, True, True]
    """
    if n_null < 2:
        raise ValueError(f"n_null is {n_null}; the spread of the null needs at least 2 random graphs, better 200.")
    labels = groups(adata, groupby)
    if len(labels.categories) < 2:
        raise DataError(f"adata.obs[{groupby!r}] has one type only; all links are within it.")
    names = [graphs] if isinstance(graphs, str) else list(graphs)
    if not names:
        raise ValueError("graphs is empty; name at least one matrix of adata.obsp.")
    matrices = {name: graph(adata, name) for name in names}
    tables = [_one_graph(name, matrix, labels, n_null, rng) for name, matrix in matrices.items()]
    table = pd.concat(tables, ignore_index=True)
    results(adata)["link_table"] = table
    results(adata)["link_table_params"] = {"groupby": groupby, "graphs": list(matrices), "n_null": n_null}
    return table


def _one_graph(name: str, matrix: sparse.csr_matrix, labels: pd.Categorical, n_null: int, rng: Rng) -> pd.DataFrame:
    n_types = len(labels.categories)
    type_1, type_2 = np.triu_indices(n_types)

    def counted(edges: np.ndarray) -> np.ndarray:
        ends = labels.codes.astype(np.int64)[edges]
        flat = ends.min(axis=1) * n_types + ends.max(axis=1)
        return np.bincount(flat, minlength=n_types**2)[type_1 * n_types + type_2]

    n_links = counted(edges_of(matrix))
    draw = generator(rng, "link_table", name)
    null = np.array([counted(edges) for edges in rewired(matrix, n_null, rng=draw)])
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
