"""Perturbations: which cells convert, at which step, and between which types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter

from diffvae import _keys
from diffvae._core.validate import Optional, Rule, Whole, check
from diffvae._errors import DataError
from diffvae.pl import _data, _style, _text

if TYPE_CHECKING:
    from diffvae.tl import Perturbation

BEYOND_CHANCE = 0.1
"""Largest q-value of a star. Random directions lead to where cells are, so that one in ten may lead to the target."""
RULES: dict[str, Rule] = {"ncols": Optional(Whole(1))}
# Converted cells stand out, also for colour-blind readers.
_CONVERTS, _STAYS, _REST = "#D55E00", "#7BA3CC", "#DADADA"
_WAY, _LEFT = "#4D4D4D", "#F0B78C"
"""Arrow from the old to the new place of converted cells, and their old places."""
METHODS = {
    "mean": ("to the target's latent mean", _style.CATEGORIES[5], "-"),
    "shift": ("along the target's dimensions (paper)", _style.CATEGORIES[0], (0, (5, 1.5))),
    "ot": ("to matched cells of the target", _style.CATEGORIES[3], (0, (3, 1, 1, 1, 1, 1))),
    "anchored": ("least change for the classifier", _style.CATEGORIES[1], (0, (8, 2))),
    "expression_mean": ("by the mean expressions, no model", _style.CATEGORIES[2], (0, (1, 1))),
    "none": ("decoded only, no step", _style.INK, (0, (4, 1.5, 1, 1.5))),
}
"""Words, colour and line of each method."""
_THICK, _THIN = 2.6, 1.2
Places = dict[tuple[str, float], np.ndarray]
"""Target and step to the new places of the converted cells."""
_UNITS = {"step": "share of the distance to the target", "n_sd": "shift (sd)"}


@_style.plotted
def conversions(
    perturbation: Perturbation,
    *,
    target: str | Sequence[str] | None = None,
    step: float | Sequence[float] | None = None,
    source: str | None = None,
    ncols: int | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> np.ndarray:
    """Draw which cells of a type convert, with a map per target (Figure 3 of the paper).

    Parameters
    ----------
    perturbation
        From ``diffvae.tl.perturb``; its cells need ``obsm["X_diffvae_tsne"]``, from ``diffvae.tl.tsne``.
    target
        One target or several; None for all.
    step
        One step or several, each with a map. None: for each target the smallest step that reaches it, or comes nearest
        (:meth:`diffvae.tl.Perturbation.shown_step`).
    source
        Type of the moved cells; None for the first.
    ncols
        Number of columns. None: one per step, or up to three if there is one step.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    Array of Axes, targets x steps, of a new figure; save it with ``diffvae.pl.save(axes[0, 0], "path")``. Titles give
    the number of converted cells and, as "chance", the share converted by random directions of equal change. Converted
    cells are drawn where their changed expression belongs on the map, and in a pale colour where they were; an arrow
    joins the means of the old and the new places. If the map was not made from the latent representation, they are
    drawn where they were.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> dv.tl.embed(adata, model)
    >>> dv.tl.tsne(adata, n_iter=50)
    >>> perturbation = dv.tl.perturb(
    ...     adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_random=5, progress=False
    ... )
    >>> axes = dv.pl.conversions(perturbation)
    """
    check(RULES, ncols=ncols)
    source, targets = _pairs(perturbation, source, target)
    given = None if step is None else [perturbation.steps[perturbation.index(float(v))] for v in np.atleast_1d(step)]
    pairs = [(t, s) for t in targets for s in given or [perturbation.shown_step(t, source=source)]]
    n_steps = len(pairs) // len(targets)
    if ncols is None:  # with one step at most three columns, in rows of about equal length
        ncols = n_steps if n_steps > 1 else -(-len(targets) // -(-len(targets) // 3))
    places = _places(perturbation, source, pairs)
    figure, panels = _style.new_figure(len(pairs), ncols, 0.92 * _style.WIDTH / ncols + 0.4)
    missed = [given is None and perturbation.reaching_step(t, source=source) is None for t, _ in pairs]
    for i, (panel, (t, size)) in enumerate(zip(panels, pairs, strict=True)):
        _cells(panel, perturbation, source, t, size, places.get((t, size)))
        if i != ncols * ((len(pairs) - 1) // ncols):  # only the lower left panel has axis names
            panel.set(xlabel="", ylabel="")
        head = ", not reached:" if missed[i] else f", {_size(perturbation, size)}:"
        tail = _count(perturbation, source, t, size)
        room = _style.slot(panel, 0)[0] - 8
        parts = [_text.shorten(t, room - _text.width(head, 10), 10) + head, tail]
        gap = " " if _text.width(" ".join(parts), 10) <= room else "\n"
        _style.panel_title(panel, gap.join(parts))
    caption = f"{source}: cells converted by each step"
    if given is None:
        caption = f"{source}: cells converted by the smallest step that reaches each type"
        caption += ", or comes nearest" * any(missed)
        if all(missed):
            caption = f"{source}: no type is reached by steps up to {_of(perturbation, perturbation.steps[-1])}"
    if not any(_row(perturbation, source, t, size)["n_converted"] for t, size in pairs):
        caption = f"{source}: no step converts any cell"
    keys, names = _legend(bool(places))
    _style.finish(figure, caption, keys, names)
    return _style.array(panels).reshape(len(targets), n_steps)


@_style.plotted
def converted(
    perturbation: Perturbation,
    target: str,
    step: float | None = None,
    *,
    source: str | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes:
    """Draw which cells of a type are converted by one step, and where they go on the map of all cells.

    Parameters
    ----------
    perturbation
        From ``diffvae.tl.perturb``; its cells need ``obsm["X_diffvae_tsne"]``, from ``diffvae.tl.tsne``.
    target
        Target type.
    step
        Step; None for the smallest that reaches the target, or comes nearest.
    source
        Type of the moved cells; None for the first.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title that says what is drawn.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    The Axes. Converted cells are drawn at their new places, as in :func:`conversions`.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> dv.tl.embed(adata, model)
    >>> dv.tl.tsne(adata, n_iter=50)
    >>> perturbation = dv.tl.perturb(
    ...     adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_random=5, progress=False
    ... )
    >>> ax = dv.pl.converted(perturbation, "CD14+ Monocyte")
    """
    source, _ = _pairs(perturbation, source, target)
    step = (
        perturbation.shown_step(target, source=source) if step is None else perturbation.steps[perturbation.index(step)]
    )
    row = _row(perturbation, source, target, step)
    n, most = int(row["n_converted"]), int(row["n_cells"])
    rest = perturbation.adata.n_obs - most
    ax = _style.axes_or_new(ax, 4.6)
    places = _places(perturbation, source, [(target, step)])
    _cells(ax, perturbation, source, target, step, places.get((target, step)))
    keys, names = _legend(bool(places), [n, most - n, rest])
    _text.key_legend(ax, keys, names)
    caption = f"{source} to {target}, {_size(perturbation, step)}: {_count(perturbation, source, target, step)}"
    _text.title(ax, title if title is not None else caption)
    return ax


@_style.plotted
def conversion_curves(
    perturbation: Perturbation,
    *,
    targets: str | Sequence[str] | None = None,
    source: str | None = None,
    ncols: int = 2,
    show: bool | None = None,
    save: _style.File | None = None,
) -> np.ndarray:
    """Draw the share of converted cells against the size of the step: a panel per target, a line per method.

    Parameters
    ----------
    perturbation
        From ``diffvae.tl.perturb``.
    targets
        One target or several; None for all.
    source
        Type of the moved cells; None for the first.
    ncols
        Number of columns.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    Array of Axes, one per target, of a new figure; save it with ``diffvae.pl.save(axes[0], "path")``. The first method
    has a thick line by the classifier, and a thin one with rings by the judge, which is a second opinion of another
    kind. The grey band holds 95 % of the random directions of equal change, and the dashed grey line is their mean. A
    star marks a step at which the first method converts more cells than they do (q at most 0.1).

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> perturbation = dv.tl.perturb(
    ...     adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_random=5, progress=False
    ... )
    >>> dv.pl.conversion_curves(perturbation).size
    1
    """
    check(RULES, ncols=ncols)
    source, wanted = _pairs(perturbation, source, targets)
    ncols = min(2 if ncols is None else ncols, len(wanted))
    figure, panels = _style.new_figure(len(wanted), ncols, 1.95)
    table = perturbation.table[perturbation.table["source"] == source]
    shown = table[table["target"].isin(wanted)]
    top = float(np.nanmax(shown[["converted", "judged", "null_high"]].to_numpy(float), initial=0.05))
    for i, (panel, target) in enumerate(zip(panels, wanted, strict=True)):
        _curves(panel, shown[shown["target"] == target], perturbation.methods, perturbation.unit)
        panel.set(ylim=(-0.03 * top, min(1.1 * top, 1.04)))
        panel.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _style.panel_title(panel, _text.shorten(target, _style.slot(panel, 0)[0] - 50, 10))
        if i + ncols >= len(wanted):
            panel.set_xlabel(_UNITS[perturbation.unit])
        if i % ncols == 0:
            panel.set_ylabel("cells converted")
    first, *others = perturbation.methods
    words, colour, line = METHODS[first]
    keys: list[Line2D | tuple[Patch, Line2D]] = [
        Line2D([], [], color=colour, ls=line, lw=_THICK),
        Line2D([], [], color=colour, lw=_THIN, marker="o", mfc="white", ms=4),
        *(Line2D([], [], color=METHODS[m][1], ls=METHODS[m][2], lw=_THIN) for m in others),
    ]
    names = [words, "the same, by the judge", *(METHODS[m][0] for m in others)]
    if shown["null_mean"].notna().any():
        keys.append((Patch(color=_REST), Line2D([], [], color="#777777", ls="--", lw=1.2)))
        keys.append(Line2D([], [], ls="", marker="*", color=_style.INK, ms=9, mew=0))
        names += ["random directions: 95% and mean", f"more than chance (q ≤ {BEYOND_CHANCE:g})"]
    caption = "cells converted as the step grows"
    if not shown["n_converted"].any():
        caption = "no step converts any cell"
    _style.finish(figure, f"{source}: {caption}", keys, names)
    return _style.array(panels)


@_style.plotted
def plasticity(
    perturbation: Perturbation,
    *,
    change: float | None = None,
    step: float | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    show: bool | None = None,
    save: _style.File | None = None,
) -> Axes:
    """Draw a heat map of sources x targets: the percentage of cells converted beyond chance.

    Parameters
    ----------
    perturbation
        From ``diffvae.tl.perturb``, preferably with several sources.
    change
        Length of the change of expression, the same for all pairs; None for the median over all pairs and steps
        (:meth:`diffvae.tl.Perturbation.plasticity`).
    step
        A step instead: each pair at this share of its own distance.
    ax, title
        Axes to draw into, and their title. None: a new figure 6 inches wide, and a title that says what is drawn.
    show, save
        As in ``diffvae.pl.tsne``.

    Returns
    -------
    The Axes. A star marks a target that some step reaches (:meth:`diffvae.tl.Perturbation.reaching_step`). Numbers are
    left out if they do not fit.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> perturbation = dv.tl.perturb(
    ...     adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_random=5, progress=False
    ... )
    >>> [label.get_text() for label in dv.pl.plasticity(perturbation).get_yticklabels()]
    ['CD34+']
    """
    _check(perturbation)
    pairs = perturbation.plasticity(change, step=step)
    frame = pairs.pivot(index="source", columns="target", values="excess_agreed")
    frame = frame.reindex(perturbation.sources, columns=perturbation.targets)
    # Types that are sources and targets have the same order in both, which puts same-type pairs on the diagonal.
    frame = frame[[s for s in frame.index if s in frame] + [t for t in frame if t not in frame.index]]
    reached = pairs.assign(reached=pairs["reached"].astype(float)).pivot(
        index="source", columns="target", values="reached"
    )
    starred = (reached.reindex(frame.index, columns=frame.columns) == 1).to_numpy()
    values = frame.to_numpy(float)
    sources, targets = list(map(str, frame.index)), list(map(str, frame.columns))
    ax, height = _style.matrix_axes(ax, len(sources))
    _text.row_labels(ax, sources, pitch=height / len(sources))
    ax.set(ylabel="source")
    _text.column_labels(ax, targets)
    across, down = _style.axes_size(ax)[0] / len(targets), height / len(sources)
    most = float(np.nanmax(np.abs(values), initial=0.05))
    image = ax.imshow(values, vmin=-most, vmax=most, cmap=_style.DIVERGING, aspect="auto")
    per_cent = np.char.mod("%d", np.round(100 * np.nan_to_num(values)).astype(int))
    written = np.char.add(np.char.replace(per_cent, "-", "−"), np.where(starred, "*", ""))
    numbers = max(_text.width(t, weight="bold") for t in written.flat) <= across - 2 and down >= _style.TEXT * 1.2
    for (y, x), value in np.ndenumerate(values):
        if np.isnan(value):
            box = Rectangle(
                (x - 0.5, y - 0.5), 1, 1, facecolor=_style.GREY, edgecolor="white", hatch="////", linewidth=0
            )
            ax.add_patch(box)
        elif text := str(written[y, x] if numbers else "*" * int(starred[y, x])):
            red, green, blue, _ = image.to_rgba(value)
            weight = "bold" if starred[y, x] else "normal"
            colour = _style.ink_on((red, green, blue))
            ax.text(x, y, text, color=colour, ha="center", va="center", weight=weight, in_layout=False)
    key = "* reached by some step" if starred.any() else "no step reaches a target"
    key += "   hatched: not tried" * bool(np.isnan(values).any())
    ax.set_xlabel(f"target\n{key}", linespacing=1.3)
    ax.spines[:].set_visible(False)
    _style.colour_bar(ax, image, "cells converted beyond chance", percent=True)
    by = f"a change of expression of {pairs['change'].iloc[0]:.3g}" if step is None else _of(perturbation, step)
    caption = f"Cells converted beyond chance by {by}, in %"
    if not (values > 0).any():
        caption = f"No cells converted beyond chance by {by}"
    _text.title(ax, title if title is not None else caption)
    _style.fit_height(ax, height)
    return ax


def _check(perturbation: object) -> None:
    if not hasattr(perturbation, "trajectories"):
        raise ValueError(f"perturbation is a {type(perturbation).__name__}; pass the result of diffvae.tl.perturb.")


def _pairs(perturbation: Perturbation, source: str | None, target: str | Sequence[str] | None) -> tuple[str, list[str]]:
    """Return the source and its targets to draw."""
    _check(perturbation)
    source = perturbation.sources[0] if source is None else source
    tried = [b for a, b, m in perturbation.trajectories if a == source and m == perturbation.methods[0]]
    wanted = tried if target is None else [target] if isinstance(target, str) else list(target)
    for name in wanted or [perturbation.targets[0]]:
        perturbation.trajectory(name, source)  # raises if it was not tried
    return source, wanted or tried


def _size(perturbation: Perturbation, step: float) -> str:
    return f"{step:g} sd" if perturbation.unit == "n_sd" else f"step {step:g}"


def _of(perturbation: Perturbation, step: float) -> str:
    return f"{step:g} sd" if perturbation.unit == "n_sd" else f"{step:g} of the distance"


def _row(perturbation: Perturbation, source: str, target: str, step: float) -> pd.Series:
    """Return the row of the table for the first method."""
    rows = perturbation.rows(target, source)
    return rows[rows[perturbation.unit] == step].iloc[0]


def _count(perturbation: Perturbation, source: str, target: str, step: float) -> str:
    row = _row(perturbation, source, target, step)
    count = f"{int(row['n_converted']):,} of {int(row['n_cells']):,}"
    return count if np.isnan(row["null_mean"]) else f"{count} (chance {_style.share(row['null_mean'])})"


def _places(perturbation: Perturbation, source: str, pairs: Sequence[tuple[str, float]]) -> Places:
    """Return where the changed expression of the converted cells belongs on the map, by target and step.

    Returns
    -------
    Nothing if no cell converts, or if the map was not made from the latent representation as it is: then changed cells
    have no place on it.
    """
    from diffvae.tl import tsne_transform

    adata = perturbation.adata
    made = adata.uns.get(_keys.UNS, {}).get("tsne", {})
    if _keys.TSNE not in adata.obsm or made.get("use_rep") != _keys.LATENT:
        return {}
    places, changed = {}, {}
    for target, step in pairs:
        converts = perturbation.trajectory(target, source).converted(perturbation.min_probability)
        if not (at := converts[perturbation.index(step)]).any():
            continue
        if (known := perturbation._places.get((source, target, step))) is not None:
            places[target, step] = known[at]
        else:
            changed[target, step] = perturbation.changed(target, step, source=source)[0][at]
    if not changed:
        return places
    try:  # all at once, because changed cells do not affect one another
        xy = tsne_transform(adata, np.concatenate(list(changed.values())), n_jobs=1)  # threads mostly wait
    except DataError:  # the map is of another representation
        return {}
    ends = np.cumsum([len(z) for z in changed.values()])[:-1]
    return places | dict(zip(changed, np.split(xy, ends), strict=True))


def _cells(
    ax: Axes, perturbation: Perturbation, source: str, target: str, step: float, new: np.ndarray | None = None
) -> None:
    """Draw the map: other types first, then cells that do not convert, then those that do, at their new places."""
    xy = _data.positions(perturbation.adata, _keys.TSNE)
    trajectory = perturbation.trajectory(target, source)
    converts = trajectory.converted(perturbation.min_probability)[perturbation.index(step)]
    rest = np.delete(xy, trajectory.rows, axis=0)
    stays, converted = xy[trajectory.rows[~converts]], xy[trajectory.rows[converts]]
    area = float(np.clip(0.33 * min(_style.slot(ax, 4.6)) ** 2 / len(xy), 0.5, 40))
    # A single converted cell must be visible on a small map, too.
    layers = [(rest, _REST, area), (stays, _STAYS, max(1.2 * area, 3)), (converted, _CONVERTS, max(1.5 * area, 7))]
    if new is not None:
        layers[1:] = [(converted, _LEFT, max(1.2 * area, 3)), layers[1], (new, _CONVERTS, layers[2][2])]
    for places, colour, size in layers:
        ax.scatter(places[:, 0], places[:, 1], c=colour, s=size, linewidths=0, rasterized=True)
    if new is not None:
        way = FancyArrowPatch(
            converted.mean(0), new.mean(0), arrowstyle="-|>", mutation_scale=9, color=_WAY, lw=1.2, shrinkA=0,
            shrinkB=0, zorder=3, path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
        ax.add_artist(way)  # which leaves the limits of the map as they are
    _text.map_axes(ax, _keys.TSNE)


def _curves(ax: Axes, table: pd.DataFrame, methods: Sequence[str], unit: str) -> None:
    """Draw one target: the random directions, a line per method, and for the first the judge and stars."""
    for method in reversed(methods):  # the first on top
        rows = table[table["method"] == method].sort_values(unit)
        _, colour, line = METHODS[method]
        width = _THICK if method == methods[0] else _THIN
        ax.plot(rows[unit], rows["converted"], color=colour, ls=line, lw=width, zorder=3)
    null = rows[rows["null_mean"].notna()]
    if len(null):
        ax.fill_between(null[unit], null["null_low"], null["null_high"], color=_REST, linewidth=0, zorder=1)
        ax.plot(null[unit], null["null_mean"], color="#777777", ls="--", lw=1.2, zorder=2)
    ax.plot(rows[unit], rows["judged"], color=colour, lw=_THIN, marker="o", mfc="white", ms=4, zorder=3.5)
    sure = rows[rows["q_value"] <= BEYOND_CHANCE]
    ax.plot(
        sure[unit], sure["converted"], ls="", marker="*", color=colour, ms=10, mec="white", mew=0.5, zorder=4,
        clip_on=False, in_layout=False,
    )  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _legend(placed: bool, counts: Sequence[int] | None = None) -> tuple[list[Line2D], list[str]]:
    """Return keys and names of a map; if cells are placed, with their old places and the arrow."""
    named = {"converts" + ": new place" * placed: _CONVERTS, "doesn't convert": _STAYS, "other types": _REST}
    keys, names = [_dot(colour) for colour in named.values()], list(named)
    if counts is not None:
        names = [f"{name} ({n:,})" for name, n in zip(names, counts, strict=True)]
    if placed:
        keys.insert(1, _dot(_LEFT))
        names.insert(1, "converts: old place")
        keys.append(Line2D([], [], ls="", marker=r"$\rightarrow$", color=_WAY, ms=12, mew=0))
        names.append("mean way of the converted cells")
    return keys, names


def _dot(colour: str) -> Line2D:
    return Line2D([], [], ls="", marker="o", color=colour, ms=7)
