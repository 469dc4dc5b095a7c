"""What has been computed, one file each: an interrupted comparison goes on where it stopped."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffvae import _files

TASKS = "tasks"
ARRAY, ROWS = ".npz", ".json"
DAMAGES = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    MemoryError,  # a header that says more numbers than there are
    RuntimeError,  # JSON that is nested without end; a zip that says it is encrypted, or packed in another way
    zipfile.BadZipFile,
    zlib.error,
)
"""How reading fails on a file that is not as it was written."""


@dataclass(frozen=True)
class Training:
    """What is kept of a training: the latent representation, its scores, or why there is none."""

    z: np.ndarray | None
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    note: str = ""


class Store:
    """Results by key, in memory or as files that appear when they are complete."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = None if folder is None else folder / TASKS
        self._memory: dict[str, Any] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._memory or (self.folder is not None and (self.folder / key).exists())

    def save(self, key: str, value: Any) -> None:
        """Keep a result under a key that ends with the form it has."""
        if self.folder is None:
            self._memory[key] = value
            return
        path = self.folder / key
        with _files.in_one_step(path) as part:
            if key.endswith(ROWS):
                part.write_text(json.dumps(value))
            else:
                about = {"scores": value.scores, "seconds": value.seconds, "note": value.note}
                arrays = {} if value.z is None else {"z": value.z}
                with part.open("wb") as file:  # savez would add a suffix to the name
                    np.savez(file, about=np.array(json.dumps(about)), **arrays)

    def load(self, key: str) -> Any:
        """Return a result; a damaged file is an error that names it."""
        if key in self._memory:
            return self._memory[key]
        assert self.folder is not None
        path = self.folder / key
        try:
            if key.endswith(ROWS):
                return json.loads(path.read_text())
            with np.load(path, allow_pickle=False) as arrays:
                about = json.loads(str(arrays["about"]))
                return Training(arrays.get("z"), **about)
        except DAMAGES as error:
            why = str(error) or type(error).__name__
            raise _files.OutputError(f"{str(path)!r} is damaged ({why}); delete it and start again.") from error


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds something else."""
    if folder.exists() and not (folder.is_dir() and _files.written_by_us(folder)):
        raise _files.OutputError(f"{str(folder)!r} holds files that diffvae did not write; name another folder.")


def claim(folder: Path) -> None:
    """Mark a folder as one of a comparison, so that it can be told from others while it is still unfinished."""
    from diffvae.model._storage import versions

    mark = folder / "summary.json"
    if not mark.exists():
        _files.write_text(json.dumps({"state": "under way", "versions": versions()}, indent=1) + "\n", mark)
