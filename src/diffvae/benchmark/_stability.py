"""What of a training would come back if the model were trained again?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random
from diffvae._adata import results
from diffvae._errors import DataError
from diffvae._progress import progress_bar
from diffvae._seeds import mark
from diffvae.benchmark import _retrain
from diffvae.benchmark._label_stability import (
    CLUSTER_COLUMNS,
    LABEL_COLUMNS,
    Clusterer,
    label_stability,
    reference_clusters,
)
from diffvae.benchmark._matching import NULLS
from diffvae.benchmark._recurring import dimension_table, gene_table, match_all
from diffvae.benchmark._stability_result import TABLES, Stability
from diffvae.benchmark._stability_verdict import verdict
from diffvae.model import PCA, Model
from diffvae.tl._cluster import check_options

if TYPE_CHECKING:
    from anndata import AnnData

BY = ("weights", "jacobian", "latent")


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
    r"""Train the same model n times more and say which dimensions, genes and clusters come back.

    The dimensions of each further training are matched to those of the model, one to one (Hungarian method),

    .. math:: \max_\pi \sum_d |\cos(w_d, w'_{\pi(d)})|

    A match is a recurrence where it exceeds the 95th percentile of the same matching with *random axes* of the same
    latent space, so 5 % recur by chance. That null is stern for a reason: any two dimensions of one decoder share most
    of their genes, so that weights whose genes are shuffled, the easy null, are exceeded by nearly everything.

    Parameters
    ----------
    adata
        The prepared cells that the model was trained on.
    model
        DiffVAE, VAE, AutoEncoder or PCA. One that is not trained is trained first, on the cells' own split.
    n
        Further trainings.
    by
        What is matched: ``"weights"`` (omega), ``"jacobian"`` (mean Jacobian of the decoder) or ``"latent"`` (the
        cells' values). Dimensions matched by omega agree better than those matched by the Jacobian in what neither
        sees: which genes, and which types, go with a dimension over the cells.
    null
        ``"rotation"``: random axes of the other training's latent space. ``"permutation"``: its genes shuffled within
        each dimension; also used where there is one living dimension only, which has no other axes.
    cluster_method, n_clusters, resolution
        As in :func:`diffvae.tl.cluster`; None clusters nothing. With "auto" clusters that the cells already have, made
        by that method on ``use_rep``, are the reference. Number or resolution are chosen on the reference and kept.
    n_genes
        Genes per dimension.
    resample
        Let each further training hold out other cells, as many as the split of ``adata`` does. Else only the seed of
        the weights, of the batches and of the noise differs, and PCA, which has none, is no baseline.
    baseline
        Do the same with PCA.
    training
        Further arguments of ``model.train``. Without ``max_epochs`` as many as the model had.
    use_rep
        Key in ``obsm`` where the model's latent is, if it is: there :func:`diffvae.tl.latent_dimensions` and
        :func:`diffvae.tl.passport` will know the recurrence.
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
    >>> found.dimensions["recurrence"].tolist()[:3]  # components that 700 cells tell apart
    [1.0, 1.0, 1.0]
    >>> len(adata.uns["diffvae"]["stability"]["dimensions"])
    5
    """
    _check(adata, model, n, by, null, cluster_method, n_clusters, n_genes)
    how = _retrain.prepare_reference(adata, model, dict(training or {}), rng)
    seeds = [_random.seed(rng, "stability", str(i)) for i in range(1, n + 1)]
    pick = _random.generator(rng, "stability", "cells").permutation(adata.n_obs)[: _retrain.N_CELLS]
    reference = _retrain.read(model, adata, np.sort(pick))
    own_key = use_rep if _holds(adata, use_rep, reference.z) else None
    if resample:
        how = {"validation_size": _retrain.held_out(adata)} | how
    others = []
    with progress_bar(f"training {type(model).__name__} again", n, show=progress) as advance:
        for seed in seeds:
            others.append(_retrain.read(_retrain.again(adata, model, how | {"progress": False}, seed), adata, pick))
            advance()
    chance = _random.generator(rng, "stability", "null")
    matches = match_all(reference, others, by, null, chance)
    dimensions = dimension_table(reference, others, matches)
    genes = gene_table(reference, others, matches, adata.var_names.astype(str), n_genes)

    components: list[_retrain.Training] = []
    pca = dimensions.iloc[:0]
    if baseline and resample and not isinstance(model, PCA):
        first = _retrain.baseline(adata, model)
        trained = [first, *(_retrain.again(adata, first, how, seed) for seed in seeds)]
        components = [_retrain.read(each, adata, pick) for each in trained]
        of_pca = match_all(components[0], components[1:], by, null, chance)
        pca = dimension_table(components[0], components[1:], of_pca)

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
    if by not in BY or null not in NULLS:
        raise ValueError(
            f"by is {by!r} and null {null!r}; by is one of {', '.join(BY)}, null one of {', '.join(NULLS)}."
        )
    if n < 1 or n_genes < 1:
        raise ValueError(f"n={n} and n_genes={n_genes} must be positive.")
    if cluster_method is not None:
        check_options(cluster_method, n_clusters)
    if not adata.var_names.is_unique:
        raise DataError("adata.var_names has duplicates; run adata.var_names_make_unique() first.")


def _holds(adata: AnnData, use_rep: str, z: np.ndarray) -> bool:
    """Return whether the cells hold this latent, up to what another number of threads may change."""
    stored = adata.obsm.get(use_rep)
    if stored is None or np.shape(stored) != z.shape:
        return False
    return bool(np.allclose(stored, z, rtol=0, atol=1e-3 * max(float(z.std()), 1e-12)))
