"""A map of the cells, and the place of other cells in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from diffvae import _keys, _random
from diffvae._core.anndata import representation, result, results
from diffvae._core.runtime import in_one_thread
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN

AFFINITIES = "diffvae_tsne_affinities"
"""``obsp``: the symmetric affinities P of the last map, from which it can be repeated with another seed."""


@in_one_thread
def tsne(
    adata: AnnData,
    *,
    use_rep: str = _keys.LATENT,
    perplexity: float = 30,
    n_iter: int = 500,
    init: str = "pca",
    key_added: str = _keys.TSNE,
    n_jobs: int = -1,
    rng: _random.Rng = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Embed the latent representation in two dimensions by t-SNE (openTSNE).

    Minimises :math:`KL(P \| Q)` between affinities P of cells in the latent space and Q on the map, after 250
    iterations of early exaggeration. Linear in the number of cells up to logarithms.

    Parameters
    ----------
    adata
        With ``obsm[use_rep]``.
    use_rep
        Key in ``obsm``.
    perplexity
        Effective number of neighbours; lowered to a third of the cells where there are too few.
    n_iter
        Iterations after the early exaggeration.
    init
        ``"pca"``: the global layout follows the first two principal components, and seeds hardly matter.
        ``"random"``: for repeats that should be independent.
    key_added
        Key in ``obsm``.
    n_jobs
        Threads; -1 for all cores.
    rng
        Seed of the initial layout and of the neighbour search.
    copy
        Return a copy instead of writing into ``adata``.

    Returns
    -------
    None, or the copy. Writes ``obsm[key_added]`` (cells x 2), ``obsp["diffvae_tsne_affinities"]`` (sparse; used again
    as long as ``use_rep`` and ``perplexity`` stay the same) and ``uns["diffvae"]["tsne"]``.

    References
    ----------
    van der Maaten and Hinton 2008; Kobak and Berens 2019 (initialisation); Poličar et al. 2024 (openTSNE).

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.tl.embed(adata, dv.model.PCA(n_latent=5).train(adata))
    >>> dv.tl.tsne(adata, n_iter=50)
    >>> adata.obsm["X_diffvae_tsne"].shape
    (700, 2)
    """
    if init not in ("pca", "random"):
        raise ValueError(f"init is {init!r}; it is 'pca' or 'random'.")
    if n_iter < 0:
        raise ValueError(f"n_iter is {n_iter}; it is zero or more.")
    x = _float64(adata, use_rep)
    if (x == x[0]).all():
        raise DataError(f"All cells have the same place in {use_rep!r}, so there is nothing to map.")
    random_state = _int32_seed(rng, "tsne")
    used = _possible_perplexity(perplexity, len(x))
    stored = adata.uns.get(_keys.UNS, {}).get("tsne", {})
    mark = _mark(x)
    if AFFINITIES in adata.obsp and stored.get("mark") == mark and stored.get("perplexity") == used:
        p = sparse.csr_matrix(adata.obsp[AFFINITIES])
    else:
        p = affinities(x, perplexity, random_state, n_jobs)
    embedding = layout(p, x, init=init, n_iter=n_iter, random_state=random_state, n_jobs=n_jobs)

    adata = adata.copy() if copy else adata
    adata.obsm[key_added] = np.asarray(embedding, dtype=np.float32)
    adata.obsp[AFFINITIES] = sparse.csr_matrix(p)
    results(adata)["tsne"] = {
        "use_rep": use_rep,
        "perplexity": used,
        "n_iter": n_iter,
        "init": init,
        "key_added": key_added,
        "random_state": random_state,
        "kl_divergence": float(embedding.kl_divergence),
        "mark": mark,
    }
    return adata if copy else None


@in_one_thread
def tsne_transform(
    adata: AnnData,
    new: AnnData | np.ndarray,
    *,
    use_rep: str = _keys.LATENT,
    perplexity: float = 5,
    n_iter: int = 100,
    key_added: str = _keys.TSNE,
    n_jobs: int = -1,
) -> np.ndarray:
    """Place new or changed cells into an existing map without moving it.

    Each new cell starts at the median of its nearest neighbours on the map and is then moved by t-SNE's own forces, the
    map's cells being fixed and the new ones blind to each other: a cell's place does not depend on its company.

    Parameters
    ----------
    adata
        Cells with a map, from :func:`tsne`.
    new
        Cells with ``obsm[use_rep]`` (the map is then written into ``new.obsm[key_added]``), or an array of cells x
        latent dimensions.
    use_rep
        Key of the latent representation in both.
    perplexity
        Effective number of neighbours of a new cell.
    n_iter
        Iterations.
    key_added
        Key of the map.
    n_jobs
        Threads.

    Returns
    -------
    Places, new cells x 2, float32.

    References
    ----------
    Poličar, Stražar, Zupan, Embedding to reference t-SNE space addresses batch effects, Machine Learning 2021.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.tl.embed(adata, dv.model.PCA(n_latent=5).train(adata))
    >>> dv.tl.tsne(adata, n_iter=50)
    >>> dv.tl.tsne_transform(adata, adata.obsm["X_diffvae"][:3]).shape
    (3, 2)
    """
    place = placer(adata, use_rep=use_rep, perplexity=perplexity, n_iter=n_iter, key_added=key_added, n_jobs=n_jobs)
    placed = place(np.asarray(new, dtype=np.float64) if isinstance(new, np.ndarray) else _float64(new, use_rep))
    if not isinstance(new, np.ndarray):
        new.obsm[key_added] = placed
    return placed


