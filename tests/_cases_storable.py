"""AnnData as people have them: parts that ``.h5ad`` can't hold, and files as other programs write them."""

from __future__ import annotations

import datetime
import decimal
import threading
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

N = 6
NAMES = [f"c{i}" for i in range(N)]
GENES = [f"g{i}" for i in range(5)]
X = np.arange(N * len(GENES), dtype="float32").reshape(N, len(GENES))


def plain_cells() -> ad.AnnData:
    return ad.AnnData(X.copy(), obs=pd.DataFrame({"t": list("aabbcc")}, index=NAMES), var=pd.DataFrame(index=GENES))


def objects(*values: Any) -> pd.Series:
    return pd.Series(list(values) * (N // len(values)), index=NAMES, dtype=object)


WHEN = pd.Timestamp("2024-01-31")
# a column, whether the change is named, and the values that are read back
COLUMNS: dict[str, tuple[Any, bool, list[Any]]] = {
    "nullable text": (pd.array(["a", None, "b"] * 2, dtype="string"), False, ["a", None, "b"]),
    "text": (pd.array(["a", "c", "b"] * 2, dtype="string"), False, ["a", "c", "b"]),
    "nullable integers": (pd.array([1, None, 3] * 2, dtype="Int64"), False, [1, None, 3]),
    "nullable booleans": (pd.array([True, None, False] * 2, dtype="boolean"), False, [True, None, False]),
    "nullable floats": (pd.array([1.5, None, 3.0] * 2, dtype="Float64"), False, [1.5, None, 3.0]),
    "mixed": (objects("a", 1, None), True, ["a", "1", None]),
    "lists": (objects([1], {"a": 1}, None), True, ["[1]", "{'a': 1}", None]),
    "booleans with gaps": (objects(True, np.nan, False), True, ["True", None, "False"]),
    "booleans": (objects(True, True, False), False, [True, True, False]),
    "integers with gaps": (objects(1, np.nan, 3), False, [1.0, None, 3.0]),
    "large integers": (objects(10**30, 1, 2), True, [str(10**30), "1", "2"]),
    "nothing": (objects(None), False, [None, None, None]),
    "missing text": (objects("a", pd.NA, "b"), False, ["a", None, "b"]),
    "dates": (objects(WHEN, pd.NaT, WHEN), True, [WHEN.isoformat(), None, WHEN.isoformat()]),
    "one date": (WHEN, True, [WHEN.isoformat()] * 3),
    "zoned": (pd.Timestamp("2024-01-31", tz="UTC"), True, ["2024-01-31T00:00:00+00:00"] * 3),
    "day": (objects(datetime.date(2024, 1, 31)), True, ["2024-01-31"] * 3),
    "durations": (pd.Timedelta("1h"), True, ["P0DT1H0M0S"] * 3),
    "periods": (pd.period_range("2024-01", periods=N, freq="M"), True, ["2024-01", "2024-02", "2024-03"]),
    "intervals": (pd.arrays.IntervalArray.from_breaks(range(N + 1)), True, ["(0, 1]", "(1, 2]", "(2, 3]"]),
    "decimals": (objects(decimal.Decimal("1.5")), False, [1.5] * 3),
    "sparse": (pd.arrays.SparseArray([0, 0, 1] * 2), False, [0, 0, 1]),
    "bytes": (objects(b"a"), True, ["a"] * 3),
    "NUL": (objects("a\x00b"), True, ["ab"] * 3),
    "half a pair": (objects("a\ud800b"), True, ["a?b"] * 3),
    "mixed categories": (pd.Categorical(["a", 1, None] * 2), True, ["a", "1", None]),
    "dates as categories": (pd.Categorical([WHEN, None, WHEN] * 2), True, [WHEN.isoformat(), None, WHEN.isoformat()]),
    "one and its text": (pd.Categorical([1, "1", 2] * 2), True, ["1", "1", "2"]),
    "nullable categories": (pd.Categorical(pd.array([1, 2, None] * 2, dtype="Int64")), False, [1, 2, None]),
    "cut": (pd.cut(np.arange(N), [-1, 2, 5]), True, ["(-1, 2]"] * 3),
}
# an entry of uns, and what is read back; LOST where it is left out
LOST = object()
ENTRIES: dict[str, tuple[Any, Any]] = {
    "set": ({"a", "b"}, ["a", "b"]),
    "integer keys": ({0: "a", 1: "b"}, {"0": "a", "1": "b"}),
    "tuple keys": ({("a", 1): 2}, {"a_1": 2}),
    "slashes": ({"a/b": 1, "a": 2}, {"a_b": 1, "a": 2}),
    "tuple": ((1, 2), [1, 2]),
    "mixed list": ([1, "a"], ["1", "a"]),
    "ragged list": ([[1], [1, 2]], {"0": [1], "1": [1, 2]}),
    "list of dictionaries": ([{"a": 1}], {"0": {"a": 1}}),
    "function": (len, LOST),
    "lock": (threading.Lock(), LOST),
    "generator": (iter([1]), LOST),
    "date": (datetime.datetime(2024, 1, 31), "2024-01-31T00:00:00"),
    "large integer": (10**30, str(10**30)),
    "path": (Path("a"), "a"),
    "complex": (1j, 1j),
    "masked": (np.ma.array([1, 2], mask=[0, 1]), [1.0, np.nan]),
    "objects": (np.array(["a", 1], dtype=object), ["a", "1"]),
    "dates": (np.array(["2024-01-31"], dtype="M8[D]"), ["2024-01-31"]),
    "index": (pd.Index(["a"]), ["a"]),
}


def named_columns(*names: Any) -> ad.AnnData:
    adata = plain_cells()
    adata.obs = pd.DataFrame({i: i for i in range(len(names))}, index=NAMES)
    adata.obs.columns = pd.MultiIndex.from_tuples(names) if all(isinstance(n, tuple) for n in names) else list(names)
    return adata


def written(path: Path) -> Path:
    """Write cells with a table of several columns, raw, and entries of every kind."""
    adata = plain_cells()
    adata.X = sparse.csr_matrix(X)
    adata.obs["q"], adata.var["z"], adata.obsm["X_pca"] = 1, 1.0, np.ones((N, 2))
    adata.obsm["X_odd"], adata.uns["odd"] = np.ones((N, 2)), {"a": np.ones(3), "b": 1}
    adata.write_h5ad(path)
    return path


def of_a_later_version(path: Path) -> Path:
    """Elements of an unknown encoding; booleans with gaps as an early anndataR wrote them."""
    with h5py.File(written(path), "r+") as file:
        for key in ("var/z", "uns/odd/a", "obsm/X_odd"):
            file[key].attrs["encoding-type"] = "from-the-future"
        file["obs/q"].attrs["encoding-type"] = "nullable-boolean"
    return path


def with_nullable_names(path: Path) -> Path:
    """The names of cells and genes as anndata 0.13 writes them."""
    with h5py.File(written(path), "r+") as file:
        for key in ("obs", "var"):
            names = file[f"{key}/_index"][()]
            del file[f"{key}/_index"]
            group = file.create_group(f"{key}/_index")
            group.attrs.update({"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"})
            group.attrs["na-value"] = "NaN"
            values = group.create_dataset("values", data=names, dtype=h5py.string_dtype())
            values.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
            mask = group.create_dataset("mask", data=np.zeros(len(names), bool))
            mask.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return path


def of_r(path: Path) -> Path:
    """X as R has it, genes x cells by columns."""
    with h5py.File(written(path), "r+") as file:
        file["X"].attrs["shape"] = np.array(X.shape[::-1])
    return path


def of_seuratdisk(path: Path, as_arrays: bool = False) -> Path:
    """Old categories, attributes as arrays, and raw genes that are numbered, with their names in ``_index``."""

    def attribute(text: str) -> Any:
        return np.array([text], dtype=h5py.string_dtype()) if as_arrays else text

    def matrix(group: Any) -> None:
        stored = sparse.csr_matrix(X)
        for name in ("data", "indices", "indptr"):
            group.create_dataset(name, data=getattr(stored, name))
        group.attrs["encoding-type"], group.attrs["encoding-version"] = attribute("csr_matrix"), attribute("0.1.0")
        group.attrs["shape"] = np.array(stored.shape)

    def table(group: Any, index: str, columns: dict[str, Any]) -> None:
        for name, values in columns.items():
            kind = h5py.string_dtype() if isinstance(values[0], str) else None
            group.create_dataset(name, data=values, dtype=kind)
        group.attrs["encoding-type"], group.attrs["encoding-version"] = attribute("dataframe"), attribute("0.1.0")
        group.attrs["_index"] = index
        order = np.array([name for name in columns if name != index], dtype=object)
        group.attrs.create("column-order", order, dtype=h5py.string_dtype())

    with h5py.File(path, "w") as file:
        matrix(file.create_group("X"))
        obs = file.create_group("obs")
        table(obs, "_index", {"_index": NAMES, "t": np.array([0, 0, 1, 1, 2, -1]), "s": ["s"] * N})
        levels = obs.create_group("__categories").create_dataset("t", data=["a", "b", "c"], dtype=h5py.string_dtype())
        obs["t"].attrs["categories"] = levels.ref
        table(file.create_group("var"), "_index", {"_index": GENES})
        raw = file.create_group("raw")
        matrix(raw.create_group("X"))
        table(raw.create_group("var"), "index", {"index": [str(i) for i in range(len(GENES))], "_index": GENES})
        file.create_group("obsm").create_dataset("X_pca", data=np.ones((N, 2)))
    return path
