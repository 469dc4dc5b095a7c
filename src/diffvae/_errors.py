"""Exceptions for faults in the input or the environment, not in the program."""

from __future__ import annotations

from typing import Any


class DataError(ValueError):
    """The data can't be used; the message says why and what to do.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> adata.layers["scaled"] = adata.X.toarray() - 1
    >>> try:
    ...     dv.pp.prepare(adata, layer="scaled")
    ... except dv.pp.DataError:
    ...     print("refused")
    refused
    """


class OutputError(ValueError):
    """Results can't be written to the given place; the message says why and what to do."""


class WriteError(OSError):
    """Writing failed, for example because the disk is full; the previous content is unchanged."""


hdf5_is_sound = True
"""False after HDF5 failed to write a file; it would try again at the end of the process, and crash."""


class CheckpointError(DataError):
    """A training can't continue from a checkpoint; the message says why and what to do."""


def quoted(names: Any, limit: int = 5) -> str:
    """Return the first few names, quoted, for a message."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more
