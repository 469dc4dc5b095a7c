"""Which cells does Graph-DiffVAE link, how sure is it, and which of these links are new?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from diffvae import _keys, _random
from diffvae._core import graphs
from diffvae._core.anndata import graph, require_unique_names, results
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import GraphDiffVAE


def links(
    adata: AnnData,
    model: GraphDiffVAE,
    top_k: int = 15,
    *,
    threshold: float | None = None,
    max_missing: float = 0.2,
    rng: _random.Rng = 0,
) -> pd.DataFrame:
    r"""Predict the links between cells: their probabilities, and the graph of those above a threshold.

    .. math:: p_{ij} = \sigma(a\, z^{*\top}_i z^*_j + b)

    with a and b fitted to edges that were hidden from the training and to pairs without an edge, at the density of the
    graph: of all pairs with p = 0.2, known edges among them, a fifth are edges. Among the new links it is far fewer.
    That is a statement about the graph that went in, not about biology.

    Parameters
    ----------
    adata
        Cells with a graph under the model's key, on which it predicts; those of the training, say.
    model
        A trained :class:`diffvae.model.GraphDiffVAE`.
    top_k
        Most probable links that are kept per cell.
    threshold
        Least probability of a link that is called. None for the one with the best F1 on the hidden edges.
    max_missing
        See :meth:`diffvae.model.Model.get_latent_representation`.
    rng
        Seed of the approximate search among more than 20,000 cells.

    Returns
    -------
    The called links, most probable first: ``cell_1``, ``cell_2``, ``probability``, ``new`` (not in the graph that went
    in). Written:

    ``obsm["X_diffvae_graph"]``
        Posterior means; ``obsm["X_diffvae_link"]`` has Z*.
    ``obsp["diffvae_links"]``
        Probabilities of the top links of each cell, symmetric, sparse. ``uns["diffvae_links"]`` makes them neighbours
        for scanpy: ``sc.tl.paga(adata, groups, neighbors_key="diffvae_links")``, likewise ``sc.tl.diffmap`` and
        ``sc.tl.dpt``; CellRank's ``ConnectivityKernel(adata, conn_key="diffvae_links")`` is meant to take it, too (not
        tried).
    ``obsp["diffvae_called_links"]``
        The called ones, as a graph of ones: pairs among those ``top_k`` whose probability reaches the threshold.
    ``uns["diffvae"]["links"]``
        Threshold; precision and recall there on the hidden edges, ``precision_unknown`` among pairs that were no known
        edges (all for every pair above the threshold, before ``top_k`` cuts; NaN on cells other than the training's);
        numbers of links, and how the model was trained. ``hub_share`` is the share of called links that touch the most
        linked hundredth of the cells, ``n_components`` the pieces into which ``diffvae_links`` falls (``sc.tl.dpt``
        needs one); each beside that of the graph that went in.

    Raises
    ------
    ValueError
        If the model was trained without hidden edges and no threshold is given.
    DataError
        If names of cells occur more than once, or the model is no better than chance on the hidden edges.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.pp.cell_graph(adata, k=3)
    >>> model = dv.model.GraphDiffVAE(n_latent=10, hidden=32).train(adata, max_epochs=5, progress=False)
    >>> dv.tl.links(adata, model).columns.tolist()
    ['cell_1', 'cell_2', 'probability', 'new']
    """
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; keep one link per cell at least.")
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; it is a probability, between 0 and 1.")
    require_unique_names(adata)
    if model.is_trained and model.calibration is None and threshold is None:
        raise ValueError(
            "The model was trained with validation_size=0, or on a graph in which every pair is linked, so there is no "
            "threshold from hidden edges; pass threshold=0.5, say, or train with some hidden."
        )
    if model.calibration is not None and model.calibration.slope <= 0:
        raise DataError(
            "On the edges hidden from its training the model is no better than chance, so it can't say which links are "
            "probable; train it longer, or on a graph with more edges."
        )
    curve = model.curve(adata)
    given = graph(adata, model.graph_key)
    latent, places = model._placed(adata, max_missing)
    top = model._top_links(places, top_k, adata, calibrated=curve is not None, rng=rng)
    if threshold is None:
        assert curve is not None
        threshold = curve.threshold
    called = sparse.csr_matrix(top.multiply(top >= np.float32(threshold)))
    called.eliminate_zeros()
    pairs, n = graphs.edges_of(called), adata.n_obs
    table = pd.DataFrame(
        {
            "cell_1": adata.obs_names[pairs[:, 0]],
            "cell_2": adata.obs_names[pairs[:, 1]],
            "probability": sparse.triu(called, k=1, format="csr").data,
            "new": ~np.isin(graphs.keys(pairs, n), graphs.keys(graphs.edges_of(given), n)),
        }
    ).sort_values("probability", ascending=False, ignore_index=True, kind="stable")
    for stale in ("commitment", "commitment_types", "commitment_params", "link_table", "link_table_params"):
        results(adata).pop(stale, None)
    for stale in (_keys.COMMITMENT, _keys.COMMITMENT_CONFIDENCE):
        adata.obs.drop(columns=stale, inplace=True, errors="ignore")
    adata.obsm[_keys.GRAPH_LATENT], adata.obsm[_keys.LINK_PLACES] = latent, places
    adata.obsp[_keys.LINKS] = top
    adata.obsp[_keys.CALLED_LINKS] = graphs.undirected(called)
    adata.uns[_keys.LINKS] = {
        "connectivities_key": _keys.LINKS,
        "distances_key": _keys.LINKS,
        "params": {"method": "diffvae", "n_neighbors": top_k + 1, "use_rep": _keys.GRAPH_LATENT},
    }
    watched = model.history.filter(like="validation_").dropna()
    results(adata)["links"] = {
        "graph_key": model.graph_key,
        "top_k": top_k,
        "threshold": float(threshold),
        "precision": np.nan if curve is None else curve.precision,
        "precision_unknown": np.nan if curve is None else curve.precision_unknown,
        "recall": np.nan if curve is None else curve.recall,
        "n_input": given.nnz // 2,
        "n_called": len(table),
        "n_new": int(table["new"].sum()),
        "hub_share": _hub_share(adata.obsp[_keys.CALLED_LINKS]),
        "hub_share_input": _hub_share(given),
        "n_components": int(connected_components(top, directed=False)[0]),
        "n_components_input": int(connected_components(given, directed=False)[0]),
        "scheme": model.scheme,
        **({} if watched.empty else {k: float(v) for k, v in watched.iloc[-1].items()}),
    }
    return table


def _hub_share(links: sparse.csr_matrix) -> float:
    """Return the share of links that touch the most linked hundredth of the cells."""
    pairs = graphs.edges_of(links)
    if not len(pairs):
        return float("nan")
    degree = np.asarray(links.sum(1)).ravel()
    hubs = np.argsort(-degree, kind="stable")[: max(1, len(degree) // 100)]
    return float(np.isin(pairs, hubs).any(1).mean())
