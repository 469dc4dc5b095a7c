"""Representations to compare: named methods, or any object with the interface of the models of this package.

The models of scvi-tools and DRVI are trained on the counts of the same cells and splits as ours.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np
from scipy import sparse

from diffvae import _keys, _random
from diffvae._core.validate import Whole, check
from diffvae._errors import DataError
from diffvae.benchmark._harmony import Harmony
from diffvae.benchmark._ica import ICA
from diffvae.metrics._labels import as_labels
from diffvae.model._base import NotTrainedError
from diffvae.model._features import Features, Matrix, layer_matrix, match_new, read_features, split_rows
from diffvae.pipeline import _settings
from diffvae.pipeline._settings import Config

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Factory: TypeAlias = Callable[[int], Any]
"""Takes a number of latent dimensions and returns an untrained model."""
BATCH_SIZE = 128
"""Cells per step, the default of scvi-tools."""
LOGGERS = ("scvi", "drvi.scvi_tools_based", "lightning.pytorch", "lightning.fabric")
SEEDED = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "XLA_FLAGS")
"""Environment variables that scvi-tools sets together with its seed."""


@dataclass(frozen=True)
class Method:
    """A representation to compare.

    Attributes
    ----------
    name
        Name in tables.
    make
        Function that takes a number of latent dimensions and returns an untrained model.
    options
        Further arguments of the model's ``train``. ``{"batch_key": None}`` trains without the batches of a comparison.

    Examples
    --------
    >>> import diffvae as dv
    >>> small = dv.benchmark.Method("small DiffVAE", lambda n: dv.model.DiffVAE(n_latent=n, hidden=(64, 32)))
    >>> small.make(10)
    DiffVAE(n_latent=10, hidden=(64, 32); not trained)
    """

    name: str
    make: Factory
    options: Mapping[str, Any] = field(default_factory=dict)

    def describe(self, n_latent: int, batch_key: str | None = None) -> str:
        """Return what determines the result of a training, except cells and seed, as JSON."""
        model = self.make(n_latent)
        params = model.get_params() if hasattr(model, "get_params") else {}
        about = {"class": f"{type(model).__module__}.{type(model).__qualname__}", "params": params}
        return json.dumps(about | {"options": train_options(self, model, batch_key)}, sort_keys=True, default=repr)


def train_options(method: Method, model: Any, batch_key: str | None) -> dict[str, Any]:
    """Return the options of a method, and the column of the batches if there is one and the model takes it."""
    takes = getattr(model, "takes_batches", True) and "batch_key" in inspect.signature(model.train).parameters
    return ({"batch_key": batch_key} if takes and batch_key is not None else {}) | dict(method.options)


def methods() -> dict[str, Method]:
    """Return the methods that :func:`diffvae.benchmark.run` knows by name.

    Returns
    -------
    Name to :class:`Method`. ``"DiffVAE"`` (the default preset), ``"DiffVAE (paper)"`` and ``"DiffVAE (code)"``;
    ``"VAE"``; ``"AE"`` (squared error, as in the paper) and ``"AE (bernoulli)"`` (as in its code); ``"PCA"`` of
    log-normalised expression, as in scanpy, and ``"PCA (unit)"`` of values in [0, 1], as in the paper; ``"ICA"``
    (FastICA of these principal components, of variance 1); with harmonypy installed ``"Harmony"`` (of the same
    components), which needs batches; with scvi-tools and drvi-py installed ``"scVI"``,
    ``"LinearSCVI"`` and ``"DRVI"``, which need counts.

    Examples
    --------
    >>> methods()["PCA"].make(20)
    PCA(n_latent=20; not trained)
    """
    from diffvae import model

    factories: dict[str, Factory] = {
        "DiffVAE": partial(_make, model.DiffVAE, {}),
        "DiffVAE (paper)": partial(_make, model.DiffVAE, {"preset": "paper"}),
        "DiffVAE (code)": partial(_make, model.DiffVAE, {"preset": "code"}),
        "VAE": partial(_make, model.VAE, {}),
        "AE": partial(_make, model.AutoEncoder, {"likelihood": "mse"}),
        "AE (bernoulli)": partial(_make, model.AutoEncoder, {"likelihood": "bernoulli"}),
        "PCA (unit)": partial(_make, model.PCA, {}),
        "PCA": partial(_make, model.PCA, {}),
        "ICA": ICA,
        "Harmony": Harmony,
        **{cls.name: cls for cls in (SCVI, LinearSCVI, DRVI)},
    }
    return {name: Method(name, make, {"layer": None} if name == "PCA" else {}) for name, make in factories.items()}


def configured(config: Config, name: str = "DiffVAE") -> Method:
    """Return DiffVAE with a configuration, such as the one that :func:`diffvae.benchmark.tune` writes.

    Parameters
    ----------
    config
        Names and values, or a JSON file of them, as in :func:`diffvae.pipeline.run`.
    name
        Name of the method.

    Returns
    -------
    :class:`Method` for :func:`diffvae.benchmark.run`, whose ``n_latent`` overrides that of the configuration.

    Examples
    --------
    >>> configured({"preset": "paper", "max_epochs": 20}).make(10).n_latent
    10
    """
    settings = _settings.read(config)
    return Method(name, partial(_make_configured, settings), _settings.training_of(settings))


def as_methods(given: Sequence[str] | Mapping[str, Any]) -> list[Method]:
    """Return methods from names, or from a mapping of names to models or functions that make them."""
    if not given:
        raise ValueError("No method was named; name at least one, such as 'DiffVAE'.")
    if isinstance(given, Mapping):
        return [_as_method(str(name), model) for name, model in given.items()]
    known = methods()
    names = [given] if isinstance(given, str) else list(given)
    if unknown := [n for n in names if n not in known]:
        raise ValueError(f"{unknown[0]!r} is not a method; the methods are {', '.join(map(repr, known))}.")
    return [known[n] for n in dict.fromkeys(names)]


def _as_method(name: str, model: Any) -> Method:
    if isinstance(model, Method):
        return Method(name, model.make, model.options)
    if hasattr(model, "train") and hasattr(model, "get_latent_representation"):
        return Method(name, partial(_make, model, {}) if isinstance(model, type) else partial(_make_alike, model))
    if callable(model):
        return Method(name, model)
    raise ValueError(
        f"The method {name!r} has type {type(model).__name__}; give a model with train() and "
        "get_latent_representation(), or a function that takes n_latent and returns one."
    )


# Functions of the module, because workers of Dask must be able to unpickle them.


def _make(cls: type, params: Mapping[str, Any], n_latent: int) -> Any:
    return cls(**params, n_latent=n_latent)


def _make_configured(settings: Mapping[str, Any], n_latent: int) -> Any:
    return _settings.model_of({**settings, "n_latent": n_latent})


def _make_alike(model: Any, n_latent: int) -> Any:
    """Return an untrained copy of a model, with this number of dimensions if it has such a parameter."""
    if hasattr(model, "get_params"):
        params = model.get_params()
        return type(model)(**(params | ({"n_latent": n_latent} if "n_latent" in params else {})))
    return copy.deepcopy(model)


class CountModel:
    """Adapter of a model of scvi-tools, or of a library built on it, for :func:`diffvae.benchmark.run`.

    All other settings are the defaults of scvi-tools: one hidden layer of 128, 128 cells per step, learning rate, KL
    warm-up, and 400 epochs, fewer above 20,000 cells. The reconstruction is not scored (there is no ``decode``),
    because these models predict the mean of counts, which cannot be compared with logarithms scaled to [0, 1].

    Parameters
    ----------
    n_latent
        Latent dimensions D; None for the default of the library.
    params
        Further arguments of the library's model, such as ``n_layers``.

    Raises
    ------
    ImportError
        If the library is not installed.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    """Name for pip."""
    module: ClassVar[str]
    class_name: ClassVar[str]
    default_n_latent: ClassVar[int] = 10
    takes_batches: ClassVar[bool] = True

    def __init__(self, n_latent: int | None = None, **params: Any) -> None:
        n_latent = self.default_n_latent if n_latent is None else n_latent
        check({"n_latent": Whole(1)}, n_latent=n_latent)
        if any(find_spec(module) is None for module in ("scvi", self.module.partition(".")[0])):
            raise ImportError(f"{self.name} needs {self.package}, which is not installed: pip install {self.package}")
        self.n_latent, self.params = int(n_latent), params
        self._model: Any = None
        self._features: Features | None = None
        self._batch_key: str | None = None
        self._seed = 0

    def __repr__(self) -> str:
        params = ", ".join(f"{k}={v!r}" for k, v in self.get_params().items())
        return f"{type(self).__name__}({params}; {'not trained' if self._model is None else 'trained'})"

    def get_params(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"n_latent": self.n_latent} | self.params

    def train(
        self,
        adata: AnnData,
        *,
        layer: str = _keys.COUNTS,
        batch_key: str | None = None,
        max_epochs: int | None = None,
        validation_size: float | None = None,
        rng: _random.Rng = 0,
        progress: bool = True,
    ) -> Self:
        """Train on the counts of the training cells and return the model.

        Parameters
        ----------
        adata
            Cells from :func:`diffvae.pp.prepare`. They are not changed; the library gets a copy of their counts.
        layer
            Layer of counts.
        batch_key
            Batches in ``obs``, which the model then corrects; None to correct none.
        max_epochs
            Passes over the training cells; None for the library's choice.
        validation_size
            As in :meth:`DiffVAE.train`: None for the split made by :func:`diffvae.pp.prepare`.
        rng
            Seed or generator. The library uses global generators; their states are restored.
        progress
            Show the library's progress bar on a terminal.

        Raises
        ------
        DataError
            If there are no counts, or cells of unknown batch.
        RuntimeError
            If the library fails, for example because the loss is not finite.
        """
        counts = self._counts(adata, layer)
        rows, held_out = split_rows(adata, validation_size, rng)
        features = read_features(adata, layer, counts)
        batches = self._batches(adata, batch_key)
        seed = _random.seed(rng, "scvi")
        remainder = len(rows) % BATCH_SIZE
        split = {
            "external_indexing": [rows, held_out],
            # Batch norm fails on a last batch of one cell, so each epoch drops a small last batch, of random cells.
            "drop_last": len(rows) > BATCH_SIZE and 0 < remainder < 3,
        }
        library = getattr(import_module(self.module), self.class_name)
        with global_seed(seed):
            cells = _count_cells(counts, batches, features)
            library.setup_anndata(cells, **({} if batch_key is None else {"batch_key": batch_key}))
            model = library(cells, n_latent=self.n_latent, **self.params)
            try:
                model.train(
                    max_epochs=max_epochs,
                    batch_size=BATCH_SIZE,
                    datasplitter_kwargs=split,
                    enable_progress_bar=progress and sys.stderr.isatty(),
                )
            except (ValueError, RuntimeError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
                raise RuntimeError(f"{self.name} could not be trained on these cells: {reason}.") from error
        self._model, self._features, self._batch_key, self._seed = model, features, batch_key, seed
        return self

    def get_latent_representation(self, adata: AnnData | None = None) -> np.ndarray:
        """Return the posterior means of cells, cells x latent dimensions, float32.

        Parameters
        ----------
        adata
            Cells with counts in the layer used in training, and with batches in the same column if the model corrects
            them; genes are matched by name. None for the training cells.
        """
        if self._model is None or self._features is None:
            raise NotTrainedError(f"This {type(self).__name__} is not trained; call train(adata) first.")
        new = None
        if adata is not None:
            self._counts(adata, str(self._features.layer))
            batches = self._batches(adata, self._batch_key)
            new = _count_cells(match_new(adata, self._features, 0.0), batches, self._features)
        with global_seed(self._seed):
            z = self._model.get_latent_representation(new)
        return np.ascontiguousarray(z, dtype=np.float32)

    def _counts(self, adata: AnnData, layer: str) -> Matrix:
        """Return the counts; refuse a missing layer and values that are not counts."""
        if layer not in adata.layers:
            kind = adata.uns.get(_keys.UNS, {}).get("prepare", {}).get("kind")
            why = f" (diffvae.pp.prepare was given {kind!r} values)" if kind else ""
            raise DataError(
                f"{self.name} models counts, but adata.layers[{layer!r}] is missing{why}; "
                f"run diffvae.pp.prepare on raw counts, or leave {self.name} out for these cells."
            )
        matrix = layer_matrix(adata, layer)
        values: Any = matrix.data if sparse.issparse(matrix) else matrix
        wrong = values[(values < 0) | (values != np.rint(values))]
        if wrong.size:
            raise DataError(
                f"{self.name} models counts, but adata.layers[{layer!r}] holds {float(wrong.flat[0]):.6g}; "
                f"counts are whole numbers of 0 or more. Leave {self.name} out for these cells."
            )
        return matrix

    def _batches(self, adata: AnnData, batch_key: str | None) -> pd.DataFrame:
        """Return a table of the cells with the column of batches, if there is one."""
        import pandas as pd

        if batch_key is None:
            return pd.DataFrame(index=adata.obs_names)
        if not self.takes_batches:
            raise ValueError(f"batch_key is {batch_key!r}, but {self.name} is run without batches here; leave it out.")
        if batch_key not in adata.obs:
            raise DataError(f"adata.obs[{batch_key!r}] is missing; {self.name} needs the batch of each cell.")
        batches = as_labels(adata.obs[batch_key], f"adata.obs[{batch_key!r}]")
        return pd.DataFrame({batch_key: pd.Categorical(batches)}, index=adata.obs_names)


def _count_cells(counts: Matrix, obs: pd.DataFrame, features: Features) -> AnnData:
    """Return new cells with the counts, because the library writes into its AnnData."""
    import anndata as ad
    import pandas as pd

    # The library computes in single precision, which is exact for whole numbers up to 16,777,216.
    x = counts.astype(np.float32, copy=True)
    x = sparse.csr_matrix(x) if sparse.issparse(x) else x
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=list(features.gene_names)))


