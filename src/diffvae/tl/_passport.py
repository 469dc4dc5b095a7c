"""The pages of a passport: types, genes and batches of each dimension, each a tidy table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse, stats

from diffvae import _keys, metrics
from diffvae._core.anndata import groups, representation, result, results
from diffvae._core.fingerprint import alive_dimensions, mark, stability_of
from diffvae._errors import DataError
from diffvae.tl._dimensions import enrichment, outlying
from diffvae.tl._gene_weights import RANKINGS

if TYPE_CHECKING:
    from anndata import AnnData

SIDES = ("+", "-")
DIRECTIONS = ("up", "down")
GENE_COLUMNS = ["dimension", "reading", "direction", "rank", "gene", "weight", "correlation", "confirmed"]


def types_of_sides(z: np.ndarray, labels: pd.Categorical, n_sd: float) -> pd.DataFrame:
    """Return how enriched each type is on either side of each dimension.

    The sides are the two halves of D_k (eq 3), each tested by itself: odds ratio and one-sided hypergeometric p-value,
    Benjamini-Hochberg over all dimensions, sides and types. Sorted by odds ratio: by p-value a big type that is
    somewhat more frequent on a side would come before a small one that lies there altogether.
    """
    member = np.eye(len(labels.categories))[labels.codes]
    size, n = member.sum(axis=0)[:, None], len(z)
    parts = []
    for side, cells in zip(SIDES, outlying(z, n_sd), strict=True):
        both, n_side = member.T @ cells, cells.sum(axis=0)[None]
        odds_ratio, p_value = enrichment(both, n_side, size, n)
        shape = both.shape
        parts.append(
            pd.DataFrame(
                {
                    "dimension": np.tile(np.arange(shape[1]), shape[0]),
                    "side": side,
                    "type": np.repeat(labels.categories.to_numpy(dtype=object), shape[1]),
                    "n_cells": np.broadcast_to(n_side, shape).ravel().astype(int),
                    "n_type": both.ravel().astype(int),
                    "share": np.divide(both, n_side, out=np.zeros(shape), where=n_side > 0).ravel(),
                    "expected_share": np.broadcast_to(size / n, shape).ravel(),
                    "odds_ratio": odds_ratio.ravel(),
                    "p_value": p_value.ravel().clip(0, 1),
                }
            )
        )
    frame = pd.concat(parts, ignore_index=True)
    frame["q_value"] = stats.false_discovery_control(frame["p_value"])
    order = ["dimension", "side", "odds_ratio", "p_value"]
    return frame.sort_values(order, ascending=[True, True, False, True], ignore_index=True)


def genes_of_directions(adata: AnnData, z: np.ndarray, alive: np.ndarray, n_genes: int) -> pd.DataFrame:
    """Return the first genes of each living dimension, for both readings of the decoder and both directions.

    ``correlation`` is Pearson's, of the gene with the dimension over the cells; ``confirmed`` says whether it has the
    sign that the decoder gives the gene.
    """
    names = adata.var_names.to_numpy(dtype=object)
    parts = []
    for reading, key in RANKINGS.items():
        weights = np.asarray(adata.varm[key], np.float64)
        for d in np.flatnonzero(alive):
            for direction, signed in zip(DIRECTIONS, (weights[:, d], -weights[:, d]), strict=True):
                genes = np.argsort(-signed, kind="stable")[:n_genes]
                genes = genes[signed[genes] > 0]
                rank = np.arange(1, len(genes) + 1)
                found = {"rank": rank, "gene": names[genes], "place": genes, "weight": weights[genes, d]}
                parts.append(pd.DataFrame({"dimension": d, "reading": reading, "direction": direction, **found}))
    if not parts:
        return pd.DataFrame(columns=GENE_COLUMNS)
    frame = pd.concat(parts, ignore_index=True)
    frame["correlation"] = correlations(adata.X, z)[frame["place"], frame["dimension"]]
    frame["confirmed"] = np.sign(frame["correlation"]) == np.sign(frame["weight"])
    return frame.drop(columns="place")


def correlations(x: Any, z: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of each gene with each dimension over the cells: genes x dimensions.

    0 where gene or dimension is constant.
    """
    n = len(z)
    wide: Any = x.astype(np.float64) if sparse.issparse(x) else np.asarray(x, np.float64)
    mean = np.asarray(wide.mean(axis=0)).ravel()
    squares = (wide.multiply(wide) if sparse.issparse(wide) else np.square(wide)).mean(axis=0)
    spread = np.sqrt((np.asarray(squares).ravel() - mean**2).clip(min=0))
    centred = z - z.mean(axis=0)
    scale = np.outer(spread, centred.std(axis=0))
    covariance = np.asarray(wide.T @ centred) / n
    return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 1e-12).clip(-1, 1)


