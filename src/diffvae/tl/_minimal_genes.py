"""The fewest genes that must change, up or down, to turn a cell of one type into another."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from diffvae import _random
from diffvae._adata import results
from diffvae._errors import DataError
from diffvae._progress import progress_bar
from diffvae.tl import _gene_sets
from diffvae.tl._cells import check_pair, read_cells
from diffvae.tl._gene_set_result import MinimalGenes
from diffvae.tl._perturb import follow
from diffvae.tl._plausible import plausibility
from diffvae.tl._prefix import EditedCells
from diffvae.tl._recurrence import able_genes, edit_cells, gene_change, other_genes, recurrence, recurrence_null
from diffvae.tl._shift import enriched_dimensions, ways

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model


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
    way = ways(cells, source, target, enriched_dimensions(cells, model, n_dims), sd_from=sd_from, direction="signed")[
        "shift"
    ]
    converted = follow(model, classifier, cells, own, way, (n_sd,), target).converted(min_probability)[0]
    edited = EditedCells(classifier)
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
    distance, usual = plausibility(after_edit, cells.x[cells.of(target)])
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
