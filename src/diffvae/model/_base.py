"""Base classes of the models and the classifier, and how they are saved and loaded."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from diffvae import _keys, _random
from diffvae._core.io.backed import OnDisk, is_on_disk, open_store
from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae._core.io.folders import new_folder
from diffvae._core.runtime import versions
from diffvae._core.validate import Flag, Whole, check
from diffvae._errors import DataError
from diffvae.model._features import Features, Matrix, dense, in_memory_only, match_new
from diffvae.model._noise import Noise, training_cells

if TYPE_CHECKING:
    from anndata import AnnData


class NotTrainedError(RuntimeError):
    """The model is not trained, or does not hold the cells that are asked for."""


REGISTRY: dict[str, type[Estimator]] = {}
"""Classes that :func:`load` can construct, by name."""


class Estimator(ABC):
    """What models and the classifier share: genes, history, saving and loading.

    Attributes
    ----------
    features
        Genes, layer, scaling and fingerprint of the training data.
    history
        One row per epoch.
    """

    _reads_disk = False
    """Whether cells on disk can be encoded."""

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not abstract:
            REGISTRY[cls.__name__] = cls

    def __init__(self) -> None:
        self._features: Features | None = None
        self._history: pd.DataFrame | None = None
        self._training_matrix: Matrix | None = None

    @abstractmethod
    def get_params(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""

    @classmethod
    def _from_params(cls, params: Mapping[str, Any]) -> Self:
        """Return an untrained model from saved arguments."""
        return cls(**params)

    @abstractmethod
    def _arrays(self) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def _set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None: ...

    def _state(self) -> dict[str, Any]:
        """Return what the JSON holds besides the arguments of the constructor."""
        return {}

    def _set_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most have none
        """Restore what :meth:`_state` returned; called before :meth:`_set_arrays`."""

    def _noise_arrays(self) -> dict[str, np.ndarray]:
        """Return what artificial cells need besides the weights."""
        return {}

    def _set_noise_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:  # noqa: B027 - only models have noise
        """Restore what :meth:`_noise_arrays` returned."""

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
        """Whether the model is trained."""
        return self._features is not None

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch, columns ``train_<term>`` and ``validation_<term>``, in nats per cell."""
        if self._history is None:
            raise self._not_trained()
        return self._history

    def _not_trained(self) -> NotTrainedError:
        return NotTrainedError(f"This {type(self).__name__} is not trained; call train(adata) first.")

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model into a folder: ``config.json``, ``weights.safetensors``, ``history.csv``.

        :func:`diffvae.model.load` reads it again. Nothing in the folder is executed.
        """
        save(self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a model that :meth:`save` wrote, of this class."""
        model = load(path)
        if not isinstance(model, cls):
            raise DataError(f"{path} holds a {type(model).__name__}, not a {cls.__name__}; use diffvae.model.load.")
        return model

    def _matrix(self, adata: AnnData | OnDisk | None, max_missing: float) -> Matrix:
        if adata is not None:
            if is_on_disk(adata) and not self._reads_disk:
                raise in_memory_only()
            return match_new(open_store(adata) if is_on_disk(adata) else adata, self.features, max_missing)
        if self._training_matrix is None:
            reason = "was loaded from disk, or trained on cells there" if self.is_trained else "is not trained"
            raise NotTrainedError(f"This {type(self).__name__} {reason}, and holds no cells; pass them as adata=...")
        return self._training_matrix


CONFIG, WEIGHTS, HISTORY = "config.json", "weights.safetensors", "history.csv"
FORMAT = 1
_SCALING, _NOISE = "features.", "noise."


