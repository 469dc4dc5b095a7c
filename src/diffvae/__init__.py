"""Cell types, changed states and links between cells from single-cell RNA-seq.

``import diffvae as dv`` is cheap: the namespaces (``dv.pp``, ``dv.model``, ``dv.tl``, ``dv.pl``, ...) load what
they need, torch and scanpy among it, when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffvae import benchmark, datasets, metrics, model, nn, pipeline, pl, pp, report, tl, train

__version__ = "0.2.0"

__all__ = ["benchmark", "datasets", "metrics", "model", "nn", "pipeline", "pl", "pp", "report", "tl", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"diffvae.{name}")
    raise AttributeError(f"module 'diffvae' has no attribute {name!r}; it has {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
