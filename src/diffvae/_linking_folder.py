"""The folder of predicted links: model, tables, figures, and the cells with their graphs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae import _files, _keys
from diffvae._adata import result

if TYPE_CHECKING:
    from diffvae._linking import Links


def write_into(found: Links, folder: Path, groupby: str) -> None:
    """Write what was found into a folder that the caller makes appear at once."""
    import anndata as ad

    from diffvae import pl
    from diffvae._threads import versions

    adata = found.adata
    found.model.save(folder / "model")
    tables = {"called_links": found.called, "history": found.model.history.reset_index()}
    if found.types is not None:
        tables["link_table"] = found.types
    if found.commitment is not None:
        tables["commitment"] = found.commitment
        tables["commitment_types"] = result(adata, "commitment_types")
    for name, table in tables.items():
        _files.write_csv(table, folder / "tables" / f"{name}.csv")
    # the graphs and all that was said of the cells; expression is in the result itself
    cells = ad.AnnData(obs=adata.obs, obsm=dict(adata.obsm), obsp=dict(adata.obsp), uns=dict(adata.uns))
    _files.write_h5ad(cells, folder / "cells.h5ad")
    several = found.types is not None
    figures: dict[str, Callable[[], Any]] = {
        "adjacency": lambda: pl.adjacency(adata, groupby, graphs=_graphs(found)),
        "history": lambda: pl.history(found.model.history),
    }
    if several:
        source = None if found.commitment is None else result(adata, "commitment_params")["source"]
        figures["links"] = lambda: pl.links(adata, groupby, source=source)
        figures["link_table"] = lambda: pl.link_table(adata)
    if found.commitment is not None:
        figures["commitment"] = lambda: pl.commitment(adata)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, draw in figures.items():
        pl.save(np.ravel(draw())[0], folder / "figures" / name)
    summary = found.summary | {"versions": versions()}
    text = json.dumps(summary, indent=1, default=_files.plain_number, allow_nan=False)
    _files.write_text(text + "\n", folder / _keys.SUMMARY)


def _graphs(found: Links) -> list[str]:
    return [_keys.CELL_GRAPH, *([_keys.CALLED_LINKS] if len(found.called) else [])]
