"""The folder of a perturbation: tables, figures, classifier and changed cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _files, _keys

if TYPE_CHECKING:
    from diffvae._changes import Changes

TOP = 50
"""Genes per target in the table of effects."""


def write_into(changes: Changes, folder: Path) -> None:
    """Write tables, figures, classifier and changed cells into a folder that the caller makes appear at once."""
    import anndata as ad

    from diffvae import pl
    from diffvae._threads import versions

    found, minimal = changes.perturbation, changes.minimal
    sets = {name: m.cells.assign(target=name) for name, m in minimal.items()}
    tables = {
        "targets": changes.targets,
        "conversions": found.table,
        "resistance": found.cells(),
        "effects": pd.concat([found.effects(t, None).head(TOP).assign(target=t) for t in found.targets]),
        "minimal_sets": pd.concat(sets.values()),
        "minimal_genes": pd.concat([m.genes.assign(target=name) for name, m in minimal.items()]),
        "minimal_baselines": pd.concat([m.baselines.assign(target=name) for name, m in minimal.items()]),
        "classifier_types": changes.classifier.evaluation.per_type.rename_axis("type").reset_index(),
        "classifier_confusion": changes.classifier.evaluation.confusion.rename_axis("type").reset_index(),
    }
    for name, table in tables.items():
        _files.write_csv(table, folder / "tables" / f"{name}.csv")
    changes.classifier.save(folder / "classifier")
    changed = [found.to_adata(t, None) for t in found.targets]
    _files.write_h5ad(ad.concat(changed, merge="same", index_unique="_"), folder / "changed_cells.h5ad")
    flipped = {name: m for name, m in minimal.items() if len(m.cells)}
    if flipped:
        edited = ad.concat([m.to_adata() for m in flipped.values()], merge="same", index_unique="_")
        _files.write_h5ad(edited, folder / "edited_cells.h5ad")
    figures: dict[str, Callable[[], Any]] = {
        "conversion_curves": lambda: pl.conversion_curves(found),
        "plasticity": lambda: pl.plasticity(found, n_sd=max(found.n_sd)),
        "gene_counts": lambda: pl.gene_counts(minimal),
    }
    if _keys.TSNE in found.adata.obsm:
        figures["conversions"] = lambda: pl.conversions(found)
    for name, m in flipped.items():
        figures[f"minimal_genes_{file_name(name)}"] = partial(pl.minimal_genes, m)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, draw in figures.items():
        pl.save(np.ravel(draw())[0], folder / "figures" / name)
    summary = changes.summary | {"versions": versions()}
    _files.write_text(json.dumps(summary, indent=1, default=float, allow_nan=False) + "\n", folder / _keys.SUMMARY)


def file_name(target: str) -> str:
    """Return the name of a type as files have it."""
    return "".join(c if c.isalnum() else {"+": "pos", "-": "neg"}.get(c, "_") for c in target)
