"""Cells as an ``.h5ad`` file can hold them: what it can't hold becomes a plain type, or is left out, before any work.

Every table, matrix and entry of ``uns`` is looked at when cells are read. Text, dates and mixed values become text,
keys become text, and what has no plain form is left out. One warning names all of it. Then the tables and ``uns`` are
written to a file in memory, so that nothing can fail when results are written.
"""

from __future__ import annotations

import enum
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from diffvae import _keys
from diffvae._core.io.plain_tables import (
    OUT,
    PLAIN_KINDS,
    Changes,
    clean_text,
    column_names,
    has_text,
    key_text,
    plain_categories,
    plain_column,
    plain_table,
    text_of,
)
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

MOST_COLUMNS = 4000
"""Columns of a table above which their names may exceed 64 kB, the most that HDF5 holds beside a table."""
MOST_ADDED = 100
"""Columns that results may add to a table."""


def copy_of(adata: AnnData) -> AnnData:
    """Return a copy of cells, also of those that AnnData can't copy: a lock in ``uns``, an index of several levels."""
    import anndata as ad

    try:
        return adata.copy()
    except (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError):  # of whatever uns holds
        changes = Changes()
        obs, var = (plain_table(getattr(adata, axis), axis, changes) for axis in ("obs", "var"))
        uns = _entries(adata.uns, "uns", changes)
        raw = None if adata.raw is None else {"X": adata.raw.X, "var": adata.raw.var, "varm": dict(adata.raw.varm)}
        parts = {name: dict(getattr(adata, name)) for name in ("layers", "obsm", "varm", "obsp", "varp")}
        copy = ad.AnnData(X=adata.X, obs=obs, var=var, uns=uns, raw=raw, **parts).copy()
        _warn(changes)
        return copy


def make_storable(adata: AnnData) -> AnnData:
    """Change cells, in place, so that they can be written as ``.h5ad``; one warning names each change.

    Text of any pandas type becomes plain text without a word, since no value changes.

    Raises
    ------
    DataError
        If the cells can't be written even so; it names the part.

    Examples
    --------
    >>> import warnings
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> obs = pd.DataFrame({"mixed": ["a", 1], "when": pd.Timestamp("2024-01-31")}, index=["c1", "c2"])
    >>> adata = ad.AnnData(np.ones((2, 3), "float32"), obs=obs, uns={"palette": {"blue", "red"}})
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     adata = make_storable(adata)
    >>> adata.obs["mixed"].tolist(), adata.obs["when"].tolist()[0], list(adata.uns["palette"])
    (['a', '1'], '2024-01-31T00:00:00', ['blue', 'red'])
    >>> [part in str(caught[0].message) for part in ("obs['mixed']", "obs['when']", "uns['palette']")]
    [True, True, True]
    """
    changes = Changes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata, on names and types that are changed here
        for axis in ("obs", "var"):
            table = getattr(adata, axis)
            plain = plain_table(table, axis, changes)
            if plain is not table:
                if not plain.index.equals(table.index):
                    setattr(adata, f"{axis}_names", plain.index)  # also of the tables in obsm
                setattr(adata, axis, plain)
        if adata.X is not None:
            x = _matrix(adata.X, "X", changes)
            if x is OUT:
                raise DataError(
                    f"The values are of type {getattr(adata.X, 'dtype', type(adata.X).__name__)}, not numbers; convert "
                    "them first."
                )
            if x is not adata.X:
                adata.X = x
        for name in ("layers", "obsm", "varm", "obsp", "varp"):
            _mend_matrices(getattr(adata, name), name, changes)
        _mend_raw(adata, changes)
        uns = _entries(adata.uns, "uns", changes)
        for key in [key for key, value in uns.items() if failure(value) is not None]:
            del uns[key]
            changes.note(f"uns[{key!r}]", "left out")
        adata.uns.clear()
        adata.uns.update(uns)
        _prove(adata)
    _warn(changes)
    return adata


