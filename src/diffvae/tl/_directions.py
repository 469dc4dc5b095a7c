"""Cells of a perturbation, and the directions from one type to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae._errors import DataError
from diffvae.tl._dimensions import latent_dimensions

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model


@dataclass(frozen=True)
class Cells:
    """All cells: expression x, latent representation z, code of the type (-1 = none), and the range of expression.

    ``design`` are the covariates of the cells, None if the model has none. ``scale`` is the factor of each gene to the
    scale of log-normalised expression, 1 where the layer has no scaling.
    """

    x: np.ndarray
    z: np.ndarray
    codes: np.ndarray
    classes: tuple[str, ...]
    limits: tuple[float | None, float | None]
    design: np.ndarray | None
    scale: np.ndarray

    def clip(self, values: np.ndarray) -> np.ndarray:
        """Clip expression, in place, to the range of the layer, which the output of a linear decoder may leave."""
        low, high = self.limits
        return values if low is None else np.clip(values, low, high, out=values)

    def decode(self, model: Model, z: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the expression of points of the latent space, each in the batch of the cell in ``rows``."""
        return self.clip(model.decode(z) if self.design is None else model.decode(z, batch=self.design[rows]))

    def jacobian(self, model: Model, rows: slice) -> np.ndarray:
        """Return the Jacobian of the decoder, averaged over some of the cells."""
        if self.design is None:
            return model.gene_jacobian(self.z[rows])
        return model.gene_jacobian(self.z[rows], batch=self.design[rows])

    def encode(self, model: Model, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the latent representation of changed cells, each from the batch of the cell in ``rows``."""
        return model._encode(x, None if self.design is None else self.design[rows])

    def of(self, name: str) -> np.ndarray:
        """Return the row numbers of a type."""
        return np.flatnonzero(self.codes == self.classes.index(name))


def read_cells(adata: AnnData, model: Model, classifier: CellStateClassifier, groupby: str) -> Cells:
    """Return the cells, or raise if model, classifier and cells do not match."""
    a, b = model.features, classifier.features
    if a.layer != b.layer:
        raise DataError(
            f"The classifier was trained on layer {b.layer!r} and the model on {a.layer!r}; train both on one layer."
        )
    if a.gene_names != b.gene_names:
        n = len(set(a.gene_names) ^ set(b.gene_names))
        raise DataError(f"The genes of model and classifier differ ({n} of them); train both on the same cells.")
    if a.scaling != b.scaling:
        raise DataError(
            "Model and classifier were trained on different scalings; train both on the same prepared cells."
        )
    if groupby not in adata.obs:
        raise DataError(f"adata.obs[{groupby!r}] is missing; the columns are: {', '.join(adata.obs) or 'none'}.")
    missing = [g for g in a.gene_names if g not in adata.var_names]
    if missing:
        raise DataError(
            f"adata lacks {len(missing)} of the model's {len(a.gene_names)} genes, {missing[0]!r} among them; give the "
            "cells on which the model was trained, or others with its genes."
        )
    matrix = model._matrix(adata, 0.0)
    x = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float32)
    codes = pd.Categorical(adata.obs[groupby].astype("string"), categories=list(classifier.classes)).codes
    limits = (0.0, 1.0) if a.scaled else (0.0 if x.min(initial=0) >= 0 else None, None)
    design = model.design(adata)
    z = model._encode(matrix, design).astype(np.float32)
    scale = np.ones(x.shape[1], np.float32)
    if a.minimum is not None and a.maximum is not None:
        scale = (a.maximum - a.minimum).astype(np.float32)
    return Cells(x, z, codes, classifier.classes, limits, design, scale)


def check_pair(classifier: CellStateClassifier, cells: Cells, source: str, target: str) -> None:
    """Raise if a type is unknown or has too few cells, or if source and target are the same."""
    for name in (source, target):
        classifier.code(name)
        if len(cells.of(name)) < 2:
            raise DataError(f"{name!r} has {len(cells.of(name))} cells in these data; it needs at least two.")
    if source == target:
        raise DataError(f"{source!r} is source and target at once; name another target.")


def pairs_of(
    classifier: CellStateClassifier, cells: Cells, source: str | Sequence[str], target: str | Sequence[str] | None
) -> list[tuple[str, str]]:
    """Return the pairs of source and target; without targets, all other types."""
    present = tuple(c for c in classifier.classes if len(cells.of(c)) > 1)
    sources = one_or_more(source)
    if sources == ("all",) and "all" not in present:
        sources = present
    pairs = []
    for a in sources:
        classifier.code(a)
        for b in present if target is None else one_or_more(target):
            if b != a or (target is not None and len(sources) == 1):
                check_pair(classifier, cells, a, b)
                pairs.append((a, b))
    if not pairs:
        raise DataError("There is no other type with at least two cells to be a target; give cells of several types.")
    return pairs


def one_or_more(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return a name or several as a tuple without duplicates."""
    unique = (names,) if isinstance(names, str) else tuple(dict.fromkeys(str(n) for n in names))
    if not unique:
        raise ValueError("The list is empty; give at least one name.")
    return unique


METHODS = ("mean", "shift", "ot", "anchored", "expression_mean", "none")
COMPARED = ("mean", "shift", "expression_mean", "none")
"""The methods that :func:`diffvae.tl.perturb` compares unless it is told others."""
JACOBIAN_CELLS = 200
"""Cells over which the Jacobian of the decoder is averaged."""
HALF_WAY = 0.5
"""Share of the way to the target's latent mean that leads through the decoder; the rest is a change of expression."""
MIN_INFLUENCE = 0.1
"""Smallest influence of a dimension on expression, relative to the strongest, at which it is shifted."""


@dataclass(frozen=True)
class Direction:
    """A step in the latent space (z), one for all cells of the source or one for each, and what it adds to expression.

    A cell at the factor f has the expression decode(cell + f z) + f x, or cell + f x if ``decoded`` is False.
    ``dimensions`` are those of the paper's shift. ``sd`` is the number of the paper's standard deviations to which one
    direction corresponds by its length.
    """

    dimensions: pd.DataFrame
    z: np.ndarray
    x: np.ndarray
    sd: float = 1.0
    decoded: bool = True

    def part(self, cells: slice | np.ndarray) -> Direction:
        """Return the direction of some cells of the source."""
        return replace(self, z=self.z[cells]) if self.z.ndim == 2 else self


def enriched_dimensions(cells: Cells, model: Model, n_dims: int) -> pd.DataFrame:
    r"""Return the dimensions that :func:`latent_dimensions` chooses for each type, among those that affect expression.

    A collapsed dimension may separate types slightly and rank high by chance, but shifting it changes nothing. A
    dimension therefore needs an influence :math:`\sigma_j \|J_j\|` on expression of at least a tenth of the largest.
    """
    every = slice(None, None, max(1, len(cells.z) // JACOBIAN_CELLS))
    influence = cells.z.std(0) * np.linalg.norm(cells.jacobian(model, every), axis=1)
    used = np.flatnonzero(influence >= MIN_INFLUENCE * influence.max())
    labelled = cells.codes >= 0
    names = np.array(cells.classes, dtype=object)[cells.codes[labelled]]
    labelled_cells = ad.AnnData(obs=pd.DataFrame({"type": names}, index=np.flatnonzero(labelled).astype(str)))
    labelled_cells.obsm[_keys.LATENT] = cells.z[labelled][:, used]
    table = latent_dimensions(labelled_cells, "type", n_top=n_dims, copy=True)
    # no dimension is enriched in a type that is most of the cells; it gets those with the largest share, as the paper
    by_share = latent_dimensions(labelled_cells, "type", n_top=n_dims, max_q=1, copy=True)
    without = ~by_share["group"].isin(table.loc[table["chosen"], "group"])
    chosen = pd.concat([table[table["chosen"]], by_share[by_share["chosen"] & without]], ignore_index=True)
    chosen["dimension"] = used[chosen["dimension"]]
    return chosen


def directions(
    cells: Cells,
    source: str,
    target: str,
    chosen: pd.DataFrame,
    *,
    methods: Sequence[str],
    sd_from: str,
    direction: str,
    decode: Callable[[np.ndarray, np.ndarray], np.ndarray],
    anchored: Callable[[np.ndarray, np.ndarray, str], np.ndarray],
    rng: np.random.Generator,
) -> dict[str, Direction]:
    """Return the direction of each method from one type to another; see :func:`diffvae.tl.perturb`.

    ``decode`` maps points of the latent space, and the numbers of their cells, to expression. ``anchored`` maps the
    cells of the source, the difference of the means and the target to directions of the cells.
    """
    sources, targets = cells.of(source), cells.of(target)
    table = chosen.loc[chosen["group"] == target, ["dimension", "rank", "share", "odds_ratio", "q_value"]]
    delta = cells.z[targets].mean(0) - cells.z[sources].mean(0)
    sd = cells.z[sources].std(0) if sd_from == "group" else cells.z.std(0)
    dimensions = table["dimension"].to_numpy()
    shift = np.zeros_like(delta)
    sign = np.ones(len(dimensions)) if direction == "plus" else np.where(delta[dimensions] < 0, -1.0, 1.0)
    shift[dimensions] = sign * sd[dimensions]
    table = table.assign(shift=shift[dimensions]).reset_index(drop=True)
    delta_x = cells.x[targets].mean(0) - cells.x[sources].mean(0)
    nothing = np.zeros_like(delta_x)
    in_sd = float(np.linalg.norm(delta)) / max(float(np.linalg.norm(shift)), 1e-12)

    start = cells.z[sources]

    def missed(rows: np.ndarray) -> np.ndarray:
        """Return the mean expression of cells without that of their reconstructions."""
        return (cells.x[rows] - decode(cells.z[rows], rows)).mean(0)

    def arriving(z: np.ndarray, sd: float) -> Direction:
        """Add what lacks for the mean of the source to arrive at the target, each cell in its own batch."""
        end = np.broadcast_to(cells.z[targets].mean(0), start.shape)
        rest = (decode(end, sources) - decode(start + z, sources)).mean(0) + missed(targets) - missed(sources)
        return Direction(table, z.astype(np.float32), rest, sd)

    make: dict[str, Callable[[], Direction]] = {
        "mean": lambda: arriving(HALF_WAY * (cells.z[targets].mean(0) - start), HALF_WAY * in_sd),
        "shift": lambda: Direction(table, shift, nothing),
        "ot": lambda: arriving(transport(start, cells.z[targets], cells.z.std(0), rng), in_sd),
        "anchored": lambda: Direction(table, anchored(sources, delta, target), nothing, in_sd),
        "expression_mean": lambda: Direction(table, np.zeros_like(shift), delta_x, in_sd, decoded=False),
        "none": lambda: Direction(table, np.zeros_like(shift), nothing),
    }
    return {name: make[name]() for name in methods}


MOST_TRANSPORTED = 500
"""Cells of the target among which an optimal transport is sought."""
REGULARISATION = 0.05
"""Entropy of the transport, as a share of the median cost."""


def transport(source: np.ndarray, target: np.ndarray, sd: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Return the step of each source cell by entropic optimal transport to the target, cells x dimensions.

    .. math:: \min_P \sum_{ij} P_{ij} c_{ij} + \epsilon \sum_{ij} P_{ij} \log P_{ij}, \qquad
              \Delta_i = \frac{\sum_j P_{ij} z_j}{\sum_j P_{ij}} - z_i

    with uniform margins, c the squared distance on dimensions divided by their standard deviation, and
    :math:`\epsilon` a twentieth of the median cost (Sinkhorn's iterations in the log domain). Of more than 500 target
    cells, 500 at random; more than 500 source cells are moved in equal parts.

    References
    ----------
    Cuturi, Sinkhorn distances, NeurIPS 2013.
    """
    from scipy.spatial.distance import cdist
    from scipy.special import logsumexp

    if len(target) > MOST_TRANSPORTED:
        target = target[np.sort(rng.choice(len(target), MOST_TRANSPORTED, replace=False))]
    sd = np.where(sd > 0, sd, 1)
    steps = np.zeros_like(source)
    n_parts = -(-len(source) // MOST_TRANSPORTED)
    for part in range(n_parts):
        block = source[part::n_parts]
        cost = cdist(block / sd, target / sd, "sqeuclidean")
        log_k = -cost / max(REGULARISATION * float(np.median(cost)), 1e-12)
        v = np.zeros(len(target))
        for _ in range(200):
            u = -np.log(len(block)) - logsumexp(log_k + v, axis=1)
            v, before = -np.log(len(target)) - logsumexp(log_k + u[:, None], axis=0), v
            if np.abs(v - before).max() < 1e-4:
                break
        plan = np.exp(log_k + u[:, None] + v)
        steps[part::n_parts] = plan @ target / plan.sum(axis=1, keepdims=True) - block
    return steps


ANCHOR_STEPS = 60
ANCHOR_WEIGHT = 0.025


def anchored(
    model: Model, classifier: CellStateClassifier, cells: Cells, rows: np.ndarray, delta: np.ndarray, target: str
) -> np.ndarray:
    r"""Return the smallest change of each cell that the classifier calls target, held near the difference of the means.

    .. math:: \min_{t, v} \; -\log p(T \mid decode(z + t \Delta + \sigma v)) + |v|^2 + 0.025 \, t^2 |\Delta / \sigma|^2

    by 60 steps of Adam. Without the anchor the change exploits the classifier: another judge does not see the target.
    """
    import torch

    from diffvae.model import NeuralModel

    if not isinstance(model, NeuralModel):
        raise ValueError(f"method='anchored' needs gradients of the decoder, which {type(model).__name__} lacks.")
    code, device = classifier.code(target), next(model.module.parameters()).device
    sd = torch.from_numpy(np.maximum(cells.z.std(0), 1e-6).astype(np.float32)).to(device)
    step = torch.from_numpy(delta.astype(np.float32)).to(device)
    size = ANCHOR_WEIGHT * (step / sd).square().sum()
    mean = model._likelihood.mean or (lambda output: output)
    low, high = cells.limits
    found = []
    for start in range(0, len(rows), 1024):
        own = rows[start : start + 1024]
        z = torch.from_numpy(cells.z[own]).to(device)
        seen = None if cells.design is None else torch.from_numpy(cells.design[own]).to(device)
        t = torch.full((len(own), 1), 0.5, device=device, requires_grad=True)
        v = torch.zeros_like(z, requires_grad=True)
        adam = torch.optim.Adam([t, v], lr=0.05)
        for _ in range(ANCHOR_STEPS):
            y = mean(model.module.decoder(z + t * step + sd * v, seen))
            y = y if low is None else y.clamp(low, high)
            log_p = torch.log_softmax(classifier.module(y) / classifier.temperature, dim=1)[:, code]
            loss = (-log_p + v.square().sum(1) + size * t[:, 0].square()).sum()
            adam.zero_grad()
            loss.backward(inputs=[t, v])
            adam.step()
        found.append((t * step + sd * v).detach().cpu().numpy())
    return np.concatenate(found)


def random_directions(sd: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    r"""Return random directions of the latent space, draws x dimensions, of the length of :math:`\sigma`.

    They are drawn from :math:`N(0, diag(\sigma^2))` with the standard deviations of the cells, because directions along
    unused dimensions would be too easy to beat.
    """
    step = rng.standard_normal((n, len(sd))) * sd
    length = np.linalg.norm(step, axis=1, keepdims=True)
    return (np.linalg.norm(sd) * step / np.maximum(length, 1e-12)).astype(np.float32)
