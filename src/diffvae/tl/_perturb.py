"""What a perturbation found: shares, cells, genes, and the changed cells themselves."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from diffvae import _keys, _random
from diffvae._core.anndata import results
from diffvae._core.runtime import progress_bar
from diffvae.tl._directions import (
    METHODS,
    Cells,
    Direction,
    directions,
    enriched_dimensions,
    one_or_more,
    pairs_of,
    random_directions,
    read_cells,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model


@dataclass(frozen=True)
class Trajectory:
    """Cells moved along a way: probability of the target, and whether it is the most probable, steps x cells."""

    rows: np.ndarray
    way: Direction
    probability: np.ndarray
    first: np.ndarray

    def converted(self, min_probability: float) -> np.ndarray:
        """Return which cells are called target, steps x cells."""
        return self.first & (self.probability >= min_probability)

    def resistance(self, grid: tuple[float, ...], min_probability: float) -> np.ndarray:
        """Return the smallest step from which on a cell stays converted; infinity where there is none."""
        stays = np.logical_and.accumulate(self.converted(min_probability)[::-1])[::-1]
        first = np.where(stays.any(0), stays.argmax(0), -1)
        return np.where(first >= 0, np.array(grid)[first], np.inf)


@dataclass(frozen=True)
class Perturbation:
    """Result of :func:`diffvae.tl.perturb`.

    Attributes
    ----------
    table
        One row per source, target, method and step: ``n_cells``, ``n_converted``, ``converted`` (share),
        ``converted_at_0``, ``null_mean``, ``null_low``, ``null_high`` (95 % of the random directions), ``excess``
        (converted less the larger of the share at 0 and the null's mean), ``p_value`` (one-sided, against the random
        directions), ``q_value`` (Benjamini-Hochberg over sources and targets), ``mean_probability``, ``n_dims``.
    trajectories
        (source, target, method) to the cells along that way.
    adata, model, classifier, groupby
        What was perturbed, and by what.
    data
        The cells as the models see them.
    n_sd
        The steps, 0 among them.
    min_probability
        Least probability of a conversion.
    methods
        The methods; the first is meant where none is named.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> found = dv.tl.perturb(
    ...     adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_random=5, progress=False
    ... )
    >>> found.sources, found.targets
    (('CD34+',), ('CD14+ Monocyte',))
    """

    table: pd.DataFrame
    trajectories: dict[tuple[str, str, str], Trajectory]
    adata: AnnData
    model: Model
    classifier: CellStateClassifier
    data: Cells
    groupby: str
    n_sd: tuple[float, ...]
    min_probability: float
    methods: tuple[str, ...]

    def __repr__(self) -> str:
        pairs = {(a, b) for a, b, _ in self.trajectories}
        return f"Perturbation({len(pairs)} pairs of types, n_sd={self.n_sd}, methods={self.methods})"

    @property
    def sources(self) -> tuple[str, ...]:
        """The source types."""
        return tuple(dict.fromkeys(a for a, _, _ in self.trajectories))

    @property
    def targets(self) -> tuple[str, ...]:
        """The target types."""
        return tuple(dict.fromkeys(b for _, b, _ in self.trajectories))

    def step(self, n_sd: float | None) -> int:
        """Return the number of a step in :attr:`n_sd`; None is the largest."""
        if n_sd is None:
            return len(self.n_sd) - 1
        if float(n_sd) not in self.n_sd:
            raise ValueError(f"n_sd is {n_sd}; this perturbation has {', '.join(f'{v:g}' for v in self.n_sd)}.")
        return self.n_sd.index(float(n_sd))

    def trajectory(self, target: str, source: str | None = None, method: str | None = None) -> Trajectory:
        """Return how the cells of a source went towards a target; the first source and method by default."""
        key = (self.sources[0] if source is None else source, target, self.methods[0] if method is None else method)
        if key not in self.trajectories:
            pairs = ", ".join(f"{a} to {b}" for a, b, m in self.trajectories if m == self.methods[0])
            raise ValueError(f"{key[0]} to {key[1]} by {key[2]!r} was not tried; there are: {pairs}.")
        return self.trajectories[key]

    def plasticity(self, n_sd: float | None = 1.0, *, value: str = "excess", method: str | None = None) -> pd.DataFrame:
        """Return the plasticity map: sources x targets, share converted beyond the null.

        Parameters
        ----------
        n_sd
            Step; None for the largest.
        value
            Column of :attr:`table`.
        method
            None for the first.
        """
        step = self.n_sd[self.step(n_sd)]
        method = self.methods[0] if method is None else method
        own = self.table[(self.table["n_sd"] == step) & (self.table["method"] == method)]
        return own.pivot(index="source", columns="target", values=value).reindex(self.sources, columns=self.targets)

    def cells(self, method: str | None = None) -> pd.DataFrame:
        """Return one row per source cell and target.

        ``resistance`` is the smallest n_sd from which on it stays converted, infinite if none does; ``converted_at``
        lists every step at which it is converted, ``"1, 1.5"``; beside them stand its probabilities of the target at 0
        and at the largest step.
        """
        method = self.methods[0] if method is None else method
        names = self.adata.obs_names.to_numpy()
        frames = [
            pd.DataFrame(
                {
                    "cell": names[t.rows],
                    "source": a,
                    "target": b,
                    "resistance": t.resistance(self.n_sd, self.min_probability),
                    "converted_at": [
                        ", ".join(f"{step:g}" for step, is_so in zip(self.n_sd, column, strict=True) if is_so)
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
        self, target: str, n_sd: float | None = 1.0, *, source: str | None = None, method: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return latent places and expression of the source's cells after the shift: cells x dimensions and genes."""
        t = self.trajectory(target, source, method)
        step = np.float32(self.n_sd[self.step(n_sd)])
        if (method or self.methods[0]) == "expression_mean":
            y = self.data.clip(self.data.x[t.rows] + step * t.way.x)
            return self.model._encode(y), y
        z = self.data.z[t.rows] + step * t.way.z
        return z, self.data.clip(self.model.decode(z))

    def effects(
        self,
        target: str,
        n_sd: float | None = 1.0,
        *,
        source: str | None = None,
        method: str | None = None,
        method_genes: str = "effect",
        converted_only: bool = False,
    ) -> pd.DataFrame:
        """Return what the shift does to each gene, largest change first.

        Parameters
        ----------
        target, n_sd, source, method
            Which perturbation.
        method_genes
            ``"effect"``: decode(z + shift) - decode(z). ``"paper"``: decode(z + shift) - x, in which the error of
            the reconstruction is mixed with the effect.
        converted_only
            Mean over the converted cells only.

        Returns
        -------
        One row per gene: ``gene``, ``effect`` (mean change on the scale of the training layer), ``log_effect`` (the
        same in units of the log-normalised values, where the scaling is known), ``agreement`` (share of the cells in
        which the change has this sign), ``direction`` ("up" or "down").
        """
        if method_genes not in ("effect", "paper"):
            raise ValueError(f"method_genes is {method_genes!r}; it is 'effect' or 'paper'.")
        t = self.trajectory(target, source, method)
        _, y = self.changed(target, n_sd, source=source, method=method)
        before = self.data.x[t.rows]
        if method_genes == "effect" and (method or self.methods[0]) != "expression_mean":
            before = self.data.clip(self.model.decode(self.data.z[t.rows]))
        kept = t.converted(self.min_probability)[self.step(n_sd)] if converted_only else np.ones(len(y), bool)
        change = (y - before)[kept]
        mean = change.mean(0) if len(change) else np.zeros(y.shape[1])
        features = self.model.features
        frame = pd.DataFrame({"gene": self.model.gene_names, "effect": mean})
        if features.minimum is not None and features.maximum is not None:
            frame["log_effect"] = mean * (features.maximum - features.minimum)
        frame["agreement"] = (np.sign(change) == np.sign(mean)).mean(0) if len(change) else np.nan
        frame["direction"] = np.where(mean >= 0, "up", "down")
        return frame.sort_values("effect", key=np.abs, ascending=False, kind="stable").reset_index(drop=True)

    def to_adata(
        self, target: str, n_sd: float | None = 1.0, *, source: str | None = None, method: str | None = None
    ) -> AnnData:
        """Return the changed cells, placed into the t-SNE map of the originals if there is one.

        Parameters
        ----------
        target, n_sd, source, method
            Which perturbation.

        Returns
        -------
        AnnData: the training layer in ``layers``, X on the log-normalised scale, ``obsm["X_diffvae"]``, in ``obs``
        ``cell``, ``source``, ``target``, ``n_sd``, ``probability`` and ``converted``.
        """
        t = self.trajectory(target, source, method)
        step = self.step(n_sd)
        z, y = self.changed(target, n_sd, source=source, method=method)
        obs = {
            "source": self.sources[0] if source is None else source,
            "target": target,
            "n_sd": self.n_sd[step],
            "probability": t.probability[step],
            "converted": t.converted(self.min_probability)[step],
        }
        return changed_adata(self.adata, self.model, t.rows, y, z, obs)


