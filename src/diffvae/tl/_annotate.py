"""From scores of cell types to names of clusters: which tables, which types, which of them hold."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, hypergeom

from diffvae import _keys
from diffvae._core.anndata import groups, results
from diffvae._core.io.matrix import blocks, matrix_of, quoted, values
from diffvae._core.io.matrix import source as matrix_name
from diffvae._errors import DataError
from diffvae._random import Rng
from diffvae.pp._check import near_whole
from diffvae.tl._cluster import NOISE
from diffvae.tl._markers import (
    GeneLevels,
    Markers,
    bundled_names,
    load_markers,
    match_genes,
    pairwise_auc,
    read_markers,
    score_sets,
    share_votes,
)

if TYPE_CHECKING:
    from anndata import AnnData

MIN_FOUND = 0.1
"""``markers="auto"``: share of a table's genes that the data must have, spelled alike, for it to be tried."""
MIN_NAMED = 0.5
"""``markers="auto"``: share of the cells that a table must name; one that names fewer is of another tissue."""
MIN_TYPES = 3
"""``markers="auto"``: different types that a table must name (or one per cluster, where there are fewer)."""
NEAR = 0.8
"""A runner-up with this share of the best score makes the name doubtful."""
SCORES = ["group", "cell_type", "score", "p_value", "q_value", "n_markers", "n_up", "genes"]
"""Columns of ``uns["diffvae"]["annotation_scores"]``."""
NOTHING: dict[str, Any] = {
    "cell_type": "",
    "score": np.nan,
    "q_value": np.nan,
    "n_markers": 0,
    "n_up": 0,
    "genes": "",
    "reason": "nothing to compare",
}
"""What stands in the place of a type where there is none."""


def candidates(markers: Markers, names: pd.Index, source: str) -> tuple[dict[str, pd.DataFrame], pd.DataFrame | None]:
    """Return the tables to score, and with "auto" the list of all bundled ones with the share found."""
    if not (isinstance(markers, str) and markers == "auto"):
        name, table = read_markers(markers)
        if (match_genes(table["gene"], names) < 0).all():
            raise DataError(
                f"None of the {table['gene'].nunique()} marker genes ({quoted(table['gene'].unique())}) is among the "
                f"genes of {source} ({quoted(names)}); give markers for this species, or name the column of symbols "
                "with gene_symbols=..."
            )
        return {name: table}, None
    tables = {name: load_markers(name) for name in bundled_names()}
    found = [table["gene"].drop_duplicates().isin(names).mean() for table in tables.values()]
    tried = pd.DataFrame({"markers": list(tables), "found": found, "named": 0.0, "n_types": 0, "evidence": 0.0})
    return {name: tables[name] for name in tried.loc[tried["found"] >= MIN_FOUND, "markers"]}, tried


def _gene_sets(table: pd.DataFrame, names: pd.Index, min_genes: int) -> dict[str, pd.DataFrame]:
    """Return per cell type the markers that the data have, weighted by how few types share them."""
    table = table.assign(position=match_genes(table["gene"], names).to_numpy())
    table = table[table["position"] >= 0].drop_duplicates(["cell_type", "position"])
    table["gene"] = names.to_numpy()[table["position"].to_numpy()]
    table["sign"] = np.where(table["direction"] == "up", 1.0, -1.0)
    table["weight"] = 1.0 / table.groupby(["position", "sign"])["gene"].transform("size")
    by_type = {str(name): genes for name, genes in table.groupby("cell_type", sort=False)}
    return {name: genes for name, genes in by_type.items() if (genes["sign"] > 0).sum() >= min_genes}


