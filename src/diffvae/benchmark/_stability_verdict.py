"""What a look at further trainings comes to, in words."""

from __future__ import annotations

import pandas as pd

from diffvae.benchmark._recurring import LEVEL

WITHIN = 0.02
"""Difference of a share or of an index below which two are called alike."""
DISSOLVED = 0.5
"""Jaccard index below which a cluster is dissolved (Hennig 2007)."""


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
    """Say what recurs, what chance and PCA would give, and what that means for reading single dimensions."""
    living = dimensions[dimensions["alive"]]
    dead = len(dimensions) - len(living)
    if living.empty:
        return [f"All {dead} dimensions of {model} are dead; there is nothing to find again."]
    said = [_of_dimensions(living, dead, n, by, null)]
    if len(pca):
        said.append(_beside_pca(living, pca, model))
    if (sentence := _of_content(living)) is not None:
        said.append(sentence)
    if len(genes):
        said.append(_of_genes(genes))
    if len(clusters):
        said += _of_clusters(clusters, labels)
    return said


def _of_dimensions(living: pd.DataFrame, dead: int, n: int, by: str, null: str) -> str:
    share, always = living["recurrence"].mean(), int((living["recurrence"] == 1).sum())
    trainings = "one further training" if n == 1 else f"{n} further trainings"
    besides = f" ({dead} dead ones are left out)" if dead else ""
    judged = (
        "no more often than chance would have it"
        if share <= 1 - LEVEL + WITHIN
        else f"by chance it would be {1 - LEVEL:.0%}"
    )
    random = "weights of shuffled genes" if null == "permutation" else "random axes of the same latent space"
    return (
        f"Of {len(living)} living dimensions{besides}, matched by {by}, {share:.0%} on average are found again in "
        f"{trainings}, closer than {random} come ({judged}); {always} in every one. Similarity "
        f"{living['similarity'].mean():.2f}, by chance {living['null_similarity'].mean():.2f}."
    )


def _beside_pca(living: pd.DataFrame, pca: pd.DataFrame, model: str) -> str:
    own, theirs = living["recurrence"].mean(), pca["recurrence"].mean()
    figures = (
        f"{theirs:.0%} of the components of PCA are found again under the same splits, {own:.0%} of the dimensions"
    )
    if theirs >= own - WITHIN:
        return f"PCA does at least as well: {figures} of {model}."
    return f"{figures} of {model}."


def _of_content(living: pd.DataFrame) -> str | None:
    lost = living[living["recurrence"] < 1]
    if lost.empty or lost["explained"].median() < 0.5:
        return None
    return (
        f"What does not come back is mostly the axis, not the content: another training's whole latent space explains "
        f"{lost['explained'].median():.0%} of the variance of the {len(lost)} dimensions that are not found in each of "
        "them (median). Read such dimensions together, or read clusters."
    )


def _of_genes(genes: pd.DataFrame) -> str:
    own, chance = genes["recurrence"].mean(), genes["null_recurrence"].mean()
    return (
        f"Of the high-weight genes of a dimension {own:.0%} are among those of its match, {chance:.0%} among those of "
        "any other dimension."
    )


def _of_clusters(clusters: pd.DataFrame, labels: pd.DataFrame) -> list[str]:
    ari = labels.groupby("source")["ari"].agg(["mean", "std"])
    own = ari.loc["trainings", "mean"]
    beside = [f"{ari.loc['clusterings', 'mean']:.2f} between clusterings of one training"]
    if "PCA" in ari.index:
        beside.append(f"{ari.loc['PCA', 'mean']:.2f} with PCA")
    said = [f"Clusters of two trainings agree with an adjusted Rand index of {own:.2f} ({', '.join(beside)})."]
    if "PCA" in ari.index and ari.loc["PCA", "mean"] >= own - WITHIN:
        said.append("PCA's clusters are at least as stable.")
    lost = clusters[clusters["jaccard"] < DISSOLVED]
    if len(lost):
        names = ", ".join(lost["cluster"].astype(str))
        said.append(f"These clusters are not found again (Jaccard index below {DISSOLVED:g}): {names}.")
    return said
