"""The table of claims: what the paper says and where, the rule by which a claim holds, how ours is measured.

Each function below a ``@claim`` measures it for one preset from the rows of a result table, and returns what is shown
and whether the claim holds. The fields in braces are filled in by :func:`_fields`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae.benchmark import _markdown as md
from diffvae.benchmark._statistics import summary
from diffvae.benchmark.reproduction._subject import METHOD_OF, OTHERS, PRESETS, Subject

SIGNIFICANT = 0.05
NO_RULE = "no rule"
Measured = tuple[str, bool | None]
"""What is shown, and whether the claim holds; None if that cannot be decided."""
NOT_TESTED: Measured = ("–", None)
Measure = Callable[[pd.DataFrame, str, Subject], Measured]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes
    ----------
    claim, where, published
        What the paper says, the place in the paper, its number.
    rule
        When the claim holds.
    table
        Result table from which it is measured: the rows of a preset, all rows of a table without presets.
    measure
        Gets these rows, the preset and the cells.
    when
        Whether the claim applies to the cells.
    """

    claim: str
    where: str
    published: str
    rule: str
    table: str
    measure: Measure
    when: Callable[[Subject], object]

    def evaluate(self, tables: Mapping[str, pd.DataFrame], subject: Subject) -> dict[str, str]:
        """Return the texts of the claim, what each preset measured, and whether the claim holds."""
        table = tables.get(self.table, pd.DataFrame())
        rows = {p: table[table["preset"] == p] if "preset" in table else table for p in PRESETS}
        measured = {p: self.measure(own, p, subject) if len(own) else NOT_TESTED for p, own in rows.items()}
        text, published, rule = (t.format(**_fields(subject)) for t in (self.claim, self.published, self.rule))
        return {
            "claim": text,
            "where": self.where,
            "published": published if subject.published else "",
            **{preset: said for preset, (said, _) in measured.items()},
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
    """Return the claims that apply to the cells, with what each preset measured and whether they hold."""
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
    rule="in most trainings the most stable partition is no more stable than that of a Gaussian cloud of the same "
    "covariance (Leiden, p > 1/9)",
)  # fmt: skip
def _inseparable(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    if "clustering_p_value" not in own:
        return NOT_TESTED
    beaten = own["clustering_p_value"] > 1 / 9 + 1e-9
    return f"{int(beaten.sum())} of {len(own)} trainings", bool(beaten.mean() > 0.5)


@claim(
    "Overlap of the clusters with the reference types", "Identifying high weight genes", "{about.overlap:.1%}",
    "overlap", lambda subject: has_labels(subject) and subject.settings.overlap,
    rule="the mean over trainings is at least the published overlap less 2%",
)  # fmt: skip
def _overlap(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    assert subject.settings.overlap is not None
    return percent(own["overlap"]), bool(own["overlap"].mean() >= subject.settings.overlap - 0.02)


@claim(
    "Clusters of the map are the reference types beyond chance", "Identifying cell types", "", "overlap", has_labels,
    rule=f"in every training more overlap than under permuted labels (p < {SIGNIFICANT})",
)  # fmt: skip
def _overlap_beyond_chance(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    said = f"{percent(own['overlap'])}, by chance {own['expected'].mean():.1%}"
    return said, bool((own["p_value"] < SIGNIFICANT).all())


@claim(
    "High-weight genes of the clusters", "Table 1", "{n_genes} genes",
    "gene_recovery", lambda subject: subject.settings.genes,
    rule="of those that the data have, more than half are among {about.n_dims} dimensions x {about.n_top} genes of "
    "the cluster matched to their type in more than half of the trainings",
)  # fmt: skip
def _genes_found(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    own = own[(own["reading"] == "weights") & own["in_data"].astype(bool)]
    if own.empty:
        return NOT_TESTED
    usual = own["found"] > own["n_trainings"] / 2
    found, chance = own["found"].div(own["n_trainings"]).mean(), own["expected"].mean() / own["n_trainings"].iloc[0]
    said = f"{int(usual.sum())} of {len(own)} (each is found in {found:.0%} of the trainings, by chance {chance:.0%})"
    return said, bool(usual.mean() > 0.5)


@claim(
    "High-weight genes recur (the paper shows one training)", "Table 1", "",
    "gene_recovery", lambda subject: not subject.settings.genes,
    rule=f"{NO_RULE}: the paper makes no such claim",
)  # fmt: skip
def _genes_recur(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    own = own[own["reading"] == "weights"]
    if own.empty or own["n_trainings"].iloc[0] < 2:
        return NOT_TESTED
    every = own["found"] == own["n_trainings"]
    return f"{int(every.sum())} of {len(own)} genes found in every training", None


def has_source(subject: Subject) -> bool:
    return subject.source is not None


def has_papers_source(subject: Subject) -> bool:
    """Return whether the progenitors are those whose conversions and links the paper reports."""
    return has_source(subject) and subject.source == subject.settings.source


def converted(own: pd.DataFrame, n_sd: float) -> pd.Series:
    """Return the share of the progenitors that a shift converts to each target, mean over trainings."""
    rows = own[(own["method"] == "shift") & (own["n_sd"] == n_sd)]
    return rows.groupby("target", sort=False)["converted"].mean()


@claim(
    "How many {source} convert at lambda = 1, by target", "text on Figure 3", "{conversions}",
    "conversions", has_papers_source,
    rule="every mean share is within 10% of the cells",
)  # fmt: skip
def _conversions(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    whole, about = converted(own, 1.0), subject.settings
    told = {t: n / about.types[str(subject.source)] for t, n in about.converted.items() if t in whole}
    if not told:
        return NOT_TESTED
    said = ", ".join(f"{t} {whole[t]:.0%}" for t in told)
    return said, all(abs(whole[t] - share) <= 0.1 for t, share in told.items())


@claim(
    "The easiest target", "text on Figure 3", "{about.easiest}", "conversions", has_papers_source,
    rule="the same target has the largest mean share",
)  # fmt: skip
def _easiest_target(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    whole = converted(own, own["n_sd"].max())
    first = "none converts" if whole.max() == 0 else str(whole.idxmax())
    return f"{first} ({whole.max():.0%})", first == subject.settings.easiest


@claim(
    "A larger shift converts more cells", "Figure 3", "lambda = 1 above 0.5", "conversions", has_source,
    rule="some cells convert, and for every target the mean share at lambda = 1 is at least that at 0.5",
)  # fmt: skip
def _larger_shift(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    half, whole = converted(own, 0.5), converted(own, 1.0)
    if not whole.any():
        return "none converts", False
    more = whole >= half
    return f"{int(more.sum())} of {len(more)} targets", bool(more.all())


@claim(
    "More cells convert than by random directions of equal length or by decoding alone", "not in the paper", "",
    "conversions", has_source,
    rule=f"for every target in most trainings (q < {SIGNIFICANT}, and more than at lambda = 0)",
)  # fmt: skip
def _conversions_beyond_chance(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    own = own[(own["method"] == "shift") & (own["n_sd"] == own["n_sd"].max())]
    sure = (own["q_value"] < SIGNIFICANT) & (own["converted"] > own["converted_at_0"])
    share = sure.groupby(own["target"]).mean()
    return f"{int((share > 0.5).sum())} of {len(share)} targets", bool((share > 0.5).all())


@claim(
    "Accuracy of the classifier", "Characterization of cell states", "{about.accuracy:.1%}",
    "classifier", lambda subject: has_source(subject) and subject.settings.accuracy,
    rule="on held-out cells, progenitors included, at least the published one less 0.5%",
)  # fmt: skip
def _accuracy(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    assert subject.settings.accuracy is not None
    return percent(own["accuracy"]), bool(own["accuracy"].mean() >= subject.settings.accuracy - 0.005)


def n_genes(own: pd.DataFrame, target: str, column: str) -> float:
    """Return how many genes the cells need that some number of genes converts, mean over trainings; NaN if none."""
    return float(own.loc[(own["target"] == target) & (own["flipped"] > 0), column].mean())


@claim(
    "Most genes that a cell needs to become {about.most_genes[0]}", "text on Figure 3", "up to {about.most_genes[1]}",
    "minimal_genes", has_papers_source,
    rule="at most {about.most_genes[1]}, mean over trainings",
)  # fmt: skip
def _most_genes(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    target, published = subject.settings.most_genes
    n = n_genes(own, target, "most_n_genes")
    return (f"{n:.0f}", n <= published) if np.isfinite(n) else NOT_TESTED


@claim(
    "Genes with which half of the cells become {about.half_genes[0]}", "text on Figure 3", "{about.half_genes[1]}",
    "minimal_genes", has_papers_source,
    rule="the median is at most {about.half_genes[1]}, mean over trainings",
)  # fmt: skip
def _half_genes(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    target, published = subject.settings.half_genes
    n = n_genes(own, target, "median_n_genes")
    return (f"{n:.0f}", n <= published) if np.isfinite(n) else NOT_TESTED


@claim(
    "Share of the genes that is needed to become {about.gene_share[0]}",
    "text on Figure 3", "about {about.gene_share[1]:.0%}", "minimal_genes", has_papers_source,
    rule="the most that a cell needs is within 10% of {about.gene_share[1]:.0%} of the genes, mean over trainings",
)  # fmt: skip
def _gene_share(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    target, published = subject.settings.gene_share
    share = n_genes(own, target, "most_n_genes") / subject.adata.n_vars
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
    told = subject.settings.ari.query("method == 'DiffVAE'").drop(columns="method")
    means = papers_means(runs)
    both = means[means["method"] == METHOD_OF[preset]].merge(told, on=["clusterer", "n_latent", "space"])
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
    own = overall[METHOD_OF[preset]]
    return f"{own:.3f}, best other {rest.idxmax()} {rest.max():.3f}", bool(own > rest.max())


@claim(
    "Clusters of the t-SNE map are better than those of the latent", "Table 2", "t-SNE improves the results",
    "table2_runs", has_labels,
    rule="the mean adjusted Rand index on the map is above that on the latent",
)  # fmt: skip
def _map_helps(runs: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    means = papers_means(runs)
    own = means[means["method"] == METHOD_OF[preset]].groupby("space")["mean"].mean()
    if {"latent", "tsne"} - set(own.index):
        return NOT_TESTED
    return f"t-SNE {own['tsne']:.3f}, latent {own['latent']:.3f}", bool(own["tsne"] > own["latent"])


@claim(
    "Predicted links show better-defined clusters than co-expression",
    "Figure 4d, e", "clusters of co-expression less well defined", "link_figures", has_labels,
    rule="a larger share of a type's predicted links is within it, mean over types, than of the same number of pairs "
    "with the highest |r|",
)  # fmt: skip
def _clearer_than_pearson(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    own = own.dropna(subset=["within_predicted_by_type", "within_pearson_by_type"])
    if own.empty:
        return NOT_TESTED
    ours, pearson = own["within_predicted_by_type"].mean(), own["within_pearson_by_type"].mean()
    return f"{ours:.1%} of a type's links within it, Pearson {pearson:.1%}", bool(ours > pearson)


@claim(
    "Progenitors ({source}) do not cluster together well", "Figure 4d", "linked to the mature types",
    "links", has_source,
    rule="a smaller share of their predicted links is among themselves than of any other type",
)  # fmt: skip
def _progenitors_apart(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    own = own[own["graph"] == _keys.CALLED_LINKS]
    inside: dict[str, float] = {}
    for name in dict.fromkeys([*own["type_1"], *own["type_2"]]):
        touching = own[(own["type_1"] == name) | (own["type_2"] == name)]
        if total := touching["n_links"].sum():
            inside[name] = touching.loc[touching["type_1"] == touching["type_2"], "n_links"].sum() / total
    if subject.source not in inside or len(inside) < 2:
        return NOT_TESTED
    share = inside.pop(subject.source)
    other = min(inside, key=lambda name: inside[name])
    said = f"{share:.0%} of their links among themselves, least other {other} {inside[other]:.0%}"
    return said, bool(share < inside[other])


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
def _most_linked(own: pd.DataFrame, preset: str, subject: Subject) -> Measured:
    rows = links_of(own[own["graph"] == _keys.CALLED_LINKS], subject)
    published = subject.settings.linked_to if has_papers_source(subject) else None
    if rows.empty:
        return NOT_TESTED
    mean = rows.groupby("target")[["n_links", "log2_ratio"]].mean()
    if not mean["n_links"].any():
        return "no links", False if published else None
    first = str(mean["n_links"].idxmax())
    said = f"{first} ({mean['n_links'].max():.0f} links), relative to chance {mean['log2_ratio'].idxmax()}"
    return said, None if published is None else first == published
