"""Links between cells: Graph-DiffVAE on the graph of similar cells, against chance and the cells' similarity."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pandas as pd

from diffvae import _keys, pp, tl
from diffvae._core.anndata import groups, result
from diffvae._core.io import folders
from diffvae._core.runtime import LARGE_STEP, StepLog, in_one_thread, versions
from diffvae._core.second_process import HERE, SecondProcess
from diffvae._core.validate import check
from diffvae._errors import CheckpointError, DataError, OutputError
from diffvae.pipeline import _map, _perturb
from diffvae.pipeline._checks import RULES
from diffvae.pipeline._folder import OpenedResult, Verdict, sentences, write_figures, write_summary, write_tables

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import GraphDiffVAE

GRAPHS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {"k": 15},
        "paper": {"k": 1, "metric": "pearson", "layer": _keys.UNIT},
        "code": {"k": 2, "metric": "pearson", "layer": _keys.UNIT},
    }
)
"""Arguments of :func:`diffvae.pp.cell_graph` for each preset of Graph-DiffVAE."""
TOP_K = 15
MIN_CORE = 0.6
"""Least share of uncommitted progenitors, as in :func:`diffvae.tl.commitment`."""
OPTIONS = (
    "source",
    "target",
    "earlier",
    "min_core",
    "k",
    "top_k",
    "preset",
    "conv",
    "joint_weight",
    "max_epochs",
    "device",
    "seed",
)
"""Parameters of :func:`links` that :func:`run_links` takes as well."""

SIMILARITIES: Mapping[str, str] = MappingProxyType(
    {"cosine": "The cosine of principal components", "pearson": "Pearson's correlation"}
)
"""What makes the graph, in words."""
MAX_HUB_SHARE = 0.3
"""Share of the called links at the most linked 1 % of the cells, above which the verdict mentions it."""
WIDE_CORE = 1.3
"""Variance of the core, in units of that within types, above which the verdict doubts the calls.

On five simulated trees it was at most 1.1; it was 1.6 and 1.8 in the two pools without begun cells that had most calls.
"""
MAX_PAIRS_TEXT = 110
"""Letters of the pairs of types that the verdict names, which with the rest of the sentence are two lines."""
N_BOOTSTRAPS = 20
"""Bootstraps for the standard errors of fates."""

VERDICT: Verdict = (
    (lambda n: True, "Trained on {scheme}."),
    (
        lambda n: "validation_auc" in n,
        "Hidden edges rank above other pairs with AUC {validation_auc:.3f}. {similarity} defines these edges and "
        "reaches {baseline_auc:.3f}; diffvae.benchmark.links makes a fair comparison.",
    ),
    (
        lambda n: "precision_unknown" in n,
        "At the threshold {threshold:.2g}, {recall:.0%} of the edges are called, and {precision:.0%} of the called "
        "pairs are edges. Of the new links {precision_unknown:.1%} are hidden edges.",
    ),
    (
        lambda n: n.get("hub_share", 0) > MAX_HUB_SHARE,
        "{hub_share:.0%} of the called links touch the most linked 1 % of the cells ({hub_share_input:.0%} in the "
        "input graph). Such cells are often the deepest sequenced; their links mean little.",
    ),
    (
        lambda n: n["n_components"] > n["n_components_input"],
        "The predicted links form {n_components} connected components (input graph: {n_components_input}). A "
        "pseudotime along the links covers only one of them.",
    ),
    (lambda n: "pairs" in n, "Types linked more often than in random graphs of the same degrees (q < 0.05): {pairs}."),
)
"""Conditions on the numbers of a result, and the sentences on links that they add."""
FATES_VERDICT: Verdict = (
    (
        lambda n: True,
        "{n_called_progenitors} of {n_progenitors} progenitors are committed to a later type (expected share of false "
        "calls: {expected_false:.0%}). PCA neighbours call {n_called_pca}; of simulated uncommitted cells "
        "{null_called:.1%} are called.",
    ),
    (
        lambda n: not (n["earlier"] and n["named"]),
        "Name the types upstream of the progenitors (earlier) and those that can follow (target). Otherwise cells that "
        "only resemble another type are called.",
    ),
    (
        lambda n: n["variance"] > WIDE_CORE,
        "Uncommitted progenitors vary more than cells within other types (variance {variance:.1f} instead of 1). "
        "Subgroups among them may look like fates.",
    ),
    (
        lambda n: n["withheld"],
        "Calls are withheld: the method cannot separate committed from uncommitted cells here. Name fewer targets and "
        "the earlier types, or pass min_core=0.1 if most cells are committed.",
    ),
    (
        lambda n: n["at_limit"] and not n["withheld"],
        "The estimated share of uncommitted progenitors is at its lower limit, {core_share:.0%}. More cells may be "
        "committed.",
    ),
    (
        lambda n: n["n_unreached"] > 0,
        "No random walk from {n_unreached} progenitors reaches a later type. These cells have no fate.",
    ),
)
"""The same for calls and fates of progenitors; the first is their result."""


@dataclass
class Links:
    """What Graph-DiffVAE predicted.

    Attributes
    ----------
    adata
        The cells with the results of :func:`diffvae.tl.links`, :func:`diffvae.tl.link_table` and
        :func:`diffvae.tl.commitment` and :func:`diffvae.tl.fates`.
    model
        The trained model.
    called
        One row per called link, the most probable first.
    types
        Links between types, in the input graph and in the predicted one, with their null; None with fewer than two
        types.
    commitment
        One row per progenitor; None without a source.
    fates
        One row per group of progenitors (all, and those with each call) and later type: mean absorption probability
        with its standard error, beside that by PCA neighbours and that of random groups; None without a source.
    summary
        Parameters, scores on hidden edges, verdict.
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
    fates: pd.DataFrame | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


