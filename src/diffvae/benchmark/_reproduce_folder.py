"""The folder of a reproduction: page, tables and figures, beside the pieces from which it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from diffvae import _files
from diffvae.benchmark._reproduce_claim import frame
from diffvae.benchmark._reproduce_figures import figures
from diffvae.benchmark._reproduce_page import Context, page
from diffvae.benchmark._reproduce_tables import Results
from diffvae.benchmark._reproduce_train import training_seed

PAGE = "reproduction.md"


def write(context: Context, results: Results, folder: Path, rng: int) -> tuple[Context, str]:
    """Write tables, figures and page, each file whole or not at all; return the context with figures, and the page."""
    from diffvae import pl

    named = {**context.tables, "claims": frame(list(context.claims))}
    for name, table in named.items():
        target = folder / "tables" / f"{name}.csv"
        if len(table.columns):
            _files.write_csv(table, target)
        else:
            target.unlink(missing_ok=True)
    captions = {}
    for name, (caption, draw) in figures(results, context.tables, context.subject, training_seed(rng, 0)).items():
        pl.save(np.ravel(draw())[0], folder / "figures" / name)
        captions[name] = caption
    for stale in (folder / "figures").glob("*.*"):  # of an earlier page, with a source say
        if stale.stem not in captions:
            stale.unlink()
    context = replace(context, figures=captions)
    text = page(context)
    _files.write_text(text, folder / PAGE)
    return context, text
