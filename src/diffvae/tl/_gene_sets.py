"""The smallest set of genes that flips one cell: rankings, searches, and a classifier that re-classifies edits fast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from diffvae.model import CellStateClassifier

BLOCK_BYTES = 128 * 2**20
"""Most bytes of pre-activations in memory at once."""
ORDERS = ("effect", "greedy", "gradient")
ALL_LENGTHS, GROWTH = 24, 1.125
"""The cell is classified after each of the first 24 genes of a ranking, and then after one eighth more each time.

Before the length at which it flips, and the one from which it stays so, it is classified after every gene back to the
length tried before. A flip that ends between two lengths is not seen.
"""
N_REMOVALS = 16
"""Numbers of dispensable genes that are tried at once."""


class IncrementalClassifier:
    r"""A classifier that re-classifies edits of one cell from the linear output of its first layer.

    .. math:: W_0 (x + \sum_{i \in S} \Delta_i e_i) + b_0 = h + \sum_{i \in S} \Delta_i W_{0, \cdot i}

    An edited gene costs one row of weights instead of a product over all genes. The edits of the first 1, 2, ... genes
    of a list are the cumulative sums of these rows.

    Parameters
    ----------
    classifier
        Trained.
    """

    def __init__(self, classifier: CellStateClassifier) -> None:
        module = classifier.module
        first = module.linears[0]
        self.after_first = module.after_first
        self.rows = first.weight.detach().T.contiguous()  # genes x units
        self.bias = first.bias.detach()
        self.temperature = classifier.temperature
        self.block = max(1, BLOCK_BYTES // (4 * max(layer.out_features for layer in module.linears)))
        self.device = self.rows.device

    def hidden(self, x: np.ndarray) -> torch.Tensor:
        """Return the linear output of the first layer for cells (x genes)."""
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.device) @ self.rows + self.bias

    @torch.no_grad()
    def classify(self, hidden: torch.Tensor, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Return p(target), and whether target is the most probable type, for linear outputs of the first layer."""
        p = torch.softmax(self.after_first(hidden) / self.temperature, dim=1)
        return p[:, target].cpu().numpy(), (p[:, target] >= p.amax(1)).cpu().numpy()

    def _blocks(self, genes: np.ndarray, change: np.ndarray) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield rows of weights (genes x units) and changes (genes x 1)."""
        for i in range(0, len(genes), self.block):
            part = torch.from_numpy(np.ascontiguousarray(genes[i : i + self.block])).to(self.device)
            amount = np.ascontiguousarray(change[i : i + self.block], dtype=np.float32)
            yield self.rows[part], torch.from_numpy(amount).to(self.device)[:, None]

    @torch.no_grad()
    def prefixes(
        self,
        hidden: torch.Tensor,
        genes: np.ndarray,
        change: np.ndarray,
        target: int,
        lengths: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Classify the cell of ``hidden`` after the first 1, 2, ..., n of ``genes`` were changed by ``change``.

        Returns p(target) and whether target is the most probable type, one value per prefix: all of them, or those of
        the given lengths (ascending).
        """
        lengths = np.arange(1, len(genes) + 1) if lengths is None else lengths
        hidden = hidden.double()  # a long sum; in float64 its order does not matter
        results, done = [], 0
        for rows, amount in self._blocks(genes, change):
            steps = (rows * amount).cumsum_(0)
            at = lengths[(lengths > done) & (lengths <= done + len(rows))] - done - 1
            if len(at):
                results.append(self.classify((hidden + steps[torch.from_numpy(at)]).float(), target))
            hidden = hidden + steps[-1].double()
            done += len(rows)
        probability, is_top = zip(*results, strict=True)
        return np.concatenate(probability), np.concatenate(is_top)

    @torch.no_grad()
    def singles(
        self, hidden: torch.Tensor, genes: np.ndarray, change: np.ndarray, target: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Classify the cell of ``hidden`` after each single one of ``genes`` was changed; returns as `prefixes`."""
        results = [
            self.classify(torch.addcmul(hidden, rows, amount), target) for rows, amount in self._blocks(genes, change)
        ]
        probability, is_top = zip(*results, strict=True)
        return np.concatenate(probability), np.concatenate(is_top)

    def gradient(self, x: np.ndarray, target: int) -> np.ndarray:
        r"""Return the gradient of :math:`\log p(target)` with respect to expression, cells x genes."""
        hidden = self.hidden(x).requires_grad_()
        log_p = torch.log_softmax(self.after_first(hidden) / self.temperature, dim=1)[:, target].sum()
        (slope,) = torch.autograd.grad(log_p, hidden)
        return (slope @ self.rows.T).cpu().numpy()


@dataclass(frozen=True)
class Flip:
    """Genes that flip a cell, and the lengths of the ranking at which it first flips and from which it stays so."""

    genes: np.ndarray
    n_first: int
    n_stable: int


def smallest_set(
    classifier: IncrementalClassifier,
    x: np.ndarray,
    change: np.ndarray,
    target: int,
    *,
    order: str,
    stable: bool,
    min_probability: float,
    scale: np.ndarray | float = 1.0,
    eliminate: bool = True,
) -> Flip | None:
    """Return the genes that flip a cell to the target, or None if no set is found.

    Parameters
    ----------
    classifier
        The classifier.
    x, change
        The cell, and what the perturbation adds to each gene; 0 for genes that may not change.
    target
        Number of the type.
    order
        ``"effect"``, ``"gradient"`` or ``"greedy"``.
    stable
        Under ``"effect"``, report the length from which the cell stays flipped instead of the first that flips it.
    min_probability
        Least probability of the target.
    scale
        Factor of each gene to the scale of log-normalised expression, on which ``"effect"`` ranks.
    eliminate
        Under ``"effect"``, remove genes that the cell does not need; the other orders always do.
    """
    candidates = np.flatnonzero(change)
    if not len(candidates):
        return None
    if order == "greedy":
        return _greedy(classifier, x, change, candidates, target, min_probability)
    key = -np.abs(change * scale) if order == "effect" else -classifier.gradient(x[None], target)[0] * change
    ranked = candidates[key[candidates].argsort(kind="stable")]
    hidden, lengths = classifier.hidden(x[None])[0], lengths_tried(len(ranked))
    flipped = _flipped(classifier, hidden, ranked, change, target, lengths, min_probability)
    if not flipped.any():
        return None
    stays = np.logical_and.accumulate(flipped[::-1])[::-1]
    between = _between(classifier, hidden, ranked, change, target, lengths, int(flipped.argmax()), min_probability)
    n_first, n_stable = int(between[0]), 0
    if stays.any():
        between = _between(classifier, hidden, ranked, change, target, lengths, int(stays.argmax()), min_probability)
        n_stable = int(between[np.flatnonzero(np.diff(between, prepend=-1) > 1)[-1]])
    if order == "effect":
        n = n_stable if stable else n_first
        if not n:
            return None
        genes = ranked[:n]
        return Flip(
            _eliminate(classifier, x, change, genes, target, min_probability) if eliminate else genes, n_first, n_stable
        )
    genes = _eliminate(classifier, x, change, ranked[:n_first], target, min_probability)
    return Flip(genes, n_first, n_stable)


def lengths_tried(n_genes: int) -> np.ndarray:
    """Return the lengths of a ranking at which a cell is classified, the whole ranking among them."""
    n_later = max(0, int(np.ceil(np.log(max(n_genes, 1) / ALL_LENGTHS) / np.log(GROWTH))))
    later = np.round(ALL_LENGTHS * GROWTH ** np.arange(1, n_later + 1)).astype(int)
    return np.unique(np.minimum(np.concatenate([np.arange(1, ALL_LENGTHS + 1), later, [n_genes]]), n_genes))


def _flipped(
    classifier: IncrementalClassifier,
    hidden: torch.Tensor,
    ranked: np.ndarray,
    change: np.ndarray,
    target: int,
    lengths: np.ndarray,
    min_probability: float,
) -> np.ndarray:
    genes = ranked[: lengths[-1]]
    probability, is_top = classifier.prefixes(hidden, genes, change[genes], target, lengths)
    return is_top & (probability >= min_probability)


def _between(
    classifier: IncrementalClassifier,
    hidden: torch.Tensor,
    ranked: np.ndarray,
    change: np.ndarray,
    target: int,
    lengths: np.ndarray,
    at: int,
    min_probability: float,
) -> np.ndarray:
    """Return the lengths at which the cell is flipped after ``lengths[at - 1]``, up to ``lengths[at]``."""
    between = np.arange(lengths[at - 1] + 1 if at else 1, lengths[at] + 1)
    if len(between) == 1:
        return between
    return between[_flipped(classifier, hidden, ranked, change, target, between, min_probability)]


def _greedy(
    classifier: IncrementalClassifier,
    x: np.ndarray,
    change: np.ndarray,
    candidates: np.ndarray,
    target: int,
    min_probability: float,
) -> Flip | None:
    """Add the gene that raises p(target) most, until the cell flips or no gene raises it."""
    hidden = classifier.hidden(x[None])[0]
    left, taken, best = candidates.copy(), [], -1.0
    while len(left):
        probability, is_top = classifier.singles(hidden, left, change[left], target)
        i = int(probability.argmax())
        if probability[i] <= best:
            return None
        best = float(probability[i])
        taken.append(left[i])
        hidden = hidden + classifier.rows[left[i]] * float(change[left[i]])
        if is_top[i] and best >= min_probability:
            genes = _eliminate(classifier, x, change, np.array(taken), target, min_probability)
            return Flip(genes, len(taken), 0)
        left = np.delete(left, i)
    return None


def _eliminate(
    classifier: IncrementalClassifier,
    x: np.ndarray,
    change: np.ndarray,
    genes: np.ndarray,
    target: int,
    min_probability: float,
) -> np.ndarray:
    """Remove genes, the most dispensable first, until the cell needs every gene that is left."""
    genes = genes.copy()
    while len(genes) > 1:
        edit = x.copy()
        edit[genes] += change[genes]
        hidden = classifier.hidden(edit[None])[0]
        probability, is_top = classifier.singles(hidden, genes, -change[genes], target)
        dispensable = is_top & (probability >= min_probability)
        if not dispensable.any():
            break
        # remove as many together as the cell can lose; the first alone is known to be dispensable
        order = np.argsort(np.where(dispensable, -probability, 1.0), kind="stable")[: dispensable.sum()]
        tried = np.unique(np.linspace(1, len(order), N_REMOVALS).astype(int))
        together, is_top = classifier.prefixes(hidden, genes[order], -change[genes[order]], target, tried)
        survives = np.flatnonzero(is_top & (together >= min_probability))
        n = max(1, min(int(tried[survives[-1]]) if len(survives) else 1, len(genes) - 1))
        genes = np.delete(genes, order[:n])
    return genes
