"""What every model of this package can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from diffvae import _keys, _random
from diffvae._errors import DataError
from diffvae.model._input import Features, Matrix, match_new

if TYPE_CHECKING:
    from anndata import AnnData


class NotTrainedError(RuntimeError):
    """The model has no weights yet."""


class Model(ABC):
    """The protocol: hyper-parameters into the constructor, data into :meth:`train`, then the verbs below.

    Attributes
    ----------
    history
        One row per epoch: every term of the loss on both splits, under its own name.
    gene_names
        The genes in the order in which the model knows them.
    features
        Genes, layer, scaling and fingerprint of the training data.
    """

    n_latent: int

    def __init__(self) -> None:
        self._features: Features | None = None
        self._history: pd.DataFrame | None = None
        self._training_matrix: Matrix | None = None

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

    @abstractmethod
    def get_params(self) -> dict[str, Any]:
        """Return the arguments that construct an equal model."""

    @abstractmethod
    def _arrays(self) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def _set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None: ...

    @property
    def features(self) -> Features:
        """Genes, layer, scaling and fingerprint of the training data."""
        if self._features is None:
            raise self._not_trained()
        return self._features

    @property
    def gene_names(self) -> pd.Index:
        """Genes in the model's order."""
        return pd.Index(self.features.gene_names)

    @property
    def is_trained(self) -> bool:
        """Whether the model has seen data."""
        return self._features is not None

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch, columns ``train_<term>`` and ``validation_<term>``, in nats per cell."""
        if self._history is None:
            raise self._not_trained()
        return self._history

    def _not_trained(self) -> NotTrainedError:
        return NotTrainedError(f"This {type(self).__name__} is not trained; call train(adata) first.")

    def get_latent_representation(self, adata: AnnData | None = None, *, max_missing: float = 0.2) -> np.ndarray:
        """Return the latent representation of cells: the posterior mean, never a draw.

        Parameters
        ----------
        adata
            Cells, raw or prepared; None for those of the training. Genes are matched by name and new cells scaled by
            the training scaling.
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
        return self._encode(self._matrix(adata, max_missing))

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

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model into a folder: ``config.json``, ``weights.safetensors``, ``history.csv``.

        Loading it again (:func:`diffvae.model.load`) executes nothing that is in the folder.
        """
        from diffvae.model._storage import save

        save(self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a model that :meth:`save` wrote, of this class."""
        from diffvae.model._storage import load

        model = load(path)
        if not isinstance(model, cls):
            raise DataError(f"{path} holds a {type(model).__name__}, not a {cls.__name__}; use diffvae.model.load.")
        return model

    def _matrix(self, adata: AnnData | None, max_missing: float) -> Matrix:
        if adata is not None:
            return match_new(adata, self.features, max_missing)
        if self._training_matrix is None:
            reason = "was loaded from disk" if self.is_trained else "is not trained"
            raise NotTrainedError(f"This {type(self).__name__} {reason} and holds no cells; name them: adata=...")
        return self._training_matrix