def score(
    x: Any,
    labels: pd.Categorical,
    names: pd.Index,
    tables: dict[str, pd.DataFrame],
    *,
    min_genes: int,
    n_permutations: int,
    rng: Rng,
) -> pd.DataFrame:
    """Return the score of every group with every type of every table; no rows where nothing can be compared."""
    sets = {name: _gene_sets(table, names, min_genes) for name, table in tables.items()}
    positions = [genes["position"].to_numpy() for types in sets.values() for genes in types.values()]
    n_groups = len(labels.categories)
    if not positions or n_groups < 2:
        return pd.DataFrame({column: [] for column in ["markers", *SCORES]})
    levels = GeneLevels(x, rng)
    needed = np.unique(np.concatenate([*positions, *levels.controls]))
    delta = np.zeros((n_groups, len(names)))
    x, codes = x[:, needed], np.asarray(labels.codes)
    votes = share_votes(pairwise_auc(x, codes, np.ones(n_groups)))
    delta[:, needed] = pairwise_auc(x, codes, votes)
    frames = [
        score_sets(delta, types, levels, n_permutations, rng).assign(markers=name)
        for name, types in sets.items()
        if types
    ]
    scores = pd.concat(frames, ignore_index=True)
    scores["group"] = np.asarray(labels.categories.astype(str))[scores["group"]]
    scores["q_value"] = false_discovery_control(scores["p_value"])
    return scores


def reasons(scores: pd.DataFrame, min_genes: int, max_q: float, min_score: float) -> np.ndarray:
    """Return per row why the type can't name the group, "" if it can."""
    faults = {
        f"q-value above {max_q:g}": scores["q_value"] > max_q,
        f"score below {min_score:g}": scores["score"] < min_score,
        f"fewer than {min_genes} markers above the other clusters": scores["n_up"] < min_genes,
    }
    return np.select(list(faults.values()), list(faults), default="").astype(object)


def summarise(scores: pd.DataFrame, labels: pd.Categorical) -> pd.DataFrame:
    """Return one row per group: the best type that can name it, or the best that can't, and the second best."""
    sizes = np.bincount(labels.codes, minlength=len(labels.categories))
    rows = []
    for group, n_cells in zip(labels.categories, sizes, strict=True):
        own = scores[scores["group"] == group].sort_values("score", ascending=False, kind="stable")
        ranked: list[dict[str, Any]] = own.to_dict("records")
        able = [row for row in ranked if not row["reason"]]
        best = next(iter(able or ranked), NOTHING)
        second = next((row for row in ranked if row is not best), NOTHING)
        rows.append(
            {
                "group": group,
                "n_cells": int(n_cells),
                "cell_type": best["cell_type"] if able else _keys.UNASSIGNED,
                "best": best["cell_type"],
                **{column: best[column] for column in ["score", "q_value", "n_markers", "n_up", "genes"]},
                "runner_up": second["cell_type"],
                "runner_up_score": second["score"],
                "confident": bool(able) and not second["score"] > NEAR * best["score"],
                "reason": best["reason"],
            }
        )
    return pd.DataFrame(rows)


def choose(
    table: dict[str, pd.DataFrame],
    scores: pd.DataFrame,
    tried: pd.DataFrame | None,
    labels: pd.Categorical,
    min_genes: int,
) -> tuple[str, str]:
    """Return the name of the table to use, "" if none fits, and a sentence about what stands in the way."""
    if not table:
        return "", (
            f"None of the bundled marker tables has {MIN_FOUND:.0%} of its genes among those of the data, so no "
            "cluster is named; pass markers=..., or gene_symbols=... if the genes go by identifiers."
        )
    if len(labels.categories) < 2:
        return "", "There are fewer than two clusters, and markers compare clusters; nothing is named."
    if scores.empty:
        return "", f"No cell type has {min_genes} of its markers among the genes of the data; nothing is named."
    if tried is None:
        return next(iter(table)), ""
    for name, rows in table.items():
        named = rows[rows["cell_type"] != _keys.UNASSIGNED]
        share = named["n_cells"] / len(labels)
        row = tried["markers"] == name
        tried.loc[row, "named"] = share.sum()
        tried.loc[row, "n_types"] = named["cell_type"].nunique()
        tried.loc[row, "evidence"] = (share * named["score"]).sum()
    n_types = min(MIN_TYPES, len(labels.categories))
    fits = tried[(tried["named"] >= MIN_NAMED) & (tried["n_types"] >= n_types)]
    if fits.empty:
        most = tried.nlargest(1, "evidence").iloc[0]
        return "", (
            f"None of the bundled marker tables fits: one that does names at least {MIN_NAMED:.0%} of the cells and "
            f"{n_types} types; the nearest, {most['markers']}, names {most['named']:.0%} and {most['n_types']}. The "
            "cells are taken to be of another tissue and left unassigned; pass markers=... to choose a table, "
            "bundled or your own."
        )
    return str(fits.nlargest(1, "evidence")["markers"].iloc[0]), ""