def placer(
    adata: AnnData, *, use_rep: str, perplexity: float, n_iter: int, key_added: str, n_jobs: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Return what places points of the latent space into the map, any number of times; see :func:`tsne_transform`."""
    from openTSNE import TSNEEmbedding

    parameters = result(adata, "tsne")
    x = _float64(adata, use_rep)
    map_ = representation(adata, key_added).astype(np.float64)
    if parameters["key_added"] != key_added:
        raise DataError(
            f"The last map is adata.obsm[{parameters['key_added']!r}], not {key_added!r}; run diffvae.tl.tsne(adata, "
            f"key_added={key_added!r}) again."
        )
    if parameters["mark"] != _mark(x):
        raise DataError(
            f"adata.obsm[{use_rep!r}] is not what the map was made from; run diffvae.tl.tsne(adata, "
            f"use_rep={use_rep!r}) again."
        )
    seed, used = int(parameters["random_state"]), _possible_perplexity(perplexity, len(x))
    map_of_cells: list[TSNEEmbedding] = []

    def place(points: np.ndarray) -> np.ndarray:
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != x.shape[1] or not len(points):
            raise DataError(f"The new cells have shape {points.shape}, the map was made from {x.shape[1]} dimensions.")
        if not np.isfinite(points).all():
            raise DataError("The new cells hold NaN or infinite values; compute them again.")
        if not map_of_cells:
            near = _affinities(x, parameters["perplexity"], seed, n_jobs)
            map_of_cells.append(TSNEEmbedding(map_, near, random_state=seed, n_jobs=n_jobs))
        partial = map_of_cells[0].prepare_partial(points, perplexity=used, k=25)
        return np.asarray(partial.optimize(n_iter, learning_rate=0.1, momentum=0.8), dtype=np.float32)

    return place


def affinities(x: np.ndarray, perplexity: float, random_state: int, n_jobs: int) -> sparse.csr_matrix:
    """Return the symmetric affinities P of cells, of which any number of maps can be made."""
    return _affinities(x, _possible_perplexity(perplexity, len(x)), random_state, n_jobs).P


def layout(
    p: sparse.csr_matrix, x: np.ndarray, *, init: str, n_iter: int, random_state: int, n_jobs: int
) -> TSNEEmbedding:
    """Return the map of affinities P; ``init="pca"`` starts from the first components of x."""
    from openTSNE import TSNEEmbedding, initialization
    from openTSNE.affinity import PrecomputedAffinities

    if init == "pca" and x.shape[1] > 1:
        start = initialization.pca(x, random_state=random_state)
    else:
        start = initialization.random(len(x), random_state=random_state)
    # a copy: openTSNE exaggerates P in place, and what is stored must give the same map again, to the last digit
    given = PrecomputedAffinities(p.copy(), normalize=False)
    embedding = TSNEEmbedding(start, given, random_state=random_state, n_jobs=n_jobs)
    return embedding.optimize(250, exaggeration=12, momentum=0.5).optimize(n_iter, momentum=0.8)


def _affinities(x: np.ndarray, perplexity: float, random_state: int, n_jobs: int) -> PerplexityBasedNN:
    from openTSNE.affinity import PerplexityBasedNN

    # exact neighbours where that is cheap; above it pynndescent, which is openTSNE's choice for large sets
    method = "exact" if len(x) <= 10_000 else "pynndescent"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # openTSNE and numba on their own internals
        return PerplexityBasedNN(x, perplexity, method=method, random_state=random_state, n_jobs=n_jobs)


def _possible_perplexity(perplexity: float, n_cells: int) -> float:
    if not perplexity > 1:
        raise ValueError(f"perplexity is {perplexity}; it must be above 1.")
    if n_cells < 7:
        raise DataError(f"A t-SNE of {n_cells} cells says nothing; 7 are the least.")
    return float(min(perplexity, (n_cells - 1) / 3))


def _float64(adata: AnnData, use_rep: str) -> np.ndarray:
    return np.ascontiguousarray(representation(adata, use_rep), dtype=np.float64)


def _int32_seed(rng: _random.Rng, purpose: str) -> int:
    return _random.seed(rng, purpose) % 2**31


def _mark(x: np.ndarray) -> str:
    from diffvae._core.fingerprint import fingerprint

    return fingerprint(x.astype(np.float32))
