"""Harmony, the baseline of data integration: principal components from which the batches are removed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from diffvae import _random
from diffvae._core.validate import Number, Rule, check
from diffvae._errors import DataError
from diffvae.metrics._labels import as_labels
from diffvae.model import PCA

if TYPE_CHECKING:
    from anndata import AnnData

RULES: dict[str, Rule] = {"sigma": Number("(0, inf)")}
CELLS_PER_CLUSTER = 30
"""Of Harmony, which needs at least one cluster."""


class Harmony:
    r"""Principal components, corrected by Harmony; all other settings are the defaults of harmonypy.

    .. math:: z_i = y_i - \sum_k R_{ki} W_k^\top \phi_i

    y are the scores of PCA, :math:`\phi_i` is the batch of cell i, R assigns cells to clusters in which the batches are
    as mixed as possible, and :math:`W_k` is the shift of each batch in cluster k (ridge regression). PCA is fitted on
    the training cells and Harmony on all, because it has no way to correct a cell it has not seen. There is no
    ``decode``: the corrected scores are no longer those of an expression.

    Parameters
    ----------
    n_latent
        Components D.
    sigma
        Width of the soft clusters, harmonypy's default. Batches that lie far apart do not meet in narrow clusters, and
        then nothing is corrected: on a simulated tree (2,000 cells, three batches of ``batch_effect`` 0.6) iLISI stays
        0.00, and is 0.66 with 0.3.

    Raises
    ------
    ImportError
        If harmonypy is not installed.

    References
    ----------
    Korsunsky et al., Fast, sensitive and accurate integration of single-cell data with Harmony, Nature Methods 16
    (2019).
    """

    needs_batches: ClassVar[bool] = True

    def __init__(self, n_latent: int = 50, sigma: float = 0.1) -> None:
        check(RULES, sigma=sigma)
        if find_spec("harmonypy") is None:
            raise ImportError('Harmony needs harmonypy, which is not installed: pip install "diffvae[harmony]"')
        self._pca, self.sigma = PCA(n_latent), float(sigma)

    def get_params(self) -> dict[str, Any]:
        """Return the hyper-parameters."""
        return self._pca.get_params() | {"sigma": self.sigma}

    def train(
        self,
        adata: AnnData,
        *,
        batch_key: str | None = None,
        layer: str | None = None,
        rng: _random.Rng = 0,
        progress: bool = False,
    ) -> Self:
        """Fit PCA on the training cells, correct all cells, and return the model.

        Parameters
        ----------
        adata
            Cells from :func:`diffvae.pp.prepare`.
        batch_key
            Batches in ``obs``.
        layer
            None for the log-normalised values.
        rng
            Seed or generator.
        progress
            Without effect.

        Raises
        ------
        ValueError
            Without batches, with one batch only, or with cells of unknown batch.
        DataError
            If there are too few cells for a cluster.
        """
        if batch_key is None:
            raise ValueError("Harmony corrects batches; name their column of obs with batch_key=....")
        if batch_key not in adata.obs:
            raise DataError(f"adata.obs[{batch_key!r}] is missing; Harmony needs the batch of each cell.")
        batches = as_labels(adata.obs[batch_key], f"adata.obs[{batch_key!r}]")
        if len(np.unique(batches)) < 2:
            raise ValueError(
                f"adata.obs[{batch_key!r}] has one value only, {str(batches[0])!r}; Harmony needs batches."
            )
        if round(len(batches) / CELLS_PER_CLUSTER) < 1:
            raise DataError(
                f"There are {len(batches)} cells, too few for Harmony's clusters of {CELLS_PER_CLUSTER} cells."
            )
        import harmonypy

        y = self._pca.train(adata, layer=layer, rng=rng).get_latent_representation()
        found = harmonypy.run_harmony(
            y.astype(np.float64),
            {batch_key: batches},
            batch_key,
            sigma=self.sigma,
            verbose=False,
            random_state=_random.seed(rng, "harmony") % 2**31,
            ncores=1,
        )
        self._z = np.ascontiguousarray(found.Z_corr, dtype=np.float32)
        return self

    def get_latent_representation(self) -> np.ndarray:
        """Return the corrected components of the training cells, cells x components, float32."""
        return self._z
