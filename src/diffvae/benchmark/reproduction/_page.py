"""The results of a reproduction as tidy tables, and its page: the claims, then tables and figures."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from diffvae import _keys, metrics
from diffvae.benchmark import _markdown as md
from diffvae.benchmark._statistics import trainings
from diffvae.benchmark.reproduction._claims import links_of
from diffvae.benchmark.reproduction._subject import ALL_TYPES, CITATION, MATURE_TYPES, PRESETS, Subject
from diffvae.benchmark.reproduction._training import SCORES, WIDER
from diffvae.report import _encode

CLUSTERS, CHANGES, LINKS, MATURE = "clusters", "changes", "links", "mature-types"
ALL_PRESETS = "all"
"""In place of a preset, for an analysis that does not depend on it."""
Results = Mapping[tuple[str, str, int], dict[str, Any]]
"""Analysis, preset and number of the training to the result of the analysis."""
MOST_GENES = 3
"""Genes per type on the page for a set without published genes; ``tables`` has all."""


def tables(results: Results, subject: Subject) -> dict[str, pd.DataFrame]:
    """Return the tables by name; a table without results is empty."""
    listed = gene_lists(results)
    links = _of(results, LINKS)
    figures = [
        about | value["figures"] | {f"within_{k}": v for k, v in value["within"].items()} for about, value in links
    ]
    return {
        "overlap": pd.DataFrame(_overlaps(results)),
        "types": _rows(results, CLUSTERS, "types"),
        "high_weight_genes": listed,
        "gene_recovery": gene_recovery(listed, results, subject),
        "classifier": pd.DataFrame(_classifiers(results)),
        "conversions": _rows(results, CHANGES, "conversions"),
        "minimal_genes": pd.DataFrame(_minimal_genes(results)),
        "links": _rows(results, LINKS, "table"),
        "link_figures": pd.DataFrame([row for row in figures if len(row) > 2]),
        "table2_runs": pd.DataFrame(),
        "table2_paired": pd.DataFrame(),
    }


def notes(results: Results) -> list[str]:
    """Return what could not be computed, and for which preset and training."""
    return [
        f"{part}, {'all presets' if preset == ALL_PRESETS else f'preset {preset}'}, training {number}: {value['note']}"
        for (part, preset, number), value in results.items()
        if value["note"]
    ]


def _of(results: Results, part: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for (name, preset, number), value in results.items():
        if name == part:
            yield {"preset": preset, "training": number}, value


def _rows(results: Results, part: str, entry: str) -> pd.DataFrame:
    return pd.DataFrame([about | row for about, value in _of(results, part) for row in value[entry]])


def _overlaps(results: Results) -> Iterator[dict[str, Any]]:
    for about, value in _of(results, CLUSTERS):
        stored = value["clustering"]
        tested = {f"clustering_{k}": stored[k] for k in ("stability", "null_stability", "n_separated") if k in stored}
        overlap = value["overlap"] or {"n_clusters": int(stored["n_clusters"])}
        yield about | overlap | {"active_dimensions": value["active_dimensions"]} | tested


def _classifiers(results: Results) -> Iterator[dict[str, Any]]:
    """Yield a row per preset, training and set of types; the mature types have the same classifier for all presets."""
    for about, value in _of(results, CHANGES):
        if value["classifier"]:
            yield about | {"types": ALL_TYPES} | value["classifier"]
    for about, value in _of(results, MATURE):
        if value["classifier"]:
            yield from (about | {"preset": p, "types": MATURE_TYPES} | value["classifier"] for p in PRESETS)


def _minimal_genes(results: Results) -> Iterator[dict[str, Any]]:
    for about, value in _of(results, CHANGES):
        for one in value["minimal"]:
            sizes = np.array(one["n_genes"] or [np.nan], float)
            sized = {"median_n_genes": float(np.median(sizes)), "most_n_genes": float(sizes.max())}
            flipped = {k: one[k] for k in ("flipped_by_de_genes", "flipped_by_random_genes")}
            yield about | {k: one[k] for k in ("target", "converted", "flipped")} | sized | flipped


def gene_lists(results: Results) -> pd.DataFrame:
    """Return one row per preset, training, cluster, reading and gene.

    A cluster is named after the matched type. Without labels it is named after the cluster of the first training of the
    same preset that has the most cells in common, matched one to one.
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
    r"""Return the number of trainings in which each gene is in the list of its type, and two expected numbers.

    Returns
    -------
    One row per preset, reading, type and gene; the genes are the published ones, or all listed genes if none are
    published. ``in_data``, ``n_trainings``, ``found`` (trainings in which the gene is in the list of the cluster that
    is matched to the type, with the paper's number of genes per dimension), ``found_wider`` (with 20 genes per
    dimension), ``expected`` and ``expected_wider`` (by chance: a list of n different genes out of G has any gene with
    probability n / G), ``elsewhere`` (trainings in which the gene is in the list of another cluster, mean over the
    other clusters: a gene with a high weight in every cluster is no evidence for the type).
    """
    columns = ["preset", "reading", "type", "gene", "published", "in_data", "n_trainings", "found", "expected",
               "elsewhere", "found_wider", "expected_wider"]  # fmt: skip
    if listed.empty:
        return pd.DataFrame(columns=columns)
    published = subject.settings.genes
    measured = set(subject.adata.var_names.astype(str))
    n_genes = next(value["n_genes"] for _, value in _of(results, CLUSTERS))
    rows = []
    for (preset, reading), lists in listed.groupby(["preset", "reading"], sort=False):
        n = lists["training"].nunique()
        short, long = (lists[lists["per_dimension"] == each] for each in (subject.reading[1], WIDER))
        for name in published or sorted({t for t in lists["type"] if t}):
            of_type, wide, others = (
                short[short["type"] == name],
                long[long["type"] == name],
                short[short["type"] != name],
            )
            n_others = len(others[["training", "cluster"]].drop_duplicates()) / n
            count, count_wide, count_others = (part["gene"].value_counts() for part in (of_type, wide, others))
            rows += [
                {
                    "preset": preset,
                    "reading": reading,
                    "type": name,
                    "gene": gene,
                    "published": gene in published.get(name, ()),
                    "in_data": gene in measured,
                    "n_trainings": n,
                    "found": int(count.get(gene, 0)),
                    "expected": len(of_type) / n_genes,
                    "elsewhere": count_others.get(gene, 0) / max(n_others, 1),
                    "found_wider": int(count_wide.get(gene, 0)),
                    "expected_wider": len(wide) / n_genes,
                }
                for gene in published.get(name, list(count.index))
            ]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class Context:
    """The data of the page."""

    subject: Subject
    tables: Mapping[str, pd.DataFrame]
    claims: pd.DataFrame
    notes: Sequence[str]
    asked: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A table of the page: mean ± sd over the rows with the same ``index``, with a column per value of ``across``."""

    title: str
    text: str
    table: pd.DataFrame
    index: Sequence[str]
    values: Sequence[str]
    across: Sequence[str] = ()


def page(context: Context, images: Mapping[str, bytes] | None = None) -> str:
    """Return the page: one HTML file with its style, tables and figures, which needs no other file and no network.

    ``images`` maps the name of a figure to its PNG; a figure of ``context`` without one is left out.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    pages = PackageLoader("diffvae.report", "assets")
    own = PackageLoader("diffvae.benchmark.reproduction", "assets")
    environment = Environment(
        loader=ChoiceLoader([own, pages]), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"clean": _encode.clean, "short": _encode.short}
    subject = context.subject
    text = environment.get_template("reproduction.html").render(
        style=_encode.Markup(pages.get_source(environment, "style.css")[0]),
        title=subject.published.title if subject.published else subject.name,
        version=context.versions["diffvae"],
        trial=_trial(context),
        verdict=_verdict(context.claims),
        claims=_claims(context.claims, subject.published is not None),
        setting=_setting(context),
        limits=[*subject.differences, *(subject.published.missing if subject.published else ()), *context.notes],
        tables=[summarised(one) for one in sections(context.tables, subject) if len(one.table)],
        figures=[
            (caption, _width(images[name]), base64.b64encode(images[name]).decode())
            for name, caption in context.figures.items()
            if images and name in images
        ],
        command=context.command,
        made=_made(context),
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair can't be written


def _width(png: bytes) -> int:
    """Return the width of a figure on the page: half its pixels, which are 200 per inch."""
    return int.from_bytes(png[16:20], "big") // 2  # the first chunk of a PNG


def _trial(context: Context) -> list[str]:
    """Return why the numbers are those of a trial run."""
    said = []
    if (limit := context.asked["max_epochs"]) is not None:
        said.append(f"Trial run: at most {limit} epoch{'s' * (limit > 1)} per network, not those of the presets.")
    if context.asked["n_trainings"] == 1:
        said.append("Trial run: one training has no spread over trainings.")
    return said


def _verdict(found: pd.DataFrame) -> str:
    """Return one sentence: how many claims hold."""
    held = found["holds_here"]
    n_rules = int((held != "–").sum())
    counts = {
        "hold with all presets": int((held == "yes").sum()),
        "with some": int(held.str.startswith("only ").sum()),
        "with none": int((held == "no").sum()),
    }
    said = ", ".join(f"{n} {words}" for words, n in counts.items())
    untested = int((held == "not testable").sum())
    return f"Of {n_rules} claims with a rule, {said}" + (f"; {untested} could not be tested here." if untested else ".")


def _setting(context: Context) -> dict[str, str]:
    """Return what was computed, by topic."""
    subject, n = context.subject, context.asked["n_trainings"]
    n_cells, n_genes = subject.adata.shape
    used = n_genes if subject.n_top_genes is None else min(subject.n_top_genes, n_genes)
    about = {"Cells": f"{n_cells:,} cells x {n_genes:,} genes of {subject.origin}"}
    if used < n_genes:
        about["Cells"] += f"; the {used:,} most variable genes are used"
    if subject.types:
        about["Types"] = ", ".join(f"{t} {count:,}" for t, count in subject.types.items())
        missing = "none is named (--source, source=), so nothing is perturbed"
        about["Progenitors"] = str(subject.source) if subject.source else missing
    about["Presets"] = (
        "paper follows the printed equations, code follows what the authors released (one noise value per batch, an "
        "MMD kernel without effect), default is diffvae's own"
    )
    about["Trainings"] = f"{n} of each preset" + ", with different splits and seeds" * (n > 1)
    return about


def _claims(found: pd.DataFrame, published: bool) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns of the table of claims, and its lines."""
    columns = ["claim", *(["published"] if published else []), *PRESETS, "holds_here"]
    lines = [
        {name.replace("_", " "): str(one[name]) or "–" for name in columns}
        | {"where": str(one["where"]), "rule": md.capital(str(one["rule"]))}
        for one in found.to_dict("records")
    ]
    return [name.replace("_", " ") for name in columns], lines


def sections(tables: Mapping[str, pd.DataFrame], subject: Subject) -> list[Section]:
    """Return the tables of the page, in the order of the paper."""
    n_dims, n_top = subject.reading
    overlap, types, links, figures = (tables[k] for k in ("overlap", "types", "links", "link_figures"))
    genes, conversions, minimal, runs = (
        tables[k] for k in ("gene_recovery", "conversions", "minimal_genes", "table2_runs")
    )
    classifiers = tables["classifier"]
    if len(classifiers):
        shared = classifiers[classifiers["types"] == MATURE_TYPES].drop_duplicates("training")
        others = classifiers[classifiers["types"] == ALL_TYPES]
        classifiers = pd.concat([shared.assign(preset=ALL_PRESETS), others])
    simple = pd.DataFrame()
    if len(types):
        types = types.sort_values("n_cells", ascending=False, kind="stable")
    if subject.settings.genes:
        genes = genes[genes["in_data"].astype(bool)]
    elif len(genes):
        often = genes.groupby(["type", "gene"])["found"].sum().sort_values(ascending=False, kind="stable")
        often = often.groupby("type").head(MOST_GENES).sort_index(level="type", sort_remaining=False)
        genes = often.index.to_frame(index=False).merge(genes, on=["type", "gene"])
    if len(conversions):
        last = conversions[conversions["n_sd"] == conversions["n_sd"].max()]
        simple = last.groupby(["preset", "training", "method"], sort=False)["converted"].mean().reset_index()
        shifted = conversions[(conversions["method"] == "shift") & (conversions["n_sd"] > 0)]
        conversions = shifted.sort_values("n_sd", kind="stable")
        minimal = minimal[minimal["flipped"] > 0]
    if len(links):
        graphs = {_keys.CELL_GRAPH: "input", _keys.CALLED_LINKS: "predicted"}
        links = links_of(links, subject).replace({"graph": graphs})
    if len(runs):
        runs = trainings(runs, "ari").rename(columns={"mean": "ari"}).sort_values("space", kind="stable")
        if (ari := subject.settings.ari) is not None:
            ari = ari[ari["n_latent"].isin(runs["n_latent"])]
            runs = pd.concat([runs, ari.assign(method=ari["method"] + ", published")])
    tested = ["overlap", "expected", "p_value", "ari", "n_clusters", "active_dimensions"]
    tested += ["clustering_stability", "clustering_null_stability", "clustering_n_separated"]
    return [
        Section(
            "Clusters and reference types (Figure 1)",
            "overlap: share of the cells whose cluster is matched, one to one, to their type; expected: under permuted "
            "labels. A stability is the mean adjusted Rand index with subsamples; null: of a Gaussian cloud.",
            overlap, ["preset"], [k for k in tested if k in overlap],
        ),
        Section(
            "Types", "Share of a type that is in its cluster, and share of the cluster that is of the type.",
            types, ["type", "n_cells"], ["recall", "precision"], ["preset"],
        ),
        Section(
            "High-weight genes (Table 1)",
            f"Number of trainings in which the gene is among {n_dims} dimensions x {n_top} genes of the cluster "
            "matched to the type; the number expected by chance; the mean over clusters of other types. The decoder is "
            "read by the product of its weights or by its Jacobian. –: in no list.",
            genes, ["type", "gene"], ["found", "expected", "elsewhere"], ["preset", "reading"],
        ),
        Section(
            "Classifiers",
            f"On n_test held-out cells; baseline: always the most frequent type. {MATURE_TYPES}: the paper's task "
            f"({', '.join(subject.mature)}). {ALL_TYPES}: all types, as for the conversions below. The former is "
            "trained once for all presets, because a classifier sees expression.",
            classifiers, ["types", "preset"], [k for k in classifiers if k in SCORES],
        ),
        Section(
            f"Conversions of {subject.source} (Figure 3)",
            "Share of the progenitors that a shift of the target's 5 top dimensions by n_sd standard deviations "
            "(lambda) converts; mean of random directions that change expression as much; decoding alone (lambda = "
            "0). The presets paper and code always shift upwards, default shifts towards the target.",
            conversions, ["n_sd", "target"], ["converted", "null_mean", "converted_at_0"], ["preset"],
        ),
        Section(
            "Simpler steps of equal length",
            "Share converted at the largest lambda, mean over targets. mean: towards the target's mean in the latent, "
            "by the length of the shift; expression_mean: the same share of the way towards its mean expression, "
            "without a model.",
            simple, ["method"], ["converted"], ["preset"],
        ),
        Section(
            "Fewest genes that convert a cell (Figure 3)",
            "Genes are changed in a real cell in the order of their change at lambda = 1, and the cell is classified "
            "after each. flipped: cells that some number of genes converts, of those that the shift converted; "
            "flipped_by: share of these that the same number of other genes converts.",
            minimal, ["target", "preset"], [k for k in minimal if k not in ("target", "preset", "training")],
        ),
        Section(
            "Comparison with VAE, AE and PCA (Table 2)",
            "Adjusted Rand index with the reference types. PCA is of the values in [0, 1], as in the paper. k-means "
            "and mixtures are given the number of types."
            + " Published: mean of 50 clusterings of one training." * (subject.settings.ari is not None),
            runs, ["space", "clusterer", "n_latent"], ["ari"], ["method"],
        ),
        Section(
            "Differences between methods",
            "reference minus method, paired by split and seed, over k-means and DBSCAN, both spaces and all "
            "dimensions; low to high: 95% bootstrap interval over trainings.",
            tables["table2_paired"], ["reference", "method"], ["difference", "low", "high"],
        ),
        Section(
            "Links (Figure 4)",
            "Graph-DiffVAE on the graph of similar cells; a tenth of its edges is hidden from the training and gives "
            "the AUC, beside that of the similarity that made the graph (baseline_auc). The preset code has no graph "
            "model.",
            figures, ["preset"], [k for k in figures if k.startswith("n_") or k.endswith("_auc")],
        ),
        Section(
            "Links within types (Figure 4)",
            "Share of links between cells of one type; by_type: mean over types of the share of a type's links that "
            "stay within it. pearson: the pairs of highest |r|, in the same number as predicted links.",
            figures, ["preset"], [k for k in figures if k.startswith("within_")],
        ),
        Section(
            f"Links of {subject.source} with each other type (Figure 4)",
            "Number of links, and the number expected in random graphs with the same degrees.",
            links, ["target"], ["n_links", "expected"], ["preset", "graph"],
        ),
    ]  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """A section as text: the first ``n_keys`` entries of a line name it, the others are numbers."""

    title: str
    text: str
    header: list[str]
    lines: list[list[str]]
    n_keys: int


def summarised(section: Section) -> Summary:
    """Return a section as text; with ``across`` an entry holds all values, separated by slashes."""
    n = len(section.index)
    lines: dict[tuple[Any, ...], dict[tuple[Any, ...], str]] = {}
    numbers = section.table[list(section.values)].apply(pd.to_numeric, errors="coerce").astype(float)
    most = numbers.abs().max()
    digits = {name: 3 if most[name] <= 2 else 1 if most[name] < 100 else 0 for name in numbers}
    for key, part in numbers.groupby([section.table[k] for k in (*section.index, *section.across)], sort=False):
        spreads = {(name,): md.spread(part[name].mean(), part[name].std(), digits[name]) for name in numbers}
        entry = {key[n:]: " / ".join(spreads.values())} if section.across else spreads
        lines.setdefault(key[:n], {}).update(entry)
    columns = list(dict.fromkeys(column for line in lines.values() for column in line))
    columns.sort(key=lambda column: PRESETS.index(column[0]) if column[0] in PRESETS else 0)
    header = [*section.index, *(", ".join(map(str, column)) for column in columns)]
    rows = [[*map(str, key), *(line.get(c, "–") for c in columns)] for key, line in lines.items()]
    several = section.across and len(section.values) > 1
    text = section.text + (f" Entries: {' / '.join(section.values)}." if several else "")
    return Summary(section.title, text, header, rows, n)


def _made(context: Context) -> dict[str, str]:
    """Return how the page was made, by topic."""
    return {
        "Settings": ", ".join(f"{k} {v}" for k, v in context.asked.items() if v is not None),
        "Time of this run": ", ".join(f"{k} {v:,.0f} s" for k, v in context.seconds.items())
        + " (stored results are not computed again)",
        "Versions": ", ".join(f"{k} {v}" for k, v in context.versions.items()),
        "The paper": CITATION,
    }
