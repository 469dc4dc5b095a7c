"""Text files as bytes and as lines: packed or not, their encoding, not more of them than fits into memory."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from diffvae._core.io.memory import free_memory, size
from diffvae._core.io.openable import unreadable
from diffvae._errors import DataError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, which Excel writes, and what they mean. The mark of UTF-32 begins as that of UTF-16 does."""

GZIP = b"\x1f\x8b"
"""First bytes of a gzip file, which may have lost the ending .gz."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of gzip, pandas and scipy on damaged text into a DataError."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, OverflowError, EOFError, zlib.error, csv.Error) as error:
        raise unreadable(path, error) from error


class _LimitedText(io.RawIOBase):
    """Text of at most twice the free memory.

    A value has 2 to 20 characters as text and takes 4 to 8 bytes in memory. A gzip file of 50 MB may unpack to 50 GB.
    """

    def __init__(self, file: IO[bytes], path: Path, zeros: bool) -> None:
        self._file, self._path, self._zeros = file, path, zeros
        self._limit, self._n_read = 2 * free_memory(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._n_read += len(data)
        if not self._zeros and b"\0" in data:  # pandas would end a name or a number there
            raise DataError(
                f"{str(self._path)!r} holds zero bytes, so it is no plain text; save it as UTF-8 text, or give it "
                "the file name extension of its format."
            )
        if self._n_read > self._limit:
            raise DataError(
                f"{str(self._path)!r} holds more than {size(self._limit)} of text, twice the memory that is free; take "
                "fewer cells, or store it as .h5ad on a larger machine."
            )
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _raw(path: Path) -> IO[bytes]:
    with open(path, "rb") as file:
        packed = path.name.lower().endswith(".gz") or file.read(len(GZIP)) == GZIP
    return cast(IO[bytes], (gzip.open if packed else open)(path, "rb"))


def opened(path: Path, zeros: bool = False) -> io.BufferedReader:
    """Open a text file as bytes, unpacked if it is a gzip file by its name or its first bytes.

    Too much text raises a DataError, and so do zero bytes unless they are allowed.
    """
    return io.BufferedReader(_LimitedText(_raw(path), path, zeros), 2**18)


def encoding(path: Path) -> str:
    """Return the encoding that the first bytes of a file tell: that of its byte order mark, else UTF-8."""
    with reading(path), _raw(path) as file:
        begin = file.read(4)
    return next((name for mark, name in _MARKS if begin.startswith(mark)), "utf-8")


def as_text(path: Path, encoding: str) -> io.TextIOWrapper:
    """Open a file as text; lines may end as on Linux, Windows or an old Mac."""
    return io.TextIOWrapper(opened(path, zeros=encoding in ("utf-16", "utf-32")), encoding=encoding)


def read_lines(path: Path, most: int | None = None) -> list[str]:
    """Return lines of a text file, at most ``most``: UTF-8, else the Windows and Latin alphabet of Western Europe."""
    with reading(path):
        for name in dict.fromkeys((encoding(path), "cp1252")):
            try:
                with as_text(path, name) as file:
                    return [line.rstrip("\r\n") for line in islice(file, most)]
            except UnicodeDecodeError as error:
                last = error
        raise last