@in_one_thread
def run_links(
    adata: AnnData,
    *,
    groupby: str,
    batch_key: str | None = None,
    source: str | None = None,
    target: Sequence[str] | None = None,
    earlier: Sequence[str] | None = None,
    min_core: float | None = None,
    k: int | None = None,
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
    second: SecondProcess = HERE,
) -> Links:
    """Build the graph, train Graph-DiffVAE on it, predict links, count them by type, and call and rank progenitors.

    The calls are those of :func:`diffvae.tl.commitment`, which have the links as evidence beside them; the ranks are
    the absorption probabilities of :func:`diffvae.tl.fates`.
    """
    arguments = locals()
    parameters = {name: arguments[name] for name in ("groupby", "batch_key", *OPTIONS)}
    from diffvae.model import GraphDiffVAE

    model = GraphDiffVAE(preset, conv=conv, joint_weight=joint_weight, max_epochs=max_epochs)
    log = log or StepLog(lambda step: None)
    options = dict(GRAPHS[preset]) | ({} if k is None else {"k": k})
    if k is None:
        options["k"] = max(1, min(options["k"], (adata.n_obs - 1) // 3))  # of a dozen cells, 15 are all others
    parameters["k"] = options["k"]
    min_core = parameters["min_core"] = MIN_CORE if min_core is None else min_core
    with log.step("join similar cells"):
        _join_cells(adata, options, batch_key, seed, log, progress)
    with log.step("train Graph-DiffVAE"):
        model.train(adata, device=device, rng=seed, progress=progress, **training)
    with log.step("predict links"):
        called = tl.links(adata, model, min(top_k, adata.n_obs - 1), rng=seed)
    step = "t-SNE of Graph-DiffVAE"
    laid_out = second.submit(_map.lay_out, adata.obsm[_keys.GRAPH_LATENT], seed, step, log=log, what=step)
    types = commitment = ranks = None
    of_fates: list[str] = []
    if len(groups(adata, groupby).categories) > 1:
        with log.step("compare links between types with chance"):
            types = tl.link_table(adata, groupby, graphs=_graphs(called), rng=seed)
    if source is not None:
        with log.step("rank and call progenitors by their fates"):
            commitment = tl.commitment(
                adata, source, groupby, targets=target, earlier=earlier or (), min_core=min_core, rng=seed
            )
            tl.fates(
                adata, source, groupby, targets=target, earlier=earlier or (), n_bootstraps=N_BOOTSTRAPS,
                split_by=_keys.COMMITMENT, rng=seed,
            )  # fmt: skip
            ranks = result(adata, "fate_table")
        of_fates = sentences(FATES_VERDICT, _said_of(adata, commitment) | {"named": bool(target)})
    adata.obsm[_keys.GRAPH_TSNE] = laid_out.result().obsm[_keys.TSNE]  # new cells are placed on the map of DiffVAE
    numbers = {name: v for name, v in result(adata, "links").items() if not (isinstance(v, float) and v != v)}
    if "validation_auc" in result(adata, "links"):
        metric = result(adata, _keys.CELL_GRAPH)["metric"]
        numbers |= {"similarity": SIMILARITIES[metric], "baseline_auc": model.baseline_auc(metric)}
    summary = {
        "parameters": parameters,
        "graph": {name: v for name, v in result(adata, _keys.CELL_GRAPH).items() if v == v},
        "links": numbers,
        "calls": None if commitment is None else _counts(commitment),
        "types": None if types is None else json.loads(types.to_json(orient="records")),
        "verdict": [*sentences(VERDICT, numbers | _pairs(types)), *of_fates],
        "fates_verdict": of_fates,
    }
    return Links(adata, model, called, types, commitment, ranks, summary)


def _join_cells(
    adata: AnnData, options: Mapping[str, Any], batch_key: str | None, seed: int, log: StepLog, progress: bool
) -> None:
    """Join similar cells, of every batch if the run has batches with enough cells."""
    try:
        pp.cell_graph(adata, **options, balance_by=batch_key, rng=seed, progress=progress)
    except DataError as error:
        if batch_key is None:
            raise
        log.warnings.append(f"Links are not balanced over batches: {error}")
        pp.cell_graph(adata, **options, rng=seed, progress=progress)


def _graphs(called: pd.DataFrame) -> list[str]:
    return [_keys.CELL_GRAPH, *([_keys.CALLED_LINKS] if len(called) else [])]


def _counts(commitment: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return the number of progenitors with each call, by paths, by PCA neighbours, and by predicted links."""
    return {
        graph: {str(name): int(n) for name, n in commitment[column].value_counts().items()}
        for graph, column in (("paths", "call"), ("pca", "call_pca"), ("predicted", "call_links"))
    }


def _pairs(types: pd.DataFrame | None) -> dict[str, str]:
    """Return the pairs of different types with more predicted links than by chance, for the verdict."""
    if types is None or not (types["graph"] == _keys.CALLED_LINKS).any():
        return {}
    linked = types[
        (types["graph"] == _keys.CALLED_LINKS)
        & (types["type_1"] != types["type_2"])
        & (types["q_value"] < 0.05)
        & (types["z"] > 0)
    ].sort_values("z", ascending=False)
    names = [f"{r.type_1} - {r.type_2}" for r in linked.itertuples()]
    n = 1
    while n < len(names) and len(", ".join(names[: n + 1])) <= MAX_PAIRS_TEXT:
        n += 1
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return {"pairs": (", ".join(names[:n]) or "none") + more}


def _said_of(adata: AnnData, commitment: pd.DataFrame) -> dict[str, Any]:
    """Return what the verdict says of the calls and fates."""
    parameters = result(adata, "commitment_params")
    said = ("expected_false", "null_called", "earlier", "at_limit", "withheld", "core_share", "variance")
    return {
        "n_progenitors": len(commitment),
        "n_called_progenitors": int((commitment["call"] != "uncommitted").sum()),
        "n_called_pca": int((commitment["call_pca"] != "uncommitted").sum()),
        "n_unreached": result(adata, "fates")["n_unreached"],
        **{name: parameters[name] for name in said},
    }


def write_into(links: Links, folder: Path) -> None:
    """Write model, tables, cells, figures and summary into a folder."""
    import anndata as ad

    from diffvae import pl

    adata, groupby = links.adata, links.summary["parameters"]["groupby"]
    links.model.save(folder / "model")
    tables = {"called_links": links.called, "history": links.model.history.reset_index()}
    figures: dict[str, Callable[[], Any]] = {
        "adjacency": lambda: pl.adjacency(adata, groupby, graphs=_graphs(links.called)),
        "history": lambda: pl.history(links.model.history),
    }
    if links.types is not None:
        source = links.summary["parameters"]["source"]
        tables["link_table"] = links.types
        figures["links"] = lambda: pl.links(adata, groupby, source=source)
        figures["link_table"] = lambda: pl.link_table(adata)
    if links.commitment is not None:
        tables["commitment"] = links.commitment
        tables["commitment_types"] = result(adata, "commitment_types")
        figures["commitment"] = lambda: pl.commitment(adata)
    if links.fates is not None:
        tables["fates"] = links.fates
        figures["fates"] = lambda: pl.fates(adata)
    write_tables(tables, folder)
    # without expression, which is in the result itself
    cells = ad.AnnData(obs=adata.obs, obsm=dict(adata.obsm), obsp=dict(adata.obsp), uns=dict(adata.uns))
    folders.write_h5ad(cells, folder / "cells.h5ad")
    write_figures(figures, folder)
    write_summary(links.summary | {"versions": versions()}, folder)


@in_one_thread
def links(
    path: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    source: str | None = None,
    target: Sequence[str] | None = None,
    earlier: Sequence[str] | None = None,
    groupby: str | None = None,
    min_core: float | None = None,
    k: int | None = None,
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
    """Predict the links between the cells of an existing result, and call the committed progenitors.

    Parameters
    ----------
    path
        Folder that :func:`diffvae.pipeline.run` wrote.
    out
        Output folder; None for ``links`` in ``path``.
    source, target
        Progenitor type, and the later types (None for all others): see :func:`diffvae.tl.commitment` and
        :func:`diffvae.tl.fates`.
    earlier
        Types upstream of the source, which are no fates.
    groupby
        Key in ``obs`` of the types; None for the reference labels of the run, or for the names of its clusters if it
        has none or some cells have no label.
    min_core
        Least share of uncommitted progenitors: see :func:`diffvae.tl.commitment`. None for 0.6.
    k
        Number of most similar cells to which each cell is joined, over all batches alike if the run has a
        ``batch_key``: see :func:`diffvae.pp.cell_graph`. None for 15, with ``preset="paper"`` 1 and ``"code"`` 2, whose
        similarity is Pearson's correlation instead of the cosine of 50 principal components.
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
    >>> links = dv.pipeline.links("results", max_epochs=5, progress=False)
    >>> links.called.columns.tolist()
    ['cell_1', 'cell_2', 'probability', 'new']
    """
    arguments = dict(locals())
    check(RULES, min_core=min_core, k=k, top_k=top_k)
    with OpenedResult(path, out, _keys.LINKS_FOLDER, overwrite, on_step) as opened:
        adata, _, run_summary = opened.read()
        groupby = groupby or type_key(adata, run_summary["parameters"])
        _require_types(adata, groupby, source, target, earlier)
        options = {name: arguments[name] for name in OPTIONS}
        batch_key = run_summary["parameters"].get("batch_key")
        predicted = run_links(adata, groupby=groupby, batch_key=batch_key, **options, log=opened.log, progress=progress)
        predicted.summary["command"] = opened.command("links", links, arguments)
        opened.write(predicted, lambda folder: write_into(predicted, folder))
    return predicted


def links_of_run(
    adata: AnnData,
    parameters: Mapping[str, Any],
    *,
    log: StepLog,
    progress: bool,
    training: Mapping[str, Any] = MappingProxyType({}),
    second: SecondProcess = HERE,
) -> Links | None:
    """Predict links at the end of a run; if that is impossible, add a warning and return None, so the run is kept."""
    source, target, earlier = parameters["source"], parameters["target"], parameters.get("earlier") or ()
    groupby = type_key(adata, parameters)
    types = set(adata.obs[groupby].astype(str))
    if isinstance(source, list):  # in the order of differentiation
        *before, source = source
        earlier = list(dict.fromkeys([*earlier, *before]))
        target = None if target is None else [name for name in target if name != source]
    if source == "all" and "all" not in types:
        log.warnings.append(
            "No progenitors were called: that takes one source. Run 'diffvae links' on this result with one."
        )
        source = None
    if source is not None and not {source, *(target or ()), *earlier} <= types:
        log.warnings.append(f"No progenitors were called: not all types are in adata.obs[{groupby!r}].")
        source = None
    fates = types - {source, *earlier} if target is None else set(target) - set(earlier)
    if source is not None and not fates:
        log.warnings.append(f"No progenitors were called: all other types are earlier than {source!r}.")
        source = None
    # a conversion may lead back to an earlier type, a fate never does
    target = None if source is None or target is None else [name for name in target if name in fates]
    try:
        return run_links(
            adata, groupby=groupby, batch_key=parameters.get("batch_key"), source=source, target=target,
            earlier=None if source is None else earlier, min_core=parameters["min_core"], k=parameters["k"],
            device=parameters["device"], seed=parameters["seed"], log=log, progress=progress, training=training,
            second=second,
        )  # fmt: skip
    except (CheckpointError, OutputError):
        raise
    except (ValueError, RuntimeError) as error:  # a graph in which all cells are linked, for example
        log.warnings.append(f"No links were predicted: {error} Run 'diffvae links' on this result.")
        return None


def trains_in_all_threads(adata: AnnData) -> bool:
    """Return whether steps of Graph-DiffVAE are so large that they use all threads."""
    from diffvae.model import GraphDiffVAE
    from diffvae.model._graph_training import pair_products

    config = GraphDiffVAE().config
    of_expression = adata.n_obs * 2 * config.hidden * min(config.n_components, adata.n_vars)
    return of_expression + pair_products(adata.n_obs, config) > LARGE_STEP


def type_key(adata: AnnData, parameters: Mapping[str, Any]) -> str:
    """Return the key of the types: the reference labels if every cell has one, or the names of the clusters."""
    key = _perturb.type_key(parameters)
    return _keys.CELL_TYPE if key in adata.obs and adata.obs[key].isna().any() else key


def _require_types(
    adata: AnnData,
    groupby: str,
    source: str | None,
    target: Sequence[str] | None,
    earlier: Sequence[str] | None = None,
) -> None:
    """Refuse unknown types before the training."""
    for name, given in (("target", target), ("earlier", earlier)):
        if isinstance(given, str):
            raise ValueError(f"{name} is {given!r}; give a list of types, [{given!r}].")
    if target is not None and not target:
        raise ValueError("target is an empty list; name one or more types, or None for all.")
    if source is None:
        for name, given in (("target", target), ("earlier", earlier)):
            if given:
                raise ValueError(f"{name} is given without source; name the progenitor type as well.")
        groups(adata, groupby)
        return
    types = [str(c) for c in groups(adata, groupby).categories]
    for name in (source, *(target or ()), *(earlier or ())):
        if name not in types:
            raise DataError(f"{name!r} is not a type of adata.obs[{groupby!r}]; the types are: {', '.join(types)}.")
    if source in (target or ()) or set(types) == {source, *(earlier or ())}:
        raise DataError(f"{source!r} has no other type to commit to; name another target, or other types (groupby).")
    if both := [name for name in earlier or () if name in (source, *(target or ()))]:
        raise DataError(f"{both[0]!r} is earlier and also source or target; a type has one role.")
