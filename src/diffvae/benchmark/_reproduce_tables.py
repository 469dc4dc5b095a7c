"""The results of all trainings of a reproduction, as tidy tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from diffvae import metrics
from diffvae.benchmark._reproduce_subject import Subject
from diffvae.benchmark._reproduce_train import WIDER

PRESETS = ("paper", "code", "default")
CLUSTERS, CHANGES, LINKS = "clusters", "changes", "links"
Results = Mapping[tuple[str, str, int], dict[str, Any]]
"""Part, preset and number of the training to what the part returned."""


def tables(results: Results, subject: Subject) -> dict[str, pd.DataFrame]:
    """Return the tables by name; one that nothing was computed for is empty."""
    listed = gene_lists(results)
    return {
        "overlap": overlaps(results),
        "types": _rows(results, CLUSTERS, "types"),
        "high_weight_genes": listed,
        "gene_recovery": gene_recovery(listed, results, subject),
        "classifier": pd.DataFrame(
            [about | value["classifier"] for about, value in _of(results, CHANGES) if value["classifier"]]
        ),
        "conversions": _rows(results, CHANGES, "conversions"),
        "minimal_genes": minimal_genes(results),
        "links": _rows(results, LINKS, "table"),
        "link_figures": pd.DataFrame(
            [
                about | value["figures"] | {f"within_{k}": v for k, v in value["within"].items()}
                for about, value in _of(results, LINKS)
                if value["figures"]
            ]
        ),
    }


def _of(results: Results, part: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for (name, preset, number), value in results.items():
        if name == part:
            yield {"preset": preset, "training": number}, value


def _rows(results: Results, part: str, entry: str) -> pd.DataFrame:
    return pd.DataFrame([about | row for about, value in _of(results, part) for row in value[entry]])


def overlaps(results: Results) -> pd.DataFrame:
    """Return one row per preset and training: overlap beside its expectation, clusters, what is known of them."""
    rows = []
    for about, value in _of(results, CLUSTERS):
        tested = {k: value["clustering"][k] for k in ("stability", "null_stability", "p_value") if
                  k in value["clustering"]}  # fmt: skip
        chosen = {f"clustering_{k}": v for k, v in tested.items()}
        own = value["overlap"] or {"n_clusters": int(value["clustering"]["n_clusters"])}
        rows.append(about | own | {"active_dimensions": value["active_dimensions"]} | chosen)
    return pd.DataFrame(rows)


def gene_lists(results: Results) -> pd.DataFrame:
    """Return one row per preset, training, cluster, reading and gene.

    Clusters are known by the type that they are matched to. Without labels, by the cluster of the first training with
    the same preset that most of their cells are in, one to one.
    """
    rows = []
    for about, value in _of(results, CLUSTERS):
        first = results[CLUSTERS, about["preset"], 0]
        labelled = value["overlap"] is not None
        names = {} if labelled else metrics.overlap(first["clusters"], value["clusters"]).mapping
        for one in value["genes"]:
            kind = one["type"] if labelled else f"cluster {names[one['cluster']]}" if one["cluster"] in names else ""
            keys = {"type": kind} | {k: one[k] for k in ("cluster", "reading", "per_dimension")}
            rows += [about | keys | {"rank": i, "gene": gene} for i, gene in enumerate(one["genes"], 1)]
    columns = ["preset", "training", "type", "cluster", "reading", "per_dimension", "rank", "gene"]
    return pd.DataFrame(rows, columns=columns)


def gene_recovery(listed: pd.DataFrame, results: Results, subject: Subject) -> pd.DataFrame:
    r"""Return in how many trainings each gene is one of its type, beside two expectations.

    Returns
    -------
    One row per preset, reading, type and gene, of the published genes, or without these of all genes found:
    ``in_data``, ``n_trainings``, ``found`` (trainings in which it is among the paper's few genes per dimension of the
    cluster matched to the type), ``found_wider`` (among 20 per dimension), ``expected`` and ``expected_wider``
    (trainings by chance: of a list of n different genes out of G any gene has n / G), ``elsewhere`` (trainings in which
    the gene is in the list of another cluster, mean over these: one that is heavy everywhere says nothing of the type).
    """
    columns = ["preset", "reading", "type", "gene", "published", "in_data", "n_trainings", "found", "expected",
               "elsewhere", "found_wider", "expected_wider"]  # fmt: skip
    if listed.empty:
        return pd.DataFrame(columns=columns)
    told = {} if subject.published is None else dict(subject.published.genes)
    there = set(subject.adata.var_names.astype(str))
    n_genes = next(iter(v["n_genes"] for _, v in _of(results, CLUSTERS)))
    narrow = subject.reading[1]
    rows = []
    for (preset, reading), own in listed.groupby(["preset", "reading"], sort=False):
        n = own["training"].nunique()
        few, many = own[own["per_dimension"] == narrow], own[own["per_dimension"] == WIDER]
        types = told or sorted({t for t in own["type"] if t})
        for name in types:
            mine, wide = few[few["type"] == name], many[many["type"] == name]
            others = few[few["type"] != name]
            n_others = len(others[["training", "cluster"]].drop_duplicates()) / n
            count, count_wide = mine["gene"].value_counts(), wide["gene"].value_counts()
            count_others = others["gene"].value_counts()
            for gene in told.get(name, list(count.index)):
                rows.append(
                    {
                        "preset": preset,
                        "reading": reading,
                        "type": name,
                        "gene": gene,
                        "published": gene in told.get(name, ()),
                        "in_data": gene in there,
                        "n_trainings": n,
                        "found": int(count.get(gene, 0)),
                        "expected": len(mine) / n_genes,
                        "elsewhere": count_others.get(gene, 0) / max(n_others, 1),
                        "found_wider": int(count_wide.get(gene, 0)),
                        "expected_wider": len(wide) / n_genes,
                    }
                )
    return pd.DataFrame(rows, columns=columns)


def minimal_genes(results: Results) -> pd.DataFrame:
    """Return one row per preset, training and target: how many genes the converted cells need."""
    rows = []
    for about, value in _of(results, CHANGES):
        for one in value["minimal"]:
            sizes = np.array(one["n_genes"], float)
            rows.append(
                about
                | {k: one[k] for k in ("target", "converted", "flipped")}
                | {
                    "median_n_genes": float(np.median(sizes)) if len(sizes) else np.nan,
                    "most_n_genes": float(sizes.max()) if len(sizes) else np.nan,
                    "flipped_by_de_genes": one["flipped_by_de_genes"],
                    "flipped_by_random_genes": one["flipped_by_random_genes"],
                }
            )
    return pd.DataFrame(rows)


def notes(results: Results) -> list[str]:
    """Return what could not be done, with where."""
    found = []
    for (part, preset, number), value in results.items():
        if value["note"]:
            found.append(f"{part}, preset {preset}, training {number}: {value['note']}")
    return found
