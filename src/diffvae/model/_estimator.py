"""What is trained on the genes of an AnnData, saved and loaded: every model, and the classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from diffvae._errors import DataError
from diffvae._store import OnDisk, is_on_disk, open_store
from diffvae.model._input import Features, Matrix, in_memory_only, match_new

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
        from diffvae.model._storage import save

        save(self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a model that :meth:`save` wrote, of this class."""
        from diffvae.model._storage import load

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
