"""Checkpoints of a command's trainings: where they lie, and when they may go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from diffvae._errors import OutputError

SUFFIX = ".checkpoint"
PARTS = ("", ".links")
"""The main training of a command, and a later one with a checkpoint of its own."""


class Kept:
    """The checkpoints beside a folder that is to be written: ``OUT.checkpoint``, and ``OUT.PART.checkpoint``.

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
        If there are checkpoints that nobody has decided on.
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
        if is_writer and self.files and not (resume or overwrite):
            raise OutputError(
                f"{str(self.files[0])!r} holds a training that was interrupted; pass resume (--resume) to go on with "
                "it, overwrite (--overwrite) to begin anew, or name another folder."
            )

    @property
    def files(self) -> list[Path]:
        """What there is."""
        return [path for part in PARTS if self.out is not None and (path := self._file(part)).exists()]

    def training(self, part: str = "") -> dict[str, Any]:
        """Return the arguments of a model's ``train``; a checkpoint that isn't gone on from is removed."""
        if self.out is None:
            return {}
        path = self._file(part)
        if not self.resume and self.is_writer:
            path.unlink(missing_ok=True)
        return {"checkpoint": path, "checkpoint_every": self.every, "resume": self.resume}

    def _file(self, part: str) -> Path:
        assert self.out is not None
        return self.out.with_name(self.out.name + part + SUFFIX)

    def done(self) -> None:
        """Remove them: what they were for has been written."""
        for path in self.files:
            path.unlink(missing_ok=True)
