"""Quality of reconstructions, and the number of latent dimensions in use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from diffvae._core.validate import Number, check
from diffvae.metrics._labels import as_points

N_BLOCK = 2**22
"""Values that are made dense at a time (32 MiB)."""


def reconstruction_r2(x: Any, reconstruction: Any, mean: ArrayLike) -> float:
    r"""Compute the share of the variation of held-out cells that their reconstruction explains.

    .. math:: R^2 = 1 - \frac{\sum_{ig} (x_{ig} - \hat x_{ig})^2}{\sum_{ig} (x_{ig} - \bar x_g)^2}

    with :math:`\bar x` the means of the *training* cells, so that predicting these means for every cell scores 0. 1 for
    a perfect copy, below 0 for worse than the means. Genes weigh by their variance on the scale of x, so only values
    for the same x can be compared.

    Parameters
    ----------
    x
        Held-out cells x genes, dense or sparse; it is made dense block by block.
    reconstruction
        The same shape, dense or sparse.
    mean
        One mean per gene.

    Returns
    -------
    A number, at most 1.

    Examples
    --------
    >>> x = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> reconstruction_r2(x, x, [0.5, 0.5])
    1.0
    >>> reconstruction_r2(x, np.full((2, 2), 0.5), [0.5, 0.5])
    0.0
    """
    x, reconstruction = (v if hasattr(v, "shape") else np.asarray(v) for v in (x, reconstruction))
    centre = np.asarray(mean, dtype=np.float64)
    if len(x.shape) != 2 or x.shape != reconstruction.shape:
        raise ValueError(
            f"x has the shape {x.shape} and reconstruction {reconstruction.shape}; give the same cells x genes."
        )
    if centre.shape != (x.shape[1],):
        raise ValueError(f"mean has the shape {centre.shape} and x has {x.shape[1]} genes; give one mean per gene.")
    step = max(1, N_BLOCK // max(x.shape[1], 1))
    error = variation = 0.0
    for start in range(0, x.shape[0], step):
        block = _dense(x[start : start + step])
        error += float(((block - _dense(reconstruction[start : start + step])) ** 2).sum())
        variation += float(((block - centre) ** 2).sum())
    if not np.isfinite([error, variation]).all():
        raise ValueError("x, reconstruction or mean holds values that are NaN or infinite; leave those cells out.")
    if variation == 0:
        raise ValueError(f"x has {x.shape[0]} cells and none differs from the mean; R² is not defined.")
    return 1.0 - error / variation


def _dense(block: Any) -> np.ndarray:
    return np.asarray(block.toarray() if hasattr(block, "toarray") else block, dtype=np.float64)


def active_dimensions(z: ArrayLike, threshold: float = 0.01) -> int:
    r"""Count the latent dimensions that vary between cells.

    .. math:: \left| \{ d : \mathrm{Var}_x\, \mathrm{E}[z_d | x] > \theta \} \right|

    The threshold is meant for models with the prior N(0, I). Without a prior nothing fixes the scale of z (PCA, plain
    autoencoders), and the count depends on its units.

    Parameters
    ----------
    z
        Posterior means, cells x dimensions.
    threshold
        θ, 0.01 in the source.

    Returns
    -------
    A whole number between 0 and the number of dimensions.

    References
    ----------
    Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, ICLR (2016), section 5.2.

    Examples
    --------
    >>> active_dimensions([[-1.0, 0.0, 0.05], [1.0, 0.0, -0.05]])
    1
    """
    check({"threshold": Number("[0, inf)")}, threshold=threshold)
    points = as_points(z, name="z")
    return int((points.astype(np.float64).var(axis=0) > threshold).sum())
