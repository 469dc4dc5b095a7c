"""How far predicted links can be believed, in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, pp, tl
from diffvae._core.anndata import groups, result, results
from diffvae._core.io import folders
from diffvae._core.runtime import StepLog, in_one_thread
from diffvae._errors import CheckpointError, DataError, OutputError
from diffvae.pipeline import _perturb
from diffvae.pipeline._opened import OpenedResult
from diffvae.tl._tsne import AFFINITIES

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import GraphDiffVAE

MANY = 0.3
"""Share of the called links at a hundredth of the cells that is worth a remark."""


def verdict(found: Links) -> list[str]:
    """Say in words how far the links can be believed, and where a trivial way does as well."""
    links = found.summary["links"]
    said = [f"Trained on {links['scheme']}."]
    if "validation_auc" in links:
        auc, pearson = links["validation_auc"], links["pearson_auc"]
        said.append(
            f"Edges hidden from the training are told from other pairs with AUC {auc:.3f}; Pearson's correlation, of "
            f"which the graph was made, has {pearson:.3f}. Links measured independently are the fairer "
            "test: diffvae.benchmark.links."
        )
        said.append(
            f"At the threshold {links['threshold']:.2g}, {links['recall']:.0%} of the graph's edges are called, and "
            f"{links['precision']:.0%} of all called pairs are edges; of those that were no known edges, "
            f"{links['precision_unknown']:.1%} were hidden ones."
        )
    if links.get("hub_share", 0) > MANY:
        said.append(
            f"{links['hub_share']:.0%} of the called links touch the most linked hundredth of the cells "
            f"({links['hub_share_input']:.0%} in the graph that went in): popular cells, often the deepest sequenced. "
            "diffvae.pp.cell_graph makes a graph with fewer of them with mutual=True or use_rep='X_pca'."
        )
    if links["n_components"] > links["n_components_input"]:
        said.append(
            f"The predicted links fall into {links['n_components']} pieces, the graph that went in into "
            f"{links['n_components_input']}: a pseudotime along them reaches one piece only."
        )
    if found.types is not None and (found.types["graph"] == _keys.CALLED_LINKS).any():
        predicted = found.types[found.types["graph"] == _keys.CALLED_LINKS]
        across = predicted[predicted["type_1"] != predicted["type_2"]]
        linked = across[(across["q_value"] < 0.05) & (across["z"] > 0)].sort_values("z", ascending=False)
        names = ", ".join(f"{r.type_1} - {r.type_2}" for r in linked.head(8).itertuples()) or "none"
        names += f" and {len(linked) - 8} more" if len(linked) > 8 else ""
        said.append(f"Different types linked beyond chance (degrees kept, q < 0.05): {names}.")
    if found.commitment is not None:
        calls = found.commitment
        n, of = int((calls["call"] != "uncommitted").sum()), len(calls)
        raw = int((calls["call_pearson"] != "uncommitted").sum())
        either = calls[(calls["call"] != "uncommitted") | (calls["call_pearson"] != "uncommitted")]
        both = int((either["call"] == either["call_pearson"]).sum())
        said.append(
            f"{n} of {of} progenitors are linked to a mature type beyond chance, {raw} by their Pearson neighbours "
            f"alone; of {len(either)} that either calls, they agree on {both}. In simulations a third of such calls "
            "were right, and a tenth of progenitors without any fate were called."
        )
    return said


def write_into(found: Links, folder: Path, groupby: str) -> None:
    """Write what was found into a folder that the caller makes appear at once."""
    import anndata as ad

    from diffvae import pl
    from diffvae._core.runtime import versions

    adata = found.adata
    found.model.save(folder / "model")
    tables = {"called_links": found.called, "history": found.model.history.reset_index()}
    if found.types is not None:
        tables["link_table"] = found.types
    if found.commitment is not None:
        tables["commitment"] = found.commitment
        tables["commitment_types"] = result(adata, "commitment_types")
    for name, table in tables.items():
        folders.write_csv(table, folder / "tables" / f"{name}.csv")
    # the graphs and all that was said of the cells; expression is in the result itself
    cells = ad.AnnData(obs=adata.obs, obsm=dict(adata.obsm), obsp=dict(adata.obsp), uns=dict(adata.uns))
    folders.write_h5ad(cells, folder / "cells.h5ad")
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
    text = json.dumps(summary, indent=1, default=folders.plain_number, allow_nan=False)
    folders.write_text(text + "\n", folder / _keys.SUMMARY)


def _graphs(found: Links) -> list[str]:
    return [_keys.CELL_GRAPH, *([_keys.CALLED_LINKS] if len(found.called) else [])]


K = 5
TOP_K = 15


@dataclass
class Links:
    """What Graph-DiffVAE found.

    Attributes
    ----------
    adata
        The cells with everything that :func:`diffvae.tl.links` and its followers wrote.
    model
        The trained model.
    called
        One row per called link, the most probable first.
    types
        Links between types, of the graph that went in and of the predicted one, beside their null; None without two
        types.
    commitment
        One row per progenitor; None if no source was named.
    summary
        Parameters, figures on hidden edges, sentences.
    path
        The folder, if one was written.

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(100, 40)
    >>> result = dv.pipeline.run(
    ...     cells, label_key="cell_type", n_clusters=4, cluster_method="kmeans", n_latent=5, max_epochs=2,
    ...     k=3, progress=False,
    ... )
    >>> result.links.called.columns.tolist()
    ['cell_1', 'cell_2', 'probability', 'new']
    """

    adata: AnnData
    model: GraphDiffVAE
    called: pd.DataFrame
    types: pd.DataFrame | None
    commitment: pd.DataFrame | None
    summary: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


@in_one_thread
def run_links(
    adata: AnnData,
    *,
    groupby: str,
    source: str | None = None,
    target: Sequence[str] | None = None,
    k: int = K,
    top_k: int = TOP_K,
    preset: str = "default",
    conv: str | None = None,
    joint_weight: float | None = None,
    max_epochs: int | None = None,
    device: str = "auto",
    seed: int = 0,
    log: StepLog | None = None,
    progress: bool = True,
    training: Mapping[str, Any] = MappingProxyType({}),
) -> Links:
    """Build the graph, train Graph-DiffVAE on it, predict links, count them by type, and call progenitors."""
    from diffvae.model import GraphDiffVAE

    unnamed = ("adata", "log", "progress", "training", "GraphDiffVAE")
    parameters = {n: v for n, v in locals().items() if n not in unnamed}
    model = GraphDiffVAE(preset, conv=conv, joint_weight=joint_weight, max_epochs=max_epochs)
    log = log or StepLog(lambda step: None)
    with log.step("join similar cells"):
        pp.cell_graph(adata, k=k, rng=seed, progress=progress)
    with log.step("train Graph-DiffVAE"):
        model.train(adata, device=device, rng=seed, progress=progress, **training)
    with log.step("predict links"):
        called = tl.links(adata, model, min(top_k, adata.n_obs - 1), rng=seed)
        _map(adata, seed)
    types = calls = None
    if len(groups(adata, groupby).categories) > 1:
        with log.step("compare links between types with chance"):
            graphs = [_keys.CELL_GRAPH, *([_keys.CALLED_LINKS] if len(called) else [])]
            types = tl.link_table(adata, groupby, graphs=graphs, rng=seed)
    if source is not None:
        with log.step("call progenitors by their links"):
            calls = tl.commitment(adata, source, groupby, targets=target, layer=model.features.layer, rng=seed)
    found = Links(adata, model, called, types, calls)
    stored = result(adata, "links")
    figures = {n: v for n, v in stored.items() if not (isinstance(v, float) and np.isnan(v))}
    found.summary = {
        "parameters": parameters,
        "graph": {n: v for n, v in result(adata, _keys.CELL_GRAPH).items() if v == v},
        "links": figures | ({"pearson_auc": model.baseline_auc()} if "validation_auc" in stored else {}),
        "calls": None if calls is None else _counts(calls),
        "types": None if types is None else json.loads(types.to_json(orient="records")),
    }
    found.summary["verdict"] = verdict(found)
    return found


def _map(adata: AnnData, seed: int) -> None:
    """Make the map of Graph-DiffVAE's latent space, and keep DiffVAE's as the one in which new cells are placed."""
    kept = results(adata).get("tsne"), adata.obsp.get(AFFINITIES)
    tl.tsne(adata, use_rep=_keys.GRAPH_LATENT, key_added=_keys.GRAPH_TSNE, rng=seed)
    if kept[0] is not None and kept[1] is not None:
        results(adata)["tsne"], adata.obsp[AFFINITIES] = kept


def _counts(calls: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return how many progenitors got each call, by the model's links and by Pearson's."""
    return {
        graph: {str(name): int(n) for name, n in calls[column].value_counts().items()}
        for graph, column in (("predicted", "call"), ("pearson", "call_pearson"))
    }


