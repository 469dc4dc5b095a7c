"""Models of counts from other libraries, trained on the counts of the very cells that ours are trained on."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from scipy import sparse

from diffvae import _keys, _random
from diffvae._errors import DataError
from diffvae.benchmark._lent_globals import lent_globals
from diffvae.model._estimator import NotTrainedError
from diffvae.model._input import Features, Matrix, layer_matrix, match_new, read_features, split_rows

if TYPE_CHECKING:
    from anndata import AnnData

BATCH_SIZE = 128
"""Cells per step, the default of scvi-tools."""


class CountModel:
    """A model of scvi-tools, or made of its parts, behind the verbs that :func:`diffvae.benchmark.run` needs.

    Everything that isn't said here is scvi-tools' default: one hidden layer of 128, 128 cells per step, learning rate,
    KL warm-up, and 400 epochs, fewer above 20,000 cells. Nothing is decoded: what these models predict is the mean of
    counts, which can't be compared with values in [0, 1] of the logarithm, so their reconstruction isn't scored.

    Parameters
    ----------
    n_latent
        Latent dimensions D.
    params
        Further arguments of the library's model, such as ``n_layers``.

    Raises
    ------
    ImportError
        If the library isn't installed.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    """As pip knows it."""
    where: ClassVar[tuple[str, str]]
    """Module and class."""

    def __init__(self, n_latent: int, **params: Any) -> None:
        if n_latent < 1:
            raise ValueError(f"n_latent is {n_latent}; it must be positive.")
        if any(find_spec(module) is None for module in ("scvi", self.where[0].partition(".")[0])):
            raise ImportError(f"{self.name} needs {self.package}, which is not installed: pip install {self.package}")
        self.n_latent, self.params = int(n_latent), params
        self._model: Any = None
        self._features: Features | None = None
        self._seed = 0

    def __repr__(self) -> str:
        params = ", ".join(f"{k}={v!r}" for k, v in self.get_params().items())
        return f"{type(self).__name__}({params}; {'not trained' if self._model is None else 'trained'})"

    def get_params(self) -> dict[str, Any]:
        """Return the arguments that construct an equal one."""
        return {"n_latent": self.n_latent} | self.params

    def train(
        self,
        adata: AnnData,
        *,
        layer: str = _keys.COUNTS,
        max_epochs: int | None = None,
        validation_size: float | None = None,
        rng: _random.Rng = 0,
        progress: bool = True,
    ) -> Self:
        """Learn from the counts of the training cells.

        Parameters
        ----------
        adata
            Cells from :func:`diffvae.pp.prepare`. They are not changed; the library gets a copy of their counts.
        layer
            Layer of counts.
        max_epochs
            Passes over the training cells; None for the library's own choice.
        validation_size
            As in :meth:`DiffVAE.train`: None for the split that preparing made.
        rng
            Seed or generator. The library knows global seeds only; they are put back as they were.
        progress
            Show the library's bar on a terminal.

        Returns
        -------
        The model itself.

        Raises
        ------
        DataError
            If there are no counts.
        RuntimeError
            If the library gives up, as when the loss is no longer a number.
        """
        counts = self._counts(adata, layer)
        rows, watched = split_rows(adata, validation_size, rng)
        features = read_features(adata, layer, counts)
        seed = _random.seed(rng, "scvi")
        remainder = len(rows) % BATCH_SIZE
        split = {
            "external_indexing": [rows, watched],
            # Batch norm can't learn from a last batch of one cell. Another cell is left out in each epoch instead.
            "drop_last": len(rows) > BATCH_SIZE and 0 < remainder < 3,
        }
        library = getattr(import_module(self.where[0]), self.where[1])
        with lent_globals(seed):
            cells = _cells(counts, adata.obs_names, features)
            library.setup_anndata(cells)
            model = library(cells, n_latent=self.n_latent, **self.params)
            try:
                model.train(
                    max_epochs=max_epochs,
                    batch_size=BATCH_SIZE,
                    datasplitter_kwargs=split,
                    enable_progress_bar=progress and sys.stderr.isatty(),
                )
            except (ValueError, RuntimeError) as error:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
                raise RuntimeError(f"{self.name} could not be trained on these cells: {first}.") from error
        self._model, self._features, self._seed = model, features, seed
        return self

    def get_latent_representation(self, adata: AnnData | None = None) -> np.ndarray:
        """Return the posterior means of cells, cells x latent dimensions, float32.

        Parameters
        ----------
        adata
            Cells with counts in the layer of the training, genes matched by name; None for those of the training.

        Raises
        ------
        DataError
            If the cells lack genes or counts.
        NotTrainedError
            If :meth:`train` was not called.
        """
        if self._model is None or self._features is None:
            raise NotTrainedError(f"This {type(self).__name__} is not trained; call train(adata) first.")
        new = None
        if adata is not None:
            self._counts(adata, str(self._features.layer))
            new = _cells(match_new(adata, self._features, 0.0), adata.obs_names, self._features)
        with lent_globals(self._seed):
            z = self._model.get_latent_representation(new)
        return np.ascontiguousarray(z, dtype=np.float32)

    def _counts(self, adata: AnnData, layer: str) -> Matrix:
        """Return the counts, or say why there are none."""
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


def _cells(counts: Matrix, names: Any, features: Features) -> AnnData:
    """Return counts as cells of their own: the library writes into the AnnData that it is given."""
    import anndata as ad
    import pandas as pd

    # Single precision, in which the library computes, holds whole numbers to 16,777,216.
    x = counts.astype(np.float32, copy=True)
    x = sparse.csr_matrix(x) if sparse.issparse(x) else x
    return ad.AnnData(x, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=list(features.gene_names)))