COLUMNS = ["by_weights", "by_weights_q", "by_weights_genes"]


def name_by_weights(
    high_weight: pd.DataFrame | None,
    markers: pd.DataFrame | None,
    names: pd.Index,
    symbols: pd.Index,
    groups: list[str],
    *,
    ranking: str = "weights",
    min_genes: int,
    max_q: float,
) -> pd.DataFrame:
    """Name groups by the overlap of their high-weight genes with markers.

    Hypergeometric test: of ``len(names)`` genes, those "up" in the group by the decoder's weights are drawn, if the
    cells themselves have more of them there (``confirmed``), and those among the type's markers counted;
    Benjamini-Hochberg over groups and types.

    Parameters
    ----------
    high_weight
        ``uns["diffvae"]["high_weight_genes"]``, or None if there is none.
    markers
        Table of markers as in :func:`load_markers`, or None if no table fits.
    names, symbols
        The genes that the model saw, as ``high_weight`` and as the markers name them.
    groups
        Groups to name.
    ranking
        Which ranking of genes to read: ``"weights"`` is the paper's.
    min_genes
        Markers that a type needs among ``names``.
    max_q
        Largest q-value that names a group.

    Returns
    -------
    By group: ``by_weights`` ("" where there are no high-weight genes for it), ``by_weights_q`` and
    ``by_weights_genes`` (the genes in common).
    """
    out = pd.DataFrame({"by_weights": "", "by_weights_q": float("nan"), "by_weights_genes": ""}, index=groups)
    if high_weight is None or markers is None:
        return out
    chosen = high_weight[
        (high_weight["ranking"] == ranking)
        & (high_weight["direction"] == "up")
        & high_weight["confirmed"].astype(bool)
        & high_weight["group"].astype(str).isin(groups)
    ]
    up = markers[markers["direction"] == "up"]
    position = match_genes(up["gene"], symbols)
    up = up.assign(found=names.to_numpy()[position.to_numpy()])[position >= 0]
    sets = {t: set(genes) for t, genes in up.groupby("cell_type", sort=False)["found"]}
    sets = {t: genes for t, genes in sets.items() if len(genes) >= min_genes}
    tests = []
    for group, rows in chosen.groupby(chosen["group"].astype(str), sort=False):
        drawn = [gene for gene in dict.fromkeys(rows["gene"].astype(str)) if gene in names]
        for cell_type, genes in sets.items():
            common = [gene for gene in drawn if gene in genes]
            p_value = hypergeom.sf(len(common) - 1, len(names), len(genes), len(drawn))
            tests.append((group, cell_type, p_value, ",".join(common)))
    if not tests:
        return out
    table = pd.DataFrame(tests, columns=["group", "cell_type", "p_value", "genes"])
    table["q_value"] = false_discovery_control(table["p_value"])
    best = table.loc[table.groupby("group")["p_value"].idxmin()].set_index("group")
    out.loc[best.index, "by_weights"] = best["cell_type"].where(best["q_value"] <= max_q, _keys.UNASSIGNED)
    out.loc[best.index, "by_weights_q"] = best["q_value"]
    out.loc[best.index, "by_weights_genes"] = best["genes"]
    return out


def disagreement(annotation: pd.DataFrame) -> str | None:
    """Say in how many clusters the two names agree; None where they agree in all, or none has both."""
    both = annotation["agree"].dropna()
    if both.all():
        return None
    return (
        f"Names by decoder weights agree with names by expression in {both.sum()} of {len(both)} clusters that have "
        "both; trust those by expression."
    )


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
