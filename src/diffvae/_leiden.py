"""Leiden communities of a graph of cells."""

from __future__ import annotations

import numpy as np
from scipy import sparse


def leiden(graph: sparse.csr_matrix, resolution: float, seed: int, n_iterations: int = 2) -> np.ndarray:
    """Return Leiden communities by modularity, through scanpy (which puts igraph's global generator back)."""
    import anndata as ad
    import pandas as pd
    import scanpy as sc

    nodes = ad.AnnData(obs=pd.DataFrame(index=[str(i) for i in range(graph.shape[0])]))
    sc.tl.leiden(
        nodes,
        resolution,
        adjacency=graph,
        flavor="igraph",
        directed=False,
        n_iterations=n_iterations,
        random_state=seed % 2**31,
        key_added="leiden",
    )
    return nodes.obs["leiden"].cat.codes.to_numpy().astype(np.int64)