@in_one_thread
def links(
    path: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    source: str | None = None,
    target: Sequence[str] | None = None,
    groupby: str | None = None,
    k: int = K,
    top_k: int = TOP_K,
    preset: str = "default",
    conv: str | None = None,
    joint_weight: float | None = None,
    max_epochs: int | None = None,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    on_step: Callable[[str], None] = lambda step: None,
) -> Links:
    """Predict the links between the cells of an existing result, and call its progenitors by them.

    Parameters
    ----------
    path
        Folder that :func:`diffvae.pipeline.run` wrote.
    out
        Folder for what is found; None for ``links`` in ``path``.
    source, target
        Progenitor type, and the mature types (None for all others): see :func:`diffvae.tl.commitment`.
    groupby
        Key in ``obs`` of the types; None for the labels of the run, or the names it gave where there were none.
    k
        Most similar cells to which each cell is joined: see :func:`diffvae.pp.cell_graph`.
    top_k
        See :func:`diffvae.tl.links`.
    preset, conv, joint_weight, max_epochs, device
        See :class:`diffvae.model.GraphDiffVAE`.
    seed
        The same seed gives the same tables.
    overwrite
        Replace an earlier result in ``out``.
    progress, on_step
        As in :func:`diffvae.pipeline.run`.

    Returns
    -------
    Links

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(100, 40)
    >>> _ = dv.pipeline.run(
    ...     cells, "results", label_key="cell_type", n_clusters=4, cluster_method="kmeans", n_latent=5, max_epochs=2,
    ...     links=False, progress=False,
    ... )
    >>> found = dv.pipeline.links("results", max_epochs=5, progress=False)
    >>> found.called.columns.tolist()
    ['cell_1', 'cell_2', 'probability', 'new']
    """
    asked = dict(locals())
    check_options(k, top_k)
    with OpenedResult(path, out, _keys.LINKS_FOLDER, overwrite, on_step) as part:
        adata, _, earlier = part.read()
        groupby = groupby or type_key(adata, earlier["parameters"])
        require_types(adata, groupby, source, target)
        found = run_links(
            adata, groupby=groupby, source=source, target=target, k=k, top_k=top_k, preset=preset, conv=conv,
            joint_weight=joint_weight, max_epochs=max_epochs, device=device, seed=seed, log=part.log,
            progress=progress,
        )  # fmt: skip
        found.summary["command"] = part.command("links", links, asked)
        part.write(found, lambda folder: write_into(found, folder, groupby))
    return found


