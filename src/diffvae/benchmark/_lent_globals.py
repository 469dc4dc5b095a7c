"""Libraries that know global seeds only: theirs are lent for a while, and everything is put back."""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import numpy as np

LOGGERS = ("scvi", "drvi.scvi_tools_based", "lightning.pytorch", "lightning.fabric")
SEEDED = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "XLA_FLAGS")
"""Environment variables that scvi-tools writes when it is given a seed."""


@contextmanager
def lent_globals(seed: int) -> Iterator[None]:
    """Lend Python's, numpy's and torch's global generators a seed through scvi-tools, and keep it quiet.

    Afterwards the generators, cuDNN's flags, the environment, the library's own seed, the levels of its loggers and the
    warning filters are as they were. What importing the library has changed stays.
    """
    import torch

    settings = import_module("scvi").settings
    cudnn = torch.backends.cudnn
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the library draws from it
    environment = {name: os.environ.get(name) for name in SEEDED}
    flags, before = (cudnn.deterministic, cudnn.benchmark), settings.seed
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # about workers of loaders and old names inside the library
        try:
            for name in LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)
            settings.seed = seed
            yield
        finally:
            settings.seed = before
            cudnn.deterministic, cudnn.benchmark = flags
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002 - as it was before the library
            for name, value in environment.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
