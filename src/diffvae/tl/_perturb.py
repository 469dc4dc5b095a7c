"""Which cells can be turned into what, and would chance do as well?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from diffvae import _random
from diffvae._adata import results
from diffvae._progress import progress_bar
from diffvae.tl._cells import Cells, one_or_more, pairs_of, read_cells
from diffvae.tl._perturbation import Perturbation, Trajectory
from diffvae.tl._shift import METHODS, Way, enriched_dimensions, random_ways, ways

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model

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
            by_method = ways(cells, a, b, chosen, sd_from=sd_from, direction=direction)
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
                            for other in random_ways(way, spread, n_random, random)
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
    way: Way,
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
