"""``diffvae embed``: new cells through a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o

NAME = "embed"
EXAMPLE = "Example:  diffvae embed new_cells.h5ad --model results/model --out new_cells_embedded.h5ad"


def command(
    data: o.Input,
    model: o.Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, .h5ad.")],
    transpose: o.Transpose = None,
    max_missing: Annotated[
        float, typer.Option("--max-missing", min=0, max=1, help="Share of the model's genes that may be missing.")
    ] = 0.2,
    overwrite: o.Overwrite = False,
) -> None:
    """Write new cells with their latent representation in obsm["X_diffvae"].

    Genes are matched by name and scaled as the training cells were.
    """
    from diffvae import _files, _io, tl
    from diffvae import model as models

    o.refuse_file(out, overwrite)
    trained = models.load(model)
    adata = _io.read(data, transpose=transpose)
    with _console.warnings_as_notes():
        tl.embed(adata, trained, max_missing=max_missing)
    _files.write_h5ad(adata, out)
    _console.say(f"Written to {out}: {adata.n_obs:,} cells in {trained.n_latent} latent dimensions")
