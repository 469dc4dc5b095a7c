"""Which cells does Graph-DiffVAE link, with which probability, and which links are new?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from diffvae import _keys, _random
from diffvae._core import graphs
from diffvae._core.anndata import graph, require_unique_names, results
from diffvae._core.validate import Number, Optional, Rule, Whole, check
from diffvae._core.words import either
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import GraphDiffVAE

RULES: dict[str, Rule] = {"top_k": Whole(1), "threshold": Optional(Number("(0, 1)"))}


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

    .. math:: p_{ij} = f(z^*_i \cdot z^*_j)

    with a rising curve f, fitted to edges that were hidden from the training and to pairs without an edge, at the
    density of the graph: a fifth of all pairs with p = 0.2 are edges, and far fewer of those that are not known edges.
    The probabilities describe the input graph, not biology. The length of z*, which says how popular a cell is, has no
    part in them with ``decoder="direction"`` of :class:`diffvae.model.GraphDiffVAE`.

    Parameters
    ----------
    adata
        Cells with a graph under the key of the model, for example the training cells.
    model
        A trained :class:`diffvae.model.GraphDiffVAE`.
    top_k
        Number of most probable links per cell.
    threshold
        Least probability of a called link. None for the threshold with the best F1 on the hidden edges.
    max_missing
        See :meth:`diffvae.model.Model.get_latent_representation`.
    rng
        Seed of the approximate search above 10,000 cells.

    Returns
    -------
    The called links, most probable first: ``cell_1``, ``cell_2``, ``probability``, ``new`` (not in the input
    graph), and with ``conv="gat"`` ``attention``: the mean of the attention of either cell to the other, among its
    neighbours and the called links. Writes

    ``obsm["X_diffvae_graph"]``
        Posterior means; ``obsm["X_diffvae_link"]`` has what scores are inner products of.
    ``obsp["diffvae_links"]``
        Probabilities of the top links of each cell, symmetric, sparse. With ``uns["diffvae_links"]`` scanpy reads them
        as neighbours: ``sc.tl.paga(adata, groups, neighbors_key="diffvae_links")``, ``sc.tl.diffmap``, ``sc.tl.dpt``.
    ``obsp["diffvae_called_links"]``
        The called links, as a graph of ones: pairs among the ``top_k`` whose probability reaches the threshold.
    ``uns["diffvae"]["links"]``
        Threshold; precision and recall at the threshold, on other hidden edges than those that gave curve and
        threshold, and ``precision_unknown`` among pairs that are not known edges (NaN for a threshold of yours);
        ``reliability_error`` of the probabilities, see :class:`diffvae.model.Calibration` (all of these are over all
        pairs, not only ``top_k``, and NaN for cells outside the training);
        numbers of links; and how the model was trained. ``hub_share`` is the share of called links that touch the 1 %
        of the cells with most links; ``n_components`` is the number of components of ``diffvae_links`` (``sc.tl.dpt``
        needs one); the suffix ``_input`` marks the same of the input graph.

    Raises
    ------
    ValueError
        If the model was trained without hidden edges and no threshold is given.
    DataError
        If cell names are not unique, or the model is no better than chance on the hidden edges.

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
    check(RULES, top_k=top_k, threshold=threshold)
    require_unique_names(adata)
    if model.is_trained and model.calibration is None and threshold is None:
        raise ValueError(
            "The model was trained without hidden edges, or on a graph in which every pair is linked, so nothing gives "
            f"a threshold; {either('pass threshold=0.5, for example, or train with hidden edges', 'give more cells')}."
        )
    if model.calibration is not None and model.calibration.slope <= 0:
        raise DataError(
            "The model is no better than chance on the hidden edges, so its links are not meaningful; train it longer, "
            "or on a graph with more edges."
        )
    curve = model.curve(adata)
    given = graph(adata, model.graph_key)
    latent, places, _ = model._placed(adata, max_missing)
    top = model._top_links(places, top_k, adata, calibrated=curve is not None, rng=rng)
    measured = curve if threshold is None else None  # precision and recall are those at the threshold of the curve
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
    )
    if len(pairs) and model.config.conv == "gat":
        attention = model.attention(adata, candidates=called, max_missing=max_missing)
        one, other = pairs.T
        table["attention"] = np.asarray(attention[one, other] + attention[other, one]).ravel() / 2
    table = table.sort_values("probability", ascending=False, ignore_index=True, kind="stable")
    for stale in ("commitment", "commitment_types", "commitment_params", "link_table", "link_table_params"):
        results(adata).pop(stale, None)
    for stale in (_keys.COMMITMENT, _keys.COMMITMENT_POSTERIOR):
        adata.obs.drop(columns=stale, inplace=True, errors="ignore")
    adata.obsm[_keys.GRAPH_LATENT], adata.obsm[_keys.LINK_PLACES] = latent, places
    adata.obsp[_keys.LINKS] = top
    adata.obsp[_keys.CALLED_LINKS] = graphs.undirected(called)
    adata.uns[_keys.LINKS] = {
        "connectivities_key": _keys.LINKS,
        "distances_key": _keys.LINKS,
        "params": {"method": "diffvae", "n_neighbors": top_k + 1, "use_rep": _keys.GRAPH_LATENT},
    }
    validation = model.history.filter(like="validation_").dropna()
    results(adata)["links"] = {
        "graph_key": model.graph_key,
        "top_k": top_k,
        "threshold": float(threshold),
        "precision": np.nan if measured is None else measured.precision,
        "precision_unknown": np.nan if measured is None else measured.precision_unknown,
        "recall": np.nan if measured is None else measured.recall,
        "reliability_error": np.nan if curve is None else curve.reliability_error,
        "n_input": given.nnz // 2,
        "n_called": len(table),
        "n_new": int(table["new"].sum()),
        "hub_share": graphs.hub_share(adata.obsp[_keys.CALLED_LINKS]),
        "hub_share_input": graphs.hub_share(given),
        "n_components": int(connected_components(top, directed=False)[0]),
        "n_components_input": int(connected_components(given, directed=False)[0]),
        "scheme": model.scheme,
        **({} if validation.empty else {k: float(v) for k, v in validation.iloc[-1].items()}),
    }
    return table