def save(model: Estimator, path: str | PathLike[str], *, overwrite: bool = False) -> None:
    """Write a trained model into a folder, whole or not at all."""
    from safetensors.numpy import save as as_bytes

    features = model.features
    arrays = {k: np.ascontiguousarray(v) for k, v in model._arrays().items()}
    if features.minimum is not None and features.maximum is not None:
        arrays |= {_SCALING + "minimum": features.minimum, _SCALING + "maximum": features.maximum}
    arrays |= {_NOISE + name: np.ascontiguousarray(array) for name, array in model._noise_arrays().items()}
    config = {
        "format": FORMAT,
        "model": type(model).__name__,
        "params": model.get_params(),
        "features": {
            "layer": features.layer,
            "target_sum": features.target_sum,
            "n_cells": features.n_cells,
            "fingerprint": features.fingerprint,
            "gene_names": list(features.gene_names),
        },
        "state": model._state(),
        "versions": versions(),
    }
    with new_folder(path, overwrite=overwrite) as folder:
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        # safetensors' save_file would make the file readable for its owner only (mode 0600)
        (folder / WEIGHTS).write_bytes(as_bytes(arrays, metadata={"genes": _digest(features.gene_names)}))
        model.history.to_csv(folder / HISTORY)


def load(path: str | PathLike[str]) -> Any:
    """Read a model that :meth:`Model.save` wrote.

    Parameters
    ----------
    path
        The folder.

    Returns
    -------
    A trained model of the class that was saved. It holds no training cells, so pass cells to methods that use the
    training cells by default.

    Raises
    ------
    DataError
        If the folder is not a model, is damaged, or was written by a newer version.

    Examples
    --------
    >>> import tempfile, diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dv.model.PCA(n_latent=5).train(adata).save(folder + "/model")
    ...     dv.model.load(folder + "/model").get_latent_representation(adata).shape
    (700, 5)
    """
    folder = Path(path)
    if not os.path.isfile(folder / CONFIG):  # unlike Path.is_file, no error where a folder may not be entered
        raise DataError(f"{folder} holds no {CONFIG}, so it is not a saved model; give a folder that save() wrote.")
    with _reading(folder, OSError, ValueError, RecursionError):
        config = json.loads((folder / CONFIG).read_text())
    with _reading(folder, ValueError):
        require_types(config, {"format": int}, "config.json")
    if config["format"] > FORMAT:
        written = config.get("versions")
        written_by = written.get("diffvae") if isinstance(written, dict) else "unknown version"
        raise DataError(f"{folder} was written by a newer diffvae ({written_by}); update yours.")
    with _reading(folder, ValueError):
        require_types(config, CONFIG_TYPES, "config.json")
        require_types(config["features"], FEATURE_TYPES, "features")
    if config["model"] not in REGISTRY:
        raise DataError(
            f"The saved model is a {config['model']!r}; this version of diffvae knows {', '.join(REGISTRY)}."
        )
    cls = REGISTRY[config["model"]]
    arrays, genes = _read_weights(folder)
    with _reading(folder, OSError, ValueError):
        history = pd.read_csv(folder / HISTORY, index_col="epoch", float_precision="round_trip")
    noise = {name.removeprefix(_NOISE): arrays.pop(name) for name in list(arrays) if name.startswith(_NOISE)}
    minimum, maximum = (arrays.pop(_SCALING + side, None) for side in ("minimum", "maximum"))
    with _reading(folder, ValueError):
        _check_genes(config["features"]["gene_names"], genes, minimum, maximum)
        _check_finite(arrays | noise)
        if unknown := set(config["params"]) - set(signature(cls).parameters):
            raise ValueError(f"{cls.__name__} has no parameter {min(unknown)!r}")
        model = cls._from_params(config["params"])
    described = config["features"] | {"gene_names": tuple(config["features"]["gene_names"])}
    model._features = Features(**{name: described[name] for name in FEATURE_TYPES}, minimum=minimum, maximum=maximum)
    model._history = history
    with _reading(folder, KeyError, TypeError, ValueError):  # an entry of the JSON is missing or of another type
        model._set_state(config.get("state", {}))
    with _reading(folder, KeyError, ValueError, RuntimeError):  # an array is missing or has another shape
        model._set_arrays(arrays)
        model._set_noise_arrays(noise)
    return model


CONFIG_TYPES = {"model": str, "params": dict, "features": dict}
FEATURE_TYPES = {
    "gene_names": list,
    "layer": str | None,
    "target_sum": float | int | None,
    "n_cells": int,
    "fingerprint": str,
}


