"""Principal components in which differences within types have unit variance in every direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae import _keys, _random
from diffvae._core import graphs
from diffvae._core.anndata import groups, representation, results
from diffvae._core.components import principal_components
from diffvae._core.io.matrix import blocks, matrix_of, quoted, source, values
from diffvae._core.neighbors import nearest
from diffvae._core.validate import Rule, Whole, check
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

N_COMPS = 50
NEIGHBORS = 15
"""Neighbours in the graph of the clusters that stand in for types."""
RULES: dict[str, Rule] = {"n_comps": Whole(1, N_COMPS)}


def whiten(
    adata: AnnData,
    groupby: str | None = None,
    *,
    without: Sequence[str] = (),
    use_rep: str | None = None,
    layer: str | None = None,
    n_comps: int = N_COMPS,
    key_added: str = _keys.WHITE,
    rng: _random.Rng = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Scale principal components by the covariance within types, so that distances are in units of its spread.

    .. math:: y_i = (x_i - \bar x) L, \qquad L L^T = S^{-1}

    with :math:`x` the principal component scores, cells x D, and S (D x D) the Ledoit-Wolf covariance of the
    differences between cells and the mean of their type. Directions in which cells of one type differ, such as the cell
    cycle or sequencing depth, count less; directions that separate types count more. This is the space in which linear
    discriminant analysis compares means.

    Use it for neighbours among types that shade into one another (:func:`diffvae.tl.fates`,
    :func:`diffvae.tl.commitment`, or :func:`cell_graph` with ``use_rep="X_white", metric="euclidean"``). The types
    enter the result: do not judge them by it.

    Parameters
    ----------
    adata
        Cells prepared by :func:`prepare`, or any log-normalised cells.
    groupby
        Types in ``obs``. None for Leiden clusters of the principal components at resolution 1.
    without
        Types that do not enter S, such as progenitors whose differences are the question.
    use_rep
        Key in ``obsm`` to whiten; None for the principal components of ``layer``.
    layer
        Expression for the principal components; None for X.
    n_comps
        D; at most 50, and at most min(cells, genes) - 1.
    key_added
        Key in ``obsm``.
    rng
        Seed of the components and the clusters.
    copy
        Return a copy instead of writing into ``adata``.

    Returns
    -------
    None, or the copy. Writes ``obsm[key_added]`` (float32, cells x D) and ``uns["diffvae"]["whiten"]``: parameters,
    number of types and the Ledoit-Wolf ``shrinkage`` (0 to 1).

    Raises
    ------
    DataError
        If a type is missing, expression is not finite, or cells of the same type do not differ.

    References
    ----------
    Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, Journal of Multivariate
    Analysis 88:365 (2004).

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.simulate_differentiation(300, 100)
    >>> dv.pp.prepare(adata)
    >>> dv.pp.whiten(adata, "cell_type", n_comps=20)
    >>> adata.obsm["X_white"].shape
    (300, 20)
    """
    check(RULES, n_comps=n_comps)
    if isinstance(without, str):
        raise ValueError(f"without is a list of types; write [{without!r}], not {without!r}.")
    x = components(adata, use_rep, layer, n_comps, rng)
    if groupby is None:
        if list(without):
            raise ValueError(f"without names types ({quoted(without)}), but groupby is missing; give their column.")
        codes, within = _clusters(x, rng), np.ones(len(x), dtype=bool)
    else:
        types = groups(adata, groupby)
        if unknown := [name for name in without if name not in types.categories]:
            raise DataError(
                f"without has {quoted(unknown)}, but adata.obs[{groupby!r}] has {quoted(types.categories)}."
            )
        if set(without) == set(types.categories):
            raise DataError(f"without has every type of adata.obs[{groupby!r}]; leave at least one for the covariance.")
        codes, within = np.asarray(types.codes), ~np.isin(np.asarray(types, dtype=object), list(without))
    y, shrinkage = whitened(x, codes, within)
    adata = adata.copy() if copy else adata
    adata.obsm[key_added] = y.astype(np.float32)
    results(adata)["whiten"] = {
        "groupby": groupby or "leiden", "without": list(without), "use_rep": use_rep or "pca", "layer": layer or "X",
        "key_added": key_added, "n_comps": x.shape[1], "n_types": len(np.unique(codes[within])), "shrinkage": shrinkage,
    }  # fmt: skip
    return adata if copy else None


def components(
    adata: AnnData, use_rep: str | None = None, layer: str | None = None, n_comps: int = N_COMPS, rng: _random.Rng = 0
) -> np.ndarray:
    """Return a stored representation, or the principal component scores of a layer: float64, cells x D."""
    if use_rep is not None:
        return representation(adata, use_rep).astype(np.float64)
    x: Any = matrix_of(adata, layer)
    n = min(n_comps, min(x.shape) - 1)
    if n < 1:
        raise DataError(f"There are {x.shape[0]} cells and {x.shape[1]} genes; principal components need 2 of each.")
    if not all(np.isfinite(values(block)).all() for *_, block in blocks(x)):
        raise DataError(f"{source(layer)} holds NaN or infinite values; diffvae.pp.check(adata) says where.")
    return np.asarray(principal_components(x, _random.seed(rng, "whiten") % 2**31)[:, :n], dtype=np.float64)


def whitened(x: np.ndarray, codes: np.ndarray, within: np.ndarray) -> tuple[np.ndarray, float]:
    """Return y = (x - mean) L and the shrinkage of S, whose types are the ``codes`` of the cells in ``within``."""
    from sklearn.covariance import ledoit_wolf

    chosen, own = x[within], np.unique(codes[within], return_inverse=True)[1]
    sizes = np.bincount(own)
    means = np.stack([np.bincount(own, weights=column) / sizes for column in chosen.T], axis=1)
    residuals = chosen - means[own]
    if len(chosen) < 2 or not np.abs(residuals).max() > 1e-9 * np.abs(chosen).max():
        raise DataError("Cells of the same type do not differ, so there is no covariance within types; merge types.")
    covariance, shrinkage = ledoit_wolf(residuals, assume_centered=True)
    variances, vectors = np.linalg.eigh(covariance)
    # a floor, because a representation may have dimensions without variance
    scale = vectors / np.sqrt(np.maximum(variances, 1e-9 * variances.max()))
    return (x - x.mean(axis=0)) @ scale, float(shrinkage)


def _clusters(x: np.ndarray, rng: _random.Rng) -> np.ndarray:
    k = min(NEIGHBORS, len(x) - 1)
    near = nearest(x, k, metric="euclidean", rng=rng).indices
    pairs = np.stack([np.repeat(np.arange(len(x)), k), near.ravel()], axis=1)
    return graphs.leiden(graphs.graph_of(pairs, len(x)), 1.0, _random.seed(rng, "whiten", "clusters"))
