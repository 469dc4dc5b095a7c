"""The cells of a run: in memory, or on disk with a sample in memory."""

from __future__ import annotations

import shutil
import tempfile
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random, datasets, pp, tl
from diffvae._core.io import folders, read
from diffvae._core.io.backed import open_store
from diffvae._core.io.writer import adata_writer
from diffvae._core.runtime import StepLog
from diffvae._core.validate import check
from diffvae.pipeline._checks import RULES
from diffvae.pp._record import is_prepared
from diffvae.tl._cluster import CLUSTERERS
from diffvae.tl._tsne import placer

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import Model
    from diffvae.pipeline._config import RunConfig

BLOCK = 50_000
"""Number of cells that are placed on the map at once."""
MIN_AGREEMENT = 0.9
"""Share of the sample whose nearest centroid is that of its cluster, below which a warning is given."""


class InMemoryRun:
    """The cells of a run in memory: every step uses all of them; the same interface as :class:`BackedRun`."""

    words = ()
    sizes = subsample = None

    def __init__(self, config: RunConfig) -> None:
        data = config.data
        self.about: dict[str, Any] = {}
        if data is None:
            self.cells, self.files = datasets.pancreas_endocrinogenesis(), []
            self.origin = "diffvae.datasets.pancreas_endocrinogenesis()"
        else:
            self.cells, self.origin = read.load(
                data[0] if isinstance(data, list | tuple) else data, config.transpose, use_raw=config.use_raw,
                gene_symbols=config.gene_symbols, genome=config.genome,
            )  # fmt: skip
            self.files = [self.origin]

    def prepare(self, **options: Any) -> None:
        """Prepare the cells, unless they are prepared; results of later steps are removed."""
        if is_prepared(self.cells):
            self.cells.uns[_keys.UNS] = {"prepare": self.cells.uns[_keys.UNS]["prepare"]}
        else:
            pp.prepare(self.cells, **options)

    def train(self, model: Model, **options: Any) -> None:
        """Train on the cells and embed them."""
        model.train(self.cells, **options)
        tl.embed(self.cells, model)

    def sample(self, model: Model, seed: int, log: StepLog) -> AnnData:
        """Return all cells."""
        return self.cells

    def finish(self, adata: AnnData, log: StepLog) -> None:
        """Do nothing: all cells have a cluster."""

    def write(self, folder: Path) -> None:
        """Do nothing: the result holds all cells."""


