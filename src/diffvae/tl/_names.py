"""Names that abstain: parts of clusters, markers that are present in absolute terms, and mixtures of two types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.stats import false_discovery_control, norm

from diffvae import _keys
from diffvae._random import Rng, seed
from diffvae.tl._markers import N_SHOWN, GeneLevels, pairwise_auc, share_votes

PART_SIZE, SUSPECT_SIZE = 25, 12
"""Cells of a part, and of a part of suspected doublets, on average."""
MIN_PART = 8
"""Cells of a part, at least."""
MAX_PARTS = 20
"""Parts of a cluster, at most."""
MARKERS_WEIGH = 0.5
"""Length of the marker scores beside that of the representation when clusters are cut."""
DETECTED = 0.2
"""Share of the cells of a part that must express a marker for it to be present."""
PRESENT = 1 / 3
"""Share of the markers of a type that must be present."""
PER_CELL = 0.75
"""Markers that a cell of the part must express on average, relative to ``min_genes``. Cells were put together by their
markers, so that each may have one by chance."""
PART_Q = 0.2
"""Share of the largest q-value of a cluster that a part may have: the p-values of parts are approximate."""
NEAR = 0.7
"""Share of the best score at which a second type is named as well."""
BOTH = 0.4
"""Share of the way from one type to the other, from both ends, at which a part has the markers of both."""
CONTRARY = 0.3
"""Share of the way to another type at which a cell that is nearer to it than to its own name loses that name."""
TELLS_APART = 0.25
"""Difference of mean log expression between two types at which a marker tells them apart."""
MOSTLY, ALSO = 0.9, 0.1
"""Share of the named cells of a cluster with one name that names it alone, and share that is named beside others."""
NAMED = 0.5
"""Share of the cells of a cluster that must have a name for the cluster to have one."""
MAX_DOUBLETS = 0.2
"""Share of doublets among all cells, at most: a mixture with more cells than these make is no mixture of doublets."""
MIXED, AND = "mixed: ", " / "
SUSPECT = "suspected doublets"
"""``group`` of the parts of suspected doublets, which come from several clusters."""

Sets = dict[str, pd.DataFrame]


def split(z: np.ndarray, codes: np.ndarray, suspect: np.ndarray, rng: Rng) -> np.ndarray:
    """Cut every cluster into parts of similar cells, and the suspected doublets of all clusters; return the parts.

    k-means within each cluster, into at most ``MAX_PARTS`` parts of ``PART_SIZE`` cells on average, so that the time is
    linear in the number of cells. Parts below ``MIN_PART`` cells join the nearest part.
    """
    n_clusters, n = int(codes.max()) + 1, 0
    groups = np.where(suspect, n_clusters, codes)
    part = np.zeros(len(codes), np.int64)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        size, most = (SUSPECT_SIZE, MAX_PARTS * n_clusters) if group == n_clusters else (PART_SIZE, MAX_PARTS)
        k = int(np.clip(len(rows) // size, 1, most))
        part[rows] = n + _means(z[rows], k, seed(rng, "parts", str(group)) % 2**31)
        n = int(part.max()) + 1
    return part


def _means(z: np.ndarray, k: int, random_state: int) -> np.ndarray:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if k < 2:
        return np.zeros(len(z), np.int64)
    means: Any = KMeans if len(z) < 20_000 else MiniBatchKMeans
    model = means(k, n_init=1, random_state=random_state).fit(z)
    large = np.flatnonzero(np.bincount(model.labels_, minlength=k) >= MIN_PART)
    if len(large) < 2:
        return np.zeros(len(z), np.int64)
    nearest = np.argmin(model.transform(z)[:, large], axis=1)
    return np.unique(nearest, return_inverse=True)[1].astype(np.int64)


def places(z: np.ndarray, x: Any, sets: Sets, codes: np.ndarray) -> np.ndarray:
    """Return the representation beside the marker scores, each with the same spread within clusters in all data."""
    scores = marker_scores(x, sets)
    blocks = [(z, 1.0), (scores, MARKERS_WEIGH)] if scores.shape[1] else [(z, 1.0)]
    return np.hstack([block * (weight / max(_spread(block, codes), 1e-12)) for block, weight in blocks])


def _spread(z: np.ndarray, codes: np.ndarray) -> float:
    """Return the root of the mean squared distance of the cells from the mean of their cluster."""
    size = np.bincount(codes)
    total = sum(np.square(z).sum(axis=0)) - sum(
        (np.square(np.bincount(codes, weights=column)) / size).sum() for column in z.T
    )
    return float(np.sqrt(max(total, 0.0) / len(z)))


def marker_scores(x: Any, sets: Sets) -> np.ndarray:
    """Return the mean expression of the markers of each type, each relative to its largest: cells x types."""
    rows = sp.csr_matrix(x)
    largest = np.maximum(rows.max(axis=0).toarray().ravel(), 1e-12)
    weights = np.zeros((rows.shape[1], len(sets)))
    for i, genes in enumerate(sets.values()):
        up = genes[genes["sign"] > 0]
        weights[up["position"], i] = up["weight"] / up["weight"].sum() / largest[up["position"]]
    return np.asarray(rows @ weights)


def averages(x: Any, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean expression, and the share of the cells that express each gene, parts x genes."""
    size = np.bincount(part)
    member = sp.csr_matrix((1 / size[part], (part, np.arange(len(part)))), shape=(len(size), len(part)))
    rows = sp.csr_matrix(x)
    positive = rows.copy()
    positive.data = (positive.data > 0).astype(float)
    return (member @ rows).toarray(), (member @ positive).toarray()


