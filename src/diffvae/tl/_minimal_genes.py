"""Which are the fewest genes that turn a cell of one type into another?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from diffvae import _random
from diffvae._core import genes as _genes
from diffvae._core.anndata import results
from diffvae._core.runtime import in_one_thread, progress_bar, torch_in_one_thread
from diffvae._core.validate import Choice, Number, Rule, Whole, check
from diffvae._errors import DataError
from diffvae.tl._changed_cells import changed_adata, place_together, placer_of
from diffvae.tl._directions import METHODS
from diffvae.tl._gene_sets import ORDERS, Flip, IncrementalClassifier, search_together, smallest_set
from diffvae.tl._perturb import METHOD_GENES, Perturbation, perturb
from diffvae.tl._regulators import read_genes, symbols, transcription_factors

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model

N_NEIGHBORS = 5
TOGETHER, MOST_EDITED = 128, 4096
"""Cells that are searched side by side, and most variants of them at once."""
N_DRAWS, DRAWN_CELLS = 20, 200
"""Draws of random genes for the baseline, and most cells in which they are changed."""
MIN_SHARE = 0.05
"""Share of the sets below which a gene is not tested. Such genes are not recurrent and would cost power."""
RULES: dict[str, Rule] = {
    "step": Number("(0, inf)"),
    "n_sd": Number("(0, inf)"),
    "order": Choice(*ORDERS),
    "direction": Choice("both", "up", "down"),
    "method": Choice(*METHODS),
    "method_genes": METHOD_GENES,
    "n_random": Whole(1),
}


def distance_to_type(edited: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return the mean Euclidean distance of cells to the five nearest of the real cells of a type, cells x genes."""
    from sklearn.neighbors import NearestNeighbors

    if not len(edited):
        return np.zeros(0)
    neighbours = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(real)), algorithm="brute").fit(real)
    return neighbours.kneighbors(edited)[0].mean(1)


def edit_cells(x: np.ndarray, change: np.ndarray, sets: Sequence[np.ndarray]) -> np.ndarray:
    """Return cells in which the genes of each cell's set are changed."""
    edited = x.copy()
    for i, genes in enumerate(sets):
        edited[i, genes] += change[i, genes]
    return edited


def recurrence_null(
    perturbation: Perturbation, source: str, wanted: float, sizes: Sequence[int], may: Callable[..., np.ndarray]
) -> np.ndarray:
    """Return the share of the sets that each gene is in under random directions, draws x genes.

    Cells move along each direction until their expression changes as much as in the perturbation. A null set has the
    median size of the sets and holds the genes with the largest change. A gene that changes in every direction, such as
    a highly expressed one, is therefore not significant.
    """
    null, cells, move = perturbation.nulls[source], perturbation.data, perturbation.mover
    size = max(1, int(np.median(sizes)))
    rows = cells.of(source)[null.tried]
    shares = []
    for moved in null.moved(move, rows, wanted):
        change = may(cells.x[rows], moved)
        score = -np.abs(change * cells.scale)
        score[change == 0] = np.inf
        top = np.argpartition(score, min(size, score.shape[2]) - 1, axis=2)[..., :size]
        changes = np.isfinite(np.take_along_axis(score, top, axis=2))
        shares += [
            np.bincount(genes[may_be], minlength=score.shape[2]) for genes, may_be in zip(top, changes, strict=True)
        ]
    return np.array(shares) / max(len(rows), 1)


