"""The page on states: conversions and their genes (Figures 2 and 3), links between cells (Figure 4)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae.benchmark import _markdown as md
from diffvae.benchmark import _published
from diffvae.benchmark._reproduce_changes import n_random
from diffvae.benchmark._reproduce_claims_states import of_source
from diffvae.benchmark._reproduce_links import K
from diffvae.benchmark._reproduce_subject import Subject
from diffvae.benchmark._reproduce_tables import PRESETS
from diffvae.benchmark._reproduce_words import Tables, mean, of_preset, share


def changes(subject: Subject, tables: Tables) -> list[str]:
    """Return the conversions beside chance and the published ones, and how many genes they take."""
    if subject.label_key is None:
        return ["Not testable: without labels there are no progenitors to change."]
    if subject.source is None:
        return ["Not done: no progenitors are known; name them by `--source` (`source=`)."]
    table = tables["conversions"]
    if table.empty:
        return ["Nothing was perturbed; see the end of the page."]
    shifted = table[table["method"] == "shift"]
    told = dict(subject.published.converted) if subject.published else {}
    accuracy = tables["classifier"]
    of = ", ".join(f"{p} {share(of_preset(accuracy, p)['accuracy'])}" for p in PRESETS)
    published = subject.published.accuracy if subject.published else None
    lines, steps = [], [s for s in sorted(shifted["n_sd"].unique()) if s > 0]
    for step in steps:
        for i, target in enumerate(dict.fromkeys(shifted["target"])):
            line = [f"{step:g}" if i == 0 else "", md.text(target)]
            if told:
                line.append(f"{told[target]}" if step == 1 and target in told else "–")
            for p in PRESETS:
                own = of_preset(shifted[(shifted["n_sd"] == step) & (shifted["target"] == target)], p)
                if own.empty:
                    line.append("–")
                    continue
                sure = "\\*" * bool((own["q_value"] < 0.05).all())
                line.append(
                    f"{mean(own['n_converted'].astype(float), 0)}{sure} ({own['null_mean'].mean():.0%}; "
                    f"{own['converted_at_0'].mean():.0%})"
                )
            lines.append(line)
    n = int(shifted["n_cells"].max())
    return [
        f"Of {n} {md.text(subject.source)}: how many the shift of the target's 5 top dimensions by lambda standard "
        "deviations turns into the target, mean ± sd over trainings. In brackets the share by chance (mean of "
        f"{n_random(subject)} random directions as long; decoding alone, lambda = 0). \\*: beyond random directions "
        "in every training (q < 0.05). `paper` and `code` always shift upwards, `default` towards the target.",
        md.table(["lambda", "target", *(["published"] if told else []), *PRESETS], lines, left=2),
        f"Accuracy of the classifier on held-out cells{f' (published: {published:.1%})' if published else ''}: {of}. "
        "It knows the progenitors as a type, which the paper's doesn't.",
        *_other_ways(table),
        *_minimal(tables["minimal_genes"], subject),
    ]


def _other_ways(table: pd.DataFrame) -> list[str]:
    """Say how many cells simpler ways of equal length convert."""
    last = table[table["n_sd"] == table["n_sd"].max()]
    said = []
    for p in PRESETS:
        own = of_preset(last, p)
        means = own.groupby("method")["converted"].mean()
        if len(means):
            said.append(
                f"{p} {means.get('shift', np.nan):.0%} (towards the latent mean {means.get('mean', np.nan):.0%}, "
                f"towards the mean expression, without a model, {means.get('expression_mean', np.nan):.0%})"
            )
    return [f"Simpler steps as long, all targets together at lambda = 1: {'; '.join(said)}."] if said else []


def _minimal(table: pd.DataFrame, subject: Subject) -> list[str]:
    if table.empty:
        return []
    few, half, many = _published.GENES_UP_TO, _published.GENES_OF_HALF, _published.SHARE_OF_GENES
    say = {few[0]: f"up to {few[1]}", half[0]: f"{half[1]} for half", many[0]: f"about {many[1]:.0%} of all"}
    published = bool(subject.published and subject.published.converted)
    lines = []
    for target in dict.fromkeys(table["target"]):
        line = [md.text(target), *([say.get(target, "–")] if published else [])]
        for p in PRESETS:
            own = of_preset(table[table["target"] == target], p)
            own = own[own["flipped"] > 0]
            if own.empty:
                line.append("–")
                continue
            de = own["flipped_by_de_genes"].astype(float).mean()
            line.append(
                f"{own['median_n_genes'].mean():.0f}; {own['most_n_genes'].mean():.0f} "
                f"({own['flipped'].mean():.0f} of {own['converted'].mean():.0f} cells; DE genes flip {de:.0%})"
            )
        lines.append(line)
    return [
        "The fewest genes that turn a real cell (median; most), largest change first, re-classified after every "
        "gene, at lambda = 1. In brackets the cells that any number of genes flips, of those converted, and the "
        "share of these that as many top differentially expressed genes flip as well. The shift is the one "
        "towards the target.",
        md.table(["target", *(["published"] if published else []), *PRESETS], lines, left=1),
    ]


def links(subject: Subject, tables: Tables) -> list[str]:
    """Return what the graphs link: hidden edges, links within types, links of the progenitors."""
    if subject.label_key is None:
        return ["Not testable: links are counted between types, and there are none."]
    figures, table = tables["link_figures"], tables["links"]
    if figures.empty:
        return ["No links were predicted; see the end of the page."]
    lines = []
    for p in [p for p in PRESETS if len(of_preset(figures, p))]:
        own = of_preset(figures, p)
        kinds = ("input", "predicted", "pearson")
        within = [share(own[f"within_{k}"].astype(float)) for k in (*kinds, "chance")]
        within += [share(own[f"within_{k}_by_type"].astype(float)) for k in kinds]
        auc = [mean(own[k].astype(float)) if k in own else "–" for k in ("validation_auc", "pearson_auc")]
        counts = [mean(own[k].astype(float), 0) for k in ("n_input", "n_called", "n_new")]
        lines.append([p, str(K[p]), *counts, *auc, *within])
    header = ["preset", "k", "edges in", "links called", "new", "AUC, hidden edges", "AUC of Pearson"]
    header += ["within a type: in", "predicted", "as many by \\|Pearson\\|", "chance"]
    header += ["mean over types: in", "predicted", "as many by \\|Pearson\\|"]
    told = subject.published.linked_to if subject.published else None
    parts = [
        "Graph-DiffVAE on the graph that joins each cell to its k most correlated ones, a tenth of the edges hidden "
        "from the training. *Within a type* is the share of links between cells of one type; *mean over types* that "
        "of a type's links which stay within it, 0 for a type without links: a large type of cells that are alike can "
        "hold all links.",
        md.table(header, lines),
    ]
    if subject.source is None:
        return [*parts, "No progenitors are known, so that their links are not counted."]
    rows = []
    of = of_source(table, subject)
    for target in dict.fromkeys(of["target"]):
        line = [md.text(target)]
        for p in [p for p in PRESETS if len(of_preset(figures, p))]:
            for graph in (_keys.CELL_GRAPH, _keys.CALLED_LINKS):
                own = of_preset(of[(of["target"] == target) & (of["graph"] == graph)], p)
                if own.empty:
                    line.append("–")
                    continue
                sure = "\\*" * bool(((own["q_value"] < 0.05) & (own["log2_ratio"] > 0)).all())
                line.append(f"{own['n_links'].mean():.0f}{sure} ({own['expected'].mean():.0f})")
        rows.append(line)
    header = ["type"]
    for p in [p for p in PRESETS if len(of_preset(figures, p))]:
        header += [f"{p}, in", f"{p}, predicted"]
    said = f" Published, in words: more predicted links to {md.text(told)} than to the others." if told else ""
    return [
        *parts,
        f"Links of {md.text(subject.source)} to each other type, mean over trainings, in brackets those expected of "
        f"graphs with the same degrees; \\*: more than these in every training (q < 0.05).{said}",
        md.table(header, rows, left=1),
    ]
