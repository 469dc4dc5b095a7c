"""Independent component analysis, the baseline whose dimensions are as independent as a linear map makes them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from diffvae import _random
from diffvae._errors import DataError
from diffvae.model import PCA
from diffvae.model._features import Features

if TYPE_CHECKING:
    from anndata import AnnData

MAX_ITER, TOLERANCE = 1000, 1e-4
MIN_VARIANCE = 1e-10
"""Share of the largest variance up to which a component is a rounding error of single precision."""


class ICA:
    r"""Independent components of variance 1, sorted by the variance of expression that they explain.

    .. math:: z = W y, \qquad \hat x = \bar x + V W^{-1} z

    y are the scores of PCA with as many components, and W is FastICA's unmixing matrix on the training cells.

    Parameters
    ----------
    n_latent
        Components D.

    References
    ----------
    Hyvarinen and Oja, Independent component analysis: algorithms and applications, Neural Networks 13 (2000).
    """

    def __init__(self, n_latent: int = 50) -> None:
        self._pca = PCA(n_latent)

    def get_params(self) -> dict[str, Any]:
        """Return the hyper-parameters."""
        return self._pca.get_params()

    @property
    def features(self) -> Features:
        """Genes and layer of the training data."""
        return self._pca.features

    def train(self, adata: AnnData, *, layer: str | None = None, rng: _random.Rng = 0, progress: bool = False) -> Self:
        """Fit PCA and FastICA on the training cells, and return the model."""
        from sklearn.decomposition import FastICA
        from sklearn.exceptions import ConvergenceWarning

        from diffvae.model._features import split_rows

        self._pca.train(adata, layer=layer, rng=rng)
        rows, _ = split_rows(adata, None, rng)
        y = self._pca.get_latent_representation().astype(np.float64)
        variance = y[rows].var(axis=0)
        n = int((variance > MIN_VARIANCE * variance.max()).sum())
        if n < len(variance):  # whitening would divide by zero
            raise DataError(
                f"n_latent is {len(variance)}, but only {n} principal components of the training cells vary; ask for "
                f"at most {n}."
            )
        seed = _random.seed(rng, "ica") % 2**31
        ica = FastICA(whiten="unit-variance", max_iter=MAX_ITER, tol=TOLERANCE, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # any rotation of Gaussian components is right
            ica.fit(y[rows])
        # V is orthonormal and z has variance 1, so the squared length of a column is the variance it explains
        order = np.argsort(-np.square(ica.mixing_).sum(axis=0))
        self._mixing, self._mean = ica.mixing_[:, order], ica.mean_
        self._z = ica.transform(y)[:, order].astype(np.float32)
        return self

    def get_latent_representation(self) -> np.ndarray:
        """Return the components of the training cells, cells x components, float32."""
        return self._z

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Return expression for points of the space of components, points x genes."""
        return self._pca.decode(z @ self._mixing.T + self._mean)
