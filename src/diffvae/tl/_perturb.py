"""Do cells convert into another type when they move through the latent space towards it?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from diffvae import _random
from diffvae._core import genes as _genes
from diffvae._core.anndata import results
from diffvae._core.runtime import in_one_thread, progress_bar, torch_in_one_thread
from diffvae._core.validate import Choice, Number, Rule, Whole, check
from diffvae.tl._change import lengths
from diffvae.tl._changed_cells import changed_adata, place_together, placer_of
from diffvae.tl._conversions import Mover, Null, Trajectory, agreed
from diffvae.tl._directions import (
    COMPARED,
    METHODS,
    Cells,
    directions,
    enriched_dimensions,
    one_or_more,
    pairs_of,
    read_cells,
)
from diffvae.tl._judge import Judge
from diffvae.tl._plasticity import plasticity_table
from diffvae.tl._regulators import symbols, transcription_factors

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model


MAX_Q = 0.05
"""Largest q-value at which a dimension is enriched in a type."""
STEPS = (0.25, 0.5, 0.75, 1.0, 1.5)
"""Shares of the distance between two types by which cells are moved."""
HALF = 0.5
"""Share of the cells that must convert for a step to reach a type."""
METHOD_GENES = Choice("effect", "paper")
SD_FROM = Choice("all", "group")
RULES: dict[str, Rule] = {
    "n_dims": Whole(1),
    "sd_from": SD_FROM,
    "direction": Choice("signed", "plus"),
    "method": Choice(*METHODS),
    "min_probability": Number("[0, 1)"),
    "n_random": Whole(1),
    "method_genes": METHOD_GENES,
}


@dataclass(frozen=True)
class Perturbation:
    """Result of :func:`diffvae.tl.perturb`.

    Attributes
    ----------
    table
        One row per source, target, method and step. ``step`` is the length of the change of expression, as a share of
        ``distance``, that between the mean expressions of the two types on log-normalised values; ``n_sd`` the paper's
        lambda. One of them is :attr:`unit` and the same for all cells, of the other there is the median. ``n_cells``,
        ``n_converted``, ``converted`` (share, by the classifier), ``converted_at_0``; ``judged`` and ``nearest``
        (shares by the judge's regression and by the nearest real cells), ``judged_at_0``; ``null_mean``, ``null_low``,
        ``null_high`` (95 % of the random directions), ``null_judged``; ``excess`` (``converted`` minus the larger of
        ``converted_at_0`` and ``null_mean``), ``excess_agreed`` (share that the step converts of the cells that chance
        does not, the median of the three judges), ``p_value`` (one-sided, against the random directions), ``q_value``
        (Benjamini-Hochberg over sources and targets), ``mean_probability``, ``n_dims``. Random directions lead to where
        cells are, so that one in ten of them may lead to the target: then no p-value is small, however many cells
        convert.
    trajectories
        (source, target, method) to the cells along that direction.
    nulls
        Source to its cells moved along random directions.
    adata, model, classifier, judge, groupby
        The arguments of :func:`diffvae.tl.perturb`, and the judge.
    data
        The cells as the models see them.
    unit
        ``"step"`` or ``"n_sd"``: the unit of :attr:`steps`.
    steps
        The steps, 0 among them.
    min_probability
        Least probability of a conversion.
    methods
        The methods; the first is the default of the methods below.

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
    >>> perturbation.sources, perturbation.targets
    (('CD34+',), ('CD14+ Monocyte',))
    """

    table: pd.DataFrame
    trajectories: dict[tuple[str, str, str], Trajectory]
    nulls: dict[str, Null]
    adata: AnnData
    model: Model
    classifier: CellStateClassifier
    judge: Judge
    data: Cells
    groupby: str
    unit: str
    steps: tuple[float, ...]
    min_probability: float
    methods: tuple[str, ...]

    def __repr__(self) -> str:
        pairs = {(a, b) for a, b, _ in self.trajectories}
        return f"Perturbation({len(pairs)} pairs of types, {self.unit}={self.steps}, methods={self.methods})"

    @property
    def sources(self) -> tuple[str, ...]:
        """The source types."""
        return tuple(dict.fromkeys(a for a, _, _ in self.trajectories))

    @property
    def targets(self) -> tuple[str, ...]:
        """The target types."""
        return tuple(dict.fromkeys(b for _, b, _ in self.trajectories))

    def index(self, step: float) -> int:
        """Return the index of a step in :attr:`steps`."""
        if float(step) not in self.steps:
            raise ValueError(f"step is {step}; this perturbation has {', '.join(f'{v:g}' for v in self.steps)}.")
        return self.steps.index(float(step))

    def trajectory(self, target: str, source: str | None = None, method: str | None = None) -> Trajectory:
        """Return the cells of a source on the way to a target; the first source and method by default."""
        key = (self.sources[0] if source is None else source, target, self.methods[0] if method is None else method)
        if key not in self.trajectories:
            pairs = ", ".join(f"{a} to {b}" for a, b, m in self.trajectories if m == self.methods[0])
            raise ValueError(f"{key[0]} to {key[1]} by {key[2]!r} was not tried; there are: {pairs}.")
        return self.trajectories[key]

    def rows(self, target: str, source: str | None = None, method: str | None = None) -> pd.DataFrame:
        """Return the rows of :attr:`table` of one trajectory, by step."""
        source, method = source or self.sources[0], method or self.methods[0]
        table = self.table
        return table[(table["source"] == source) & (table["target"] == target) & (table["method"] == method)]

    def reaching_step(self, target: str, *, source: str | None = None, method: str | None = None) -> float | None:
        """Return the smallest step at which half of the cells convert beyond chance; None if none does.

        Two of the three judges (classifier, regression, nearest real cells) must say so. Cells that convert under
        random directions, or without a step, count neither among the converted nor among all: ``excess_agreed``.
        """
        rows = self.rows(target, source, method)
        half = (rows[self.unit] > 0) & (rows["excess_agreed"] >= HALF)
        return float(rows.loc[half, self.unit].min()) if half.any() else None

    def shown_step(self, target: str, *, source: str | None = None, method: str | None = None) -> float:
        """Return the smallest step that reaches the target; if none does, the one that comes nearest to it."""
        reaching = self.reaching_step(target, source=source, method=method)
        if reaching is not None:
            return reaching
        rows = self.rows(target, source, method)
        rows = rows[rows[self.unit] > 0]
        return float(rows.loc[rows["excess_agreed"] == rows["excess_agreed"].max(), self.unit].max())

    def gene_step(self, target: str, *, source: str | None = None, method: str | None = None) -> float:
        """Return the step at which the fewest genes are searched: the largest that converts as many cells as any.

        As many is 95 % of the most, by the classifier. A larger step changes each gene more, so that fewer are needed;
        too large a step leads past the target.
        """
        rows = self.rows(target, source, method)
        rows = rows[rows[self.unit] > 0]
        return float(rows.loc[rows["converted"] >= 0.95 * rows["converted"].max(), self.unit].max())

    @cached_property
    def _places(self) -> dict[tuple[str, str, float], np.ndarray]:
        """Source, target and step to the places of the moved cells on the map, while figures and files share them."""
        return {}

    @cached_property
    def _is_tf(self) -> np.ndarray:
        """Which genes of the model are transcription factors."""
        return transcription_factors(symbols(self.model.gene_names, _genes.table(self.adata)))

    @property
    def mover(self) -> Mover:
        """What moves cells, decodes them, and asks classifier and judge."""
        return Mover(self.model, self.classifier, self.judge, self.data)

    def plasticity(
        self, change: float | None = None, *, step: float | None = None, method: str | None = None
    ) -> pd.DataFrame:
        """Return the plasticity map: the share of each source that converts beyond chance to each target.

        Types lie at different distances, so that equal steps are unequal changes. All pairs are therefore compared at
        one change of expression, with linear interpolation between the steps.

        Parameters
        ----------
        change
            Length of the change on log-normalised values; None for the median over all pairs and steps above 0.
        step
            A step instead: each pair at this share of its own distance.
        method
            None for the first.

        Returns
        -------
        One row per source and target: ``change``, ``distance``, ``excess_agreed`` at this change, ``within`` (whether
        the steps go so far; if not, the share is that of the largest), ``reached`` and ``reaching_step`` (or
        ``reaching_n_sd``), as :meth:`reaching_step` has it.
        """
        return plasticity_table(self, change, step, method)

    def cells(self, method: str | None = None) -> pd.DataFrame:
        """Return one row per source cell and target.

        ``resistance`` is the smallest step from which the cell stays converted, or infinity. ``converted_at`` lists the
        steps at which it is converted, for example ``"0.75, 1"``. ``probability_at_0`` and ``probability_at_most`` are
        the probabilities of the target at 0 and at the largest step.
        """
        method = self.methods[0] if method is None else method
        names = self.adata.obs_names.to_numpy()
        frames = [
            pd.DataFrame(
                {
                    "cell": names[t.rows],
                    "source": a,
                    "target": b,
                    "resistance": t.resistance(self.steps, self.min_probability),
                    "converted_at": [
                        ", ".join(f"{step:g}" for step, at in zip(self.steps, column, strict=True) if at)
                        for column in t.converted(self.min_probability).T
                    ],
                    "probability_at_0": t.probability[0],
                    "probability_at_most": t.probability[-1],
                }
            )
            for (a, b, m), t in self.trajectories.items()
            if m == method
        ]
        return pd.concat(frames, ignore_index=True)

    def changed(
        self, target: str, step: float | None = None, *, source: str | None = None, method: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return latent representation and expression of the source cells after a step; None for :meth:`shown_step`.

        If expression changes beside the decoder, the representation is z + encode(y) - encode(y at step 0).
        """
        t = self.trajectory(target, source, method)
        step = self.shown_step(target, source=source, method=method) if step is None else step
        z, y = self.data.z[t.rows], self._expression(t, step)
        if not t.direction.x.any():
            return (z + t.factor[self.index(step)][:, None] * t.direction.z).astype(np.float32), y
        before = self._expression(t, 0.0)
        encoded = [self.data.encode(self.model, part, t.rows) for part in (y, before)]
        return (z + encoded[0] - encoded[1]).astype(np.float32), y

    def _expression(self, trajectory: Trajectory, step: float) -> np.ndarray:
        """Return the expression of the cells of a trajectory after a step, cells x genes."""
        factor = trajectory.factor[self.index(step)][:, None]
        return self.mover.moved(trajectory.rows, trajectory.direction, factor)[:, 0]

    def effects(
        self,
        target: str,
        step: float | None = None,
        *,
        source: str | None = None,
        method: str | None = None,
        method_genes: str = "effect",
        converted_only: bool = False,
    ) -> pd.DataFrame:
        """Return the effect of the step on each gene, largest change of log-normalised expression first.

        Parameters
        ----------
        target, step, source, method
            Which perturbation, as in :meth:`changed`.
        method_genes
            ``"effect"``: y - decode(z), with y as in :func:`perturb`. ``"paper"``: y - x, which adds the
            reconstruction error to the effect.
        converted_only
            Mean over the converted cells only.

        Returns
        -------
        One row per gene: ``gene``, ``effect`` (mean change on the scale of the training layer), ``log_effect`` (the
        same in log-normalised units, or the same if the layer has no scaling), ``agreement`` (share of the cells in
        which the change has this sign), ``direction`` ("up" or "down"), ``is_tf`` (a transcription factor).
        """
        check(RULES, method_genes=method_genes)
        t = self.trajectory(target, source, method)
        step = self.shown_step(target, source=source, method=method) if step is None else step
        y = self._expression(t, step)
        before = self.data.x[t.rows]
        if method_genes == "effect" and t.direction.decoded:
            before = self.data.decode(self.model, self.data.z[t.rows], t.rows)
        averaged = t.converted(self.min_probability)[self.index(step)] if converted_only else np.ones(len(y), bool)
        change = (y - before)[averaged]
        mean = change.mean(0) if len(change) else np.zeros(y.shape[1])
        frame = pd.DataFrame({"gene": self.model.gene_names, "effect": mean, "log_effect": mean * self.data.scale})
        frame["agreement"] = (np.sign(change) == np.sign(mean)).mean(0) if len(change) else np.nan
        frame["direction"] = np.where(mean >= 0, "up", "down")
        frame["is_tf"] = self._is_tf
        return frame.sort_values("log_effect", key=np.abs, ascending=False, kind="stable").reset_index(drop=True)

    def to_adata(
        self, target: str, step: float | None = None, *, source: str | None = None, method: str | None = None
    ) -> AnnData:
        """Return the changed cells, placed on the t-SNE map of ``adata`` if there is one.

        Parameters
        ----------
        target, step, source, method
            Which perturbation, as in :meth:`changed`.

        Returns
        -------
        AnnData with the training layer in ``layers``, log-normalised X, ``obsm["X_diffvae"]``, and in ``obs``
        ``cell``, ``source``, ``target``, the step, ``probability`` and ``converted``.
        """
        changed = self._unplaced(target, step, source=source, method=method)
        place_together([changed], placer_of(self.adata))
        return changed

    def _unplaced(
        self, target: str, step: float | None = None, *, source: str | None = None, method: str | None = None
    ) -> AnnData:
        """Return the changed cells, not yet on the map."""
        t = self.trajectory(target, source, method)
        step = self.shown_step(target, source=source, method=method) if step is None else step
        z, y = self.changed(target, step, source=source, method=method)
        at = self.index(step)
        obs = {
            "source": self.sources[0] if source is None else source,
            "target": target,
            self.unit: self.steps[at],
            "probability": t.probability[at],
            "converted": t.converted(self.min_probability)[at],
        }
        return changed_adata(self.adata, self.model, t.rows, y, z, obs)


@in_one_thread
@torch_in_one_thread
def perturb(
    adata: AnnData,
    model: Model,
    classifier: CellStateClassifier,
    *,
    source: str | Sequence[str],
    target: str | Sequence[str] | None = None,
    groupby: str | None = None,
    method: str | Sequence[str] = COMPARED,
    step: Sequence[float] = STEPS,
    n_sd: Sequence[float] | None = None,
    n_dims: int = 5,
    sd_from: str = "all",
    direction: str = "signed",
    min_probability: float = 0.5,
    n_random: int = 200,
    rng: _random.Rng = 0,
    progress: bool = True,
) -> Perturbation:
    r"""Move source cells through the latent space towards a target type, decode, and count conversions.

    .. math:: z' = z + f \delta, \qquad y = decode(z') + f r, \qquad
              |y - decode(z)| = b \, |\bar{x}_T - \bar{x}_S|, \qquad
              \mbox{converted if } T = \arg\max_c p(c \mid y) \mbox{ and } p(T \mid y) \ge p_{min}

    By default each cell moves half of the way to the latent mean of the target, :math:`\delta = (\bar{z}_T - z) / 2`,
    and r is the rest of the change of expression: at f = 1 the mean of the source is the mean of the target. A decoder
    that denoises draws similar types together, and r adds what it misses, too. The factor f is found for each cell, so
    that its expression changes by the share b of the distance between the mean expressions of the types, on
    log-normalised values. Methods and random directions are thus compared at equal change. A judge of another kind
    (multinomial logistic regression on principal components, learnt on another split, and the 15 nearest real cells)
    looks at every changed cell as well.

    Parameters
    ----------
    adata
        Cells with labels; the source cells are moved.
    model
        A trained model with a decoder.
    classifier
        Trained on the same genes and layer, with the source among its types.
    source
        A type, or several; ``"all"`` for every type.
    target
        A type, or several; None for all types but the source.
    groupby
        Key of the types in ``obs``; None for the key of the classifier.
    method
        One or more directions; the first is the default of the methods of :class:`Perturbation`. ``"mean"``: as above;
        scGen moves all cells by the difference of the latent means, without r. ``"shift"``: the paper's,
        :math:`z'_j = z_j + s_j \lambda \sigma_j` in the dimensions j that encode the target, with the sign :math:`s_j`
        that leads to it. ``"ot"``: for each cell its own :math:`\delta`, by entropic optimal transport to the target's
        cells, with r. ``"anchored"``: for each cell its own, the smallest change that the classifier calls target, held
        near the difference of the means. ``"expression_mean"``: the difference of the mean expressions added to the
        cell, without a model. ``"none"``: decode only.
    step
        The shares b; 0 is always added.
    n_sd
        The paper's lambda instead, in standard deviations (the paper: 0.5 and 1): the same factor for all cells. Other
        directions are given the length of the shift.
    n_dims
        Dimensions of the shift: those of :func:`latent_dimensions` for the target (the paper: 5).
    sd_from
        Cells whose standard deviation the shift uses: ``"all"``, or ``"group"`` for the source (as in the released
        code).
    direction
        Of the shift. ``"signed"``: towards the target. ``"plus"``: always up, as in the paper.
    min_probability
        Least calibrated probability of the target.
    n_random
        Random directions per source. The smallest possible p-value is 1 / (n_random + 1).
    rng
        Seed or generator.
    progress
        Show a bar on a terminal.

    Returns
    -------
    Perturbation. Its table is written to ``uns["diffvae"]["perturbation"]``.

    Raises
    ------
    DataError
        If a type is unknown, or model, classifier and cells do not match.

    References
    ----------
    Bica et al. 2020, Methods ("Changing cell states"); Lotfollahi et al., scGen, Nature Methods 2019.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> found = dv.tl.perturb(adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_random=10)
    >>> found.table.columns[:4].tolist()
    ['source', 'target', 'method', 'step']
    """
    methods = one_or_more(method)
    for name in methods:
        check(RULES, method=name)
    check(
        RULES, n_dims=n_dims, sd_from=sd_from, direction=direction, min_probability=min_probability, n_random=n_random
    )  # fmt: skip
    groupby = classifier.groupby if groupby is None else groupby
    unit = "step" if n_sd is None else "n_sd"
    grid = step_sizes(**{unit: step if n_sd is None else n_sd})
    cells = read_cells(adata, model, classifier, groupby)
    pairs = pairs_of(classifier, cells, source, target)
    chosen = enriched_dimensions(cells, model, n_dims)
    if methods[0] == "shift":  # not if it is only compared
        _warn_if_not_enriched(chosen, [b for _, b in pairs])
    judge = Judge.of(cells.x, cells.codes, cells.classes, cells.scale, rng)
    move = Mover(model, classifier, judge, cells)

    rows: list[dict[str, Any]] = []
    trajectories: dict[tuple[str, str, str], Trajectory] = {}
    nulls: dict[str, Null] = {}
    with progress_bar("perturbing", len(pairs), show=progress) as advance:
        for a, b in pairs:
            if a not in nulls:
                nulls[a] = Null.of(move, a, n_random, _random.generator(rng, "perturb", a))
            distance = float(lengths(cells.x[cells.of(b)].mean(0) - cells.x[cells.of(a)].mean(0), cells.scale))
            by_method = directions(
                cells, a, b, chosen, methods=methods, sd_from=sd_from, direction=direction, decode=move.decode,
                anchored=move.anchored, rng=_random.generator(rng, "perturb", a, b),
            )  # fmt: skip
            chance = cache(partial(_by_chance, nulls[a], move.code(b), min_probability))
            for name, along in by_method.items():
                trajectory = move.follow(cells.of(a), along, grid, unit, b, distance)
                trajectories[a, b, name] = trajectory
                rows += [
                    {"source": a, "target": b, "method": name, **row}
                    for row in _rows(trajectory, grid, unit, distance, min_probability, chance, nulls[a].tried, name)
                ]
            advance(f"{a} to {b}")
    table = pd.DataFrame(rows)
    table["q_value"] = table.groupby(["method", unit])["p_value"].transform(_benjamini_hochberg)
    results(adata)["perturbation"] = table
    results(adata)["perturbation_params"] = {
        "groupby": groupby,
        "n_dims": n_dims,
        unit: np.array(grid),
        "sd_from": sd_from,
        "direction": direction,
        "min_probability": min_probability,
        "n_random": n_random,
    }
    return Perturbation(
        table, trajectories, nulls, adata, model, classifier, judge, cells, groupby, unit, grid, min_probability,
        methods,
    )  # fmt: skip


def _rows(
    trajectory: Trajectory,
    grid: Sequence[float],
    unit: str,
    distance: float,
    min_probability: float,
    chance: Callable[..., tuple[np.ndarray, np.ndarray]],
    tried: np.ndarray,
    method: str,
) -> Iterator[dict[str, Any]]:
    """Yield the row of the table of each step."""
    converted = trajectory.converted(min_probability)
    moved = np.median(trajectory.moved, axis=1)
    wanted = distance * (np.asarray(grid[1:]) if unit == "step" else moved[1:])
    draws, judged = (None, None) if method == "none" else chance(*wanted)
    for i, step in enumerate(grid):
        in_sd = float(np.median(trajectory.factor[i])) * trajectory.direction.sd
        share, mean, low, high, p_value, by_judge = float(converted[i].mean()), *(np.nan,) * 5
        if i and draws is not None and judged is not None:
            of_null = draws[:, i - 1]
            mean, low, high = float(of_null.mean()), *map(float, np.quantile(of_null, (0.025, 0.975)))
            p_value = (1 + int((of_null >= converted[i, tried].mean()).sum())) / (1 + len(of_null))
            by_judge = float(judged[:, i - 1].mean())
        yield {
            "step": step if unit == "step" else float(moved[i]),
            "n_sd": step if unit == "n_sd" else in_sd,
            "distance": distance,
            "n_cells": converted.shape[1],
            "n_converted": int(converted[i].sum()),
            "converted": share,
            "converted_at_0": float(converted[0].mean()),
            "judged": float(trajectory.judged[i].mean()),
            "judged_at_0": float(trajectory.judged[0].mean()),
            "nearest": float(trajectory.nearest[i].mean()),
            "nearest_at_0": float(trajectory.nearest[0].mean()),
            "null_mean": mean,
            "null_low": low,
            "null_high": high,
            "null_judged": by_judge,
            "excess": share - max(float(converted[0].mean()), np.nan_to_num(mean)),
            "excess_agreed": agreed(trajectory, converted, i, np.nan_to_num(mean), np.nan_to_num(by_judge)),
            "p_value": p_value,
            "mean_probability": float(trajectory.probability[i].mean()),
            "n_dims": len(trajectory.direction.dimensions),
        }


def _by_chance(null: Null, code: int, min_probability: float, *wanted: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares at given changes, as :meth:`Null.shares`; methods compared at equal changes share them."""
    return null.shares(code, np.array(wanted), min_probability)


def _benjamini_hochberg(p: pd.Series) -> pd.Series:
    known = p.notna()
    if known.any():
        p = p.astype(float).copy()
        p[known] = stats.false_discovery_control(p[known])
    return p


def _warn_if_not_enriched(chosen: pd.DataFrame, targets: Sequence[str]) -> None:
    if missing := sorted(set(targets) - set(chosen.loc[chosen["q_value"] <= MAX_Q, "group"])):
        warnings.warn(
            f"No latent dimension is enriched in {', '.join(missing)}; those with the largest share are shifted, as in "
            "the paper.",
            UserWarning,
            stacklevel=3,
        )


def step_sizes(**given: Sequence[float]) -> tuple[float, ...]:
    """Return the sorted steps with 0 added; ``step=...`` or ``n_sd=...``."""
    ((name, sizes),) = given.items()
    values = np.atleast_1d(np.asarray(sizes, dtype=float))
    if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"{name} is {sizes!r}; it must be finite numbers of 0 or more.")
    if not values.any():
        raise ValueError(f"{name} is {sizes!r}; at least one value must be above 0.")
    return tuple(sorted({0.0, *map(float, values)}))
