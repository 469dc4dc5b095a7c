"""Did integration mix the batches, and did it keep the types?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from diffvae import _keys, _random, metrics
from diffvae._core.anndata import groups, representation, results
from diffvae._core.components import principal_components
from diffvae._core.io.matrix import matrix_of
from diffvae._core.runtime import in_one_thread
from diffvae._core.validate import Rule, Whole, check
from diffvae._errors import DataError
from diffvae.tl._batches import MIN_CELLS

if TYPE_CHECKING:
    from anndata import AnnData

N_CELLS = 10_000
MIXED, KEPT = "batches mixed", "types kept"
"""The two sides of integration."""
RULES: dict[str, Rule] = {"n_cells": Whole(100)}


@in_one_thread
def integration(
    adata: AnnData,
    batch_key: str,
    *,
    label_key: str | None = None,
    layer: str | None = None,
    use_rep: str = _keys.LATENT,
    n_cells: int = N_CELLS,
    rng: _random.Rng = 0,
    copy: bool = False,
) -> pd.DataFrame:
    r"""Measure whether batches are mixed and types are kept, beside PCA without integration.

    The scores are those of :func:`diffvae.metrics.integration`, brought to one scale: 0 to 1, and 1 is best. So the
    variance that batches explain becomes :math:`1 - R^2`, and a silhouette width s becomes :math:`(s + 1) / 2`.

    Read both sides together: a space without information mixes the batches perfectly and keeps no type.

    Parameters
    ----------
    adata
        With ``obsm[use_rep]``, and log-normalised expression in ``X``.
    batch_key
        Batches in ``obs``. Cells of batches with fewer than 10 cells, and cells without a batch, are left out.
    label_key
        Types in ``obs``; None leaves out the scores that need them. Cells without a type are left out.
    layer
        Layer whose 50 principal components are the baseline, the usual representation in scanpy; None for ``X``.
    use_rep
        Key in ``obsm``.
    n_cells
        Largest number of cells, drawn at random, since the time is quadratic in it.
    rng
        Seed of the draws and permutations.
    copy
        Only return the table.

    Returns
    -------
    One row per score that is defined, also written to ``uns["diffvae"]["integration"]`` unless ``copy``: ``side``
    ("batches mixed" or "types kept"), ``score``, ``pca``, ``latent``, and ``permuted``: the score of the representation
    after a permutation. Batches are permuted within types, which is about the best that mixing can reach; types are
    permuted within batches, so that it is what chance keeps.

    Raises
    ------
    DataError
        If a column is missing, or fewer than two batches have 10 cells.

    References
    ----------
    Luecken et al., Benchmarking atlas-level data integration in single-cell genomics, Nature Methods 19 (2022).

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.simulate_differentiation(300, 100, n_batches=2)
    >>> dv.pp.prepare(adata, batch_key="batch")
    >>> dv.tl.embed(adata, dv.model.PCA(n_latent=10).train(adata))
    >>> table = dv.tl.integration(adata, "batch", label_key="cell_type")
    >>> table["score"].tolist()[:3], bool(table["latent"].between(0, 1).all())
    (['iLISI', 'kBET acceptance', 'batch silhouette'], True)
    """
    check(RULES, n_cells=n_cells)
    z = representation(adata, use_rep)
    cells = _cells(adata, batch_key, label_key, n_cells, rng)
    drawn = adata[cells]
    batch = np.asarray(groups(drawn, batch_key))
    labels = None if label_key is None else np.asarray(groups(drawn, label_key))
    if labels is not None and not 2 <= len(np.unique(labels)) < len(labels):
        labels = None
    pca = principal_components(matrix_of(drawn, layer), rng)
    random = _random.generator(rng, "integration, permuted")
    mixed_at_random = metrics.integration(z[cells], _permuted(batch, labels, random), labels, rng=rng)
    permuted = _scores(mixed_at_random)
    if labels is not None:
        kept_by_chance = metrics.integration(z[cells], batch, _permuted(labels, batch, random), rng=rng)
        permuted |= {key: value for key, value in _scores(kept_by_chance).items() if key[0] == KEPT}
    before, after = (_scores(metrics.integration(x, batch, labels, rng=rng)) for x in (pca, z[cells]))
    rows = [(*key, before[key], after[key], permuted[key]) for key in after]
    table = pd.DataFrame(rows, columns=["side", "score", "pca", "latent", "permuted"])
    table = table.dropna(subset=["pca", "latent"], ignore_index=True).round(9)  # 1e-16 is 0
    if not copy:
        about = {"batch_key": batch_key, "n_cells": len(cells), "n_batches": len(np.unique(batch))}
        results(adata)["integration"] = {"table": table, "params": about}
    return table


def _cells(adata: AnnData, batch_key: str, label_key: str | None, most: int, rng: _random.Rng) -> np.ndarray:
    """Return at most so many random cells that have a type and a batch of enough cells."""
    for key in (batch_key, *([] if label_key is None else [label_key])):
        if key not in adata.obs:
            raise DataError(f"adata.obs[{key!r}] is missing; the columns are: {', '.join(map(str, adata.obs))}.")
    batch, known = adata.obs[batch_key], np.ones(adata.n_obs, dtype=bool)
    if label_key is not None:
        known = adata.obs[label_key].notna().to_numpy()
    chosen = _random.generator(rng, "integration, cells").permutation(np.flatnonzero(known))[:most]
    size = batch.iloc[chosen].value_counts()
    large = size.index[size >= MIN_CELLS]
    if len(large) < 2:
        raise DataError(
            f"adata.obs[{batch_key!r}] has {'only one batch' if len(large) else 'no batch'} with at least {MIN_CELLS} "
            f"of {len(chosen):,} cells{'' if label_key is None else ' that have a type'}; there is nothing to mix."
        )
    return np.sort(chosen[batch.iloc[chosen].isin(large)])


def _permuted(names: np.ndarray, within: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    """Return names permuted among the cells that are equal in ``within``, or among all."""
    if within is None:
        return random.permutation(names)
    strata = np.unique(within, return_inverse=True)[1]
    shuffled = np.empty_like(names)
    shuffled[np.argsort(strata, kind="stable")] = names[np.lexsort((random.random(len(names)), strata))]
    return shuffled


def _scores(raw: dict[str, float]) -> dict[tuple[str, str], float]:
    """Return scores by side and name, from 0 to 1 with 1 as the best."""
    named = {
        (MIXED, "iLISI"): raw["ilisi"],
        (MIXED, "kBET acceptance"): raw["kbet_acceptance"],
        (MIXED, "batch silhouette"): raw.get("batch_silhouette", np.nan),
        (MIXED, "variance free of batch"): 1 - raw["batch_r2"],
    }
    if "knn_purity" in raw:
        named |= {
            (KEPT, "kNN purity"): raw["knn_purity"],
            (KEPT, "silhouette"): (raw["silhouette"] + 1) / 2,
            (KEPT, "isolated types"): raw["isolated_types"],
        }
    return named
