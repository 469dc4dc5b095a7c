"""What is there to say of one latent dimension, and is it worth a name?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae._adata import groups, representation, result, results
from diffvae._errors import DataError
from diffvae._seeds import alive_dimensions, mark, stability_of
from diffvae.tl._gene_weights import RANKINGS
from diffvae.tl._passport_parts import batches_of_dimensions, genes_of_directions, types_of_sides
from diffvae.tl._passport_words import add_genes, add_names, add_types, sentences

if TYPE_CHECKING:
    from anndata import AnnData

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
