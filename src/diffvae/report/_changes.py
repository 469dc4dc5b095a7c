"""Changing state: which cells are converted at which step, beside chance, and through which genes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem

from diffvae import _keys
from diffvae._core.io.memory import refuse_what_cannot_be_held
from diffvae._errors import DataError
from diffvae.report._encode import distinct, short

if TYPE_CHECKING:
    from diffvae.report._map import Cells
    from diffvae.report._page import Folder

N_GENES = 15
METHODS = {
    "shift": "shift of the target's dimensions",
    "mean": "equal step to the target's latent mean",
    "expression_mean": "between mean expressions, no model",
    "none": "decoding alone",
}


def data(folder: Folder, cells: Cells, shown: Mapping[str, str]) -> dict[str, Any] | None:
    """Return, for each source and target, the curve, the converted cells of each step, and the genes."""
    table, moved = folder.table("tables/conversions"), folder.table("tables/resistance")
    if table is None or moved is None or "converted_at" not in moved:
        return None
    targets = folder.table("tables/targets")
    placed = _placed(folder)
    tables = {name: folder.table(f"tables/{name}") for name in ("effects", "minimal_genes", "minimal_sets")}
    steps = sorted(table["n_sd"].unique().tolist())
    pairs = []
    names = {side: list(dict.fromkeys(table[side])) for side in ("source", "target")}
    name = {side: dict(zip(found, distinct(found), strict=True)) for side, found in names.items()}
    for (source, target), own in table.groupby(["source", "target"], sort=False):
        row = targets[targets["target"] == target] if targets is not None else None
        pairs.append(
            {
                "source": name["source"][source],
                "target": name["target"][target],
                "n_cells": int(own["n_cells"].iloc[0]),
                "curves": _curves(own, steps),
                **_converted(moved[(moved["source"] == source) & (moved["target"] == target)], cells, steps),
                **_genes(tables, str(target), shown),
                "placed": placed.get((str(source), str(target)), []),
                "numbers": None if row is None or row.empty else _numbers(row.iloc[0]),
            }
        )
    return {"steps": steps, "pairs": pairs, "methods": METHODS}


def named(folder: Folder) -> list[str]:
    """Return the genes that the tables of changes name, in the order in which a reader meets them."""
    names: list[str] = []
    for table in ("effects", "minimal_genes"):
        found = folder.table(f"tables/{table}")
        if found is not None:
            names += found.groupby("target", sort=False).head(N_GENES)["gene"].tolist()
    return [n for n in names if n]


def _curves(own: pd.DataFrame, steps: list[float]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for method, rows in own.groupby("method", sort=False):
        by_step = rows.set_index("n_sd").reindex(steps)
        found[str(method)] = by_step["converted"].to_numpy(float).round(4)
        if method == "shift":
            for column in ("null_mean", "null_low", "null_high", "q_value"):
                found[column] = by_step[column].to_numpy(float).round(4)
    return found


def _converted(own: pd.DataFrame, cells: Cells, steps: list[float]) -> dict[str, Any]:
    """Return the drawn source cells, and at each step which of them are converted."""
    place = cells.place(own["cell"])
    drawn = place >= 0
    at = [set(text.split(", ")) for text in own.loc[drawn, "converted_at"]]
    return {"cells": place[drawn], "converted": [[i for i, s in enumerate(at) if f"{step:g}" in s] for step in steps]}


def _placed(folder: Folder) -> dict[tuple[str, str], np.ndarray]:
    """Return where the changed cells lie on the map after the largest step, by source and target: cells x 2."""
    file = folder.path / "changed_cells.h5ad"
    if not file.is_file():
        return {}
    refuse_what_cannot_be_held(file)
    with h5py.File(file) as stored:
        if _keys.TSNE not in stored["obsm"]:
            return {}
        obs, map_ = read_elem(stored["obs"]), stored[f"obsm/{_keys.TSNE}"]
        if map_.shape != (len(obs), 2):
            raise DataError(f"{str(file)!r} has a map of shape {map_.shape} for {len(obs)} cells.")
        places = read_elem(map_)
    own = obs.reset_index(drop=True).groupby(["source", "target"], observed=True).indices
    return {(str(a), str(b)): np.asarray(places, float)[rows].round(2) for (a, b), rows in own.items()}


def _genes(tables: dict[str, pd.DataFrame | None], target: str, shown: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"effects": [], "minimal": [], "n_genes": []}
    effects, minimal, sets = tables["effects"], tables["minimal_genes"], tables["minimal_sets"]
    if effects is not None:
        own = effects[effects["target"] == target].head(N_GENES)
        found["effects"] = [
            [shown.get(r.gene, short(r.gene)), r.direction, r.effect, r.agreement] for r in own.itertuples()
        ]
    if minimal is not None:
        own = minimal[minimal["target"] == target].head(N_GENES)
        found["minimal"] = [
            [shown.get(r.gene, short(r.gene)), r.direction, r.share, r.null_share, r.q_value] for r in own.itertuples()
        ]
    if sets is not None:
        found["n_genes"] = sets.loc[sets["target"] == target, "n_genes"].dropna().astype(int).tolist()
    return found


def _numbers(row: pd.Series) -> dict[str, Any]:
    names = ("n_sd", "n_flipped", "median_n_genes", "flipped_by_de_genes", "flipped_by_random_genes", "q_value")
    return {name: None if not np.isfinite(row[name]) else float(row[name]) for name in names}