def changed_adata(
    adata: AnnData, model: Model, rows: np.ndarray, y: np.ndarray, z: np.ndarray, obs: dict[str, object]
) -> AnnData:
    """Return cells of ``adata`` with other expression, in the shape of every AnnData of ours."""
    import anndata as ad

    from diffvae import pp
    from diffvae.tl._tsne import tsne_transform

    features = model.features
    x = y
    var = pd.DataFrame(index=model.gene_names)
    if features.minimum is not None and features.maximum is not None:
        x = pp.from_unit(y, features.minimum, features.maximum).astype(np.float32)
        var[_keys.UNIT_MIN], var[_keys.UNIT_MAX] = features.minimum, features.maximum
    names = adata.obs_names.to_numpy()[rows]
    frame = pd.DataFrame({"cell": names, **obs}, index=[f"{n}_changed" for n in names])
    found = ad.AnnData(x, obs=frame, var=var, obsm={_keys.LATENT: z})
    if features.layer is not None:
        found.layers[features.layer] = y.astype(np.float32)
    map_ = adata.uns.get(_keys.UNS, {}).get("tsne", {})
    if _keys.TSNE in adata.obsm and map_.get("use_rep") == _keys.LATENT and len(rows):
        found.obsm[_keys.TSNE] = tsne_transform(adata, z)
    return found


