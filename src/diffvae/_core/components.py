"""Principal components of expression, the baseline of every score."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffvae import _random

N_COMPONENTS = 50
"""The default of scanpy."""


def principal_components(x: Any, rng: _random.Rng) -> np.ndarray:
    """Return the first 50 principal components of cells x genes, or fewer if the data have fewer."""
    import scanpy as sc

    # the covariance is faster with fewer genes than cells; Lanczos avoids the matrix of genes x genes
    solver = "covariance_eigh" if x.shape[0] > x.shape[1] else "arpack"
    seed = _random.seed(rng, "PCA of the scores") % 2**31
    components: np.ndarray = sc.pp.pca(x, min(N_COMPONENTS, min(x.shape) - 1), svd_solver=solver, random_state=seed)
    return components
