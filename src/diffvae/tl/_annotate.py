"""Which cell type is each cluster, by marker genes?"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, hypergeom

from diffvae import _keys
from diffvae._core import genes as _genes
from diffvae._core.anndata import groups, representation, results
from diffvae._core.components import principal_components
from diffvae._core.io.matrix import blocks, matrix_of, quoted, values
from diffvae._core.io.matrix import source as matrix_name
from diffvae._core.validate import Number, Rule, Whole, check
from diffvae._errors import DataError
from diffvae._random import Rng, seed
from diffvae.pp._check import near_whole
from diffvae.pp._unfiltered import UNFILTERED
from diffvae.tl import _names
from diffvae.tl._cluster import NOISE
from diffvae.tl._markers import (
    GeneLevels,
    Markers,
    bundled_names,
    load_markers,
    match_genes,
    read_markers,
    score_sets,
)

if TYPE_CHECKING:
    from anndata import AnnData

MIN_FOUND = 0.1
"""``markers="auto"``: share of the genes of a table that the data must have, with the same spelling."""
MIN_NAMED = 0.5
"""``markers="auto"``: share of the cells that a table must name to be taken for this tissue."""
MIN_TYPES = 3
"""``markers="auto"``: number of types that a table must name (or one per cluster, if there are fewer)."""
MIN_SHARE = 0.2
"""Share of the markers of a type that the data must have: two genes of twelve can't tell a type."""
NEAR = 0.8
"""Share of the best score at which the second best type makes the name uncertain."""
TOO_FEW = f"fewer than {_names.NAMED:.0%} of the cells have the markers of a type"
"""Reason of a cluster whose markers lie above the other clusters, but are not present."""
SCORES = ["group", "cell_type", "score", "p_value", "q_value", "n_markers", "n_up", "genes"]
"""Columns of ``uns["diffvae"]["annotation_scores"]``."""
NO_TYPE: dict[str, Any] = {
    "cell_type": "",
    "score": np.nan,
    "q_value": np.nan,
    "n_markers": 0,
    "n_up": 0,
    "genes": "",
    "reason": "nothing to compare",
}
"""Row of a cluster without any type."""
RULES: dict[str, Rule] = {
    "min_genes": Whole(1),
    "max_q": Number("(0, 1]"),
    "min_score": Number("(-inf, inf)"),
    "n_permutations": Whole(1),
}


def candidates(
    markers: Markers, var: pd.DataFrame, source: str, gene_symbols: str | None = None
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame | None, _genes.Found]:
    """Return the tables to score, with "auto" a row for each bundled table with the share found, and the names used."""
    where = "adata.raw.var" if source == "adata.raw" else "adata.var"
    if not (isinstance(markers, str) and markers == "auto"):
        name, table = read_markers(markers)
        found = _genes.find(table["gene"], var, column=gene_symbols, where=where)
        if (found.position < 0).all():
            columns = f" and in the columns of {where}" * (gene_symbols is None and var.shape[1] > 0)
            raise DataError(
                f"None of the {table['gene'].nunique()} marker genes ({quoted(table['gene'].unique())}) is among the "
                f"genes of {source} ({quoted(found.names)}); they were looked for there{columns}. Give markers for "
                "this species, or name the genes as the markers do."
            )
        return {name: table.assign(gene=found.wanted)}, None, found
    tables = {name: load_markers(name) for name in bundled_names()}
    every = dict.fromkeys(gene for table in tables.values() for gene in table["gene"])
    found = _genes.find(every, var, column=gene_symbols, fold=False, where=where)
    shares = [table["gene"].drop_duplicates().isin(found.names).mean() for table in tables.values()]
    tried = pd.DataFrame({"markers": list(tables), "found": shares, "named": 0.0, "n_types": 0, "evidence": 0.0})
    return {name: tables[name] for name in tried.loc[tried["found"] >= MIN_FOUND, "markers"]}, tried, found


