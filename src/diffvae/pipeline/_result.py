"""The result of a run, in memory and as a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, metrics
from diffvae._core import genes
from diffvae._core.io import folders
from diffvae._core.runtime import StepLog, versions
from diffvae._core.second_process import HERE, SecondProcess
from diffvae.pipeline import _folder, _links, _perturb, _scores
from diffvae.tl._regulators import by_symbol

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model
    from diffvae.pipeline._cells import BackedRun, InMemoryRun
    from diffvae.pipeline._links import Links
    from diffvae.pipeline._perturb import Changes

NOT_WRITTEN = "given in memory"
"""Value in a summary of a parameter that JSON does not hold."""


@dataclass
class Result:
    """The result of a run.

    Attributes
    ----------
    adata
        The cells with all results.
    model
        The trained model.
    clusters
        One row per cluster: size, name, evidence, dimensions, genes.
    scores
        Scores against reference labels, of DiffVAE, of PCA and of a null; None without labels.
    summary
        Parameters, versions, timings, warnings: what ``summary.json`` holds.
    changes
        Perturbation of a source; None without a source.
    links
        Predicted links between the cells; None if links were not requested.
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


def finish(
    adata: AnnData,
    model: Model,
    *,
    about: dict[str, Any],
    parameters: dict[str, Any],
    log: StepLog,
    scores: pd.DataFrame | None,
    integration: dict[str, Any] | None,
    out: str | PathLike[str] | None,
    overwrite: bool,
    command: str | None,
    changes: Changes | None = None,
    links: Links | None = None,
    cells: BackedRun | InMemoryRun | None = None,
    after_writing: Callable[[], None] = lambda: None,
    second: SecondProcess = HERE,
) -> Result:
    """Assemble the result, and write its folder if ``out`` is given.

    ``adata`` may be a sample of ``cells``; ``about`` has the entries ``ABOUT`` of the summary; ``after_writing`` is
    called when the folder is in its place, before its page is written.
    """
    clusters = cluster_table(adata, parameters["label_key"])
    if cells is not None and cells.sizes is not None:
        clusters.insert(2, "n_all_cells", cells.sizes)
        about = about | {"sample": cells.about}
    stored = adata.uns[_keys.UNS]
    summary = about | {
        "command": command,
        "clusters": json.loads(clusters.to_json(orient="records")),
        "clustering": {k: _finite(v) for k, v in stored["cluster"].items() if not isinstance(v, pd.DataFrame)},
        "batches": json.loads(stored["batches"].to_json(orient="records")),
        "markers": stored["annotation_params"]["markers"],
        "scores": None if scores is None else json.loads(scores.to_json(orient="records")),
        "integration": integration,
        "verdict": [] if scores is None else _scores.verdict(scores),
        "warnings": log.warnings,
        "parameters": {k: v if _plain(v) else NOT_WRITTEN for k, v in parameters.items() if k != "target"},
        "seconds": log.seconds,
        "versions": versions(),
    }
    stored["run"] = {"source": about["source"], "seed": parameters["seed"], "version": summary["versions"]["diffvae"]}
    result = Result(adata, model, clusters, scores, summary, changes, links)
    if out is not None:
        log.on_step("write")
        _write(result, out, overwrite=overwrite, cells=cells, after_writing=after_writing, second=second)
    return result


