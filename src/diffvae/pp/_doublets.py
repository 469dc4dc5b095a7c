"""Doublet score of each cell: how many of its neighbours are simulated doublets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from diffvae import _keys, _random
from diffvae._core.anndata import groups, results
from diffvae._core.components import principal_components
from diffvae._core.io.matrix import matrix_of
from diffvae._core.io.matrix import source as matrix_name
from diffvae._core.neighbors import nearest
from diffvae._core.validate import Number, Rule, Whole, check
from diffvae._errors import DataError
from diffvae.pp._check import near_whole

if TYPE_CHECKING:
    from anndata import AnnData

RATIO = 2.0
"""Simulated doublets per cell, as in Scrublet."""
MAX_NEIGHBORS = 30
"""Neighbours of a cell among the cells, at most; Scrublet takes half the square root of the number of cells."""
MIN_CELLS = 20
RULES: dict[str, Rule] = {"expected_rate": Number("(0, 0.5)"), "n_comps": Whole(1, 50)}


def doublet_score(
    adata: AnnData,
    *,
    batch_key: str | None = None,
    layer: str | None = _keys.COUNTS,
    expected_rate: float = 0.06,
    n_comps: int = 30,
    key_added: str = _keys.DOUBLET_SCORE,
    rng: _random.Rng = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Score each cell by the share of simulated doublets among its nearest neighbours (Scrublet).

    Counts of two random cells are added, twice as many pairs as there are cells. Cells and pairs are log-normalised
    together and projected on their principal components. With k neighbours of a cell, of which d are simulated,

    .. math:: q = \frac{d + 1}{k + 2}, \qquad
        L = \frac{q \rho / r}{1 - \rho - q\,(1 - \rho - \rho / r)},

    where :math:`r` is the number of simulated doublets per cell and :math:`\rho` the expected share of doublets: the
    posterior mean of q turned into the probability that a cell is a doublet of two different types. Doublets of two
    cells of one type can't be seen. Cells on their way from one type to another can have a high score as well;
    :func:`diffvae.tl.annotate` tells the two apart by the number of expressed genes and by size. Samples that were
    captured apart make no doublets together: name them by ``batch_key``.

    Parameters
    ----------
    adata
        Cells x genes.
    batch_key
        Column of ``obs`` with the samples that were captured apart: doublets arise within a sample, so that each is
        scored alone. Samples with fewer than 20 cells with counts have NaN.
    layer
        Counts; None for X.
    expected_rate
        :math:`\rho`. 10x reports about 0.8 % for each 1000 captured cells.
    n_comps
        Principal components.
    key_added
        Key in ``obs``.
    rng
        Seed of the pairs, the components and the approximate search (above 10,000 cells and pairs).
    copy
        Return a copy instead of writing into ``adata``.

    Returns
    -------
    None, or the copy. Writes ``obs[key_added]``, float32 in (0, 1), NaN for cells without counts;
    ``obs[key_added + "_high"]``, whether a cell has more than half the mean score of the simulated doublets of its
    sample (:func:`diffvae.tl.annotate` reads it under the default key); and ``uns["diffvae"]["doublets"]``: the
    parameters and ``mean_of_simulated``, over all samples.

    Raises
    ------
    DataError
        If the layer is missing, has other values than counts, or has fewer than 20 cells with counts.

    References
    ----------
    Wolock, Lopez and Klein, Scrublet: computational identification of cell doublets in single-cell transcriptomic data,
    Cell Systems 8:281 (2019), equation 1.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.simulate_differentiation(200, 100)
    >>> dv.pp.prepare(adata)
    >>> dv.pp.doublet_score(adata)
    >>> bool(adata.obs["diffvae_doublet_score"].between(0, 1).all())
    True
    """
    check(RULES, expected_rate=expected_rate, n_comps=n_comps)
    counts = sp.csr_matrix(matrix_of(adata, layer))
    where = matrix_name(layer)
    if not np.isfinite(counts.data).all() or (counts.data < 0).any() or not near_whole(counts.data).all():
        raise DataError(f"{where} has other values than counts; doublets can be simulated from counts only.")
    full = np.asarray(counts.sum(axis=1)).ravel() > 0
    codes = np.zeros(adata.n_obs, int) if batch_key is None else np.asarray(groups(adata, batch_key).codes)
    samples = [own for code in np.unique(codes) if (own := full & (codes == code)).sum() >= MIN_CELLS]
    if not samples:
        raise DataError(
            f"{where} has {int(full.sum())} cells with counts; doublet scores need {MIN_CELLS} of a sample."
        )
    score, high, means = np.full(adata.n_obs, np.nan, np.float32), np.zeros(adata.n_obs, bool), []
    for own in samples:
        score[own], simulated = scores(counts[own], expected_rate, n_comps, rng)
        means.append(float(simulated.mean()))
        high[own] = score[own] > means[-1] / 2
    adata = adata.copy() if copy else adata
    adata.obs[key_added], adata.obs[f"{key_added}_high"] = score, high
    results(adata)["doublets"] = {
        "layer": layer or "X", "expected_rate": expected_rate, "n_comps": n_comps, "key_added": key_added,
        "batch_key": batch_key or "none", "mean_of_simulated": float(np.mean(means)),
    }  # fmt: skip
    return adata if copy else None


def scores(counts: sp.csr_matrix, rate: float, n_comps: int, rng: _random.Rng) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the cells, and of the simulated doublets."""
    n = counts.shape[0]
    counts = counts.astype(np.float32)  # sums of small integers would overflow
    draw = _random.generator(rng, "doublets")
    n_pairs = round(RATIO * n)
    pairs = counts[draw.integers(n, size=n_pairs)] + counts[draw.integers(n, size=n_pairs)]
    both: Any = sp.vstack([counts, pairs], format="csr")
    total = np.asarray(both.sum(axis=1)).ravel()
    both.data *= np.repeat((np.median(total[:n]) / total).astype(np.float32), np.diff(both.indptr))
    both = both.log1p()
    place = principal_components(both, _random.seed(rng, "doublet components") % 2**31)[:, :n_comps]
    k = int(np.clip(round(0.5 * np.sqrt(n)), 3, MAX_NEIGHBORS))
    k_all = min(round(k * (1 + RATIO)), len(place) - 1)
    near = nearest(place, k_all, metric="euclidean", rng=rng).indices
    score = likelihood((near >= n).sum(axis=1), (near >= 0).sum(axis=1), rate, n_pairs / n)
    return score[:n], score[n:]


def likelihood(n_simulated: np.ndarray, n_neighbors: np.ndarray, rate: float, ratio: float) -> np.ndarray:
    """Return Scrublet's score of cells with so many simulated doublets among so many neighbours."""
    q = (n_simulated + 1) / (n_neighbors + 2)
    return q * rate / ratio / (1 - rate - q * (1 - rate - rate / ratio))
