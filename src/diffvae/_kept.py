"""Checkpoints of a command's trainings: where they lie, and when they may go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from diffvae._errors import OutputError

SUFFIX = ".checkpoint"
PARTS = ("", ".links")
"""The main training of a command, and a later one with a checkpoint of its own.

They come behind the suffix: no other folder has a checkpoint of that name, and each folder has a lock of its own.
"""


class Kept:
    """The checkpoints beside a folder that is to be written: ``OUT.checkpoint``, and ``OUT.checkpoint.PART``.

    Parameters
    ----------
    out
        The folder; None keeps nothing.
    every
        Epochs from one checkpoint to the next; None for none but that of a stop.
    resume
        Go on from what an earlier call left. Without it, what was left is refused unless ``overwrite`` is given.
    is_writer
        False in a process that shares the training of another one, who looks after the files.

    Raises
    ------
    OutputError
        If there are checkpoints that nobody has decided on, or a folder where one has to be.
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
            raise ValueError("Checkpoints lie beside out, but out is None; name a folder.")
        self.out = None if out is None else Path(out).expanduser().resolve()
        self.every, self.resume, self.is_writer = every, resume, is_writer
        for path in self._all if is_writer else ():
            if path.is_dir():
                raise OutputError(
                    f"{str(path)!r} is a folder, but the training is to be kept in a file of that name; move it, or "
                    "name another folder for the results."
                )
        if is_writer and self.files and not (resume or overwrite):
            raise OutputError(
                f"{str(self.files[0])!r} holds a training that was interrupted; pass resume (--resume) to go on with "
                "it, overwrite (--overwrite) to begin anew, or name another folder."
            )

    @property
    def files(self) -> list[Path]:
        """What there is."""
        return [path for path in self._all if path.exists()]

    @property
    def _all(self) -> list[Path]:
        return [] if self.out is None else [self._file(part) for part in PARTS]

    def training(self, part: str = "") -> dict[str, Any]:
        """Return the arguments of a model's ``train``; a checkpoint that isn't gone on from is removed."""
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
        """Remove them: what they were for has been written."""
        for path in self.files:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a checkpoint; a link to it is the user's, and stays."""
    path.resolve().unlink(missing_ok=True)
