"""What the search for the fewest genes found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae.tl._perturbation import changed_adata

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model


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
