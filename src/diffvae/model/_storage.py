"""A saved model is a folder of JSON, safetensors and CSV: loading it runs no code of its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae._errors import DataError
from diffvae._files import new_folder
from diffvae._threads import versions
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
    from diffvae.model._estimator import REGISTRY

    if name not in REGISTRY:
        raise DataError(f"The saved model is a {name!r}; this version of diffvae knows {', '.join(REGISTRY)}.")
    return REGISTRY[name]
