"""The smallest set of genes that flips one cell: rankings, searches, and a classifier that re-classifies edits fast."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cache
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
BLOCK = 512
"""Edits that are classified at once: so few that what the layers give stays in the cache of the processor."""


@dataclass(frozen=True)
class Edits:
    """Edits of one cell.

    Attributes
    ----------
    hidden
        Linear output of the first layer for the cell.
    change
        The change of each gene of the cell.
    genes
        The genes that are edited.
    lengths
        One edit for each of these numbers (ascending): the first so many genes are changed. None for one edit per gene,
        in which it alone is changed.
    before
        Genes that are changed beforehand; the edits then take the changes of their genes back.
    """

    hidden: torch.Tensor
    change: np.ndarray
    genes: np.ndarray
    lengths: np.ndarray | None = None
    before: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.genes) if self.lengths is None else len(self.lengths)

    def signed(self, genes: np.ndarray) -> np.ndarray:
        """Return by how much the edits change genes."""
        return self.change[genes] if self.before is None else -self.change[genes]


class IncrementalClassifier:
    r"""A classifier that re-classifies edits of one cell from the linear output of its first layer.

    .. math:: W_0 (x + \sum_{i \in S} \Delta_i e_i) + b_0 = h + \sum_{i \in S} \Delta_i W_{0, \cdot i}

    An edited gene costs one row of weights instead of a product over all genes. The edits of the first 1, 2, ... genes
    of a list are the cumulative sums of these rows. The rows of all edits of several cells are summed at once.

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
        logits = torch.cat([self.after_first(block) for block in hidden.split(BLOCK)])
        p = torch.softmax(logits / self.temperature, dim=1)
        return p[:, target].cpu().numpy(), (p[:, target] >= p.amax(1)).cpu().numpy()

    @torch.no_grad()
    def edited(self, edits: Sequence[Edits]) -> torch.Tensor:
        """Return the linear outputs of the first layer after the edits of several cells, one row per edit."""
        genes: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        begins: list[np.ndarray] = []
        n = 0
        for e in edits:
            # the first row is what all edits of a cell share; each other row has the genes that an edit adds
            shared = e.genes[:0] if e.before is None else e.before
            added = e.genes if e.lengths is None else e.genes[: e.lengths[-1]]
            ends = np.arange(1, len(added)) if e.lengths is None else e.lengths[:-1]
            genes += [shared, added]
            weights += [e.change[shared], np.ones(len(added)) if e.lengths is None else e.signed(added)]
            begins += [np.array([n, n + len(shared)]), n + len(shared) + ends]
            n += len(shared) + len(added)
        rows = embedding_bag(
            self._tensor(np.concatenate(genes)), self.rows, self._tensor(np.concatenate(begins)), mode="sum",
            per_sample_weights=self._tensor(np.concatenate(weights).astype(np.float32)),
        )  # fmt: skip
        found = rows.new_empty(len(rows) - len(edits), rows.shape[1])
        parts = zip(edits, rows.split([1 + len(e) for e in edits]), found.split([len(e) for e in edits]), strict=True)
        for e, own, edited in parts:
            start = own[0].add_(e.hidden)
            if e.lengths is None:
                amount = self._tensor(e.signed(e.genes).astype(np.float32))
                torch.addcmul(start, own[1:], amount[:, None], out=edited)
            else:  # a long sum; in float64 its order does not matter
                edited.copy_(own[1:].cumsum(0, dtype=torch.float64).add_(start))
        return found

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

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


Search = Generator[Edits, tuple[np.ndarray, np.ndarray], Flip | None]
"""The search for one cell: it yields edits and is sent p(target) and whether they flip."""