class BackedRun:
    """The cells of a run that stay on disk.

    Intermediate files lie beside the output folder until the run ends.

    Attributes
    ----------
    cells
        All cells, prepared by :meth:`prepare`.
    origin
        Name of the data in the summary.
    about
        Entries of the summary on the sample and the assignment of the other cells.
    """

    words = ("--backed",)
    """Options that the command of the run needs."""

    def __init__(self, config: RunConfig) -> None:
        if config.out is None:
            raise ValueError("The cells stay on disk, so results need a folder; name one: out='results'.")
        if not CLUSTERERS[config.cluster_method].has_centroids:
            able = ", ".join(name for name, clusterer in CLUSTERERS.items() if clusterer.has_centroids)
            raise ValueError(
                f"cluster_method is {config.cluster_method!r}, but its clusters have no centroids to which cells "
                f"outside the sample could be assigned; choose one of {able}, or read the cells into memory."
            )
        check(RULES, subsample=config.subsample)
        if config.use_raw:
            raise ValueError(
                "use_raw is True, but the cells stay on disk, where only X and layers can be read in blocks; read them "
                "into memory, or write adata.raw.to_adata() to a file of its own."
            )
        if config.genome:
            raise ValueError(
                f"genome is {config.genome!r}, but the cells stay on disk; read them into memory, or write the genes "
                "of one genome to a file of their own."
            )
        self.cells = self._source = open_store(config.data, config.gene_symbols)
        self.origin, self.subsample = self.cells.name, config.subsample
        self.files = [shard.path.name for shard in self.cells.shards]
        self.about: dict[str, Any] = {"files": self.files, "subsample": config.subsample}
        self._out = Path(config.out).expanduser().resolve()
        self._out.parent.mkdir(parents=True, exist_ok=True)
        folders.remove_leftovers(self._out, folders.WORK)  # of killed runs; this run holds the lock of the folder
        self.work = Path(tempfile.mkdtemp(dir=self._out.parent, prefix=f".{self._out.name}.", suffix=folders.WORK))
        weakref.finalize(self, shutil.rmtree, self.work, ignore_errors=True)

    def prepare(self, **options: Any) -> None:
        """Prepare the cells in a file of their own, unless they are prepared."""
        if self._source.is_prepared:
            self._source.matrix(None)  # the sample needs X by rows: refused before the training
            return
        with folders.explain_write_errors(self._out, self.work):
            self.cells = open_store(pp.prepare(self._source, out=self.work / "prepared.h5ad", **options))

    def train(self, model: Model, **options: Any) -> None:
        """Train on all cells and embed them."""
        model.train(self.cells, **options)
        shape = (self.cells.n_obs, model.n_latent)
        with folders.explain_write_errors(self._out, self.work):
            self._latent = np.lib.format.open_memmap(self.work / "latent.npy", "w+", np.float32, shape)
        for rows, z in model.encode_blocks(self.cells.matrix(model.features.layer), model.design()):
            self._latent[rows] = z

    def sample(self, model: Model, seed: int, log: StepLog) -> AnnData:
        """Return a random sample of the cells in memory, with their latent representation.

        The model forgets cells that were prepared for this run, since their file is removed with it.
        """
        with log.step("draw a sample of the cells"):
            if self.cells is not self._source:
                model._training_matrix = None
            order = _random.generator(seed, "sample of the cells on disk").permutation(self.cells.n_obs)
            self._rows = np.sort(order[: self.subsample])
            adata = self.cells.take(self._rows)
            tl.embed(adata, model)
            adata.obsm[_keys.LATENT] = np.array(self._latent[self._rows])  # to the bit those of all cells
        return adata

    def finish(self, adata: AnnData, log: StepLog) -> None:
        """Give all cells a cluster and a name, by the nearest centroid in the latent space, and a place on the map.

        Cells of the sample keep their own; the share whose nearest centroid is that of their cluster is reported.
        """
        with log.step("place and name the other cells"):
            self._assign(adata)

    def _assign(self, adata: AnnData) -> None:
        self._clusters = adata.obs[_keys.CLUSTER].cat.categories
        codes = adata.obs[_keys.CLUSTER].cat.codes.to_numpy()
        of_cluster = [np.flatnonzero(codes == i) for i in range(len(self._clusters))]
        self._names = [str(adata.obs[_keys.CELL_TYPE].iloc[rows[0]]) for rows in of_cluster]
        z = np.asarray(adata.obsm[_keys.LATENT])
        centroids = np.stack([z[rows].mean(axis=0) for rows in of_cluster])
        n, n_sampled = self.cells.n_obs, len(self._rows)
        place = placer(adata, use_rep=_keys.LATENT, perplexity=5, n_iter=100, key_added=_keys.TSNE, n_jobs=-1)
        self._codes, self._map = np.empty(n, dtype=np.int64), np.empty((n, 2), dtype=np.float32)
        self._codes[self._rows], self._map[self._rows] = codes, adata.obsm[_keys.TSNE]
        others = np.setdiff1d(np.arange(n), self._rows, assume_unique=True)
        for start in range(0, len(others), BLOCK):
            rows = others[start : start + BLOCK]
            points = np.array(self._latent[rows])
            self._codes[rows] = _nearest(points, centroids)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # openTSNE on its internals
                self._map[rows] = place(points)
        agreement = float((_nearest(z, centroids) == codes).mean())
        self.about |= {"n_cells": n, "n_drawn": n_sampled, "centroids_give_back": agreement}
        if len(others):
            warnings.warn(
                f"Map, clusters, dimensions, genes, names, scores and links come from a random sample of "
                f"{n_sampled:,} of {n:,} cells. Each other cell has the cluster of the nearest centroid in the latent "
                f"space and a place on the map ({_keys.ALL_CELLS}).",
                UserWarning,
                stacklevel=2,
            )
            if agreement < MIN_AGREEMENT:
                warnings.warn(
                    f"Only {agreement:.0%} of the sampled cells are nearest to the centroid of their own cluster, so "
                    "the clusters of the other cells are approximate.",
                    UserWarning,
                    stacklevel=2,
                )

    @property
    def sizes(self) -> list[int]:
        """Number of cells in each cluster, among all cells."""
        return np.bincount(self._codes, minlength=len(self._clusters)).tolist()

    def write(self, folder: Path) -> None:
        """Write all cells: ``obs``, latent representation, map, clusters and names, but no expression."""
        import anndata as ad

        obs = self.cells.obs.copy()
        obs[_keys.CLUSTER] = pd.Categorical.from_codes(self._codes, categories=self._clusters)
        obs[_keys.CELL_TYPE] = pd.Categorical(np.array(self._names)[self._codes])
        obs[_keys.DRAWN] = np.isin(np.arange(len(obs)), self._rows)
        adata = ad.AnnData(obs=obs, uns={_keys.UNS: {"sample": self.about}})
        with adata_writer(folder / _keys.ALL_CELLS, adata) as file:
            for start in range(0, len(obs), BLOCK):
                file.append(f"obsm/{_keys.LATENT}", np.array(self._latent[start : start + BLOCK]))
            file.append(f"obsm/{_keys.TSNE}", self._map)


def _nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the index of the centroid that is nearest to each point."""
    return (np.square(centroids).sum(axis=1) - 2 * points @ centroids.T).argmin(axis=1)
