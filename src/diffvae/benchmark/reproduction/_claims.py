"""The claims of the paper: what it says and where, the rule by which a claim holds, and how it is measured here.

A function with the decorator ``@claim`` measures a claim for one preset from the rows of a result table. It returns a
text and whether the claim holds. :func:`_fields` gives the values of the fields in braces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae.benchmark import _markdown as md
from diffvae.benchmark._statistics import at, summary
from diffvae.benchmark.reproduction._subject import ALL_TYPES, MATURE_TYPES, METHOD_OF, OTHERS, PRESETS, Subject

SIGNIFICANT = 0.05
NO_RULE = "no rule"
Measured = tuple[str, bool | None]
"""The measured value as text, and whether the claim holds; None if that cannot be decided."""
NOT_TESTED: Measured = ("–", None)
Measure = Callable[[pd.DataFrame, str, Subject], Measured]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper."""

    claim: str
    where: str
    published: str
    """The paper's number."""
    rule: str
    """The condition under which the claim holds."""
    table: str
    """Result table: its rows of a preset, or all rows if it has no presets, are measured."""
    measure: Measure
    when: Callable[[Subject], object]
    """Whether the claim applies to the cells."""

    def evaluate(self, tables: Mapping[str, pd.DataFrame], subject: Subject) -> dict[str, str]:
        """Return the texts of the claim, the value of each preset, and whether the claim holds."""
        table = tables.get(self.table, pd.DataFrame())
        by_preset = {p: table[table["preset"] == p] if "preset" in table else table for p in PRESETS}
        measured = {p: self.measure(rows, p, subject) if len(rows) else NOT_TESTED for p, rows in by_preset.items()}
        text, published, rule = (t.format(**_fields(subject)) for t in (self.claim, self.published, self.rule))
        return {
            "claim": text,
            "where": self.where,
            "published": published if subject.published else "",
            **{preset: value for preset, (value, _) in measured.items()},
            "holds_here": "–" if rule.startswith(NO_RULE) else holds([verdict for _, verdict in measured.values()]),
            "rule": rule,
        }


def _fields(subject: Subject) -> dict[str, Any]:
    about = subject.settings
    n_source = about.types.get(str(about.source), 0)
    return {
        "about": about,
        "source": subject.source,
        "n_genes": sum(map(len, about.genes.values())),
        "conversions": ", ".join(f"{t} {n}" for t, n in about.converted.items()) + f" of {n_source}",
        "n_entries": 0 if about.ari is None else (about.ari["method"] == "DiffVAE").sum(),
    }


def holds(verdicts: Sequence[bool | None]) -> str:
    """Return "yes", "no", the presets under which a claim holds, or "not testable".

    Examples
    --------
    >>> holds([True, None, True]), holds([True, False, True]), holds([None, None, None])
    ('yes', 'only paper and default', 'not testable')
    """
    known = {preset: verdict for preset, verdict in zip(PRESETS, verdicts, strict=True) if verdict is not None}
    yes = [preset for preset, verdict in known.items() if verdict]
    if not known:
        return "not testable"
    if len(yes) in (0, len(known)):
        return "yes" if yes else "no"
    return f"only {md.listed(yes)}"


CLAIMS: list[Claim] = []


def claim(
    text: str, where: str, published: str, table: str, when: Callable[[Subject], object], *, rule: str
) -> Callable[[Measure], Measure]:
    """Add a claim to the table of claims; the decorated function measures it."""

    def add(measure: Measure) -> Measure:
        CLAIMS.append(Claim(text, where, published, rule, table, measure, when))
        return measure

    return add


def evaluate(tables: Mapping[str, pd.DataFrame], subject: Subject) -> pd.DataFrame:
    """Return the claims that apply to the cells, with the value of each preset and whether they hold."""
    return pd.DataFrame([one.evaluate(tables, subject) for one in CLAIMS if one.when(subject)])


def percent(values: pd.Series) -> str:
    """Return mean and standard deviation in percent."""
    sd = f" ± {values.std():.1%}" if len(values) > 1 else ""
    return f"{values.mean():.1%}{sd}"


def has_labels(subject: Subject) -> bool:
    return subject.label_key is not None


