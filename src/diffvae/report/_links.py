"""Links between cells: both graphs ordered by type, each cell's links, types beside chance, and calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem
from scipy import sparse

from diffvae import _keys
from diffvae._core.io.memory import refuse_what_cannot_be_held
from diffvae._errors import DataError
from diffvae.report._encode import packed, short

if TYPE_CHECKING:
    from diffvae.report._map import Cells
    from diffvae.report._page import Folder

BINS = 240
"""Rows and columns of a drawn graph; each stands for so many cells."""
MOST_EDGES = 200_000
MOST_PAIRS = 20


def data(folder: Folder, cells: Cells) -> dict[str, Any] | None:
    """Return graphs, links of the drawn cells, the table of types and the calls."""
    file = folder.path / "cells.h5ad"
    if not file.is_file():
        return None
    called = folder.table("tables/called_links")
    if called is None:
        return None
    groupby = folder.summary["parameters"]["groupby"]
    refuse_what_cannot_be_held(file)
    with h5py.File(file) as stored:
        obs = read_elem(stored["obs"])
        graph = read_elem(stored[f"obsp/{_keys.CELL_GRAPH}"])
    if graph.shape != (len(obs), len(obs)) or len(obs) != cells.adata.n_obs:
        raise DataError(
            f"{str(file)!r} has {len(obs)} cells and a graph of shape {graph.shape}, the result "
            f"{cells.adata.n_obs} cells."
        )
    types = obs[groupby].astype("category")
    names = pd.Index(obs.index.astype(str))
    rows, columns = names.get_indexer(called["cell_1"]), names.get_indexer(called["cell_2"])
    ones = np.ones(len(rows), np.float32)
    predicted = sparse.coo_matrix((ones, (rows, columns)), shape=graph.shape)
    codes = types.cat.codes.to_numpy()
    return {
        "types": _bounds(codes, [str(c) for c in types.cat.categories]),
        "groupby": groupby,
        "n_cells": len(names),
        "input": _binned(sparse.coo_matrix(graph), codes),
        "predicted": _binned(predicted + predicted.T, codes),
        "degree": packed(np.bincount(np.r_[rows, columns], minlength=len(names))[cells.rows].astype(np.uint32)),
        **_edges(called, cells),
        **_table(folder.table("tables/link_table")),
        **_calls(folder.table("tables/commitment"), cells),
    }


def _order(codes: np.ndarray) -> np.ndarray:
    """Return the place of each cell when cells are ordered by type."""
    place = np.empty(len(codes), np.int64)
    place[np.argsort(codes, kind="stable")] = np.arange(len(codes))
    return place


def _bounds(codes: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    """Return where each type begins and ends on the axes of a drawn graph, in bins."""
    n = len(codes)
    bins = min(BINS, n)
    ends = np.cumsum(np.bincount(codes[codes >= 0], minlength=len(names)))
    starts = np.r_[0, ends[:-1]]
    unnamed = int((codes < 0).sum())  # cells of no type come first
    return [
        {"name": short(name), "from": (unnamed + a) * bins / n, "to": (unnamed + b) * bins / n}
        for name, a, b in zip(names, starts, ends, strict=True)
        if b > a
    ]


def _binned(graph: sparse.coo_matrix, codes: np.ndarray) -> dict[str, Any]:
    """Return a graph as shares of linked pairs in squares of cells."""
    n = len(codes)
    bins = min(BINS, n)
    place = _order(codes) * bins // n
    graph = graph.tocoo()
    count = np.zeros((bins, bins))
    np.add.at(count, (place[graph.row], place[graph.col]), 1)
    size = np.bincount(place, minlength=bins)
    pairs = np.outer(size, size) - np.diag(size)  # no cell is linked to itself
    share = count / np.maximum(pairs, 1)
    # a few squares that are full would leave all others white: the colours end where 99 % of the linked squares are
    top = float(np.quantile(share[share > 0], 0.99)) if (share > 0).any() else 1.0
    return {"bins": bins, "values": packed(share.astype(np.float32)), "high": top, "n": int(graph.nnz) // 2}


def _edges(called: pd.DataFrame, cells: Cells) -> dict[str, Any]:
    a, b = cells.place(called["cell_1"]), cells.place(called["cell_2"])
    own = called[(a >= 0) & (b >= 0)].assign(a=a[(a >= 0) & (b >= 0)], b=b[(a >= 0) & (b >= 0)])
    own = own.sort_values("probability", ascending=False, kind="stable").head(MOST_EDGES)
    return {
        "n_edges": len(own),
        "n_called": len(called),
        "a": packed(own["a"].to_numpy(np.uint32)),
        "b": packed(own["b"].to_numpy(np.uint32)),
        "probability": packed(np.rint(own["probability"].to_numpy(float) * 255).astype(np.uint8)),
        "new": packed(own["new"].to_numpy(bool).astype(np.uint8)),
    }


def _table(table: pd.DataFrame | None) -> dict[str, Any]:
    if table is None:
        return {"pairs": []}
    own = table[(table["graph"] == table["graph"].iloc[-1]) & (table["type_1"] != table["type_2"]) & (table["z"] > 0)]
    own = own.sort_values("z", ascending=False, kind="stable").head(MOST_PAIRS)
    return {
        "pairs": [[short(r.type_1), short(r.type_2), r.n_links, r.expected, r.z, r.q_value] for r in own.itertuples()]
    }


def _calls(table: pd.DataFrame | None, cells: Cells) -> dict[str, Any]:
    if table is None:
        return {"progenitors": []}
    table = table.sort_values("confidence", ascending=False, kind="stable", na_position="last")
    place = cells.place(table["cell"])
    return {
        "progenitors": [
            [int(p), short(r.cell), short(r.call), r.confidence, short(r.call_pearson)]
            for p, r in zip(place, table.itertuples(), strict=True)
        ]
    }
