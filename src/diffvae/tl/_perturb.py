"""Do cells convert into another type when their latent dimensions are shifted towards it?"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from diffvae import _keys, _random
from diffvae._core.anndata import results
from diffvae._core.runtime import progress_bar
from diffvae._core.validate import Choice, Number, Rule, Whole, check
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


NULL_CELLS = 50
"""Source cells on which the random directions are tried; directions differ far more than cells do."""
MAX_Q = 0.05
"""Largest q-value at which a dimension is enriched in a type."""
AT_ONCE = 4096
"""Cells that are decoded and classified at once; limits the memory."""
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
class Trajectory:
    """Cells moved along a direction: p(target), and whether target is the most probable type, steps x cells."""

    rows: np.ndarray
    direction: Direction
    probability: np.ndarray
    is_top: np.ndarray

    def converted(self, min_probability: float) -> np.ndarray:
        """Return which cells are converted, steps x cells."""
        return self.is_top & (self.probability >= min_probability)

    def resistance(self, grid: tuple[float, ...], min_probability: float) -> np.ndarray:
        """Return the smallest step from which a cell stays converted; infinity if there is none."""
        stays = np.logical_and.accumulate(self.converted(min_probability)[::-1])[::-1]
        return np.where(stays.any(0), np.array(grid)[stays.argmax(0)], np.inf)


@dataclass(frozen=True)
class Perturbation:
    """Result of :func:`diffvae.tl.perturb`.

    Attributes
    ----------
    table
        One row per source, target, method and step: ``n_cells``, ``n_converted``, ``converted`` (share),
        ``converted_at_0``, ``null_mean``, ``null_low``, ``null_high`` (95 % of the random directions), ``excess``
        (``converted`` minus the larger of ``converted_at_0`` and ``null_mean``), ``p_value`` (one-sided, against the
        random directions), ``q_value`` (Benjamini-Hochberg over sources and targets), ``mean_probability``, ``n_dims``.
    trajectories
        (source, target, method) to the cells along that direction.
    adata, model, classifier, groupby
        The arguments of :func:`diffvae.tl.perturb`.
    data
        The cells as the models see them.
    n_sd
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
        """Return the index of a step in :attr:`n_sd`; None is the largest."""
        if n_sd is None:
            return len(self.n_sd) - 1
        if float(n_sd) not in self.n_sd:
            raise ValueError(f"n_sd is {n_sd}; this perturbation has {', '.join(f'{v:g}' for v in self.n_sd)}.")
        return self.n_sd.index(float(n_sd))

    def trajectory(self, target: str, source: str | None = None, method: str | None = None) -> Trajectory:
        """Return the cells of a source on the way to a target; the first source and method by default."""
        key = (self.sources[0] if source is None else source, target, self.methods[0] if method is None else method)
        if key not in self.trajectories:
            pairs = ", ".join(f"{a} to {b}" for a, b, m in self.trajectories if m == self.methods[0])
            raise ValueError(f"{key[0]} to {key[1]} by {key[2]!r} was not tried; there are: {pairs}.")
        return self.trajectories[key]

    def plasticity(self, n_sd: float | None = 1.0, *, value: str = "excess", method: str | None = None) -> pd.DataFrame:
        """Return the plasticity map, sources x targets: the share converted beyond the null.

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
        rows = self.table[(self.table["n_sd"] == step) & (self.table["method"] == method)]
        return rows.pivot(index="source", columns="target", values=value).reindex(self.sources, columns=self.targets)

    def cells(self, method: str | None = None) -> pd.DataFrame:
        """Return one row per source cell and target.

        ``resistance`` is the smallest n_sd from which the cell stays converted, or infinity. ``converted_at`` lists the
        steps at which it is converted, for example ``"1, 1.5"``. ``probability_at_0`` and ``probability_at_most`` are
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
                    "resistance": t.resistance(self.n_sd, self.min_probability),
                    "converted_at": [
                        ", ".join(f"{step:g}" for step, at in zip(self.n_sd, column, strict=True) if at)
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
        """Return latent representation and expression of the source cells after the shift."""
        t = self.trajectory(target, source, method)
        step = np.float32(self.n_sd[self.step(n_sd)])
        if (method or self.methods[0]) == "expression_mean":
            y = self.data.clip(self.data.x[t.rows] + step * t.direction.x)
            return self.data.encode(self.model, y, t.rows), y
        z = self.data.z[t.rows] + step * t.direction.z
        return z, self.data.decode(self.model, z, t.rows)

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
        """Return the effect of the shift on each gene, largest change first.

        Parameters
        ----------
        target, n_sd, source, method
            Which perturbation.
        method_genes
            ``"effect"``: decode(z + shift) - decode(z). ``"paper"``: decode(z + shift) - x, which adds the
            reconstruction error to the effect.
        converted_only
            Mean over the converted cells only.

        Returns
        -------
        One row per gene: ``gene``, ``effect`` (mean change on the scale of the training layer), ``log_effect`` (the
        same in log-normalised units, if the scaling is known), ``agreement`` (share of the cells in
        which the change has this sign), ``direction`` ("up" or "down").
        """
        check(RULES, method_genes=method_genes)
        t = self.trajectory(target, source, method)
        _, y = self.changed(target, n_sd, source=source, method=method)
        before = self.data.x[t.rows]
        if method_genes == "effect" and (method or self.methods[0]) != "expression_mean":
            before = self.data.decode(self.model, self.data.z[t.rows], t.rows)
        averaged = t.converted(self.min_probability)[self.step(n_sd)] if converted_only else np.ones(len(y), bool)
        change = (y - before)[averaged]
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
        """Return the changed cells, placed on the t-SNE map of ``adata`` if there is one.

        Parameters
        ----------
        target, n_sd, source, method
            Which perturbation.

        Returns
        -------
        AnnData with the training layer in ``layers``, log-normalised X, ``obsm["X_diffvae"]``, and in ``obs``
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
    """Return cells of ``adata`` with expression y (training layer), latent representation z and columns ``obs``."""
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
    changed = ad.AnnData(x, obs=frame, var=var, obsm={_keys.LATENT: z})
    if features.layer is not None:
        changed.layers[features.layer] = y.astype(np.float32)
    tsne = adata.uns.get(_keys.UNS, {}).get("tsne", {})
    if _keys.TSNE in adata.obsm and tsne.get("use_rep") == _keys.LATENT and len(rows):
        changed.obsm[_keys.TSNE] = tsne_transform(adata, z)
    return changed


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

    with :math:`s_j` the sign that leads from the mean of the source to the mean of the target. Each share of converted
    cells is compared with the share at :math:`\lambda = 0` (the effect of decoding alone) and with the shares under
    random directions of equal length.

    Parameters
    ----------
    adata
        Cells with labels; the source cells are shifted.
    model
        A trained model with a decoder.
    classifier
        Trained on the same genes and layer, with the source among its types.
    source
        A type, or several.
    target
        A type, or several; None for all types but the source.
    groupby
        Key of the types in ``obs``; None for the key of the classifier.
    n_dims
        Dimensions to shift: those of :func:`latent_dimensions` for the target (the paper: 5).
    n_sd
        The values of lambda, in standard deviations (the paper: 0.5 and 1); 0 is always added.
    sd_from
        Cells whose standard deviation is used: ``"all"``, or ``"group"`` for the source (as in the released code).
    direction
        ``"signed"``: towards the target. ``"plus"``: always up, as in the paper.
    method
        One or more of ``"shift"`` (the paper), ``"mean"`` (a step of the same length along the line between the latent
        means of the two types, as in scGen), ``"expression_mean"`` (the same fraction of the line between their mean
        expression, without a model) and ``"none"`` (decode only). The first is the default of the methods of
        :class:`Perturbation`.
    min_probability
        Least calibrated probability of the target.
    n_random
        Random directions per target. The smallest possible p-value is 1 / (n_random + 1).
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
    ['source', 'target', 'method', 'n_sd']
    """
    methods = one_or_more(method)
    for name in methods:
        check(RULES, method=name)
    check(
        RULES, n_dims=n_dims, sd_from=sd_from, direction=direction, min_probability=min_probability, n_random=n_random
    )  # fmt: skip
    groupby = classifier.groupby if groupby is None else groupby
    grid = step_sizes(n_sd)
    cells = read_cells(adata, model, classifier, groupby)
    pairs = pairs_of(classifier, cells, source, target)
    chosen = enriched_dimensions(cells, model, n_dims)
    _warn_if_not_enriched(chosen, [b for _, b in pairs])
    random = _random.generator(rng, "perturb")

    rows: list[dict[str, Any]] = []
    trajectories: dict[tuple[str, str, str], Trajectory] = {}
    with progress_bar("perturbing", len(pairs), show=progress) as advance:
        for a, b in pairs:
            sources = cells.of(a)
            tried = (
                sources if len(sources) <= NULL_CELLS else np.sort(random.choice(sources, NULL_CELLS, replace=False))
            )
            by_method = directions(cells, a, b, chosen, sd_from=sd_from, direction=direction)
            nulls: dict[bool, np.ndarray] = {}  # shift and mean have the same length, so they share a null
            for name in methods:
                along = by_method[name]
                in_genes = bool(along.x.any())
                trajectory = follow(model, classifier, cells, sources, along, grid, b, name == "expression_mean")
                if name != "none" and (along.z.any() or in_genes) and in_genes not in nulls:
                    nulls[in_genes] = np.array(
                        [
                            follow(model, classifier, cells, tried, other, grid[1:], b, in_genes)
                            .converted(min_probability)
                            .mean(1)
                            for other in random_directions(along, cells.z.std(0), n_random, random)
                        ]
                    )
                null = nulls.get(in_genes) if name != "none" else None
                trajectories[a, b, name] = trajectory
                rows += [
                    {"source": a, "target": b, "method": name, **row}
                    for row in _steps(trajectory, grid, min_probability, np.isin(sources, tried), null)
                ]
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
    direction: Direction,
    grid: Sequence[float],
    target: str,
    in_genes: bool = False,
) -> Trajectory:
    """Move cells along a direction and classify them at each step."""
    steps = np.asarray(grid, np.float32)[:, None, None]
    at_once = max(1, AT_ONCE // len(steps))
    probability = []
    for part in (rows[i : i + at_once] for i in range(0, len(rows), at_once)):
        if in_genes:
            moved = cells.clip((cells.x[part] + steps * direction.x).reshape(-1, cells.x.shape[1]))
        else:
            z = (cells.z[part] + steps * direction.z).reshape(-1, cells.z.shape[1])
            moved = cells.decode(model, z, np.tile(part, len(steps)))
        called = classifier.predict_proba(moved)
        probability.append(called.reshape(len(steps), len(part), -1))
    p = np.concatenate(probability, axis=1)
    code = classifier.code(target)
    return Trajectory(rows, direction, p[:, :, code], p.argmax(2) == code)


def _steps(
    trajectory: Trajectory,
    grid: Sequence[float],
    min_probability: float,
    tried: np.ndarray,
    null: np.ndarray | None,
) -> Iterator[dict[str, Any]]:
    """Yield the row of the table of each step; ``tried`` marks the cells of the null, draws x steps without 0."""
    converted = trajectory.converted(min_probability)
    at_zero = float(converted[0].mean())
    for i, step in enumerate(grid):
        draws = null[:, i - 1] if null is not None and i else None
        share, mean, low, high, p_value = float(converted[i].mean()), np.nan, np.nan, np.nan, np.nan
        if draws is not None:
            mean, low, high = float(draws.mean()), *map(float, np.quantile(draws, (0.025, 0.975)))
            p_value = (1 + int((draws >= converted[i, tried].mean()).sum())) / (1 + len(draws))
        yield {
            "n_sd": step,
            "n_cells": converted.shape[1],
            "n_converted": int(converted[i].sum()),
            "converted": share,
            "converted_at_0": at_zero,
            "null_mean": mean,
            "null_low": low,
            "null_high": high,
            "excess": share - max(at_zero, 0.0 if np.isnan(mean) else mean),
            "p_value": p_value,
            "mean_probability": float(trajectory.probability[i].mean()),
            "n_dims": len(trajectory.direction.dimensions),
        }


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


def step_sizes(n_sd: Sequence[float]) -> tuple[float, ...]:
    """Return the sorted steps with 0 added."""
    values = np.atleast_1d(np.asarray(n_sd, dtype=float))
    if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"n_sd is {n_sd!r}; it must be finite numbers of 0 or more.")
    if not values.any():
        raise ValueError(f"n_sd is {n_sd!r}; at least one step must be above 0.")
    return tuple(sorted({0.0, *map(float, values)}))