@claim(
    "The representation does not display separable clusters", "Identifying cell types", "no separable clusters",
    "overlap", lambda subject: not has_labels(subject) and not subject.settings.separable,
    rule="in most trainings no cluster (Leiden) is separated from all others: borders cross as many neighbours as cuts "
    "through the inside of clusters",
)  # fmt: skip
def _inseparable(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    if "clustering_n_separated" not in rows:
        return NOT_TESTED
    inseparable = rows["clustering_n_separated"] == 0
    return f"{int(inseparable.sum())} of {len(rows)} trainings", bool(inseparable.mean() > 0.5)


@claim(
    "Overlap of the clusters with the reference types", "Identifying high weight genes", "{about.overlap:.1%}",
    "overlap", lambda subject: has_labels(subject) and subject.settings.overlap,
    rule="the mean over trainings is at least the published overlap less 2%",
)  # fmt: skip
def _overlap(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    assert subject.settings.overlap is not None
    return percent(rows["overlap"]), bool(rows["overlap"].mean() >= subject.settings.overlap - 0.02)


@claim(
    "Clusters of the map are the reference types beyond chance", "Identifying cell types", "", "overlap", has_labels,
    rule=f"in every training more overlap than under permuted labels (p < {SIGNIFICANT})",
)  # fmt: skip
def _overlap_beyond_chance(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    text = f"{percent(rows['overlap'])}, by chance {rows['expected'].mean():.1%}"
    return text, bool((rows["p_value"] < SIGNIFICANT).all())


@claim(
    "High-weight genes of the clusters", "Table 1", "{n_genes} genes",
    "gene_recovery", lambda subject: subject.settings.genes,
    rule="of those that the data have, more than half are among {about.n_dims} dimensions x {about.n_top} genes of "
    "the cluster matched to their type in more than half of the trainings",
)  # fmt: skip
def _genes_found(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    rows = rows[(rows["reading"] == "weights") & rows["in_data"].astype(bool)]
    if rows.empty:
        return NOT_TESTED
    usual = rows["found"] > rows["n_trainings"] / 2
    found, chance = rows["found"].div(rows["n_trainings"]).mean(), rows["expected"].mean() / rows["n_trainings"].iloc[0]
    text = f"{int(usual.sum())} of {len(rows)} (each is found in {found:.0%} of the trainings, by chance {chance:.0%})"
    return text, bool(usual.mean() > 0.5)


@claim(
    "High-weight genes recur (the paper shows one training)", "Table 1", "",
    "gene_recovery", lambda subject: not subject.settings.genes,
    rule=f"{NO_RULE}: the paper makes no such claim",
)  # fmt: skip
def _genes_recur(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    rows = rows[rows["reading"] == "weights"]
    if rows.empty or rows["n_trainings"].iloc[0] < 2:
        return NOT_TESTED
    every = rows["found"] == rows["n_trainings"]
    return f"{int(every.sum())} of {len(rows)} genes found in every training", None


def has_source(subject: Subject) -> bool:
    return subject.source is not None


def has_papers_source(subject: Subject) -> bool:
    """Return whether the progenitors are those whose conversions and links the paper reports."""
    return has_source(subject) and subject.source == subject.settings.source


def converted(rows: pd.DataFrame, n_sd: float) -> pd.Series:
    """Return the share of the progenitors that a shift converts to each target, mean over trainings."""
    return at(rows, method="shift", n_sd=n_sd).groupby("target", sort=False)["converted"].mean()


@claim(
    "How many {source} convert at lambda = 1, by target", "text on Figure 3", "{conversions}",
    "conversions", has_papers_source,
    rule="every mean share is within 10% of the cells",
)  # fmt: skip
def _conversions(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    whole, about = converted(rows, 1.0), subject.settings
    published = {t: n / about.types[str(subject.source)] for t, n in about.converted.items() if t in whole}
    if not published:
        return NOT_TESTED
    shares = ", ".join(f"{t} {whole[t]:.0%}" for t in published)
    return shares, all(abs(whole[t] - share) <= 0.1 for t, share in published.items())


@claim(
    "The easiest target", "text on Figure 3", "{about.easiest}", "conversions", has_papers_source,
    rule="the same target has the largest mean share",
)  # fmt: skip
def _easiest_target(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    whole = converted(rows, rows["n_sd"].max())
    first = "none converts" if whole.max() == 0 else str(whole.idxmax())
    return f"{first} ({whole.max():.0%})", first == subject.settings.easiest


@claim(
    "A larger shift converts more cells", "Figure 3", "lambda = 1 above 0.5", "conversions", has_source,
    rule="some cells convert, and for every target the mean share at lambda = 1 is at least that at 0.5",
)  # fmt: skip
def _larger_shift(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    half, whole = converted(rows, 0.5), converted(rows, 1.0)
    if not whole.any():
        return "none converts", False
    more = whole >= half
    return f"{int(more.sum())} of {len(more)} targets", bool(more.all())


@claim(
    "More cells convert than by random directions of equal change or by decoding alone", "not in the paper", "",
    "conversions", has_source,
    rule=f"for every target in most trainings (q < {SIGNIFICANT}, and more than at lambda = 0)",
)  # fmt: skip
def _conversions_beyond_chance(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    rows = rows[(rows["method"] == "shift") & (rows["n_sd"] == rows["n_sd"].max())]
    sure = (rows["q_value"] < SIGNIFICANT) & (rows["converted"] > rows["converted_at_0"])
    share = sure.groupby(rows["target"]).mean()
    return f"{int((share > 0.5).sum())} of {len(share)} targets", bool((share > 0.5).all())


def accuracy(rows: pd.DataFrame, types: str, subject: Subject) -> Measured:
    """Measure the classifier of these types; there is no verdict without a published accuracy."""
    rows, published = rows[rows["types"] == types], subject.settings.accuracy
    if rows.empty:
        return NOT_TESTED
    n, usual = rows["n_test"].mean(), rows["baseline"].mean()
    text = f"{percent(rows['accuracy'])} ({n:,.0f} held-out cells; always the most frequent type: {usual:.1%})"
    return text, None if published is None else bool(rows["accuracy"].mean() >= published - 0.005)


@claim(
    "Accuracy of the classifier of the mature types", "Characterization of cell states", "{about.accuracy:.1%}",
    "classifier", lambda subject: has_source(subject) and subject.settings.accuracy,
    rule="on held-out cells of the mature types, at least the published one less 0.5%",
)  # fmt: skip
@claim(
    "Accuracy of the classifier of all types but the progenitors ({source})", "Characterization of cell states", "",
    "classifier", lambda subject: has_source(subject) and not subject.settings.accuracy,
    rule=f"{NO_RULE}: the paper does not report it for these cells",
)  # fmt: skip
def _accuracy(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    return accuracy(rows, MATURE_TYPES, subject)


@claim(
    "The same with the progenitors as a type, which the conversions need", "not in the paper", "",
    "classifier", lambda subject: has_source(subject) and subject.settings.accuracy,
    rule="on held-out cells, progenitors included, at least the published one of the mature types less 0.5%",
)  # fmt: skip
@claim(
    "The same with the progenitors as a type, which the conversions need", "not in the paper", "",
    "classifier", lambda subject: has_source(subject) and not subject.settings.accuracy,
    rule=f"{NO_RULE}: the paper's classifier has no progenitors",
)  # fmt: skip
def _accuracy_of_all(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    return accuracy(rows, ALL_TYPES, subject)


def mean_n_genes(rows: pd.DataFrame, target: str, column: str) -> float:
    """Return the number of genes that cells need, mean over trainings; NaN if no number of genes converts any cell."""
    return float(rows.loc[(rows["target"] == target) & (rows["flipped"] > 0), column].mean())


@claim(
    "Most genes that a cell needs to become {about.most_genes[0]}", "text on Figure 3", "up to {about.most_genes[1]}",
    "minimal_genes", has_papers_source, rule="at most {about.most_genes[1]}, mean over trainings",
)  # fmt: skip
def _most_genes(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    target, published = subject.settings.most_genes
    n = mean_n_genes(rows, target, "most_n_genes")
    return (f"{n:.0f}", n <= published) if np.isfinite(n) else NOT_TESTED


@claim(
    "Genes with which half of the cells become {about.half_genes[0]}", "text on Figure 3", "{about.half_genes[1]}",
    "minimal_genes", has_papers_source, rule="the median is at most {about.half_genes[1]}, mean over trainings",
)  # fmt: skip
def _half_genes(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    target, published = subject.settings.half_genes
    n = mean_n_genes(rows, target, "median_n_genes")
    return (f"{n:.0f}", n <= published) if np.isfinite(n) else NOT_TESTED


@claim(
    "Share of the genes that is needed to become {about.gene_share[0]}",
    "text on Figure 3", "about {about.gene_share[1]:.0%}", "minimal_genes", has_papers_source,
    rule="the most that a cell needs is within 10% of {about.gene_share[1]:.0%} of the genes, mean over trainings",
)  # fmt: skip
def _gene_share(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    target, published = subject.settings.gene_share
    share = mean_n_genes(rows, target, "most_n_genes") / subject.adata.n_vars
    return (f"{share:.0%}", published - 0.1 <= share <= published + 0.1) if np.isfinite(share) else NOT_TESTED


def papers_means(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean adjusted Rand indices of the clusterers of the paper's Table 2."""
    return summary(runs[runs["clusterer"].isin(("kmeans", "dbscan"))], "ari")


@claim(
    "DiffVAE's entries", "Table 2", "{n_entries} entries",
    "table2_runs", lambda subject: has_labels(subject) and subject.settings.ari is not None,
    rule="all of ours are within 0.05 of the published mean",
)  # fmt: skip
def _entries(runs: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    assert subject.settings.ari is not None
    published = subject.settings.ari.query("method == 'DiffVAE'").drop(columns="method")
    means = papers_means(runs)
    both = means[means["method"] == METHOD_OF[preset]].merge(published, on=["clusterer", "n_latent", "space"])
    if both.empty:
        return NOT_TESTED
    close = (both["mean"] - both["ari"]).abs() <= 0.05
    return f"{int(close.sum())} of {len(close)} entries", bool(close.all())


@claim(
    "DiffVAE clusters better than VAE, AE and PCA", "Table 2", "best overall", "table2_runs", has_labels,
    rule="its mean adjusted Rand index over k-means and DBSCAN, both spaces and all dimensions is the highest",
)  # fmt: skip
def _best(runs: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    overall = papers_means(runs).groupby("method")["mean"].mean()
    rest = overall[[m for m in OTHERS.values() if m in overall]]
    if METHOD_OF[preset] not in overall or rest.empty:
        return NOT_TESTED
    score = overall[METHOD_OF[preset]]
    return f"{score:.3f}, best other {rest.idxmax()} {rest.max():.3f}", bool(score > rest.max())


@claim(
    "Clusters of the t-SNE map are better than those of the latent", "Table 2", "t-SNE improves the results",
    "table2_runs", has_labels,
    rule="the mean adjusted Rand index on the map is above that on the latent",
)  # fmt: skip
def _map_helps(runs: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    means = papers_means(runs)
    by_space = means[means["method"] == METHOD_OF[preset]].groupby("space")["mean"].mean()
    if {"latent", "tsne"} - set(by_space.index):
        return NOT_TESTED
    latent, tsne = by_space["latent"], by_space["tsne"]
    return f"t-SNE {tsne:.3f}, latent {latent:.3f}", bool(tsne > latent)


@claim(
    "Predicted links show better-defined clusters than co-expression",
    "Figure 4d, e", "clusters of co-expression less well defined", "link_figures", has_labels,
    rule="a larger share of a type's predicted links is within it, mean over types, than of the same number of pairs "
    "with the highest |r|",
)  # fmt: skip
def _clearer_than_pearson(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    rows = rows.dropna(subset=["within_predicted_by_type", "within_pearson_by_type"])
    if rows.empty:
        return NOT_TESTED
    ours, pearson = rows["within_predicted_by_type"].mean(), rows["within_pearson_by_type"].mean()
    return f"{ours:.1%} of a type's links within it, Pearson {pearson:.1%}", bool(ours > pearson)


@claim(
    "Progenitors ({source}) do not cluster together well", "Figure 4d", "linked to the mature types",
    "links", has_source,
    rule="a smaller share of their predicted links is among themselves than of any other type",
)  # fmt: skip
def _progenitors_apart(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    rows = rows[rows["graph"] == _keys.CALLED_LINKS]
    inside: dict[str, float] = {}
    for name in dict.fromkeys([*rows["type_1"], *rows["type_2"]]):
        touching = rows[(rows["type_1"] == name) | (rows["type_2"] == name)]
        if total := touching["n_links"].sum():
            inside[name] = touching.loc[touching["type_1"] == touching["type_2"], "n_links"].sum() / total
    if subject.source not in inside or len(inside) < 2:
        return NOT_TESTED
    share = inside.pop(subject.source)
    other = min(inside, key=lambda name: inside[name])
    text = f"{share:.0%} of their links among themselves, least other {other} {inside[other]:.0%}"
    return text, bool(share < inside[other])


def links_of(links: pd.DataFrame, subject: Subject) -> pd.DataFrame:
    """Return the rows of a link table that join the progenitors to another type, which becomes ``target``."""
    one, other = links["type_1"] == subject.source, links["type_2"] == subject.source
    rows = links[one ^ other]
    return rows.assign(target=np.where(one[one ^ other], rows["type_2"], rows["type_1"]))


@claim(
    "The type with the most predicted links of the progenitors ({source})", "text on Figure 4d", "{about.linked_to}",
    "links", has_papers_source,
    rule="the same type has the most links, mean over trainings",
)  # fmt: skip
@claim(
    "The type with the most predicted links of the progenitors ({source})", "text on Figure 4d", "",
    "links", lambda subject: has_source(subject) and not has_papers_source(subject),
    rule=f"{NO_RULE}: the paper does not report it for these cells",
)  # fmt: skip
def _most_linked(rows: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    linked = links_of(rows[rows["graph"] == _keys.CALLED_LINKS], subject)
    published = subject.settings.linked_to if has_papers_source(subject) else None
    if linked.empty:
        return NOT_TESTED
    mean = linked.groupby("target")[["n_links", "log2_ratio"]].mean()
    if not mean["n_links"].any():
        return "no links", False if published else None
    first = str(mean["n_links"].idxmax())
    text = f"{first} ({mean['n_links'].max():.0f} links), relative to chance {mean['log2_ratio'].idxmax()}"
    return text, None if published is None else first == published
