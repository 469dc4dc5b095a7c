"""Principal component analysis with the interface of the models: the linear baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from scipy import sparse

from diffvae import _random
from diffvae._core.validate import Whole, check
from diffvae.model._base import Model
from diffvae.model._features import Matrix, gene_means, layer_matrix, read_features, split_rows

if TYPE_CHECKING:
    from anndata import AnnData

ITERATIVE = {"max_epochs", "batch_size", "lr", "early_stopping", "patience", "device", "precision", "progress"}
"""Arguments of the training of other models, which PCA ignores."""


class PCA(Model):
    r"""Principal component analysis: the linear projection with the least squared error.

    .. math:: z = (x - \bar x) V, \qquad \hat x = \bar x + z V^T

    Parameters
    ----------
    n_latent
        Components D; at most min(cells, genes) - 1.

    Notes
    -----
    The components are exact. They are computed from the G x G covariance, which limits G to some thousands; a sparse
    matrix is made dense one block of cells at a time. ``sample(noise=False)`` draws from the Gaussian with the
    variances of the components, the generative model of probabilistic PCA without its noise.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> dv.model.PCA(n_latent=5).train(adata).get_latent_representation().shape
    (700, 5)
    """

    def __init__(self, n_latent: int = 50) -> None:
        super().__init__()
        check({"n_latent": Whole(1)}, n_latent=n_latent)
        self.n_latent = int(n_latent)

    def __repr__(self) -> str:
        return f"PCA(n_latent={self.n_latent}; {'trained' if self.is_trained else 'not trained'})"

    def get_params(self) -> dict[str, Any]:
        """Return the hyper-parameters."""
        return {"n_latent": self.n_latent}

    def train(
        self,
        adata: AnnData,
        *,
        layer: str | None = "unit",
        validation_size: float | None = None,
        rng: _random.Rng = 0,
        **ignored: Any,
    ) -> Self:
        """Fit the components on the training cells.

        Parameters
        ----------
        adata, layer, validation_size, rng
            As in :meth:`DiffVAE.train`.
        ignored
            Arguments of iterative models (epochs, device, ...), so that all models can be called in the same way.

        Returns
        -------
        The model itself. ``history`` has one row with the squared error per cell on both splits.
        """
        if unknown := set(ignored) - ITERATIVE:
            raise TypeError(
                f"train() got an unexpected argument {min(unknown)!r}; PCA takes layer, validation_size, rng."
            )
        matrix = layer_matrix(adata, layer)
        train_rows, validation_rows = split_rows(adata, validation_size, rng)
        limit = min(len(train_rows), matrix.shape[1]) - 1
        if self.n_latent > limit:
            raise ValueError(
                f"n_latent is {self.n_latent}, but {len(train_rows)} training cells with {matrix.shape[1]} genes have "
                f"at most {limit} principal components; ask for fewer."
            )
        features = read_features(adata, layer, matrix)
        x = matrix[train_rows]
        self._mean = gene_means(x)
        covariance = _gram(x) / len(train_rows) - np.outer(self._mean, self._mean)
        variances, vectors = np.linalg.eigh(covariance)
        top = np.argsort(variances)[::-1][: self.n_latent]
        components = vectors[:, top]
        # the sign of an eigenvector is arbitrary; the gene with the largest weight gets a positive one
        components *= np.sign(components[np.abs(components).argmax(0), np.arange(self.n_latent)])
        self._components = components
        self._variances = variances[top].clip(min=0)
        self._features, self._training_matrix, self._noise = features, matrix, None
        self._validation = np.isin(np.arange(features.n_cells), validation_rows)
        self._keep_cells()
        record = {
            f"{split}_mse": self._squared_error(matrix[rows])
            for split, rows in (("train", train_rows), ("validation", validation_rows))
            if len(rows)
        }
        self._history = pd.DataFrame([record], index=pd.RangeIndex(1, 2, name="epoch"))
        return self

    @property
    def components(self) -> np.ndarray:
        """V, genes x components; the largest weight of each component is positive."""
        if self._features is None:
            raise self._not_trained()
        return self._components

    def _squared_error(self, x: Matrix) -> float:
        """|x - xhat|^2 = |x - mean|^2 - |z|^2, per cell: the components are orthonormal."""
        squares = x.multiply(x).sum() if sparse.issparse(x) else np.square(x, dtype=np.float64).sum()
        mean_of_x = gene_means(x)
        centred = squares / x.shape[0] - 2 * mean_of_x @ self._mean + self._mean @ self._mean
        return float(centred - np.square(self._project(x)).sum() / x.shape[0])

    def _project(self, x: Matrix) -> np.ndarray:
        return np.asarray(x @ self._components) - self._mean @ self._components

    def _encode(self, matrix: Matrix, design: np.ndarray | None = None) -> np.ndarray:
        return self._project(matrix).astype(np.float32)

    def _posterior(self, matrix: Matrix, design: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        scores = self._encode(matrix)
        noise = float(self.history["train_mse"].iloc[0]) / (len(self.gene_names) - self.n_latent)
        variance = noise * (1 - noise / np.maximum(self._variances, noise)) if noise > 0 else 0 * self._variances
        return scores, np.broadcast_to(np.sqrt(variance).astype(np.float32), scores.shape).copy()

    def decode(self, z: np.ndarray, *, batch: Any = None) -> np.ndarray:
        """Return expression for points of the space of components; see :meth:`Model.decode`."""
        self._design_of_batch(batch, len(z))
        z = np.asarray(z)
        if z.ndim != 2 or z.shape[1] != self.n_latent:
            raise ValueError(f"z has shape {z.shape}; it must be points x {self.n_latent} latent dimensions.")
        return (z @ self.components.T + self._mean).astype(np.float32)

    def gene_weights(self) -> np.ndarray:
        """Return the components, latent dimensions x genes."""
        return self.components.T.astype(np.float32)

    def gene_jacobian(self, z: np.ndarray, *, batch: Any = None) -> np.ndarray:
        """Return the components: the derivative of a linear map is the same everywhere."""
        return self.gene_weights()

    def _draw_prior(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal((n, self.n_latent)) * np.sqrt(self._variances)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"mean": self._mean, "components": self._components, "variances": self._variances}

    def _set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._mean, self._components, self._variances = (arrays[k] for k in ("mean", "components", "variances"))
        expected = (len(self.gene_names), self.n_latent)
        if self._components.shape != expected:
            raise ValueError(f"the components are {self._components.shape}, not {expected}")
        if self._mean.shape != expected[:1] or self._variances.shape != expected[1:]:
            raise ValueError(f"mean and variances are {self._mean.shape} and {self._variances.shape}")


def _gram(x: Matrix) -> np.ndarray:
    """Return X^T X, computed in dense blocks: for expression data several times faster than a sparse product."""
    total = np.zeros((x.shape[1], x.shape[1]))
    for i in range(0, x.shape[0], 2048):
        block = x[i : i + 2048]
        block = (block.toarray() if sparse.issparse(block) else block).astype(np.float64)
        total += block.T @ block
    return total
