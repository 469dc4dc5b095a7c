"""What every model of this package can do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd

from diffvae import _keys, _random
from diffvae._rows import Rows
from diffvae._store import OnDisk
from diffvae.model._estimator import Estimator
from diffvae.model._input import Matrix

if TYPE_CHECKING:
    from anndata import AnnData


class Model(Estimator, abstract=True):
    """The protocol: hyper-parameters into the constructor, data into :meth:`train`, then the verbs below.

    Attributes
    ----------
    history
        One row per epoch: every term of the loss on both splits, under its own name.
    gene_names
        The genes in the order in which the model knows them.
    features
        Genes, layer, scaling and fingerprint of the training data.

    Examples
    --------
    >>> import diffvae as dv
    >>> all(issubclass(m, dv.model.Model) for m in (dv.model.DiffVAE, dv.model.VAE, dv.model.PCA))
    True
    """

    n_latent: int
    _reads_disk = True

    @abstractmethod
    def train(self, adata: AnnData, *, layer: str | None, validation_size: float | None, rng: _random.Rng) -> Self:
        """Learn from the cells of an AnnData."""

    @abstractmethod
    def _encode(self, matrix: Matrix) -> np.ndarray: ...

    @abstractmethod
    def decode(self, z: np.ndarray) -> np.ndarray:
        """Return expression, on the scale of the training layer, for points of the latent space.

        Parameters
        ----------
        z
            Points x latent dimensions.

        Returns
        -------
        Points x genes, float32.
        """

    @abstractmethod
    def _draw_prior(self, n: int, rng: np.random.Generator) -> np.ndarray: ...

    @abstractmethod
    def gene_weights(self) -> np.ndarray:
        """Return omega, latent dimensions x genes: how each dimension is wired to each gene."""

    @abstractmethod
    def gene_jacobian(self, z: np.ndarray) -> np.ndarray:
        """Return the mean slope of each gene along each dimension at points z, latent dimensions x genes."""

    def get_latent_representation(
        self, adata: AnnData | OnDisk | None = None, *, max_missing: float = 0.2
    ) -> np.ndarray:
        """Return the latent representation of cells: the posterior mean, never a draw.

        Parameters
        ----------
        adata
            Cells, raw or prepared; None for those of the training. Genes are matched by name and new cells scaled by
            the training scaling. Files of AnnData, a list of them or an AnnData that is backed by one are read in
            blocks, each file with its own genes and totals of cells.
        max_missing
            Share of the model's genes that may be missing (they count as not expressed) before the data are refused.

        Returns
        -------
        Cells x latent dimensions, float32.

        Raises
        ------
        DataError
            If too many genes are missing, or the layer is.
        """
        matrix = self._matrix(adata, max_missing)
        if not isinstance(matrix, Rows):
            return self._encode(matrix)
        z = np.empty((len(matrix), self.n_latent), dtype=np.float32)
        for rows, part in self.encode_blocks(matrix):
            z[rows] = part
        return z

    def encode_blocks(self, matrix: Rows) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (rows, latent representation) of one block of cells on disk after the other."""
        for rows, block in matrix.blocks():
            yield rows, self._encode(block)

    def reconstruct(self, adata: AnnData | None = None, *, max_missing: float = 0.2) -> np.ndarray:
        """Return cells encoded and decoded again, on the scale of the training layer: cells x genes, float32."""
        return self.decode(self.get_latent_representation(adata, max_missing=max_missing))

    def sample(self, n: int, *, rng: _random.Rng = 0) -> AnnData:
        """Return artificial cells: draws from the prior, decoded to their expected expression.

        Parameters
        ----------
        n
            Number of cells.
        rng
            Seed or generator.

        Returns
        -------
        AnnData with the training layer (``"unit"``, say) in ``layers``, X on the log-normalised scale where the scaling
        is known, and the drawn z in ``obsm["X_diffvae"]``.
        """
        import anndata as ad

        if n < 1:
            raise ValueError(f"n is {n}; ask for one cell at least.")
        features = self.features
        z = self._draw_prior(n, _random.generator(rng, "sample"))
        values = self.decode(z)
        var = pd.DataFrame(index=self.gene_names)
        x = values
        if features.scaled:
            from diffvae import pp

            x = pp.from_unit(values, features.minimum, features.maximum).astype(np.float32)
            var[_keys.UNIT_MIN], var[_keys.UNIT_MAX] = features.minimum, features.maximum
        obs = pd.DataFrame(index=[f"artificial_{i}" for i in range(n)])
        artificial = ad.AnnData(x, obs=obs, var=var, obsm={_keys.LATENT: z.astype(np.float32)})
        if features.layer is not None:
            artificial.layers[features.layer] = values
        return artificial
