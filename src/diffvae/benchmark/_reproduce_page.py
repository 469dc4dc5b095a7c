"""The page of a reproduction: published against ours, with nothing typed in that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from diffvae.benchmark import _markdown as md
from diffvae.benchmark import _reproduce_page_cells as cells
from diffvae.benchmark import _reproduce_page_states as states
from diffvae.benchmark._published import CITATION
from diffvae.benchmark._reproduce_claim import Claim
from diffvae.benchmark._reproduce_subject import Subject
from diffvae.benchmark._reproduce_tables import PRESETS


@dataclass(frozen=True)
class Context:
    """All that the page is written from."""

    subject: Subject
    tables: Mapping[str, pd.DataFrame]
    claims: Sequence[Claim]
    figures: Mapping[str, str]
    notes: Sequence[str]
    asked: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def page(context: Context) -> str:
    """Return the page in Markdown."""
    subject = context.subject
    title = subject.published.title if subject.published else subject.name
    n = context.asked["n_trainings"]
    said = "Published beside ours" if subject.published else "What the paper shows of its cells, on other cells"
    parts = [
        f"# The paper's road on {md.text(title)}",
        f"{said}, under three presets, each trained {n} time{'s' if n > 1 else ''} with its own split and seed.",
        _presets(),
        *_shortened(context.asked),
        "## 1. What was read",
        *_read(subject),
        "## 2. Clusters and reference types (Figure 1)",
        *cells.clusters(subject, context.tables),
        *_figures(context, "overlap", "map_"),
        "## 3. High-weight genes (Table 1)",
        *cells.genes(subject, context.tables),
        "## 4. Changing cell state (Figures 2 and 3)",
        *states.changes(subject, context.tables),
        *_figures(context, "conversions", "figure3_"),
        "## 5. Comparison with VAE, AE and PCA (Table 2)",
        *cells.table_2(subject, context.tables, context.asked),
        *_figures(context, "table2"),
        "## 6. Links between cells (Figure 4)",
        *states.links(subject, context.tables),
        *_figures(context, "links", "figure4b_", "figure4_"),
        "## 7. What holds",
        *_claims(context.claims, subject),
    ]
    if context.notes:
        parts += ["## What could not be done", "\n".join(f"- {md.text(note)}" for note in context.notes)]
    parts += ["## How this was made", *_made(context)]
    return "\n\n".join(parts) + "\n"


def _presets() -> str:
    return (
        "`paper` follows the printed equations, `code` what the authors released (one noise value per batch, an MMD "
        "kernel that sees nothing), `default` is what diffvae does today."
    )


def _shortened(asked: Mapping[str, Any]) -> list[str]:
    """Say at the top where the run was too short to be believed."""
    said = []
    if asked["max_epochs"] is not None:
        said.append(
            f"every network was trained for {asked['max_epochs']} epochs at most, not for those of its preset, whose "
            "numbers these are not"
        )
    if asked["n_trainings"] == 1:
        said.append("one training says nothing of the spread over trainings")
    return [f"**Only to try things out:** {'; '.join(said)}."] if said else []


def _read(subject: Subject) -> list[str]:
    n_cells, n_genes = subject.adata.shape
    used = n_genes if subject.n_top_genes is None else min(subject.n_top_genes, n_genes)
    most = f"; the {used:,} most variable genes are used" if used < n_genes else ""
    parts = [f"{n_cells:,} cells x {n_genes:,} genes of {md.text(subject.origin)}{most}."]
    if subject.types:
        told = dict(subject.published.types) if subject.published else {}
        header = ["type", "cells", *(["in the paper"] if told else [])]
        rows = [
            [md.text(t), f"{n:,}", *([f"{told[t]:,}" if t in told else "–"] if told else [])]
            for t, n in subject.types.items()
        ]
        parts.append(md.table(header, rows))
    if subject.source:
        parts.append(f"Progenitors: {md.text(subject.source)}.")
    if subject.published:
        about = subject.published
        same = subject.adata.shape == (about.n_cells, about.n_genes)
        said = f"The paper has {about.n_cells:,} cells x {about.n_genes:,} genes" + (", as read here." if same else ".")
        parts.append(said)
        listed = [*subject.differences, *about.lacking]
        parts += ["What is not as in the paper, or can't be had:", "\n".join(f"- {md.text(s)}" for s in listed)]
    return parts


def _figures(context: Context, *names: str) -> list[str]:
    """Return the figures whose names are these or begin so; the maps side by side."""
    parts = []
    for name in names:
        files = [f for f in context.figures if f == name or (name.endswith("_") and f.startswith(name))]
        shown = [f"![{md.text(context.figures[file])}](figures/{file}.png)" for file in files]
        captions = [f"*{md.text(context.figures[file])}.*" for file in files]
        parts += ["\n".join((shown[0], captions[0]))] if len(files) == 1 else []
        parts += [md.table(shown, [captions], left=len(files))] if len(files) > 1 else []
    return parts


def _claims(found: Sequence[Claim], subject: Subject) -> list[str]:
    published = subject.published is not None
    header = ["claim of the paper", *(["published"] if published else []), *PRESETS, "holds here?"]
    rows = []
    for number, claim in enumerate(found, 1):
        line = [f"{number}. {md.text(claim.claim)} ({md.text(claim.where)})"]
        line += [md.text(claim.published) or "–"] if published else []
        rows.append([*line, *(md.text(claim.measured[p][0]) for p in PRESETS), f"**{md.text(claim.holds)}**"])
    rules = "\n".join(f"{i}. {md.text(claim.rule)}." for i, claim in enumerate(found, 1))
    return [
        "The last column is decided by the rule of its row, from the numbers above: yes or no where all presets agree, "
        "otherwise the presets under which it holds; – where there is no rule.",
        md.table(header, rows, left=len(header)),
        "Rules:",
        rules,
    ]


def _made(context: Context) -> list[str]:
    parts = [md.code(context.command)] if context.command else []
    told = ", ".join(f"{md.text(k)} {md.text(v)}" for k, v in context.versions.items())
    spent = ", ".join(f"{k} {v:,.0f} s" for k, v in context.seconds.items())
    asked = ", ".join(f"{k} {md.text(v)}" for k, v in context.asked.items() if v is not None)
    parts += [f"Asked for: {asked}.", f"Time of this run (finished pieces are not computed again): {spent}."]
    published = f" Published numbers: {CITATION}." if context.subject.published else f" The paper: {CITATION}."
    return [*parts, f"Versions: {told}.{published}", "Every number above is in a file of `tables/`."]
