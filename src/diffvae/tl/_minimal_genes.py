"""Which are the fewest genes that turn a cell of one type into another?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from diffvae import _random
from diffvae._core.anndata import results
from diffvae._core.runtime import progress_bar
from diffvae._core.validate import Choice, Number, Rule, Whole, check
from diffvae._errors import DataError
from diffvae.tl._directions import (
    Cells,
    Direction,
    check_pair,
    directions,
    enriched_dimensions,
    random_directions,
    read_cells,
)
from diffvae.tl._gene_sets import ORDERS, Flip, IncrementalClassifier, smallest_set
from diffvae.tl._perturb import METHOD_GENES, SD_FROM, changed_adata, follow

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model

N_NEIGHBORS = 5
NULL_CELLS = 100
"""Cells on which the random directions are tried."""
N_DRAWS = 20
"""Draws of random genes for the baseline."""
MIN_SHARE = 0.05
"""Share of the sets below which a gene is not tested. Such genes are not recurrent and would cost power."""
RULES: dict[str, Rule] = {
    "n_sd": Number("(0, inf)"),
    "n_dims": Whole(1),
    "sd_from": SD_FROM,
    "order": Choice(*ORDERS),
    "direction": Choice("both", "up", "down"),
    "method_genes": METHOD_GENES,
    "min_probability": Number("[0, 1)"),
    "n_random": Whole(1),
}


def distance_to_type(edited: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean distance of edited cells to the five nearest real cells, and of real cells to one another.

    Parameters
    ----------
    edited, real
        Cells x genes; ``real`` are the cells of the target type. Distances are Euclidean.
    """
    from sklearn.neighbors import NearestNeighbors

    n = min(N_NEIGHBORS, len(real) - 1)
    neighbours = NearestNeighbors(n_neighbors=n, algorithm="brute").fit(real)
    usual = neighbours.kneighbors()[0].mean(1)
    return neighbours.kneighbors(edited)[0].mean(1) if len(edited) else np.zeros(0), usual