def require_types(table: Any, types: Mapping[str, Any], name: str) -> None:
    """Refuse a table of a JSON file in which an entry is missing or has another type."""
    if not isinstance(table, dict):
        raise ValueError(f"{name} is not a table")
    for key, kind in types.items():
        if key not in table or not isinstance(table[key], kind):
            raise ValueError(f"{key!r} of {name} is missing or of another type")


@contextmanager
def _reading(folder: Path, *errors: type[Exception]) -> Iterator[None]:
    """Report errors of a read as damage of the folder."""
    try:
        yield
    except errors as error:
        raise DataError(f"{folder} is a damaged model ({type(error).__name__}: {error}); save it again.") from error


def _read_weights(folder: Path) -> tuple[dict[str, np.ndarray], str | None]:
    """Return the arrays by name, and the digest of the genes on which they were trained."""
    from safetensors import SafetensorError, safe_open

    with _reading(folder, OSError, SafetensorError), safe_open(folder / WEIGHTS, "numpy") as weights:
        arrays = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 - it is not a dict
        return arrays, (weights.metadata() or {}).get("genes")


def _digest(gene_names: Iterable[str]) -> str:
    """Return a digest of the genes, which is stored with the weights."""
    return hashlib.sha256(json.dumps(list(gene_names)).encode()).hexdigest()[:16]


def _check_genes(names: list[str], digest: str | None, *limits: np.ndarray | None) -> None:
    """Refuse genes other than those for which the weights were trained, and a scaling that does not fit them."""
    if not all(isinstance(name, str) for name in names):
        raise ValueError("gene_names holds something other than names")
    if digest is not None and digest != _digest(names):  # folders of earlier versions have none
        raise ValueError("the weights were trained on other genes than those in config.json")
    if len(set(names)) < len(names):
        raise ValueError("gene names occur more than once")
    if any(limit is None for limit in limits) != all(limit is None for limit in limits):
        raise ValueError("one limit of the scaling is missing")
    for limit in limits:
        if limit is not None and (limit.shape != (len(names),) or not np.isfinite(limit).all()):
            raise ValueError(f"the scaling has {limit.size} values for {len(names)} genes, or is not finite")


def _check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise ValueError(f"the weights {bad[0]!r} are not finite")


