"""Tables as an ``.h5ad`` file can hold them: columns of plain types, and names that are text."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import pathlib
import uuid
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

OUT: Any = object()
"""Stands for a value that has no plain form."""
PLAIN_KINDS = "biufc"
"""Kinds of numpy types that HDF5 holds: truth values, integers, floats and complex numbers."""
MOST_NAMED = 100
"""Parts that a warning names for each change."""
_PRINTABLE = (
    str, bytes, bool, int, float, complex, np.generic, decimal.Decimal, fractions.Fraction, enum.Enum, uuid.UUID,
    pathlib.PurePath, datetime.date, datetime.time, datetime.timedelta, pd.Period, pd.Interval, list, tuple, set,
    frozenset, dict, np.ndarray, type(None),
)  # fmt: skip
_DATES = (datetime.date, datetime.time, datetime.datetime, pd.Timedelta)
_AS_TEXT = {
    "datetime": "dates", "datetime64": "dates", "date": "dates", "time": "times", "timedelta": "durations",
    "timedelta64": "durations", "period": "periods", "interval": "intervals", "boolean": "True and False with gaps",
    "bytes": "bytes", "integer": "large integers",
}  # fmt: skip


class Changes:
    """What had to be changed in some cells: for each kind of change, the names of the parts."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, None]] = {}

    def note(self, part: str, change: str) -> None:
        """Add a part to those of a change."""
        self._parts.setdefault(change, {})[part] = None

    def __bool__(self) -> bool:
        return bool(self._parts)

    def __str__(self) -> str:
        changes = [f"{change}: {_listed(list(parts))}" for change, parts in self._parts.items()]
        return f"Parts of the cells that an .h5ad file can't hold as they are were changed: {'; '.join(changes)}."


def _listed(parts: list[str]) -> str:
    more = f" and {len(parts) - MOST_NAMED:,} more" if len(parts) > MOST_NAMED else ""
    return ", ".join(parts[:MOST_NAMED]) + more


def plain_table(table: pd.DataFrame, place: str, changes: Changes) -> pd.DataFrame:
    """Return a table that an ``.h5ad`` file can hold; the table itself where nothing is to be changed."""
    given = table
    table = _named_by_seurat(table, place, changes)
    names = column_names(table.columns, place, changes)
    index = _index(table.index, place, set(names), table, changes)
    columns: dict[str, Any] = {}
    changed = table is not given or index is not table.index or not _same_names(names, table.columns)
    for i, name in enumerate(names):
        as_it_is = table.iloc[:, i]
        column = plain_column(as_it_is, f"{place}[{table.columns[i]!r}]", changes)
        changed = changed or column is not as_it_is
        if column is not OUT:
            columns[name] = column if isinstance(column, pd.Categorical) else getattr(column, "array", column)
    if not changed:
        return given
    return pd.DataFrame(columns, index=index, columns=pd.Index(list(columns), dtype=object))


def _named_by_seurat(table: pd.DataFrame, place: str, changes: Changes) -> pd.DataFrame:
    """Return a table with the names that SeuratDisk writes into a column ``_index``, while its index has numbers."""
    if list(table.columns).count("_index") != 1:
        return table
    names, numbers = table["_index"], list(map(str, table.index))
    is_text = pd.api.types.infer_dtype(names.astype(object), skipna=False) == "string"
    if not is_text or numbers not in ([str(i + first) for i in range(len(table))] for first in (0, 1)):
        return table
    changes.note(place, "named by its column '_index'")
    return table.drop(columns="_index").set_axis(pd.Index(names.astype(object).to_numpy(), dtype=object), axis=0)


def _same_names(names: list[str], columns: pd.Index) -> bool:
    return columns.dtype == object and names == list(columns)


def column_names(columns: pd.Index, place: str, changes: Changes) -> list[str]:
    """Return names of columns: text, none twice, none that HDF5 keeps for itself."""
    names: list[str] = []
    given = [name if isinstance(name, str) else None for name in columns]
    taken = {name for name in given if name is not None}
    for name in columns:
        text = clean_text(key_text(name))
        if text.strip("./ ") == "" or text == "_index":
            text = "index" if text == "_index" else "unnamed"
        if text.startswith("/") or text.endswith("/") or "//" in text or _forbids_slashes("/" in text):
            text = text.strip("/").replace("/", "_") or "unnamed"
        elif any(text.startswith(f"{other}/") for other in taken):  # HDF5 would take the other for a folder
            text = text.replace("/", "_")
        kept = isinstance(name, str) and text == name
        base, number = text, 0
        while text in names or (text in taken and (not kept or number)):
            number += 1
            text = f"{base}_{number}"
        names.append(text)
        if text != name:
            changes.note(f"{place}[{name!r}] as {text!r}", "renamed")
    return names


