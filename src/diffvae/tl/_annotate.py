"""Names for clusters, from marker genes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae._adata import groups, results
from diffvae._errors import DataError
from diffvae._random import Rng
from diffvae.pp._kind import near_whole
from diffvae.pp._matrix import blocks, matrix_of, values
from diffvae.pp._matrix import source as matrix_name
from diffvae.tl._by_weights import name_by_weights
from diffvae.tl._cluster import NOISE
from diffvae.tl._marker_tables import Markers, load_markers
from diffvae.tl._naming import SCORES, candidates, choose, reasons, score, summarise

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["annotate", "load_markers"]


def annotate(
    adata: AnnData,
    markers: Markers = "auto",
    groupby: str = _keys.CLUSTER,
    *,
    key_added: str = _keys.CELL_TYPE,
    use_raw: bool | None = None,
    layer: str | None = None,
    gene_symbols: str | None = None,
    min_genes: int = 2,
    max_q: float = 0.05,
    min_score: float = 0.1,
    n_permutations: int = 10_000,
    rng: Rng = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Name clusters by marker genes, with the evidence, its null, and the second best name.

    A marker speaks for cluster c as far as the cells of c have more of it than those of the other clusters:
    :math:`\delta_{cg}`, twice the area under the ROC curve less 1, averaged over the other clusters. Each has one
    vote whatever its size, and clusters that look alike share a vote, so that neither a common type nor one that
    the clustering cut into many parts drowns its own markers. The score of type t is

    .. math:: S_{ct} = \frac{\sum_{g \in t} w_g s_g (\delta_{cg} - \bar\delta_{cg})}{\sum_{g \in t} w_g}

    with :math:`w_g = 1/k` for a marker of k types, :math:`s_g = -1` for genes that the type should lack and
    :math:`\bar\delta_{cg}` the mean over genes as strongly expressed as g. The p-value compares with sets in
    which every marker is replaced by a random gene of its level of expression; q-values are
    Benjamini-Hochberg's over clusters and types (and over all tables tried by ``"auto"``). The best type names
    the cluster if q is at most ``max_q``, the score at least ``min_score`` and at least ``min_genes`` of its
    markers lie above the other clusters; otherwise the cells are "unassigned". A name whose runner-up has at
    least 80 % of its score stays, with ``confident`` False. All evidence is relative to the other clusters: it
    can't name what all cells have in common, and a single cluster stays unassigned. Cells that the clustering
    called "noise" are left out and unassigned.

    Where ``high_weight_genes`` has run, each cluster is also named from the genes that the decoder's weights
    raise in it, as far as the cells confirm it (hypergeometric overlap with the markers), and ``agree`` says
    whether the two names are the same.

    Parameters
    ----------
    adata
        With log-normalised expression and clusters. Only the order of the cells within each gene counts.
    markers
        Name of a bundled table (:func:`load_markers`); a dictionary {cell type: [genes]}; a DataFrame or CSV or
        TSV file with the columns ``cell_type``, ``gene`` and optionally ``direction`` ("up", "down") and
        ``source``; or ``"auto"``: of the bundled tables whose genes are found, spelled alike (which tells the
        species), the one with the largest mean score over cells (which tells the tissue), if it names at least
        half of the cells and three different types (or every cluster differently, where there are fewer than
        three). If none does, all cells are "unassigned", with a warning.
    groupby
        Column of ``adata.obs`` with the clusters.
    key_added
        Column of ``adata.obs`` to write.
    use_raw
        Read ``adata.raw``; by default if it is there and ``layer`` is not given.
    layer
        Layer to read instead.
    gene_symbols
        Column of ``var`` with gene symbols, if the names of the genes are identifiers.
    min_genes
        Markers of a type that the data must have for it to be considered, and that must speak for it.
    max_q, min_score
        Largest q-value and smallest score that name a cluster.
    n_permutations
        Random gene sets per type.
    rng
        Seed or generator.
    copy
        Return a copy instead of writing into ``adata``.

    Returns
    -------
    None, or the copy. Written are

    ``obs[key_added]``
        Name of each cell's cluster, categorical. Two clusters may have one name.
    ``uns["diffvae"]["annotation"]``
        One row per cluster: ``group``, ``n_cells``, ``cell_type``, ``best`` (the best type, also where it was
        not good enough), ``score`` and ``q_value`` (of ``best``), ``n_markers`` (its markers in the data),
        ``n_up`` (those above the other clusters), ``genes`` (that contributed most, comma separated; "CD14-"
        spoke by its absence), ``runner_up``, ``runner_up_score``, ``confident``, ``by_weights``,
        ``by_weights_q``, ``by_weights_genes``, ``agree`` (NA where one of the two has no name) and ``reason``
        (why it is unassigned).
    ``uns["diffvae"]["annotation_scores"]``
        Every cluster with every type: ``group``, ``cell_type``, ``score``, ``p_value``, ``q_value``,
        ``n_markers``, ``n_up``.
    ``uns["diffvae"]["annotation_tables"]``
        With ``"auto"``, one row per bundled table: ``markers``, ``found`` (share of its genes), ``named`` (share
        of the cells), ``n_types`` (different names), ``evidence`` (mean score over cells).
    ``uns["diffvae"]["annotation_params"]``
        All parameters, the table used (``markers``; "" if none fits) and a ``message``.

    Raises
    ------
    DataError
        If the clusters or all markers are missing, the values are counts or not finite, or the table can't be
        read.

    Examples
    --------
    >>> import diffvae as dv, scanpy as sc
    >>> adata = sc.datasets.pbmc68k_reduced()
    >>> dv.tl.annotate(adata, "blood-human", groupby="louvain", n_permutations=1000)
    >>> table = adata.uns["diffvae"]["annotation"].set_index("group")
    >>> table.loc["4", "cell_type"], table.loc["4", "genes"].split(",")[:2]
    ('B cell', ['CD79B', 'CD79A'])
    """
    _refuse_arguments(min_genes, max_q, n_permutations)
    labels = groups(adata, groupby)
    x, names, source = _expression(adata, use_raw, layer, gene_symbols)
    tables, tried = candidates(markers, names, source)
    noise = np.asarray(labels == NOISE)
    clusters = labels[~noise].remove_unused_categories()
    scores = score(
        x[~noise] if noise.any() else x,
        clusters,
        names,
        tables,
        min_genes=min_genes,
        n_permutations=n_permutations,
        rng=rng,
    )
    scores["reason"] = reasons(scores, min_genes, max_q, min_score)
    table = {name: summarise(scores[scores["markers"] == name], clusters) for name in tables}
    used, message = choose(table, scores, tried, clusters, min_genes)
    chosen = table[used] if used else summarise(scores.iloc[:0], clusters)
    if noise.any():
        row = summarise(scores.iloc[:0], labels[noise].remove_unused_categories()).assign(reason="noise, no cluster")
        chosen = pd.concat([chosen, row], ignore_index=True)
    by_weights = name_by_weights(
        adata.uns.get(_keys.UNS, {}).get("high_weight_genes"),
        tables[used] if used else None,
        adata.var_names,
        _symbols(adata.var, gene_symbols, "adata.var"),
        chosen["group"].tolist(),
        min_genes=min_genes,
        max_q=max_q,
    )
    chosen = pd.concat([chosen, by_weights.reset_index(drop=True)], axis=1)
    chosen["agree"] = _agree(chosen["cell_type"], chosen["by_weights"])

    adata = adata.copy() if copy else adata
    categories = [name for name in dict.fromkeys(chosen["cell_type"]) if name != _keys.UNASSIGNED]
    if (chosen["cell_type"] == _keys.UNASSIGNED).any():
        categories.append(_keys.UNASSIGNED)
    name_of = dict(zip(chosen["group"], chosen["cell_type"], strict=True))
    adata.obs[key_added] = pd.Categorical([name_of[group] for group in labels], categories=categories)
    stored = results(adata)
    stored["annotation"] = chosen
    stored["annotation_scores"] = scores.loc[scores["markers"] == used, SCORES].reset_index(drop=True)
    stored.pop("annotation_tables", None)
    if tried is not None:
        stored["annotation_tables"] = tried
    stored["annotation_params"] = {
        "markers": used,
        "auto": tried is not None,
        "groupby": groupby,
        "key_added": key_added,
        "source": source,
        "min_genes": min_genes,
        "max_q": max_q,
        "min_score": min_score,
        "n_permutations": n_permutations,
        "rng": int(rng) if not isinstance(rng, np.random.Generator) else "generator",
        "message": message,
    }
    if message:
        warnings.warn(message, UserWarning, stacklevel=2)
    return adata if copy else None