class Model(Estimator, abstract=True):
    """The interface of the models: the constructor takes hyper-parameters, and :meth:`train` takes data.

    Attributes
    ----------
    history
        One row per epoch: each term of the loss on training and validation cells.
    gene_names
        The genes in the model's order.
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
    _noise: Noise | None = None
    _noise_cells: tuple[np.ndarray, Matrix] | None = None
    _validation: np.ndarray | None = None
    """Which cells of the training were held out."""

    @abstractmethod
    def train(self, adata: AnnData, *, layer: str | None, validation_size: float | None, rng: _random.Rng) -> Self:
        """Train on the cells of an AnnData."""

    @property
    def columns(self) -> dict[str, Any]:
        """The arguments ``batch_key`` and ``covariates`` of the training; empty for a model without covariates."""
        return {}

    @abstractmethod
    def _encode(self, matrix: Matrix, design: np.ndarray | None = None) -> np.ndarray: ...

    def design(self, adata: AnnData | OnDisk | None = None) -> np.ndarray | None:
        """Return the covariates of cells as the network sees them, for ``batch`` of :meth:`decode`.

        Parameters
        ----------
        adata
            Cells with the columns of ``obs`` on which the model was trained; None for the training cells. Cells of an
            unknown batch, and cells without the column, are taken as average, with a warning.

        Returns
        -------
        Cells x covariates, float32; None from a model without covariates.
        """
        return None

    def _design_of_batch(self, batch: Any, n: int, own: np.ndarray | None = None) -> np.ndarray | None:
        """Return the covariates of n points in a batch, otherwise average or ``own``; ``own`` without a batch."""
        if batch is not None:
            raise ValueError("This model was trained without batches; leave batch out, or train with batch_key=....")
        return own

    @abstractmethod
    def decode(self, z: np.ndarray, *, batch: Any = None) -> np.ndarray:
        """Return expression, on the scale of the training layer, for points of the latent space.

        Parameters
        ----------
        z
            Points x latent dimensions.
        batch
            Batch in which to express the points; only :class:`NeuralModel` has batches.

        Returns
        -------
        Points x genes, float32.
        """

    @abstractmethod
    def _draw_prior(self, n: int, rng: np.random.Generator) -> np.ndarray: ...

    @abstractmethod
    def gene_weights(self) -> np.ndarray:
        """Return the weight omega between each latent dimension and each gene, latent dimensions x genes."""

    @abstractmethod
    def gene_jacobian(self, z: np.ndarray, *, batch: Any = None) -> np.ndarray:
        """Return the derivative of each gene along each dimension, averaged over points z: dimensions x genes.

        ``batch`` is as in :meth:`decode`.
        """

    def get_latent_representation(
        self, adata: AnnData | OnDisk | None = None, *, max_missing: float = 0.2
    ) -> np.ndarray:
        """Return the latent representation of cells: the posterior mean, never a draw.

        Parameters
        ----------
        adata
            Cells, raw or prepared; None for the training cells. Genes are matched by name, and new cells get the
            scaling of the training cells. A file of AnnData, a list of files or a backed AnnData is read in blocks;
            totals of cells are taken over all genes of their file.
        max_missing
            Largest share of the model's genes that may be missing. Missing genes count as not expressed.

        Returns
        -------
        Cells x latent dimensions, float32.

        Raises
        ------
        DataError
            If the layer or too many genes are missing.
        """
        matrix, design = self._matrix(adata, max_missing), self.design(adata)
        if not isinstance(matrix, BackedMatrix):
            return self._encode(matrix, design)
        z = np.empty((len(matrix), self.n_latent), dtype=np.float32)
        for rows, part in self.encode_blocks(matrix, design):
            z[rows] = part
        return z

    def get_posterior(self, adata: AnnData | None = None, *, max_missing: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
        r"""Return mean and standard deviation of the posterior q(z|x) of each cell.

        Parameters
        ----------
        adata
            Cells in memory, as in :meth:`get_latent_representation`; None for the training cells.
        max_missing
            Largest share of the model's genes that may be missing.

        Returns
        -------
        Two arrays, cells x latent dimensions, float32. For DiffVAE and VAE :math:`\mu` and :math:`\sigma` of the
        encoder. For PCA the posterior of probabilistic PCA: a score y of variance :math:`\lambda` has the standard
        deviation :math:`\sqrt{\sigma^2 (1 - \sigma^2 / \lambda)}`, where :math:`\sigma^2` is the mean variance of the
        dropped components; the mean returned is y. For models without a posterior the standard deviation is 0.

        References
        ----------
        Tipping and Bishop, Probabilistic principal component analysis, JRSS B 1999, eq 7.
        """
        return self._posterior(self._matrix(adata, max_missing), self.design(adata))

    def _posterior(self, matrix: Matrix, design: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        mean = self._encode(matrix, design)
        return mean, np.zeros_like(mean)

    def _draw_counts(
        self, z: np.ndarray, rng: np.random.Generator, design: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Return counts drawn for points of the latent space; None from a model of other values."""
        return None

    def encode_blocks(
        self, matrix: BackedMatrix, design: np.ndarray | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the rows and the latent representation of each block of cells on disk."""
        for rows, block in matrix.blocks():
            yield rows, self._encode(block, None if design is None else design[rows])

    def reconstruct(self, adata: AnnData | None = None, *, batch: Any = None, max_missing: float = 0.2) -> np.ndarray:
        """Return the decoded latent representation of cells, on the scale of the training layer: cells x genes.

        Parameters
        ----------
        adata
            Cells, as in :meth:`get_latent_representation`; None for the training cells.
        batch
            Batch in which to express the cells, as in :meth:`decode`: their expression had they been measured there.
            None for their own. Other covariates stay those of the cells.
        max_missing
            Largest share of the model's genes that may be missing.
        """
        z = self.get_latent_representation(adata, max_missing=max_missing)
        design = self._design_of_batch(batch, len(z), self.design(adata))
        return self.decode(z) if design is None else self.decode(z, batch=design)

    def _keep_cells(self) -> None:
        """Copy the training cells on which the noise will be measured; the caller may change the matrix until then."""
        random = _random.generator(0, "cells of the noise")
        self._noise_cells = training_cells(self._training_matrix, self._validation, random)

    def _measured_noise(self) -> Noise | None:
        """Return the noise of the training cells, measured when it is first needed; None without cells."""
        if self._noise is None and self._training_matrix is not None:
            if self._noise_cells is None:
                self._keep_cells()
            assert self._noise_cells is not None
            random = _random.generator(0, "noise")  # the same whether it is measured at the first draw or when saved
            (rows, cells), design = self._noise_cells, self.design()
            x, of_cells = dense(cells), None if design is None else design[rows]
            mean, sd = self._posterior(x, of_cells)
            z = mean + sd * random.standard_normal(sd.shape, np.float32)
            decoded = self.decode(z) if of_cells is None else self.decode(z, batch=of_cells)
            self._noise, self._noise_cells = Noise.fit(x, decoded, mean, sd, self.features.limits, random), None
        return self._noise

    def _noise_arrays(self) -> dict[str, np.ndarray]:
        noise = self._measured_noise()
        return {} if noise is None else noise.arrays()

    def _set_noise_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._noise = Noise.from_arrays(arrays, self.n_latent, len(self.gene_names))

    def sample(self, n: int, *, noise: bool = True, batch: Any = None, rng: _random.Rng = 0) -> AnnData:
        """Return artificial cells, with the zeros and the spread of real ones.

        Parameters
        ----------
        n
            Number of cells.
        noise
            True: z is drawn from the posteriors of up to 5,000 training cells (the aggregate posterior; 2,500 of 2,000
            genes), and expression from the distribution of each gene given its decoded value, as measured on these
            cells; whole numbers if theirs are. False: z is drawn from the prior, and expression is its decoded mean,
            smoother than any cell and never whole, also in a layer ``"counts"``.
        batch
            Batch in which to express the cells, as in :meth:`decode`; None for an average batch.
        rng
            Seed or generator.

        Returns
        -------
        AnnData with the training layer (by default ``"unit"``) in ``layers``, X on the log-normalised scale where the
        scaling is known, and the drawn z in ``obsm["X_diffvae"]``. With noise ``layers["counts"]`` has counts, if the
        training cells were counts: X is their normalised log, for the depth of a training cell. Without noise only
        ``likelihood="nb"`` has counts, from its negative binomial at the ``target_sum`` of ``pp.prepare``.

        Raises
        ------
        RuntimeError
            If the model is not trained, or was saved by an earlier version, without noise.

        Notes
        -----
        Each artificial cell with noise has the latent state of a training cell up to the noise of its posterior. Such
        cells show no states between or beyond those of the training, and protect nobody's privacy.
        :func:`diffvae.metrics.realism` measures how much they differ from real cells.

        Examples
        --------
        >>> import diffvae as dv
        >>> adata = dv.datasets.pbmc68k_reduced()
        >>> dv.pp.prepare(adata)
        >>> model = dv.model.PCA(n_latent=5).train(adata)
        >>> smooth, cells = model.sample(500, noise=False), model.sample(500)
        >>> bool((smooth.X == 0).mean() < 0.05), bool((cells.X == 0).mean() > 0.5)  # of the real values 0.67
        (True, True)
        """
        import anndata as ad

        check({"n": Whole(1), "noise": Flag()}, n=n, noise=noise)
        features = self.features
        random = _random.generator(rng, "sample")
        measured = self._measured_noise() if noise else None
        if measured is not None:
            z, factors, size = measured.draw(n, random)
        elif noise:
            raise NotTrainedError(
                f"This {type(self).__name__} has no noise of single cells, since an earlier version saved it or its "
                "training cells are gone; train it again, or ask for expected expression with noise=False."
            )
        else:
            z = self._draw_prior(n, random)
        design = self._design_of_batch(batch, n)
        values = self.decode(z) if design is None else self.decode(z, batch=design)
        if measured is not None:
            values, counts = measured.values(values, factors, size, features.limits, random)
        else:
            counts = self._draw_counts(z, random, design)
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
        if counts is not None:
            artificial.layers[_keys.COUNTS] = counts
        return artificial