def batches_of_dimensions(
    z: np.ndarray, alive: np.ndarray, batch: pd.Categorical, labels: pd.Categorical
) -> pd.DataFrame:
    r"""Return how far each dimension follows the batch, beside how far it follows the types.

    .. math:: \eta^2_B = 1 - \frac{\mathrm{SS}(z \mid T, B)}{\mathrm{SS}(z \mid T)} \qquad
        \eta^2_T = 1 - \frac{\mathrm{SS}(z \mid T, B)}{\mathrm{SS}(z \mid B)}

    with SS the squares left over by the means of types T, batches B, or both (additive): what the one explains of what
    the other leaves, so that batches of different composition are not blamed for their types. p-value of an F-test of
    the batches, Benjamini-Hochberg over the living dimensions.

    Returns
    -------
    One row per dimension: ``dimension``, ``batch`` (the one that stands furthest apart), ``auc`` (the chance that a
    cell of it lies above a cell of another batch), ``batch_eta2``, ``type_eta2``, ``p_value``, ``q_value``.
    """
    auc = metrics.dimension_auc(z, np.asarray(batch, dtype=str))
    furthest = np.abs(auc.to_numpy() - 0.5).round(12).argmax(axis=1)  # of two batches the first, whatever the round-off
    one_hot = [np.eye(len(c.categories))[c.codes] for c in (labels, batch)]
    of_types, of_batch = (_left_over(z, design)[0] for design in one_hot)
    of_both, rank = _left_over(z, np.hstack(one_hot))
    extra = rank - len(labels.categories)
    spare = len(z) - rank
    with np.errstate(divide="ignore", invalid="ignore"):
        f = np.nan_to_num(((of_types - of_both) / max(extra, 1)) / (of_both / max(spare, 1)), nan=0.0)
        batch_eta2 = np.nan_to_num(1 - of_both / of_types).clip(0, 1)
        type_eta2 = np.nan_to_num(1 - of_both / of_batch).clip(0, 1)
    p_value = stats.f.sf(f.clip(min=0), max(extra, 1), max(spare, 1)) if extra else np.ones(z.shape[1])
    frame = pd.DataFrame(
        {
            "dimension": np.arange(z.shape[1]),
            "batch": auc.columns.to_numpy(dtype=object)[furthest],
            "auc": auc.to_numpy()[np.arange(len(auc)), furthest],
            "batch_eta2": batch_eta2,
            "type_eta2": type_eta2,
            "p_value": p_value,
        }
    )[alive]
    q_value = stats.false_discovery_control(frame["p_value"]) if len(frame) else frame["p_value"]
    return frame.assign(q_value=q_value).reset_index(drop=True)


