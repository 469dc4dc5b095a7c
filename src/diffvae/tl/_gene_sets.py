"""The smallest set of genes that flips one cell: rankings, searches, and a classifier that re-classifies edits fast."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import embedding_bag

if TYPE_CHECKING:
    from diffvae.model import CellStateClassifier

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
        self.device = self.rows.device

    def hidden(self, x: np.ndarray) -> torch.Tensor:
        """Return the linear output of the first layer for cells (x genes)."""
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.device) @ self.rows + self.bias

    @torch.no_grad()
    def classify(self, hidden: torch.Tensor, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Return p(target), and whether target is the most probable type, for linear outputs of the first layer."""
        p = torch.softmax(self.after_first(hidden) / self.temperature, dim=1)
        return p[:, target].cpu().numpy(), (p[:, target] >= p.amax(1)).cpu().numpy()

    @torch.no_grad()
    def prefixes(
        self, hidden: torch.Tensor, genes: np.ndarray, change: np.ndarray, lengths: np.ndarray | None = None
    ) -> torch.Tensor:
        """Return the linear outputs of the first layer after the first 1, 2, ..., n of ``genes`` were changed.

        ``hidden`` is that of the cell. There is one row per prefix: all of them, or those of the given lengths
        (ascending).
        """
        lengths = np.arange(1, len(genes) + 1) if lengths is None else lengths
        at, amount = self._genes(genes[: lengths[-1]], change[: lengths[-1]])
        begins = torch.from_numpy(np.concatenate([[0], lengths[:-1]])).to(self.device)
        # only the sums between two lengths are formed, not that of every prefix
        steps = embedding_bag(at, self.rows, begins, mode="sum", per_sample_weights=amount)
        # a long sum; in float64 its order does not matter
        return steps.double().cumsum_(0).add_(hidden).float()

    @torch.no_grad()
    def singles(self, hidden: torch.Tensor, genes: np.ndarray, change: np.ndarray) -> torch.Tensor:
        """Return the linear outputs of the first layer after each single one of ``genes`` was changed."""
        at, amount = self._genes(genes, change)
        return torch.addcmul(hidden, self.rows[at], amount[:, None])

    def _genes(self, genes: np.ndarray, change: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return numbers and changes of genes on the device."""
        at = torch.from_numpy(np.ascontiguousarray(genes)).to(self.device)
        amount = torch.from_numpy(np.ascontiguousarray(change, dtype=np.float32)).to(self.device)
        return at, amount

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


Search = Generator[torch.Tensor, tuple[np.ndarray, np.ndarray], Flip | None]
"""The search for one cell: it yields edits (linear outputs of the first layer) and is sent p(target) and whether they
flip."""


def search_together(
    classifier: IncrementalClassifier, searches: Sequence[Search], target: int, min_probability: float
) -> list[Flip | None]:
    """Run the searches of several cells side by side: what they ask for is classified at once, which is faster."""
    found: list[Flip | None] = [None] * len(searches)
    asked = {i: next(search) for i, search in enumerate(searches)}
    while asked:
        probability, is_top = classifier.classify(torch.cat(list(asked.values())), target)
        flipped = is_top & (probability >= min_probability)
        ends = np.cumsum([len(edits) for edits in asked.values()])[:-1]
        answers = zip(list(asked), np.split(probability, ends), np.split(flipped, ends), strict=True)
        for i, *answer in answers:
            try:
                asked[i] = searches[i].send((answer[0], answer[1]))
            except StopIteration as end:
                del asked[i]
                found[i] = end.value
    return found


def smallest_set(
    classifier: IncrementalClassifier,
    x: np.ndarray,
    change: np.ndarray,
    target: int,
    *,
    order: str,
    stable: bool,
    scale: np.ndarray | float = 1.0,
    eliminate: bool = True,
) -> Search:
    """Search the genes that flip a cell to the target; see :func:`search_together`.

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
    scale
        Factor of each gene to the scale of log-normalised expression, on which ``"effect"`` ranks.
    eliminate
        Under ``"effect"``, remove genes that the cell does not need; the other orders always do.
    """
    candidates, hidden = np.flatnonzero(change), classifier.hidden(x[None])[0]
    if order == "greedy":
        return (yield from _greedy(classifier, hidden, change, candidates))
    key = -np.abs(change * scale) if order == "effect" else -classifier.gradient(x[None], target)[0] * change
    ranked = candidates[key[candidates].argsort(kind="stable")]
    lengths = lengths_tried(len(ranked))
    _, flipped = yield classifier.prefixes(hidden, ranked, change[ranked], lengths)
    if not flipped.any():
        return None
    stays = np.logical_and.accumulate(flipped[::-1])[::-1]
    n_first = int((yield from _between(classifier, hidden, ranked, change, lengths, int(flipped.argmax())))[0])
    n_stable = 0
    if stays.any():
        between = yield from _between(classifier, hidden, ranked, change, lengths, int(stays.argmax()))
        n_stable = int(between[np.flatnonzero(np.diff(between, prepend=-1) > 1)[-1]])
    n = n_stable if order == "effect" and stable else n_first
    if not n:
        return None
    genes = ranked[:n]
    if eliminate or order != "effect":
        genes = yield from _eliminate(classifier, hidden, change, genes)
    return Flip(genes, n_first, n_stable)


def lengths_tried(n_genes: int) -> np.ndarray:
    """Return the lengths of a ranking at which a cell is classified, the whole ranking among them."""
    n_later = max(0, int(np.ceil(np.log(max(n_genes, 1) / ALL_LENGTHS) / np.log(GROWTH))))
    later = np.round(ALL_LENGTHS * GROWTH ** np.arange(1, n_later + 1)).astype(int)
    return np.unique(np.minimum(np.concatenate([np.arange(1, ALL_LENGTHS + 1), later, [n_genes]]), n_genes))


Part = Generator[torch.Tensor, tuple[np.ndarray, np.ndarray], np.ndarray]


def _between(
    classifier: IncrementalClassifier,
    hidden: torch.Tensor,
    ranked: np.ndarray,
    change: np.ndarray,
    lengths: np.ndarray,
    at: int,
) -> Part:
    """Return the lengths at which the cell is flipped after ``lengths[at - 1]``, up to ``lengths[at]``."""
    between = np.arange(lengths[at - 1] + 1 if at else 1, lengths[at] + 1)
    if len(between) == 1:
        return between
    genes = ranked[: between[-1]]
    _, flipped = yield classifier.prefixes(hidden, genes, change[genes], between)
    return between[flipped]


def _greedy(
    classifier: IncrementalClassifier, hidden: torch.Tensor, change: np.ndarray, candidates: np.ndarray
) -> Search:
    """Add the gene that raises p(target) most, until the cell flips or no gene raises it."""
    start, left, best = hidden, candidates.copy(), -1.0
    taken: list[int] = []
    while len(left):
        probability, flipped = yield classifier.singles(hidden, left, change[left])
        i = int(probability.argmax())
        if probability[i] <= best:
            return None
        best = float(probability[i])
        taken.append(int(left[i]))
        hidden = hidden + classifier.rows[left[i]] * float(change[left[i]])
        if flipped[i]:
            genes = yield from _eliminate(classifier, start, change, np.array(taken))
            return Flip(genes, len(taken), 0)
        left = np.delete(left, i)
    return None


def _eliminate(classifier: IncrementalClassifier, hidden: torch.Tensor, change: np.ndarray, genes: np.ndarray) -> Part:
    """Remove genes, the most dispensable first, until the cell needs every gene that is left."""
    genes = genes.copy()
    while len(genes) > 1:
        edited = classifier.prefixes(hidden, genes, change[genes], np.array([len(genes)]))[0]
        probability, dispensable = yield classifier.singles(edited, genes, -change[genes])
        if not dispensable.any():
            break
        # remove as many together as the cell can lose; the first alone is known to be dispensable
        order = np.argsort(np.where(dispensable, -probability, 1.0), kind="stable")[: dispensable.sum()]
        tried = np.unique(np.linspace(1, len(order), N_REMOVALS).astype(int))
        _, survives = yield classifier.prefixes(edited, genes[order], -change[genes[order]], tried)
        n = int(tried[np.flatnonzero(survives)[-1]]) if survives.any() else 1
        genes = np.delete(genes, order[: min(n, len(genes) - 1)])
    return genes
