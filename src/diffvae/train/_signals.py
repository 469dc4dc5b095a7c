"""SIGINT and SIGTERM wait until a training is at a point where it can be left."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)


class Request:
    """Whether somebody has asked the process to stop, and by which signal."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.number is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._give_back()  # who asks a second time doesn't want to wait

    def _take(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python lets no other thread set handlers
        for number in STOPS:
            before = signal.getsignal(number)
            if before is not None and before != signal.SIG_IGN:  # not one that isn't Python's, nor what nohup ignores
                self._before[number] = before
                signal.signal(number, self._note)

    def _give_back(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def obey(self) -> None:
        """Let the signal do what it would have done at once: raise KeyboardInterrupt, say, or end the process."""
        assert self.number is not None
        self._give_back()
        signal.raise_signal(self.number)


@contextmanager
def deferred() -> Iterator[Request]:
    """Hold both signals back in the block; whoever is in it looks at the request and obeys it in time."""
    request = Request()
    request._take()
    try:
        yield request
    finally:
        request._give_back()
