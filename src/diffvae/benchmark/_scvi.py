"""The adapters of scvi-tools and DRVI: which class of which package each is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffvae.benchmark._count_model import CountModel


class SCVI(CountModel):
    """scVI: a variational autoencoder with a zero-inflated negative binomial likelihood.

    Parameters
    ----------
    n_latent, params
        As in :class:`CountModel`.

    References
    ----------
    Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 2018.
    """

    name = "scVI"
    package = "scvi-tools"
    where = ("scvi.model", "SCVI")

    def __init__(self, n_latent: int = 10, **params: Any) -> None:
        super().__init__(n_latent, **params)


class LinearSCVI(CountModel):
    """LinearSCVI: scVI with a linear decoder and a negative binomial likelihood.

    Parameters
    ----------
    n_latent, params
        As in :class:`CountModel`.

    References
    ----------
    Svensson et al., Interpretable factor models of single-cell RNA-seq via variational autoencoders,
    Bioinformatics 2020.
    """

    name = "LinearSCVI"
    package = "scvi-tools"
    where = ("scvi.model", "LinearSCVI")

    def __init__(self, n_latent: int = 10, **params: Any) -> None:
        super().__init__(n_latent, **params)


class DRVI(CountModel):
    """DRVI: a decoder in one part per latent dimension, pooled at the end, for dimensions that don't mix processes.

    Parameters
    ----------
    n_latent, params
        As in :class:`CountModel`.

    References
    ----------
    Moinfar and Theis, Unsupervised deep disentangled representation of single-cell omics, bioRxiv 2024.
    """

    name = "DRVI"
    package = "drvi-py"
    where = ("drvi.model", "DRVI")

    def __init__(self, n_latent: int = 32, **params: Any) -> None:
        super().__init__(n_latent, **params)


def scvi_methods() -> dict[str, Callable[[int], CountModel]]:
    """Return the adapters by name: functions from a number of latent dimensions to an untrained model.

    They are named whether or not the libraries are installed; making a model says what is missing.

    Examples
    --------
    >>> sorted(scvi_methods())
    ['DRVI', 'LinearSCVI', 'scVI']
    """
    return {cls.name: cls for cls in (SCVI, LinearSCVI, DRVI)}
