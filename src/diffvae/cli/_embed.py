"""``diffvae embed``: the latent representation of new cells by a saved model."""

from __future__ import annotations

from typing import Annotated

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o

NAME = "embed"
EXAMPLES = ("diffvae embed new_cells.h5ad --model results/model --out new_cells_embedded.h5ad",)


def command(
    data: o.Inputs,
    model: o.Model,
    out: o.OutFile,
    transpose: o.Transpose = None,
    backed: o.Backed = None,
    use_raw: o.UseRaw = False,
    gene_symbols: o.GeneSymbols = None,
    genome: o.Genome = None,
    max_missing: Annotated[
        float,
        typer.Option("--max-missing", min=0, max=1, help="Largest share of the model's genes that may be missing."),
    ] = 0.2,
    adapt: Annotated[
        bool,
        typer.Option(
            "--adapt", help="Measure and remove the effect of batches that are new to a model with --batch-key."
        ),
    ] = False,
    overwrite: o.Overwrite = False,
) -> None:
    """Write new cells with their latent representation in obsm["X_diffvae"].

    Genes are matched by name and scaled as in training. For cells that stay on disk, the output holds obs and the
    latent representation, but no expression.
    """
    from diffvae import model as models
    from diffvae import tl
    from diffvae._core.io import folders, read
    from diffvae._core.io.backed import open_store
    from diffvae._core.io.memory import stays_on_disk

    o.refuse_file(out, overwrite)
    trained = models.load(model)
    if adapt:
        if backed:
            raise ValueError("--adapt needs the cells in memory; leave out --backed.")
        if getattr(trained, "columns", {}).get("batch_key") is None:
            raise ValueError(
                f"{model} was trained without --batch-key, so there is nothing to adapt; leave out --adapt."
            )
        backed = False
    if on_disk := stays_on_disk(o.one_or_several(data), backed, transpose=transpose):
        _console.warn(on_disk)
        for option, given in (("--use-raw", use_raw), ("--genome", genome)):
            if given:
                raise ValueError(f"{option} needs the cells in memory; add --in-memory.")
        store = open_store(o.one_or_several(data), gene_symbols)
        with _console.warnings_shown():
            tl.embed(store, trained, max_missing=max_missing, out=out, overwrite=overwrite)
        n_cells = store.n_obs
    else:
        with _console.warnings_shown():
            adata, _ = read.load(data[0], transpose, use_raw=use_raw, gene_symbols=gene_symbols, genome=genome)
        if adapt:
            trained = trained.adapt(adata)
        with _console.warnings_shown():
            tl.embed(adata, trained, max_missing=max_missing)
        folders.write_h5ad(adata, out)
        n_cells = adata.n_obs
    _console.say(f"Written to {out}: {n_cells:,} cells in {trained.n_latent} latent dimensions")
