"""What does each latent dimension stand for: its types, genes and batches, and does it recur?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse, stats

from diffvae import _keys, metrics
from diffvae._core.anndata import groups, representation, result, results
from diffvae._core.fingerprint import mark, stability_of
from diffvae._core.information import alive_dimensions
from diffvae._core.validate import Number, Rule, Whole, check
from diffvae._errors import DataError
from diffvae.tl._dimensions import enrichment, outlying
from diffvae.tl._gene_weights import RANKINGS, scaled_weights

if TYPE_CHECKING:
    from anndata import AnnData

SIDES = ("+", "-")
DIRECTIONS = ("up", "down")
GENE_COLUMNS = ["dimension", "reading", "direction", "rank", "gene", "weight", "correlation", "confirmed"]


def types_of_sides(z: np.ndarray, labels: pd.Categorical, n_sd: float) -> pd.DataFrame:
    """Return the enrichment of each type on either side of each dimension.

    The sides are the two halves of D_k (eq 3). Each is tested separately: odds ratio and one-sided hypergeometric
    p-value, with Benjamini-Hochberg over all dimensions, sides and types. Rows are sorted by odds ratio, because the
    p-value favours a large type that is slightly enriched over a small type that lies entirely on one side.
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
    """Return the top genes of each alive dimension, for both readings of the decoder and both directions.

    ``correlation`` is the Pearson correlation of gene and dimension over the cells; ``confirmed`` says whether its sign
    is the sign of the weight.
    """
    names = adata.var_names.to_numpy(dtype=object)
    parts = []
    for reading, key in RANKINGS.items():
        weights = scaled_weights(adata, key)
        for d in np.flatnonzero(alive):
            for direction, signed in zip(DIRECTIONS, (weights[:, d], -weights[:, d]), strict=True):
                genes = np.argsort(-signed, kind="stable")[:n_genes]
                genes = genes[signed[genes] > 0]
                rank = np.arange(1, len(genes) + 1)
                columns = {"rank": rank, "gene": names[genes], "index": genes, "weight": weights[genes, d]}
                parts.append(pd.DataFrame({"dimension": d, "reading": reading, "direction": direction, **columns}))
    if not parts:
        return pd.DataFrame(columns=GENE_COLUMNS)
    frame = pd.concat(parts, ignore_index=True)
    frame["correlation"] = correlations(adata.X, z)[frame["index"], frame["dimension"]]
    frame["confirmed"] = np.sign(frame["correlation"]) == np.sign(frame["weight"])
    return frame.drop(columns="index")