NULL_CELLS = 50
"""Source cells on which the random directions are tried; directions differ far more than cells do along one."""
MAX_Q = 0.05
"""Above it a dimension is not enriched in a type."""
AT_ONCE = 4096
"""Cells that are decoded and classified at once; bounds the memory."""


def perturb(
    adata: AnnData,
    model: Model,
    classifier: CellStateClassifier,
    *,
    source: str | Sequence[str],
    target: str | Sequence[str] | None = None,
    groupby: str | None = None,
    n_dims: int = 5,
    n_sd: Sequence[float] = (0, 0.25, 0.5, 1, 1.5, 2),
    sd_from: str = "all",
    direction: str = "signed",
    method: str | Sequence[str] = METHODS,
    min_probability: float = 0.5,
    n_random: int = 200,
    rng: _random.Rng = 0,
    progress: bool = True,
) -> Perturbation:
    r"""Shift the latent dimensions of source cells towards a target type, decode, and count conversions.

    .. math:: z'_j = z_j + s_j \lambda \sigma_j \quad (j \in \mbox{the target's dimensions}), \qquad
              y = decode(z'), \qquad \mbox{converted if } p(target \mid y) \ge p_{min}

    with :math:`s_j` the sign that leads from the source's mean to the target's. Beside each share of converted cells
    stand the share at :math:`\lambda = 0` (what decoding alone does) and that under random directions of equal length.

    Parameters
    ----------
    adata
        Cells with labels; the source cells among them are shifted.
    model
        A trained model with a decoder.
    classifier
        Trained on the same genes and layer; it must know the source as a type.
    source
        A type, or several.
    target
        A type, or several; None for all types but the source.
    groupby
        Key in ``obs`` of the types; None for the classifier's.
    n_dims
        Dimensions to shift: those of :func:`latent_dimensions` for the target (the paper: 5).
    n_sd
        The values of lambda, in standard deviations (the paper: 0.5 and 1); 0 is always among them.
    sd_from
        Cells of the standard deviation: ``"all"``, or ``"group"`` for the source (as the released code).
    direction
        ``"signed"``: towards the target. ``"plus"``: always up, as the paper.
    method
        One or more of ``"shift"`` (the paper's), ``"mean"`` (an equally long step along the line between the two
        types' latent means, as scGen), ``"expression_mean"`` (the same part of the way between their mean
        expressions, without a model) and ``"none"`` (decode only). The first is the one that
        :meth:`Perturbation.to_adata` and the like refer to.
    min_probability
        Least calibrated probability of the target.
    n_random
        Random directions per target. The least p-value is 1 / (n_random + 1); with fewer than 40 none can be
        below 0.025.
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
        If a type is unknown or the model, the classifier and the cells don't fit together.

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
    ['source', 'target', 'method', 'n_sd']
    """
    groupby = classifier.groupby if groupby is None else groupby
    methods = one_or_more(method)
    _check_options(methods, n_dims, sd_from, direction, n_random, min_probability)
    grid = step_sizes(n_sd)
    cells = read_cells(adata, model, classifier, groupby)
    pairs = pairs_of(classifier, cells, source, target)
    chosen = enriched_dimensions(cells, model, n_dims)
    warn_of_unsure(chosen, [b for _, b in pairs])
    random = _random.generator(rng, "perturb")
    spread = cells.z.std(0)

    rows: list[dict[str, Any]] = []
    trajectories: dict[tuple[str, str, str], Trajectory] = {}
    with progress_bar("perturbing", len(pairs), show=progress) as advance:
        for a, b in pairs:
            own = cells.of(a)
            tried = own if len(own) <= NULL_CELLS else np.sort(random.choice(own, NULL_CELLS, replace=False))
            by_method = directions(cells, a, b, chosen, sd_from=sd_from, direction=direction)
            null: dict[bool, np.ndarray] = {}  # shift and mean are equally long, so that they share it
            for name in methods:
                way = by_method[name]
                trajectory = follow(model, classifier, cells, own, way, grid, b, name == "expression_mean")
                trajectories[a, b, name] = trajectory
                converted = trajectory.converted(min_probability)
                in_genes = bool(way.x.any())
                if name != "none" and (way.z.any() or in_genes) and in_genes not in null:
                    null[in_genes] = np.array(
                        [
                            follow(model, classifier, cells, tried, other, grid[1:], b, in_genes)
                            .converted(min_probability)
                            .mean(1)
                            for other in random_directions(way, spread, n_random, random)
                        ]
                    )
                beside = null.get(in_genes) if name != "none" else None
                rows += _rows(a, b, name, grid, converted, converted[:, np.isin(own, tried)], beside, trajectory)
            advance(f"{a} to {b}")
    table = pd.DataFrame(rows)
    table["q_value"] = table.groupby(["method", "n_sd"])["p_value"].transform(_benjamini_hochberg)
    results(adata)["perturbation"] = table
    results(adata)["perturbation_params"] = {
        "groupby": groupby,
        "n_dims": n_dims,
        "n_sd": np.array(grid),
        "sd_from": sd_from,
        "direction": direction,
        "min_probability": min_probability,
        "n_random": n_random,
    }
    return Perturbation(table, trajectories, adata, model, classifier, cells, groupby, grid, min_probability, methods)


