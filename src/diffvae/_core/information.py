"""Which dimensions of a latent representation say something about the cells."""

from __future__ import annotations

import numpy as np

MIN_NATS = 0.1
"""Information that a dimension must carry to count as active."""
ACTIVE_VARIANCE = 0.01
"""A dimension is active where Var_x E[z_d|x] exceeds this (Burda et al. 2016, section 5.2)."""


def nats(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    r"""Return the information of each dimension of a posterior, from its means and standard deviations (cells x D).

    A Gaussian channel whose signal is the variance of the means and whose noise is the mean posterior variance carries

    .. math:: I_d = \frac12 \log \left( 1 + \frac{Var(\mu_d)}{\overline{\sigma_d^2}} \right)

    Unlike the KL term, this needs no prior, and a mean that is the same in all cells adds nothing. Where the posterior
    of all cells together is the prior N(0, 1), and its variance is the same in all cells, both are equal.

    Examples
    --------
    >>> cells = np.array([[-1.0, 3.0], [1.0, 3.0]])
    >>> nats(cells, np.full((2, 2), 0.5)).round(3).tolist()
    [0.805, 0.0]
    """
    noise = np.square(sd, dtype=np.float64).mean(axis=0)
    information: np.ndarray = 0.5 * np.log1p(mean.var(axis=0, dtype=np.float64) / np.maximum(noise, 1e-300))
    return information


def informative(mean: np.ndarray, sd: np.ndarray | None) -> np.ndarray:
    """Return which dimensions carry more than 0.1 nat; all of them where the posterior is not known.

    Components of PCA always do, because their means are not shrunk to the prior.

    Examples
    --------
    >>> informative(np.array([[-1.0, 3.0], [1.0, 3.0]]), np.full((2, 2), 0.5)).tolist()
    [True, False]
    """
    return np.ones(mean.shape[1], dtype=bool) if sd is None else nats(mean, sd) > MIN_NATS


def alive_dimensions(z: np.ndarray, prior: bool) -> np.ndarray:
    """Return which dimensions vary between cells; :meth:`diffvae.model.NeuralModel.diagnose` also asks what they carry.

    With a prior N(0, I), which fixes the scale, the variance must exceed 0.01; otherwise a hundredth of the mean
    variance.

    Examples
    --------
    >>> alive_dimensions(np.array([[-1.0, 0.0, 0.05], [1.0, 0.0, -0.05]]), prior=True).tolist()
    [True, False, False]
    """
    variance = z.var(axis=0, dtype=np.float64)
    alive: np.ndarray = variance > ACTIVE_VARIANCE * (1.0 if prior else variance.mean())
    return alive
