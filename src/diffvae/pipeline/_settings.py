"""Settings of a training, as ``tune`` writes and ``run`` reads them: a preset and changes to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvae._core.validate import Optional, Rule, Whole, check

if TYPE_CHECKING:
    from diffvae.model import DiffVAE

TRAINING: dict[str, Rule] = {"max_epochs": Whole(1), "batch_size": Whole(1), "patience": Whole(1)}
"""Arguments of ``train``; all others belong to the model."""

Config = Mapping[str, Any] | str | PathLike[str]
"""Names and values, or a JSON file that holds them."""


def read(config: Config | None) -> dict[str, Any]:
    """Return a configuration as a dictionary; unknown settings are refused.

    Examples
    --------
    >>> read({"preset": "paper", "batch_size": 64})
    {'preset': 'paper', 'batch_size': 64}
    """
    from diffvae.model._config import CONFIG_FIELDS

    if config is None:
        return {}
    if isinstance(config, Mapping):
        settings, name = dict(config), "The configuration"
    else:
        settings, name = _of_file(Path(fspath(config)).expanduser()), repr(fspath(config))
    known = ("preset", *CONFIG_FIELDS, *TRAINING)
    if unknown := [key for key in settings if key not in known]:
        raise ValueError(f"{name} has {unknown[0]!r}, which is no setting; the settings are {', '.join(known)}.")
    try:
        check(TRAINING, **_given(settings))
    except ValueError as error:
        key, reason = str(error).split(" ", 1)
        raise ValueError(f"{name} can't be used: {key!r} {reason}") from None
    return settings


def names() -> frozenset[str]:
    """Return the names of all settings."""
    from diffvae.model._config import CONFIG_FIELDS

    return frozenset(("preset", *CONFIG_FIELDS, *TRAINING))


def _of_file(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{str(path)!r} does not exist; name a file such as the best.json of 'diffvae tune'."
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} can't be read as a configuration in JSON ({error}).") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{str(path)!r} holds a {type(settings).__name__}; a configuration is a JSON object.")
    return settings


def model_of(settings: Mapping[str, Any]) -> DiffVAE:
    """Return the untrained model of a configuration."""
    from diffvae.model import DiffVAE

    try:
        return DiffVAE(**{k: v for k, v in settings.items() if k not in TRAINING and v is not None})
    except TypeError as error:
        raise ValueError(f"The configuration has a value of the wrong type ({error}).") from error


def training_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``train`` in a configuration; one with a patience stops early.

    Examples
    --------
    >>> training_of({"preset": "default", "patience": 5})
    {'patience': 5, 'early_stopping': True}
    """
    training = _given(settings)
    return training | ({"early_stopping": True} if "patience" in training else {})


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: settings[k] for k in TRAINING if settings.get(k) is not None}


def refuse_idle_patience(patience: int | None, max_epochs: int | None, early_stopping: bool | None = None) -> None:
    """Refuse a patience that can't stop any training, with the values of the other settings as far as given."""
    check({"patience": Optional(Whole(1)), "max_epochs": Optional(Whole(1))}, patience=patience, max_epochs=max_epochs)
    if patience is None:
        return
    if early_stopping is False:
        raise ValueError(
            f"patience is {patience}, but early_stopping is False, so no training would stop early; leave one of both "
            "out."
        )
    if max_epochs is not None and patience >= max_epochs:
        raise ValueError(
            f"patience is {patience}, but max_epochs is {max_epochs}, so no training would stop early; give a smaller "
            "patience, or more epochs."
        )
