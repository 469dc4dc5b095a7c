"""The figures of a reproduction: all trainings with chance and the paper, and the paper's figures of the first one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from scipy import sparse

from diffvae import _keys
from diffvae._core.anndata import results as stored_results
from diffvae.benchmark._statistics import at, summary
from diffvae.benchmark.reproduction._claims import has_papers_source, links_of
from diffvae.benchmark.reproduction._page import CHANGES, CLUSTERS, LINKS, Results
from diffvae.benchmark.reproduction._subject import METHOD_OF, OTHERS, PRESETS, Subject
from diffvae.benchmark.reproduction._training import MIN_PROBABILITY, prepare
from diffvae.pl import _text
from diffvae.pl._style import CATEGORIES, INK, array, finish, new_figure, slot, styled

if TYPE_CHECKING:
    from anndata import AnnData

MOST_TARGETS = 4
"""Targets of Figure 3: of more types, those to which most cells convert."""
COLOURS = {"paper": CATEGORIES[1], "code": CATEGORIES[3], "default": CATEGORIES[0]}
OTHER_COLOURS = (CATEGORIES[2], CATEGORIES[4], INK)
CHANCE, PUBLISHED = "#9A9A9A", "#C00018"
SHORT = {"kmeans": "k-means", "dbscan": "DBSCAN", "gmm": "mixture"}
_ROW = 0.3
"""Inches between rows."""
ORDER = ("overlap", "map", "conversions", "figure3", "table2", "links", "figure4b", "figure4")
Figures = dict[str, tuple[str, Callable[[], Any]]]


def figures(results: Results, tables: Mapping[str, pd.DataFrame], subject: Subject, seed: int) -> Figures:
    """Return name to caption and a function that draws; ``seed`` is that of the first training."""
    drawings: Figures = {}
    if subject.label_key is not None and len(tables["overlap"]):
        caption = "Overlap of the clusters with the reference types in each training, and with permuted labels"
        drawings["overlap"] = (caption, partial(_overlap, tables["overlap"], subject))
    if len(tables["conversions"]):
        caption = "Conversions by each preset and training; the grey bars are the middle 95% of random directions"
        drawings["conversions"] = (caption, partial(_shares, tables["conversions"], subject))
    if len(tables["table2_runs"]):
        caption = "Table 2 as a figure: k-means and mixtures are given the number of types, DBSCAN is not"
        drawings["table2"] = (caption, partial(_table_2, tables["table2_runs"], subject))
    if len(tables["links"]) and subject.source is not None:
        caption = "Predicted links of the progenitors to every other type, and in random graphs with the same degrees"
        drawings["links"] = (caption, partial(_link_numbers, tables["links"], subject))
    for preset in PRESETS:
        clusters, changes, links = (results.get((part, preset, 0)) for part in (CLUSTERS, CHANGES, LINKS))
        if clusters:
            caption = (
                f"Figure 1b, preset {preset}: clusters of the map, coloured by the types to which they are matched"
            )
            drawings[f"map_{preset}"] = (caption, partial(_map, clusters, subject, preset))
        if changes and changes["trajectories"]:
            caption = f"Figure 3, preset {preset}: which progenitors convert"
            drawings[f"figure3_{preset}"] = (caption, partial(_conversions, changes, subject))
        if links and links["edges"]:
            caption = f"Figure 4c to e, preset {preset}: input graph, predicted links, |Pearson|"
            drawings[f"figure4_{preset}"] = (caption, partial(_adjacency, links, subject, seed))
            if links["edges"][_keys.CALLED_LINKS]:
                caption = f"Figure 4b, preset {preset}: links on the map of Graph-DiffVAE, given and newly predicted"
                drawings[f"figure4b_{preset}"] = (caption, partial(_linked, links, subject))
    return dict(sorted(drawings.items(), key=lambda item: ORDER.index(item[0].partition("_")[0])))


@styled
def _overlap(table: pd.DataFrame, subject: Subject) -> Axes:
    figure, (ax,) = new_figure(1, 1, _ROW * len(PRESETS) + 0.9)
    for row, preset in enumerate(PRESETS):
        own = table[table["preset"] == preset]
        _dots(ax, row, own["overlap"], COLOURS[preset], own["expected"])
    keys, names = [_key("o", INK), _key("|", CHANCE)], ["a training", "permuted labels"]
    if subject.settings.overlap is not None:
        ax.axvline(subject.settings.overlap, color=PUBLISHED, ls="--", lw=1.4)
        keys.append(Line2D([], [], color=PUBLISHED, ls="--"))
        names.append("published")
    _rows(ax, PRESETS)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("cells whose cluster has their type")
    finish(figure, "Overlap of the clusters with the reference types", keys, names)
    return ax


@styled
def _shares(table: pd.DataFrame, subject: Subject) -> np.ndarray:
    """Draw the share of the progenitors that each shift converts, a panel per step, with chance and the paper."""
    shifted, about = table[(table["method"] == "shift") & (table["n_sd"] > 0)], subject.settings
    published = {}
    if has_papers_source(subject):
        published = {target: n / about.types[str(subject.source)] for target, n in about.converted.items()}
    steps = sorted(shifted["n_sd"].unique())
    last = shifted[shifted["n_sd"] == steps[-1]].groupby("target")["converted"].mean()
    targets = list(last.sort_values(ascending=False).index)
    most = max([0.02, shifted["converted"].max(), shifted["null_high"].max(), *published.values()])
    figure, panels = new_figure(len(steps), len(steps), _ROW * len(targets) + 0.9)
    for ax, step in zip(panels, steps, strict=True):
        for row, target in enumerate(targets):
            for y, preset in zip((row - 0.24, row, row + 0.24), PRESETS, strict=True):
                here = shifted[shifted[["n_sd", "preset", "target"]].eq([step, preset, target]).all(axis=1)]
                chance = [here["null_low"].mean(), here["null_high"].mean()]
                ax.plot(chance, [y, y], color=CHANCE, lw=3, alpha=0.6)
                _dots(ax, y, here["converted"], COLOURS[preset])
            if step == 1 and target in published:
                ax.plot(published[target], row, ls="", marker="*", color=PUBLISHED, ms=12, mec="white")
        _rows(ax, targets if ax is panels[0] else [""] * len(targets))
        ax.set_xlim(-0.03 * most, 1.05 * most)
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.set_xlabel("cells converted")
        ax.set_title(f"lambda = {step:g}", fontsize=10, weight="normal", loc="left")
    keys = [*(_key("o", COLOURS[p]) for p in PRESETS), Line2D([], [], color=CHANCE, lw=3, alpha=0.6)]
    names = [*PRESETS, "random directions, 95%"]
    if published:
        keys.append(_key("*", PUBLISHED))
        names.append("published")
    finish(figure, f"{subject.source} that the shift turns into each type", keys, names)
    return array(panels)


@styled
def _table_2(runs: pd.DataFrame, subject: Subject) -> np.ndarray:
    """Draw the adjusted Rand index over the dimensions, a panel per space and clusterer; dashed: the paper."""
    means, published = summary(runs, "ari"), subject.settings.ari
    clusterers, spaces = list(means["clusterer"].unique()), list(means["space"].unique())
    methods = {METHOD_OF[p]: COLOURS[p] for p in PRESETS} | dict(zip(OTHERS.values(), OTHER_COLOURS, strict=True))
    figure, panels = new_figure(len(clusterers) * len(spaces), len(clusterers), 2.0)
    for i, ax in enumerate(panels):
        space, clusterer = spaces[i // len(clusterers)], clusterers[i % len(clusterers)]
        own = means[(means["space"] == space) & (means["clusterer"] == clusterer)]
        sizes = sorted(own["n_latent"].unique())
        for j, (method, colour) in enumerate(methods.items()):
            here = own[own["method"] == method].sort_values("n_latent")
            x = np.searchsorted(sizes, here["n_latent"]) + 0.05 * (j - (len(methods) - 1) / 2)
            ax.errorbar(x, here["mean"], here["sd"].fillna(0), color=colour, marker="o", ms=4, lw=1.3, elinewidth=1)
        if published is not None:
            line = at(published, space=space, clusterer=clusterer, method="DiffVAE")
            line = line[line["n_latent"].isin(sizes)].sort_values("n_latent")
            x = np.searchsorted(sizes, line["n_latent"])
            ax.plot(x, line["ari"], color=PUBLISHED, ls="--", marker="*", ms=8, lw=1.2)
        ax.set_xticks(range(len(sizes)), [f"{int(s)}" for s in sizes])
        ax.set_ylim(min(0.0, means["mean"].min()) - 0.02, 1.0)
        name = f"{SHORT.get(clusterer, clusterer)}, {'t-SNE' if space == 'tsne' else space}"
        ax.set_title(_text.shorten(name, slot(ax, 0)[0] - 28, 9), fontsize=9, weight="normal", loc="left")
        ax.set_ylabel("ARI" if clusterer == clusterers[0] else "")
        ax.set_xlabel("dimensions" if space == spaces[-1] else "")
    keys = [Line2D([], [], color=c, marker="o", ms=4) for c in methods.values()]
    names = list(methods)
    if published is not None:
        keys.append(Line2D([], [], color=PUBLISHED, ls="--", marker="*", ms=7))
        names.append("published, DiffVAE")
    finish(figure, "Adjusted Rand index of the clusters (mean and sd over trainings)", keys, names)
    return array(panels)


@styled
def _link_numbers(table: pd.DataFrame, subject: Subject) -> np.ndarray:
    """Draw the number of predicted links of the progenitors to each type, a panel per preset, with random graphs."""
    own = links_of(table[table["graph"] == _keys.CALLED_LINKS], subject)
    presets = [p for p in PRESETS if (own["preset"] == p).any()]
    targets = list(own.groupby("target")["n_links"].mean().sort_values(ascending=False).index)
    figure, panels = new_figure(len(presets), len(presets), _ROW * len(targets) + 0.9)
    for ax, preset in zip(panels, presets, strict=True):
        for row, target in enumerate(targets):
            here = own[(own["preset"] == preset) & (own["target"] == target)]
            _dots(ax, row, here["n_links"], COLOURS[preset], here["expected"])
        _rows(ax, targets if ax is panels[0] else [""] * len(targets))
        ax.set_xscale("symlog", linthresh=10)
        ax.set_xlim(left=0)
        ax.set_xlabel("predicted links")
        ax.set_title(f"preset {preset}", fontsize=10, weight="normal", loc="left")
    keys, names = [_key("o", INK), _key("|", CHANCE)], ["a training", "random graphs, same degrees"]
    finish(figure, f"Links of {subject.source} to each other type", keys, names)
    return array(panels)


def _dots(ax: Axes, y: float, values: pd.Series, colour: str, chance: Sequence[float] = ()) -> None:
    """Draw a dot per training on a row, and a grey tick for its value by chance."""
    ax.plot(chance, [y] * len(chance), ls="", marker="|", color=CHANCE, ms=12, mew=2)
    ax.plot(values, [y] * len(values), ls="", marker="o", color=colour, ms=6, mec="white")


def _rows(ax: Axes, names: Sequence[str]) -> None:
    ax.set_ylim(len(names) - 0.4, -0.6)
    _text.row_labels(ax, list(names), room=130, pitch=72 * _ROW)
    ax.grid(axis="x", color="#EDEDED", lw=0.6)
    ax.set_axisbelow(True)


def _key(marker: str, colour: str) -> Line2D:
    return Line2D([], [], ls="", marker=marker, color=colour, ms=7 if marker != "*" else 9, mew=2 * (marker == "|"))


def _cells(subject: Subject, coordinates: Any, key: str = _keys.TSNE) -> AnnData:
    """Return cells with a map and their types, without expression."""
    import anndata as ad

    obs = pd.DataFrame(index=subject.adata.obs_names)
    if subject.label_key is not None:
        obs[subject.label_key] = subject.adata.obs[subject.label_key]
    return ad.AnnData(obs=obs, obsm={key: np.array(coordinates, dtype=np.float32)})


def _map(value: dict[str, Any], subject: Subject, preset: str) -> Any:
    from diffvae import pl

    cells = _cells(subject, value["map"])
    if subject.label_key is None:
        cells.obs["cluster"] = pd.Categorical(value["clusters"])
        return pl.tsne(cells, color="cluster", title=f"Preset {preset}: clusters (Leiden)")
    named = {row["cluster"]: row["type"] for row in value["types"] if row["cluster"]}
    matched = pd.Series(value["clusters"]).map(named).fillna("unassigned")
    categories = [*sorted(subject.types), "unassigned"]  # one colour per type in all maps
    cells.obs["type"] = pd.Categorical(matched, categories=categories)
    share = value["overlap"]["overlap"]
    return pl.tsne(cells, color="type", title=f"Preset {preset}: clusters by matched type, {share:.1%} overlap")


def _conversions(value: dict[str, Any], subject: Subject) -> Any:
    """Draw from the stored rows; the figure needs neither expression nor models."""
    from diffvae import pl
    from diffvae.tl import Perturbation
    from diffvae.tl._conversions import Trajectory

    table = pd.DataFrame(value["conversions"])
    unused: Any = None
    trajectories = {}
    for one in value["trajectories"]:
        rows, probability, first = np.array(one["rows"]), np.array(one["probability"]), np.array(one["first"], bool)
        path = Trajectory(rows, unused, unused, probability, first, unused, unused, unused)
        trajectories[str(subject.source), one["target"], "shift"] = path
    steps = tuple(sorted(float(s) for s in table["n_sd"].unique()))
    stored = Perturbation(
        table, trajectories, {}, _cells(subject, value["map"]), unused, unused, unused, unused,
        str(subject.label_key), "n_sd", steps, MIN_PROBABILITY, ("shift",),
    )  # fmt: skip
    last = table[(table["n_sd"] == steps[-1]) & (table["method"] == "shift")].set_index("target")["n_converted"]
    targets = [str(t) for t in last.sort_values(ascending=False, kind="stable").index[:MOST_TARGETS]]
    return pl.conversions(stored, target=targets, step=steps[1:])


def _adjacency(value: dict[str, Any], subject: Subject, seed: int) -> Any:
    from diffvae import pl

    adata = prepare(subject, seed)
    for key, pairs in value["edges"].items():
        adata.obsp[key] = _graph(pairs, adata.n_obs)
    adata = adata[np.array(value["cells"])].copy()
    return pl.adjacency(adata, str(subject.label_key), graphs=[key for key in value["edges"] if adata.obsp[key].nnz])


def _linked(value: dict[str, Any], subject: Subject) -> Any:
    from diffvae import pl

    rows = np.array(value["cells"])
    coordinates = np.zeros((subject.adata.n_obs, 2), dtype=np.float32)
    coordinates[rows] = value["map"]
    cells = _cells(subject, coordinates, _keys.GRAPH_TSNE)
    for key, pairs in value["edges"].items():
        cells.obsp[key] = _graph(pairs, cells.n_obs)
    cells.obsp[_keys.LINKS] = _graph(value["edges"][_keys.CALLED_LINKS], cells.n_obs, value["probability"])
    stored_results(cells)["links"] = {"graph_key": _keys.CELL_GRAPH}
    return pl.links(cells[rows].copy(), str(subject.label_key), source=subject.source)


def _graph(pairs: Any, n: int, values: Any = 1) -> sparse.csr_matrix:
    """Return the symmetric matrix of pairs of cells."""
    rows = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    data = np.broadcast_to(np.asarray(values, np.float32), len(rows))
    one = sparse.csr_matrix((data, (rows[:, 0], rows[:, 1])), shape=(n, n))
    return sparse.csr_matrix(one + one.T)
