"""What is trained on the genes of an AnnData, saved and loaded: every model, and the classifier."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
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
from diffvae._errors import DataError
from diffvae.model._features import Features, Matrix, in_memory_only, match_new

if TYPE_CHECKING:
    from anndata import AnnData


class NotTrainedError(RuntimeError):
    """There are no weights yet."""


REGISTRY: dict[str, type[Estimator]] = {}
"""Class name to class, for those that can be saved; :func:`load` looks here."""


class Estimator(ABC):
    """Genes and history of the training, and a folder on disk.

    Attributes
    ----------
    features
        Genes, layer, scaling and fingerprint of the training data.
    history
        One row per epoch.
    """

    _reads_disk = False
    """Whether cells that are passed through may stay on disk."""

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
        """Return the arguments that construct an equal one."""

    @abstractmethod
    def _arrays(self) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def _set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None: ...

    def _state(self) -> dict[str, Any]:
        """Return what belongs into the JSON beside the arguments."""
        return {}

    def _set_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most have none
        """Take what :meth:`_state` gave; called before :meth:`_set_arrays`."""

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

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model into a folder: ``config.json``, ``weights.safetensors``, ``history.csv``.

        Loading it again (:func:`diffvae.model.load`) executes nothing that is in the folder.
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
            reason = "was loaded, or learnt, from disk" if self.is_trained else "is not trained"
            raise NotTrainedError(f"This {type(self).__name__} {reason} and holds no cells; name them: adata=...")
        return self._training_matrix


CONFIG, WEIGHTS, HISTORY = "config.json", "weights.safetensors", "history.csv"
FORMAT = 1
_SCALING = "features."


def save(model: Estimator, path: str | PathLike[str], *, overwrite: bool = False) -> None:
    """Write a trained model into a folder, whole or not at all."""
    from safetensors.numpy import save as as_bytes

    features = model.features
    arrays = {k: np.ascontiguousarray(v) for k, v in model._arrays().items()}
    if features.minimum is not None and features.maximum is not None:
        arrays |= {_SCALING + "minimum": features.minimum, _SCALING + "maximum": features.maximum}
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
        # save_file would give the file to its owner alone (mode 0600)
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
    A model of the class that was saved, ready for new cells. It holds no training cells: name cells where a method
    would default to them.

    Raises
    ------
    DataError
        If the folder is no model, is damaged, or comes from a newer version.

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
    from safetensors import SafetensorError, safe_open

    folder = Path(path)
    if not os.path.isfile(folder / CONFIG):  # unlike Path.is_file, no error where a folder may not be entered
        raise DataError(f"{folder} holds no {CONFIG}, so it is no saved model; name the folder that save() wrote.")
    try:
        config = json.loads((folder / CONFIG).read_text())
        if config["format"] > FORMAT:
            written_by = config.get("versions", {}).get("diffvae", "unknown version")
            raise DataError(f"{folder} was written by a newer diffvae ({written_by}); update yours.")
        cls = _class(config["model"])
        with safe_open(folder / WEIGHTS, "numpy") as weights:
            arrays = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 - it is no dict
            trained_on = (weights.metadata() or {}).get("genes")
        minimum, maximum = (arrays.pop(_SCALING + side, None) for side in ("minimum", "maximum"))
        described = config["features"]
        _refuse_genes(described["gene_names"], trained_on, minimum, maximum)
        if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
            raise ValueError(f"the weights {bad[0]!r} are not finite")
        model = cls(**config["params"])
        model._features = Features(
            gene_names=tuple(described["gene_names"]),
            layer=described["layer"],
            minimum=minimum,
            maximum=maximum,
            target_sum=described["target_sum"],
            n_cells=described["n_cells"],
            fingerprint=described["fingerprint"],
        )
        model._history = pd.read_csv(folder / HISTORY, index_col="epoch", float_precision="round_trip")
        model._set_state(config.get("state", {}))
        model._set_arrays(arrays)
    except DataError:
        raise
    except (
        *(OSError, TypeError, ValueError, RuntimeError, SafetensorError),
        *(AttributeError, LookupError, ArithmeticError, MemoryError),
    ) as error:
        raise DataError(f"{folder} is a damaged model ({type(error).__name__}: {error}); save it again.") from error
    return model


def _digest(gene_names: Iterable[str]) -> str:
    """Return what tells one list of genes from another; kept with the weights, which fit no other list."""
    return hashlib.sha256(json.dumps(list(gene_names)).encode()).hexdigest()[:16]


def _refuse_genes(names: Any, trained_on: str | None, *limits: np.ndarray | None) -> None:
    """Refuse a list of genes that is not the one for which the weights were trained."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("gene_names is no list of names")
    if trained_on is not None and trained_on != _digest(names):  # folders of earlier versions don't say
        raise ValueError("the weights were trained on other genes than config.json names")
    if len(set(names)) < len(names):
        raise ValueError("gene names occur more than once")
    if any(limit is None for limit in limits) != all(limit is None for limit in limits):
        raise ValueError("one end of the scaling is missing")
    for limit in limits:
        if limit is not None and (limit.shape != (len(names),) or not np.isfinite(limit).all()):
            raise ValueError(f"{len(names)} genes with a scaling of {limit.size}, or one that is not finite")


def _class(name: str) -> Any:

    if name not in REGISTRY:
        raise DataError(f"The saved model is a {name!r}; this version of diffvae knows {', '.join(REGISTRY)}.")
    return REGISTRY[name]


class Model(Estimator, abstract=True):
    """The protocol: hyper-parameters into the constructor, data into :meth:`train`, then the verbs below.

    Attributes
    ----------
    history
        One row per epoch: every term of the loss on both splits, under its own name.
    gene_names
        The genes in the order in which the model knows them.
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

    def get_latent_representation(
        self, adata: AnnData | OnDisk | None = None, *, max_missing: float = 0.2
    ) -> np.ndarray:
        """Return the latent representation of cells: the posterior mean, never a draw.

        Parameters
        ----------
        adata
            Cells, raw or prepared; None for those of the training. Genes are matched by name and new cells scaled by
            the training scaling. Files of AnnData, a list of them or an AnnData that is backed by one are read in
            blocks, each file with its own genes and totals of cells.
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
        matrix = self._matrix(adata, max_missing)
        if not isinstance(matrix, BackedMatrix):
            return self._encode(matrix)
        z = np.empty((len(matrix), self.n_latent), dtype=np.float32)
        for rows, part in self.encode_blocks(matrix):
            z[rows] = part
        return z

    def encode_blocks(self, matrix: BackedMatrix) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (rows, latent representation) of one block of cells on disk after the other."""
        for rows, block in matrix.blocks():
            yield rows, self._encode(block)

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