def follow(
    model: Model,
    classifier: CellStateClassifier,
    cells: Cells,
    rows: np.ndarray,
    way: Direction,
    grid: Sequence[float],
    target: str,
    in_genes: bool = False,
) -> Trajectory:
    """Move cells along a way and classify them at each step."""
    steps = np.asarray(grid, np.float32)[:, None, None]
    at_once = max(1, AT_ONCE // len(steps))
    probability = []
    for part in (rows[i : i + at_once] for i in range(0, len(rows), at_once)):
        if in_genes:
            moved = (cells.x[part] + steps * way.x).reshape(-1, cells.x.shape[1])
        else:
            moved = model.decode((cells.z[part] + steps * way.z).reshape(-1, cells.z.shape[1]))
        called = classifier.predict_proba(cells.clip(moved))
        probability.append(called.reshape(len(steps), len(part), -1))
    p = np.concatenate(probability, axis=1)
    code = classifier.code(target)
    return Trajectory(rows, way, p[:, :, code], p.argmax(2) == code)


def _rows(
    source: str,
    target: str,
    method: str,
    grid: Sequence[float],
    converted: np.ndarray,
    tried: np.ndarray,
    null: np.ndarray | None,
    trajectory: Trajectory,
) -> list[dict[str, Any]]:
    rows = []
    at_zero = float(converted[0].mean())
    for i, step in enumerate(grid):
        beside = null[:, i - 1] if null is not None and i else None
        mean = np.nan if beside is None else float(beside.mean())
        p = np.nan if beside is None else (1 + int((beside >= tried[i].mean()).sum())) / (1 + len(beside))
        share = float(converted[i].mean())
        rows.append(
            {
                "source": source,
                "target": target,
                "method": method,
                "n_sd": step,
                "n_cells": converted.shape[1],
                "n_converted": int(converted[i].sum()),
                "converted": share,
                "converted_at_0": at_zero,
                "null_mean": mean,
                "null_low": np.nan if beside is None else float(np.quantile(beside, 0.025)),
                "null_high": np.nan if beside is None else float(np.quantile(beside, 0.975)),
                "excess": share - max(at_zero, 0.0 if np.isnan(mean) else mean),
                "p_value": p,
                "mean_probability": float(trajectory.probability[i].mean()),
                "n_dims": len(trajectory.way.dimensions),
            }
        )
    return rows


def _benjamini_hochberg(p: pd.Series) -> pd.Series:
    known = p.notna()
    if known.any():
        p = p.astype(float).copy()
        p[known] = stats.false_discovery_control(p[known])
    return p


def warn_of_unsure(chosen: pd.DataFrame, targets: Sequence[str]) -> None:
    """Say which targets no dimension is enriched in."""
    sure = set(chosen.loc[chosen["q_value"] <= MAX_Q, "group"])
    unsure = sorted(set(targets) - sure)
    if unsure:
        warnings.warn(
            f"No latent dimension is enriched in {', '.join(unsure)}; those with the largest share are shifted, as in "
            "the paper.",
            UserWarning,
            stacklevel=3,
        )


def step_sizes(n_sd: Sequence[float]) -> tuple[float, ...]:
    """Return the steps in their order, 0 among them, or say what is wrong with them."""
    values = np.atleast_1d(np.asarray(n_sd, dtype=float))
    if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"n_sd is {n_sd!r}; give finite numbers of standard deviations, 0 or more.")
    if not values.any():
        raise ValueError("n_sd has no value above 0, so that nothing would be shifted.")
    return tuple(sorted({0.0, *map(float, values)}))


def _check_options(
    methods: tuple[str, ...], n_dims: int, sd_from: str, direction: str, n_random: int, min_probability: float
) -> None:
    for name in methods:
        if name not in METHODS:
            raise ValueError(f"method is {name!r}; it is one of {', '.join(METHODS)}.")
    if n_dims < 1 or n_random < 1:
        raise ValueError(f"n_dims={n_dims} and n_random={n_random} must be 1 or more.")
    if sd_from not in ("all", "group"):
        raise ValueError(f"sd_from is {sd_from!r}; it is 'all' or 'group'.")
    if direction not in ("signed", "plus"):
        raise ValueError(f"direction is {direction!r}; it is 'signed' or 'plus'.")
    if not 0 <= min_probability < 1:
        raise ValueError(f"min_probability is {min_probability}; it is at least 0 and below 1.")
