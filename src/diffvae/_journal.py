"""What a pipeline remembers of its steps: how long they took and what they warned of."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Journal:
    """Timings and warnings of the steps, and what is told while they run."""

    tell: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.tell(name)
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            yield
        self.seconds[name] = round(time.perf_counter() - start, 2)
        for warning in caught:
            # what we say ourselves is for the reader; other packages' notes on their internals are not
            if warning.category is UserWarning and str(warning.message) not in self.warnings:
                self.warnings.append(str(warning.message))
