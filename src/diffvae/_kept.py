"""Checkpoints of a command's trainings: where they are, and when they are removed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from diffvae._errors import OutputError

SUFFIX = ".checkpoint"
PARTS = ("", ".links")
"""The main training of a command, and a later one with its own checkpoint.

The part follows the suffix, so that no other output folder has a checkpoint of the same name.
"""


class CheckpointPaths:
    """The checkpoints beside an output folder: ``OUT.checkpoint``, and ``OUT.checkpoint.PART``.

    Parameters
    ----------
    out
        The folder; None keeps no checkpoint.
    every
        Number of epochs between two checkpoints; None writes one only if the training is stopped.
    resume
        Continue from the checkpoints of an earlier call. Without it, they are refused unless ``overwrite`` is given.
    is_writer
        False in a process that takes part in the training of another one, which manages the files.

    Raises
    ------
    OutputError
        If there are checkpoints, but neither ``resume`` nor ``overwrite``, or a folder in the place of a checkpoint.
    """

    def __init__(
        self,
        out: str | os.PathLike[str] | None,
        every: int | None,
        resume: bool,
        overwrite: bool,
        *,
        is_writer: bool = True,
    ) -> None:
        if every is not None and every < 1:
            raise ValueError(f"checkpoint_every is {every}; it must be 1 or more.")
        if out is None and (resume or every is not None):
            raise ValueError("Checkpoints are written beside out, but out is None; name a folder.")
        self.out = None if out is None else Path(out).expanduser().resolve()
        self.every, self.resume, self.is_writer = every, resume, is_writer
        for path in self._all if is_writer else ():
            if path.is_dir():
                raise OutputError(
                    f"{str(path)!r} is a folder, but the checkpoint of the training needs this name; move the folder, "
                    "or name another folder for the results."
                )
        if is_writer and self.files and not (resume or overwrite):
            raise OutputError(
                f"{str(self.files[0])!r} holds an interrupted training; pass resume (--resume) to continue it, "
                "overwrite (--overwrite) to start again, or name another folder."
            )

    @property
    def files(self) -> list[Path]:
        """The checkpoints that exist."""
        return [path for path in self._all if path.exists()]

    @property
    def _all(self) -> list[Path]:
        return [] if self.out is None else [self._file(part) for part in PARTS]

    def training(self, part: str = "") -> dict[str, Any]:
        """Return the arguments for a model's ``train``; without ``resume`` an earlier checkpoint is removed."""
        if self.out is None:
            return {}
        path = self._file(part)
        if not self.resume and self.is_writer:
            _remove(path)
        return {"checkpoint": path, "checkpoint_every": self.every, "resume": self.resume}

    def _file(self, part: str) -> Path:
        assert self.out is not None
        return self.out.with_name(self.out.name + SUFFIX + part)

    def done(self) -> None:
        """Remove the checkpoints, when the result has been written."""
        for path in self.files:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a checkpoint; a link to it belongs to the user and stays."""
    path.resolve().unlink(missing_ok=True)
