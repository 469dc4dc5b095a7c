"""The page on representations: clusters and types (Figure 1), genes (Table 1), methods beside each other (Table 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from diffvae import _measures
from diffvae.benchmark import _markdown as md
from diffvae.benchmark._reproduce_claim import METHOD_OF, OTHERS
from diffvae.benchmark._reproduce_subject import Subject
from diffvae.benchmark._reproduce_tables import PRESETS
from diffvae.benchmark._reproduce_train import WIDER
from diffvae.benchmark._reproduce_words import Tables, mean, of_preset, share
from diffvae.benchmark._statistics import summary

MOST_GENES = 8
"""Genes shown per type of a set that the paper doesn't have; the table has all."""
COLUMNS = (*((p, "weights") for p in PRESETS), ("default", "jacobian"))
"""Presets and readings of the decoder, in the order of the tables of genes."""


def clusters(subject: Subject, tables: Tables) -> list[str]:
    """Return the overlap per preset, and the recall of each type."""
    table = tables["overlap"]
    if subject.label_key is None:
        rows = [
            [p, mean(own["n_clusters"], 1), mean(own["clustering_stability"], 2),
             mean(own["clustering_null_stability"], 2), mean(own["clustering_p_value"], 2)]
            for p in PRESETS
            if len(own := of_preset(table, p)) and "clustering_stability" in own
        ]  # fmt: skip
        header = ["preset", "clusters", "stability", "of a Gaussian cloud", "p"]
        return [
            "Not testable: there are no reference types. In their place: the stability of the clusters (Leiden on the "
            "latent; mean adjusted Rand index with subsamples) beside that of a cloud without clusters.",
            md.table(header, rows),
        ]
    told = subject.published.overlap if subject.published else None
    how = {"kmeans": f"k-means into {len(subject.types)} clusters", "dbscan": "DBSCAN"}[subject.clusterer]
    chosen = subject.clusterer != "kmeans"  # which is told the number
    rows = []
    for p in PRESETS:
        own = of_preset(table, p)
        line = [p, *([f"{told:.1%}"] if told is not None else []), share(own["overlap"]), share(own["expected"])]
        most = own["p_value"].max()
        line += (
            [mean(own["ari"])]
            + [mean(own["n_clusters"], 1)] * chosen
            + [mean(own["active_dimensions"], 1), f"{most:.3g}"]
        )
        rows.append(line)
    header = ["preset", *(["published"] if told is not None else []), "ours", "permuted labels", "adjusted Rand index"]
    header += ["clusters"] * chosen + [f"active of {subject.n_latent} dimensions", "largest p"]
    types = tables["types"]
    lines = []
    for name, n in subject.types.items():
        of = [of_preset(types[types["type"] == name], p) for p in PRESETS]
        both = [f"{mean(own['recall'], 2)} / {mean(own['precision'].dropna().astype(float), 2)}" for own in of]
        lines.append([md.text(name), f"{n:,}", *both])
    return [
        f"Share of the cells whose cluster is matched, one to one, to their reference type: {how} on the t-SNE of the "
        "latent, as the paper; mean ± sd over trainings. Permuted labels: what the sizes of types and clusters bring "
        "about by themselves.",
        md.table(header, rows),
        "Recall / precision of each type:",
        md.table(["type", "cells", *PRESETS], lines, left=1),
    ]


def genes(subject: Subject, tables: Tables) -> list[str]:
    """Return in how many trainings the genes of Table 1 are found again, or without these which genes come back."""
    table = tables["gene_recovery"]
    n_dims, n_top = subject.reading
    if table.empty:
        return ["No genes: no dimension tells the clusters apart, or there is one cluster only."]
    n = int(table["n_trainings"].max())
    intro = (
        f"Per cluster the {n_dims} dimensions with the largest share of its cells (eq 3; under `default` only enriched "
        f"ones), per dimension the {n_top} genes of largest |weight| (weights of the decoder multiplied), in the "
        "cluster that is matched to the type."
    )
    if subject.published is None or not subject.published.genes:
        return [intro, *_coming_back(table, n)]
    told = table[table["published"]]
    lines = []
    for kind in subject.published.genes:
        for i, gene in enumerate(subject.published.genes[kind]):
            own = told[(told["type"] == kind) & (told["gene"] == gene)]
            line = [md.text(kind) if i == 0 else "", f"*{md.text(gene)}*"]
            if not own["in_data"].any():
                lines.append([*line, *["not among the genes read"], *[""] * len(PRESETS)])
                continue
            for p, reading in COLUMNS:
                one = own[(own["preset"] == p) & (own["reading"] == reading)]
                line.append(f"{int(one['found'].iloc[0])} ({int(one['found_wider'].iloc[0])})" if len(one) else "–")
            lines.append(line)
    for said, column, digits in (
        ("all, of all trainings", "found", 2),
        ("any genes, by chance", "expected", 2),
        ("the same in clusters of other types", "elsewhere", 2),
    ):
        line = [f"**{said}**", ""]
        for p, reading in COLUMNS:
            one = told[(told["preset"] == p) & (told["reading"] == reading) & told["in_data"]]
            line.append(md.number((one[column] / one["n_trainings"]).mean(), digits) if len(one) else "–")
        lines.append(line)
    header = ["type", "gene of Table 1", *PRESETS, "default, Jacobian"]
    return [
        intro,
        f"Number of the {n} trainings in which a published gene is found again; in brackets among the first {WIDER} "
        "genes of each of these dimensions. Below: the share of trainings, over all these genes; what lists of this "
        "length would have by chance; and how often the same genes are in the lists of clusters of *other* types (a "
        "gene that is heavy everywhere says nothing of the type).",
        md.table(header, lines, left=2),
    ]


