"""The result of a run, in memory and as a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae._core.io import folders
from diffvae.pipeline import _links, _opened, _perturb

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model
    from diffvae.pipeline._backed import BackedRun
    from diffvae.pipeline._links import Links
    from diffvae.pipeline._perturb import Changes


@dataclass
class Result:
    """What a run found.

    Attributes
    ----------
    adata
        The cells with everything that was written into them.
    model
        The trained model.
    clusters
        One row per cluster: size, name, evidence, dimensions, genes.
    scores
        Scores against reference labels beside PCA's and a null's; None without labels.
    summary
        Parameters, versions, timings, warnings: what ``summary.json`` holds.
    changes
        What the cells of a source can be turned into; None if none was named.
    links
        Predicted links between the cells; None if they weren't asked for.
    path
        The folder, if one was written.

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(100, 40)
    >>> result = dv.pipeline.run(
    ...     cells, label_key="cell_type", n_clusters=4, cluster_method="kmeans", n_latent=5, max_epochs=2,
    ...     links=False, progress=False,
    ... )
    >>> len(result.clusters), result.path is None
    (4, True)
    """

    adata: AnnData
    model: Model
    clusters: pd.DataFrame
    scores: pd.DataFrame | None
    summary: dict[str, Any]
    changes: Changes | None = None
    links: Links | None = None
    path: Path | None = None


def cluster_table(adata: AnnData) -> pd.DataFrame:
    """Put what was found about each cluster into one row."""
    stored = adata.uns[_keys.UNS]
    named = stored["annotation"].set_index("group")
    dimensions = stored["latent_dimensions"]
    genes = stored["high_weight_genes"]
    rows = []
    for group, size in adata.obs[_keys.CLUSTER].value_counts(sort=False).items():
        chosen = dimensions[(dimensions["group"] == group) & dimensions["chosen"]]
        own = _shown(genes[genes["group"] == group])
        row = named.loc[group]
        rows.append(
            {
                "cluster": group,
                "n_cells": int(size),
                "cell_type": row["cell_type"],
                "score": row["score"],
                "q_value": row["q_value"],
                "confident": row["confident"],
                "marker_genes": row["genes"],
                "runner_up": row["runner_up"],
                "by_weights": row["by_weights"],
                "dimensions": ", ".join((chosen["dimension"].astype(str) + chosen["side"]).head(5)),
                "genes_up": ", ".join(own.loc[own["direction"] == "up", "gene"].head(5)),
                "genes_down": ", ".join(own.loc[own["direction"] == "down", "gene"].head(5)),
            }
        )
    return pd.DataFrame(rows)


def _shown(genes: pd.DataFrame) -> pd.DataFrame:
    """Of the genes that the decoder raises or lowers those that the cells themselves show so; the table has all."""
    return genes[(genes["ranking"] == "jacobian") & genes["confirmed"]]


def write(
    result: Result,
    out: str | PathLike[str],
    *,
    label_key: str | None = None,
    overwrite: bool = False,
    backed_run: BackedRun | None = None,
    placed: Callable[[], None] = lambda: None,
) -> None:
    """Write a result into a folder, whole or not at all; then call ``placed`` and make the page that shows it."""
    stored = result.adata.uns[_keys.UNS]
    with folders.new_folder(out, overwrite=overwrite) as folder:
        folders.write_h5ad(result.adata, folder / _keys.RESULTS)
        result.model.save(folder / _keys.MODEL_FOLDER)
        tables = {
            "clusters": result.clusters,
            "cells": _cell_table(result.adata),
            "annotation": stored["annotation"],
            "latent_dimensions": stored["latent_dimensions"],
            "high_weight_genes": stored["high_weight_genes"],
            "gene_weight_agreement": stored["gene_weights"],
            "history": result.model.history.reset_index(),
        }
        if "candidates" in stored["cluster"]:
            tables["cluster_candidates"] = stored["cluster"]["candidates"]
        if result.scores is not None and label_key is not None:
            tables["scores"] = result.scores
            tables["overlap"] = _overlap(result.adata, label_key)
        for name, table in tables.items():
            folders.write_csv(table, folder / "tables" / f"{name}.csv")
        _figures(result, folder / "figures", label_key)
        if backed_run is not None:
            backed_run.write(folder / _keys.ALL_CELLS)
        if result.changes is not None:
            _perturb.write_into(result.changes, folder / _keys.PERTURBATION_FOLDER)
        if result.links is not None:
            groupby = result.links.summary["parameters"]["groupby"]
            _links.write_into(result.links, folder / _keys.LINKS_FOLDER, groupby)
        summary = json.dumps(result.summary, indent=1, default=folders.plain_number, allow_nan=False)
        folders.write_text(summary + "\n", folder / _keys.SUMMARY)
    result.path = Path(out)
    placed()
    result.summary["warnings"] += _opened.renew_page(result.path, result.adata)


def _cell_table(adata: AnnData) -> pd.DataFrame:
    map_ = np.asarray(adata.obsm[_keys.TSNE])
    return pd.DataFrame(
        {
            "cell": adata.obs_names,
            "cluster": adata.obs[_keys.CLUSTER].to_numpy(),
            "cell_type": adata.obs[_keys.CELL_TYPE].to_numpy(),
            "tsne_1": map_[:, 0],
            "tsne_2": map_[:, 1],
        }
    )


def _overlap(adata: AnnData, label_key: str) -> pd.DataFrame:
    from diffvae import metrics

    labelled = adata[adata.obs[label_key].notna()]
    return metrics.overlap(labelled.obs[label_key].astype(str), labelled.obs[_keys.CLUSTER].astype(str)).table


def _figures(result: Result, folder: Path, label_key: str | None) -> None:
    from diffvae import pl

    adata = result.adata
    figures = {
        "tsne_clusters": lambda: pl.tsne(adata, color=_keys.CLUSTER),
        "tsne_cell_types": lambda: pl.tsne(adata, color=_keys.CELL_TYPE),
        "history": lambda: pl.history(result.model.history),
    }
    if label_key is not None:
        figures["tsne_labels"] = lambda: pl.tsne(adata, color=label_key)
        named = (adata.obs[_keys.CELL_TYPE] != _keys.UNASSIGNED).any()
        groups = _keys.CELL_TYPE if named else _keys.CLUSTER
        figures["overlap"] = lambda: pl.overlap(adata, reference=label_key, groupby=groups)
    stored = adata.uns[_keys.UNS]
    chosen = stored["latent_dimensions"].loc[stored["latent_dimensions"]["chosen"], "group"]
    if len(chosen):
        figures["latent_dimensions"] = lambda: pl.latent_dimensions(adata)
        sizes = adata.obs[_keys.CLUSTER].value_counts()
        largest = str(sizes[sizes.index.astype(str).isin(chosen)].index[0])
        figures["dimension_composition"] = lambda: pl.dimension_composition(adata, group=largest)
    if (_shown(stored["high_weight_genes"])["direction"] == "up").any():
        figures["genes"] = lambda: pl.gene_heatmap(adata)
    folder.mkdir(parents=True)
    for name, draw in figures.items():
        pl.save(draw(), folder / name)
