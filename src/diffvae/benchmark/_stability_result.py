"""What further trainings of a model say of the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

TABLES = ("dimensions", "genes", "clusters", "labels", "matches", "baseline")


@dataclass(frozen=True)
class Stability:
    """What :func:`diffvae.benchmark.stability` found.

    Attributes
    ----------
    dimensions
        One row per dimension: ``dimension``, ``alive``, ``recurrence`` (share of the further trainings in which the
        match exceeds ``threshold``), ``similarity`` and ``similarity_sd`` (absolute cosine with the match, over the
        trainings), ``null_similarity`` and ``threshold`` (mean and 95th percentile of the null, over the trainings),
        ``explained`` (adjusted R^2 of the dimension on the whole latent of another training: whether its content is
        there, along whatever axes). NaN where the dimension is dead.
    genes
        One row per living dimension, reading (``"weights"``, ``"jacobian"``) and gene among the first by absolute
        value: ``rank``, ``gene``, ``direction`` ("up": rises with the dimension), ``weight``, ``recurrence`` (share of
        the trainings in which it is among as many first genes of the matched dimension), ``same_direction`` (share in
        which the matched dimension moves it the same way) and ``null_recurrence`` (the recurrence that it has in all
        dimensions that are *not* the match: a gene that is heavy everywhere recurs anyway).
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
        ``dimensions`` of as many principal components, under the same splits; empty without a baseline.
    sentences
        In words, with the places where chance or PCA does as well.
    params
        ``model``, ``n``, ``by``, ``null`` and the other choices; ``mark`` tells the latent that this is about.

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
