"""Which dimensions, genes and clusters of a model recur when it is trained again?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random
from diffvae._core.anndata import results
from diffvae._core.fingerprint import mark
from diffvae._core.runtime import progress_bar
from diffvae._core.validate import Choice, Rule, Whole, check
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

TABLES = ("dimensions", "genes", "clusters", "labels", "matches", "baseline")
MARGIN = 0.02
"""Shares and indices that differ by at most this count as equal."""
DISSOLVED = 0.5
"""A cluster with a lower Jaccard index is dissolved (Hennig 2007)."""
RULES: dict[str, Rule] = {
    "n": Whole(1),
    "n_genes": Whole(1),
    "by": Choice("weights", "jacobian", "latent"),
    "null": Choice("rotation", "permutation"),
}


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
        recurs along any axes). NaN for dead dimensions.
    genes
        One row per active dimension, reading (``"weights"``, ``"jacobian"``) and gene among the first by absolute
        value: ``rank``, ``gene``, ``direction`` ("up": rises with the dimension), ``weight``, ``recurrence`` (share of
        the trainings in which it is also among the first genes of the matched dimension), ``same_direction`` (share in
        which the matched dimension moves it in the same direction) and ``null_recurrence`` (its recurrence in the
        dimensions that are *not* the match: a gene with a high weight in every dimension recurs in any).
    clusters
        One row per cluster of the reference: ``cluster``, ``n_cells``, ``jaccard`` (with the best cluster of another
        training, mean; Hennig 2007), ``jaccard_sd``, ``null_jaccard`` (under permuted labels).
    labels
        One row per pair of partitions: ``source`` (``"trainings"``; ``"clusterings"`` of the reference with other
        seeds of the clusterer; ``"PCA"``), ``first``, ``second`` (0 is the reference), ``ari``.
    matches
        One row per further training and active dimension: ``training``, ``dimension``, ``match``, ``similarity``,
        ``sign`` (-1: points the other way), ``null_similarity``, ``threshold``, ``recurs``.
    baseline
        ``dimensions`` of the same number of principal components under the same splits; empty without a baseline.
    sentences
        Summary in words, including the cases in which chance or PCA does equally well.
    params
        ``model``, ``n``, ``by``, ``null`` and the other choices; ``mark`` identifies the latent representation.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=5).train(adata)
    >>> stability = dv.benchmark.stability(adata, model, n=2, cluster_method=None, progress=False)
    >>> stability.matches.columns[:3].tolist()
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
    latent space, so 5 % recur by chance. The null is strict because any two dimensions of one decoder share most of
    their genes: nearly every match exceeds the easier null of shuffled genes.

    Parameters
    ----------
    adata
        The prepared cells that the model was trained on.
    model
        DiffVAE, VAE, AutoEncoder or PCA. An untrained model is trained first, on the split of the cells.
    n
        Further trainings.
    by
        What is matched: ``"weights"`` (omega), ``"jacobian"`` (mean Jacobian of the decoder) or ``"latent"`` (the
        cells' values). Neither omega nor the Jacobian uses the genes and types that vary with a dimension over the
        cells; in these, dimensions matched by omega agree better than those matched by the Jacobian.
    null
        ``"rotation"``: random axes of the other training's latent space. ``"permutation"``: its genes shuffled within
        each dimension; also used for a single active dimension, which cannot be rotated.
    cluster_method, n_clusters, resolution
        As in :func:`diffvae.tl.cluster`; None for no clusters. With "auto", clusters that the cells already have from
        that method on ``use_rep`` are the reference. The number or resolution is chosen on the reference and then
        fixed.
    n_genes
        Genes per dimension.
    resample
        Let each further training hold out other cells, the same number as the split of ``adata``. Otherwise only the
        seeds of weights, batches and noise differ; PCA has no seed, so it is no baseline then.
    baseline
        Repeat the analysis with PCA.
    training
        Further arguments of ``model.train``. ``max_epochs`` defaults to the number of epochs of the model.
    use_rep
        Key in ``obsm`` of the model's latent representation, if it is stored: :func:`diffvae.tl.latent_dimensions` and
        :func:`diffvae.tl.passport` then show the recurrence.
    rng
        Seed.
    progress
        Show a progress bar on a terminal.
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
    _check(adata, model, cluster_method, n_clusters)
    check(RULES, n=n, n_genes=n_genes, by=by, null=null)
    how = _matching.prepare_reference(adata, model, dict(training or {}), rng)
    seeds = [_random.seed(rng, "stability", str(i)) for i in range(1, n + 1)]
    sample = _random.generator(rng, "stability", "cells").permutation(adata.n_obs)[: _matching.N_CELLS]
    reference = _matching.read(model, adata, np.sort(sample))
    stored_key = use_rep if _holds(adata, use_rep, reference.z) else None
    if resample:
        how = {"validation_size": _matching.held_out(adata)} | how
    others = []
    with progress_bar(f"training {type(model).__name__} again", n, show=progress) as advance:
        for seed in seeds:
            others.append(
                _matching.read(_matching.retrain(adata, model, how | {"progress": False}, seed), adata, sample)
            )
            advance()
    generator = _random.generator(rng, "stability", "null")
    matches = _matching.match_all(reference, others, by, null, generator)
    dimensions = _matching.dimension_table(reference, others, matches)
    genes = _matching.gene_table(reference, others, matches, adata.var_names.astype(str), n_genes)

    components: list[_matching.Training] = []
    pca = dimensions.iloc[:0]
    if baseline and resample and not isinstance(model, PCA):
        first = _matching.baseline(adata, model)
        models = [first, *(_matching.retrain(adata, first, how, seed) for seed in seeds)]
        components = [_matching.read(each, adata, sample) for each in models]
        of_pca = _matching.match_all(components[0], components[1:], by, null, generator)
        pca = _matching.dimension_table(components[0], components[1:], of_pca)

    clusters, labels = pd.DataFrame(columns=CLUSTER_COLUMNS), pd.DataFrame(columns=LABEL_COLUMNS)
    if cluster_method is not None:
        clusterer = Clusterer(cluster_method, n_clusters, resolution)
        of_reference = reference_clusters(adata, reference, clusterer, stored_key, rng)
        clusters, labels = label_stability(of_reference, clusterer, reference, others, components, seeds, generator)

    name = type(model).__name__
    sentences = verdict(dimensions, genes, clusters, labels, pca, n=n, by=by, null=null, model=name)
    params = {"model": name, "n": n, "by": by, "null": null, "resample": resample, "n_genes": n_genes}
    params |= {"use_rep": use_rep, "mark": mark(adata.obsm[stored_key] if stored_key else reference.z)}
    if cluster_method is not None:
        params["cluster_method"] = cluster_method
    result = Stability(dimensions, genes, clusters, labels, matches, pca, tuple(sentences), params)
    if not copy:
        about = {"sentences": np.array(sentences, dtype=object), "params": dict(params)}
        results(adata)["stability"] = {name: getattr(result, name) for name in TABLES} | about
    return result


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
    """Return what recurs, what recurs by chance and with PCA, and how to read single dimensions."""
    active = dimensions[dimensions["alive"]]
    if active.empty:
        return [f"All {len(dimensions)} dimensions of {model} are dead, so none can recur."]
    means = active[["recurrence", "similarity", "null_similarity"]].mean()
    lost = active[active["recurrence"] < 1]
    explained = lost["explained"].median()
    chance = 1 - _matching.LEVEL
    what = "shuffled genes" if null == "permutation" else "random axes of the same latent space"
    sentences = [
        f"Of {len(active)} active dimensions ({len(dimensions) - len(active)} dead), matched by {by}, "
        f"{means['recurrence']:.0%} on average recur in a further training, against {chance:.0%} by chance ({what}); "
        f"{(active['recurrence'] == 1).sum()} recur in all {n} trainings. The mean similarity is "
        f"{means['similarity']:.2f}, by chance {means['null_similarity']:.2f}."
    ]
    if means["recurrence"] <= chance + MARGIN:
        sentences.append("Dimensions recur no more often than by chance.")
    if len(pca):
        sentences.append(f"Under the same splits {pca['recurrence'].mean():.0%} of the components of PCA recur.")
        if pca["recurrence"].mean() >= means["recurrence"] - MARGIN:
            sentences.append(f"PCA does at least as well as {model}.")
    if len(lost) and explained >= 0.5:
        sentences.append(
            f"{len(lost)} dimensions do not recur in every training, but the whole latent space of another training "
            f"explains {explained:.0%} of their variance (median): their content recurs, along other axes. Read such "
            "dimensions together, or read clusters."
        )
    if len(genes):
        sentences.append(
            f"Of the high-weight genes of a dimension {genes['recurrence'].mean():.0%} are among those of its match, "
            f"{genes['null_recurrence'].mean():.0%} among those of any other dimension."
        )
    if len(clusters):
        ari = labels.groupby("source")["ari"].mean()
        sentences.append(
            f"The clusters of two trainings agree with an adjusted Rand index of {ari['trainings']:.2f}, two "
            f"clusterings of one training with {ari['clusterings']:.2f}."
        )
        if "PCA" in ari:
            sentences.append(f"Clusters of PCA from two splits agree with an adjusted Rand index of {ari['PCA']:.2f}.")
            if ari["PCA"] >= ari["trainings"] - MARGIN:
                sentences.append("PCA's clusters are at least as stable.")
        if dissolved := ", ".join(clusters.loc[clusters["jaccard"] < DISSOLVED, "cluster"].astype(str)):
            sentences.append(f"These clusters do not recur (Jaccard index below {DISSOLVED:g}): {dissolved}.")
    return sentences


def _check(adata: AnnData, model: Model, cluster_method: str | None, n_clusters: int | str) -> None:
    if not isinstance(model, Model):
        raise ValueError(
            f"model is a {type(model).__name__}; give one whose dimensions act on genes: DiffVAE, VAE, AutoEncoder or "
            "PCA."
        )
    if cluster_method is not None:
        check_options(cluster_method, n_clusters)
    if not adata.var_names.is_unique:
        raise DataError("adata.var_names has duplicates; run adata.var_names_make_unique() first.")


def _holds(adata: AnnData, use_rep: str, z: np.ndarray) -> bool:
    """Return whether the cells hold this latent representation, up to rounding (it depends on the threads)."""
    stored = adata.obsm.get(use_rep)
    if stored is None or np.shape(stored) != z.shape:
        return False
    return bool(np.allclose(stored, z, rtol=0, atol=1e-3 * max(float(z.std()), 1e-12)))