def recurrence(
    names: np.ndarray,
    sets: Sequence[np.ndarray],
    change: np.ndarray,
    null: np.ndarray,
    scale: np.ndarray,
    is_tf: np.ndarray,
) -> pd.DataFrame:
    """Return one row per gene in any set: number of cells, direction of the change, and significance.

    First are genes that change much in many cells: by ``share`` times the mean change of log-normalised expression.
    """
    count = np.bincount(np.concatenate(sets) if sets else np.array([], int), minlength=len(names))
    used = np.flatnonzero(count)
    inside = np.zeros(change.shape, bool)
    for i, genes in enumerate(sets):
        inside[i, genes] = True
    share = count[used] / max(len(sets), 1)
    mean = (change * inside).sum(0)[used] / count[used]
    p = (1 + (null[:, used] >= share).sum(0)) / (1 + len(null)) if len(null) else np.full(len(used), np.nan)
    q = np.full(len(used), np.nan)
    tested = (share >= MIN_SHARE) & ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    in_log = mean * scale[used]
    frame = pd.DataFrame(
        {
            "gene": names[used],
            "n_cells": count[used],
            "share": share,
            "direction": np.where(mean >= 0, "up", "down"),
            "is_tf": is_tf[used],
            "mean_change": mean,
            "mean_log_change": in_log,
            "null_share": null[:, used].mean(0) if len(null) else np.nan,
            "p_value": p,
            "q_value": q,
        }
    )
    first = np.argsort(-share * np.abs(in_log), kind="stable")
    return frame.iloc[first].reset_index(drop=True)


