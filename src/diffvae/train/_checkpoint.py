"""Checkpoints: a training in one file of safetensors and JSON, from which it goes on bit for bit."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffvae import __version__, _files
from diffvae._errors import CheckpointError, OutputError
from diffvae.train._distributed import Alone, share
from diffvae.train._signals import Request, deferred
from diffvae.train._state import State

FORMAT = 1
ROUNDING = ("processes", "threads", "torch", "numpy", "diffvae")
"""What a training may be resumed under another value of, though its numbers may then be others."""
DAMAGE = (OSError, LookupError, TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError)
"""What reading raises where something else stands in the file than a training of ours wrote."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a training is kept, and when.

    Attributes
    ----------
    path
        The file. It is replaced in one step, so that there is a whole one at any moment.
    every
        Epochs from one to the next, the end of the training counting as one; None for none but that of a stop. On
        SIGINT and SIGTERM the batch is finished, a checkpoint written, and the signal does what it would have done.
    resume
        Go on from the file, where there is one.
    about
        By name, what the training depends on: cells, settings, seed. A file with others is refused.

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
        if self.every is not None and self.every < 1:
            raise ValueError(f"checkpoint_every is {self.every}; it must be 1 or more.")

    @classmethod
    def at(cls, path: str | os.PathLike[str] | None, every: int | None, resume: bool) -> Checkpoint | None:
        """Return the checkpoint that a model's arguments ask for."""
        if path is None:
            if resume:
                raise ValueError("resume is True, but checkpoint names no file to go on from.")
            return None
        path = Path(path).expanduser()
        if path.is_dir():
            raise OutputError(f"{str(path)!r} is a folder; give checkpoint the name of a file.")
        return cls(path, every, resume)

    def of(self, about: Mapping[str, Any]) -> Checkpoint:
        """Return the same with more of what the training depends on."""
        return replace(self, about={**self.about, **about})

    def write(self, state: State) -> None:
        """Write the file, beside and renamed, and see to it that it survives a loss of power.

        A link stays one: the file that it points to is replaced.
        """
        from safetensors.torch import save

        told = {"format": FORMAT, "about": self.about, "rounding": _rounding(), "state": state.numbers()}
        content = save(state.tensors(), {"training": json.dumps(told, default=_plain)})
        with _files.in_one_step(self.path.resolve()) as part, part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def read(self, state: State) -> None:
        """Let a training that has not begun be the one in the file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                told = json.loads(file.metadata()["training"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            before = told["rounding"]
            if type(told["format"]) is not int or not isinstance(before, dict):
                raise TypeError("format or rounding")
            if told["format"] > FORMAT:
                raise CheckpointError(
                    f"The checkpoint {str(self.path)!r} was written by a newer diffvae; update yours."
                )
            self._require_same(told["about"])
            state.restore(tensors, told["state"])
        except CheckpointError:
            raise
        except (*DAMAGE, SafetensorError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CheckpointError(
                f"The checkpoint {str(self.path)!r} is damaged ({reason}); remove it to begin anew."
            ) from error
        for name, now in _rounding().items():
            if before.get(name) != now:
                warnings.warn(
                    f"The training began with {name} = {before.get(name, 'unknown')} and goes on with {now}: its "
                    "numbers may differ from those of one that was never interrupted, at least in their last digits.",
                    UserWarning,
                    stacklevel=2,
                )

    def _require_same(self, before: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(self.about, default=_plain))
        changed = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        if changed:
            told = ", ".join(f"{k} was {before.get(k)!r} and is {now.get(k)!r} now" for k in changed)
            raise CheckpointError(
                f"The checkpoint {str(self.path)!r} is of another training ({told}); resume with the same cells and "
                "settings, or begin anew without resume."
            )


def _rounding() -> dict[str, Any]:
    values = (share().size, torch.get_num_threads(), torch.__version__, np.__version__, __version__)
    return dict(zip(ROUNDING, values, strict=True))


def _plain(value: Any) -> Any:
    """Return an array of a generator's state, or a number of numpy, as JSON can say it."""
    return value.tolist()


class Keeper:
    """Writes checkpoints of a training when they are due."""

    def __init__(self, checkpoint: Checkpoint, state: State, stop: Request, share: Alone) -> None:
        self.checkpoint, self.state, self.stop, self.share = checkpoint, state, stop, share

    def after_batch(self) -> None:
        """Leave, if somebody has asked for it."""
        if self.share.is_stopping():
            self.share.pool(self.state.sums)  # the file is of all processes
            self._write()
            self._leave()

    def after_epoch(self, is_last: bool) -> None:
        """Write a checkpoint if it is time for one."""
        every, stopping = self.checkpoint.every, self.share.is_stopping(at_end=True)
        if stopping or (every is not None and (is_last or (self.state.epoch - 1) % every == 0)):
            self._write()
        if stopping:
            self._leave()

    def _leave(self) -> None:
        self.share.wait()  # until the file is there: whoever is started next reads it
        self.stop.obey()

    def _write(self) -> None:
        if self.share.is_writer and self.state.is_sound:  # what is lost must not take the place of what is not
            self.checkpoint.write(self.state)


class NoKeeper:
    """Stands where nothing is to be kept."""

    def after_batch(self) -> None:
        """Do nothing."""

    def after_epoch(self, is_last: bool) -> None:
        """Do nothing."""


@contextmanager
def keeping(checkpoint: Checkpoint | None, state: State, share: Alone) -> Iterator[Keeper | NoKeeper]:
    """Bring a training to where its checkpoint left it, and yield who writes the next ones."""
    if checkpoint is None:
        yield NoKeeper()
        return
    if share.is_writer:
        _files.remove_leftovers(checkpoint.path.resolve())
    if checkpoint.resume and checkpoint.path.exists():
        checkpoint.read(state)
        if not share.is_writer:
            state.sums.clear()  # those in the file are of all processes, and one brings them in
    share.require_same((state.epoch, state.batch))
    with deferred() as stop:
        share.watch(stop)
        yield Keeper(checkpoint, state, stop, share)