def of_run(
    adata: AnnData,
    parameters: Mapping[str, Any],
    *,
    seed: int,
    log: StepLog,
    progress: bool,
    training: Mapping[str, Any] = MappingProxyType({}),
) -> Links | None:
    """Predict the links of a run; where that can't be, warn and return None, so that the run isn't lost."""
    source, target = parameters["source"], parameters["target"]
    groupby = type_key(adata, parameters)  # links are counted between all cells, so each needs a type
    known = {source, *(target or ())} <= set(adata.obs[groupby].astype(str))
    if source is not None and not known:
        log.warnings.append(
            f"No progenitors were called by their links: not all of the named types are in adata.obs[{groupby!r}]."
        )
    try:
        return run_links(
            adata, groupby=groupby, source=source if known else None, target=target if known else None,
            k=parameters["k"], device=parameters["device"], seed=seed, log=log, progress=progress,
            training=training,
        )  # fmt: skip
    except (CheckpointError, OutputError):
        raise
    except (ValueError, RuntimeError) as error:  # a graph in which all are linked to all, say
        log.warnings.append(f"No links were predicted: {error} Run 'diffvae links' on this result.")
        return None


def type_key(adata: AnnData, parameters: Mapping[str, Any]) -> str:
    """Return where the types are: a run's labels if every cell has one, or the names that it gave."""
    key = _perturb.group_key(parameters)
    return _keys.CELL_TYPE if key in adata.obs and adata.obs[key].isna().any() else key


def check_options(k: int, top_k: int) -> None:
    """Refuse numbers that can't be, before anything is read."""
    for name, value in (("k", k), ("top_k", top_k)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more.")


def require_types(adata: AnnData, groupby: str, source: str | None, target: Sequence[str] | None) -> None:
    """Refuse types that aren't there, before the training."""
    types = [str(c) for c in groups(adata, groupby).categories]
    if source is None and target:
        raise ValueError("A target was named but no source; name the progenitor type as well.")
    for name in (*([source] if source is not None else []), *(target or ())):
        if name not in types:
            raise DataError(f"{name!r} is no type of adata.obs[{groupby!r}]; the types are: {', '.join(types)}.")
    if source is not None and (source in (target or ()) or len(types) == 1):
        raise DataError(f"{source!r} has no other type to commit to; name another target, or other types by groupby.")
