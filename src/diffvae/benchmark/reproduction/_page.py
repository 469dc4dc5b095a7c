"""The results of a reproduction as tidy tables, and its page: the claims, then tables and figures."""

from __future__ import annotations

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


def page(context: Context) -> str:
    """Return the page in Markdown."""
    subject = context.subject
    title = subject.published.title if subject.published else subject.name
    parts = [
        f"# Reproduction of the paper on {md.text(title)}",
        *_setting(context),
        "## Claims of the paper",
        *_claims(context.claims, subject.published is not None),
        "## Results",
        "Mean ± standard deviation over trainings. The columns are named as in the files of `tables/`, which hold "
        "every number.",
    ]
    for one in sections(context.tables, subject):
        if len(one.table):
            parts += [f"### {one.title}", md.text(one.text), summarised(one)]
    if context.figures:
        parts.append("## Figures")
        for name, caption in context.figures.items():
            parts.append(f"![{md.text(caption)}](figures/{name}.png)\n\n*{md.text(caption)}.*")
    return "\n\n".join([*parts, "## How this page was made", *_made(context)]) + "\n"


def _setting(context: Context) -> list[str]:
    subject, asked, about = context.subject, context.asked, context.subject.published
    n_cells, n_genes = subject.adata.shape
    used = n_genes if subject.n_top_genes is None else min(subject.n_top_genes, n_genes)
    lines = [f"Cells: {n_cells:,} cells x {n_genes:,} genes of {md.text(subject.origin)}"]
    if used < n_genes:
        lines[0] += f"; the {used:,} most variable genes are used"
    if subject.types:
        lines.append("Types: " + md.text(", ".join(f"{t} {n:,}" for t, n in subject.types.items())))
        missing = "none is named (`--source`, `source=`), so nothing is perturbed"
        lines.append(f"Progenitors: {md.text(subject.source) if subject.source else missing}")
    n = asked["n_trainings"]
    lines += [
        f"Presets: `paper` follows the printed equations, `code` follows what the authors released (one noise value "
        f"per batch, an MMD kernel without effect), `default` is diffvae's own; each trained {n} time{'s' * (n > 1)} "
        "with different splits and seeds",
    ]
    if asked["max_epochs"] is not None:
        lines.append(f"**Trial run:** at most {asked['max_epochs']} epochs per network, not those of the presets")
    if n == 1:
        lines.append("**Trial run:** one training has no spread over trainings")
    parts = ["\n".join(f"- {one}." for one in lines)]
    limits = [*subject.differences, *(about.missing if about else ()), *context.notes]
    if limits:
        parts += ["Differences from the paper, and what could not be computed:"]
        parts.append("\n".join(f"- {md.text(one)}" for one in limits))
    return parts


def _claims(found: pd.DataFrame, published: bool) -> list[str]:
    columns = ["claim", *(["published"] if published else []), *PRESETS, "holds_here"]
    rows = []
    for number, one in enumerate(found.to_dict("records"), 1):
        line = {k: md.text(v) or "–" for k, v in one.items()}
        line["claim"] = f"{number}. {line['claim']} ({line['where']})"
        line["holds_here"] = f"**{line['holds_here']}**"
        rows.append([line[k] for k in columns])
    return [
        "The rule below decides whether a claim holds here: yes or no if all presets agree, otherwise the presets with "
        "which it holds; – if there is no rule.",
        md.table([name.replace("_", " ") for name in columns], rows, left=len(columns)),
        "\n".join(f"{i}. {md.capital(md.text(rule))}." for i, rule in enumerate(found["rule"], 1)),
    ]


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


def summarised(section: Section) -> str:
    """Return a table in Markdown; with ``across`` an entry holds all values, separated by slashes."""
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
    header = [md.text(name) for name in (*section.index, *map(", ".join, columns))]
    rows = [[*map(md.text, key), *(line.get(c, "–") for c in columns)] for key, line in lines.items()]
    several = section.across and len(section.values) > 1
    return (f"Entries: {md.text(' / '.join(section.values))}.\n\n" if several else "") + md.table(header, rows, left=n)


def _made(context: Context) -> list[str]:
    parts = [md.code(context.command)] if context.command else []
    asked = ", ".join(f"{k} {md.text(v)}" for k, v in context.asked.items() if v is not None)
    spent = ", ".join(f"{k} {v:,.0f} s" for k, v in context.seconds.items())
    versions = ", ".join(f"{md.text(k)} {md.text(v)}" for k, v in context.versions.items())
    parts.append(f"Settings: {asked}.")
    parts.append(f"Time of this run (stored results are not computed again): {spent}.")
    return [*parts, f"Versions: {versions}.", f"The paper: {CITATION}."]