def _gene_sets(table: pd.DataFrame, names: pd.Index, min_genes: int) -> dict[str, pd.DataFrame]:
    """Return the markers of each cell type that the data have, with weights and signs."""
    listed = table.loc[table["direction"] == "up", "cell_type"].value_counts()
    table = table.assign(position=match_genes(table["gene"], names).to_numpy())
    table = table[table["position"] >= 0].drop_duplicates(["cell_type", "position"])
    table["gene"] = names.to_numpy()[table["position"].to_numpy()]
    table["sign"] = np.where(table["direction"] == "up", 1.0, -1.0)
    table["weight"] = 1.0 / table.groupby(["position", "sign"])["gene"].transform("size")
    by_type = {str(name): genes for name, genes in table.groupby("cell_type", sort=False)}
    n_found = {name: (genes["sign"] > 0).sum() for name, genes in by_type.items()}
    return {t: by_type[t] for t, n in n_found.items() if n >= max(min_genes, MIN_SHARE * listed.get(t, 0))}


def score(
    x: Any,
    labels: pd.Categorical,
    sets: dict[str, _names.Sets],
    levels: GeneLevels,
    *,
    n_permutations: int,
    rng: Rng,
) -> pd.DataFrame:
    """Return the score of every group with every type of every table; empty if there is nothing to compare."""
    positions = [genes["position"].to_numpy() for types in sets.values() for genes in types.values()]
    n_groups = len(labels.categories)
    if not positions or n_groups < 2:
        return pd.DataFrame({column: [] for column in ["markers", *SCORES]})
    needed = np.unique(np.concatenate([*positions, *levels.controls]))
    delta = _names.above_others(x, np.asarray(labels.codes), needed)
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
    """Return why each type cannot name the group, "" if it can."""
    failed = {
        f"q-value above {max_q:g}": scores["q_value"] > max_q,
        f"score below {min_score:g}": scores["score"] < min_score,
        f"fewer than {min_genes} markers above the other clusters": scores["n_up"] < min_genes,
    }
    return np.select(list(failed.values()), list(failed), default="").astype(object)


def summarise(scores: pd.DataFrame, labels: pd.Categorical, of_cell: np.ndarray | None = None) -> pd.DataFrame:
    """Return one row per group: its name by the names of its cells, the best type with its score, and the second."""
    rows = []
    for code, group in enumerate(labels.categories):
        inside = labels.codes == code
        of_group = scores[scores["group"] == group].sort_values("score", ascending=False, kind="stable")
        ranked: list[dict[str, Any]] = of_group.to_dict("records")
        names = np.full(inside.sum(), _keys.UNASSIGNED, object) if of_cell is None else of_cell[inside]
        name = _names.compose(names)
        types = name.removeprefix(_names.MIXED).split(_names.AND)
        able = [row for row in ranked if not row["reason"]]
        named = [row for row in ranked if row["cell_type"] in types]
        best = next(iter(named or able or ranked), NO_TYPE)
        second = next((row for row in ranked if row is not best), NO_TYPE)
        reason = best["reason"] or TOO_FEW if name == _keys.UNASSIGNED else ""
        one = name == best["cell_type"]
        rows.append(
            {
                "group": group,
                "n_cells": int(inside.sum()),
                "cell_type": name,
                "best": best["cell_type"],
                **{column: best[column] for column in ["score", "q_value", "n_markers", "n_up", "genes"]},
                "runner_up": second["cell_type"],
                "runner_up_score": second["score"],
                "confident": one and not best["reason"] and not second["score"] > NEAR * best["score"],
                "reason": reason,
                "types": _shares(names),
            }
        )
    return pd.DataFrame(rows)


def _shares(names: np.ndarray) -> str:
    """Return the names of the cells of a group with their shares, in words."""
    shares = pd.Series(names).value_counts(normalize=True)
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)