def correlations(x: Any, z: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation of genes with dimensions (genes x dimensions), 0 where either is constant."""
    n = len(z)
    x = x.astype(np.float64) if sparse.issparse(x) else np.asarray(x, np.float64)
    mean = np.asarray(x.mean(axis=0)).ravel()
    squares = (x.multiply(x) if sparse.issparse(x) else np.square(x)).mean(axis=0)
    spread = np.sqrt((np.asarray(squares).ravel() - mean**2).clip(min=0))
    centred = z - z.mean(axis=0)
    scale = np.outer(spread, centred.std(axis=0))
    covariance = np.asarray(x.T @ centred) / n
    return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 1e-12).clip(-1, 1)


def batches_of_dimensions(
    z: np.ndarray, alive: np.ndarray, batch: pd.Categorical, labels: pd.Categorical
) -> pd.DataFrame:
    r"""Return the share of the variance of each dimension that batches explain, and that types explain.

    .. math:: \eta^2_B = 1 - \frac{\mathrm{SS}(z \mid T, B)}{\mathrm{SS}(z \mid T)} \qquad
        \eta^2_T = 1 - \frac{\mathrm{SS}(z \mid T, B)}{\mathrm{SS}(z \mid B)}

    with SS the residual sum of squares of a linear model on types T, batches B, or both (additive). Each is the share
    that one explains of what the other leaves, so that batches of different composition are not blamed for their types.
    The p-value is that of an F-test of the batches, with Benjamini-Hochberg over the alive dimensions. By chance
    batches explain (rank(T, B) - rank(T)) / (N - rank(T)).

    Returns
    -------
    One row per alive dimension: ``dimension``, ``batch`` (the one furthest from the others), ``auc`` (probability that
    a cell of this batch lies above a cell of another), ``batch_eta2``, ``null_eta2`` (by chance), ``type_eta2``,
    ``p_value``, ``q_value``.
    """
    auc = metrics.dimension_auc(z, np.asarray(batch, dtype=str))
    furthest = np.abs(auc.to_numpy() - 0.5).round(12).argmax(axis=1)  # round: two batches always tie
    one_hot = [np.eye(len(c.categories))[c.codes] for c in (labels, batch)]
    of_types, of_batch = (_residual(z, design)[0] for design in one_hot)
    of_both, rank = _residual(z, np.hstack(one_hot))
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
            "null_eta2": extra / max(len(z) - len(labels.categories), 1),
            "type_eta2": type_eta2,
            "p_value": p_value,
        }
    )[alive]
    q_value = stats.false_discovery_control(frame["p_value"]) if len(frame) else frame["p_value"]
    return frame.assign(q_value=q_value).reset_index(drop=True)


def _residual(z: np.ndarray, design: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the residual sum of squares of a linear model in each dimension, and the rank of the design."""
    fitted, _, rank, _ = np.linalg.lstsq(design, z, rcond=None)
    return np.square(z - design @ fitted).sum(axis=0), int(rank)


N_TYPES = 4
"""Types per side in ``Passport.table``; ``Passport.types`` has all."""


def add_types(table: pd.DataFrame, types: pd.DataFrame) -> pd.DataFrame:
    """Add ``types_high`` and ``types_low``: enriched types, with the largest odds ratio first."""
    for side, column in zip(SIDES, ("types_high", "types_low"), strict=True):
        rows = types[types["side"] == side]
        texts = rows["type"].astype(str) + " (" + rows["odds_ratio"].map(ratio) + ")"
        table[column] = _joined(texts, rows["dimension"], N_TYPES, table)
    return table


def ratio(value: float) -> str:
    """Format an odds ratio: 2.3, 57, > 1,000."""
    return "> 1,000" if value > 1000 else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def add_genes(table: pd.DataFrame, genes: pd.DataFrame) -> pd.DataFrame:
    """Add the top genes of both directions by both readings."""
    for reading in RANKINGS:
        for direction in DIRECTIONS:
            rows = genes[(genes["reading"] == reading) & (genes["direction"] == direction)]
            table[f"{direction}_{reading}"] = _joined(rows["gene"].astype(str), rows["dimension"], None, table)
    return table


def _joined(texts: pd.Series, dimension: pd.Series, most: int | None, table: pd.DataFrame) -> pd.Series:
    lists = texts.groupby(dimension).agg(lambda names: ", ".join(names if most is None else names.iloc[:most]))
    return table["dimension"].map(lists).fillna("").astype(object)


def add_names(table: pd.DataFrame, types: pd.DataFrame, *, known: bool, max_q: float, noun: str) -> pd.DataFrame:
    """Add ``name``, and ``remark``, the reason why a name is empty."""
    table["remark"] = [_remark(row, known, max_q) for row in table.to_dict("records")]
    best = types.drop_duplicates(["dimension", "side"])  # sorted by odds ratio
    parts = noun + best["type"].astype(str) + " " + best["side"]
    names = parts.groupby(best["dimension"]).agg(lambda p: ", ".join(sorted(p)))
    named = table["dimension"].map(names).where(table["remark"] == "")
    table.insert(1, "name", named.fillna("").astype(object))
    return table


def _remark(row: dict[str, Any], known: bool, max_q: float) -> str:
    if not row["alive"]:
        return "dead"
    if not known:
        return "not known whether it recurs"
    if not row["stable"]:
        return f"unstable, found again in {row['recurrence']:.0%} of the trainings"
    if "batch_q" in row and row["batch_q"] <= max_q and row["batch_eta2"] > row["type_eta2"]:
        return f"follows the batch ({row['batch']}) more than the types"
    return "" if row["types_high"] or row["types_low"] else "no type is enriched on either side"


WITH_PRIOR = ("DiffVAE", "VAE")
"""Models whose prior fixes the scale of the latent."""
RULES: dict[str, Rule] = {
    "n_genes": Whole(1),
    "n_sd": Number("(0, inf)"),
    "max_q": Number("(0, 1]"),
    "min_recurrence": Number("(0, 1]"),
}


@dataclass(frozen=True)
class Passport:
    """Result of :func:`passport`.

    Attributes
    ----------
    table
        One row per dimension: ``dimension``; ``name`` ("Erythrocyte +, Monocyte -": the enriched type with the largest
        odds ratio on each side; empty unless the dimension is stable and types explain more of it than batches);
        ``alive``; ``stable``; ``recurrence`` and ``similarity`` over further trainings (NaN if unknown);
        ``types_high`` and ``types_low`` (enriched on the sides + and -, with odds ratio); ``up_weights``,
        ``down_weights``, ``up_jacobian``, ``down_jacobian`` (genes that rise, or fall, along the dimension);
        ``spearman`` and ``top_overlap`` (agreement of the two readings, from :func:`gene_weights`); with a batch key
        ``batch``, ``batch_auc``, ``batch_eta2`` and ``null_eta2`` (by chance), ``type_eta2``, ``batch_q``; and
        ``remark`` (why it has no name).
    types
        One row per dimension, side and enriched type: ``dimension``, ``side``, ``type``, ``n_cells`` (on the side),
        ``n_type`` (of the type among these), ``share``, ``expected_share`` (the type's share of all cells),
        ``odds_ratio``, ``p_value``, ``q_value``.
    genes
        One row per alive dimension, ``reading`` ("weights", "jacobian"), ``direction`` and gene: ``rank``, ``gene``,
        ``weight``, ``correlation`` (of gene and dimension over the cells), ``confirmed`` (whether it has the sign of
        the weight) and ``recurrence`` (over further trainings; NaN if unknown).
    batches
        One row per alive dimension, with a batch key: ``dimension``, ``batch`` (the one furthest from the others),
        ``auc``, ``batch_eta2`` (of what types leave), ``null_eta2`` (by chance), ``type_eta2`` (of what batches leave),
        ``p_value``, ``q_value``.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=5).train(adata)
    >>> dv.tl.embed(adata, model)
    >>> dv.tl.gene_weights(adata, model)
    >>> passport = dv.tl.passport(adata, "cell_type")
    >>> len(passport.table)
    5
    """

    table: pd.DataFrame
    types: pd.DataFrame
    genes: pd.DataFrame
    batches: pd.DataFrame

    def of(self, dimension: int) -> pd.DataFrame:
        """Return what lies on the sides - and + of one dimension.

        Parameters
        ----------
        dimension
            Number of the dimension.

        Returns
        -------
        Rows ``types`` (enriched on the side), ``genes (weights)`` and ``genes (jacobian)`` (higher on the side).
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
    """Describe each latent dimension by the types and genes on its two sides, and name those that recur.

    A dimension gets a name only if it is alive, recurs in further trainings (:func:`diffvae.benchmark.stability`), has
    an enriched type on at least one side, and is explained by types more than by batches. ``remark`` says why the
    others have no name. If ``groupby`` was clustered from the same latent space, q-values are descriptive only: the
    same cells define the clusters and test them.

    Parameters
    ----------
    adata
        With ``obsm[use_rep]``, after :func:`gene_weights`. Without :func:`diffvae.benchmark.stability` for this
        latent representation, no dimension is known to recur and none is named.
    groupby
        Types in ``obs``.
    batch_key
        Batches in ``obs``, if there are any; None for the ``batch_key`` that the cells were prepared with.
    n_genes
        Genes per dimension, reading and direction.
    n_sd
        Standard deviations from the mean at which a cell lies on a side.
    max_q
        Largest q-value of an enriched type, and of a batch effect.
    min_recurrence
        Share of the further trainings in which a stable dimension recurs at least.
    use_rep
        Key of the latent representation.
    copy
        Only return the result.

    Returns
    -------
    :class:`Passport`, also written to ``uns["diffvae"]["passport"]`` unless ``copy``.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=5).train(adata)
    >>> dv.tl.embed(adata, model)
    >>> dv.tl.gene_weights(adata, model)
    >>> _ = dv.benchmark.stability(adata, model, n=2, cluster_method=None, progress=False)
    >>> passport(adata, "cell_type", n_genes=3).table.loc[0, "name"]
    'CD14+ Monocyte +, CD8+/CD45RA+ Naive Cytotoxic -'
    """
    check(RULES, n_genes=n_genes, n_sd=n_sd, max_q=max_q, min_recurrence=min_recurrence)
    z = representation(adata, use_rep).astype(np.float64)
    labels = groups(adata, groupby)
    if len(labels.categories) < 2:
        raise DataError(f"adata.obs[{groupby!r}] has only one group; there is no other to compare it with.")
    batch_key = batch_key or _prepared_with(adata)
    batch = None if batch_key is None else groups(adata, batch_key)
    if batch is not None and len(batch.categories) < 2:
        raise DataError(f"adata.obs[{batch_key!r}] has only one batch; leave batch_key out.")
    agreement = _agreement(adata, z.shape[1], use_rep)
    seeds = stability_of(adata, use_rep)
    table = _recurrence(adata, z, seeds, min_recurrence)
    alive = table["alive"].to_numpy()

    types = types_of_sides(z, labels, n_sd)
    types = types[(types["q_value"] <= max_q) & (types["odds_ratio"] > 1) & alive[types["dimension"]]]
    genes = genes_of_directions(adata, z, alive, n_genes)
    genes["recurrence"] = _gene_recurrence(genes, seeds)
    table = add_genes(add_types(table, types), genes).assign(
        spearman=agreement["spearman"], top_overlap=agreement["top_overlap"]
    )
    batches = pd.DataFrame()
    if batch is not None:
        batches = batches_of_dimensions(z, alive, batch, labels)
        renamed = batches.drop(columns="p_value").rename(columns={"auc": "batch_auc", "q_value": "batch_q"})
        table = table.merge(renamed, on="dimension", how="left").fillna({"batch": ""})
    noun = "cluster " if groupby == _keys.CLUSTER else ""
    table = add_names(table, types, known=seeds is not None, max_q=max_q, noun=noun)
    tables = {"table": table, "types": types.reset_index(drop=True), "genes": genes, "batches": batches}
    if not copy:
        parameters: dict[str, Any] = {"groupby": groupby, "n_sd": n_sd, "max_q": max_q, "use_rep": use_rep}
        parameters |= {"min_recurrence": min_recurrence, "n_genes": n_genes, "mark": mark(adata.obsm[use_rep])}
        if batch_key is not None:
            parameters["batch_key"] = batch_key
        results(adata)["passport"] = {**tables, "params": parameters}
    return Passport(**tables)


def _prepared_with(adata: AnnData) -> str | None:
    """Return the ``batch_key`` that the cells were prepared with, if they still have several batches."""
    key: str | None = results(adata).get("prepare", {}).get("batch_key")
    return key if key in adata.obs and adata.obs[key].nunique() > 1 else None


def _agreement(adata: AnnData, n_latent: int, use_rep: str) -> pd.DataFrame:
    """Return the agreement of the two readings of the decoder, if they belong to this latent space."""
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


def _recurrence(adata: AnnData, z: np.ndarray, seeds: dict[str, Any] | None, min_recurrence: float) -> pd.DataFrame:
    """Return which dimensions are alive and which are stable."""
    table = pd.DataFrame({"dimension": np.arange(z.shape[1])})
    if seeds is None:
        model = results(adata).get("embed", {}).get("model")
        alive = alive_dimensions(z, prior=model in WITH_PRIOR)
        return table.assign(alive=alive, stable=False, recurrence=np.nan, similarity=np.nan)
    known = seeds["dimensions"].reset_index(drop=True)
    alive, recurrence = known["alive"].to_numpy(bool), known["recurrence"].to_numpy(np.float64)
    stable = alive & (np.nan_to_num(recurrence) >= min_recurrence - 1e-9)
    return table.assign(alive=alive, stable=stable, recurrence=recurrence, similarity=known["similarity"])


def _gene_recurrence(genes: pd.DataFrame, seeds: dict[str, Any] | None) -> np.ndarray:
    """Return the share of the trainings in which each gene recurs, NaN where it is unknown."""
    if seeds is None:
        return np.full(len(genes), np.nan)
    key = ["dimension", "reading", "gene"]
    known = seeds["genes"].astype({"reading": str, "gene": str}).set_index(key)["recurrence"]
    wanted = pd.MultiIndex.from_frame(genes[key].astype({"reading": str, "gene": str}))
    return known.reindex(wanted).to_numpy(np.float64)
