"""What a figure reads, checked: every complaint is a sentence with the way out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from diffvae import _keys
from diffvae._core.anndata import MADE_BY, result
from diffvae._errors import DataError
from diffvae.pl._style import NOT_AVAILABLE, is_unassigned, natural_key

_NOUNS = {
    _keys.CLUSTER: ("cluster", "clusters"),
    _keys.CELL_TYPE: ("cell type", "cell types"),
    _keys.LABEL: ("reference type", "reference types"),
}


def noun(key: str, n: int = 1) -> str:
    """Return what the groups of an ``obs`` column are called in a title."""
    return _NOUNS.get(key, (f"group of {key}", f"groups of {key}"))[n != 1]


def cells(n: int) -> str:
    """Return "1 cell", "2,730 cells"."""
    return "1 cell" if n == 1 else f"{n:,} cells"


def called(key: str, group: str) -> str:
    """Return what one group of an ``obs`` column is called in a title."""
    if key == _keys.CLUSTER:
        return f"Cluster {group}"
    return f"Group {group} of {key}" if group.isdecimal() else group


def listed(names: Iterable[Any], most: int = 8) -> str:
    """Join names for an error message."""
    names = [str(n) for n in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def check_adata(adata: object) -> None:
    """Raise unless `adata` is an AnnData with a cell in it."""
    if not isinstance(adata, AnnData):
        raise DataError(f"adata is a {type(adata).__name__}; give an AnnData.")
    if adata.n_obs == 0:
        raise DataError("adata has no cells; give one with at least one cell.")


def missing(slot: str, key: str, has: Iterable[Any]) -> DataError:
    """Return the error for an entry of the AnnData that isn't there."""
    way_out = f"run {MADE_BY[key]} first" if key in MADE_BY else f"there are: {listed(has)}"
    return DataError(f"adata.{slot}[{key!r}] is missing; {way_out}.")


def groups(adata: AnnData, key: str) -> pd.Series:
    """Return an ``obs`` column as a categorical series of strings, in the order that fixes the colours.

    A categorical keeps its order, unused categories included; anything else is sorted as people count. Cells
    without a value are "NA".
    """
    if key not in adata.obs:
        raise missing("obs", key, adata.obs.columns)
    column = adata.obs[key]
    names = column.astype(object).map(str, na_action="ignore")
    if isinstance(column.dtype, pd.CategoricalDtype):
        order = list(dict.fromkeys(map(str, column.cat.categories)))
    else:
        order = sorted(names.dropna().unique(), key=natural_key)
    if names.isna().any() and NOT_AVAILABLE not in order:
        order.append(NOT_AVAILABLE)
    return pd.Series(pd.Categorical(names.fillna(NOT_AVAILABLE), categories=order), index=adata.obs_names)


def by_size(column: pd.Series) -> dict[str, int]:
    """Return the cells of each group that has any, largest first, cells without a group last."""
    counts = column.value_counts(sort=False)
    order = sorted(counts.index, key=lambda g: (is_unassigned(g), -counts[g]))
    return {g: int(counts[g]) for g in order if counts[g] > 0}


def table(adata: AnnData, name: str, columns: Sequence[str], groupby: str) -> pd.DataFrame:
    """Return a copy of a tidy table of ``uns["diffvae"]`` that is about the groups of `groupby`."""
    where, run = f"adata.uns[{_keys.UNS!r}][{name!r}]", f"diffvae.tl.{name}(adata, {groupby!r})"
    found = result(adata, name)
    frame = pd.DataFrame(found).copy()
    if absent := [c for c in columns if c not in frame]:
        raise DataError(f"{where} has no column {listed(absent)}; run {run} again.")
    if frame.empty:
        raise DataError(f"{where} is empty; run {run} again.")
    frame["group"] = frame["group"].astype(str)
    if others := sorted(set(frame["group"]) - set(groups(adata, groupby).cat.categories), key=natural_key):
        raise DataError(
            f"{where} is about other groups ({listed(others)}) than adata.obs[{groupby!r}] has; run {run} first."
        )
    return frame


def unknown_gene(adata: AnnData, gene: str, what: str = "neither in adata.obs nor") -> DataError:
    """Return the error for a name that is no gene."""
    names = set(map(str, adata.var_names)) | (set(map(str, adata.raw.var_names)) if adata.raw else set())
    near = get_close_matches(gene, names, n=3) or [n for n in names if n.lower() == gene.lower()]
    hint = f"did you mean {' or '.join(near)}?" if near else f"genes are called {listed(sorted(names), 3)}."
    return DataError(f"{gene!r} is {what} among the genes of adata; {hint}")


def expression(adata: AnnData, genes: Sequence[str], layer: str | None = None) -> np.ndarray:
    """Return cells x genes: from `layer`, or as in scanpy from ``raw`` where there is one, or from ``X``."""
    source: Any = adata
    if layer is not None:
        if layer not in adata.layers:
            raise missing("layers", layer, adata.layers)
        values = adata.layers[layer]
    elif adata.raw is not None and set(genes) <= set(adata.raw.var_names):
        source, values = adata.raw, adata.raw.X
    else:
        values = adata.X
    first = np.flatnonzero(~source.var_names.duplicated())
    at = source.var_names[first].get_indexer(list(genes))
    if (at < 0).any():
        raise unknown_gene(adata, genes[int(np.argmax(at < 0))], "not")
    if values is None:
        raise DataError("adata.X is missing; give layer=, one of " + listed(adata.layers) + ".")
    part = values[:, first[at]]
    return np.asarray(part.toarray() if sparse.issparse(part) else part, dtype=float)
