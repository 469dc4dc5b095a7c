"""AnnData files of which anndata can't read a part: written by other programs, or by a later version.

The parts are read one by one. What can't be read is left out and named; X and the names of cells and genes must be
readable.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData

KNOWN = ("", "array", "string-array", "string", "numeric-scalar")
"""Encodings of a data set that are what they look like."""
MATRICES = ("layers", "obsm", "varm", "obsp", "varp")


class Unreadable(Exception):
    """An element can't be read."""


def salvage(path: Path, left_out: list[str]) -> AnnData:
    """Read the parts of a file that can be read; the names of the others are added to ``left_out``.

    A matrix that is stored as genes x cells, as R has it, is turned around.

    Raises
    ------
    Unreadable
        If X or the names of cells or genes can't be read.
    """
    import anndata as ad

    if path.is_dir():
        import zarr

        return _cells(zarr.open_group(path, mode="r"), left_out, ad.AnnData)
    import h5py

    with h5py.File(path, "r") as file:
        return _cells(file, left_out, ad.AnnData)


def _cells(file: Any, left_out: list[str], make: Callable[..., AnnData]) -> AnnData:
    if not {"X", "obs", "var"} <= set(file):
        raise Unreadable("it has no X, obs or var")
    obs, var = (read_table(file[name], name, left_out) for name in ("obs", "var"))
    shape = len(obs), len(var)
    parts: dict[str, dict[str, Any]] = {}
    for name in (*MATRICES, "uns"):
        parts[name] = _entries(file[name], name, left_out) if name in file else {}
    for name in MATRICES:
        sizes = {"layers": shape, "obsm": shape[:1], "varm": shape[1:], "obsp": shape[:1] * 2, "varp": shape[1:] * 2}
        for key, value in list(parts[name].items()):
            if tuple(getattr(value, "shape", ()))[: len(sizes[name])] != sizes[name]:
                left_out.append(f"{name}[{key!r}]")
                del parts[name][key]
    raw = None
    if "raw" in file:
        try:
            genes = read_table(file["raw/var"], "raw.var", left_out)
            raw = {"X": _matrix(file["raw/X"], (shape[0], len(genes))), "var": genes}
        except (Unreadable, KeyError):
            left_out.append("raw")
    return make(X=_matrix(file["X"], shape), obs=obs, var=var, raw=raw, **parts)


def read_table(group: Any, place: str, left_out: list[str]) -> pd.DataFrame:
    """Read a table column by column; columns that can't be read are added to ``left_out``."""
    names = group.attrs.get("_index")
    if names is None or not hasattr(group, "keys"):
        raise Unreadable(f"{place} is no table")
    order = [_decoded(name) for name in np.atleast_1d(group.attrs.get("column-order", []))]
    key = _decoded(np.atleast_1d(names)[0])
    index = pd.Index(np.asarray(_value(group[key])), name=None if key == "_index" else key)
    columns: dict[str, Any] = {}
    for name in order:
        try:
            value = _categorical(group, name) if "categories" in group[name].attrs else _value(group[name])
            if len(value) != len(index):
                raise Unreadable(name)
            columns[name] = value
        except (Unreadable, KeyError, TypeError):
            left_out.append(f"{place}[{name!r}]")
    return pd.DataFrame(columns, index=index.astype(str), columns=list(columns))


def _categorical(group: Any, name: str) -> pd.Categorical:
    """Read categories as anndata before 0.8 stored them: codes, and a reference to their names."""
    column = group[name]
    levels = group[column.attrs["categories"]] if not isinstance(column.attrs["categories"], str) else None
    codes = np.asarray(column[...])
    if levels is None or codes.dtype.kind not in "iu":
        raise Unreadable(name)
    values = np.asarray(_value(levels))
    return pd.Categorical.from_codes(np.where((codes < 0) | (codes >= len(values)), -1, codes), categories=values)


def _entries(group: Any, place: str, left_out: list[str]) -> dict[str, Any]:
    """Read a dictionary entry by entry."""
    entries: dict[str, Any] = {}
    try:
        keys = list(group)
    except Exception:  # zarr opens all members at once, and raises errors of any type
        left_out.append(place)
        return entries
    for key in keys:
        where = f"{place}[{key!r}]"
        try:
            node = group[key]
            is_dictionary = hasattr(node, "keys") and encoding_of(node) in ("", "dict")
            entries[key] = _entries(node, where, left_out) if is_dictionary else _value(node)
        except Unreadable:
            left_out.append(where)
    return entries


def encoding_of(node: Any) -> str:
    """Return the encoding of an element; some programs write it as an array of one text."""
    return str(_decoded(np.atleast_1d(node.attrs.get("encoding-type", ""))[0]))


def _decoded(text: Any) -> Any:
    return text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text


def _value(node: Any) -> Any:
    """Read an element by anndata, or by what its encoding says."""
    import anndata as ad

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files of earlier versions
            return ad.io.read_elem(node)
    except Exception as error:  # anndata's errors are of any type
        kind, failed = encoding_of(node), error
    try:
        if kind in ("csr_matrix", "csc_matrix"):
            return _sparse(node, kind, tuple(int(n) for n in node.attrs["shape"]))
        if hasattr(node, "keys"):
            if kind == "dataframe":
                return read_table(node, node.name, [])
            if kind == "categorical":
                return pd.Categorical.from_codes(node["codes"][...], categories=_value(node["categories"]))
            if {"values", "mask"} <= set(node) and kind.startswith("nullable"):
                values = np.asarray(_value(node["values"])).astype(object)
                return pd.Series(values).where(~np.asarray(node["mask"][...]).astype(bool), None).array
        elif kind in KNOWN:
            return _plain(node)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise Unreadable(str(error)) from error
    raise Unreadable(str(failed)) from failed


def _plain(node: Any) -> Any:
    value = node[()]
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "SO":
        texts = np.array([str(_decoded(one)) for one in value.ravel()], dtype=object)
        return texts.reshape(value.shape)
    return value


def _sparse(node: Any, kind: str, shape: tuple[int, ...]) -> Any:
    make = sparse.csr_matrix if kind == "csr_matrix" else sparse.csc_matrix
    return make((node["data"][...], node["indices"][...], node["indptr"][...]), shape=shape)


def _matrix(node: Any, shape: tuple[int, int]) -> Any:
    """Read a matrix of cells x genes, also one that is stored with the two swapped."""
    kind = encoding_of(node)
    if kind in ("csr_matrix", "csc_matrix") and shape[0] != shape[1] and "shape" in node.attrs:
        stored = tuple(int(n) for n in node.attrs["shape"])
        lines = len(node["indptr"]) - 1
        if stored == shape[::-1]:
            # columns of genes x cells are rows of cells x genes
            by_cell = lines == shape[0]
            return _sparse(node, "csr_matrix" if by_cell else "csc_matrix", shape)
    value = _value(node)
    if tuple(value.shape) == shape:
        return value
    if tuple(value.shape) == shape[::-1]:
        return value.T.tocsr() if sparse.issparse(value) else np.ascontiguousarray(value.T)
    raise Unreadable(f"X has shape {value.shape}, of {shape[0]:,} cells and {shape[1]:,} genes")
