"""Section "Links": both graphs ordered by type, the links of each cell, and pairs of types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata.io import read_elem
from scipy import sparse

from diffvae import _keys
from diffvae.report._encode import packed, short
from diffvae.report._folder import DamagedError, stored_in

if TYPE_CHECKING:
    from diffvae.report._folder import Folder
    from diffvae.report._map import Cells

BINS = 240
"""Maximum number of rows and columns of a drawn graph."""
MAX_LINKS = 200_000
MAX_PAIRS, MAX_Q = 20, 0.05


def data(folder: Folder, cells: Cells) -> dict[str, Any] | None:
    """Return both graphs, the links of the drawn cells, and the pairs of types."""
    file, called = folder.path / "cells.h5ad", folder.table("tables/called_links")
    if not file.is_file() or called is None:
        return None
    groupby = folder.summary["parameters"]["groupby"]
    with stored_in(file) as stored:
        obs, graph = read_elem(stored["obs"]), read_elem(stored[f"obsp/{_keys.CELL_GRAPH}"])
    if groupby not in obs or graph.shape != (len(obs), len(obs)) or len(obs) != cells.adata.n_obs:
        raise DamagedError(
            f"{str(file)!r} has {len(obs)} cells, a graph of shape {graph.shape} and the columns {', '.join(obs)}; "
            f"expected {cells.adata.n_obs} cells with {groupby!r}"
        )
    types = obs[groupby].astype("category")
    names = pd.Index(obs.index.astype(str))
    rows, columns = names.get_indexer(called["cell_1"]), names.get_indexer(called["cell_2"])
    if (rows < 0).any() or (columns < 0).any():
        raise DamagedError("tables/called_links.csv names cells that are not in cells.h5ad")
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
        **_links(called, cells),
        "pairs": _pairs(folder.table("tables/link_table")),
    }


def _order(codes: np.ndarray) -> np.ndarray:
    """Return the position of each cell when cells are ordered by type."""
    place = np.empty(len(codes), np.int64)
    place[np.argsort(codes, kind="stable")] = np.arange(len(codes))
    return place


def _bounds(codes: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    """Return the range of each type on the axes of a drawn graph, in bins."""
    n = len(codes)
    bins = min(BINS, n)
    ends = np.cumsum(np.bincount(codes[codes >= 0], minlength=len(names)))
    starts = np.r_[0, ends[:-1]]
    unnamed = int((codes < 0).sum())  # cells without a type come first
    return [
        {"name": short(name), "from": (unnamed + a) * bins / n, "to": (unnamed + b) * bins / n}
        for name, a, b in zip(names, starts, ends, strict=True)
        if b > a
    ]


def _binned(graph: sparse.coo_matrix, codes: np.ndarray) -> dict[str, Any]:
    """Return a graph as the share of linked pairs in each square of cells."""
    n = len(codes)
    bins = min(BINS, n)
    place = _order(codes) * bins // n
    graph = graph.tocoo()
    count = np.zeros((bins, bins))
    np.add.at(count, (place[graph.row], place[graph.col]), 1)
    size = np.bincount(place, minlength=bins)
    pairs = np.outer(size, size) - np.diag(size)  # no cell is linked to itself
    share = count / np.maximum(pairs, 1)
    # the colours end at the 99 % quantile of squares with links, so that a few full squares do not leave the rest white
    top = float(np.quantile(share[share > 0], 0.99)) if (share > 0).any() else 1.0
    return {"bins": bins, "values": packed(share.astype(np.float32)), "high": top, "n": int(graph.nnz) // 2}


def _links(called: pd.DataFrame, cells: Cells) -> dict[str, Any]:
    a, b = cells.place(called["cell_1"]), cells.place(called["cell_2"])
    drawn = called.assign(a=a, b=b)[(a >= 0) & (b >= 0)]
    drawn = drawn.sort_values("probability", ascending=False, kind="stable").head(MAX_LINKS)
    return {
        "n_edges": len(drawn),
        "n_called": len(called),
        "a": packed(drawn["a"].to_numpy(np.uint32)),
        "b": packed(drawn["b"].to_numpy(np.uint32)),
        "probability": packed(np.rint(drawn["probability"].to_numpy(float) * 255).astype(np.uint8)),
        "new": packed(drawn["new"].to_numpy(bool).astype(np.uint8)),
    }


def _pairs(table: pd.DataFrame | None) -> list[list[Any]]:
    """Return the pairs of different types with more links than by chance, in the last graph of the table."""
    if table is None:
        return []
    last = table["graph"] == table["graph"].iloc[-1]
    pairs = table[last & (table["type_1"] != table["type_2"]) & (table["z"] > 0) & (table["q_value"] < MAX_Q)]
    top = pairs.sort_values("z", ascending=False, kind="stable").head(MAX_PAIRS)
    return [[short(r.type_1), short(r.type_2), r.n_links, r.expected, r.z, r.q_value] for r in top.itertuples()]
