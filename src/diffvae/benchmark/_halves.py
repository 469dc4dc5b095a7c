"""Two independent looks at the same cells: halves of the counts, or halves of the genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from diffvae import _keys, _random, pp
from diffvae._errors import DataError
from diffvae.pp._matrix import matrix_of

if TYPE_CHECKING:
    from anndata import AnnData

SPLITS = ("auto", "counts", "genes")


def halves(adata: AnnData, split: str, *, layer: str | None = None, rng: _random.Rng = 0) -> tuple[AnnData, AnnData]:
    """Return the same cells twice, prepared each by itself, with independent noise.

    ``"counts"`` deals every count to one side or the other (binomial, 1/2): two sequencing runs of half the depth, of
    the same genes. Poisson counts become independent so; overdispersion of a gene is shared. ``"genes"`` deals the
    genes: no count is shared, but genes of one programme are on both sides, as they should be. ``"auto"`` deals counts
    where there are counts.
    """
    x = matrix_of(adata, layer)
    values: Any = x.data if sparse.issparse(x) else x
    whole = bool((values >= 0).all() and (values == np.round(values)).all())
    if split == "counts" and not whole:
        raise DataError("split='counts' needs counts, whole numbers of 0 or more; pass split='genes' instead.")
    chance = _random.generator(rng, "halves")
    if split == "genes" or not whole:
        side = chance.permutation(adata.n_vars) % 2 == 0
        one, other = (_cells(adata, x[:, np.flatnonzero(s)], adata.var_names[s]) for s in (side, ~side))
        pp.prepare(one, rng=rng)
        pp.prepare(other, rng=rng)
        return one, other
    first = x.astype(np.float32).copy()
    dealt = chance.binomial(values.astype(np.int64), 0.5).astype(np.float32)
    if sparse.issparse(x):
        first.data = dealt
    else:
        first = dealt
    one, other = (_cells(adata, part, adata.var_names) for part in (first, x.astype(np.float32) - first))
    pp.prepare(one, rng=rng)
    pp.prepare(other, n_top_genes=None, rng=rng)
    return one, other[:, other.var_names.isin(one.var_names)].copy()


def _cells(adata: AnnData, x: Any, names: Any) -> AnnData:
    import anndata as ad

    cells = ad.AnnData(x.tocsr() if sparse.issparse(x) else x, obs=adata.obs.drop(columns=_keys.SPLIT, errors="ignore"))
    cells.var_names = names
    return cells
