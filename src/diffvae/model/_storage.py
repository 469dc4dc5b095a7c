"""A saved model is a folder of JSON, safetensors and CSV: loading it runs no code of its own."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import diffvae
from diffvae._errors import DataError
from diffvae._files import new_folder
from diffvae.model._input import Features

if TYPE_CHECKING:
    from diffvae.model._estimator import Estimator

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
        (folder / WEIGHTS).write_bytes(as_bytes(arrays))
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
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise DataError(f"{folder} holds no {CONFIG}, so it is no saved model; name the folder that save() wrote.")
    try:
        config = json.loads((folder / CONFIG).read_text())
        if config["format"] > FORMAT:
            written_by = config.get("versions", {}).get("diffvae", "unknown version")
            raise DataError(f"{folder} was written by a newer diffvae ({written_by}); update yours.")
        cls = _class(config["model"])
        arrays = load_file(folder / WEIGHTS)
        minimum, maximum = (arrays.pop(_SCALING + side, None) for side in ("minimum", "maximum"))
        described = config["features"]
        if minimum is not None and len(minimum) != len(described["gene_names"]):
            raise ValueError(f"{len(described['gene_names'])} genes with a scaling of {len(minimum)}")
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
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder} is a damaged model ({type(error).__name__}: {error}); save it again.") from error
    return model


def _class(name: str) -> Any:
    from diffvae import model

    classes = (model.DiffVAE, model.VAE, model.AutoEncoder, model.PCA, model.CellStateClassifier, model.GraphDiffVAE)
    known = {cls.__name__: cls for cls in classes}
    if name not in known:
        raise DataError(f"The saved model is a {name!r}; this version of diffvae knows {', '.join(known)}.")
    return known[name]


def versions() -> dict[str, str]:
    """Return the versions that decide the numbers."""
    from importlib.metadata import version

    packages = (
        *("anndata", "igraph", "numpy", "openTSNE", "pynndescent", "scanpy", "scikit-learn", "scipy", "torch"),
        "torch-geometric",
    )
    return {"diffvae": diffvae.__version__, **{p: version(p) for p in packages}}
