"""What diffvae raises when the fault is in what it was given, not in the program."""

from __future__ import annotations


class DataError(ValueError):
    """The data can't be used as they are; the message says why and what to do about it.

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
    """Results can't be written where they should go; the message says why and where they could."""


class WriteError(OSError):
    """Writing failed on the way (a full disk, say); the message says where, and what was there before is untouched."""


hdf5_is_sound = True
"""False once HDF5 could not write a file; it tries again when the process ends, and crashes."""


class CheckpointError(DataError):
    """A training can't go on from a checkpoint; the message says why and what to do about it."""
