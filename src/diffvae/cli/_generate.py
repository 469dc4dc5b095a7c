"""``diffvae generate``: artificial cells."""

from __future__ import annotations

from typing import Annotated

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o

NAME = "generate"
EXAMPLES = ("diffvae generate --model results/model --n-cells 500 --out artificial.h5ad",)


def command(
    model: o.Model,
    out: o.OutFile,
    n_cells: Annotated[int, typer.Option("--n-cells", "-n", min=1, help="Number of cells.")] = 100,
    batch: Annotated[
        str | None,
        typer.Option(
            "--batch", help="Batch of the cells, of a model trained with --batch-key. Default: an average batch."
        ),
    ] = None,
    expected: Annotated[
        bool,
        typer.Option("--expected", help="Expected expression of draws from the prior, without the noise of cells."),
    ] = False,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Make artificial cells with a saved model.

    X holds log-normalised expression with the zeros and the spread of real cells, obsm["X_diffvae"] the latent values.
    For a model in the folder of a result the cells are compared with its real cells: OUT_realism.csv.
    """
    from diffvae.pipeline._generate import generate, sentence

    o.refuse_file(out, overwrite)
    artificial, table = generate(model, out, n_cells, noise=not expected, batch=batch, seed=seed, overwrite=overwrite)
    if table is not None:
        _console.say(sentence(table))
    _console.say(f"Written to {out}: {artificial.n_obs:,} artificial cells x {artificial.n_vars:,} genes")
