"""Checkpoints: the state at the end of an epoch in one file of safetensors and JSON, to continue bit for bit."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffvae import __version__
from diffvae._core.io import folders
from diffvae._core.validate import Optional, Whole, check
from diffvae._errors import CheckpointError, OutputError
from diffvae.train._distributed import LostProcessError, SingleProcess, share
from diffvae.train._state import State

FORMAT = 2
STOPS = (KeyboardInterrupt, SystemExit, LostProcessError)
"""Exceptions that end a training which can continue later."""


@dataclass(frozen=True)
class Checkpoint:
    """The file that keeps a training, and how often it is written.

    Attributes
    ----------
    path
        The file. It is replaced in one step, so that it is always complete.
    every
        Number of epochs between two checkpoints; the last epoch is always written. None writes one only if the training
        is stopped. SIGINT and SIGTERM stop the training at once and write the state after the last complete epoch.
    resume
        Continue from the file, if there is one.
    about
        What the training depends on, by name: cells, settings, seed. A file with other values is refused.

    Examples
    --------
    >>> Checkpoint(Path("model.checkpoint"), every=5).of({"cells": "a"}).about
    {'cells': 'a'}
    """

    path: Path
    every: int | None = 10
    resume: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check({"checkpoint_every": Optional(Whole(1))}, checkpoint_every=self.every)

    @classmethod
    def at(cls, path: str | os.PathLike[str] | None, every: int | None, resume: bool) -> Checkpoint | None:
        """Return the checkpoint for the arguments of a model's ``train``."""
        if path is None:
            if resume:
                raise ValueError("resume is True, but checkpoint is None; give checkpoint the file to continue from.")
            return None
        path = Path(path).expanduser()
        if path.is_dir():
            raise OutputError(f"{str(path)!r} is a folder; give checkpoint the name of a file.")
        return cls(path, every, resume)

    def of(self, about: Mapping[str, Any]) -> Checkpoint:
        """Return the checkpoint with additions to ``about``."""
        return replace(self, about={**self.about, **about})

    def write(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Replace the file in one step that survives a power failure; of a link the target is replaced."""
        from safetensors.torch import save

        header = {"format": FORMAT, "about": self.about, "environment": _environment(), "state": numbers}
        content = save(dict(tensors), {"training": json.dumps(header, default=_plain)})
        with folders.in_one_step(self.path.resolve()) as part, part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def read(self, state: State) -> None:
        """Restore a training that has not started from the file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                header = json.loads((file.metadata() or {})["training"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
            if missing := {"format", "about", "environment", "state"} - set(header):
                raise ValueError(f"its header has no {min(missing)}")
        except (SafetensorError, KeyError, ValueError) as error:
            raise _damaged(self.path, error) from error
        validate_checkpoint(self, state, tensors, header)
        state.restore(tensors, header["state"])
        for name, now in _environment().items():
            if (before := header["environment"][name]) != now:
                warnings.warn(
                    f"The training started with {name} = {before} and continues with {now}: its numbers may differ "
                    "from those of an uninterrupted training, at least in their last digits.",
                    UserWarning,
                    stacklevel=2,
                )


def validate_checkpoint(
    checkpoint: Checkpoint, state: State, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Raise CheckpointError unless the content of a file belongs to this training and has the present format."""
    path = checkpoint.path
    if header["format"] != FORMAT:
        raise CheckpointError(
            f"The checkpoint {str(path)!r} was written by another version of diffvae; use that version, or remove the "
            "file to start again."
        )
    before, now = header["about"], json.loads(json.dumps(checkpoint.about, default=_plain))
    if changed := [k for k in {**before, **now} if before.get(k) != now.get(k)]:
        difference = ", ".join(f"{k} was {before.get(k)!r} and is {now.get(k)!r} now" for k in changed)
        raise CheckpointError(
            f"The checkpoint {str(path)!r} belongs to another training ({difference}); resume with the same cells and "
            "settings, or start again without resume."
        )
    try:
        state.require_fit(tensors)
    except ValueError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return CheckpointError(f"The checkpoint {str(path)!r} is damaged ({reason}); remove it to start again.")


def _environment() -> dict[str, Any]:
    """Return what may differ when a training continues, although it changes rounding."""
    return {
        "processes": share().size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "diffvae": __version__,
    }


def _plain(value: Any) -> Any:
    """Return a numpy array or number in a form that JSON can hold."""
    return value.tolist()


class _Writer:
    """Writes the checkpoints of a training; it holds the state of the last epoch until it is on disk."""

    def __init__(self, checkpoint: Checkpoint, state: State) -> None:
        self.checkpoint, self.state = checkpoint, state
        self._unwritten: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def epoch_done(self, is_last: bool) -> None:
        """Store the state, and write it if a checkpoint is due."""
        self._unwritten = self.state.tensors(), self.state.numbers()
        every = self.checkpoint.every
        if every is not None and (is_last or len(self.state.records) % every == 0):
            self.write()

    def write(self) -> None:
        """Write the state of the last complete epoch, unless it is written already or its weights have diverged."""
        if self._unwritten is not None and all(math.isfinite(v.sum()) for v in self._unwritten[0].values()):
            self.checkpoint.write(*self._unwritten)
            self._unwritten = None


@contextmanager
def checkpointing(
    checkpoint: Checkpoint | None, state: State, share: SingleProcess
) -> Iterator[Callable[[bool], None]]:
    """Restore a training from its checkpoint, and yield a function to call after each epoch (argument: ``is_last``).

    If the training is stopped, the state after the last complete epoch is written.
    """
    if checkpoint is None:
        yield lambda is_last: None
        return
    if share.is_writer:
        folders.remove_leftovers(checkpoint.path.resolve())
    if checkpoint.resume and checkpoint.path.exists():
        checkpoint.read(state)
    share.require_same(state.epoch)
    if not share.is_writer:
        yield lambda is_last: None
        return
    writer = _Writer(checkpoint, state)
    with _sigterm_raises():
        try:
            yield writer.epoch_done
        except STOPS:
            writer.write()
            raise


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Make SIGTERM raise SystemExit in the block, unless the program handles it."""
    in_main = threading.current_thread() is threading.main_thread()  # Python lets no other thread set handlers
    if not in_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