def _forbids_slashes(there: bool) -> bool:
    import anndata as ad

    return there and bool(getattr(ad.settings, "disallow_forward_slash_in_h5ad", False))


def _index(index: pd.Index, place: str, columns: set[str], table: pd.DataFrame, changes: Changes) -> pd.Index:
    """Return an index of text whose own name is no column of the table."""
    name = index.name
    if isinstance(index, pd.MultiIndex):
        values: Any = ["_".join(map(text_of, one)) for one in index]
        changes.note(f"{place} (an index of several levels)", "joined to one text")
        name = None
    elif index.dtype == object and pd.api.types.infer_dtype(index, skipna=False) == "string":
        values = index
    elif place.startswith("uns") and index.dtype.kind in "biuf" and isinstance(index.dtype, np.dtype):
        values = index  # tables of results keep their numbers
    else:
        is_text = pd.api.types.infer_dtype(index.astype(object), skipna=False) in ("string", "empty")
        values = [text_of(one) for one in index]
        if not is_text and index.dtype.kind not in "iu":
            changes.note(f"the names of {place}", "written as text")
    if not isinstance(values, pd.Index) or values.dtype == object:
        clean = _cleaned(np.asarray(values, dtype=object))
        if clean is not None:
            changes.note(f"the names of {place}", "without characters that HDF5 can't hold")
            values = clean
    if name is not None and (
        not isinstance(name, str) or not name.strip(". ") or "/" in name or clean_text(name) != name
    ):
        changes.note(f"{name!r} of {place}", "name of an index left out")
        name = None
    if name is not None and name in columns:
        same = list(table.columns).count(name) == 1 and _equal(index, table[name])
        if not same or name == "_index":
            changes.note(f"{name!r} of {place}, which has a column of this name", "name of an index left out")
            name = None
    if values is index and name == index.name:
        return index
    return (values if isinstance(values, pd.Index) else pd.Index(values, dtype=object)).rename(name)


def _equal(index: pd.Index, column: pd.Series) -> bool:
    return bool(column.dtype == object and index.astype(object).equals(pd.Index(column)))