def _coming_back(table: pd.DataFrame, n: int) -> list[str]:
    lines = []
    for kind in dict.fromkeys(table["type"]):
        line = [md.text(kind)]
        for p, reading in COLUMNS:
            own = table[(table["type"] == kind) & (table["preset"] == p) & (table["reading"] == reading)]
            first = own.sort_values(["found", "elsewhere"], ascending=[False, True], kind="stable").head(MOST_GENES)
            line.append(
                ", ".join(f"*{md.text(g)}* {f}" for g, f in zip(first["gene"], first["found"], strict=True)) or "–"
            )
        lines.append(line)
    rates = ["**mean**"]
    for p, reading in COLUMNS:
        own = table[(table["preset"] == p) & (table["reading"] == reading)]
        every = (own["found"] == n).mean() if len(own) and n > 1 else np.nan
        elsewhere, chance = ((own[c] / n).mean() if len(own) else np.nan for c in ("elsewhere", "expected"))
        again = f"{every:.0%} in all {n}; " if n > 1 else ""
        said = f"{again}elsewhere {elsewhere:.0%}, by chance {chance:.0%}"
        rates.append(said if len(own) else "–")
    return [
        f"The genes that come back most often, with the number of trainings ({n}) in which they do. Last row: the "
        "share of all genes found in any training that is found in every one, how often they are in the lists of "
        "clusters of other types, and how often any gene is in a list of this length by chance.",
        md.table(["type", *PRESETS, "default, Jacobian"], [*lines, rates], left=5),
    ]


def table_2(subject: Subject, tables: Tables, asked: Mapping[str, Any]) -> list[str]:
    """Return the paper's Table 2, a table per space, with the published means beside ours."""
    runs = tables["table2_runs"]
    if subject.label_key is None:
        return ["Not testable: the adjusted Rand index needs reference types."]
    if runs.empty:
        return ["No method could be trained; see the end of the page."]
    told = subject.published.ari if subject.published else None
    means = summary(runs, "ari")
    trainings = f"{asked['n_trainings']} training{'s' if asked['n_trainings'] > 1 else ''}"
    parts = [
        f"Adjusted Rand index with the reference types, mean ± sd over {trainings} (each the "
        f"mean of {asked['n_clusterings']} clusterings; on t-SNE each of a map of its own)"
        + ("; published: mean of 50 clusterings of one training." if told is not None else ".")
        + " PCA is of the values in [0, 1], as the paper's. k-means and mixtures are told the number of types."
    ]
    groups = [("DiffVAE", [(p, METHOD_OF[p]) for p in PRESETS]), *((k, [("ours", v)]) for k, v in OTHERS.items())]
    for space in means["space"].unique():
        header = ["clustering", "dimensions"]
        for name, own in groups:
            header += [f"{name}, published"] if told is not None else []
            header += [f"{name}, {p}" if len(own) > 1 else (name if told is None else f"{name}, ours") for p, _ in own]
        lines = []
        for clusterer in means["clusterer"].unique():
            of = means[(means["space"] == space) & (means["clusterer"] == clusterer)]
            for i, n_latent in enumerate(sorted(of["n_latent"].unique())):
                line = [_measures.clusterer_name(clusterer, False) if i == 0 else "", str(int(n_latent))]
                for name, own in groups:
                    if told is not None:
                        at = told[(told["space"] == space) & (told["clusterer"] == clusterer)]
                        at = at[(at["n_latent"] == n_latent) & (at["method"] == name)]
                        line.append(f"{at['ari'].iloc[0]:.3f}" if len(at) else "–")
                    for _, method in own:
                        one = of[(of["n_latent"] == n_latent) & (of["method"] == method)]
                        line.append(md.spread(one["mean"].iloc[0], one["sd"].iloc[0]) if len(one) else "–")
                lines.append(line)
        parts += [f"**{md.capital(_measures.space_name(space))}**", md.table(header, lines, left=2)]
    return [*parts, *_paired(tables["table2_paired"])]


def _paired(table: pd.DataFrame) -> list[str]:
    if table.empty:
        return []
    lines = []
    for row in table.to_dict("records"):
        known = np.isfinite(row["low"])
        sure = known and (row["low"] > 0 or row["high"] < 0)
        said = md.number(row["difference"])
        between = f"{md.number(row['low'])} to {md.number(row['high'])}" if known else "–"
        lines.append([row["reference"], row["method"], f"**{said}**" if sure else said, between])
    return [
        "Paired by split and seed, over k-means and DBSCAN, both spaces and all dimensions (95 % bootstrap interval "
        "over trainings; bold: zero is outside):",
        md.table(["method", "minus", "difference", "interval"], lines, left=2),
    ]
