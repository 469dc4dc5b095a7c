"""A later part of the road, on a result that is there."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from diffvae import _files, _result
from diffvae._files import held
from diffvae._journal import Journal

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae._changes import Changes
    from diffvae._linking import Links
    from diffvae.model import Model


class Part:
    """A later part of the road on an existing result: what it reads, and the folder that it writes.

    A folder that must not be replaced is refused at once. It is a context manager: while it is open nobody else writes
    the folder.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        out: str | PathLike[str] | None,
        name: str,
        overwrite: bool,
        tell: Callable[[str], None],
    ) -> None:
        self.folder, self.name = Path(path).expanduser(), name
        self.out = self.folder / name if out is None else Path(out).expanduser()
        self.overwrite = overwrite
        self.source = ""
        _files.refuse_folder(self.out.resolve(), overwrite)
        self.journal = Journal(tell)
        self._lock = held(self.out)

    def __enter__(self) -> Self:
        self._lock.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)

    def read(self) -> tuple[AnnData, Model, dict[str, Any]]:
        """Return cells, model and summary of the result."""
        with self.journal.step("read"):
            adata, model, earlier = _result.read(self.folder)
        self.source = earlier["source"]
        return adata, model, earlier

    def write(self, found: Changes | Links, write_into: Callable[[Path], None]) -> None:
        """Complete the summary of what was found and write its folder, whole or not at all."""
        self.journal.tell("write")
        found.summary |= {
            "source": self.source,
            "warnings": self.journal.warnings,
            "seconds": self.journal.seconds,
        }
        with _files.new_folder(self.out, overwrite=self.overwrite) as folder:
            write_into(folder)
        found.path = self.out
        if self.out == self.folder / self.name:  # elsewhere it is no part of the result
            found.summary["warnings"] += _result.renew_page(self.folder)
