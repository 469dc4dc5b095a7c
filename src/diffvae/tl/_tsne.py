"""What does the latent space look like in two dimensions, and where do other cells lie on this map?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from diffvae import _keys, _random
from diffvae._core.anndata import representation, result, results
from diffvae._core.neighbors import nearest, nearest_among
from diffvae._core.runtime import in_one_thread
from diffvae._core.validate import Choice, Number, Rule, Whole, check
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN

AFFINITIES = "diffvae_tsne_affinities"
"""``obsp``: the symmetric affinities P of the last map, reused for other seeds."""

EXAGGERATED, CHECKED = 125, 50
"""Iterations with exaggerated affinities, and between two looks at the divergence."""
ENOUGH = 0.01
"""The layout ends when the divergence falls by less than this share between two looks."""
THETA = 0.8
"""Largest width of a group of cells, relative to its distance, that acts as one (Barnes-Hut)."""

RULES: dict[str, Rule] = {"init": Choice("pca", "random"), "n_iter": Whole(0), "perplexity": Number("(1, inf)")}


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

    Minimises :math:`KL(P \| Q)` between affinities P of cells in the latent space and Q on the map, after 125
    iterations of early exaggeration, and stops when 50 iterations lower it by less than 1 %. Linear in the number of
    cells up to logarithms.

    Parameters
    ----------
    adata
        With ``obsm[use_rep]``.
    use_rep
        Key in ``obsm``.
    perplexity
        Effective number of neighbours, at most a third of the cells.
    n_iter
        Iterations after the early exaggeration, at most.
    init
        ``"pca"``: the layout follows the first two principal components and hardly depends on the seed. ``"random"``:
        for independent repeats.
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
    None, or the copy. Writes ``obsm[key_added]`` (cells x 2), ``obsp["diffvae_tsne_affinities"]`` (sparse; reused
    while the representation and ``perplexity`` stay the same) and ``uns["diffvae"]["tsne"]``.

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
    check(RULES, init=init, n_iter=n_iter, perplexity=perplexity)
    x = _float64(adata, use_rep)
    if (x == x[0]).all():
        raise DataError(f"All cells are equal in {use_rep!r}, so there is no map.")
    random_state = _int32_seed(rng, "tsne")
    used = _limited(perplexity, len(x))
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

    Each new cell starts at the median of its nearest neighbours on the map and is then moved by t-SNE, while the cells
    of the map stay fixed. New cells do not affect one another.

    Parameters
    ----------
    adata
        Cells with a map, from :func:`tsne`.
    new
        Cells with ``obsm[use_rep]``, which get ``obsm[key_added]``, or an array of cells x latent dimensions.
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
    Coordinates, new cells x 2, float32.

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
    check(RULES, n_iter=n_iter, perplexity=perplexity)
    place = placer(adata, use_rep=use_rep, perplexity=perplexity, n_iter=n_iter, key_added=key_added, n_jobs=n_jobs)
    placed = place(np.asarray(new, dtype=np.float64) if isinstance(new, np.ndarray) else _float64(new, use_rep))
    if not isinstance(new, np.ndarray):
        new.obsm[key_added] = placed
    return placed


def placer(
    adata: AnnData, *, use_rep: str, perplexity: float, n_iter: int, key_added: str, n_jobs: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that places points of the latent space on the map; see :func:`tsne_transform`."""
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
            f"adata.obsm[{use_rep!r}] has changed since the map was made; run diffvae.tl.tsne(adata, "
            f"use_rep={use_rep!r}) again."
        )
    seed, used = int(parameters["random_state"]), _limited(perplexity, len(x))
    embedding: TSNEEmbedding | None = None

    def place(points: np.ndarray) -> np.ndarray:
        nonlocal embedding
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != x.shape[1] or not len(points):
            raise DataError(f"The new cells have shape {points.shape}, the map was made from {x.shape[1]} dimensions.")
        if not np.isfinite(points).all():
            raise DataError("The new cells have NaN or infinite values; compute them again.")
        if embedding is None:  # made once, for the first points; affinities of the map's own cells are not used
            near = _affinities(x, used, seed, n_jobs)
            embedding = TSNEEmbedding(map_, near, random_state=seed, n_jobs=n_jobs)
        partial = embedding.prepare_partial(points, perplexity=used, k=25)
        return np.asarray(partial.optimize(n_iter, learning_rate=0.1, momentum=0.8, theta=THETA), dtype=np.float32)

    return place


def affinities(x: np.ndarray, perplexity: float, random_state: int, n_jobs: int) -> sparse.csr_matrix:
    """Return the symmetric affinities P of cells."""
    return _affinities(x, _limited(perplexity, len(x)), random_state, n_jobs).P


def layout(
    p: sparse.csr_matrix, x: np.ndarray, *, init: str, n_iter: int, random_state: int, n_jobs: int
) -> TSNEEmbedding:
    """Return the map of affinities P; ``init="pca"`` starts from the principal components of x."""
    from openTSNE import TSNEEmbedding, initialization
    from openTSNE.affinity import PrecomputedAffinities

    if init == "pca" and x.shape[1] > 1:
        start = initialization.pca(x, random_state=random_state)
    else:
        start = initialization.random(len(x), random_state=random_state)
    # a copy, because openTSNE exaggerates P in place
    given = PrecomputedAffinities(p.copy(), normalize=False)
    embedding = TSNEEmbedding(start, given, random_state=random_state, n_jobs=n_jobs, theta=THETA)
    embedding.optimize(EXAGGERATED, exaggeration=12, momentum=0.5, inplace=True)
    before = np.inf  # the optimiser goes on where it was, so that looks at the divergence do not change the path
    for done in range(0, n_iter, CHECKED):
        embedding.optimize(min(CHECKED, n_iter - done), momentum=0.8, inplace=True)
        if embedding.kl_divergence > (1 - ENOUGH) * before:
            break
        before = embedding.kl_divergence
    return embedding


class _Index:
    """Nearest neighbours in the form in which openTSNE asks for them."""

    def __init__(self, x: np.ndarray, k: int, seed: int) -> None:
        self.x, self.k, self.seed, self.n_samples = x, k, seed, len(x)

    def build(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the neighbours of the cells of the map and their distances."""
        found = nearest(self.x, self.k, metric="euclidean", rng=self.seed)
        return found.indices, -found.scores.astype(np.float64)

    def query(self, points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest cells of the map and their distances."""
        return nearest_among(points, self.x, min(k, len(self.x)), rng=self.seed)


def _affinities(x: np.ndarray, perplexity: float, random_state: int, n_jobs: int) -> PerplexityBasedNN:
    from openTSNE.affinity import PerplexityBasedNN

    index = _Index(x, min(len(x) - 1, int(3 * perplexity)), random_state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # openTSNE warns about its internals
        return PerplexityBasedNN(knn_index=index, perplexity=perplexity, n_jobs=n_jobs)


def _limited(perplexity: float, n_cells: int) -> float:
    if n_cells < 7:
        raise DataError(f"There are only {n_cells} cells; t-SNE needs at least 7.")
    return float(min(perplexity, (n_cells - 1) / 3))


def _float64(adata: AnnData, use_rep: str) -> np.ndarray:
    return np.ascontiguousarray(representation(adata, use_rep), dtype=np.float64)


def _int32_seed(rng: _random.Rng, purpose: str) -> int:
    return _random.seed(rng, purpose) % 2**31


def _mark(x: np.ndarray) -> str:
    from diffvae._core.fingerprint import fingerprint

    return fingerprint(x.astype(np.float32))
