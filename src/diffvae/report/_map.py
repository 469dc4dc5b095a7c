"""Section "Map": the cells that are drawn, their places and their groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random
from diffvae.pl._data import colours_of
from diffvae.pl._data import groups as groups_of
from diffvae.pl._style import is_unassigned
from diffvae.report._encode import levels, packed, short

if TYPE_CHECKING:
    from anndata import AnnData

MAX_CELLS = 20_000
"""Maximum number of drawn cells, which a phone can still handle."""
GRID = 64
"""Squares along the longer side of the map, within which dense regions are thinned."""


@dataclass(frozen=True)
class Cells:
    """The cells of a page.

    Attributes
    ----------
    adata
        All cells.
    rows
        Rows of the drawn cells.
    weight
        Number of cells that each drawn cell represents.
    """

    adata: AnnData
    rows: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, adata: AnnData, most: int = MAX_CELLS) -> Cells:
        """Choose the cells to draw: all, or all of sparse regions and some of dense regions."""
        rows, weight = thin(np.asarray(adata.obsm[_keys.TSNE], np.float64), most)
        return cls(adata, rows, weight)

    @property
    def names(self) -> pd.Index:
        """Names of the drawn cells."""
        return pd.Index(self.adata.obs_names.astype(str))[self.rows]

    def place(self, names: Any) -> np.ndarray:
        """Return the positions of cells among the drawn cells by name; -1 for others."""
        return self.names.get_indexer(pd.Index(names, dtype=str))


def thin(map_: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose at most ``most`` points; return their rows, and the number of points that each represents.

    Each square of a grid over the map keeps at most a fixed number of points, the largest number with which the total
    stays within ``most``. So sparse regions stay complete, and dense regions are thinned.

    Examples
    --------
    >>> rows, weight = thin(np.r_[np.zeros((90, 2)), np.full((2, 2), 9.0)], 12)
    >>> len(rows), rows[-2:].tolist(), weight.sum()
    (12, [90, 91], np.float32(92.0))
    """
    n = len(map_)
    if n <= most:
        return np.arange(n), np.ones(n, np.float32)
    low, wide = map_.min(0), float(np.ptp(map_, axis=0).max()) or 1.0
    cell = np.minimum(((map_ - low) / wide * GRID).astype(np.int64), GRID - 1)
    square = np.unique(cell[:, 0] * GRID + cell[:, 1], return_inverse=True)[1]
    count = np.bincount(square)
    cap = _cap(count, most)
    shuffled = _random.generator(0, "thin").permutation(n)
    rank = np.empty(n, np.int64)  # of each point within its square, in random order
    order = shuffled[np.argsort(square[shuffled], kind="stable")]
    rank[order] = np.arange(n) - np.repeat(np.cumsum(count) - count, count)
    rows = np.flatnonzero(rank < cap)
    kept = np.minimum(count, cap)
    return rows, (count / kept)[square[rows]].astype(np.float32)


def _cap(count: np.ndarray, most: int) -> int:
    """Return the largest number of points per square with which at most ``most`` are kept, but at least 1."""
    low, high = 1, int(count.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(count, middle).sum() <= most else (low, middle - 1)
    return low


def data(cells: Cells, label_key: str | None, batch_key: str | None = None) -> dict[str, Any]:
    """Return map, names, groups and latent values of the drawn cells."""
    adata, rows = cells.adata, cells.rows
    map_ = np.asarray(adata.obsm[_keys.TSNE], np.float32)[rows]
    latent = [levels(column) for column in np.asarray(adata.obsm[_keys.LATENT])[rows].T]
    return {
        "n": len(rows),
        "n_all": adata.n_obs,
        "names": [short(name) for name in cells.names],
        "x": packed(map_[:, 0]),
        "y": packed(map_[:, 1]),
        "weight": packed(cells.weight) if len(rows) < adata.n_obs else None,
        "groups": _groups(adata, rows, label_key, batch_key),
        "latent": [{"values": packed(c.values), "low": c.low, "high": c.high} for c in latent],
    }


def _groups(adata: AnnData, rows: np.ndarray, label_key: str | None, batch_key: str | None) -> list[dict[str, Any]]:
    titles = {_keys.CELL_TYPE: "cell type (named by markers)", _keys.CLUSTER: "cluster"}
    if label_key is not None and label_key in adata.obs:
        titles[label_key] = f"reference label ({short(label_key)})"
    if batch_key is not None:
        titles.setdefault(batch_key, f"batch ({short(batch_key)})")
    if _keys.COMMITMENT in adata.obs:
        titles[_keys.COMMITMENT] = "commitment of progenitors"
    groups = []
    for key, title in titles.items():
        if key not in adata.obs:
            continue
        column = groups_of(adata, key)
        names, codes = list(column.cat.categories), column.cat.codes.to_numpy()
        palette = colours_of(adata, key)
        groups.append(
            {
                "key": key,
                "title": title,
                "names": [short(n) for n in names],
                "colours": [palette[n] for n in names],
                "unassigned": [is_unassigned(n) for n in names],
                "sizes": np.bincount(codes, minlength=len(names)),
                "codes": packed(codes[rows].astype(np.uint16)),
            }
        )
    return groups
