"""Small, shared ways into an AnnData: what is looked up, and what is said when it isn't there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from diffvae import _keys
from diffvae._core import graphs
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

MADE_BY = {
    _keys.LATENT: "diffvae.tl.embed(adata, model)",
    _keys.TSNE: "diffvae.tl.tsne(adata)",
    _keys.CLUSTER: "diffvae.tl.cluster(adata)",
    _keys.CELL_TYPE: "diffvae.tl.annotate(adata)",
    _keys.GENE_WEIGHTS: "diffvae.tl.gene_weights(adata, model)",
    _keys.GENE_JACOBIAN: "diffvae.tl.gene_weights(adata, model)",
    _keys.CELL_GRAPH: "diffvae.pp.cell_graph(adata)",
    _keys.LINKS: "diffvae.tl.links(adata, model)",
    _keys.CALLED_LINKS: "diffvae.tl.links(adata, model)",
    _keys.GRAPH_LATENT: "diffvae.tl.links(adata, model)",
    _keys.GRAPH_TSNE: "diffvae.tl.tsne(adata, use_rep='X_diffvae_graph', key_added='X_diffvae_graph_tsne')",
    _keys.LINK_PLACES: "diffvae.tl.links(adata, model)",
    _keys.COMMITMENT: "diffvae.tl.commitment(adata, source, groupby)",
    "links": "diffvae.tl.links(adata, model)",
    "link_table": "diffvae.tl.link_table(adata, groupby)",
    "commitment": "diffvae.tl.commitment(adata, source, groupby)",
    "tsne": "diffvae.tl.tsne(adata)",
    "cluster": "diffvae.tl.cluster(adata)",
    "latent_dimensions": "diffvae.tl.latent_dimensions(adata)",
    "high_weight_genes": "diffvae.tl.high_weight_genes(adata)",
    "gene_weights": "diffvae.tl.gene_weights(adata, model)",
    "stability": "diffvae.benchmark.stability(adata, model)",
    "passport": "diffvae.tl.passport(adata)",
    "annotation": "diffvae.tl.annotate(adata)",
}


def _way_out(key: str, present: list[str]) -> str:
    return f"run {MADE_BY[key]} first" if key in MADE_BY else f"there are: {', '.join(present) or 'none'}"


def representation(adata: AnnData, use_rep: str) -> np.ndarray:
    """Return ``adata.obsm[use_rep]`` (``adata.X`` for "X") as a finite dense float array."""
    if use_rep == "X":
        x = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    elif use_rep in adata.obsm:
        x = np.asarray(adata.obsm[use_rep])
    else:
        raise DataError(f"adata.obsm[{use_rep!r}] is missing; {_way_out(use_rep, list(adata.obsm))}.")
    if not np.isfinite(x).all():
        raise DataError(f"{use_rep!r} holds NaN or infinite values; compute it again.")
    return x


def groups(adata: AnnData, groupby: str) -> pd.Categorical:
    """Return ``adata.obs[groupby]`` as a categorical of strings without unused categories."""
    if groupby not in adata.obs:
        raise DataError(f"adata.obs[{groupby!r}] is missing; {_way_out(groupby, list(adata.obs))}.")
    column = adata.obs[groupby]
    if column.isna().any():
        raise DataError(
            f"adata.obs[{groupby!r}] has {int(column.isna().sum())} cells without a value; name or drop them."
        )
    if isinstance(column.dtype, pd.CategoricalDtype):
        used = column.cat.remove_unused_categories()
        return pd.Categorical(used.astype(str), categories=[str(c) for c in used.cat.categories])
    return pd.Categorical(column.astype(str))


def require_unique_names(adata: AnnData) -> None:
    """Refuse cells that can't be told apart by name."""
    if not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()][0]
        raise DataError(f"Cell names occur more than once: {twice!r}; call adata.obs_names_make_unique() first.")


def results(adata: AnnData) -> dict[str, Any]:
    """Return ``adata.uns["diffvae"]``, made if needed."""
    return adata.uns.setdefault(_keys.UNS, {})


def result(adata: AnnData, name: str) -> Any:
    """Return what an earlier step stored in ``adata.uns["diffvae"]``."""
    stored = adata.uns.get(_keys.UNS, {})
    if name not in stored:
        raise DataError(f"adata.uns['diffvae'][{name!r}] is missing; {_way_out(name, list(stored))}.")
    return stored[name]


def graph(adata: AnnData, key: str) -> sparse.csr_matrix:
    """Return ``adata.obsp[key]`` as an undirected graph: symmetric CSR of ones without a diagonal."""
    if key not in adata.obsp:
        raise DataError(f"adata.obsp[{key!r}] is missing; {_way_out(key, list(adata.obsp))}.")
    matrix = sparse.csr_matrix(adata.obsp[key])
    if not np.isfinite(matrix.data).all():
        raise DataError(f"adata.obsp[{key!r}] holds NaN or infinite values; make the graph again.")
    links = graphs.undirected(matrix)
    if links.nnz == 0:
        raise DataError(f"adata.obsp[{key!r}] has no edge between two cells; make a graph with some.")
    return links