class SCVI(CountModel):
    """scVI: a variational autoencoder with a zero-inflated negative binomial likelihood.

    References
    ----------
    Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 2018.
    """

    name, package, module, class_name = "scVI", "scvi-tools", "scvi.model", "SCVI"


class LinearSCVI(CountModel):
    """LinearSCVI: scVI with a linear decoder and a negative binomial likelihood.

    References
    ----------
    Svensson et al., Interpretable factor models of single-cell RNA-seq via variational autoencoders,
    Bioinformatics 2020.
    """

    name, package, module, class_name = "LinearSCVI", "scvi-tools", "scvi.model", "LinearSCVI"


class DRVI(CountModel):
    """DRVI: its decoder has one part per latent dimension, pooled at the end, to separate processes.

    References
    ----------
    Moinfar and Theis, Unsupervised deep disentangled representation of single-cell omics, bioRxiv 2024.
    """

    name, package, module, class_name = "DRVI", "drvi-py", "drvi.model", "DRVI"
    default_n_latent = 32
    takes_batches = False  # they are covariates of its own kind, which this adapter does not set


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch through scvi-tools, and silence it, within a block.

    Afterwards the generators, cuDNN's flags, the environment, the library's seed, the levels of its loggers and the
    warning filters are as before. What the import of the library changed stays changed.
    """
    import torch

    settings, cudnn = import_module("scvi").settings, torch.backends.cudnn
    loggers = [logging.getLogger(name) for name in LOGGERS]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the library draws from it
    flags, before, levels = (cudnn.deterministic, cudnn.benchmark), settings.seed, [log.level for log in loggers]
    environment = {name: os.environ.get(name) for name in SEEDED}
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # about loader workers and deprecated names inside the library
        try:
            for log in loggers:
                log.setLevel(logging.ERROR)
            settings.seed = seed
            yield
        finally:
            settings.seed = before
            cudnn.deterministic, cudnn.benchmark = flags
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002 - as it was before the library
            for name, value in environment.items():
                os.environ.pop(name, None)
                os.environ.update({} if value is None else {name: value})
            for log, level in zip(loggers, levels, strict=True):
                log.setLevel(level)
