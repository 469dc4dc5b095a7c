"""The figures of a reproduction that show all trainings: published beside ours, each with its chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from diffvae import _keys
from diffvae.benchmark._reproduce_claim import METHOD_OF, OTHERS
from diffvae.benchmark._reproduce_claims_states import of_source
from diffvae.benchmark._reproduce_subject import Subject
from diffvae.benchmark._reproduce_tables import PRESETS
from diffvae.benchmark._statistics import summary
from diffvae.pl import _text
from diffvae.pl._palette import CATEGORIES, INK
from diffvae.pl._panels import array, finish, new_figure
from diffvae.pl._style import axes_or_new, slot, styled

COLOURS = {"paper": CATEGORIES[1], "code": CATEGORIES[3], "default": CATEGORIES[0]}
CHANCE, PUBLISHED = "#9A9A9A", "#C00018"
SHORT = {"kmeans": "k-means", "dbscan": "DBSCAN", "gmm": "mixture"}
_ROW = 0.3
"""Inches between rows."""


@styled
def overlap(table: pd.DataFrame, subject: Subject) -> Axes:
    """Draw the overlap of every training, its expectation under permuted labels, and the published one."""
    ax = axes_or_new(None, 2.3)
    for row, preset in enumerate(PRESETS):
        own = table[table["preset"] == preset]
        ax.plot(own["expected"], [row] * len(own), ls="", marker="|", color=CHANCE, ms=12, mew=2)
        ax.plot(own["overlap"], [row] * len(own), ls="", marker="o", color=COLOURS[preset], ms=7, mec="white")
    keys = [_mark("o", INK), _mark("|", CHANCE)]
    names = ["a training", "permuted labels"]
    if subject.published is not None and subject.published.overlap is not None:
        ax.axvline(subject.published.overlap, color=PUBLISHED, ls="--", lw=1.4)
        keys.append(Line2D([], [], color=PUBLISHED, ls="--"))
        names.append("published")
    _rows(ax, PRESETS)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("cells whose cluster has their type")
    ax.figure.legend(keys, names, loc="outside lower center", ncols=3)
    _text.title(ax, "Overlap of the clusters with the reference types")
    return ax


@styled
def conversions(table: pd.DataFrame, subject: Subject) -> np.ndarray:
    """Draw the share of the progenitors that each shift converts, a panel per step, beside chance and the paper."""
    shifted = table[table["method"] == "shift"]
    steps = [s for s in sorted(shifted["n_sd"].unique()) if s > 0]
    told = {} if subject.published is None else dict(subject.published.converted)
    n_source = 1 if subject.published is None else subject.published.types.get(str(subject.source), 1)
    last = shifted[shifted["n_sd"] == steps[-1]].groupby("target")["converted"].mean()
    targets = list(last.sort_values(ascending=False).index)
    figure, panels = new_figure(len(steps), len(steps), _ROW * len(targets) + 0.9)
    most = max([0.02, shifted["converted"].max(), shifted["null_high"].max(), *(n / n_source for n in told.values())])
    for i, (ax, step) in enumerate(zip(panels, steps, strict=True)):
        own = shifted[shifted["n_sd"] == step]
        for offset, preset in zip((-0.24, 0.0, 0.24), PRESETS, strict=True):
            for row, target in enumerate(targets):
                here = own[(own["preset"] == preset) & (own["target"] == target)]
                if here.empty:
                    continue
                y = row + offset
                ax.plot([here["null_low"].mean(), here["null_high"].mean()], [y, y], color=CHANCE, lw=3, alpha=0.6)
                ax.plot(here["converted"], [y] * len(here), ls="", marker="o", color=COLOURS[preset], ms=5, mec="white")
        if step == 1:
            for row, target in enumerate(targets):
                if target in told:
                    ax.plot(told[target] / n_source, row, ls="", marker="*", color=PUBLISHED, ms=12, mec="white")
        _rows(ax, targets if i == 0 else [""] * len(targets))
        ax.set_xlim(-0.03 * most, 1.05 * most)
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.set_xlabel("cells converted")
        ax.set_title(f"lambda = {step:g}", fontsize=10, weight="normal", loc="left")
    keys = [*(_mark("o", COLOURS[p]) for p in PRESETS), Line2D([], [], color=CHANCE, lw=3, alpha=0.6)]
    names = [*PRESETS, "random directions, 95%"]
    if told:
        keys.append(_mark("*", PUBLISHED))
        names.append("published")
    finish(figure, f"{subject.source} that the shift turns into each type", keys, names)
    return array(panels)


@styled
def table_2(runs: pd.DataFrame, subject: Subject) -> np.ndarray:
    """Draw the adjusted Rand index over the dimensions, a panel per clusterer and space; dashed: the paper."""
    means = summary(runs, "ari")
    clusterers, spaces = list(means["clusterer"].unique()), list(means["space"].unique())
    told = subject.published.ari if subject.published else None
    methods = {**{METHOD_OF[p]: COLOURS[p] for p in PRESETS}, **dict(zip(OTHERS.values(), _OTHER_COLOURS, strict=True))}
    figure, panels = new_figure(len(clusterers) * len(spaces), len(clusterers), 2.0)
    low = min(0.0, float(means["mean"].min()))
    for i, ax in enumerate(panels):
        space, clusterer = spaces[i // len(clusterers)], clusterers[i % len(clusterers)]
        own = means[(means["space"] == space) & (means["clusterer"] == clusterer)]
        sizes = sorted(own["n_latent"].unique())
        for j, (method, colour) in enumerate(methods.items()):
            here = own[own["method"] == method].sort_values("n_latent")
            x = np.searchsorted(sizes, here["n_latent"]) + 0.05 * (j - (len(methods) - 1) / 2)
            ax.errorbar(x, here["mean"], here["sd"].fillna(0), color=colour, marker="o", ms=4, lw=1.3, elinewidth=1)
        if told is not None:
            _published_lines(ax, told[(told["space"] == space) & (told["clusterer"] == clusterer)], sizes)
        ax.set_xticks(range(len(sizes)), [f"{int(s)}" for s in sizes])
        ax.set_ylim(low - 0.02, 1.0)
        name = f"{SHORT.get(clusterer, clusterer)}, {'t-SNE' if space == 'tsne' else space}"
        ax.set_title(_text.shorten(name, slot(ax, 0)[0] - 28, 9), fontsize=9, weight="normal", loc="left")
        if i % len(clusterers) == 0:
            ax.set_ylabel("ARI")
        if i // len(clusterers) == len(spaces) - 1:
            ax.set_xlabel("dimensions")
    keys: list[Any] = [Line2D([], [], color=c, marker="o", ms=4) for c in methods.values()]
    names = list(methods)
    if told is not None:
        keys.append(Line2D([], [], color=PUBLISHED, ls="--", marker="*", ms=7))
        names.append("published, DiffVAE")
    finish(figure, "Adjusted Rand index of the clusters (mean and sd over trainings)", keys, names)
    return array(panels)


_OTHER_COLOURS = (CATEGORIES[2], CATEGORIES[4], INK)


def _published_lines(ax: Axes, told: pd.DataFrame, sizes: Sequence[int]) -> None:
    own = told[(told["method"] == "DiffVAE") & told["n_latent"].isin(sizes)].sort_values("n_latent")
    ax.plot(np.searchsorted(sizes, own["n_latent"]), own["ari"], color=PUBLISHED, ls="--", marker="*", ms=8, lw=1.2)


@styled
def links(table: pd.DataFrame, subject: Subject) -> np.ndarray:
    """Draw how many predicted links join the progenitors to each type, a panel per preset, beside their degrees."""
    own = of_source(table[table["graph"] == _keys.CALLED_LINKS], subject)
    presets = [p for p in PRESETS if (own["preset"] == p).any()]
    order = list(own.groupby("target")["n_links"].mean().sort_values(ascending=False).index)
    figure, panels = new_figure(len(presets), len(presets), _ROW * len(order) + 0.9)
    for i, (ax, preset) in enumerate(zip(panels, presets, strict=True)):
        for row, target in enumerate(order):
            here = own[(own["preset"] == preset) & (own["target"] == target)]
            ax.plot(here["expected"], [row] * len(here), ls="", marker="|", color=CHANCE, ms=12, mew=2)
            ax.plot(here["n_links"], [row] * len(here), ls="", marker="o", color=COLOURS[preset], ms=6, mec="white")
        _rows(ax, order if i == 0 else [""] * len(order))
        ax.set_xscale("symlog", linthresh=10)
        ax.set_xlim(left=0)
        ax.set_xlabel("predicted links")
        ax.set_title(f"preset {preset}", fontsize=10, weight="normal", loc="left")
    keys = [_mark("o", INK), _mark("|", CHANCE)]
    finish(figure, f"Links of {subject.source} to each other type", keys, ["a training", "random graphs, same degrees"])
    return array(panels)


def _rows(ax: Axes, names: Sequence[str]) -> None:
    ax.set_ylim(len(names) - 0.4, -0.6)
    _text.row_labels(ax, list(names), room=130, pitch=72 * _ROW)
    ax.grid(axis="x", color="#EDEDED", lw=0.6)
    ax.set_axisbelow(True)


def _mark(marker: str, colour: str) -> Line2D:
    return Line2D(
        [], [], ls="", marker=marker, color=colour, ms=9 if marker == "*" else 7, mew=2 if marker == "|" else 0
    )


def drawn(tables: Mapping[str, pd.DataFrame], subject: Subject) -> dict[str, tuple[str, Any]]:
    """Return name to caption and drawing, of what there is to draw."""
    found: dict[str, tuple[str, Any]] = {}
    if subject.label_key is not None and len(tables["overlap"]):
        found["overlap"] = (
            "Share of the cells whose cluster is matched to their type: each training, beside permuted labels",
            lambda: overlap(tables["overlap"], subject),
        )
    if len(tables["conversions"]):
        found["conversions"] = (
            "Conversions by each preset and training; the grey bars are the middle 95 % of random directions",
            lambda: conversions(tables["conversions"], subject),
        )
    if len(tables["table2_runs"]):
        found["table2"] = (
            "Table 2 as a figure: k-means and mixtures are told the number of types, DBSCAN is not",
            lambda: table_2(tables["table2_runs"], subject),
        )
    if len(tables["links"]) and subject.source is not None:
        found["links"] = (
            "Predicted links of the progenitors to every other type, beside graphs with the same degrees",
            lambda: links(tables["links"], subject),
        )
    return found
