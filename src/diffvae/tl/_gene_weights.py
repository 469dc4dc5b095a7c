"""Which genes does a latent dimension, and so a group of cells, stand for, and in which direction?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse, stats

from diffvae import _keys, _random
from diffvae._core.anndata import groups, representation, result, results
from diffvae._core.validate import Rule, Whole, check
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model

RULES: dict[str, Rule] = {"n_cells": Whole(1), "n_compared": Whole(1), "n_dims": Whole(1), "n_genes": Whole(1)}
RANKINGS = {"weights": _keys.GENE_WEIGHTS, "jacobian": _keys.GENE_JACOBIAN}


def scaled_weights(adata: AnnData, key: str) -> np.ndarray:
    """Return the weights ``varm[key]`` on the scale of log-normalised expression, genes x dimensions.

    On [0, 1] a gene whose highest value is one count has as large weights as one that rises a hundredfold, so weights
    are multiplied by the range of each gene. Omega ignores the logistic function as well, whose slope is smallest for
    rarely expressed genes: it is multiplied by the slope at the mean of each gene. Without this its top genes are seen
    in hardly any cell.
    """
    weights = np.asarray(adata.varm[key], np.float64)
    if {_keys.UNIT_MIN, _keys.UNIT_MAX} <= set(adata.var):
        weights = weights * (adata.var[_keys.UNIT_MAX] - adata.var[_keys.UNIT_MIN]).to_numpy(np.float64)[:, None]
    if key == _keys.GENE_WEIGHTS and _keys.GENE_SLOPE in adata.var:
        weights = weights * adata.var[_keys.GENE_SLOPE].to_numpy(np.float64)[:, None]
    return weights


def _slopes(adata: AnnData, model: Model) -> np.ndarray:
    """Return the slope of the likelihood's mean at the mean of each gene; 1 for a linear model."""
    import torch

    from diffvae.model._features import gene_means, match_new

    likelihood = getattr(model, "_likelihood", None)
    if likelihood is None or likelihood.slope is None or likelihood.link is None:
        return np.ones(adata.n_vars)
    means = gene_means(match_new(adata, model.features, 0.0))
    return likelihood.slope(likelihood.link(torch.from_numpy(means.astype(np.float32)))).numpy().astype(np.float64)


