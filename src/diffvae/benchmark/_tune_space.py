"""What a search may change: the paper's grid, or a wider space."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from diffvae import _random
from diffvae.model._config import AutoencoderConfig, default_epochs, from_preset

SPACES = ("paper", "wide")
BATCH_SIZE = 128
"""Of the default configuration, as in :meth:`diffvae.model.DiffVAE.train`."""
EPOCHS = "epochs"
"""Passes over the data as a multiple of the usual number, which depends on the cells and the batch size."""


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """Any number between two, on a logarithmic scale; whole numbers where the ends are."""

    low: float
    high: float


def hidden_name(hidden: tuple[int, ...]) -> str:
    """Return widths as one word, which tables and storages can hold.

    Examples
    --------
    >>> hidden_name((512, 256))
    '512-256'
    """
    return "-".join(map(str, hidden))


@dataclass(frozen=True)
class Space:
    """Parameters by name, and the preset in which they are changed.

    Attributes
    ----------
    preset
        Name of the preset.
    parameters
        What may be changed; the preset's own value is always among it.
    max_epochs
        Of all trainings; None for the usual number.
    """

    preset: str
    parameters: Mapping[str, Choice | Range]
    max_epochs: int | None = None

    @property
    def preset_values(self) -> dict[str, Any]:
        """All hyper-parameters of the preset, as JSON has them: what a study begun with is worth knowing later."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(from_preset(self.preset, {})).items()}

    @property
    def default(self) -> dict[str, Any]:
        """The preset's own values, the point from which a search starts."""
        own = _own_values(from_preset(self.preset, {}))
        return {name: own[name] for name in self.parameters}

    def order(self, rng: _random.Rng) -> list[dict[str, Any]] | None:
        """Return all points, each once, the default first; None where there is no end of them.

        The order is random, but each next point is one whose values have been tried least: a few trials have then seen
        every value of every parameter.
        """
        choices = [p.values for p in self.parameters.values() if isinstance(p, Choice)]
        if len(choices) < len(self.parameters):
            return None
        points = [dict(zip(self.parameters, values, strict=True)) for values in itertools.product(*choices)]
        points.remove(self.default)
        mixed = [points[i] for i in _random.generator(rng, "order of trials").permutation(len(points))]
        ordered, tried = [self.default], Counter(self.default.items())
        while mixed:
            ordered.append(mixed.pop(min(range(len(mixed)), key=lambda i: sum(tried[v] for v in mixed[i].items()))))
            tried.update(ordered[-1].items())
        return ordered

    def settings(self, params: Mapping[str, Any], n_train: int) -> dict[str, Any]:
        """Return a point as the configuration that ``run`` takes, every value said: presets may change.

        ``n_train`` cells decide the usual number of epochs, of which ``epochs`` is a multiple.
        """
        settings = {"preset": self.preset, **{k: v for k, v in params.items() if k != EPOCHS}}
        settings["hidden"] = [int(width) for width in params["hidden"].split("-")]
        if self.max_epochs is not None:
            settings["max_epochs"] = self.max_epochs
        elif params.get(EPOCHS, 1.0) != 1.0:
            settings["max_epochs"] = max(1, round(params[EPOCHS] * self._usual(params, n_train)))
        return settings

    def n_epochs(self, params: Mapping[str, Any], n_train: int) -> int:
        """Return for how many epochs a point is trained."""
        settings = self.settings(params, n_train)
        return int(settings.get("max_epochs") or self._usual(params, n_train))

    def _usual(self, params: Mapping[str, Any], n_train: int) -> int:
        return default_epochs(from_preset(self.preset, {}), n_train, int(params["batch_size"]))


def make_space(name: str, preset: str, max_epochs: int | None) -> Space:
    """Return the paper's grid, or the wide space, around a preset.

    Examples
    --------
    >>> len(make_space("paper", "paper", None).order(0))  # 2 widths x 2 dimensions x 3 rates x 3 batch sizes
    36
    """
    if name not in SPACES:
        raise ValueError(f"space is {name!r}; it is one of {', '.join(map(repr, SPACES))}.")
    config = from_preset(preset, {})
    own = _own_values(config)
    grid: dict[str, Choice | Range]
    if name == "paper":
        grid = {
            "hidden": Choice(("512-256", "256-128")),
            "n_latent": Choice((50, 100)),
            "lr": Choice((1e-2, 1e-3, 1e-4)),
            "batch_size": Choice((64, 128, 256)),
        }
    else:
        grid = {
            "hidden": Choice(("256-128", "512-256", "1024-512", "512", "512-256-128")),
            "n_latent": Range(8, 128),
            "lr": Range(1e-4, 1e-2),
            "batch_size": Choice((64, 128, 256)),
            "kl_weight": Choice((0.0, 0.1, 0.3, 1.0, 3.0)),
            "mmd_weight": Choice((0.0, 1.0, 10.0, 100.0, 300.0, 1000.0, 3000.0)),
            "mmd_kernel": Choice(("imq", "rbf")),
            "dropout": Choice((0.0, 0.1, 0.2, 0.3)),
            "input_dropout": Choice((0.0, 0.25, 0.5)),
        }
        if max_epochs is None and not config.early_stopping:
            grid[EPOCHS] = Choice((0.5, 1.0, 2.0))
    return Space(preset, {k: _with(p, own[k]) for k, p in grid.items()}, max_epochs)


def _with(parameter: Choice | Range, value: Any) -> Choice | Range:
    """Return a parameter whose values include the preset's."""
    if isinstance(parameter, Range):
        return Range(min(parameter.low, value), max(parameter.high, value))
    return parameter if value in parameter.values else Choice((*parameter.values, value))


OF_MODEL = ("n_latent", "lr", "kl_weight", "mmd_weight", "mmd_kernel", "dropout", "input_dropout")


def _own_values(config: AutoencoderConfig) -> dict[str, Any]:
    own = {name: getattr(config, name) for name in OF_MODEL}
    return {"hidden": hidden_name(config.hidden), "batch_size": BATCH_SIZE, EPOCHS: 1.0, **own}
