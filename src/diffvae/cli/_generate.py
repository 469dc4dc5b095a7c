"""``diffvae generate``: artificial cells."""

from __future__ import annotations

from typing import Annotated

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o

NAME = "generate"
EXAMPLE = "Example:  diffvae generate --model results/model --n-cells 500 --out artificial.h5ad"


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
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Sample artificial cells from the prior of a saved model.

    X holds their expected log-normalised expression, obsm["X_diffvae"] the sampled latent values.
    """
    from diffvae import model as models
    from diffvae._core.io import folders

    o.refuse_file(out, overwrite)
    artificial = models.load(model).sample(n_cells, batch=batch, rng=seed)
    folders.write_h5ad(artificial, out)
    _console.say(f"Written to {out}: {artificial.n_obs:,} artificial cells x {artificial.n_vars:,} genes")