def gene_weights(
    adata: AnnData,
    model: Model,
    *,
    n_cells: int = 1000,
    n_compared: int = 20,
    use_rep: str = _keys.LATENT,
    rng: _random.Rng = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Write the weight of each gene in each latent dimension, by two readings of the decoder.

    The paper's :math:`\omega = W_0 W_1 W_2` is the product of the decoder's weights and ignores its non-linearities.
    The mean Jacobian of the decoder over real cells includes them.

    Parameters
    ----------
    adata
        With the model's genes and ``obsm[use_rep]``.
    model
        The trained model that made ``obsm[use_rep]``.
    n_cells
        Cells over which the Jacobian is averaged, drawn at random if there are more.
    n_compared
        Number of top genes whose overlap between the two readings is reported.
    use_rep
        Key of the latent representation.
    rng
        Seed of the choice of cells.
    copy
        Return a copy instead of writing into ``adata``.

    Returns
    -------
    None, or the copy. Writes ``varm["diffvae_gene_weights"]`` and ``varm["diffvae_gene_jacobian"]`` (genes x
    dimensions; signed), ``var["diffvae_slope"]`` (slope of the logistic function at the mean of each gene) and
    ``uns["diffvae"]["gene_weights"]``: the Spearman correlation of the two readings in each dimension, and the share of
    top genes (by absolute value) in common. Costs n_cells x D forward passes of the decoder and less than 256 MiB.

    Raises
    ------
    DataError
        If the genes of ``adata`` are not those of the model.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=5).train(adata)
    >>> dv.tl.embed(adata, model)
    >>> dv.tl.gene_weights(adata, model)
    >>> adata.varm["diffvae_gene_weights"].shape
    (765, 5)
    """
    check(RULES, n_cells=n_cells, n_compared=n_compared)
    if not model.gene_names.equals(pd.Index(adata.var_names.astype(str))):
        raise DataError("The genes of adata are not those of the model, in its order; use the cells it was trained on.")
    z = representation(adata, use_rep)
    if z.shape[1] != model.n_latent:
        raise DataError(
            f"adata.obsm[{use_rep!r}] has {z.shape[1]} dimensions, the model {model.n_latent}; run "
            "diffvae.tl.embed(adata, model) first."
        )
    if len(z) > n_cells:
        z = z[np.sort(_random.generator(rng, "jacobian").choice(len(z), n_cells, replace=False))]
    omega, jacobian = model.gene_weights(), model.gene_jacobian(z)
    adata = adata.copy() if copy else adata
    adata.varm[_keys.GENE_WEIGHTS] = np.ascontiguousarray(omega.T)
    adata.varm[_keys.GENE_JACOBIAN] = np.ascontiguousarray(jacobian.T)
    adata.var[_keys.GENE_SLOPE] = _slopes(adata, model)
    by_weights, by_jacobian = (scaled_weights(adata, key).T for key in RANKINGS.values())
    results(adata)["gene_weights"] = _agreement(by_weights, by_jacobian, n_compared)
    return adata if copy else None


def _agreement(omega: np.ndarray, jacobian: np.ndarray, n_compared: int) -> pd.DataFrame:
    n = min(n_compared, omega.shape[1])
    ranks = [stats.rankdata(m, axis=1) for m in (omega, jacobian)]
    centred = [r - r.mean(axis=1, keepdims=True) for r in ranks]
    norms = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    spearman = np.divide((centred[0] * centred[1]).sum(1), norms, out=np.zeros(len(norms)), where=norms > 0)
    tops = [np.argsort(-np.abs(m), axis=1, kind="stable")[:, :n] for m in (omega, jacobian)]
    overlap = [len(np.intersect1d(a, b)) / n for a, b in zip(*tops, strict=True)]
    return pd.DataFrame({"dimension": np.arange(len(omega)), "spearman": spearman, "top_overlap": overlap})


def high_weight_genes(
    adata: AnnData,
    groupby: str = _keys.CLUSTER,
    *,
    n_dims: int = 10,
    n_genes: int = 3,
    copy: bool = False,
) -> pd.DataFrame:
    r"""List the genes with the largest weights in the latent dimensions that encode each group.

    Each chosen dimension of a group (:func:`latent_dimensions`) contributes the ``n_genes`` genes with the largest
    :math:`|\omega|` on the scale of log-normalised expression: times the range of the gene before scaling, and the
    slope of the logistic function at its mean. The direction of a gene is the sign of its weight times the side of the
    dimension on which the group lies, so "up" means higher in the group. ``n_dims`` counts the dimensions that share a
    gene; the paper reports the genes that all dimensions share.

    Parameters
    ----------
    adata
        After :func:`latent_dimensions` and :func:`gene_weights`.
    groupby
        The ``groupby`` of :func:`latent_dimensions`.
    n_dims
        Chosen dimensions to use, by rank (the paper: 10 for zebrafish, 5 for pancreas).
    n_genes
        Genes per dimension (the paper: 3 and 5).
    copy
        Only return the table.

    Returns
    -------
    One row per group, ranking (``"weights"`` or ``"jacobian"``) and gene: ``group``, ``ranking``, ``rank``, ``gene``,
    ``direction`` (by the summed signed weight), ``n_dims`` (how many of the chosen dimensions share it), ``dimensions``
    (with side, for instance "3+, 17-"), ``weight`` (mean weight times side, positive for up), ``difference`` (mean of X
    in the group minus that in the other cells) and ``confirmed`` (whether the difference has the sign of
    ``direction``). Sorted by ``n_dims``, then by the size of ``weight``. Written to
    ``uns["diffvae"]["high_weight_genes"]`` unless ``copy``.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> dv.tl.embed(adata, model)
    >>> _ = dv.tl.latent_dimensions(adata, "cell_type")
    >>> dv.tl.gene_weights(adata, model)
    >>> genes = dv.tl.high_weight_genes(adata, "cell_type")
    >>> sorted(genes["direction"].unique())
    ['down', 'up']
    """
    check(RULES, n_dims=n_dims, n_genes=n_genes)
    table = result(adata, "latent_dimensions")
    ranked_for = results(adata).get("latent_dimensions_params", {}).get("groupby", groupby)
    if ranked_for != groupby:
        raise DataError(
            f"The latent dimensions were ranked for {ranked_for!r}; run diffvae.tl.latent_dimensions(adata, "
            f"{groupby!r}) first."
        )
    missing = [key for key in RANKINGS.values() if key not in adata.varm]
    if missing:
        raise DataError(f"adata.varm[{missing[0]!r}] is missing; run diffvae.tl.gene_weights(adata, model) first.")
    chosen = table[table["chosen"]].sort_values("rank").groupby("group", sort=False).head(n_dims)
    labels = groups(adata, groupby)
    difference = _group_differences(adata, labels)
    rows = []
    for group in labels.categories:
        dimensions = chosen[chosen["group"] == group]
        sides = np.where(dimensions["side"] == "+", 1.0, -1.0)
        for ranking, key in RANKINGS.items():
            signed = (
                scaled_weights(adata, key)[:, dimensions["dimension"].to_numpy()] * sides
            )  # genes x chosen dimensions
            counts = _recurrence(signed, dimensions, adata.var_names, n_genes)
            counts.insert(0, "group", group)
            counts.insert(1, "ranking", ranking)
            counts["difference"] = difference[group].loc[counts["gene"]].to_numpy()
            rows.append(counts)
    frame = pd.concat(rows, ignore_index=True)
    frame["confirmed"] = (frame["difference"] > 0) == (frame["direction"] == "up")
    if not copy:
        results(adata)["high_weight_genes"] = frame
    return frame


def _recurrence(signed: np.ndarray, chosen: pd.DataFrame, names: pd.Index, n_genes: int) -> pd.DataFrame:
    """Count the dimensions of a group in which each gene is among the largest weights."""
    top = np.argsort(-np.abs(signed), axis=0, kind="stable")[:n_genes]
    tags = (chosen["dimension"].astype(str) + chosen["side"]).to_numpy()
    positions: dict[int, list[int]] = {}
    for position in range(signed.shape[1]):
        for gene in top[:, position]:
            if signed[gene, position] != 0:
                positions.setdefault(int(gene), []).append(position)
    records = [
        (names[gene], len(at), ", ".join(tags[at]), float(signed[gene, at].mean())) for gene, at in positions.items()
    ]
    frame = pd.DataFrame(records, columns=["gene", "n_dims", "dimensions", "weight"])
    frame = frame.astype({"n_dims": np.int64, "weight": np.float64})  # also without any dimension
    frame["direction"] = np.where(frame["weight"] > 0, "up", "down")
    order = np.lexsort([frame["gene"].astype(str), -frame["weight"].abs(), -frame["n_dims"]])
    frame = frame.iloc[order].reset_index(drop=True)
    frame.insert(0, "rank", np.arange(1, len(frame) + 1))
    return frame[["rank", "gene", "direction", "n_dims", "dimensions", "weight"]]


def _group_differences(adata: AnnData, labels: pd.Categorical) -> pd.DataFrame:
    """Return the mean of X in each group minus the mean over all other cells, genes x groups."""
    member = np.eye(len(labels.categories))[labels.codes]
    total = np.asarray(adata.X.sum(axis=0)).ravel()
    summed = (sparse.csr_matrix(member.T) @ adata.X) if sparse.issparse(adata.X) else member.T @ adata.X
    summed = summed.toarray() if sparse.issparse(summed) else np.asarray(summed)
    size = member.sum(axis=0)[:, None]
    rest = np.maximum(adata.n_obs - size, 1)
    return pd.DataFrame((summed / size - (total - summed) / rest).T, index=adata.var_names, columns=labels.categories)