def _refuse_arguments(min_genes: int, max_q: float, n_permutations: int) -> None:
    if min_genes < 1 or n_permutations < 1:
        raise ValueError(f"min_genes={min_genes} and n_permutations={n_permutations} must be at least 1.")
    if not 0 < max_q <= 1:
        raise ValueError(f"max_q is {max_q}; give a number above 0 and up to 1, such as 0.05.")


def _symbols(var: pd.DataFrame, gene_symbols: str | None, where: str) -> pd.Index:
    if gene_symbols is None:
        return var.index.astype(str)
    if gene_symbols not in var:
        raise DataError(f"{where} has no column {gene_symbols!r}; it has: {', '.join(map(str, var)) or 'none'}.")
    return pd.Index(var[gene_symbols].astype(str))


def _expression(
    adata: AnnData, use_raw: bool | None, layer: str | None, gene_symbols: str | None
) -> tuple[Any, pd.Index, str]:
    """Return cells x genes, the symbols of the genes, and what to call the matrix."""
    if use_raw and layer is not None:
        raise ValueError(f"use_raw is True and layer is {layer!r}; choose one of them.")
    if use_raw and adata.raw is None:
        raise DataError("use_raw is True but adata.raw is None; leave use_raw out to read adata.X.")
    from_raw = use_raw if use_raw is not None else layer is None and adata.raw is not None
    where = "adata.raw" if from_raw else matrix_name(layer)
    x = adata.raw.X if from_raw else matrix_of(adata, layer)
    whole = True
    for _, _, block in blocks(x):
        if not np.isfinite(values(block)).all():
            raise DataError(f"{where} holds NaN or infinite values; replace them first.")
        whole = whole and bool(near_whole(values(block)).all())
    if whole:
        raise DataError(
            f"{where} holds whole numbers only, as counts do; cells of different depth can't be compared by them: "
            "run diffvae.pp.prepare(adata) first, or choose log-normalised values with layer=... or use_raw=..."
        )
    names = _symbols(adata.raw.var if from_raw else adata.var, gene_symbols, f"{where.split('.X')[0]}.var")
    return x, names, where


def _agree(cell_type: pd.Series, by_weights: pd.Series) -> pd.Series:
    """Return whether the two names are the same; NA where one of them is missing."""
    both = ~cell_type.eq(_keys.UNASSIGNED) & ~by_weights.isin(["", _keys.UNASSIGNED])
    return cell_type.eq(by_weights).astype("boolean").where(both)
