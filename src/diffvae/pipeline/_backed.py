"""A run on cells that stay on disk: training and embedding use all cells, the analysis a sample of them."""

from __future__ import annotations

import shutil
import tempfile
import warnings
import weakref
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random, pp
from diffvae._core.io import folders
from diffvae._core.io.backed import BackedAnnData, open_store
from diffvae._core.io.writer import adata_writer
from diffvae.tl._cluster import CLUSTERERS
from diffvae.tl._tsne import placer

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model

DRAWN = 20_000
"""Size of the sample for maps, clusters, names and graphs; Graph-DiffVAE sees all pairs of its cells."""
BLOCK = 50_000
"""Number of cells that are placed on the map at once."""
FAITHFUL = 0.9
"""Share of the sample whose cluster is that of the nearest centroid, below which a warning is given."""


def check_options(out: str | PathLike[str] | None, cluster_method: str, drawn: int) -> None:
    """Refuse what can't be done with cells on disk."""
    if out is None:
        raise ValueError("The cells are on disk, and so are their results; name a folder: out='results'.")
    if not CLUSTERERS[cluster_method].has_centroids:
        able = ", ".join(name for name, clusterer in CLUSTERERS.items() if clusterer.has_centroids)
        raise ValueError(
            f"cluster_method is {cluster_method!r}, but its clusters have no centroids, by which the cells outside the "
            f"sample are assigned to clusters; choose one of {able}, or read the cells into memory."
        )
    if drawn < 100:
        raise ValueError(f"subsample is {drawn}; it must be 100 cells or more.")


class BackedRun:
    """The cells of a run on disk.

    Parameters
    ----------
    source
        The cells as given.
    out
        Folder of the results; intermediate files lie beside it.
    drawn
        Size of the sample.

    Attributes
    ----------
    about
        Entries of the summary on the sample and the transfer.
    """

    def __init__(self, source: BackedAnnData, out: str | PathLike[str] | None, drawn: int = DRAWN) -> None:
        assert out is not None
        self.source, self.drawn = source, drawn
        self.about: dict[str, Any] = {"files": [shard.path.name for shard in source.shards], "subsample": drawn}
        place = Path(out).expanduser().resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        folders.remove_leftovers(place, folders.WORK)  # of killed runs; this run holds the lock of the folder
        self.place = place
        self.work = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.", suffix=folders.WORK))
        weakref.finalize(self, shutil.rmtree, self.work, ignore_errors=True)  # also where a run fails

    def prepare(self, **options: Any) -> BackedAnnData:
        """Prepare the cells unless they are prepared already, for the steps that follow."""
        if self.source.is_prepared:
            self.source.matrix(None)  # the sample needs X by rows: refused now, not after training
            self.prepared = self.source
        else:
            with folders.explain_write_errors(self.place, self.work):
                self.prepared = open_store(pp.prepare(self.source, out=self.work / "prepared.h5ad", **options))
        return self.prepared

    def train(self, model: Model, **options: Any) -> None:
        """Train on all cells and embed them."""
        model.train(self.prepared, **options)
        matrix = self.prepared.matrix(model.features.layer)
        shape = (self.prepared.n_obs, model.n_latent)
        with folders.explain_write_errors(self.place, self.work):
            self._latent = np.lib.format.open_memmap(self.work / "latent.npy", "w+", np.float32, shape)
        for rows, z in model.encode_blocks(matrix):
            self._latent[rows] = z

    def sample(self, model: Model, seed: int) -> AnnData:
        """Return a random sample of the cells, in memory, with their latent representation.

        The model forgets cells that were prepared for this run, since their file is removed with it.
        """
        if self.prepared is not self.source:
            model._training_matrix = None
        n = self.prepared.n_obs
        order = _random.generator(seed, "sample of the cells on disk").permutation(n)
        self.rows = np.sort(order[: min(self.drawn, n)])
        adata = self.prepared.take(self.rows)
        adata.obsm[_keys.LATENT] = np.array(self._latent[self.rows])
        adata.uns.setdefault(_keys.UNS, {})["embed"] = {
            "model": type(model).__name__,
            "key_added": _keys.LATENT,
            "training_fingerprint": model.features.fingerprint,
        }
        return adata

    def transfer(self, adata: AnnData) -> None:
        """Give all cells a cluster and name, by the nearest centroid, and a place on the map.

        Cells of the sample keep theirs. How often the nearest centroid gives back their cluster is measured.
        """
        clusters = adata.obs[_keys.CLUSTER].cat.categories
        codes = adata.obs[_keys.CLUSTER].cat.codes.to_numpy()
        z = np.asarray(adata.obsm[_keys.LATENT])
        centroids = np.stack([z[codes == i].mean(axis=0) for i in range(len(clusters))])
        n = self.prepared.n_obs
        place = placer(adata, use_rep=_keys.LATENT, perplexity=5, n_iter=100, key_added=_keys.TSNE, n_jobs=-1)
        self._codes, self._map = np.empty(n, dtype=np.int64), np.empty((n, 2), dtype=np.float32)
        others = np.setdiff1d(np.arange(n), self.rows, assume_unique=True)
        self._codes[self.rows], self._map[self.rows] = codes, adata.obsm[_keys.TSNE]
        for start in range(0, len(others), BLOCK):
            rows = others[start : start + BLOCK]
            points = np.array(self._latent[rows])
            self._codes[rows] = _nearest(points, centroids)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # openTSNE on its internals
                self._map[rows] = place(points)
        self._clusters = clusters
        self._names = [str(adata.obs.loc[codes == i, _keys.CELL_TYPE].iloc[0]) for i in range(len(clusters))]
        given_back = float((_nearest(z, centroids) == codes).mean())
        self.about |= {"n_cells": n, "n_drawn": len(self.rows), "centroids_give_back": given_back}
        if len(others):
            warnings.warn(
                f"Map, clusters, dimensions, genes, names, scores and links are those of {len(self.rows):,} cells "
                f"drawn at random among {n:,}; the others got the cluster of the nearest centroid in the latent space "
                f"and were placed on the map ({_keys.ALL_CELLS}).",
                UserWarning,
                stacklevel=2,
            )
            if given_back < FAITHFUL:
                warnings.warn(
                    f"The nearest centroids give back {given_back:.0%} of the clusters of the drawn cells only, so "
                    "take those of the others as rough.",
                    UserWarning,
                    stacklevel=2,
                )

    @property
    def sizes(self) -> list[int]:
        """Cells of each cluster, all cells counted."""
        return np.bincount(self._codes, minlength=len(self._clusters)).tolist()

    def write(self, path: Path) -> None:
        """Write all cells: table, latent representation, map, clusters and names; the expression stays where it is."""
        import anndata as ad

        obs = self.prepared.obs.copy()
        obs[_keys.CLUSTER] = pd.Categorical.from_codes(self._codes, categories=self._clusters)
        obs[_keys.CELL_TYPE] = pd.Categorical(np.array(self._names)[self._codes])
        obs[_keys.DRAWN] = np.isin(np.arange(len(obs)), self.rows)
        with adata_writer(path, ad.AnnData(obs=obs, uns={_keys.UNS: {"sample": self.about}})) as file:
            for start in range(0, len(obs), BLOCK):
                file.append(f"obsm/{_keys.LATENT}", np.array(self._latent[start : start + BLOCK]))
            file.append(f"obsm/{_keys.TSNE}", self._map)


def _nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the centroid that is nearest to each point."""
    return (np.square(centroids).sum(axis=1) - 2 * points @ centroids.T).argmin(axis=1)
