"""Is an edited cell still a cell that could be?"""

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
from diffvae._errors import DataError
from diffvae.tl import _gene_sets
from diffvae.tl._directions import (
    Cells,
    Direction,
    check_pair,
    directions,
    enriched_dimensions,
    random_directions,
    read_cells,
)
from diffvae.tl._gene_sets import IncrementalClassifier
from diffvae.tl._perturb import changed_adata, follow

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model

N_NEIGHBORS = 5


def distance_to_type(edited: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean Euclidean distance of each edited cell to its nearest real ones, and the usual such distance.

    Parameters
    ----------
    edited, real
        Cells x genes; ``real`` are those of the target type.

    Returns
    -------
    One distance per edited cell, and one per real cell to the nearest others of its type.
    """
    from sklearn.neighbors import NearestNeighbors

    n = min(N_NEIGHBORS, len(real) - 1)
    neighbours = NearestNeighbors(n_neighbors=n, algorithm="brute").fit(real)
    usual = neighbours.kneighbors()[0].mean(1)
    if not len(edited):
        return np.zeros(0), usual
    return neighbours.kneighbors(edited)[0].mean(1), usual


NULL_CELLS = 100
N_DRAWS = 20
"""Draws of random genes for the baseline."""
MIN_SHARE = 0.05
"""Genes in fewer of the sets aren't tested: they can't be called recurrent, and would cost the others power."""


def gene_change(model: Model, cells: Cells, rows: np.ndarray, shift: np.ndarray, method_genes: str) -> np.ndarray:
    """Return what is added to each gene of each cell, so that the result stays in the range of the layer."""
    x, z = cells.x[rows], cells.z[rows]
    y = cells.clip(model.decode(z + shift.astype(np.float32)))
    change = y - (x if method_genes == "paper" else cells.clip(model.decode(z)))
    return cells.clip(x + change) - x


def able_genes(change: np.ndarray, allowed: np.ndarray, direction: str) -> np.ndarray:
    sided = {"both": change != 0, "up": change > 0, "down": change < 0}[direction]
    return sided & allowed


def edit_cells(x: np.ndarray, change: np.ndarray, sets: Sequence[np.ndarray]) -> np.ndarray:
    edited = x.copy()
    for i, genes in enumerate(sets):
        edited[i, genes] += change[i, genes]
    return edited


def recurrence_null(
    model: Model,
    cells: Cells,
    rows: np.ndarray,
    sets: Sequence[np.ndarray],
    way: Direction,
    n_sd: float,
    allowed: np.ndarray,
    direction: str,
    method_genes: str,
    n_random: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return how often each gene would be in sets of these sizes under random directions: draws x genes, a share.

    The sizes are those found; the genes are the first of the ranking by effect that the random direction gives. So a
    gene that moves whatever one does (a highly expressed one, say) is no finding.
    """
    picked = np.arange(len(rows)) if len(rows) <= NULL_CELLS else rng.choice(len(rows), NULL_CELLS, replace=False)
    sizes = [len(sets[i]) for i in picked]
    shares = np.zeros((n_random, cells.x.shape[1]))
    for draw, other in enumerate(random_directions(way, cells.z.std(0), n_random, rng)):
        change = gene_change(model, cells, rows[picked], n_sd * other.z, method_genes)
        score = np.where(able_genes(change, allowed, direction), np.abs(change), -np.inf)
        for values, size in zip(score, sizes, strict=True):
            top = np.argpartition(-values, size - 1)[:size]
            shares[draw, top[np.isfinite(values[top])]] += 1
    return shares / max(len(picked), 1)


def recurrence(
    names: np.ndarray, model: Model, sets: Sequence[np.ndarray], change: np.ndarray, null: np.ndarray
) -> pd.DataFrame:
    """Return one row per gene in any set: how many cells need it, which way, and whether chance would have it so."""
    count = np.bincount(np.concatenate(sets) if sets else np.array([], int), minlength=len(names))
    used = np.flatnonzero(count)
    inside = np.zeros(change.shape, bool)
    for i, genes in enumerate(sets):
        inside[i, genes] = True
    share = count / max(len(sets), 1)
    mean = (change * inside).sum(0)[used] / count[used]
    p = (1 + (null[:, used] >= share[used]).sum(0)) / (1 + len(null)) if len(null) else np.full(len(used), np.nan)
    q = np.full(len(used), np.nan)
    tested = (share[used] >= MIN_SHARE) & ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    features = model.features
    frame = pd.DataFrame(
        {
            "gene": names[used],
            "n_cells": count[used],
            "share": share[used],
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


def other_genes(
    edited: IncrementalClassifier,
    cells: Cells,
    rows: np.ndarray,
    sets: Sequence[np.ndarray],
    change: np.ndarray,
    able: np.ndarray,
    source: str,
    target: str,
    code: int,
    min_probability: float,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return the share of these cells that as many other genes, changed alike, would flip."""
    x = cells.x[rows]

    def flipped(choice: Sequence[np.ndarray]) -> float:
        p, leads = edited.answers(edited.hidden(edit_cells(x, change, choice)), code)
        return float((leads & (p >= min_probability)).mean())

    if not len(rows):
        return pd.DataFrame({"genes": ["found", "differentially expressed", "random"], "flipped": np.nan, "sd": np.nan})
    sizes = [len(s) for s in sets]
    t = stats.ttest_ind(cells.x[cells.of(target)], cells.x[cells.of(source)], equal_var=False).statistic
    by_t = np.argsort(-np.abs(np.nan_to_num(t)), kind="stable")
    ranked = [by_t[able[i, by_t]][:n] for i, n in enumerate(sizes)]
    drawn = [
        flipped([rng.permutation(np.flatnonzero(able[i]))[:n] for i, n in enumerate(sizes)]) for _ in range(N_DRAWS)
    ]
    return pd.DataFrame(
        {
            "genes": ["found", "differentially expressed", "random"],
            "flipped": [flipped(sets), flipped(ranked), float(np.mean(drawn))],
            "sd": [np.nan, np.nan, float(np.std(drawn, ddof=1))],
        }
    )


@dataclass(frozen=True)
class MinimalGenes:
    """Result of :func:`diffvae.tl.minimal_genes`.

    Attributes
    ----------
    cells
        One row per cell that flips: ``n_genes`` (size of the reported set), ``n_first`` and ``n_stable`` (lengths of
        the ranking at which the call flips first and for good; 0 where it doesn't stay or wasn't followed), the
        probability of the target before and after, ``flipped`` (classified again as a whole), ``genes``, ``distance``
        (mean over the five nearest real cells of the target type), ``usual_distance`` (median of the same among
        these), ``plausible`` (at most their 95th percentile).
    genes
        One row per gene in any set: ``n_cells``, ``share``, ``direction``, ``mean_change`` (on the scale of the
        training layer), ``null_share`` (in sets of the same sizes under random directions), ``p_value``, ``q_value``
        (Benjamini-Hochberg over genes in at least 5 % of the sets; NaN for the orders ``"gradient"`` and ``"greedy"``).
    baselines
        Share of the cells that flip by as many genes of other kinds, set to the same perturbed values.
    counts
        Cells: ``source``; ``already_target`` before any change; ``converted`` by the shift and not already target;
        ``flipped`` by some set of genes.
    params
        What it was run with.
    adata, model
        Where the cells come from.
    rows
        Numbers of the cells in ``adata``, in the order of ``cells``.
    edited
        Their expression after the edit, cells x genes, on the scale of the training layer.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> found = dv.tl.minimal_genes(
    ...     adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_sd=2, n_random=5, progress=False
    ... )
    >>> found.curve().columns.tolist()
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
        """Return the share of the converted cells that flip with at most so many genes: ``n_genes``, ``share``."""
        sizes = np.sort(self.cells["n_genes"].to_numpy())
        n, at = np.unique(sizes, return_counts=True)
        return pd.DataFrame({"n_genes": n, "share": at.cumsum() / max(self.counts["converted"], 1)})

    def to_adata(self) -> AnnData:
        """Return the edited cells, embedded and placed into the t-SNE map of the originals if there is one."""
        z = self.model._encode(self.edited)
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
    r"""Find, for each converted cell, the fewest genes that flip its call when set to their perturbed values.

    .. math:: x'_g = x_g + \Delta_g \mbox{ for } g \in S, \qquad \Delta = decode(z + shift) - decode(z)

    clipped to the range of the scaling; the smallest S with :math:`p(target \mid x') \ge p_{min}`. The cell that is
    edited is the real one, x, not its reconstruction, and every reported set is classified again.

    Parameters
    ----------
    adata, model, classifier, source, target, groupby, n_dims, sd_from, min_probability
        As in :func:`perturb`.
    n_sd
        Standard deviations of the shift.
    order
        ``"effect"``: genes by the size of their change, as the paper; the call is looked at after every single one,
        as its curve is not monotone. ``"gradient"``: by expected gain in log p(target), and ``"greedy"``: the best
        next gene each time; both then drop every gene that is not needed.
    direction
        ``"both"``, or only genes that go ``"up"`` or ``"down"``.
    restrict
        Genes that may change: a list, or a text file with one per line (transcription factors, say; lists for human
        and mouse are at AnimalTFDB and at humantfs.ccbr.utoronto.ca).
    stable
        Under ``"effect"``, count up to where the call stays for every longer prefix, not to where it first flips.
    method_genes
        ``"effect"``, or ``"paper"``: :math:`\Delta` = decode(z + shift) - x, which mixes the error of the
        reconstruction with the effect.
    n_random
        Random directions of equal length for the null of the recurrence under ``"effect"``; the two searches choose
        genes in another way than a ranking does and get no p-values.
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
        As :func:`perturb`, or if none of ``restrict`` is among the model's genes.

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
    groupby = classifier.groupby if groupby is None else groupby
    check_options(n_sd, n_dims, sd_from, order, direction, method_genes, min_probability, n_random)
    cells = read_cells(adata, model, classifier, groupby)
    check_pair(classifier, cells, source, target)
    allowed = allowed_genes(model.gene_names, restrict)
    own, code = cells.of(source), classifier.code(target)
    way = directions(
        cells, source, target, enriched_dimensions(cells, model, n_dims), sd_from=sd_from, direction="signed"
    )["shift"]
    converted = follow(model, classifier, cells, own, way, (n_sd,), target).converted(min_probability)[0]
    edited = IncrementalClassifier(classifier)
    before, leads = edited.answers(edited.hidden(cells.x[own]), code)
    already = leads & (before >= min_probability)
    rows = own[converted & ~already]
    change = gene_change(model, cells, rows, n_sd * way.z, method_genes)
    able = able_genes(change, allowed, direction)

    found: dict[int, _gene_sets.Flip] = {}
    with progress_bar("minimal genes", len(rows), show=progress) as advance:
        for i, row in enumerate(rows):
            flip = _gene_sets.find(
                edited, cells.x[row], change[i], np.flatnonzero(able[i]), code,
                order=order, stable=stable, min_probability=min_probability,
            )  # fmt: skip
            if flip is not None:
                found[i] = flip
            advance()
    kept = np.array(list(found), dtype=int)
    sets = [found[i].genes for i in kept]
    x = cells.x[rows[kept]]
    after_edit = edit_cells(x, change[kept], sets)
    after, leads = edited.answers(edited.hidden(after_edit), code)
    names = model.gene_names.to_numpy()
    table = pd.DataFrame(
        {
            "cell": adata.obs_names.to_numpy()[rows[kept]],
            "n_genes": [len(s) for s in sets],
            "n_first": [found[i].n_first for i in kept],
            "n_stable": [found[i].n_stable for i in kept],
            "probability_before": edited.answers(edited.hidden(x), code)[0],
            "probability_after": after,
            "flipped": leads & (after >= min_probability),
            "genes": [", ".join(names[s]) for s in sets],
        }
    )
    distance, usual = distance_to_type(after_edit, cells.x[cells.of(target)])
    table["distance"], table["usual_distance"] = distance, float(np.median(usual))
    table["plausible"] = distance <= np.quantile(usual, 0.95)

    random = _random.generator(rng, "minimal genes")
    # the searches choose genes in another way than a ranking does, so that a ranking is no null for them
    n_null = n_random if order == "effect" and len(kept) else 0
    null = recurrence_null(model, cells, rows[kept], sets, way, n_sd, allowed, direction, method_genes, n_null, random)
    genes = recurrence(names, model, sets, change[kept], null)
    baselines = other_genes(
        edited, cells, rows[kept], sets, change[kept], able[kept], source, target, code, min_probability, random
    )
    counts = {
        "source": len(own),
        "already_target": int(already.sum()),
        "converted": len(rows),
        "flipped": len(kept),
    }
    params = {
        "source": source, "target": target, "groupby": groupby, "n_sd": n_sd, "n_dims": n_dims, "order": order,
        "direction": direction, "stable": stable, "method_genes": method_genes, "n_random": n_random,
        "n_allowed": int(allowed.sum()),
    }  # fmt: skip
    results(adata)["minimal_genes"] = {"cells": table, "genes": genes, "baselines": baselines, "params": params}
    return MinimalGenes(table, genes, baselines, counts, params, adata, model, rows[kept], after_edit)


def allowed_genes(genes: pd.Index, restrict: Sequence[str] | str | PathLike[str] | None) -> np.ndarray:
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


def check_options(
    n_sd: float,
    n_dims: int,
    sd_from: str,
    order: str,
    direction: str,
    method_genes: str,
    min_probability: float,
    n_random: int,
) -> None:
    if not (np.ndim(n_sd) == 0 and np.isfinite(n_sd) and n_sd > 0):
        raise ValueError(f"n_sd is {n_sd}; give one finite number of standard deviations above 0.")
    for name, value, choices in (
        ("order", order, _gene_sets.ORDERS),
        ("direction", direction, ("both", "up", "down")),
        ("method_genes", method_genes, ("effect", "paper")),
        ("sd_from", sd_from, ("all", "group")),
    ):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; it is one of {', '.join(choices)}.")
    if n_dims < 1 or n_random < 1:
        raise ValueError(f"n_dims={n_dims} and n_random={n_random} must be 1 or more.")
    if not 0 <= min_probability < 1:
        raise ValueError(f"min_probability is {min_probability}; it is at least 0 and below 1.")