def _left_over(z: np.ndarray, design: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the squares that a linear model leaves over in each dimension, and the rank of its design."""
    fitted, _, rank, _ = np.linalg.lstsq(design, z, rcond=None)
    return np.square(z - design @ fitted).sum(axis=0), int(rank)


N_TYPES = 4
"""Types named per side in the overview; the tidy table has all."""
POOR = 0.3
"""Overlap of the first genes of two readings below which they are said to disagree."""


def add_types(table: pd.DataFrame, types: pd.DataFrame) -> pd.DataFrame:
    """Add ``types_high`` and ``types_low``: enriched types with their odds ratio, the largest first."""
    for side, column in zip(SIDES, ("types_high", "types_low"), strict=True):
        rows = types[types["side"] == side]
        told = rows["type"].astype(str) + " (" + rows["odds_ratio"].map(ratio) + ")"
        table[column] = _listed(told, rows["dimension"], N_TYPES, table)
    return table


def ratio(value: float) -> str:
    """Return an odds ratio to two figures.

    Examples
    --------
    >>> ratio(2.345), ratio(56.7), ratio(12345.0)
    ('2.3', '57', '> 1,000')
    """
    return "> 1,000" if value > 1000 else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def add_genes(table: pd.DataFrame, genes: pd.DataFrame) -> pd.DataFrame:
    """Add the genes of both directions by both readings, first rank first."""
    for reading in ("weights", "jacobian"):
        for direction in DIRECTIONS:
            rows = genes[(genes["reading"] == reading) & (genes["direction"] == direction)]
            table[f"{direction}_{reading}"] = _listed(rows["gene"].astype(str), rows["dimension"], None, table)
    return table


def _listed(told: pd.Series, dimension: pd.Series, most: int | None, table: pd.DataFrame) -> pd.Series:
    lists = told.groupby(dimension).agg(lambda names: ", ".join(names if most is None else names.iloc[:most]))
    return table["dimension"].map(lists).fillna("").astype(object)


def add_names(table: pd.DataFrame, types: pd.DataFrame, *, known: bool, max_q: float, noun: str) -> pd.DataFrame:
    """Add ``name`` and ``remark``; the second says why the first is empty."""
    table["remark"] = [_remark(row, known, max_q) for row in table.to_dict("records")]
    best = types.drop_duplicates(["dimension", "side"])  # sorted by odds ratio
    told = noun + best["type"].astype(str) + " " + best["side"]
    names = told.groupby(best["dimension"]).agg(lambda parts: ", ".join(sorted(parts)))
    able = table["remark"] == ""
    table.insert(1, "name", table["dimension"].map(names).where(able).fillna("").astype(object))
    return table


def _remark(row: dict[str, Any], known: bool, max_q: float) -> str:
    if not row["alive"]:
        return "dead"
    if not known:
        return "not known whether it recurs"
    if not row["stable"]:
        return f"unstable, found again in {row['recurrence']:.0%} of the trainings"
    if follows_batch(row, max_q):
        return f"follows the batch ({row['batch']}) more than the types"
    return "" if row["types_high"] or row["types_low"] else "no type is enriched on either side"


def follows_batch(row: dict[str, Any], max_q: float) -> bool:
    """Return whether batches explain more of a dimension than types do."""
    return "batch_q" in row and bool(row["batch_q"] <= max_q and row["batch_eta2"] > row["type_eta2"])


def sentences(
    table: pd.DataFrame, genes: pd.DataFrame, *, known: bool, stale: bool, clusters: bool, max_q: float
) -> list[str]:
    """Say how many dimensions deserve a name, and what the tables can't be taken for."""
    n, living = len(table), table[table["alive"]]
    said = [f"{len(living)} of {n} dimensions are alive; {(table['name'] != '').sum()} have a name."]
    if known:
        stable = int(living["stable"].sum())
        said.append(
            f"{len(living) - stable} living dimensions are not stable over further trainings and stay without a name."
        )
    elif stale:
        said.append(
            "What diffvae.benchmark.stability found is about another latent space than this one; run it again: until "
            "then no dimension is known to recur, and none is named."
        )
    else:
        said.append(
            "No dimension is known to recur, and none is named; run diffvae.benchmark.stability(adata, model) first."
        )
    if "batch_q" in table:
        led = [int(row["dimension"]) for row in living.to_dict("records") if follows_batch(row, max_q)]
        if led:
            dimensions = "dimension" if len(led) == 1 else f"{len(led)} dimensions"
            said.append(f"Batches explain more than types do of {dimensions} {_numbers(led)}.")
    if clusters:
        said.append("The clusters were cut from the same latent space, so their q-values only describe.")
    if len(living):
        overlap = living["top_overlap"].median()
        if overlap < POOR:
            said.append(
                f"The two readings of the decoder disagree: {overlap:.0%} of their first genes are the same (median)."
            )
    if len(genes):
        right = genes.groupby("reading")["confirmed"].mean()
        said.append(
            "The cells themselves move the way the decoder says in "
            + " and ".join(f"{right[reading]:.0%} of the genes by {reading}" for reading in right.index)
            + "."
        )
    return said


def _numbers(found: list[int], most: int = 10) -> str:
    return ", ".join(map(str, found[:most])) + (f" and {len(found) - most} more" if len(found) > most else "")


TABLES = ("table", "types", "genes", "batches")
WITH_PRIOR = ("DiffVAE", "VAE")
"""Models whose prior fixes the scale of the latent."""


@dataclass(frozen=True)
class Passport:
    """What :func:`passport` found.

    Attributes
    ----------
    table
        One row per dimension: ``dimension``; ``name`` ("Erythrocyte +, Monocyte -": the enriched type of largest odds
        ratio on each side; empty unless the dimension is stable and moved by the types more than by the batch);
        ``alive``; ``stable``; ``recurrence`` and ``similarity`` over further trainings (NaN where not known);
        ``types_high`` and ``types_low`` (enriched on the sides + and -, with odds ratio); ``up_weights``,
        ``down_weights``, ``up_jacobian``, ``down_jacobian`` (genes that rise, and fall, with the dimension);
        ``spearman`` and ``top_overlap`` (agreement of the two readings, from :func:`gene_weights`); with a batch key
        ``batch``, ``batch_auc``, ``batch_eta2``, ``type_eta2``, ``batch_q``; and ``remark`` (why it has no name).
    types
        One row per dimension, side and enriched type: ``dimension``, ``side``, ``type``, ``n_cells`` (on the side),
        ``n_type`` (of them of the type), ``share``, ``expected_share`` (of all cells), ``odds_ratio``, ``p_value``,
        ``q_value``.
    genes
        One row per living dimension, ``reading`` ("weights", "jacobian"), ``direction`` and gene: ``rank``, ``gene``,
        ``weight``, ``correlation`` (of gene and dimension over the cells), ``confirmed`` (whether its sign is the
        weight's) and ``recurrence`` (over further trainings; NaN where not known).
    batches
        One row per living dimension, with a batch key: ``dimension``, ``batch`` (the one furthest apart), ``auc``,
        ``batch_eta2`` (of what types leave), ``type_eta2`` (of what batches leave), ``p_value``, ``q_value``.
    sentences
        In words, with what the tables can't be taken for.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=5).train(adata)
    >>> dv.tl.embed(adata, model)
    >>> dv.tl.gene_weights(adata, model)
    >>> found = dv.tl.passport(adata, "cell_type")
    >>> len(found.table)
    5
    """

    table: pd.DataFrame
    types: pd.DataFrame
    genes: pd.DataFrame
    batches: pd.DataFrame
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def of(self, dimension: int) -> pd.DataFrame:
        """Return the passport of one dimension: what lies on its side - and on its side +.

        Parameters
        ----------
        dimension
            Number of the dimension.

        Returns
        -------
        Rows ``types``, ``genes (weights)``, ``genes (jacobian)``: what is enriched, and which genes are higher, on that
        side.
        """
        row = self.table[self.table["dimension"] == dimension]
        if row.empty:
            raise ValueError(f"dimension is {dimension}; there are 0 to {len(self.table) - 1}.")
        first = row.iloc[0]
        rows = {
            "types": (first["types_low"], first["types_high"]),
            "genes (weights)": (first["down_weights"], first["up_weights"]),
            "genes (jacobian)": (first["down_jacobian"], first["up_jacobian"]),
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=["-", "+"]).rename_axis(f"dimension {dimension}")


def passport(
    adata: AnnData,
    groupby: str = _keys.CLUSTER,
    *,
    batch_key: str | None = None,
    n_genes: int = 10,
    n_sd: float = 1.0,
    max_q: float = 0.05,
    min_recurrence: float = 0.8,
    use_rep: str = _keys.LATENT,
    copy: bool = False,
) -> Passport:
    r"""Say of each latent dimension what lies on its two sides, how sure that is, and whether it deserves a name.

    A dimension gets a name only if it is alive, comes back in further trainings (:func:`diffvae.benchmark.stability`),
    has a type enriched on one side at least, and is not moved by the batch more than by the types. All others are
    shown as well, and ``remark`` says what they lack.

    Parameters
    ----------
    adata
        With ``obsm[use_rep]``, after :func:`gene_weights`, and best after :func:`diffvae.benchmark.stability`: without
        it nothing is known to be stable, so nothing is named.
    groupby
        Types in ``obs``.
    batch_key
        Batches in ``obs``; None where there are none.
    n_genes
        Genes per dimension, reading and direction.
    n_sd
        Standard deviations from the mean at which a cell lies on a side.
    max_q
        Largest q-value of an enriched type and of a batch that matters.
    min_recurrence
        Share of the further trainings in which a stable dimension is found again.
    use_rep
        Key of the latent representation.
    copy
        Only return the result.

    Returns
    -------
    :class:`Passport`; ``print`` it for the sentences. Written to ``uns["diffvae"]["passport"]`` unless ``copy``.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=5).train(adata)
    >>> dv.tl.embed(adata, model)
    >>> dv.tl.gene_weights(adata, model)
    >>> _ = dv.benchmark.stability(adata, model, n=2, cluster_method=None, progress=False)
    >>> found = passport(adata, "cell_type", n_genes=3)
    >>> found.table.loc[0, "name"]
    'CD14+ Monocyte +, CD8+/CD45RA+ Naive Cytotoxic -'
    """
    if n_genes < 1 or not n_sd > 0:
        raise ValueError(f"n_genes={n_genes} and n_sd={n_sd} must be positive.")
    if not 0 < max_q <= 1 or not 0 < min_recurrence <= 1:
        raise ValueError(f"max_q={max_q} and min_recurrence={min_recurrence} are above 0 and at most 1.")
    z = representation(adata, use_rep).astype(np.float64)
    labels = groups(adata, groupby)
    if len(labels.categories) < 2:
        raise DataError(f"adata.obs[{groupby!r}] has one group only; there is nothing to tell it from.")
    batch = None if batch_key is None else groups(adata, batch_key)
    if batch is not None and len(batch.categories) < 2:
        raise DataError(f"adata.obs[{batch_key!r}] has one batch only; leave batch_key out.")
    agreement = _agreement(adata, z.shape[1], use_rep)
    seeds = stability_of(adata, use_rep)
    table = _standing(adata, z, seeds, min_recurrence)
    alive = table["alive"].to_numpy()

    types = types_of_sides(z, labels, n_sd)
    types = types[(types["q_value"] <= max_q) & (types["odds_ratio"] > 1) & alive[types["dimension"]]]
    genes = genes_of_directions(adata, z, alive, n_genes)
    genes["recurrence"] = _recurrence_of(genes, seeds)
    table = add_genes(add_types(table, types), genes).assign(
        spearman=agreement["spearman"], top_overlap=agreement["top_overlap"]
    )
    batches = pd.DataFrame()
    if batch is not None:
        batches = batches_of_dimensions(z, alive, batch, labels)
        renamed = batches.drop(columns="p_value").rename(columns={"auc": "batch_auc", "q_value": "batch_q"})
        table = table.merge(renamed, on="dimension", how="left").fillna({"batch": ""})
    clusters, known = groupby == _keys.CLUSTER, seeds is not None
    table = add_names(table, types, known=known, max_q=max_q, noun="cluster " if clusters else "")
    stale = not known and "stability" in results(adata)
    said = sentences(table, genes, known=known, stale=stale, clusters=clusters, max_q=max_q)
    found = Passport(table, types.reset_index(drop=True), genes, batches, tuple(said))
    if not copy:
        parameters: dict[str, Any] = {"groupby": groupby, "n_sd": n_sd, "max_q": max_q, "use_rep": use_rep}
        parameters |= {"min_recurrence": min_recurrence, "n_genes": n_genes, "mark": mark(adata.obsm[use_rep])}
        if batch_key is not None:
            parameters["batch_key"] = batch_key
        results(adata)["passport"] = {
            **{name: getattr(found, name) for name in TABLES},
            "sentences": np.array(said, dtype=object),
            "params": parameters,
        }
    return found


def _agreement(adata: AnnData, n_latent: int, use_rep: str) -> pd.DataFrame:
    """Return how far the two readings of the decoder agree, after a look at whether they are of this latent."""
    agreement: pd.DataFrame = result(adata, "gene_weights")
    for key in RANKINGS.values():
        if key not in adata.varm:
            raise DataError(f"adata.varm[{key!r}] is missing; run diffvae.tl.gene_weights(adata, model) first.")
        if (n := np.shape(adata.varm[key])[1]) != n_latent:
            raise DataError(
                f"adata.varm[{key!r}] has {n} dimensions, adata.obsm[{use_rep!r}] {n_latent}; run "
                "diffvae.tl.gene_weights(adata, model) again."
            )
    return agreement.reset_index(drop=True)


def _standing(adata: AnnData, z: np.ndarray, seeds: dict[str, Any] | None, min_recurrence: float) -> pd.DataFrame:
    """Return which dimensions are alive and which are known to be stable."""
    table = pd.DataFrame({"dimension": np.arange(z.shape[1])})
    if seeds is None:
        model = results(adata).get("embed", {}).get("model")
        alive = alive_dimensions(z, prior=model in WITH_PRIOR)
        return table.assign(alive=alive, stable=False, recurrence=np.nan, similarity=np.nan)
    known = seeds["dimensions"].reset_index(drop=True)
    alive, recurrence = known["alive"].to_numpy(bool), known["recurrence"].to_numpy(np.float64)
    stable = alive & (np.nan_to_num(recurrence) >= min_recurrence - 1e-9)
    return table.assign(alive=alive, stable=stable, recurrence=recurrence, similarity=known["similarity"])


def _recurrence_of(genes: pd.DataFrame, seeds: dict[str, Any] | None) -> np.ndarray:
    """Return in which share of the trainings each gene came back, NaN where that wasn't followed."""
    if seeds is None:
        return np.full(len(genes), np.nan)
    key = ["dimension", "reading", "gene"]
    followed = seeds["genes"].astype({"reading": str, "gene": str}).set_index(key)["recurrence"]
    wanted = pd.MultiIndex.from_frame(genes[key].astype({"reading": str, "gene": str}))
    return followed.reindex(wanted).to_numpy(np.float64)