def score_parts(delta: np.ndarray, detected: np.ndarray, sets: Sets, levels: GeneLevels) -> pd.DataFrame:
    r"""Score gene sets in every part, as :func:`score_sets` in every cluster, and count the markers that are present.

    The p-value is that of a normal distribution with the mean and variance of a random set (every marker replaced by a
    gene of its level), because permutations of many parts take long; q-values are Benjamini-Hochberg. A marker is
    present if ``DETECTED`` of the cells express it and they do so more than the other parts.

    Returns
    -------
    One row per part and type: ``part``, ``cell_type``, ``score``, ``q_value``, ``n_markers``, ``n_present``,
    ``per_cell`` (markers that a cell expresses, on average).
    """
    frames = []
    for name, genes in sets.items():
        position, sign = genes["position"].to_numpy(), genes["sign"].to_numpy()
        share = sign * genes["weight"].to_numpy() / genes["weight"].sum()
        mean, variance = np.zeros(len(delta)), np.zeros(len(delta))
        for gene, weight in zip(position, share, strict=True):
            pool = delta[:, levels.pool(gene, position)]
            mean += weight * pool.mean(axis=1)
            variance += weight**2 * pool.var(axis=1)
        score = (delta[:, position] * share).sum(axis=1) - mean
        up = position[sign > 0]
        present = ((detected[:, up] >= DETECTED) & (delta[:, up] > 0)).sum(axis=1)
        frames.append(
            pd.DataFrame(
                {
                    "part": np.arange(len(delta)), "cell_type": name, "score": score,
                    "p_value": norm.sf(score / np.sqrt(np.maximum(variance, 1e-12))),
                    "n_markers": len(up), "n_present": present, "per_cell": detected[:, up].sum(axis=1),
                }
            )
        )  # fmt: skip
    scores = pd.concat(frames, ignore_index=True)
    scores["q_value"] = false_discovery_control(scores["p_value"])
    return scores.drop(columns="p_value")


def own_genes(sets: Sets) -> dict[str, np.ndarray]:
    """Return the positions of the markers that no other type of the table shares; all, if there are fewer than 2."""
    out = {}
    for name, genes in sets.items():
        up = genes[genes["sign"] > 0]
        own = up[up["weight"] == 1]
        out[name] = (own if len(own) > 1 else up)["position"].to_numpy()
    return out