@dataclass(frozen=True)
class _Change:
    """What a shift of the latent space does to each gene of each cell, for the genes that may change."""

    model: Model
    cells: Cells
    allowed: np.ndarray
    direction: str
    method_genes: str

    def __call__(self, rows: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Return what is added to each gene, cells x genes; the sum stays in the range of the layer."""
        x, z = self.cells.x[rows], self.cells.z[rows]
        after = self.cells.decode(self.model, z + shift.astype(np.float32), rows)
        before = x if self.method_genes == "paper" else self.cells.decode(self.model, z, rows)
        change = self.cells.clip(x + (after - before)) - x
        may = {"both": change != 0, "up": change > 0, "down": change < 0}[self.direction] & self.allowed
        return np.where(may, change, 0)


def edit_cells(x: np.ndarray, change: np.ndarray, sets: Sequence[np.ndarray]) -> np.ndarray:
    """Return cells in which the genes of each cell's set are changed."""
    edited = x.copy()
    for i, genes in enumerate(sets):
        edited[i, genes] += change[i, genes]
    return edited


def recurrence_null(
    changes: _Change,
    rows: np.ndarray,
    sets: Sequence[np.ndarray],
    direction: Direction,
    n_sd: float,
    n_random: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the share of the sets that each gene is in under random directions, draws x genes.

    A null set has the size of the cell's own set and holds the genes with the largest change. A gene that changes in
    every direction, such as a highly expressed one, is therefore not significant.
    """
    picked = np.arange(len(rows)) if len(rows) <= NULL_CELLS else rng.choice(len(rows), NULL_CELLS, replace=False)
    sizes = [len(sets[i]) for i in picked]
    shares = np.zeros((n_random, changes.cells.x.shape[1]))
    for draw, other in enumerate(random_directions(direction, changes.cells.z.std(0), n_random, rng)):
        change = changes(rows[picked], n_sd * other.z)
        score = np.where(change != 0, np.abs(change), -np.inf)
        for values, size in zip(score, sizes, strict=True):
            top = np.argpartition(-values, size - 1)[:size]
            shares[draw, top[np.isfinite(values[top])]] += 1
    return shares / max(len(picked), 1)


def recurrence(model: Model, sets: Sequence[np.ndarray], change: np.ndarray, null: np.ndarray) -> pd.DataFrame:
    """Return one row per gene in any set: number of cells, direction of the change, and significance."""
    names, features = model.gene_names.to_numpy(), model.features
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
    frame = pd.DataFrame(
        {
            "gene": names[used],
            "n_cells": count[used],
            "share": share,
            "direction": np.where(mean >= 0, "up", "down"),
            "mean_change": mean,
            "null_share": null[:, used].mean(0) if len(null) else np.nan,
            "p_value": p,
            "q_value": q,
        }
    )
    if features.minimum is not None and features.maximum is not None:
        frame.insert(5, "mean_log_change", mean * (features.maximum - features.minimum)[used])
    return frame.sort_values(["n_cells", "p_value"], ascending=[False, True], kind="stable").reset_index(drop=True)


def baselines(
    classifier: IncrementalClassifier,
    cells: Cells,
    rows: np.ndarray,
    sets: Sequence[np.ndarray],
    change: np.ndarray,
    source: str,
    target: str,
    code: int,
    min_probability: float,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return the share of the cells that flip with their sets, and with the same number of other genes."""
    table = pd.DataFrame({"genes": ["found", "differentially expressed", "random"], "flipped": np.nan, "sd": np.nan})
    if not len(rows):
        return table

    def flipped(choice: Sequence[np.ndarray]) -> float:
        p, is_top = classifier.classify(classifier.hidden(edit_cells(cells.x[rows], change, choice)), code)
        return float((is_top & (p >= min_probability)).mean())

    sizes = [len(s) for s in sets]
    t = stats.ttest_ind(cells.x[cells.of(target)], cells.x[cells.of(source)], equal_var=False).statistic
    by_t = np.argsort(-np.abs(np.nan_to_num(t)), kind="stable")
    expressed = [by_t[change[i, by_t] != 0][:n] for i, n in enumerate(sizes)]
    random = [
        flipped([rng.permutation(np.flatnonzero(change[i]))[:n] for i, n in enumerate(sizes)]) for _ in range(N_DRAWS)
    ]
    table["flipped"] = [flipped(sets), flipped(expressed), float(np.mean(random))]
    table["sd"] = [np.nan, np.nan, float(np.std(random, ddof=1))]
    return table


@dataclass(frozen=True)
class MinimalGenes:
    """Result of :func:`diffvae.tl.minimal_genes`.

    Attributes
    ----------
    cells
        One row per cell that flips: ``n_genes`` (size of the set), ``n_first`` and ``n_stable`` (lengths of the ranking
        at which the cell first flips and from which it stays flipped; 0 if it does not stay, or with ``"greedy"``), the
        probability of the target before and after, ``flipped`` (the edited cell, classified again), ``genes``,
        ``distance`` (mean over the five nearest real cells of the target type), ``usual_distance`` (median of the same
        between real cells), ``plausible`` (``distance`` is at most their 95th percentile).
    genes
        One row per gene in any set: ``n_cells``, ``share``, ``direction``, ``mean_change`` (on the scale of the
        training layer), ``null_share`` (``share`` under random directions), ``p_value``, ``q_value``
        (Benjamini-Hochberg over genes in at least 5 % of the sets; NaN for the orders ``"gradient"`` and ``"greedy"``).
    baselines
        Share of the cells that flip when the same number of other genes is set to the perturbed values.
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
    ...     adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_sd=2, n_random=5, progress=False
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
        design = self.model.design(self.adata)
        z = self.model._encode(self.edited, None if design is None else design[self.rows])
        obs = {
            "source": self.params["source"],
            "target": self.params["target"],
            "n_genes": self.cells["n_genes"].to_numpy(),
            "probability": self.cells["probability_after"].to_numpy(),
            "plausible": self.cells["plausible"].to_numpy(),
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
    n_sd: float = 1.0,
    n_dims: int = 5,
    sd_from: str = "all",
    order: str = "effect",
    direction: str = "both",
    restrict: Sequence[str] | str | PathLike[str] | None = None,
    stable: bool = True,
    method_genes: str = "effect",
    min_probability: float = 0.5,
    n_random: int = 200,
    rng: _random.Rng = 0,
    progress: bool = True,
) -> MinimalGenes:
    r"""Find, for each converted cell, the fewest genes that flip it when set to their perturbed values.

    .. math:: x'_g = x_g + \Delta_g \mbox{ for } g \in S, \qquad \Delta = decode(z + shift) - decode(z)

    clipped to the range of the scaling, with the smallest S for which :math:`p(target \mid x') \ge p_{min}`. The real
    cell x is edited, not its reconstruction, and every edited cell is classified again.

    Parameters
    ----------
    adata, model, classifier, source, target, groupby, n_dims, sd_from, min_probability
        As in :func:`perturb`.
    n_sd
        Standard deviations of the shift.
    order
        ``"effect"``: genes by the size of their change, as in the paper. The cell is classified after every gene,
        because the probability is not monotone. ``"gradient"``: by expected gain in log p(target). ``"greedy"``: the
        best next gene each time. The last two then remove every gene that is not needed.
    direction
        Change genes in ``"both"`` directions, or only ``"up"`` or ``"down"``.
    restrict
        Genes that may change: a list, or a text file with one gene per line, for example transcription factors
        (AnimalTFDB for human and mouse, humantfs.ccbr.utoronto.ca for human).
    stable
        Under ``"effect"``, report the length from which the cell stays flipped, not the length at which it first flips.
    method_genes
        ``"effect"``, or ``"paper"``: :math:`\Delta` = decode(z + shift) - x, which adds the reconstruction error to the
        effect.
    n_random
        Random directions of equal length for the null of the recurrence under ``"effect"``. The other orders have no
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
    ...     adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_sd=2, n_random=10
    ... )
    >>> found.counts["source"]
    13
    """
    check(
        RULES, n_sd=n_sd, n_dims=n_dims, sd_from=sd_from, order=order, direction=direction, method_genes=method_genes,
        min_probability=min_probability, n_random=n_random,
    )  # fmt: skip
    groupby = classifier.groupby if groupby is None else groupby
    cells = read_cells(adata, model, classifier, groupby)
    check_pair(classifier, cells, source, target)
    allowed = allowed_genes(model.gene_names, restrict)
    sources, code = cells.of(source), classifier.code(target)
    chosen = enriched_dimensions(cells, model, n_dims)
    shift = directions(cells, source, target, chosen, sd_from=sd_from, direction="signed")["shift"]
    converted = follow(model, classifier, cells, sources, shift, (n_sd,), target).converted(min_probability)[0]
    incremental = IncrementalClassifier(classifier)

    def classify(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p, is_top = incremental.classify(incremental.hidden(x), code)
        return p, is_top & (p >= min_probability)

    already = classify(cells.x[sources])[1]
    rows = sources[converted & ~already]
    changes = _Change(model, cells, allowed, direction, method_genes)
    change = changes(rows, n_sd * shift.z)
    flips: dict[int, Flip] = {}
    with progress_bar("minimal genes", len(rows), show=progress) as advance:
        for i, row in enumerate(rows):
            flip = smallest_set(
                incremental, cells.x[row], change[i], code, order=order, stable=stable, min_probability=min_probability
            )
            if flip is not None:
                flips[i] = flip
            advance()
    flipping = np.array(list(flips), dtype=int)
    rows, change = rows[flipping], change[flipping]
    sets = [flip.genes for flip in flips.values()]
    x = cells.x[rows]
    edited = edit_cells(x, change, sets)
    probability, flipped = classify(edited)
    names = model.gene_names.to_numpy()
    table = pd.DataFrame(
        {
            "cell": adata.obs_names.to_numpy()[rows],
            "n_genes": [len(s) for s in sets],
            "n_first": [flip.n_first for flip in flips.values()],
            "n_stable": [flip.n_stable for flip in flips.values()],
            "probability_before": classify(x)[0],
            "probability_after": probability,
            "flipped": flipped,
            "genes": [", ".join(names[s]) for s in sets],
        }
    )
    distance, usual = distance_to_type(edited, cells.x[cells.of(target)])
    table["distance"], table["usual_distance"] = distance, float(np.median(usual))
    table["plausible"] = distance <= np.quantile(usual, 0.95)

    random = _random.generator(rng, "minimal genes")
    # the null ranks genes by effect; it is not the null of a search
    n_null = n_random if order == "effect" and len(rows) else 0
    null = recurrence_null(changes, rows, sets, shift, n_sd, n_null, random)
    genes = recurrence(model, sets, change, null)
    beside = baselines(incremental, cells, rows, sets, change, source, target, code, min_probability, random)
    counts = {
        "source": len(sources),
        "already_target": int(already.sum()),
        "converted": int((converted & ~already).sum()),
        "flipped": len(rows),
    }
    params = {
        "source": source, "target": target, "groupby": groupby, "n_sd": n_sd, "n_dims": n_dims, "order": order,
        "direction": direction, "stable": stable, "method_genes": method_genes, "n_random": n_random,
        "n_allowed": int(allowed.sum()),
    }  # fmt: skip
    results(adata)["minimal_genes"] = {"cells": table, "genes": genes, "baselines": beside, "params": params}
    return MinimalGenes(table, genes, beside, counts, params, adata, model, rows, edited)


def allowed_genes(genes: pd.Index, restrict: Sequence[str] | str | PathLike[str] | None) -> np.ndarray:
    """Return which genes may change."""
    if restrict is None:
        return np.ones(len(genes), bool)
    if isinstance(restrict, str | PathLike):
        path = Path(restrict).expanduser()
        if not path.is_file():
            raise DataError(
                f"restrict is {str(restrict)!r}, and there is no such file; give a list of genes, or a text file with "
                "one per line (transcription factors: AnimalTFDB, or humantfs.ccbr.utoronto.ca for human)."
            )
        restrict = [
            line.split()[0].strip(",;\"'") for line in path.read_text(encoding="utf-8").splitlines() if line.split()
        ]
    allowed = np.asarray(genes.isin([str(g) for g in restrict]))
    if not allowed.any():
        raise DataError(f"None of the {len(restrict)} genes of restrict is among the model's {len(genes)} genes.")
    return allowed