def _matrix(value: Any, where: str, changes: Changes) -> Any:
    """Return a matrix as numpy array, CSR or CSC matrix; OUT if it holds no numbers."""
    if hasattr(value, "compute") and hasattr(value, "dask"):
        value = value.compute()
    if sparse.issparse(value):
        if value.dtype.kind not in PLAIN_KINDS:
            try:
                value = value.astype(np.float32)
            except (TypeError, ValueError):
                return OUT
            changes.note(where, "converted to numbers")
        if value.format == "csc":
            return value if isinstance(value, sparse.csc_matrix) else sparse.csc_matrix(value)
        return value if isinstance(value, sparse.csr_matrix) else sparse.csr_matrix(value)
    if isinstance(value, np.ma.MaskedArray):
        value = _unmasked(value, where, changes)
    if not isinstance(value, np.ndarray) or value.dtype.kind in PLAIN_KINDS:
        return value
    if value.dtype.kind in "OUS":
        try:
            numbers = value.astype(np.float64 if value.dtype.kind != "O" else np.float32)
        except (TypeError, ValueError, OverflowError):
            return OUT
        changes.note(where, "converted to numbers")
        return numbers
    return OUT


def _unmasked(value: Any, where: str, changes: Changes) -> Any:
    """Return a masked array with NaN for what is masked."""
    if not np.ma.getmaskarray(value).any():
        return np.asarray(value.data)
    changes.note(where, "masked values written as NaN")
    if value.dtype.kind in "biuf":
        return value.astype(value.dtype if value.dtype.kind == "f" else np.float64).filled(np.nan)
    return value.astype(object).filled(None)


def _mend_matrices(matrices: Any, name: str, changes: Changes) -> None:
    """Give matrices plain types and names, in place."""
    for key in list(matrices):
        where, value = f"{name}[{key!r}]", matrices[key]
        if isinstance(value, pd.DataFrame):
            plain: Any = plain_table(value, where, changes)
            if plain.shape[1] > MOST_COLUMNS and failure(plain) is not None:
                plain = _as_numbers(plain)
                changes.note(f"{where} (more columns than HDF5 can name)", "left out" if plain is OUT else "unnamed")
        else:
            plain = _matrix(value, where, changes)
            if plain is OUT and not sparse.issparse(value) and value.dtype.kind in "OUSMm":
                plain = _array(np.asarray(value), where, changes)
                plain = OUT if plain is OUT or plain.ndim != value.ndim else plain
            elif plain is value and not sparse.issparse(value) and not isinstance(value, np.ndarray):
                plain = value if failure(value) is None else OUT
            if plain is OUT:
                changes.note(f"{where} ({getattr(value, 'dtype', type(value).__name__)})", "left out")
        text = _entry_name(key, [str(other) for other in matrices if other is not key])
        if text != key:
            del matrices[key]
            if plain is not OUT:
                changes.note(f"{where} as {text!r}", "renamed")
        if plain is OUT:
            if key in matrices:
                del matrices[key]
        elif plain is not value or text != key:
            matrices[text] = plain


def _as_numbers(table: pd.DataFrame) -> Any:
    try:
        return table.to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        return OUT


def _entry_name(key: Any, taken: Iterable[str]) -> str:
    """Return a key as text that is one name in HDF5, where "/" divides folders."""
    text = clean_text(key_text(key)).replace("/", "_")
    if text.strip(". ") == "":
        text = "unnamed"
    base, number, taken = text, 0, set(taken)
    while text in taken and (text != key or number):
        number += 1
        text = f"{base}_{number}"
    return text


def _mend_raw(adata: AnnData, changes: Changes) -> None:
    import anndata as ad

    raw = adata.raw
    if raw is None:
        return
    var, varm = plain_table(raw.var, "raw.var", changes), dict(raw.varm)
    before = dict(varm)
    _mend_matrices(varm, "raw.varm", changes)
    x = _matrix(raw.X, "raw.X", changes)
    if x is OUT:
        changes.note(f"raw ({raw.X.dtype})", "left out")
        del adata.raw
    elif x is not raw.X or var is not raw.var or any(varm.get(k) is not v for k, v in before.items()):
        adata.raw = ad.AnnData(x, obs=adata.obs[[]], var=var, varm=varm)


