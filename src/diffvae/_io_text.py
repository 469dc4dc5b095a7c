"""Text files, packed or not, opened so that reading one that is a trap ends before memory does."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import IO, Any, cast

from diffvae._errors import DataError

LONGEST_LINE = 2**26
"""Bytes in one line: a million cells with 60 characters each. A line has to be held whole to be taken apart."""


def memory() -> int:
    """Return the bytes of memory of this machine; 64 GiB where it doesn't say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 64 * 2**30


def most_text() -> int:
    """Return how many bytes of text, unpacked, are read at most: twice the memory.

    A value has 2 to 20 characters as text and takes 4 to 8 bytes once read, so that only text made to deceive, or
    more than this machine can hold, is longer. A gzip file of 50 MB may unpack to 50 GB.
    """
    return 2 * memory()


class _Bounded(io.RawIOBase):
    """What another file holds, as long as neither a line nor the whole is too long."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path, self._most = file, path, most_text()
        self._read = self._line = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._read += len(data)
        last = data.rfind(b"\n")
        self._line = self._line + len(data) if last < 0 else len(data) - last - 1
        if b"\0" in data:  # readers in C take it for the end of a name or a number
            raise DataError(
                f"{str(self._path)!r} holds zero bytes, so it is no plain text; save it as text in UTF-8, or give it "
                "the ending of what it is."
            )
        if self._read > self._most:
            raise DataError(
                f"{str(self._path)!r} holds more than {size(self._most)} of text, twice the memory of this machine, so "
                "it can't be held; take fewer cells, or store it as .h5ad on a larger machine."
            )
        if self._line > LONGEST_LINE:
            raise DataError(
                f"{str(self._path)!r} has a line of more than {size(LONGEST_LINE)}; a table of expression has a line "
                "for each cell or gene. Check how it was made."
            )
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def opened(path: Path) -> io.BufferedReader:
    """Open a file of text, unpacked if its name ends in .gz, as bytes; too many of them raise a DataError."""
    opening = gzip.open if path.name.lower().endswith(".gz") else open
    return io.BufferedReader(_Bounded(cast(IO[bytes], opening(path, "rb")), path), 2**18)


def size(n_bytes: float) -> str:
    """Return a number of bytes as a reader would say it."""
    power = min(max(int(n_bytes).bit_length() - 1, 0) // 10, 3)
    number = f"{n_bytes / 1024**power:,.1f}".removesuffix(".0")
    return f"{number} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"
