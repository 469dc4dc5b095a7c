"""The weights of a module as arrays, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch

M = TypeVar("M", bound=torch.nn.Module)


def arrays_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return the weights of a module, by name."""
    return {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def with_arrays(build: Callable[[], M], arrays: Mapping[str, np.ndarray]) -> M:
    """Return what `build` makes, with the weights given, in evaluation mode.

    It is built without memory first, so that a module of another shape than the weights is refused whatever its size.
    """
    with torch.device("meta"):
        module = build()
    kinds = {name: value.dtype for name, value in module.state_dict().items()}
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    module.load_state_dict({name: x.to(kinds.get(name, x.dtype)) for name, x in state.items()}, assign=True)
    return module.eval()