def _finite(value: Any) -> Any:
    """Return None for NaN, which JSON does not have."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):  # of covariates
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def cluster_table(adata: AnnData, label_key: str | None = None) -> pd.DataFrame:
    """Return one row per cluster: size, name, evidence (without a name its top genes), dimensions, genes, label."""
    stored = adata.uns[_keys.UNS]
    named = stored["annotation"].set_index("group")
    dimensions = stored["latent_dimensions"]
    high = stored["high_weight_genes"]
    symbols = by_symbol(genes.table(adata))
    rows = []
    for group, size in adata.obs[_keys.CLUSTER].value_counts(sort=False).items():
        chosen = dimensions[(dimensions["group"] == group) & dimensions["chosen"]]
        confirmed = _confirmed(high[high["group"] == group])
        symbol = confirmed["gene"].map(lambda gene: symbols.get(gene, gene))
        row = named.loc[group]
        rows.append(
            {
                "cluster": group,
                "n_cells": int(size),
                "cell_type": row["cell_type"],
                "score": row["score"],
                "q_value": row["q_value"],
                "confident": row["confident"],
                "marker_genes": row["top_genes" if row["cell_type"] == _keys.UNASSIGNED else "genes"]
                or row["top_genes"],
                "runner_up": row["runner_up"],
                "by_weights": row["by_weights"],
                "types": row["types"],
                "dimensions": ", ".join((chosen["dimension"].astype(str) + chosen["side"]).head(5)),
                "genes_up": ", ".join(symbol[confirmed["direction"] == "up"].head(5)),
                "genes_down": ", ".join(symbol[confirmed["direction"] == "down"].head(5)),
            }
        )
    table = pd.DataFrame(rows)
    if label_key is not None:
        table["label"] = table["cluster"].map(_most_common(adata, label_key)).fillna("")
    return table


def _most_common(adata: AnnData, label_key: str) -> dict[str, str]:
    """Return the most common reference label of each cluster, with its share of the labelled cells."""
    labelled = adata.obs[adata.obs[label_key].notna()]
    by_cluster = labelled[label_key].astype(str).groupby(labelled[_keys.CLUSTER].astype(str))
    counts = {str(cluster): labels.value_counts(normalize=True) for cluster, labels in by_cluster}
    return {cluster: f"{shares.index[0]} ({shares.iloc[0]:.0%})" for cluster, shares in counts.items()}


def _confirmed(genes: pd.DataFrame) -> pd.DataFrame:
    """Return the genes that the decoder raises or lowers and that differ in the same direction between the cells."""
    return genes[(genes["ranking"] == "jacobian") & genes["confirmed"]]


def _write(
    result: Result,
    out: str | PathLike[str],
    *,
    overwrite: bool,
    cells: BackedRun | InMemoryRun | None,
    after_writing: Callable[[], None],
    second: SecondProcess = HERE,
) -> None:
    """Write the folder as a whole, then its page."""
    stored, label_key = result.adata.uns[_keys.UNS], result.summary["parameters"]["label_key"]
    tables = {
        "clusters": result.clusters,
        "cells": _cell_table(result.adata),
        "annotation": stored["annotation"],
        "annotation_parts": stored["annotation_parts"],
        "annotation_mixtures": stored["annotation_mixtures"],
        "latent_dimensions": stored["latent_dimensions"],
        "high_weight_genes": stored["high_weight_genes"],
        "gene_weight_agreement": stored["gene_weights"],
        "history": result.model.history.reset_index(),
    }
    if "candidates" in stored["cluster"]:
        tables["cluster_candidates"] = stored["cluster"]["candidates"]
    tables["cluster_separation"] = stored["cluster"]["separation"]
    if len(stored["batches"]):
        tables["batches"] = stored["batches"]
    if "integration" in stored:
        tables["integration"] = stored["integration"]["table"]
    if result.scores is not None:
        tables |= {"scores": result.scores, "overlap": _overlap(result.adata, label_key)}
    with folders.new_folder(out, overwrite=overwrite) as folder, second.ended_by_errors():
        if result.changes is not None:
            changing = second.submit(_write_changes, result.changes, folder / _keys.PERTURBATION_FOLDER)
        folders.write_h5ad(result.adata, folder / _keys.RESULTS)
        result.model.save(folder / _keys.MODEL_FOLDER)
        _folder.write_tables(tables, folder)
        _folder.write_figures(_figures(result, label_key), folder)
        if cells is not None:
            cells.write(folder)
        if result.links is not None:
            _links.write_into(result.links, folder / _keys.LINKS_FOLDER)
        if result.changes is not None:
            changing.result()
        _folder.write_summary(result.summary, folder)
    result.path = Path(out)
    after_writing()
    result.summary["warnings"] += _folder.renew_page(result.path, result.adata)


def _write_changes(changes: Changes, folder: Path) -> None:
    """Write the perturbation, in place of what a process that was killed has left."""
    shutil.rmtree(folder, ignore_errors=True)
    _perturb.write_into(changes, folder)


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
    labelled = adata[adata.obs[label_key].notna()]
    return metrics.overlap(labelled.obs[label_key].astype(str), labelled.obs[_keys.CLUSTER].astype(str)).table


def _figures(result: Result, label_key: str | None) -> dict[str, Callable[[], Any]]:
    """Return the functions that draw the figures of a result, by file name."""
    from diffvae import pl

    adata = result.adata
    named = (adata.obs[_keys.CELL_TYPE] != _keys.UNASSIGNED).any()
    shown = _keys.CELL_TYPE if named else label_key or _keys.CLUSTER  # a map in grey shows nothing
    figures: dict[str, Callable[[], Any]] = {
        "tsne_clusters": lambda: pl.tsne(adata, color=_keys.CLUSTER),
        "tsne_cell_types": lambda: pl.tsne(adata, color=shown),
        "history": lambda: pl.history(result.model.history),
    }
    if label_key is not None:
        figures["tsne_labels"] = lambda: pl.tsne(adata, color=label_key)
        groups = _keys.CELL_TYPE if named else _keys.CLUSTER
        figures["overlap"] = lambda: pl.overlap(adata, reference=label_key, groupby=groups)
    stored = adata.uns[_keys.UNS]
    if "integration" in stored:
        batch_key = stored["integration"]["params"]["batch_key"]
        figures["tsne_batches"] = lambda: pl.tsne(adata, color=batch_key)
        figures["integration"] = lambda: pl.integration(adata)
    chosen = stored["latent_dimensions"].loc[stored["latent_dimensions"]["chosen"], "group"]
    if len(chosen):
        figures["latent_dimensions"] = lambda: pl.latent_dimensions(adata)
        sizes = adata.obs[_keys.CLUSTER].value_counts()
        largest = str(sizes[sizes.index.astype(str).isin(chosen)].index[0])
        figures["dimension_composition"] = lambda: pl.dimension_composition(adata, group=largest)
    if (_confirmed(stored["high_weight_genes"])["direction"] == "up").any():
        figures["genes"] = lambda: pl.gene_heatmap(adata)
    return figures