def _entries(mapping: Mapping[Any, Any], where: str, changes: Changes, parents: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return a dictionary with text as keys and plain values."""
    plain: dict[str, Any] = {}
    texts = {key for key in mapping if isinstance(key, str)}
    for key, value in mapping.items():
        place = f"{where}[{key!r}]"
        made = OUT if id(value) in parents else _value(value, place, changes, (*parents, id(mapping)))
        if made is OUT:
            changes.note(f"{place} ({_called(value)})", "left out")
            continue
        text = _entry_name(key, {*plain, *texts})
        if text != key:
            changes.note(f"{place} as {text!r}", "renamed")
        plain[text] = made
    return plain


def _called(value: Any) -> str:
    return "a function" if callable(value) else str(getattr(value, "dtype", type(value).__name__))


def _value(value: Any, where: str, changes: Changes, parents: tuple[int, ...] = ()) -> Any:
    """Return an entry of ``uns`` as a plain type; OUT if it has none."""
    if value is pd.NA or value is pd.NaT:
        changes.note(where, "written as NaN")
        return np.nan
    if isinstance(value, Mapping):
        return _entries(value, where, changes, parents)
    if isinstance(value, pd.DataFrame):
        table = plain_table(value, where, changes)
        return table if failure(table) is None else OUT
    if isinstance(value, pd.Series):
        changes.note(where, "written as a table")
        name = "value" if value.name is None else value.name
        return _value(value.to_frame(name), where, changes)
    if isinstance(value, pd.Categorical):
        made = plain_categories(pd.Series(value), where, changes)
        return made if made is OUT else made.array
    if isinstance(value, pd.Index | pd.api.extensions.ExtensionArray):
        return _array(np.asarray(value, dtype=object if value.dtype.kind not in "biufc" else None), where, changes)
    if isinstance(value, np.ndarray):
        return _array(value, where, changes)
    if sparse.issparse(value):
        return _matrix(value, where, changes)
    if isinstance(value, complex):
        return np.array(value)
    if isinstance(value, str | bool | float) and not isinstance(value, enum.Enum):
        return _clean_entry(str(value), where, changes) if isinstance(value, str) else value
    if isinstance(value, int) and not isinstance(value, enum.Enum) and -(2**63) <= value < 2**64:
        return value
    if isinstance(value, np.generic) and value.dtype.kind in PLAIN_KINDS:
        return value
    if isinstance(value, set | frozenset):
        changes.note(f"{where} (a set)", "written as a list")
        return _list(sorted(value, key=str), where, changes)
    if isinstance(value, list | tuple):
        return _list(list(value), where, changes)
    if value is None:
        return None if failure(None) is None else OUT
    if has_text(value):
        changes.note(f"{where} ({type(value).__name__})", "written as text")
        return clean_text(text_of(value))
    try:
        array = getattr(value, "__array__", lambda: None)()
    except (TypeError, ValueError, RuntimeError):
        array = None
    if isinstance(array, np.ndarray) and array.dtype.kind in PLAIN_KINDS and failure(value) is not None:
        changes.note(f"{where} ({type(value).__name__})", "written as numbers")
        return array
    return value if failure(value) is None else OUT


def _clean_entry(text: str, where: str, changes: Changes) -> str:
    clean = clean_text(text)
    if clean != text:
        changes.note(where, "without characters that HDF5 can't hold")
    return clean


def _list(values: list[Any], where: str, changes: Changes) -> Any:
    """Return a list of one type as an array; one of several types as text."""
    if any(isinstance(value, Mapping | pd.DataFrame | np.ndarray | list | tuple | set) for value in values):
        try:
            array = np.array(values)
        except ValueError:  # lists of several lengths
            array = None
        if array is not None and array.dtype.kind in PLAIN_KINDS + "U":
            return _array(array, where, changes)
        changes.note(f"{where} (a list of lists or tables)", "written with numbers as keys")
        return _entries({str(i): value for i, value in enumerate(values)}, where, changes)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return _array(column, where, changes) if len(values) else np.array([], dtype=np.float64)


def _array(array: np.ndarray, where: str, changes: Changes) -> Any:
    """Return an array of numbers or text."""
    if isinstance(array, np.ma.MaskedArray):
        array = _unmasked(array, where, changes)
    if array.dtype.names is not None:
        return _records(array, where, changes)
    if array.dtype.kind in PLAIN_KINDS:
        return array if type(array) is np.ndarray else np.asarray(array)
    flat = pd.Series(array.astype(object).ravel())
    column = plain_column(flat, where, changes)
    if column is OUT:
        return OUT
    if isinstance(column, pd.Categorical):  # text with gaps
        changes.note(where, "gaps in text written as 'nan'")
        made = np.asarray(column.astype(object).astype(str), dtype=object)
        made[pd.isna(column)] = "nan"
    elif isinstance(column.dtype, pd.CategoricalDtype):
        made = column.astype(object).to_numpy()
    else:
        made = column.to_numpy()
    return made.reshape(array.shape)


def _records(array: np.ndarray, where: str, changes: Changes) -> Any:
    """Return an array of records, such as ``rank_genes_groups``, whose fields are numbers or text."""
    names = column_names(pd.Index(list(array.dtype.names or ()), dtype=object), where, changes)
    fields: list[np.ndarray] = []
    for name in array.dtype.names or ():
        field = array[name]
        made = field if field.dtype.kind in PLAIN_KINDS else _array(np.asarray(field), f"{where}[{name!r}]", changes)
        if made is OUT:
            return OUT
        fields.append(made)
    types = [(name, field.dtype, field.shape[array.ndim :]) for name, field in zip(names, fields, strict=True)]
    records = np.empty(array.shape, dtype=types)
    for name, field in zip(names, fields, strict=True):
        records[name] = field
    return records if failure(records) is None else OUT


def failure(value: Any) -> Exception | None:
    """Return the error with which writing a value to HDF5 fails; None if it can be written."""
    import anndata as ad
    import h5py

    with warnings.catch_warnings(), h5py.File("trial", "w", driver="core", backing_store=False) as file:
        warnings.simplefilter("ignore")
        try:
            ad.io.write_elem(file, "value", value)
        except Exception as error:  # h5py and anndata raise errors of any type
            return error
    return None


def _prove(adata: AnnData) -> None:
    """Write the tables to a file in memory; matrices of numbers are not written, since they never fail."""
    parts = {"obs": adata.obs, "var": adata.var, "raw.var": None if adata.raw is None else adata.raw.var}
    for name in ("obsm", "varm"):
        parts |= {f"{name}[{key!r}]": value for key, value in getattr(adata, name).items()}
    for place, table in parts.items():
        if not isinstance(table, pd.DataFrame) or (error := failure(_with_results(table))) is None:
            continue
        if table.shape[1] > MOST_COLUMNS:
            raise DataError(
                f"{place} has {table.shape[1]:,} columns, and an .h5ad file holds the names of about {MOST_COLUMNS:,}, "
                "so results couldn't be written; leave out those that are not needed."
            )
        notes = " ".join(getattr(error, "__notes__", []))
        raise DataError(
            f"{place} can't be written to an .h5ad file, so results couldn't be either ({f'{error} {notes}'.strip()}); "
            "leave it out, or convert it to text or numbers first."
        ) from error


def _with_results(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with as many columns as it may have when results are added, where that may be too many."""
    if not MOST_COLUMNS - MOST_ADDED < table.shape[1] <= MOST_COLUMNS + MOST_ADDED:
        return table
    return table.assign(**{f"{_keys.UNS}_column_{i}": 0 for i in range(MOST_ADDED)})


def _warn(changes: Changes) -> None:
    if changes:
        warnings.warn(str(changes), UserWarning, stacklevel=4)
