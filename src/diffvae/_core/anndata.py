"""Look-ups in an AnnData; if something is missing, the error names the function that writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from diffvae import _keys
from diffvae._core import graphs
from diffvae._core.neighbors import share_of
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

MADE_BY = {
    **dict.fromkeys(
        (_keys.LINKS, _keys.CALLED_LINKS, _keys.GRAPH_LATENT, _keys.LINK_PLACES, "links"),
        "diffvae.tl.links(adata, model)",
    ),
    **dict.fromkeys((_keys.GENE_WEIGHTS, _keys.GENE_JACOBIAN, "gene_weights"), "diffvae.tl.gene_weights(adata, model)"),
    **dict.fromkeys((_keys.COMMITMENT, "commitment"), "diffvae.tl.commitment(adata, source, groupby)"),
    **dict.fromkeys((_keys.FATES, "fates"), "diffvae.tl.fates(adata, source, groupby)"),
    "fate_table": "diffvae.tl.fates(adata, source, groupby, split_by='diffvae_commitment')",
    _keys.WHITE: "diffvae.pp.whiten(adata, groupby)",
    **dict.fromkeys((_keys.CELL_TYPE, "annotation"), "diffvae.tl.annotate(adata)"),
    **dict.fromkeys((_keys.CLUSTER, "cluster"), "diffvae.tl.cluster(adata)"),
    **dict.fromkeys((_keys.TSNE, "tsne"), "diffvae.tl.tsne(adata)"),
    _keys.GRAPH_TSNE: "diffvae.tl.tsne(adata, use_rep='X_diffvae_graph', key_added='X_diffvae_graph_tsne')",
    _keys.LATENT: "diffvae.tl.embed(adata, model)",
    _keys.CELL_GRAPH: "diffvae.pp.cell_graph(adata)",
    "batches": "diffvae.tl.batch_association(adata)",
    "integration": "diffvae.tl.integration(adata, batch_key)",
    "link_table": "diffvae.tl.link_table(adata, groupby)",
    "latent_dimensions": "diffvae.tl.latent_dimensions(adata)",
    "high_weight_genes": "diffvae.tl.high_weight_genes(adata)",
    "stability": "diffvae.benchmark.stability(adata, model)",
    "passport": "diffvae.tl.passport(adata)",
}
"""The call that writes an AnnData key or an entry of ``uns["diffvae"]``."""


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


def posterior(adata: AnnData, use_rep: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return means and standard deviations of a representation; None if it has no standard deviations."""
    mean, key = representation(adata, use_rep), use_rep + _keys.SD
    if key not in adata.obsm:
        return mean, None
    sd = representation(adata, key)
    if sd.shape != mean.shape or (sd < 0).any():
        raise DataError(f"adata.obsm[{key!r}] does not fit adata.obsm[{use_rep!r}]; run diffvae.tl.embed again.")
    return mean, sd


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


def balancing(adata: AnnData, key: str | None, k: int) -> np.ndarray | None:
    """Return the batch of each cell as a number, if each has enough cells for its share of k neighbours."""
    if key is None:
        return None
    batches = groups(adata, key)
    n, share = len(batches.categories), share_of(k, len(batches.categories))
    if n < 2:
        raise DataError(f"adata.obs[{key!r}] has only one batch; leave balance_by out.")
    sizes = np.bincount(batches.codes)
    if sizes.min() <= share:
        small = str(batches.categories[sizes.argmin()])
        raise DataError(
            f"Batch {small!r} of adata.obs[{key!r}] has {sizes.min()} cells, but each cell takes {share} neighbours "
            f"from each of {n:,} batches; merge or drop batches with fewer than {share + 1} cells, or leave balance_by "
            "out."
        )
    return np.asarray(batches.codes, dtype=np.int64)


def require_unique_names(adata: AnnData) -> None:
    """Raise DataError if two cells have the same name."""
    if not adata.obs_names.is_unique:
        repeated = adata.obs_names[adata.obs_names.duplicated()][0]
        raise DataError(f"Cell names occur more than once: {repeated!r}; call adata.obs_names_make_unique() first.")


def results(adata: AnnData) -> dict[str, Any]:
    """Return ``adata.uns["diffvae"]``; it is created if it is missing."""
    return adata.uns.setdefault(_keys.UNS, {})


def result(adata: AnnData, name: str) -> Any:
    """Return ``adata.uns["diffvae"][name]``, which an earlier step has stored."""
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
