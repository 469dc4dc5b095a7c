"""Which dimensions, genes and clusters of a model recur when it is trained again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random
from diffvae._core.anndata import results
from diffvae._core.fingerprint import mark
from diffvae._core.runtime import progress_bar
from diffvae._errors import DataError
from diffvae.benchmark.stability import _matching
from diffvae.benchmark.stability._clusters import (
    CLUSTER_COLUMNS,
    LABEL_COLUMNS,
    Clusterer,
    label_stability,
    reference_clusters,
)
from diffvae.model import PCA, Model
from diffvae.tl._cluster import check_options

if TYPE_CHECKING:
    from anndata import AnnData

BY = ("weights", "jacobian", "latent")
TABLES = ("dimensions", "genes", "clusters", "labels", "matches", "baseline")
WITHIN = 0.02
"""Shares or indices that differ by less count as equal."""
DISSOLVED = 0.5
"""A cluster with a lower Jaccard index is dissolved (Hennig 2007)."""

SENTENCES: tuple[tuple[Callable[[dict[str, Any]], Any], str], ...] = (
    (
        lambda of: True,
        "Of {living} living dimensions ({dead} dead), matched by {by}, {recurrence:.0%} on average are found again in "
        "a further training, against {chance:.0%} expected by chance ({null}); {always} are found again in all {n} "
        "trainings. The mean similarity is {similarity:.2f}, by chance {null_similarity:.2f}.",
    ),
    (lambda of: of["recurrence"] <= of["chance"] + WITHIN, "Dimensions are found again no more often than by chance."),
    (lambda of: "pca" in of, "Under the same splits {pca:.0%} of the components of PCA are found again."),
    (lambda of: of.get("pca", -1) >= of["recurrence"] - WITHIN, "PCA does at least as well as {model}."),
    (
        lambda of: of["n_lost"] and of["explained"] >= 0.5,
        "What does not recur is mostly the axis, not the content: the whole latent space of another training explains "
        "{explained:.0%} of the variance of the {n_lost} dimensions that are not found again in every training "
        "(median). Read such dimensions together, or read clusters.",
    ),
    (
        lambda of: "genes" in of,
        "Of the high-weight genes of a dimension {genes:.0%} are among those of its match, {null_genes:.0%} among "
        "those of any other dimension.",
    ),
    (
        lambda of: "trainings" in of,
        "Clusters of two trainings agree with an adjusted Rand index of {trainings:.2f}, two clusterings of one "
        "training with {clusterings:.2f}.",
    ),
    (lambda of: "PCA" in of, "Clusters of PCA from two splits agree with an adjusted Rand index of {PCA:.2f}."),
    (lambda of: of.get("PCA", -1) >= of.get("trainings", 1) - WITHIN, "PCA's clusters are at least as stable."),
    (
        lambda of: of.get("dissolved"),
        "These clusters are not found again (Jaccard index below {limit:g}): {dissolved}.",
    ),
)
"""When each sentence about a look at further trainings applies."""


@dataclass(frozen=True)
class Stability:
    """Result of :func:`diffvae.benchmark.stability`.

    Attributes
    ----------
    dimensions
        One row per dimension: ``dimension``, ``alive``, ``recurrence`` (share of the further trainings in which the
        match exceeds ``threshold``), ``similarity`` and ``similarity_sd`` (absolute cosine with the match, over the
        trainings), ``null_similarity`` and ``threshold`` (mean and 95th percentile of the null, over the trainings),
        ``explained`` (adjusted R^2 of the dimension on the whole latent space of another training: whether its content
        is there, along any axes). NaN for dead dimensions.
    genes
        One row per living dimension, reading (``"weights"``, ``"jacobian"``) and gene among the first by absolute
        value: ``rank``, ``gene``, ``direction`` ("up": rises with the dimension), ``weight``, ``recurrence`` (share of
        the trainings in which it is also among the first genes of the matched dimension), ``same_direction`` (share in
        which the matched dimension moves it in the same direction) and ``null_recurrence`` (its recurrence in the
        dimensions that are *not* the match: a gene with a high weight everywhere recurs anyway).
    clusters
        One row per cluster of the reference: ``cluster``, ``n_cells``, ``jaccard`` (with the best cluster of another
        training, mean; Hennig 2007), ``jaccard_sd``, ``null_jaccard`` (under permuted labels).
    labels
        One row per pair of partitions: ``source`` (``"trainings"``; ``"clusterings"`` of the reference with other
        seeds of the clusterer; ``"PCA"``), ``first``, ``second`` (0 is the reference), ``ari``.
    matches
        One row per further training and living dimension: ``training``, ``dimension``, ``match``, ``similarity``,
        ``sign`` (-1: points the other way), ``null_similarity``, ``threshold``, ``recurs``.
    baseline
        ``dimensions`` of the same number of principal components under the same splits; empty without a baseline.
    sentences
        Summary in words, which says where chance or PCA does as well.
    params
        ``model``, ``n``, ``by``, ``null`` and the other choices; ``mark`` identifies the latent representation.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=5).train(adata)
    >>> found = dv.benchmark.stability(adata, model, n=2, cluster_method=None, progress=False)
    >>> found.matches.columns[:3].tolist()
    ['training', 'dimension', 'match']
    """

    dimensions: pd.DataFrame
    genes: pd.DataFrame
    clusters: pd.DataFrame
    labels: pd.DataFrame
    matches: pd.DataFrame
    baseline: pd.DataFrame
    sentences: tuple[str, ...]
    params: dict[str, Any]

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def stability(
    adata: AnnData,
    model: Model,
    n: int = 5,
    *,
    by: str = "weights",
    null: str = "rotation",
    cluster_method: str | None = "leiden",
    n_clusters: int | str = "auto",
    resolution: float | None = None,
    n_genes: int = 20,
    resample: bool = True,
    baseline: bool = True,
    training: Mapping[str, Any] | None = None,
    use_rep: str = _keys.LATENT,
    rng: _random.Rng = 0,
    progress: bool = True,
    copy: bool = False,
) -> Stability:
    r"""Train the same model n more times and report which dimensions, genes and clusters recur.

    The dimensions of each further training are matched to those of the model, one to one (Hungarian method),

    .. math:: \max_\pi \sum_d |\cos(w_d, w'_{\pi(d)})|

    A dimension recurs if its match exceeds the 95th percentile of the same matching with *random axes* of the same
    latent space, so 5 % recur by chance. This null is strict for a reason: any two dimensions of one decoder share most
    of their genes, so that nearly everything exceeds the easy null of shuffled genes.

    Parameters
    ----------
    adata
        The prepared cells that the model was trained on.
    model
        DiffVAE, VAE, AutoEncoder or PCA. An untrained model is trained first, on the cells' own split.
    n
        Further trainings.
    by
        What is matched: ``"weights"`` (omega), ``"jacobian"`` (mean Jacobian of the decoder) or ``"latent"`` (the
        cells' values). Dimensions matched by omega agree better than those matched by the Jacobian in what neither
        uses: the genes and types that vary with a dimension over the cells.
    null
        ``"rotation"``: random axes of the other training's latent space. ``"permutation"``: its genes shuffled within
        each dimension; also used with a single living dimension, which has no other axes.
    cluster_method, n_clusters, resolution
        As in :func:`diffvae.tl.cluster`; None for no clusters. With "auto", clusters that the cells already have from
        that method on ``use_rep`` are the reference. Number or resolution are chosen on the reference and kept.
    n_genes
        Genes per dimension.
    resample
        Let each further training hold out other cells, the same number as the split of ``adata``. Otherwise only the
        seeds of weights, batches and noise differ, and PCA, which has none, is no baseline.
    baseline
        Do the same with PCA.
    training
        Further arguments of ``model.train``. ``max_epochs`` defaults to the number of epochs that the model had.
    use_rep
        Key in ``obsm`` of the model's latent representation, if it is stored: :func:`diffvae.tl.latent_dimensions` and
        :func:`diffvae.tl.passport` then show the recurrence.
    rng
        Seed.
    progress
        Show a bar on a terminal.
    copy
        Only return the result.

    Returns
    -------
    :class:`Stability`; ``print`` it for the sentences. Its tables are written to ``uns["diffvae"]["stability"]`` unless
    ``copy``.

    Raises
    ------
    DataError
        If the model was trained on other cells.

    References
    ----------
    Kuhn 1955 (Hungarian method); Rolinek, Zietlow and Martius, Variational autoencoders pursue PCA directions (by
    accident), CVPR 2019 (why axes of a VAE may recur at all); Hennig, Cluster-wise assessment of cluster stability,
    Computational Statistics and Data Analysis 52 (2007).

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=5).train(adata)
    >>> dv.tl.embed(adata, model)
    >>> found = dv.benchmark.stability(adata, model, n=2, n_clusters=5, progress=False)
    >>> found.dimensions["recurrence"].tolist()[:3]
    [1.0, 1.0, 1.0]
    >>> len(adata.uns["diffvae"]["stability"]["dimensions"])
    5
    """
    _check(adata, model, n, by, null, cluster_method, n_clusters, n_genes)
    how = _matching.prepare_reference(adata, model, dict(training or {}), rng)
    seeds = [_random.seed(rng, "stability", str(i)) for i in range(1, n + 1)]
    pick = _random.generator(rng, "stability", "cells").permutation(adata.n_obs)[: _matching.N_CELLS]
    reference = _matching.read(model, adata, np.sort(pick))
    own_key = use_rep if _holds(adata, use_rep, reference.z) else None
    if resample:
        how = {"validation_size": _matching.held_out(adata)} | how
    others = []
    with progress_bar(f"training {type(model).__name__} again", n, show=progress) as advance:
        for seed in seeds:
            others.append(_matching.read(_matching.again(adata, model, how | {"progress": False}, seed), adata, pick))
            advance()
    chance = _random.generator(rng, "stability", "null")
    matches = _matching.match_all(reference, others, by, null, chance)
    dimensions = _matching.dimension_table(reference, others, matches)
    genes = _matching.gene_table(reference, others, matches, adata.var_names.astype(str), n_genes)

    components: list[_matching.Training] = []
    pca = dimensions.iloc[:0]
    if baseline and resample and not isinstance(model, PCA):
        first = _matching.baseline(adata, model)
        trained = [first, *(_matching.again(adata, first, how, seed) for seed in seeds)]
        components = [_matching.read(each, adata, pick) for each in trained]
        of_pca = _matching.match_all(components[0], components[1:], by, null, chance)
        pca = _matching.dimension_table(components[0], components[1:], of_pca)

    clusters, labels = pd.DataFrame(columns=CLUSTER_COLUMNS), pd.DataFrame(columns=LABEL_COLUMNS)
    if cluster_method is not None:
        clusterer = Clusterer(cluster_method, n_clusters, resolution)
        own = reference_clusters(adata, reference.z, clusterer, own_key, rng)
        spaces = [other.z for other in others], [each.z for each in components]
        clusters, labels = label_stability(own, clusterer, reference.z, *spaces, seeds, chance)

    sentences = verdict(dimensions, genes, clusters, labels, pca, n=n, by=by, null=null, model=type(model).__name__)
    stored = adata.obsm[own_key] if own_key else reference.z
    parameters = {"model": type(model).__name__, "n": n, "by": by, "null": null, "resample": resample}
    parameters |= {"n_genes": n_genes, "use_rep": use_rep, "mark": mark(stored)}
    if cluster_method is not None:
        parameters["cluster_method"] = cluster_method
    found = Stability(dimensions, genes, clusters, labels, matches, pca, tuple(sentences), parameters)
    if not copy:
        tables = {name: getattr(found, name) for name in TABLES}
        results(adata)["stability"] = tables | {
            "sentences": np.array(sentences, dtype=object),
            "params": dict(parameters),
        }
    return found


def verdict(
    dimensions: pd.DataFrame,
    genes: pd.DataFrame,
    clusters: pd.DataFrame,
    labels: pd.DataFrame,
    pca: pd.DataFrame,
    *,
    n: int,
    by: str,
    null: str,
    model: str,
) -> list[str]:
    """Return what recurs, what chance and PCA give, and what that means for reading single dimensions."""
    living = dimensions[dimensions["alive"]]
    if living.empty:
        return [f"All {len(dimensions)} dimensions of {model} are dead; there is nothing to find again."]
    lost = living[living["recurrence"] < 1]
    of = {
        "n": n,
        "by": by,
        "model": model,
        "limit": DISSOLVED,
        "chance": 1 - _matching.LEVEL,
        "null": "shuffled genes" if null == "permutation" else "random axes of the same latent space",
        "living": len(living),
        "dead": len(dimensions) - len(living),
        "always": int((living["recurrence"] == 1).sum()),
        **living[["recurrence", "similarity", "null_similarity"]].mean().to_dict(),
        "n_lost": len(lost),
        "explained": lost["explained"].median(),
    }
    if len(pca):
        of["pca"] = pca["recurrence"].mean()
    if len(genes):
        of |= {"genes": genes["recurrence"].mean(), "null_genes": genes["null_recurrence"].mean()}
    if len(clusters):
        of |= labels.groupby("source")["ari"].mean().to_dict()
        of["dissolved"] = ", ".join(clusters.loc[clusters["jaccard"] < DISSOLVED, "cluster"].astype(str))
    return [sentence.format(**of) for applies, sentence in SENTENCES if applies(of)]


def _check(
    adata: AnnData,
    model: Model,
    n: int,
    by: str,
    null: str,
    cluster_method: str | None,
    n_clusters: int | str,
    n_genes: int,
) -> None:
    if not isinstance(model, Model):
        raise ValueError(
            f"model is a {type(model).__name__}; give one whose dimensions act on genes: DiffVAE, VAE, AutoEncoder or "
            "PCA."
        )
    if by not in BY or null not in _matching.NULLS:
        raise ValueError(
            f"by is {by!r} and null {null!r}; by is one of {', '.join(BY)}, null one of {', '.join(_matching.NULLS)}."
        )
    if n < 1 or n_genes < 1:
        raise ValueError(f"n={n} and n_genes={n_genes} must be positive.")
    if cluster_method is not None:
        check_options(cluster_method, n_clusters)
    if not adata.var_names.is_unique:
        raise DataError("adata.var_names has duplicates; run adata.var_names_make_unique() first.")


def _holds(adata: AnnData, use_rep: str, z: np.ndarray) -> bool:
    """Return whether the cells hold this latent representation, up to the effect of the number of threads."""
    stored = adata.obsm.get(use_rep)
    if stored is None or np.shape(stored) != z.shape:
        return False
    return bool(np.allclose(stored, z, rtol=0, atol=1e-3 * max(float(z.std()), 1e-12)))
