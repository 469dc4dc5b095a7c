"""The smallest set of genes that flips the call of one cell: the paper's ranking, and two searches for less."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffvae.tl._prefix import EditedCells

ORDERS = ("effect", "greedy", "gradient")


@dataclass(frozen=True)
class Flip:
    """Gene numbers that flip a cell, and at which lengths of the ranking it flips first and for good."""

    genes: np.ndarray
    n_first: int
    n_stable: int


def find(
    edited: EditedCells,
    x: np.ndarray,
    change: np.ndarray,
    candidates: np.ndarray,
    target: int,
    *,
    order: str,
    stable: bool,
    min_probability: float,
) -> Flip | None:
    """Find the genes, or None if the ranking (or the search) never flips the call.

    Parameters
    ----------
    edited
        The classifier.
    x, change
        The cell and what the perturbation adds to each of its genes.
    candidates
        Numbers of the genes that may change.
    target
        Number of the type.
    order
        ``"effect"``, ``"gradient"`` or ``"greedy"``.
    stable
        Under ``"effect"``, report the first length from which on the call stays, or the first that flips it.
    min_probability
        Least probability of the target.
    """
    if not len(candidates):
        return None
    if order == "greedy":
        return _greedy(edited, x, change, candidates, target, min_probability)
    ranked = candidates[ranking(edited, x[None], change[None], target, order)[0][candidates].argsort(kind="stable")]
    probability, first = edited.prefixes(x, ranked, change[ranked], target)
    flipped = first & (probability >= min_probability)
    if not flipped.any():
        return None
    n_first = int(flipped.argmax()) + 1
    stays = np.logical_and.accumulate(flipped[::-1])[::-1]
    n_stable = int(stays.argmax()) + 1 if stays.any() else 0
    if order == "effect":
        if stable and not n_stable:
            return None
        return Flip(ranked[: n_stable if stable else n_first], n_first, n_stable)
    genes = eliminate(edited, x, change, ranked[:n_first], target, min_probability)
    return Flip(genes, n_first, n_stable)


def ranking(edited: EditedCells, x: np.ndarray, change: np.ndarray, target: int, order: str) -> np.ndarray:
    """Return numbers to sort genes by, smallest first, cells x genes: largest change, or largest expected gain."""
    if order == "effect":
        return -np.abs(change)
    return -edited.gradient(x, target) * change


def _greedy(
    edited: EditedCells, x: np.ndarray, change: np.ndarray, candidates: np.ndarray, target: int, min_probability: float
) -> Flip | None:
    """Add the gene that raises p(target) most, until the call flips or nothing raises it."""
    hidden = edited.hidden(x[None])[0]
    left, taken, best = candidates.copy(), [], -1.0
    while len(left):
        probability, first = edited.singles(hidden, left, change[left], target)
        i = int(probability.argmax())
        if probability[i] <= best:
            return None
        best = float(probability[i])
        taken.append(left[i])
        hidden = hidden + edited.rows[left[i]] * float(change[left[i]])
        if first[i] and best >= min_probability:
            genes = eliminate(edited, x, change, np.array(taken), target, min_probability)
            return Flip(genes, len(taken), 0)
        left = np.delete(left, i)
    return None


def eliminate(
    edited: EditedCells, x: np.ndarray, change: np.ndarray, genes: np.ndarray, target: int, min_probability: float
) -> np.ndarray:
    """Take genes out, the most dispensable first, until none can go without losing the call."""
    genes = genes.copy()
    while len(genes) > 1:
        edit = x.copy()
        edit[genes] += change[genes]
        probability, first = edited.singles(edited.hidden(edit[None])[0], genes, -change[genes], target)
        able = first & (probability >= min_probability)
        if not able.any():
            break
        # as many at once as the call survives; the first of them alone is known to be dispensable
        order = np.argsort(np.where(able, -probability, 1.0), kind="stable")[: able.sum()]
        together, leads = edited.prefixes(edit, genes[order], -change[genes[order]], target)
        survives = np.flatnonzero(leads & (together >= min_probability))
        n = max(1, min(int(survives[-1]) + 1 if len(survives) else 1, len(genes) - 1))
        genes = np.delete(genes, order[:n])
    return genes
