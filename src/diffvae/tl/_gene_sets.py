"""Re-classifying a cell after each single gene of an ordered list has been set to its new value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from diffvae.model import CellStateClassifier

BLOCK_BYTES = 128 * 2**20
"""Bound on the pre-activations that are held at once."""


class IncrementalClassifier:
    r"""A classifier's answers for edits of one cell, through its first layer's linear output.

    .. math:: W_0 (x + \sum_{i \in S} \Delta_i e_i) + b_0 = h + \sum_{i \in S} \Delta_i W_{0, \cdot i}

    so that an edited cell costs one row of the weights and not a product over all genes; the edits that are the
    prefixes of a list are the cumulative sums of these rows.

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
        """Return the first layer's linear output for cells (x genes)."""
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.device) @ self.rows + self.bias

    @torch.no_grad()
    def answers(self, hidden: torch.Tensor, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Return, for linear outputs of the first layer, p(target) and whether target is the most probable."""
        p = torch.softmax(self.after_first(hidden) / self.temperature, dim=1)
        own = p[:, target]
        return own.cpu().numpy(), (own >= p.amax(1)).cpu().numpy()

    @torch.no_grad()
    def prefixes(
        self, x: np.ndarray, genes: np.ndarray, change: np.ndarray, target: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Classify a cell with the first 1, 2, ..., n of its genes changed.

        Parameters
        ----------
        x
            The cell, genes.
        genes, change
            Gene numbers in their order, and what is added to each.
        target
            Number of the type.

        Returns
        -------
        p(target) and whether target is the most probable, one value per prefix. Exact up to rounding: what is summed
        is what the first layer would sum.
        """
        hidden = self.hidden(x[None])[0].double()  # a sum of thousands of terms, in another order than the layer's
        probability, first = [], []
        for i in range(0, len(genes), self.block):
            part = torch.from_numpy(np.ascontiguousarray(genes[i : i + self.block])).to(self.device)
            amount = torch.from_numpy(np.ascontiguousarray(change[i : i + self.block], dtype=np.float32)).to(
                self.device
            )
            # an error of 1e-7 of the largest partial sum is below that of the layer's own product
            steps = (self.rows[part] * amount[:, None]).cumsum_(0)
            p, f = self.answers((hidden + steps).float(), target)
            hidden = hidden + steps[-1].double()
            probability.append(p)
            first.append(f)
        return np.concatenate(probability), np.concatenate(first)

    @torch.no_grad()
    def singles(
        self, hidden: torch.Tensor, genes: np.ndarray, change: np.ndarray, target: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Classify what ``hidden`` stands for with each one of the genes changed on top; as :meth:`prefixes`."""
        probability, first = [], []
        for i in range(0, len(genes), self.block):
            part = torch.from_numpy(np.ascontiguousarray(genes[i : i + self.block])).to(self.device)
            amount = torch.from_numpy(np.ascontiguousarray(change[i : i + self.block], dtype=np.float32)).to(
                self.device
            )
            p, f = self.answers(torch.addcmul(hidden, self.rows[part], amount[:, None]), target)
            probability.append(p)
            first.append(f)
        return np.concatenate(probability), np.concatenate(first)

    def gradient(self, x: np.ndarray, target: int) -> np.ndarray:
        r"""Return the slope of :math:`\log p(target)` along each gene at cells x, cells x genes."""
        points = torch.from_numpy(np.ascontiguousarray(x)).to(self.device)
        hidden = (points @ self.rows + self.bias).requires_grad_()
        log_p = torch.log_softmax(self.after_first(hidden) / self.temperature, dim=1)[:, target].sum()
        (slope,) = torch.autograd.grad(log_p, hidden)
        return (slope @ self.rows.T).cpu().numpy()


ORDERS = ("effect", "greedy", "gradient")


@dataclass(frozen=True)
class Flip:
    """Gene numbers that flip a cell, and at which lengths of the ranking it flips first and for good."""

    genes: np.ndarray
    n_first: int
    n_stable: int


def find(
    edited: IncrementalClassifier,
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


def ranking(edited: IncrementalClassifier, x: np.ndarray, change: np.ndarray, target: int, order: str) -> np.ndarray:
    """Return numbers to sort genes by, smallest first, cells x genes: largest change, or largest expected gain."""
    if order == "effect":
        return -np.abs(change)
    return -edited.gradient(x, target) * change


def _greedy(
    edited: IncrementalClassifier,
    x: np.ndarray,
    change: np.ndarray,
    candidates: np.ndarray,
    target: int,
    min_probability: float,
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
    edited: IncrementalClassifier,
    x: np.ndarray,
    change: np.ndarray,
    genes: np.ndarray,
    target: int,
    min_probability: float,
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
