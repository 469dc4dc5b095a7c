"""Tables of several files put together as one, and what was decided on the way as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffvae._errors import DataError


def places(names: Sequence[pd.Index]) -> tuple[pd.Index, list[np.ndarray | None]]:
    """Return the genes that all files have, in the order of the first, and where each has them (None: just so)."""
    found = names[0]
    if all(other.equals(found) for other in names):
        return found, [None] * len(names)
    for other in names[1:]:
        found = found[found.isin(other)]
    return found, [None if other.equals(found) else other.get_indexer(found) for other in names]


def agreed(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the columns on which tables of the same genes agree."""
    first = tables[0]
    kept = [c for c in first if all(c in t and t[c].astype(object).equals(first[c].astype(object)) for t in tables)]
    return first[kept]


def one_below_the_other(tables: Sequence[pd.DataFrame], notes: list[str]) -> pd.DataFrame:
    """Return the rows of all tables with the columns that all have."""
    if len(tables) == 1:
        return tables[0]
    shared = [c for c in tables[0] if all(c in table for table in tables)]
    lost = dict.fromkeys(c for table in tables for c in table if c not in shared)
    if lost:
        notes.append(f"Columns of obs that some files lack were left out: {', '.join(map(repr, lost))}.")
    columns: dict[Any, Any] = {}
    for c in shared:
        columns[c], remark = _joined([table[c] for table in tables])
        if remark:
            notes.append(f"obs[{c!r}] {remark}.")
    return pd.DataFrame(columns, index=tables[0].index.append([table.index for table in tables[1:]]))


def _joined(parts: Sequence[pd.Series]) -> tuple[Any, str]:
    """Return one column made of several and what became of its values, where they didn't fit together."""
    telling = [part for part in parts if not part.isna().all()]  # a column without a value fits to any
    if all(isinstance(part.dtype, pd.CategoricalDtype) for part in telling) and telling:
        kinds = {part.cat.categories.dtype for part in telling}
        ordered = any(part.cat.ordered for part in telling)
        same = all(part.dtype == telling[0].dtype for part in telling)
        if len(kinds) == 1:
            fitting = [part if not part.isna().all() else _empty(part, telling[0]) for part in parts]
            remark = "has other ordered categories in each file, and lost their order" if ordered and not same else ""
            return pd.api.types.union_categoricals(fitting, ignore_order=not same), remark
    elif len({part.dtype for part in parts}) == 1 or all(_is_number(part) for part in parts):
        return pd.concat(parts).array, ""
    values = [np.where(part.isna(), None, part.astype(str).astype(object)) for part in parts]
    was_text = all(pd.api.types.infer_dtype(part.dropna().astype(object)) == "string" for part in telling)
    kinds_named = ", ".join(dict.fromkeys(str(part.dtype) for part in telling))
    remark = "" if was_text else f"is of another type in each file ({kinds_named}) and was taken as text"
    return pd.Categorical(np.concatenate(values)), remark


def _empty(part: pd.Series, like: pd.Series) -> pd.Series:
    return pd.Series(pd.Categorical.from_codes(np.full(len(part), -1), dtype=like.dtype))


def _is_number(part: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(part.dtype) and not pd.api.types.is_bool_dtype(part.dtype)


def told_apart(names: Sequence[pd.Index], paths: Sequence[Path]) -> pd.Index:
    """Return the names of all cells with something of their file added, so that none occurs twice."""
    for endings in _endings([path.resolve() for path in paths]):
        found = pd.Index(np.concatenate([part + f"-{end}" for part, end in zip(names, endings, strict=True)]))
        if found.is_unique:
            return found
    raise AssertionError("numbers tell all apart")


def _endings(paths: Sequence[Path]) -> Iterator[list[str]]:
    yield [path.stem for path in paths]
    yield [f"{path.parent.name}_{path.stem}" for path in paths]
    yield [str(i) for i in range(1, len(paths) + 1)]


def refuse_twice(paths: Sequence[Path]) -> None:
    """Refuse files that are named twice, whose cells would count twice."""
    seen = set()
    for path in paths:
        if (place := path.expanduser().resolve()) in seen:
            raise DataError(f"{str(path)!r} is named twice; name each file once.")
        seen.add(place)