def search_together(
    classifier: IncrementalClassifier, searches: Sequence[Search], target: int, min_probability: float
) -> list[Flip | None]:
    """Run the searches of several cells side by side: what they ask for is classified at once, which is faster."""
    found: list[Flip | None] = [None] * len(searches)
    asked = {i: next(search) for i, search in enumerate(searches)}
    while asked:
        probability, is_top = classifier.classify(classifier.edited(list(asked.values())), target)
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
    _, flipped = yield Edits(hidden, change, ranked, lengths)
    if not flipped.any():
        return None
    stays = np.logical_and.accumulate(flipped[::-1])[::-1]
    n_first = int((yield from _between(hidden, ranked, change, lengths, int(flipped.argmax())))[0])
    n_stable = 0
    if stays.any():
        between = yield from _between(hidden, ranked, change, lengths, int(stays.argmax()))
        n_stable = int(between[np.flatnonzero(np.diff(between, prepend=-1) > 1)[-1]])
    n = n_stable if order == "effect" and stable else n_first
    if not n:
        return None
    genes = ranked[:n]
    if eliminate or order != "effect":
        genes = yield from _eliminate(hidden, change, genes)
    return Flip(genes, n_first, n_stable)


@cache
def lengths_tried(n_genes: int) -> np.ndarray:
    """Return the lengths of a ranking at which a cell is classified, the whole ranking among them."""
    n_later = max(0, int(np.ceil(np.log(max(n_genes, 1) / ALL_LENGTHS) / np.log(GROWTH))))
    later = np.round(ALL_LENGTHS * GROWTH ** np.arange(1, n_later + 1)).astype(int)
    return np.unique(np.minimum(np.concatenate([np.arange(1, ALL_LENGTHS + 1), later, [n_genes]]), n_genes))


Part = Generator[Edits, tuple[np.ndarray, np.ndarray], np.ndarray]


def _between(hidden: torch.Tensor, ranked: np.ndarray, change: np.ndarray, lengths: np.ndarray, at: int) -> Part:
    """Return the lengths at which the cell is flipped after ``lengths[at - 1]``, up to ``lengths[at]``."""
    between = np.arange(lengths[at - 1] + 1 if at else 1, lengths[at] + 1)
    if len(between) == 1:
        return between
    _, flipped = yield Edits(hidden, change, ranked, between)
    return between[flipped]


def _greedy(
    classifier: IncrementalClassifier, hidden: torch.Tensor, change: np.ndarray, candidates: np.ndarray
) -> Search:
    """Add the gene that raises p(target) most, until the cell flips or no gene raises it."""
    start, left, best = hidden, candidates.copy(), -1.0
    taken: list[int] = []
    while len(left):
        probability, flipped = yield Edits(hidden, change, left)
        i = int(probability.argmax())
        if probability[i] <= best:
            return None
        best = float(probability[i])
        taken.append(int(left[i]))
        hidden = hidden + classifier.rows[left[i]] * float(change[left[i]])
        if flipped[i]:
            genes = yield from _eliminate(start, change, np.array(taken))
            return Flip(genes, len(taken), 0)
        left = np.delete(left, i)
    return None


def _eliminate(hidden: torch.Tensor, change: np.ndarray, genes: np.ndarray) -> Part:
    """Remove genes, the most dispensable first, until the cell needs every gene that is left."""
    while len(genes) > 1:
        probability, dispensable = yield Edits(hidden, change, genes, before=genes)
        if not dispensable.any():
            break
        # remove as many together as the cell can lose; the first alone is known to be dispensable
        order = np.argsort(np.where(dispensable, -probability, 1.0), kind="stable")
        tried = removals_tried(int(dispensable.sum()))
        _, survives = yield Edits(hidden, change, genes[order], tried, before=genes)
        n = int(tried[np.flatnonzero(survives)[-1]]) if survives.any() else 1
        genes = np.delete(genes, order[: min(n, len(genes) - 1)])
    return genes


@cache
def removals_tried(n_dispensable: int) -> np.ndarray:
    """Return the numbers of dispensable genes whose removal is tried, all of them among these."""
    return np.unique(np.linspace(1, n_dispensable, N_REMOVALS).astype(int))
