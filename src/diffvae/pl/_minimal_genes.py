"""Minimal gene sets that turn a cell of one type into another: how many genes, and which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, ScalarFormatter

from diffvae._core.validate import Rule, Whole, check
from diffvae.pl import _data, _style, _text

if TYPE_CHECKING:
    from diffvae.tl import MinimalGenes

_DIRECTIONS = {"up": "#D55E00", "down": "#0072B2"}
_ROW = 14.0  # points
RULES: dict[str, Rule] = {"n_genes": Whole(1)}
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1.5, 1, 1.5)))
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)


@_style.plotted
def gene_counts(
    minimal: MinimalGenes | Mapping[str, MinimalGenes],
    *,
    ax: Axes | None = None,
    title: str | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes:
    """Draw the cumulative share of converted cells whose call flips against the number of genes changed.

    Parameters
    ----------
    minimal
        From ``diffvae.tl.minimal_genes``, or a dictionary name -> result with a curve each.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title that says what is drawn.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    The Axes. A dot marks the median number of genes of the cells that flip. The legend gives baselines: the share of
    the flipped cells that also flip with equally many differentially expressed genes, or random genes.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> minimal = dv.tl.minimal_genes(
    ...     adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_random=5, progress=False
    ... )
    >>> ax = dv.pl.gene_counts(minimal)
    """
    several = minimal if isinstance(minimal, Mapping) else {"": minimal}
    if not several:
        raise ValueError("minimal is empty; pass at least one result of diffvae.tl.minimal_genes.")
    for result in several.values():
        _check(result)
    several = {name or str(m.params["target"]): m for name, m in several.items()}
    labels = [_label(name, m, _style.slot(ax, 0)[0] - 40) for name, m in several.items()]
    if not any(m.counts["flipped"] for m in several.values()):
        ax = _style.axes_or_new(ax, 1.4)
        _write(ax, "\n".join(dict.fromkeys(" ".join(_why_empty(m)) for m in several.values())))
        _text.title(ax, title if title is not None else _caption(several))
        return ax
    ax = _style.axes_or_new(ax, 6)
    curves = [m.curve() for m in several.values()]
    numbers = np.concatenate([c["n_genes"].to_numpy(float) for c in curves])
    wide = bool(numbers.max() > 20 * numbers.min())
    right = 1.05 * numbers.max()
    keys = []
    for i, (curve, result) in enumerate(zip(curves, several.values(), strict=True)):
        colour, line = _style.CATEGORIES[i % len(_style.CATEGORIES)], _LINES[i % len(_LINES)]
        keys.append(Line2D([], [], color=colour, ls=line))
        if curve.empty:
            continue
        # The curve ends below 100 % if no set of genes flips some cells.
        x = [curve["n_genes"].iloc[0], *curve["n_genes"], right]
        ax.plot(x, [0.0, *curve["share"], curve["share"].iloc[-1]], drawstyle="steps-post", color=colour, ls=line)
        middle = 0.5 * curve["share"].iloc[-1]
        ax.plot([_median(result)], [middle], ls="", marker="o", color=colour, mec="white", mew=1.0, ms=8, zorder=4)
    ax.set(xlim=(max(1.0, 0.9 * numbers.min()) if wide else 0, right), ylim=(0, 1.02))
    if wide:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(_TICKS))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.set(xlabel="genes changed" + " (logarithmic)" * wide, ylabel="converted cells that flip")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _text.legend_below(ax, keys, labels, ncols=1)
    _text.title(ax, title if title is not None else _caption(several))
    _style.fit_height(ax, 200)
    return ax


@_style.plotted
def minimal_genes(
    minimal: MinimalGenes,
    *,
    n_genes: int = 20,
    ax: Axes | None = None,
    title: str | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes:
    """Draw the genes in most minimal sets: share of the cells, direction, mean change, and the share by chance.

    Parameters
    ----------
    minimal
        From ``diffvae.tl.minimal_genes``.
    n_genes
        Largest number of genes.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title that says what is drawn.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    The Axes. Genes that change much in many cells come first. A grey tick is the share of sets with the gene under
    random directions. A star after the change marks a share above that (q < 0.05). Changes are in log-normalised units
    if the scaling of the model is known, otherwise on the scale of the training layer.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> minimal = dv.tl.minimal_genes(
    ...     adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_random=5, progress=False
    ... )
    >>> ax = dv.pl.minimal_genes(minimal, n_genes=10)
    """
    _check(minimal)
    check(RULES, n_genes=n_genes)
    table = minimal.genes.head(n_genes)
    ax = _style.axes_or_new(ax, _ROW * len(table) / 72 + 4 if len(table) else 1.4)
    source, target = minimal.params["source"], minimal.params["target"]
    if table.empty:
        _write(ax, " ".join(_why_empty(minimal)))
        _text.title(ax, title if title is not None else f"No genes turn {source} into {target}")
        return ax
    ys = np.arange(len(table))
    up = (table["direction"] == "up").to_numpy()
    ax.barh(ys, table["share"], height=0.72, color=[_DIRECTIONS["up" if u else "down"] for u in up])
    for colour, thick in (("white", 4), ("#8C8C8C", 2)):
        ax.plot(
            table["null_share"], ys, ls="", marker="|", ms=0.9 * _ROW, mew=thick, color=colour, zorder=3, clip_on=False
        )
    logged = "mean_log_change" in table
    changes = table["mean_log_change" if logged else "mean_change"].to_numpy(float)
    for y, (change, q) in enumerate(zip(changes, table["q_value"], strict=True)):
        written = f"{change:+.2f}".replace("-", "−") + (" *" if q < _style.MAX_Q else "")
        ax.text(1.015, y, written, va="center", fontsize=_style.TEXT, transform=ax.get_yaxis_transform())
    head = "mean log\nchange" if logged else "mean\nchange"
    ax.text(1.015, 1.0, head, va="bottom", fontsize=_style.TEXT, linespacing=1.0, transform=ax.transAxes)
    _text.row_labels(ax, table["gene"].astype(str).tolist(), pitch=_ROW)
    names = [d for d in _DIRECTIONS if (table["direction"] == d).any()]
    keys: list[Artist] = [Patch(color=_DIRECTIONS[d]) for d in names]
    keys.append(Line2D([], [], ls="", marker="|", ms=11, mew=2, color="#8C8C8C"))
    names.append("random directions")
    label = "cells whose set has the gene"
    if (table["q_value"] < _style.MAX_Q).any():
        keys.append(Line2D([], [], ls="", marker="$*$", ms=5, color=_style.INK))
        names.append(f"more than these (q < {_style.MAX_Q:g})")
    else:
        label += f"\nno gene is significantly more frequent than under random directions (q < {_style.MAX_Q:g})"
    ax.set(xlim=(0, 1), ylim=(len(table) - 0.45, -0.55))
    ax.set_xlabel(label)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.spines["left"].set_visible(False)
    _text.legend_below(ax, keys, names)
    caption = f"Genes that turn {source} into {target}, in {_data.cells(minimal.counts['flipped'])}"
    _text.title(ax, title if title is not None else caption, pad=26)
    _style.fit_height(ax, _ROW * len(table))
    return ax


def _check(minimal: object) -> None:
    if not hasattr(minimal, "baselines"):
        raise ValueError(f"minimal is a {type(minimal).__name__}; pass the result of diffvae.tl.minimal_genes.")


def _median(minimal: MinimalGenes) -> float:
    """Return the median size of the sets, as in tables and summary."""
    return float(minimal.cells["n_genes"].median())


def _why_empty(minimal: MinimalGenes) -> tuple[str, str]:
    """Return why there are no sets, and what to do."""
    p, c = minimal.params, minimal.counts
    if c["converted"]:
        why = f"{_data.cells(c['converted'])} convert to {p['target']}, but no set of genes flips any of them."
        return why, "Let more genes change, or try a larger step."
    step = f"{p['n_sd']:g} sd" if "n_sd" in p else f"step {p['step']:g}"
    return f"No cell of {p['source']} converts to {p['target']} at {step}.", "Try another step, or a nearer source."


def _write(ax: Axes, sentence: str) -> None:
    """Write a sentence into otherwise empty Axes."""
    ax.set_axis_off()
    room = _style.slot(ax, 0)[0] - 20
    lines = "\n".join(_text.wrap(line, room, lines=3, size=10) for line in sentence.split("\n"))
    ax.text(0, 0.95, _text.plain(lines), va="top", fontsize=10, transform=ax.transAxes)


def _caption(several: Mapping[str, MinimalGenes]) -> str:
    sources = dict.fromkeys(str(m.params["source"]) for m in several.values())
    source = next(iter(sources)) if len(sources) == 1 else "a cell"
    if len(several) > 1:
        return f"How many genes turn {source} into other types"
    (minimal,) = several.values()
    target, c = minimal.params["target"], minimal.counts
    if not c["flipped"]:
        return f"No genes turn {source} into {target}"
    n = _median(minimal)
    return f"A median of {n:g} gene{'s' * (n != 1)} turn{'s' * (n == 1)} a converted {source} cell into {target}"


def _label(name: str, minimal: MinimalGenes, room: float) -> str:
    """Return a legend entry: the flipped cells, the median number of genes, and the baselines."""
    c = minimal.counts
    if not c["flipped"]:
        return _text.wrap(f"{name}: {_why_empty(minimal)[0]}", room, lines=2)
    first = f"{name}: {c['flipped']:,} of {c['converted']:,} cells flip"
    first += f", median {_median(minimal):g} gene{'s' * (_median(minimal) != 1)}"
    flipped = minimal.baselines.set_index("genes")["flipped"]
    kinds = [kind for kind in ("differentially expressed", "random") if kind in flipped]
    second = "with equally many other genes: " + ", ".join(f"{kind} {_style.share(flipped[kind])}" for kind in kinds)
    return _text.wrap(first, room, lines=2) + ("\n" + _text.wrap(second, room, lines=2) if kinds else "")