def way_to(x: np.ndarray, start: np.ndarray, end: np.ndarray, genes: np.ndarray) -> np.ndarray:
    r"""Return how far rows of x are on the way from one mean to another, 0 to 1.

    .. math:: \frac{1}{|G|} \sum_{g \in G} \min\Bigl(1, \max\Bigl(0, \frac{x_g - a_g}{b_g - a_g}\Bigr)\Bigr)

    over the genes G with :math:`b_g - a_g` above ``TELLS_APART``; 0 if there are fewer than two.
    """
    gap = end[genes] - start[genes]
    genes, gap = genes[gap > TELLS_APART], gap[gap > TELLS_APART]
    if len(genes) < 2:
        return np.zeros(len(x))
    return np.asarray(np.clip((x[:, genes] - start[genes]) / gap, 0, 1).mean(axis=1))


@dataclass
class Naming:
    """Names of parts and cells by one table.

    Attributes
    ----------
    parts
        One row per part: ``part``, ``n_cells``, ``suspect``, ``cell_type``, ``best``, ``score``, ``n_markers``,
        ``n_present``, ``second``, ``way_from_second``, ``way_to_second``.
    of_cell
        Name of each cell.
    means
        Mean expression of each type, over its clearest parts.
    """

    parts: pd.DataFrame
    of_cell: np.ndarray
    means: dict[str, np.ndarray] = field(default_factory=dict)


def name_parts(
    scores: pd.DataFrame,
    mean: np.ndarray,
    part: np.ndarray,
    suspect: np.ndarray,
    sets: Sets,
    *,
    min_genes: int,
    max_q: float,
    min_score: float,
) -> Naming:
    """Name every part: one type, several that are near, "mixed" of two, or "unassigned"."""
    size = np.bincount(part)
    need = np.maximum(min_genes, PRESENT * scores["n_markers"])
    able = (scores["q_value"] <= PART_Q * max_q) & (scores["score"] >= min_score) & (scores["n_present"] >= need)
    able &= scores["per_cell"] >= PER_CELL * min_genes
    rows = []
    ranked = scores.assign(able=able).sort_values(["able", "score"], ascending=False, kind="stable")
    for number, types in ranked.groupby("part"):
        first, named = types.iloc[0], types[types["able"]]
        near = named[named["score"] >= NEAR * first["score"]]["cell_type"]
        rows.append(
            {
                "part": number, "n_cells": int(size[number]), "suspect": bool(suspect[number]),
                "cell_type": AND.join(near) if len(near) else _keys.UNASSIGNED, "best": first["cell_type"],
                "score": first["score"], "n_markers": first["n_markers"], "n_present": first["n_present"],
                "second": "", "way_from_second": np.nan, "way_to_second": np.nan,
            }
        )  # fmt: skip
    parts = pd.DataFrame(rows)
    means = _means_of_types(parts, mean, sets)
    own, order = own_genes(sets), {name: i for i, name in enumerate(sets)}
    for name in means:
        rows_of = np.flatnonzero((parts["best"] == name) & (parts["cell_type"] != _keys.UNASSIGNED))
        top = np.full(len(rows_of), -1.0)
        for other in (t for t in means if t != name):
            here = way_to(mean[rows_of], means[other], means[name], own[name])
            there = way_to(mean[rows_of], means[name], means[other], own[other])
            both = np.minimum(here, there)
            for i in np.flatnonzero(both > top):
                at = parts.index[rows_of[i]]
                top[i] = both[i]
                parts.loc[at, ["second", "way_from_second", "way_to_second"]] = other, here[i], there[i]
                if both[i] >= BOTH:
                    parts.loc[at, "cell_type"] = MIXED + AND.join(sorted((name, other), key=order.__getitem__))
    return Naming(parts, parts["cell_type"].to_numpy(object)[part], means)


def _means_of_types(parts: pd.DataFrame, mean: np.ndarray, sets: Sets) -> dict[str, np.ndarray]:
    """Return the mean expression of each type over the better half of its parts, without suspected doublets."""
    means = {}
    for name in sets:
        named = parts[parts["cell_type"] == name]
        clear = named[~named["suspect"]] if not named["suspect"].all() else named
        best = clear[clear["score"] >= clear["score"].median()]
        if len(best):
            means[name] = np.average(mean[best["part"]], axis=0, weights=best["n_cells"])
    return means


