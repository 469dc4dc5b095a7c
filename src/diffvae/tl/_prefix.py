"""Re-classifying a cell after each single gene of an ordered list has been set to its new value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from diffvae.model import CellStateClassifier

BLOCK_BYTES = 128 * 2**20
"""Bound on the pre-activations that are held at once."""


class EditedCells:
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
