"""A few cells with links that can be counted by hand, and tables like those of diffvae.tl."""

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

LONG = "common myeloid progenitor-like cells n{:02d}"  # 40 characters


def graph(edges, n: int) -> sparse.csr_matrix:
    """Return the symmetric matrix of (cell, cell) or (cell, cell, value)."""
    dense = np.zeros((n, n), dtype=np.float32)
    for i, j, *value in edges:
        dense[i, j] = dense[j, i] = value[0] if value else 1
    return sparse.csr_matrix(dense)


def linked(n_types: int = 3, name: str = "", size: int = 4) -> AnnData:
    """Return `size` cells of each type: a, b and c, or `n_types` types called `name`."""
    types = [name.format(i) for i in range(n_types)] if name else list("abc")
    return _linked(types, size)


def _linked(types: Sequence[str], size: int) -> AnnData:
    n = size * len(types)
    random = np.random.default_rng(0)
    obs = pd.DataFrame({"type": pd.Categorical(np.repeat(types, size), categories=types)}, index=map(str, range(n)))
    adata = AnnData(random.random((n, 6)).astype(np.float32), obs=obs)
    adata.layers["unit"] = adata.X.copy()
    for key in ("X_diffvae_tsne", "X_diffvae_graph_tsne"):
        adata.obsm[key] = random.normal(size=(n, 2))
    last = n - 1
    given = [(0, 4), (1, 2), (5, last), (1, 8 % n)]
    called = [(0, 4, 0.9), (1, 3, 0.8), (2, 5, 0.6), (6, 9 % n, 0.7), (7, last, 0.5)]
    adata.obsp["cell_graph"] = graph(given, n)
    adata.obsp["diffvae_links"] = graph([*called, (3, last, 0.1)], n)
    adata.obsp["diffvae_called_links"] = graph([c[:2] for c in called], n)
    rows = []
    for key in ("cell_graph", "diffvae_called_links"):
        for one, other in combinations_with_replacement(types, 2):
            ratio, q, count = (2.0, 0.5, 7) if one == other else (0.0, 0.5, 7)
            if key == "cell_graph" and one == types[0] and other in types[1:3]:
                ratio, q, count = (-6.0, 0.01, 0) if other == types[1] else (1.0, 0.01, 7)
            rows.append((key, one, other, count, ratio, q))
    table = pd.DataFrame(rows, columns=["graph", "type_1", "type_2", "n_links", "log2_ratio", "q_value"])
    adata.uns["diffvae"] = {"links": {"graph_key": "cell_graph"}, "link_table": table}
    return adata


def called(calls: Sequence[str], pca: Sequence[str], types: Sequence[str] = ("a", "b", "c")) -> AnnData:
    """Return cells with these calls of commitment for the cells of the first type."""
    adata = _linked(types, len(calls))
    source = np.arange(len(calls))
    adata.obs["diffvae_commitment"] = pd.Series(list(calls), index=adata.obs_names[source]).reindex(adata.obs_names)
    adata.obs["diffvae_commitment"] = adata.obs["diffvae_commitment"].astype("category")
    results = adata.uns["diffvae"]
    results["commitment"] = pd.DataFrame({"cell": adata.obs_names[source], "call": calls, "call_pca": pca})
    results["commitment_params"] = {"source": types[0], "groupby": "type"}
    return adata