def choose(
    table: dict[str, pd.DataFrame],
    scores: pd.DataFrame,
    found: dict[str, _names.Naming],
    tried: pd.DataFrame | None,
    labels: pd.Categorical,
    min_genes: int,
) -> tuple[str, str]:
    """Return the name of the table to use, or "" and a message that says why none fits."""
    if not table:
        return "", (
            f"No bundled marker table has {MIN_FOUND:.0%} of its genes in the data, neither by name nor in a column of "
            "adata.var, so no cluster is named; pass markers=... with a table of your own."
        )
    if len(labels.categories) < 2:
        return "", "There are fewer than two clusters to compare, so no cluster is named."
    if not found:
        return "", f"No cell type has {min_genes} of its markers in the data, so no cluster is named."
    if tried is None:
        return next(iter(table)), ""
    for name, naming in found.items():
        named = naming.parts[naming.parts["cell_type"] != _keys.UNASSIGNED]
        share = named["n_cells"] / len(labels)
        row = tried["markers"] == name
        # clusters as a whole must have the evidence as well: among their many parts some look like any type
        able = scores[(scores["markers"] == name) & (scores["reason"] == "")]
        best = able.sort_values("score", ascending=False, kind="stable").drop_duplicates("group")
        of_clusters = labels.isin(best["group"]).mean()
        tried.loc[row, "named"] = min((naming.of_cell != _keys.UNASSIGNED).mean(), of_clusters)
        tried.loc[row, "n_types"] = min(named["best"].nunique(), best["cell_type"].nunique())
        tried.loc[row, "evidence"] = (share * named["score"]).sum()
    n_types = min(MIN_TYPES, len(labels.categories))
    fits = tried[(tried["named"] >= MIN_NAMED) & (tried["n_types"] >= n_types)]
    if fits.empty:
        most = tried.nlargest(1, "evidence").iloc[0]
        return "", (
            f"No bundled marker table fits: {most['markers']}, the best, names {most['named']:.0%} of the cells and "
            f"{most['n_types']} types, fewer than {MIN_NAMED:.0%} and {n_types}. The cells are of another tissue or "
            "too few, and stay unassigned; pass markers=... to choose a table, bundled or your own."
        )
    return str(fits.nlargest(1, "evidence")["markers"].iloc[0]), ""


def name_by_weights(
    high_weight: pd.DataFrame | None,
    markers: pd.DataFrame | None,
    names: pd.Index,
    symbols: pd.Index,
    groups: list[str],
    *,
    min_genes: int,
    max_q: float,
) -> pd.DataFrame:
    """Name groups by the overlap of their high-weight genes with markers.

    Hypergeometric test of the genes that the decoder's weights raise in a group, as far as the cells confirm it,
    against the markers of each type among ``names`` (the genes of the model; ``symbols`` are their gene symbols), with
    Benjamini-Hochberg over groups and types. ``markers`` is None if no table fits.

    Returns
    -------
    By group: ``by_weights`` ("" without high-weight genes), ``by_weights_q`` and ``by_weights_genes`` (in common).
    """
    out = pd.DataFrame({"by_weights": "", "by_weights_q": float("nan"), "by_weights_genes": ""}, index=groups)
    if high_weight is None or markers is None:
        return out
    chosen = high_weight[
        (high_weight["ranking"] == "weights")
        & (high_weight["direction"] == "up")
        & high_weight["confirmed"].astype(bool)
        & high_weight["group"].astype(str).isin(groups)
    ]
    up = markers[markers["direction"] == "up"]
    position = match_genes(up["gene"], symbols)
    up = up.assign(name=names.to_numpy()[position.to_numpy()])[position >= 0]
    sets = {t: set(genes) for t, genes in up.groupby("cell_type", sort=False)["name"]}
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
    """Return a sentence on how many clusters have two names that agree; None if all do."""
    both = annotation["agree"].dropna()
    if both.all():
        return None
    return (
        f"Names by decoder weights agree with names by expression in {both.sum()} of {len(both)} clusters that have "
        "both; prefer those by expression."
    )