def plain_column(column: pd.Series, where: str, changes: Changes) -> Any:
    """Return a column of a plain type; the column itself where nothing is to be changed, OUT if there is none."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return plain_categories(column, where, changes)
    if isinstance(dtype, np.dtype) and dtype.kind in PLAIN_KINDS:
        return column
    if isinstance(dtype, pd.BooleanDtype) or str(dtype) in _NULLABLE_INTEGERS:
        return column  # h5ad has such a type
    if isinstance(dtype, pd.SparseDtype):
        return plain_column(pd.Series(np.asarray(column), index=column.index), where, changes)
    if isinstance(dtype, pd.StringDtype):
        return _texts(column.astype(object), where, changes, silent=True)
    if isinstance(dtype, pd.ArrowDtype) or pd.api.types.is_float_dtype(dtype):
        return plain_column(_from_arrow(column), where, changes)
    values = column.astype(object)
    inferred = pd.api.types.infer_dtype(values, skipna=True)
    missing = values.isna()
    if inferred == "string":
        return _texts(values, where, changes, silent=True, same=column)
    if inferred == "empty":
        return pd.Series(np.full(len(values), np.nan), index=column.index)
    if inferred == "boolean" and not missing.any():
        return values.astype(bool)
    if inferred in ("integer", "floating", "mixed-integer-float", "decimal"):
        numbers = _numbers(values, missing, inferred)
        if numbers is not None:
            return numbers
    if inferred == "complex" and not missing.any():
        return values.astype(complex)
    if any(not has_text(value) for value in values[~missing]):
        changes.note(f"{where} ({_type_of(values[~missing])})", "left out")
        return OUT
    changes.note(f"{where} ({_what(inferred)})", "written as text")
    return _texts(values.map(text_of, na_action="ignore"), where, changes, silent=True)


_NULLABLE_INTEGERS = {f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}


def _what(inferred: str) -> str:
    """Return a type that pandas inferred in plain words."""
    return _AS_TEXT.get(inferred, "values of several types" if inferred.startswith("mixed") else inferred)


def _from_arrow(column: pd.Series) -> pd.Series:
    """Return a column of pyarrow or of nullable floats as one of numpy, with NaN for missing numbers."""
    missing = column.isna().to_numpy()
    if pd.api.types.is_bool_dtype(column.dtype):
        values: Any = np.array([None if gap else bool(v) for v, gap in zip(column, missing, strict=True)], dtype=object)
    elif pd.api.types.is_numeric_dtype(column.dtype):
        kind = "float64" if missing.any() or pd.api.types.is_float_dtype(column.dtype) else "int64"
        values = column.to_numpy(dtype=kind, na_value=np.nan) if kind == "float64" else column.to_numpy(dtype=kind)
    else:
        values = np.empty(len(column), dtype=object)
        values[:] = [None if gap else v for v, gap in zip(column, missing, strict=True)]
    return pd.Series(values, index=column.index, dtype=None if values.dtype != object else object)


def _numbers(values: pd.Series, missing: pd.Series, inferred: str) -> pd.Series | None:
    """Return numbers of type object as int64 or float64; None if that would change one."""
    try:
        if inferred == "integer" and not missing.any():
            return values.astype(np.int64)
        numbers = values.where(~missing, np.nan).astype(np.float64)
    except (OverflowError, TypeError, ValueError):
        return None
    whole = [v for v in values[~missing] if isinstance(v, int | np.integer)]
    return None if any(abs(int(v)) > 2**53 for v in whole) else numbers


def _texts(values: pd.Series, where: str, changes: Changes, *, silent: bool, same: Any = None) -> Any:
    """Return text, with gaps as categories; ``same`` where the text is that already."""
    missing = values.isna()
    present = values[~missing].to_numpy(dtype=object)
    clean = _cleaned(present)
    if clean is not None:
        changes.note(where, "without characters that HDF5 can't hold")
        values = values.copy()
        values[~missing] = clean
    if missing.any():  # plain text in HDF5 has no mark for a gap
        found = pd.unique(values[~missing].astype(object)) if (~missing).any() else np.array([], dtype=object)
        levels = pd.Index(sorted(map(str, found)), dtype=object)
        return pd.Categorical(values.astype(object).where(~missing, None), categories=levels)
    if clean is None and same is not None and same.dtype == object:
        return same
    return values.astype(object)


def plain_categories(column: pd.Series, where: str, changes: Changes) -> Any:
    """Return categories whose names are of one plain type."""
    levels = column.cat.categories
    kept = isinstance(levels.dtype, np.dtype) and levels.dtype.kind in PLAIN_KINDS
    inferred = pd.api.types.infer_dtype(levels, skipna=False)
    is_text = inferred == "string" or not len(levels)
    if kept or (levels.dtype == object and is_text and _cleaned(levels.to_numpy(dtype=object)) is None):
        return column
    codes = column.cat.codes.to_numpy()
    if inferred == "integer" and not isinstance(levels.dtype, np.dtype):  # Int64
        dtype = pd.CategoricalDtype(levels.astype(np.int64), ordered=column.cat.ordered)
        return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype), index=column.index)
    if isinstance(levels, pd.MultiIndex):
        texts = ["_".join(map(text_of, one)) for one in levels]
    elif any(not has_text(level) for level in levels):
        changes.note(f"{where} (categories that are {_type_of(levels)})", "left out")
        return OUT
    else:
        texts = [clean_text(text_of(level)) for level in levels]
    if not is_text:
        changes.note(f"{where} (categories that are {_what(inferred)})", "written as text")
    elif texts != list(levels):
        changes.note(where, "without characters that HDF5 can't hold")
    number = {text: i for i, text in enumerate(dict.fromkeys(texts))}  # 1 and "1" are one text
    place = np.array([*(number[text] for text in texts), -1])
    dtype = pd.CategoricalDtype(pd.Index(list(number), dtype=object), ordered=column.cat.ordered)
    return pd.Series(pd.Categorical.from_codes(place[codes], dtype=dtype), index=column.index)


def has_text(value: Any) -> bool:
    """Return whether the text of a value says what it is; that of a function or a figure is an address in memory."""
    return isinstance(value, _PRINTABLE) or value is pd.NA or value is pd.NaT


def _type_of(values: Iterable[Any]) -> str:
    return next((f"{type(value).__name__} objects" for value in values if not has_text(value)), "objects")


def text_of(value: Any) -> str:
    """Return a value as text: ISO 8601 for dates and durations."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, np.datetime64 | np.timedelta64):
        value = pd.Timestamp(value) if isinstance(value, np.datetime64) else pd.Timedelta(value)
    if isinstance(value, datetime.timedelta) and value is not pd.NaT:
        return pd.Timedelta(value).isoformat()
    if isinstance(value, _DATES) and value is not pd.NaT:
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.name
    return str(value)


def key_text(key: Any) -> str:
    return "_".join(map(text_of, key)) if isinstance(key, tuple) else text_of(key)


def clean_text(text: str) -> str:
    """Return text without the characters that HDF5 can't hold: NUL and halves of a pair."""
    return str(text).replace("\x00", "").encode("utf-8", errors="replace").decode("utf-8")


def _cleaned(texts: np.ndarray) -> np.ndarray | None:
    """Return texts without such characters; None if there are none."""
    joined = "".join(texts)
    try:
        joined.encode("utf-8")
    except UnicodeEncodeError:
        pass
    else:
        if "\x00" not in joined:
            return None
    return np.array([clean_text(text) for text in texts], dtype=object)