def baselines(
    perturbation: Perturbation,
    incremental: IncrementalClassifier,
    rows: np.ndarray,
    sets: Sequence[np.ndarray],
    change: np.ndarray,
    source: str,
    target: str,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return the shares of the cells that flip with their sets, and with the same number of other genes.

    ``flipped`` is by the classifier, ``judged`` by the judge.
    """
    table = pd.DataFrame(
        {"genes": ["found", "differentially expressed", "random"], "flipped": np.nan, "judged": np.nan}
    )
    table["sd"] = np.nan
    if not len(rows):
        return table
    cells, code = perturbation.data, perturbation.classifier.code(target)

    def flipped(choice: Sequence[np.ndarray], of: np.ndarray) -> tuple[float, float]:
        edited = edit_cells(cells.x[rows[of]], change[of], choice)
        p, is_top = incremental.classify(incremental.hidden(edited), code)
        judged = perturbation.judge.probability(edited).argmax(1) == code
        return float((is_top & (p >= perturbation.min_probability)).mean()), float(judged.mean())

    sizes = [len(s) for s in sets]
    t = stats.ttest_ind(cells.x[cells.of(target)], cells.x[cells.of(source)], equal_var=False).statistic
    by_t = np.argsort(-np.abs(np.nan_to_num(t)), kind="stable")
    expressed = [by_t[change[i, by_t] != 0][:n] for i, n in enumerate(sizes)]
    every = np.arange(len(rows))
    some = np.unique(np.linspace(0, len(rows) - 1, DRAWN_CELLS).astype(int))
    may = [np.flatnonzero(change[i]) for i in some]
    random = [
        flipped([rng.permutation(genes)[: sizes[i]] for i, genes in zip(some, may, strict=True)], some)
        for _ in range(N_DRAWS)
    ]
    table[["flipped", "judged"]] = [flipped(sets, every), flipped(expressed, every), np.mean(random, axis=0)]
    table["sd"] = [np.nan, np.nan, float(np.std([share for share, _ in random], ddof=1))]
    return table


@dataclass(frozen=True)
class MinimalGenes:
    """Result of :func:`diffvae.tl.minimal_genes`.

    Attributes
    ----------
    cells
        One row per cell that flips: ``n_genes`` (size of the set), ``n_first`` and ``n_stable`` (lengths of the ranking
        at which the cell first flips and from which it stays flipped; 0 if it does not stay, or with ``"greedy"``), the
        probability of the target before and after, ``flipped`` (the edited cell, classified again), ``judged`` and
        ``nearest`` (whether the judge's regression and the nearest real cells call it target), ``genes``,
        ``distance_before`` and ``distance`` (mean distance to the five nearest real cells of the target type, on
        log-normalised values, before and after the edit).
    genes
        One row per gene in any set, those with large changes in many cells first: ``n_cells``, ``share``,
        ``direction``, ``is_tf`` (a transcription factor), ``mean_change`` (on the scale of the training layer),
        ``mean_log_change`` (on log-normalised values), ``null_share`` (``share`` under random directions), ``p_value``,
        ``q_value`` (Benjamini-Hochberg over genes in at least 5 % of the sets; NaN for the orders ``"gradient"`` and
        ``"greedy"``).
    baselines
        Share of the cells that flip when the same number of other genes is set to the perturbed values, by classifier
        and judge.
    counts
        Numbers of cells: ``source``; ``already_target`` before any change; ``converted`` by the shift and not already
        target; ``flipped`` by a set of genes.
    params
        Parameters.
    adata, model
        The cells and the model.
    rows
        Row numbers in ``adata``, in the order of ``cells``.
    edited
        Their expression after the edit, cells x genes, on the scale of the training layer.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> genes = dv.tl.minimal_genes(
    ...     adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_random=5, progress=False
    ... )
    >>> genes.curve().columns.tolist()
    ['n_genes', 'share']
    """

    cells: pd.DataFrame
    genes: pd.DataFrame
    baselines: pd.DataFrame
    counts: dict[str, int]
    params: dict[str, Any]
    adata: AnnData
    model: Model
    rows: np.ndarray
    edited: np.ndarray

    def __repr__(self) -> str:
        p, c = self.params, self.counts
        median = f", {self.cells['n_genes'].median():g} genes in the median" if c["flipped"] else ""
        return f"MinimalGenes({p['source']} to {p['target']}: {c['flipped']} of {c['converted']} cells{median})"

    def curve(self) -> pd.DataFrame:
        """Return the share of the converted cells that flip with at most ``n_genes`` genes."""
        sizes = np.sort(self.cells["n_genes"].to_numpy())
        n, at = np.unique(sizes, return_counts=True)
        return pd.DataFrame({"n_genes": n, "share": at.cumsum() / max(self.counts["converted"], 1)})

    def to_adata(self) -> AnnData:
        """Return the edited cells, embedded and placed on the t-SNE map of ``adata`` if there is one."""
        edited = self._unplaced()
        place_together([edited], placer_of(self.adata))
        return edited

    def _unplaced(self) -> AnnData:
        """Return the edited cells, embedded, but not yet on the map."""
        design = self.model.design(self.adata)
        z = self.model._encode(self.edited, None if design is None else design[self.rows])
        obs = {
            "source": self.params["source"],
            "target": self.params["target"],
            "n_genes": self.cells["n_genes"].to_numpy(),
            "probability": self.cells["probability_after"].to_numpy(),
            "judged": self.cells["judged"].to_numpy(),
        }
        return changed_adata(self.adata, self.model, self.rows, self.edited, z, obs)


def minimal_genes(
    adata: AnnData,
    model: Model,
    classifier: CellStateClassifier,
    *,
    source: str,
    target: str,
    groupby: str | None = None,
    method: str = "mean",
    step: float = 1.0,
    n_sd: float | None = None,
    n_dims: int = 5,
    sd_from: str = "all",
    shift_direction: str = "signed",
    order: str = "effect",
    direction: str = "both",
    restrict: Sequence[str] | str | PathLike[str] | None = None,
    stable: bool = True,
    eliminate: bool = True,
    method_genes: str = "effect",
    min_probability: float = 0.5,
    n_random: int = 200,
    rng: _random.Rng = 0,
    progress: bool = True,
) -> MinimalGenes:
    r"""Find, for each converted cell, the fewest genes that flip it when set to their perturbed values.

    .. math:: x'_g = x_g + \Delta_g \mbox{ for } g \in S, \qquad \Delta = y - decode(z)

    clipped to the range of the scaling, with the smallest S for which :math:`p(target \mid x') \ge p_{min}`. The real
    cell x is edited, not its reconstruction, and classifier and judge look at every edited cell again.

    Parameters
    ----------
    adata, model, classifier, source, target, groupby, n_dims, sd_from, min_probability
        As in :func:`perturb`.
    method
        Direction in which the cells move; see :func:`perturb`.
    step
        Length of the change, as a share of the distance between the types.
    n_sd
        Standard deviations of the paper's shift, instead of ``step``.
    shift_direction
        ``direction`` of :func:`perturb`.
    order
        ``"effect"``: genes by the size of their change of log-normalised expression, as in the paper. The cell is
        classified at more and more genes, because the probability is not monotone: after each of the first 24 and each
        before a flip, and after one eighth more each time otherwise. ``"gradient"``: by expected gain in log p(target).
        ``"greedy"``: the best next gene each time.
    direction
        Change genes in ``"both"`` directions, or only ``"up"`` or ``"down"``.
    restrict
        Genes that may change: ``"tf"`` for transcription factors (a bundled list for human, mouse and zebrafish), a
        list, or a text file with one gene per line or with a column of symbols, as AnimalTFDB and humantfs publish.
    stable
        Under ``"effect"``, take the length from which the cell stays flipped, not the length at which it first flips.
    eliminate
        Under ``"effect"``, remove genes from the set until the cell needs each of them; the other orders always do.
    method_genes
        ``"effect"``, or ``"paper"``: :math:`\Delta` = y - x, which adds the reconstruction error to the
        effect.
    n_random
        Random directions of equal change for the null of the recurrence under ``"effect"``. The other orders have no
        p-values, because this null ranks genes by effect.
    rng
        Seed or generator.
    progress
        Show a bar on a terminal.

    Returns
    -------
    MinimalGenes. Its tables are written to ``uns["diffvae"]["minimal_genes"]``.

    Raises
    ------
    DataError
        As in :func:`perturb`, or if no gene of ``restrict`` is a gene of the model.

    References
    ----------
    Bica et al. 2020, Methods ("Changing cell states").

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> found = dv.tl.minimal_genes(
    ...     adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_random=10, progress=False
    ... )
    >>> found.counts["source"]
    13
    """
    size = {"step": step} if n_sd is None else {"n_sd": n_sd}
    check(RULES, **size)
    options = {"order": order, "direction": direction, "method_genes": method_genes}
    check(RULES, **options, method=method, n_random=n_random)
    allowed = allowed_genes(model.gene_names, restrict, _genes.table(adata))
    before = dict(results(adata))
    perturbation = perturb(
        adata, model, classifier, source=source, target=target, groupby=groupby, method=method, n_dims=n_dims,
        sd_from=sd_from, direction=shift_direction, min_probability=min_probability, n_random=n_random, rng=rng,
        progress=False, **{name: (value,) for name, value in size.items()},
    )  # fmt: skip
    for key in ("perturbation", "perturbation_params"):  # of the caller's perturbation, if there is one
        results(adata).pop(key)
        if key in before:
            results(adata)[key] = before[key]
    return find_minimal(
        perturbation, target, step=next(iter(size.values())), allowed=allowed, stable=stable, eliminate=eliminate,
        n_random=n_random, rng=rng, progress=progress, **options,
    )  # fmt: skip


@in_one_thread
@torch_in_one_thread
def find_minimal(
    perturbation: Perturbation,
    target: str,
    *,
    step: float,
    allowed: np.ndarray,
    order: str = "effect",
    direction: str = "both",
    stable: bool = True,
    eliminate: bool = True,
    method_genes: str = "effect",
    n_random: int = 200,
    rng: _random.Rng = 0,
    progress: bool = True,
) -> MinimalGenes:
    """Find the sets for the first source and method of a perturbation, at one of its steps; see `minimal_genes`."""
    adata, model, cells, classifier = perturbation.adata, perturbation.model, perturbation.data, perturbation.classifier
    source, min_probability = perturbation.sources[0], perturbation.min_probability
    trajectory, code = perturbation.trajectory(target), classifier.code(target)
    sources, at = trajectory.rows, perturbation.index(step)
    converted = trajectory.converted(min_probability)[at]
    incremental = IncrementalClassifier(classifier)

    def classify(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p, is_top = incremental.classify(incremental.hidden(x), code)
        return p, is_top & (p >= min_probability)

    def allowed_change(x: np.ndarray, change: np.ndarray) -> np.ndarray:
        change += x
        cells.clip(change)
        change -= x
        if direction != "both":
            (np.maximum if direction == "up" else np.minimum)(change, 0, out=change)
        change[..., ~allowed] = 0
        return change

    already = classify(cells.x[sources])[1]
    chosen = converted & ~already
    rows = sources[chosen]
    after = perturbation._expression(trajectory, step)[chosen]
    in_genes = not trajectory.direction.decoded or method_genes == "paper"
    before = cells.x[rows] if in_genes else cells.decode(model, cells.z[rows], rows)
    change = allowed_change(cells.x[rows], after - before)
    flips: dict[int, Flip] = {}
    together = max(1, min(TOGETHER, MOST_EDITED // max(1, change.shape[1] if order == "greedy" else 0)))
    changing = np.flatnonzero(change.any(axis=1))
    with progress_bar("minimal genes", len(changing), show=progress) as advance:
        for start in range(0, len(changing), together):
            block = changing[start : start + together]
            searches = [
                smallest_set(
                    incremental, cells.x[rows[i]], change[i], code, order=order, stable=stable, eliminate=eliminate,
                    scale=cells.scale,
                )
                for i in block
            ]  # fmt: skip
            for i, flip in zip(block, search_together(incremental, searches, code, min_probability), strict=True):
                if flip is not None:
                    flips[int(i)] = flip
                advance()
    flipping = np.array(list(flips), dtype=int)
    rows, change = rows[flipping], change[flipping]
    sets = [flip.genes for flip in flips.values()]
    x = cells.x[rows]
    edited = edit_cells(x, change, sets)
    probability, flipped = classify(edited)
    names = model.gene_names.to_numpy()
    real = cells.x[cells.of(target)] * cells.scale
    table = pd.DataFrame(
        {
            "cell": adata.obs_names.to_numpy()[rows],
            "n_genes": [len(s) for s in sets],
            "n_first": [flip.n_first for flip in flips.values()],
            "n_stable": [flip.n_stable for flip in flips.values()],
            "probability_before": classify(x)[0],
            "probability_after": probability,
            "flipped": flipped,
            "judged": perturbation.judge.probability(edited).argmax(1) == code,
            "nearest": perturbation.judge.nearest(edited) == code,
            "genes": [", ".join(names[s]) for s in sets],
            "distance_before": distance_to_type(x * cells.scale, real),
            "distance": distance_to_type(edited * cells.scale, real),
        }
    )
    # the null ranks genes by effect; it is not the null of a search
    null = np.zeros((0, len(names)))
    if order == "effect" and len(rows):
        wanted = float(np.median(trajectory.moved[at])) * float(perturbation.rows(target)["distance"].iloc[0])
        null = recurrence_null(perturbation, source, wanted, [len(s) for s in sets], allowed_change)
    genes = recurrence(names, sets, change, null, cells.scale, perturbation._is_tf)
    random = _random.generator(rng, "minimal genes")
    beside = baselines(perturbation, incremental, rows, sets, change, source, target, random)
    counts = {
        "source": len(sources),
        "already_target": int(already.sum()),
        "converted": int(chosen.sum()),
        "flipped": len(rows),
    }
    params = {
        "source": source, "target": target, "groupby": perturbation.groupby, "method": perturbation.methods[0],
        perturbation.unit: step, "order": order, "direction": direction, "stable": stable, "eliminate": eliminate,
        "method_genes": method_genes, "n_random": n_random, "n_allowed": int(allowed.sum()),
    }  # fmt: skip
    results(adata)["minimal_genes"] = {"cells": table, "genes": genes, "baselines": beside, "params": params}
    return MinimalGenes(table, genes, beside, counts, params, adata, model, rows, edited)


def allowed_genes(
    genes: pd.Index, restrict: Sequence[str] | str | PathLike[str] | None, var: pd.DataFrame | None = None
) -> np.ndarray:
    """Return which genes may change: all, transcription factors (``"tf"``), or those of a list or a file.

    They are looked for among the names of the genes and in the table of genes ``var``.
    """
    if restrict is None:
        return np.ones(len(genes), bool)
    table = pd.DataFrame(index=genes) if var is None else var.loc[~var.index.duplicated()].reindex(genes)
    if isinstance(restrict, str) and restrict == "tf":
        allowed, n = transcription_factors(symbols(genes, table)), "transcription factors"
    else:
        named = read_genes(restrict) if isinstance(restrict, str | PathLike) else [str(g) for g in restrict]
        found = _genes.find(named, table)
        allowed, n = np.zeros(len(genes), bool), f"{len(named)} genes of restrict"
        allowed[found.position[found.position >= 0]] = True
        if found.how:
            warnings.warn(f"Genes of restrict are matched by {found.how}.", UserWarning, stacklevel=2)
    if not allowed.any():
        raise DataError(f"None of the {n} is among the model's {len(genes)} genes, such as {genes[0]!r}.")
    return allowed
