"""What is compared: representations by name, or any object that trains and embeds like the models of this package."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from diffvae import _training_config
from diffvae._training_config import Config

Factory: TypeAlias = Callable[[int], Any]
"""From a number of latent dimensions to an untrained model."""


@dataclass(frozen=True)
class Method:
    """A representation to compare.

    Attributes
    ----------
    name
        In tables.
    make
        From a number of latent dimensions to an untrained model.
    options
        Further arguments of its ``train``.

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

    def describe(self, n_latent: int) -> str:
        """Return what decides the result of a training beside cells and seed, as JSON."""
        model = self.make(n_latent)
        params = model.get_params() if hasattr(model, "get_params") else {}
        about = {"class": f"{type(model).__module__}.{type(model).__qualname__}", "params": params}
        return json.dumps(about | {"options": dict(self.options)}, sort_keys=True, default=repr)


def methods() -> dict[str, Method]:
    """Return the methods that :func:`diffvae.benchmark.run` knows by name.

    Returns
    -------
    Name to :class:`Method`. ``"DiffVAE"`` (the default preset), ``"DiffVAE (paper)"`` and ``"DiffVAE (code)"``;
    ``"VAE"``; ``"AE"`` (squared error, as the paper has it) and ``"AE (bernoulli)"`` (as its code); ``"PCA"`` of
    log-normalised expression, what users of scanpy have, and ``"PCA (unit)"`` of values in [0, 1], the paper's; with
    scvi-tools and drvi-py installed ``"scVI"``, ``"LinearSCVI"`` and ``"DRVI"``, which need counts.

    Examples
    --------
    >>> methods()["PCA"].make(20)
    PCA(n_latent=20; not trained)
    """
    from diffvae import model
    from diffvae.benchmark._scvi import scvi_methods

    own = {
        "DiffVAE": partial(_keywords, model.DiffVAE, {}),
        "DiffVAE (paper)": partial(_keywords, model.DiffVAE, {"preset": "paper"}),
        "DiffVAE (code)": partial(_keywords, model.DiffVAE, {"preset": "code"}),
        "VAE": partial(_keywords, model.VAE, {}),
        "AE": partial(_keywords, model.AutoEncoder, {"likelihood": "mse"}),
        "AE (bernoulli)": partial(_keywords, model.AutoEncoder, {"likelihood": "bernoulli"}),
        "PCA (unit)": partial(_keywords, model.PCA, {}),
    }
    known = {name: Method(name, make) for name, make in own.items()}
    known["PCA"] = Method("PCA", own["PCA (unit)"], {"layer": None})
    return known | {name: Method(name, make) for name, make in scvi_methods().items()}


def configured(config: Config, name: str = "DiffVAE") -> Method:
    """Return DiffVAE as a configuration has it, such as the one that :func:`diffvae.benchmark.tune` writes.

    Parameters
    ----------
    config
        Names and values, or a JSON file that holds them, as :func:`diffvae.pipeline.run` takes them.
    name
        Of the method.

    Returns
    -------
    :class:`Method` for :func:`diffvae.benchmark.run`, whose ``n_latent`` goes before that of the configuration.

    Examples
    --------
    >>> configured({"preset": "paper", "max_epochs": 20}).make(10).n_latent
    10
    """
    settings = _training_config.read(config)
    return Method(name, partial(_of_settings, settings), _training_config.training_of(settings))


def _of_settings(settings: Mapping[str, Any], n_latent: int) -> Any:
    return _training_config.model_of({**settings, "n_latent": n_latent})


def as_methods(given: Sequence[str] | Mapping[str, Any]) -> list[Method]:
    """Return methods for names, or for a mapping of names to models or functions that make them."""
    if isinstance(given, Mapping):
        found = [_as_method(str(name), thing) for name, thing in given.items()]
    else:
        known = methods()
        names = [given] if isinstance(given, str) else list(given)
        if unknown := [n for n in names if n not in known]:
            raise ValueError(f"{unknown[0]!r} is no method; the methods are {', '.join(map(repr, known))}.")
        found = [known[n] for n in dict.fromkeys(names)]
    if not found:
        raise ValueError("No method was named; name one at least, such as 'DiffVAE'.")
    return found


def _as_method(name: str, thing: Any) -> Method:
    if isinstance(thing, Method):
        return Method(name, thing.make, thing.options)
    if hasattr(thing, "train") and hasattr(thing, "get_latent_representation"):
        if isinstance(thing, type):
            return Method(name, partial(_keywords, thing, {}))
        return Method(name, partial(_again, thing))
    if callable(thing):
        return Method(name, thing)
    raise ValueError(
        f"The method {name!r} is a {type(thing).__name__}; give a model with train() and "
        "get_latent_representation(), or a function from n_latent to one."
    )


def _keywords(cls: type, params: Mapping[str, Any], n_latent: int) -> Any:
    return cls(**params, n_latent=n_latent)


def _again(model: Any, n_latent: int) -> Any:
    """Return an untrained model like a given one, of so many dimensions where it can be told."""
    if hasattr(model, "get_params"):
        params = model.get_params()
        return type(model)(**(params | ({"n_latent": n_latent} if "n_latent" in params else {})))
    return copy.deepcopy(model)