def annotate(
    adata: AnnData,
    markers: Markers = "auto",
    groupby: str = _keys.CLUSTER,
    *,
    key_added: str = _keys.CELL_TYPE,
    use_raw: bool | None = None,
    layer: str | None = None,
    gene_symbols: str | None = None,
    use_rep: str | None = None,
    split: bool = True,
    min_genes: int = 2,
    max_q: float = 0.05,
    min_score: float = 0.1,
    n_permutations: int = 10_000,
    rng: Rng = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Name clusters by marker genes, with the evidence, its null, and the second best name.

    A marker supports cluster c as far as it is expressed more in the cells of c than in those of the other clusters:
    :math:`\delta_{cg}` is twice the area under the ROC curve minus 1, averaged over the other clusters. Every cluster
    has one vote whatever its size, and clusters with similar expression share a vote, so that neither a common type nor
    a type that was cut into many clusters weakens its own markers. The score of type t is

    .. math:: S_{ct} = \frac{\sum_{g \in t} w_g s_g (\delta_{cg} - \bar\delta_{cg})}{\sum_{g \in t} w_g}

    with :math:`w_g = 1/k` for a marker of k types, :math:`s_g = -1` for genes that the type should lack, and
    :math:`\bar\delta_{cg}` the mean over genes with the same level of expression. The p-value compares with sets in
    which every marker is replaced by a random gene of its level; q-values are Benjamini-Hochberg over clusters and
    types (and over all tables under ``"auto"``). The best type names the cluster if q is at most ``max_q``, the score
    at least ``min_score``, and at least ``min_genes`` of its markers lie above the other clusters; otherwise the cells
    are "unassigned". If the second best type has at least 80 % of the score, ``confident`` is False. The evidence is
    relative to the other clusters, so a single cluster stays unassigned. "noise" is left out and unassigned.

    The cells are named by parts of clusters, because a cluster can hold several types (NK cells among T cells). Each
    cluster is cut by k-means into parts of about 25 cells, at most 20; cells with at least half the mean score of
    simulated doublets (:func:`diffvae.pp.doublet_score`) are cut into parts of their own. A part gets the name of a
    type only if a third of its markers are *present*: expressed by 20 % of the cells, and more than in the other parts;
    a cell must express 1.5 of them on average (0.75 of ``min_genes``). A second type with 70 % of the best score is
    named as well, "A / B". A part is "mixed: A / B" if it has the markers of both types: it lies at least 40 % of the
    way from A to B and from B to A,

    .. math:: \frac{1}{|G|} \sum_{g \in G} \min\Bigl(1, \max\Bigl(0, \frac{x_g - a_g}{b_g - a_g}\Bigr)\Bigr)

    with x the mean of the part, a and b those of the two types over their clearest parts, and G the markers that tell
    them apart. Cells with the markers of another type and less of their own become "unassigned". The name of a cluster
    is that of 90 % of its named cells, else all names with 10 %: "T cell / NK cell".

    After :func:`high_weight_genes`, each cluster is also named by the genes that the decoder's weights raise in it, as
    far as the cells confirm it (hypergeometric overlap with the markers); ``agree`` compares the two names.

    Parameters
    ----------
    adata
        With log-normalised expression and clusters. Only the ranks of the cells within each gene matter.
    markers
        Name of a bundled table (:func:`load_markers`); a dictionary {cell type: [genes]}; a DataFrame, CSV or TSV file
        with the columns ``cell_type``, ``gene`` and optionally ``direction`` ("up", "down") and ``source``; or
        ``"auto"``: the bundled table with the largest mean score over cells, among those of this species (whose genes
        have the same spelling). It must name at least half of the cells and three types (one per cluster, if there are
        fewer than three clusters). If no table does, all cells are "unassigned", with a warning.
    groupby
        Key of the clusters in ``obs``.
    key_added
        Key in ``obs`` to write.
    use_raw
        Read ``adata.raw``; by default if it exists and ``layer`` is not given.
    layer
        Layer to read instead of X.
    gene_symbols
        Column of ``var`` with the names of genes that the markers have. By default ``var_names``, or another column
        or a part of the names that has clearly more of the markers, with a warning that says which. Columns of both
        ``adata.var`` and ``adata.raw.var`` count.
    use_rep
        Key in ``obsm`` of the representation in which clusters are cut into parts; by default ``"X_diffvae"``,
        ``"X_pca"`` or principal components, the first that there is.
    split
        Name parts of clusters. False gives all cells of a cluster one name.
    min_genes
        Markers of a type that the data must have (and a fifth of those that the table lists), and that must lie above
        the other clusters.
    max_q, min_score
        Largest q-value and smallest score at which a type names a cluster.
    n_permutations
        Random gene sets per type.
    rng
        Seed or generator.
    copy
        Return a copy instead of writing into ``adata``.

    Returns
    -------
    None, or the copy. Writes

    ``obs[key_added]``
        The name of each cell, categorical. Two clusters may have the same name.
    ``uns["diffvae"]["annotation"]``
        One row per cluster: ``group``, ``n_cells``, ``cell_type``, ``best`` (the best type, even if it does not name
        the cluster), ``score`` and ``q_value`` (of ``best``), ``n_markers`` (its markers in the data), ``n_up`` (its
        markers above the other clusters), ``genes`` (the largest contributions, comma separated; "CD14-" contributes
        by its absence), ``runner_up``, ``runner_up_score``, ``confident``, ``by_weights``, ``by_weights_q``,
        ``by_weights_genes``, ``agree`` (NA if a name is missing), ``reason`` (why it is unassigned), ``types`` (names
        of its cells with their shares), ``mixture`` ("doublets" or "transition" if it is mixed) and ``top_genes`` (the
        largest differences of means among genes that half of its cells express, comma separated).
    ``uns["diffvae"]["annotation_parts"]``
        One row per part: ``part``, ``group`` (its cluster, or "suspected doublets"), ``n_cells``, ``suspect``,
        ``cell_type``, ``best``, ``score``, ``n_markers``, ``n_present``, ``second`` (the type that it is nearest to
        besides), ``way_from_second`` and ``way_to_second`` (both 0.4 or more: mixed).
    ``uns["diffvae"]["annotation_mixtures"]``
        One row per mixture of two types: ``cell_type``, ``n_cells``, ``kind``, ``n_at_most`` (doublets of the two types
        if 20 % of all cells were doublets), ``genes_ratio`` (median of expressed genes, relative to the larger of the
        two types) and ``doublet_score`` (median). It is called doublets if it has no more cells than that, more genes,
        and a score above that of 90 % of the cells of both types; otherwise a transition.
    ``uns["diffvae"]["annotation_scores"]``
        One row per cluster and type: ``group``, ``cell_type``, ``score``, ``p_value``, ``q_value``,
        ``n_markers``, ``n_up``.
    ``uns["diffvae"]["annotation_tables"]``
        With ``"auto"``, one row per bundled table: ``markers``, ``found`` (share of its genes), ``named`` (share
        of the cells), ``n_types``, ``evidence`` (mean score over cells).
    ``uns["diffvae"]["annotation_params"]``
        All parameters, the table that was used (``markers``; "" if none fits), where the names of genes stand
        (``gene_names``) and a ``message``.

    Raises
    ------
    DataError
        If the clusters or all markers are missing, the values are counts or not finite, or the table is not readable.

    Examples
    --------
    >>> import diffvae as dv, scanpy as sc
    >>> adata = sc.datasets.pbmc68k_reduced()
    >>> dv.tl.annotate(adata, "blood-human", groupby="louvain", n_permutations=1000)
    >>> table = adata.uns["diffvae"]["annotation"].set_index("group")
    >>> table.loc["4", "cell_type"], table.loc["4", "genes"].split(",")[:2]
    ('B cell', ['CD79B', 'CD79A'])
    """
    check(RULES, min_genes=min_genes, max_q=max_q, min_score=min_score, n_permutations=n_permutations)
    labels = groups(adata, groupby)
    x, var, source = _expression(adata, use_raw, layer)
    tables, tried, genes = candidates(markers, var, source, gene_symbols)
    names = genes.names
    noise = np.asarray(labels == NOISE)
    clusters = labels[~noise].remove_unused_categories()
    cells = x[~noise] if noise.any() else x
    codes = np.asarray(clusters.codes)
    sets = {name: _gene_sets(table, names, min_genes) for name, table in tables.items()}
    levels = GeneLevels(cells, rng)
    scores = score(cells, clusters, sets, levels, n_permutations=n_permutations, rng=rng)
    scores["reason"] = reasons(scores, min_genes, max_q, min_score)
    doublet_score = _doublet_score(adata, ~noise)
    found = {}
    if len(scores):
        groups_of = clusters.categories.astype(str).tolist()
        z = _places(adata, use_rep, cells, rng)[~noise] if split else None
        suspect = _suspect(adata, ~noise) if split else np.zeros(len(codes), bool)
        found = {
            name: _names.name_cells(
                cells, z, codes, suspect, types, levels, scores[scores["markers"] == name],
                groups_of, min_genes=min_genes, max_q=max_q, min_score=min_score, rng=rng,
            )
            for name, types in sets.items()
            if types
        }  # fmt: skip
    used, message = choose(tables, scores, found, tried, clusters, min_genes)
    if not used and _is_unfiltered(adata):
        message = "No cluster is named, because most barcodes hold no cell; leave those out first."
    of_cell = found[used].of_cell if used else np.full(len(codes), _keys.UNASSIGNED, object)
    chosen = summarise(scores[scores["markers"] == used], clusters, of_cell)
    mixed = _names.mixtures(of_cell, _n_expressed(cells), doublet_score)
    chosen["mixture"] = chosen["cell_type"].map(mixed.set_index("cell_type")["kind"]).fillna("")
    chosen["top_genes"] = _names.top_genes(cells, codes, names)
    if noise.any():
        row = summarise(scores.iloc[:0], labels[noise].remove_unused_categories()).assign(reason="noise, no cluster")
        chosen = pd.concat([chosen, row.assign(mixture="", top_genes="")], ignore_index=True)
    by_weights = name_by_weights(
        adata.uns.get(_keys.UNS, {}).get("high_weight_genes"),
        tables[used] if used else None,
        adata.var_names,
        genes.form.of(_genes.table(adata)),
        chosen["group"].tolist(),
        min_genes=min_genes,
        max_q=max_q,
    )
    chosen = pd.concat([chosen, by_weights.reset_index(drop=True)], axis=1)
    chosen["agree"] = _agree(chosen["cell_type"], chosen["by_weights"])

    adata = adata.copy() if copy else adata
    of_all = np.full(adata.n_obs, _keys.UNASSIGNED, object)
    of_all[~noise] = of_cell
    present = set(of_all)
    first = [*chosen["cell_type"], *pd.Series(of_cell).value_counts().index]
    categories = [name for name in dict.fromkeys(first) if name in present - {_keys.UNASSIGNED}]
    if _keys.UNASSIGNED in present:
        categories.append(_keys.UNASSIGNED)
    adata.obs[key_added] = pd.Categorical(of_all, categories=categories)
    stored = results(adata)
    stored["annotation"] = chosen
    stored["annotation_scores"] = scores.loc[scores["markers"] == used, SCORES].reset_index(drop=True)
    stored["annotation_parts"] = found[used].parts if used else pd.DataFrame(columns=["part", "group", "n_cells"])
    stored["annotation_mixtures"] = mixed
    stored.pop("annotation_tables", None)
    if tried is not None:
        stored["annotation_tables"] = tried
    stored["annotation_params"] = {
        "markers": used,
        "auto": tried is not None,
        "groupby": groupby,
        "key_added": key_added,
        "source": source,
        "gene_names": gene_symbols or genes.how or "var_names",
        "min_genes": min_genes,
        "max_q": max_q,
        "min_score": min_score,
        "n_permutations": n_permutations,
        "split": split,
        "rng": int(rng) if not isinstance(rng, np.random.Generator) else "generator",
        "message": message,
    }
    if genes.how:
        warnings.warn(f"Genes are matched to the markers by {genes.how}.", UserWarning, stacklevel=2)
    if message:
        warnings.warn(message, UserWarning, stacklevel=2)
    return adata if copy else None


def _expression(adata: AnnData, use_raw: bool | None, layer: str | None) -> tuple[Any, pd.DataFrame, str]:
    """Return cells x genes, the table of the genes, and the name of the matrix."""
    if use_raw and layer is not None:
        raise ValueError(f"use_raw is True and layer is {layer!r}; give only one of them.")
    if use_raw and adata.raw is None:
        raise DataError("use_raw is True but adata.raw is None; leave use_raw out to read adata.X.")
    from_raw = use_raw if use_raw is not None else layer is None and adata.raw is not None
    where = "adata.raw" if from_raw else matrix_name(layer)
    x = adata.raw.X if from_raw else matrix_of(adata, layer)
    whole = True
    for _, _, block in blocks(x):
        if not np.isfinite(values(block)).all():
            raise DataError(f"{where} has NaN or infinite values; replace them first.")
        whole = whole and bool(near_whole(values(block)).all())
    if whole:
        raise DataError(
            f"{where} has only whole numbers, which are counts; run diffvae.pp.prepare(adata) first, or choose "
            "log-normalised values with layer=... or use_raw=True."
        )
    return x, _genes.table(adata, raw=bool(from_raw)), where


def _is_unfiltered(adata: AnnData) -> bool:
    """Return whether the preparation found that most barcodes hold no cell."""
    said = adata.uns.get(_keys.UNS, {}).get("prepare", {}).get("warnings", ())
    return any(str(text).startswith(UNFILTERED) for text in np.atleast_1d(said))


def _places(adata: AnnData, use_rep: str | None, x: Any, rng: Rng) -> np.ndarray:
    """Return the representation in which clusters are cut."""
    for key in [use_rep] if use_rep else [_keys.LATENT, "X_pca"]:
        if use_rep or key in adata.obsm:
            return representation(adata, str(key)).astype(float)
    if min(x.shape) < 3 or x.shape[0] < adata.n_obs:
        return np.zeros((adata.n_obs, 1))
    return np.asarray(principal_components(x, seed(rng, "parts of clusters") % 2**31), float)


def _doublet_score(adata: AnnData, inside: np.ndarray) -> np.ndarray | None:
    if _keys.DOUBLET_SCORE not in adata.obs:
        return None
    return np.asarray(adata.obs[_keys.DOUBLET_SCORE], float)[inside]


def _suspect(adata: AnnData, inside: np.ndarray) -> np.ndarray:
    """Return which cells have a high doublet score, if :func:`diffvae.pp.doublet_score` was called."""
    key = f"{_keys.DOUBLET_SCORE}_high"
    if key not in adata.obs:
        return np.zeros(int(inside.sum()), bool)
    return adata.obs[key].to_numpy(bool)[inside]


def _n_expressed(x: Any) -> np.ndarray:
    return np.asarray((x > 0).sum(axis=1)).ravel().astype(float)


def _agree(cell_type: pd.Series, by_weights: pd.Series) -> pd.Series:
    """Return whether the two names are the same, NA if one is missing."""
    both = ~cell_type.eq(_keys.UNASSIGNED) & ~by_weights.isin(["", _keys.UNASSIGNED])
    parts = cell_type.str.removeprefix(_names.MIXED).str.split(" / ")  # a name of several types agrees with each
    same = [weighed in names for names, weighed in zip(parts, by_weights, strict=True)]
    return pd.Series(same, index=cell_type.index).astype("boolean").where(both)
