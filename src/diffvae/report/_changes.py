"""Section "Perturbation": which cells are converted at which step, compared with chance, and through which genes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata.io import read_elem

from diffvae import _keys
from diffvae.report._encode import distinct, short
from diffvae.report._folder import DamagedError, stored_in

if TYPE_CHECKING:
    from diffvae.report._folder import Folder
    from diffvae.report._map import Cells

N_GENES = 15
METHODS = {
    "shift": "shift of the target's dimensions",
    "mean": "step to the target's latent mean",
    "expression_mean": "step between mean expressions, no model",
    "none": "decoding without a shift",
}
GENE_TABLES = {"effects": ["effect", "agreement"], "minimal_genes": ["share", "null_share", "q_value"]}
"""Tables of genes, and their columns on the page after gene and direction."""


def data(folder: Folder, cells: Cells, shown: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the curve, the converted cells of each step and the genes, for each source and target."""
    conversions, resistance = folder.table("tables/conversions"), folder.table("tables/resistance")
    if conversions is None or resistance is None:
        return None
    targets, sets = folder.table("tables/targets"), folder.table("tables/minimal_sets")
    genes = {name: folder.table(f"tables/{name}") for name in GENE_TABLES}
    places = _places(folder)
    steps = sorted(conversions["n_sd"].unique().tolist())
    names = {side: list(dict.fromkeys(conversions[side])) for side in ("source", "target")}
    titles = {side: dict(zip(values, distinct(values), strict=True)) for side, values in names.items()}
    pairs = []
    for (source, target), rows in conversions.groupby(["source", "target"], sort=False):
        moved = resistance[(resistance["source"] == source) & (resistance["target"] == target)]
        numbers = None if targets is None else targets[targets["target"] == target]
        pairs.append(
            {
                "source": titles["source"][source],
                "target": titles["target"][target],
                "n_cells": int(rows["n_cells"].iloc[0]),
                "curves": _curves(rows, steps),
                **_converted(moved, cells, steps),
                "effects": _top_genes(genes["effects"], "effects", target, shown),
                "minimal": _top_genes(genes["minimal_genes"], "minimal_genes", target, shown),
                "n_genes": [] if sets is None else sets.loc[sets["target"] == target, "n_genes"].dropna().to_numpy(int),
                "placed": places.get((str(source), str(target)), []),
                "numbers": None if numbers is None or numbers.empty else _numbers(numbers.iloc[0]),
            }
        )
    return {"steps": steps, "pairs": pairs, "methods": METHODS}


def genes(folder: Folder) -> list[str]:
    """Return the genes in the tables of a perturbation, in the order of the page."""
    tables = [folder.table(f"tables/{name}") for name in GENE_TABLES]
    tops = [t.groupby("target", sort=False).head(N_GENES)["gene"].tolist() for t in tables if t is not None]
    return [gene for top in tops for gene in top if gene]


def _curves(rows: pd.DataFrame, steps: list[float]) -> dict[str, Any]:
    curves: dict[str, Any] = {}
    for method, of_method in rows.groupby("method", sort=False):
        by_step = of_method.set_index("n_sd").reindex(steps)
        curves[str(method)] = by_step["converted"].to_numpy(float).round(4)
        if method == "shift":
            for column in ("null_mean", "null_low", "null_high", "q_value"):
                curves[column] = by_step[column].to_numpy(float).round(4)
    return curves


def _converted(resistance: pd.DataFrame, cells: Cells, steps: list[float]) -> dict[str, Any]:
    """Return the drawn source cells, and at each step which of them are converted."""
    place = cells.place(resistance["cell"])
    drawn = place >= 0
    at = [set(text.split(", ")) for text in resistance.loc[drawn, "converted_at"]]
    return {"cells": place[drawn], "converted": [[i for i, s in enumerate(at) if f"{step:g}" in s] for step in steps]}


def _places(folder: Folder) -> dict[tuple[str, str], np.ndarray]:
    """Return the places of the changed cells on the map at the largest step, by source and target: cells x 2."""
    file = folder.path / "changed_cells.h5ad"
    if not file.is_file():
        return {}
    with stored_in(file) as stored:
        if _keys.TSNE not in stored["obsm"]:
            return {}
        obs, shape = read_elem(stored["obs"]), stored[f"obsm/{_keys.TSNE}"].shape
        places = read_elem(stored[f"obsm/{_keys.TSNE}"]) if shape == (len(obs), 2) else None
    if places is None or not {"source", "target"} <= set(obs):
        raise DamagedError(f"{str(file)!r} has a map of shape {shape} for {len(obs)} cells, or no source and target")
    pairs = obs.reset_index(drop=True).groupby(["source", "target"], observed=True).indices
    return {(str(a), str(b)): np.asarray(places, float)[rows].round(2) for (a, b), rows in pairs.items()}


def _top_genes(table: pd.DataFrame | None, name: str, target: Any, shown: Mapping[str, str]) -> list[list[Any]]:
    if table is None:
        return []
    top = table[table["target"] == target].head(N_GENES)
    columns = top[["gene", "direction", *GENE_TABLES[name]]].itertuples(index=False)
    return [[shown.get(gene, short(gene)), *values] for gene, *values in columns]


def _numbers(row: pd.Series) -> dict[str, Any]:
    names = ("n_sd", "n_flipped", "median_n_genes", "flipped_by_de_genes", "flipped_by_random_genes", "q_value")
    return {name: None if not np.isfinite(row[name]) else float(row[name]) for name in names}
