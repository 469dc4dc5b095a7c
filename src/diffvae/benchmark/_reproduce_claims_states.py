"""Claims on states: conversions of progenitors, the genes that they take, links between cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae.benchmark import _published
from diffvae.benchmark._reproduce_claim import NOT_TESTED, SIGNIFICANT, Claim, Measured, each, own_rows, percent
from diffvae.benchmark._reproduce_subject import Subject

TOLERANCE_CONVERTED = 0.10


def of_changes(tables: Mapping[str, pd.DataFrame], subject: Subject) -> list[Claim]:
    conversions, minimal, about = tables["conversions"], tables["minimal_genes"], subject.published
    if subject.source is None or conversions.empty:
        return []
    shifted = conversions[conversions["method"] == "shift"]
    last = shifted["n_sd"].max()

    def mean_of(preset: str, n_sd: float) -> pd.Series:
        own = own_rows(shifted, preset, n_sd=n_sd)
        return own.groupby("target", sort=False)["converted"].mean() if len(own) else pd.Series(dtype=float)

    def grows(preset: str) -> Measured:
        half, whole = mean_of(preset, 0.5), mean_of(preset, 1.0)
        if whole.empty:
            return NOT_TESTED
        if not whole.any():
            return "none converts", False
        more = whole >= half
        return f"{int(more.sum())} of {len(more)} targets", bool(more.all())

    def easiest(preset: str) -> Measured:
        whole = mean_of(preset, last)
        if whole.empty:
            return NOT_TESTED
        first = "none converts" if whole.max() == 0 else str(whole.idxmax())
        return f"{first} ({whole.max():.0%})", None if about is None else first == max(
            about.converted, key=lambda t: about.converted[t]
        )

    def beyond(preset: str) -> Measured:
        own = own_rows(shifted, preset, n_sd=last)
        if own.empty:
            return NOT_TESTED
        sure = (own["q_value"] < SIGNIFICANT) & (own["converted"] > own["converted_at_0"])
        share = sure.groupby(own["target"]).mean()
        return f"{int((share > 0.5).sum())} of {len(share)} targets", bool((share > 0.5).all())

    found = [
        Claim(
            "A larger shift converts more cells",
            "Figure 3",
            "lambda = 1 above 0.5",
            "some cells convert, and for every target the mean share at lambda = 1 is at least that at 0.5",
            each(grows),
        ),
        Claim(
            "Conversions are more than random directions of equal length and decoding alone bring about",
            "not in the paper",
            "",
            f"for every target in most trainings (q < {SIGNIFICANT}, and more than at lambda = 0)",
            each(beyond),
        ),
    ]
    if about is None or not about.converted:
        return found
    n_source = about.types[subject.source]

    def near(preset: str) -> Measured:
        whole = mean_of(preset, 1.0)
        told = {t: n / n_source for t, n in about.converted.items() if t in whole}
        if not told:
            return NOT_TESTED
        said = ", ".join(f"{t} {whole[t]:.0%}" for t in told)
        return said, all(abs(whole[t] - share) <= TOLERANCE_CONVERTED for t, share in told.items())

    def accurate(preset: str) -> Measured:
        own = own_rows(tables["classifier"], preset)
        if own.empty or about.accuracy is None:
            return NOT_TESTED
        return percent(own["accuracy"]), bool(own["accuracy"].mean() >= about.accuracy - 0.005)

    def genes(target: str, column: str, least: float, most: float, unit: float) -> Callable[[str], Measured]:
        def measure(preset: str) -> Measured:
            own = own_rows(minimal, preset, target=target)
            own = own[own["flipped"] > 0] if len(own) else own
            if own.empty:
                return NOT_TESTED
            value = own[column].mean()
            said = f"{value:.0f}" if unit == 1 else f"{value / unit:.0%}"
            return said, bool(least <= value / unit <= most)

        return measure

    told = ", ".join(f"{t} {n}" for t, n in about.converted.items())
    n_genes = float(subject.adata.n_vars)
    few, half, many = _published.GENES_UP_TO, _published.GENES_OF_HALF, _published.SHARE_OF_GENES
    return [
        Claim(
            f"How many {subject.source} convert at lambda = 1, by target",
            "text on Figure 3",
            f"{told} of {n_source}",
            f"every mean share is within {TOLERANCE_CONVERTED:.0%} of the cells",
            each(near),
        ),
        Claim(
            "The easiest target",
            "text on Figure 3",
            max(about.converted, key=lambda t: about.converted[t]),
            "the same target has the largest mean share",
            each(easiest),
        ),
        *found,
        Claim(
            "Accuracy of the classifier",
            "Characterization of cell states",
            f"{about.accuracy:.1%}",
            "on held-out cells, progenitors included, at least the published one less 0.5 %",
            each(accurate),
        ),
        Claim(
            f"Most genes that a cell needs to become {few[0]}",
            "text on Figure 3",
            f"up to {few[1]}",
            f"at most {few[1]}, mean over trainings",
            each(genes(few[0], "most_n_genes", 0, few[1], 1)),
        ),
        Claim(
            f"Genes with which half of the cells become {half[0]}",
            "text on Figure 3",
            f"{half[1]}",
            f"the median is at most {half[1]}, mean over trainings",
            each(genes(half[0], "median_n_genes", 0, half[1], 1)),
        ),
        Claim(
            f"Share of the genes that is needed to become {many[0]}",
            "text on Figure 3",
            f"about {many[1]:.0%}",
            f"the most that a cell needs is within 10 % of {many[1]:.0%} of the genes, mean over trainings",
            each(genes(many[0], "most_n_genes", many[1] - 0.1, many[1] + 0.1, n_genes)),
        ),
    ]


def of_links(tables: Mapping[str, pd.DataFrame], subject: Subject) -> list[Claim]:
    links, figures, about = tables["links"], tables["link_figures"], subject.published
    if links.empty:
        return []
    found = []

    def clearer(preset: str) -> Measured:
        own = own_rows(figures, preset)
        own = own.dropna(subset=["within_predicted_by_type", "within_pearson_by_type"]) if len(own) else own
        if own.empty:
            return NOT_TESTED
        ours, pearson = own["within_predicted_by_type"].mean(), own["within_pearson_by_type"].mean()
        return f"{ours:.1%} of a type's links within it, Pearson {pearson:.1%}", bool(ours > pearson)

    found.append(
        Claim(
            "Predicted links show better-defined clusters than co-expression",
            "Figure 4d, e",
            "clusters of co-expression less well defined",
            "a larger share of a type's predicted links is within it, mean over types, than of as many pairs with the "
            "highest |r|",
            each(clearer),
        )
    )
    if subject.source is None:
        return found
    predicted = of_source(links[links["graph"] == _keys.CALLED_LINKS], subject)

    def apart(preset: str) -> Measured:
        own = own_rows(links[links["graph"] == _keys.CALLED_LINKS], preset)
        if own.empty:
            return NOT_TESTED
        inside = _within_share(own)
        if subject.source not in inside or len(inside) < 2:
            return NOT_TESTED
        rest = inside.drop(subject.source)
        share = inside[subject.source]
        said = f"{share:.0%} of their links among themselves, least other {rest.idxmin()} {rest.min():.0%}"
        return said, bool(share < rest.min())

    found.append(
        Claim(
            f"Progenitors ({subject.source}) don't cluster together well",
            "Figure 4d",
            "linked to the mature types",
            "a smaller share of their predicted links is among themselves than of any other type",
            each(apart),
        )
    )

    def most(preset: str) -> Measured:
        own = own_rows(predicted, preset)
        if own.empty:
            return NOT_TESTED
        mean = own.groupby("target")[["n_links", "log2_ratio"]].mean()
        if not mean["n_links"].any():
            return "no links", False if about is not None and about.linked_to else None
        first = str(mean["n_links"].idxmax())
        strongest = str(mean["log2_ratio"].idxmax())
        said = f"{first} ({mean['n_links'].max():.0f} links), beyond their degrees {strongest}"
        return said, None if about is None or about.linked_to is None else first == about.linked_to

    told = about.linked_to if about else None
    found.append(
        Claim(
            f"The type with the most predicted links of the progenitors ({subject.source})",
            "text on Figure 4d",
            told or "",
            "the same type has the most links, mean over trainings"
            if told
            else "no rule: the paper doesn't have these cells",
            each(most),
        )
    )
    return found


def of_source(links: pd.DataFrame, subject: Subject) -> pd.DataFrame:
    """Return the rows of a link table that join the progenitors to another type, which becomes ``target``."""
    if links.empty:
        return links.assign(target=[])
    one, other = links["type_1"] == subject.source, links["type_2"] == subject.source
    rows = links[one ^ other]
    return rows.assign(target=np.where(one[one ^ other], rows["type_2"], rows["type_1"]))


def _within_share(links: pd.DataFrame) -> pd.Series:
    """Return for each type the share of the links of its cells that stay within it."""
    shares = {}
    for name in dict.fromkeys([*links["type_1"], *links["type_2"]]):
        touching = links[(links["type_1"] == name) | (links["type_2"] == name)]
        inside = touching[touching["type_1"] == touching["type_2"]]
        if touching["n_links"].sum():
            shares[name] = inside["n_links"].sum() / touching["n_links"].sum()
    return pd.Series(shares, dtype=float)