def contradicted(x: Any, names: np.ndarray, means: dict[str, np.ndarray], sets: Sets) -> np.ndarray:
    """Return which cells have the markers of another type, and less of their own: their name would be false."""
    out = np.zeros(len(names), bool)
    if len(means) < 2:
        return out
    own = own_genes(sets)
    genes = np.unique(np.concatenate([own[name] for name in means]))
    place = {name: np.searchsorted(genes, own[name]) for name in means}
    few = sp.csr_matrix(x)[:, genes]
    for name in means:
        rows = np.flatnonzero(names == name)
        values = few[rows].toarray()
        for other in (t for t in means if t != name):
            start, end = means[other][genes], means[name][genes]
            there = way_to(values, end, start, place[other])
            out[rows] |= (there >= CONTRARY) & (there > way_to(values, start, end, place[name]))
    return out


def above_others(x: Any, codes: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Return how far each group lies above the others, groups x genes; 0 for genes that are not needed."""
    n_groups = int(codes.max()) + 1
    delta, few = np.zeros((n_groups, x.shape[1])), x[:, needed]
    votes = share_votes(pairwise_auc(few, codes, np.ones(n_groups)))
    delta[:, needed] = pairwise_auc(few, codes, votes)
    return delta


def name_cells(
    x: Any,
    z: np.ndarray | None,
    codes: np.ndarray,
    suspect: np.ndarray,
    sets: Sets,
    levels: GeneLevels,
    scores: pd.DataFrame,
    clusters: list[str],
    *,
    min_genes: int,
    max_q: float,
    min_score: float,
    rng: Rng,
) -> Naming:
    """Name the parts of the clusters (z is None: the whole clusters) and their cells by one table.

    ``scores`` are those of the clusters. A part without a name gets that of its cluster if the cluster has one name
    with the evidence of all its cells, and this is the best type of the part.
    """
    positions = [genes["position"].to_numpy() for genes in sets.values()]
    needed = np.unique(np.concatenate([*positions, *levels.controls]))
    part = codes if z is None else split(places(z, x, sets, codes), codes, suspect, rng)
    n_parts = int(part.max()) + 1
    cluster_of = np.array([np.bincount(codes[part == p]).argmax() for p in range(n_parts)])
    mean, detected = np.zeros((n_parts, x.shape[1])), np.zeros((n_parts, x.shape[1]))
    mean[:, needed], detected[:, needed] = averages(x[:, needed], part)
    of_part = np.bincount(part, weights=suspect, minlength=n_parts) > 0
    found = name_parts(
        score_parts(above_others(x, part, needed), detected, sets, levels), mean, part, of_part, sets,
        min_genes=min_genes, max_q=max_q, min_score=min_score,
    )  # fmt: skip
    able = scores[scores["reason"] == ""]
    for cluster, group in enumerate(clusters):
        name = compose(found.of_cell[codes == cluster])
        if not ((able["group"] == group) & (able["cell_type"] == name)).any():
            continue
        weak = (cluster_of == cluster) & ~of_part & (found.parts["cell_type"] == _keys.UNASSIGNED).to_numpy()
        weak &= (found.parts["best"] == name).to_numpy() & (found.parts["n_present"] >= min_genes).to_numpy()
        found.parts.loc[weak, "cell_type"] = name
    found.of_cell = found.parts["cell_type"].to_numpy(object)[part]
    if z is not None:
        found.of_cell[contradicted(x, found.of_cell, found.means, sets)] = _keys.UNASSIGNED
    groups_of = np.where(of_part, SUSPECT, np.asarray(clusters, object)[cluster_of])
    found.parts.insert(1, "group", groups_of)
    return found


def top_genes(x: Any, codes: np.ndarray, names: pd.Index) -> list[str]:
    """Return the genes with the largest difference of means to the other groups, that most cells of a group express."""
    mean, detected = averages(x, codes)
    n = len(mean)
    others = (mean.sum(axis=0) - mean) / max(n - 1, 1)
    difference = np.where(detected >= 0.5, mean - others, -np.inf)
    order = np.argsort(-difference, axis=1, kind="stable")[:, :N_SHOWN]
    return [",".join(names[g] for g in genes if row[g] > 0) for genes, row in zip(order, difference, strict=True)]


def compose(names: np.ndarray) -> str:
    """Return the name of a cluster by the names of its cells.

    Examples
    --------
    >>> compose(np.array(["T cell"] * 8 + ["NK cell"] * 2, object)), compose(np.array(["T cell"] * 19 + ["NK cell"]))
    ('T cell / NK cell', 'T cell')
    """
    counts = pd.Series(names)[lambda n: n != _keys.UNASSIGNED].value_counts()
    if counts.sum() < NAMED * len(names) or counts.empty:
        return _keys.UNASSIGNED
    shares = counts / counts.sum()
    if shares.iloc[0] >= MOSTLY or shares.index[0].startswith(MIXED):
        return str(shares.index[0])
    single = [t for name in shares[shares >= ALSO].index if not name.startswith(MIXED) for t in name.split(AND)]
    return AND.join(dict.fromkeys(single)) or _keys.UNASSIGNED


def mixtures(of_cell: np.ndarray, n_expressed: np.ndarray, score: np.ndarray | None) -> pd.DataFrame:
    r"""Say of each mixture of two types whether it looks like doublets or like a transition.

    Doublets of types A and B are few, at most :math:`2 \, p_A \, p_B` of ``MAX_DOUBLETS`` of the cells, express more
    genes than A and B (median), and lie among simulated doublets (score above that of most cells of A and B, 90 %), if
    ``score`` is given. Everything else is a transition.

    Returns
    -------
    One row per mixture: ``cell_type``, ``n_cells``, ``kind`` ("doublets" or "transition"), ``n_at_most`` (doublets),
    ``genes_ratio`` (expressed genes, relative to the larger of A and B), ``doublet_score`` (median; NaN without).
    """
    rows = []
    for name in dict.fromkeys(n for n in of_cell if n.startswith(MIXED)):
        inside = of_cell == name
        ends = [of_cell == end for end in name.removeprefix(MIXED).split(AND)]
        share = [end.mean() for end in ends]
        at_most = 2 * share[0] * share[1] * MAX_DOUBLETS * len(of_cell)
        genes = max((float(np.median(n_expressed[end])) for end in ends if end.any()), default=np.nan)
        ratio = float(np.median(n_expressed[inside])) / genes
        high, median = True, np.nan
        if score is not None:
            median = float(np.nanmedian(score[inside]))
            both = score[ends[0] | ends[1]]
            high = bool(len(both)) and median > float(np.nanquantile(both, 0.9))
        doublets = inside.sum() <= at_most and ratio > 1 and high
        rows.append(
            {
                "cell_type": name, "n_cells": int(inside.sum()), "kind": "doublets" if doublets else "transition",
                "n_at_most": round(at_most), "genes_ratio": ratio, "doublet_score": median,
            }
        )  # fmt: skip
    columns = ["cell_type", "n_cells", "kind", "n_at_most", "genes_ratio", "doublet_score"]
    return pd.DataFrame(rows, columns=columns)


def sentence(table: pd.DataFrame) -> str:
    """Return a sentence on the cells that have the markers of two types; "" if there are none."""
    words = []
    for kind, verb in (("doublets", "doublets"), ("transition", "transitions")):
        rows = table[table["kind"] == kind].sort_values("n_cells", ascending=False)
        if len(rows):
            pairs = "; ".join(rows["cell_type"].str.removeprefix(MIXED).head(3))
            words.append(f"{rows['n_cells'].sum():,} look like {verb} ({pairs})")
    total = int(table["n_cells"].sum())
    if len(words) == 1:
        words = [words[0].replace(f"{total:,} look", "all look", 1)]
    return f"{total:,} cells have the markers of two types: {', '.join(words)}." if total else ""
