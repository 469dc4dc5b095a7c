"""Checked access to what figures read from an AnnData, and the wording of groups in titles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from diffvae import _keys
from diffvae._core.anndata import MADE_BY, result
from diffvae._errors import DataError
from diffvae.pl._style import NOT_AVAILABLE, Palette, colours, is_unassigned, natural_key

_NOUNS = {
    _keys.CLUSTER: ("cluster", "clusters"),
    _keys.CELL_TYPE: ("cell type", "cell types"),
    _keys.LABEL: ("reference type", "reference types"),
}


def noun(key: str, n: int = 1) -> str:
    """Return the word for a group of an ``obs`` column, or for `n` groups."""
    return _NOUNS.get(key, (f"group of {key}", f"groups of {key}"))[n != 1]


def cells(n: int) -> str:
    """Return "1 cell", "2,730 cells"."""
    return "1 cell" if n == 1 else f"{n:,} cells"


def group_name(key: str, group: str) -> str:
    """Return the name of one group of an ``obs`` column, as it appears in a title."""
    if key == _keys.CLUSTER:
        return f"Cluster {group}"
    return f"Group {group} of {key}" if group.isdecimal() else group


def listed(names: Iterable[Any], most: int = 8) -> str:
    """Join names for an error message."""
    names = [str(n) for n in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def check_adata(adata: object) -> None:
    """Raise unless `adata` is an AnnData with at least one cell."""
    if not isinstance(adata, AnnData):
        raise DataError(f"adata is a {type(adata).__name__}; pass an AnnData.")
    if adata.n_obs == 0:
        raise DataError("adata has no cells; pass one with at least one cell.")


def missing(slot: str, key: str, available: Iterable[Any]) -> DataError:
    """Return the error for a missing entry of the AnnData."""
    remedy = f"run {MADE_BY[key]} first" if key in MADE_BY else f"there are: {listed(available)}"
    return DataError(f"adata.{slot}[{key!r}] is missing; {remedy}.")


def positions(adata: AnnData, basis: str) -> np.ndarray:
    """Return the first two columns of ``obsm[basis]``."""
    if basis not in adata.obsm:
        raise missing("obsm", basis, adata.obsm)
    xy = np.asarray(adata.obsm[basis], dtype=float)
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise DataError(f"adata.obsm[{basis!r}] has shape {xy.shape}; a map needs two columns.")
    return xy[:, :2]


def groups(adata: AnnData, key: str) -> pd.Series:
    """Return an ``obs`` column as a categorical series of strings; the order of its categories fixes their colours.

    A categorical column keeps its categories, including unused ones. Other columns are sorted naturally ("2" before
    "10"). Missing values become "NA".
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


def colours_of(adata: AnnData, key: str, palette: Palette | None = None, more: Iterable[str] = ()) -> dict[str, str]:
    """Return the colour of each category of an ``obs`` column, the same in all figures and on the page of a result.

    It depends only on the place of the category, as in `colours`. If the column shares a type with the names that
    diffvae gave (``obs["diffvae_cell_type"]``), types of both have the colour they have there, and the others the next
    colours.

    Parameters
    ----------
    adata
        Cells with ``obs[key]``.
    key
        Column of ``obs``.
    palette
        As in `colours`; a list has a colour per category of the column.
    more
        Types that some of the cells lack, after those of the column.

    Examples
    --------
    >>> obs = pd.DataFrame({"diffvae_cell_type": ["T", "B"], "type": ["T", "A"], "batch": ["x", "y"]}, ["1", "2"])
    >>> adata = AnnData(obs=obs)
    >>> colours_of(adata, "diffvae_cell_type")
    {'B': '#0072b2', 'T': '#e69f00'}
    >>> colours_of(adata, "type")
    {'A': '#009e73', 'T': '#e69f00'}
    >>> colours_of(adata, "batch")
    {'x': '#0072b2', 'y': '#e69f00'}
    """
    names = list(dict.fromkeys([*groups(adata, key).cat.categories, *more]))
    first: list[str] = []
    if key not in (_keys.CELL_TYPE, _keys.CLUSTER) and _keys.CELL_TYPE in adata.obs:
        given = list(groups(adata, _keys.CELL_TYPE).cat.categories)
        first = given if any(not is_unassigned(name) for name in set(given) & set(names)) else []
    every = colours(list(dict.fromkeys([*first, *names])))
    own = {name: every[name] for name in names}
    if palette is None:
        return own
    return colours(names, own | {str(k): v for k, v in palette.items()} if isinstance(palette, Mapping) else palette)


def by_size(column: pd.Series) -> dict[str, int]:
    """Return the number of cells of each non-empty group, largest first, "unassigned" and similar groups last."""
    counts = column.value_counts(sort=False)
    order = sorted(counts.index, key=lambda g: (is_unassigned(g), -counts[g]))
    return {g: int(counts[g]) for g in order if counts[g] > 0}


def table(adata: AnnData, name: str, columns: Sequence[str], groupby: str) -> pd.DataFrame:
    """Return a copy of a table of ``uns["diffvae"]``, which must describe the groups of `groupby`."""
    where, run = f"adata.uns[{_keys.UNS!r}][{name!r}]", f"diffvae.tl.{name}(adata, {groupby!r})"
    frame = pd.DataFrame(result(adata, name)).copy()
    if absent := [c for c in columns if c not in frame]:
        raise DataError(f"{where} has no column {listed(absent)}; run {run} again.")
    if frame.empty:
        raise DataError(f"{where} is empty; run {run} again.")
    frame["group"] = frame["group"].astype(str)
    if others := sorted(set(frame["group"]) - set(groups(adata, groupby).cat.categories), key=natural_key):
        raise DataError(f"{where} has groups that adata.obs[{groupby!r}] lacks ({listed(others)}); run {run} first.")
    return frame


def unknown_gene(adata: AnnData, gene: str, what: str = "neither in adata.obs nor") -> DataError:
    """Return the error for a name that is not a gene."""
    names = set(map(str, adata.var_names)) | (set(map(str, adata.raw.var_names)) if adata.raw else set())
    near = get_close_matches(gene, names, n=3) or [n for n in names if n.lower() == gene.lower()]
    hint = f"did you mean {' or '.join(near)}?" if near else f"its genes have names such as {listed(sorted(names), 3)}."
    return DataError(f"{gene!r} is {what} among the genes of adata; {hint}")


def expression(adata: AnnData, genes: Sequence[str], layer: str | None = None) -> np.ndarray:
    """Return expression, cells x genes, from `layer`, else (as in scanpy) from ``raw`` if present, else from ``X``."""
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
        raise DataError(f"adata.X is missing; pass layer=, one of {listed(adata.layers)}.")
    part = values[:, first[at]]
    return np.asarray(part.toarray() if sparse.issparse(part) else part, dtype=float)
