"""Does a way lead from one type to another through cells that exist?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from diffvae import _keys, _random
from diffvae._core.anndata import representation, results
from diffvae._core.validate import Rule, Whole, check
from diffvae._errors import DataError
from diffvae.tl._directions import one_or_more
from diffvae.tl._neighbors import nearest_neighbors

if TYPE_CHECKING:
    from anndata import AnnData

LONG = 2.0
"""Ratio of path and straight line above which a way is long.

On simulated trees true branches have 1.6 to 1.8 and absent ones 1.9 to 3.7. In real data a curved way through an
intermediate type is long as well: 3.0 from endocrine progenitors to alpha cells.
"""
RULES: dict[str, Rule] = {"n_neighbors": Whole(1)}
MIN_CELLS = 2


def route(
    adata: AnnData,
    source: str,
    target: str | Sequence[str] | None = None,
    *,
    groupby: str,
    use_rep: str = _keys.LATENT,
    n_neighbors: int = 15,
    rng: _random.Rng = 0,
) -> pd.DataFrame:
    r"""Measure the shortest way from a type to others through the graph of nearest cells.

    .. math:: r_T = \operatorname{median}_{i \in S} \frac{\min_{j \in T^*} d_G(i, j)}{\| z_i - z_{j} \|}

    with :math:`d_G` the length of the shortest path in the symmetric graph of the 15 nearest cells, whose edges have
    the length of the distance in the latent space, and :math:`T^*` the half of the target's cells nearest to its mean.
    Where cells lie all the way, the path is hardly longer than the straight line. Where it must go around, through
    other types, it is. If no path leads from half of the source's cells, :math:`r_T` is infinite.

    Parameters
    ----------
    adata
        Cells with a latent representation.
    source, target
        A type, and one or several; None for all others.
    groupby
        Key of the types in ``obs``.
    use_rep
        Key of the representation in ``obsm``.
    n_neighbors
        Number of neighbours.
    rng
        Seed of the approximate search above 10,000 cells.

    Returns
    -------
    One row per target: ``target``, ``length`` (median length of the path), ``straight`` (median distance), ``route``
    (median of their ratio; infinite if no path leads there), ``through`` (share of the cells on the paths that are
    neither of the source nor of the target) and ``passes`` (the type of most of them, or ""). Written to
    ``uns["diffvae"]["route"]``.

    Raises
    ------
    DataError
        If a type has fewer than two cells, or is source and target at once.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.simulate_differentiation(300, 100)
    >>> dv.pp.prepare(adata)
    >>> dv.tl.embed(adata, dv.model.PCA(n_latent=10).train(adata))
    >>> dv.tl.route(adata, "HSPC", groupby="cell_type").columns[:2].tolist()
    ['target', 'length']
    """
    from scipy.sparse.csgraph import dijkstra

    check(RULES, n_neighbors=n_neighbors)
    z = representation(adata, use_rep).astype(np.float64)
    if groupby not in adata.obs:
        raise DataError(f"adata.obs[{groupby!r}] is missing; the columns are: {', '.join(adata.obs) or 'none'}.")
    types = adata.obs[groupby].astype("string").fillna("").to_numpy(object)  # a path may lead through unnamed cells
    targets = one_or_more(sorted(set(types) - {"", source}) if target is None else target)
    if source in targets:
        raise DataError(f"{source!r} is source and target at once; name another target.")
    for name in (source, *targets):
        if (types == name).sum() < MIN_CELLS:
            raise DataError(
                f"{name!r} has {(types == name).sum()} cells in adata.obs[{groupby!r}]; it needs at least two."
            )
    near = nearest_neighbors(z, n_neighbors, _random.seed(rng, "route") % 2**31)
    n, k = near.shape
    first, second = np.repeat(np.arange(n), k), near.ravel()
    far = np.linalg.norm(z[first] - z[second], axis=1).clip(1e-9)  # 0 would be no edge
    graph = sparse.csr_matrix((far, (first, second)), shape=(n, n))
    graph = graph.maximum(graph.T)
    sources = np.flatnonzero(types == source)
    rows = []
    for name in targets:
        cells = np.flatnonzero(types == name)
        from_mean = np.linalg.norm(z[cells] - z[cells].mean(0), axis=1)
        inner = cells[from_mean <= np.median(from_mean)]
        # from all inner cells at once: each cell's nearest of them is where its path ends
        length, before, end = dijkstra(graph, directed=False, indices=inner, min_only=True, return_predecessors=True)
        reached = sources[np.isfinite(length[sources])]
        straight = np.linalg.norm(z[reached] - z[end[reached]], axis=1)
        through, passes = _on_the_way(reached, before, types, {source, name})
        rows.append(
            {
                "target": name,
                "length": float(np.median(length[sources])),
                "straight": float(np.median(straight)) if len(reached) else np.nan,
                "route": float(np.median(length[reached] / straight.clip(1e-9)))
                if 2 * len(reached) > len(sources)
                else np.inf,
                "through": through,
                "passes": passes,
            }
        )
    table = pd.DataFrame(rows)
    results(adata)["route"] = table
    return table


def _on_the_way(starts: np.ndarray, before: np.ndarray, types: np.ndarray, ends: set[str]) -> tuple[float, str]:
    """Return the share of the cells on the paths that are of other types, and the most frequent of these."""
    at, visited = starts.copy(), []
    while len(at):
        at = before[at]
        at = at[at >= 0]
        visited.append(types[at])
    names = pd.Series(np.concatenate([*visited, np.zeros(0, object)]))
    others = names[~names.isin(ends)]
    return (len(others) / max(len(names), 1), str(others.mode().iloc[0]) if len(others) else "")
