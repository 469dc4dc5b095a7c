"""Claims on representations: clusters and types, high-weight genes, Table 2."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from diffvae.benchmark._reproduce_claim import (
    METHOD_OF,
    NOT_TESTED,
    OTHERS,
    SIGNIFICANT,
    Claim,
    Measured,
    each,
    own_rows,
    percent,
)
from diffvae.benchmark._reproduce_subject import Subject
from diffvae.benchmark._statistics import summary

TOLERANCE_OVERLAP, TOLERANCE_ARI = 0.02, 0.05


def of_clusters(tables: Mapping[str, pd.DataFrame], subject: Subject) -> list[Claim]:
    about, table = subject.published, tables["overlap"]
    if subject.label_key is None:
        if about is None or about.separable:
            return []

        def separable(preset: str) -> Measured:
            own = own_rows(table, preset)
            if own.empty or "clustering_p_value" not in own:
                return NOT_TESTED
            beaten = own["clustering_p_value"] > 1 / 9 + 1e-9  # a cloud without clusters is as stable
            return f"{int(beaten.sum())} of {len(own)} trainings", bool(beaten.mean() > 0.5)

        return [
            Claim(
                "The representation doesn't display separable clusters",
                "Identifying cell types",
                "no separable clusters",
                "in most trainings the most stable partition is no more stable than that of a Gaussian cloud of the "
                "same covariance (Leiden, p > 1/9)",
                each(separable),
            )
        ]

    def overlap(preset: str) -> Measured:
        own = own_rows(table, preset)
        if own.empty or about is None or about.overlap is None:
            return NOT_TESTED
        return percent(own["overlap"]), bool(own["overlap"].mean() >= about.overlap - TOLERANCE_OVERLAP)

    def beyond_chance(preset: str) -> Measured:
        own = own_rows(table, preset)
        if own.empty:
            return NOT_TESTED
        return (
            f"{percent(own['overlap'])}, by chance {own['expected'].mean():.1%}",
            bool((own["p_value"] < SIGNIFICANT).all()),
        )

    first = Claim(
        "Clusters of the map are the reference types beyond chance",
        "Identifying cell types",
        "",
        f"in every training more overlap than under permuted labels (p < {SIGNIFICANT})",
        each(beyond_chance),
    )
    if about is None or about.overlap is None:
        return [first]
    return [
        Claim(
            "Overlap of the clusters with the reference types",
            "Identifying high weight genes",
            f"{about.overlap:.1%}",
            f"the mean over trainings is at least the published overlap less {TOLERANCE_OVERLAP:.0%}",
            each(overlap),
        ),
        first,
    ]


def of_genes(tables: Mapping[str, pd.DataFrame], subject: Subject) -> list[Claim]:
    table, about = tables["gene_recovery"], subject.published
    n_dims, n_top = subject.reading

    def recovered(preset: str) -> Measured:
        own = own_rows(table, preset, reading="weights", in_data=True)
        if own.empty:
            return NOT_TESTED
        usual = own["found"] > own["n_trainings"] / 2
        chance = (own["expected"]).mean()
        said = f"{int(usual.sum())} of {len(own)} (each is found in {own['found'].div(own['n_trainings']).mean():.0%}"
        return f"{said} of the trainings, by chance {chance / own['n_trainings'].iloc[0]:.0%})", bool(
            usual.mean() > 0.5
        )

    def recurs(preset: str) -> Measured:
        own = own_rows(table, preset, reading="weights")
        if own.empty or own["n_trainings"].iloc[0] < 2:
            return NOT_TESTED
        every = own["found"] == own["n_trainings"]
        return f"{int(every.sum())} of {len(own)} genes found in every training", None

    if about is not None and about.genes:
        return [
            Claim(
                "High-weight genes of the clusters",
                "Table 1",
                f"{sum(map(len, about.genes.values()))} genes",
                f"of those that the data have, more than half are among {n_dims} dimensions x {n_top} genes of the "
                "cluster matched to their type in more than half of the trainings",
                each(recovered),
            )
        ]
    return [
        Claim(
            "High-weight genes come back (the paper shows one training)",
            "Table 1",
            "",
            "no rule: the paper makes no such claim",
            each(recurs),
        )
    ]


def of_table_2(tables: Mapping[str, pd.DataFrame], subject: Subject) -> list[Claim]:
    runs, about = tables["table2_runs"], subject.published
    if runs.empty:
        return []
    means = summary(runs[runs["clusterer"].isin(("kmeans", "dbscan"))], "ari")

    def best(preset: str) -> Measured:
        overall = means.groupby("method")["mean"].mean()
        if METHOD_OF[preset] not in overall or not (rest := [m for m in OTHERS.values() if m in overall]):
            return NOT_TESTED
        own, rival = overall[METHOD_OF[preset]], max(rest, key=lambda m: overall[m])
        return f"{own:.3f}, best other {rival} {overall[rival]:.3f}", bool(own > overall[rival])

    def map_helps(preset: str) -> Measured:
        own = means[means["method"] == METHOD_OF[preset]].groupby("space")["mean"].mean()
        if {"latent", "tsne"} - set(own.index):
            return NOT_TESTED
        return f"t-SNE {own['tsne']:.3f}, latent {own['latent']:.3f}", bool(own["tsne"] > own["latent"])

    found = [
        Claim(
            "DiffVAE clusters better than VAE, AE and PCA",
            "Table 2",
            "best overall",
            "its mean adjusted Rand index over k-means and DBSCAN, both spaces and all dimensions is the highest",
            each(best),
        ),
        Claim(
            "Clusters of the t-SNE map are better than those of the latent",
            "Table 2",
            "t-SNE improves the results",
            "the mean adjusted Rand index on the map is above that on the latent",
            each(map_helps),
        ),
    ]
    if about is None or about.ari is None:
        return found
    told = about.ari[about.ari["method"] == "DiffVAE"]

    def near(preset: str) -> Measured:
        own = means[means["method"] == METHOD_OF[preset]]
        both = own.merge(told.drop(columns="method"), on=["clusterer", "n_latent", "space"])
        if both.empty:
            return NOT_TESTED
        close = (both["mean"] - both["ari"]).abs() <= TOLERANCE_ARI
        return f"{int(close.sum())} of {len(close)} entries", bool(close.all())

    entry = Claim(
        "DiffVAE's entries",
        "Table 2",
        f"{len(told)} entries",
        f"all of ours are within {TOLERANCE_ARI} of the published mean",
        each(near),
    )
    return [entry, *found]
