"""Section "Perturbation": which cells are converted at which step, compared with chance, and through which genes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata.io import read_elem

from diffvae import _keys
from diffvae._core.words import either
from diffvae.pl._conversion import BEYOND_CHANCE, METHODS
from diffvae.report._encode import distinct, short
from diffvae.report._folder import DamagedError, stored_in
from diffvae.tl._regulators import transcription_factors

if TYPE_CHECKING:
    from diffvae.report._folder import Folder
    from diffvae.report._map import Cells

N_GENES = 15
GENE_TABLES = {
    "effects": (["log_effect", "effect"], ["agreement"]),
    "minimal_genes": (["mean_log_change", "mean_change"], ["share", "null_share", "q_value"]),
}
"""Tables of genes, and their columns on the page after gene and direction: the first change that there is, and more."""


def data(folder: Folder, cells: Cells, shown: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the curves, the converted cells of each step and the genes, for each source and target."""
    conversions, resistance = folder.table("tables/conversions"), folder.table("tables/resistance")
    if conversions is None or resistance is None:
        return None
    parameters = folder.summary["parameters"]
    unit = "step" if parameters.get("step") and "step" in conversions else "n_sd"
    if conversions.duplicated(["source", "target", "method", unit]).any():
        raise DamagedError(f"{str(folder.path)!r} has two conversions with the same source, target, method and {unit}")
    targets, sets = folder.table("tables/targets"), folder.table("tables/minimal_sets")
    genes = {name: folder.table(f"tables/{name}") for name in GENE_TABLES}
    places = _places(folder, cells)
    steps = sorted(conversions[unit].unique().tolist())
    default = str(conversions["method"].iloc[0])
    names = {side: list(dict.fromkeys(conversions[side])) for side in ("source", "target")}
    titles = {side: dict(zip(values, distinct(values), strict=True)) for side, values in names.items()}
    pairs = []
    for (source, target), rows in conversions.groupby(["source", "target"], sort=False):
        moved = resistance[(resistance["source"] == source) & (resistance["target"] == target)]
        known = _of(targets, source, target)
        row = {} if known.empty else known.iloc[0].to_dict()
        own = rows[rows["method"] == default].set_index(unit).reindex(steps)
        at = row.get(unit, np.nan)
        start = len(steps) - 1 if np.isnan(at) else int(np.abs(np.array(steps) - at).argmin())
        a, b = titles["source"][source], titles["target"][target]
        n_genes = [] if sets is None else _of(sets, source, target)["n_genes"].dropna().to_numpy(int)
        pairs.append(
            {
                "source": a,
                "target": b,
                "n_cells": int(rows["n_cells"].iloc[0]),
                "start": start,
                "reached": bool(row["reached"]) if "reached" in row else None,
                "curves": {
                    str(method): _column(of.set_index(unit).reindex(steps), "converted")
                    for method, of in rows.groupby("method", sort=False)
                },
                **{name: _column(own, name) for name in ("judged", "nearest")},
                **{name: _column(own, name) for name in ("null_mean", "null_low", "null_high", "q_value")},
                **_converted(moved, cells, steps),
                "placed": places.get((str(source), str(target)), []),
                "way": _way(row, b),
                "effects": _top_genes(_of(genes["effects"], source, target), "effects", shown),
                "minimal": _top_genes(_of(genes["minimal_genes"], source, target), "minimal_genes", shown),
                "n_genes": n_genes,
                "empty": "" if len(n_genes) else _why_empty(own, unit, parameters, a, b, row.get("searched", True)),
                "numbers": _numbers(row) if row else None,
            }
        )
    methods = {name: [words, colour] for name, (words, colour, _) in METHODS.items()}
    return {
        "unit": unit, "steps": steps, "pairs": pairs, "methods": methods, "default": default, "max_q": BEYOND_CHANCE,
        "plasticity": _plasticity(folder, titles) if len(names["source"]) > 1 else None,
    }  # fmt: skip


def _of(table: pd.DataFrame | None, source: str, target: str) -> pd.DataFrame:
    """Return the rows of a pair; an earlier version had one source and wrote it into some tables only."""
    if table is None:
        return pd.DataFrame()
    own = table["target"] == target
    return table[own & (table["source"] == source)] if "source" in table else table[own]


def _plasticity(folder: Folder, titles: Mapping[str, Mapping[str, str]]) -> dict[str, Any] | None:
    """Return the share of each source converted beyond chance to each target, at one change of expression."""
    table = folder.table("tables/plasticity")
    if table is None:
        return None
    sources, targets = list(titles["source"]), list(titles["target"])
    targets = [t for t in sources if t in targets] + [t for t in targets if t not in sources]  # a diagonal
    wide = {
        name: table.assign(**{name: table[name].astype(float)})
        .pivot(index="source", columns="target", values=name)
        .reindex(sources, columns=targets)
        .to_numpy(float)
        for name in ("excess_agreed", "reached", "within")
    }
    return {
        "sources": [titles["source"][s] for s in sources],
        "targets": [titles["target"][t] for t in targets],
        "change": float(table["change"].median()),
        "share": wide["excess_agreed"].round(4),
        **{name: wide[name] == 1 for name in ("reached", "within")},
    }


def genes(folder: Folder) -> list[str]:
    """Return the genes in the tables of a perturbation, in the order of the page."""
    tables = [folder.table(f"tables/{name}") for name in GENE_TABLES]
    pair = ["source", "target"]
    tops = [
        t.groupby([c for c in pair if c in t], sort=False).head(N_GENES)["gene"].tolist()
        for t in tables
        if t is not None
    ]
    return [gene for top in tops for gene in top if gene]


def _column(by_step: pd.DataFrame, name: str) -> np.ndarray | None:
    """Return a number per step; None if an earlier version did not write it."""
    return by_step[name].to_numpy(float).round(4) if name in by_step else None


def _converted(resistance: pd.DataFrame, cells: Cells, steps: list[float]) -> dict[str, Any]:
    """Return the drawn source cells, and at each step which of them are converted."""
    place = cells.place(resistance["cell"])
    drawn = place >= 0
    at = [set(text.split(", ")) for text in resistance.loc[drawn, "converted_at"]]
    return {"cells": place[drawn], "converted": [[i for i, s in enumerate(at) if f"{step:g}" in s] for step in steps]}


def _places(folder: Folder, cells: Cells) -> dict[tuple[str, str], list[list[Any]]]:
    """Return the drawn cells that are converted, each with its place after the change, by source and target."""
    file = folder.path / "changed_cells.h5ad"
    if not file.is_file():
        return {}
    with stored_in(file) as stored:
        if _keys.TSNE not in stored["obsm"]:
            return {}
        obs, shape = read_elem(stored["obs"]), stored[f"obsm/{_keys.TSNE}"].shape
        places = read_elem(stored[f"obsm/{_keys.TSNE}"]) if shape == (len(obs), 2) else None
    if places is None or not {"cell", "source", "target", "converted"} <= set(obs):
        raise DamagedError(
            f"{str(file)!r} has a map of shape {shape} for {len(obs)} cells, or no cell, source, target and converted"
        )
    own = cells.place(obs["cell"])
    moved = pd.DataFrame({"source": obs["source"].astype(str), "target": obs["target"].astype(str)}).reset_index()
    moved = moved[(own >= 0) & obs["converted"].to_numpy(bool)]
    xy = np.asarray(places, float).round(2)
    pairs: dict[tuple[str, str], list[list[Any]]] = {}
    for row, source, target in zip(moved.index, moved["source"], moved["target"], strict=True):
        pairs.setdefault((source, target), []).append([own[row], *xy[row]])
    return pairs


def _way(row: Mapping[str, Any], target: str) -> str:
    """Say how the target lies to the source: along which way, and whether earlier; empty if it isn't known."""
    said = []
    if not np.isnan(route := row.get("route", np.nan)):
        if np.isinf(route):
            said.append("No way leads there through cells that exist.")
        else:
            through = f", through {short(row['passes'])}" if row.get("passes") else ""
            said.append(f"The shortest way through cells that exist is {route:.1f} times the straight line{through}.")
    if bool(row.get("earlier", False)):
        said.append(f"{target} is earlier than the source: this means going back.")
    return " ".join(said)


def _why_empty(
    own: pd.DataFrame,
    unit: str,
    parameters: Mapping[str, Any],
    source: str,
    target: str,
    searched: bool = True,
) -> str:
    """Say why no set of genes was found, and what to do."""
    if not searched:
        alone = either(f"source={source!r}, target=[{target!r}]", f'--source "{source}" --target "{target}"')
        return (
            f"No genes are searched from {source} to {target}: with several sources only for pairs that are reached "
            f"and are no jump. What to do: give this pair alone ({alone})."
        )
    counts = (own["converted"] * own["n_cells"]).fillna(0).round().astype(int)
    largest, before, converted = counts.index[-1], counts.iloc[0], counts.iloc[1:].max()
    step = f"{largest:g} sd" if unit == "n_sd" else f"{largest:g} of the distance between the types"
    steps = f"{1.5 * largest:g}", f"{2 * largest:g}"
    option = either(f"{unit}=[{', '.join(steps)}]", f'--{unit.replace("_", "-")} "{" ".join(steps)}"')
    larger = f"try larger steps ({option}), or a source nearer to {target}"
    if not converted:
        return (
            f"The classifier calls no cell of {source} {target} at any step up to {step}, so no genes are searched. "
            f"What to do: {larger}."
        )
    if before >= converted:
        return (
            f"{before} cells of {source} are called {target} before any step, and no more after it, so no gene needs "
            "to change. What to do: look at how often the classifier confuses the two types "
            "(classifier_confusion.csv)."
        )
    if parameters.get("restrict"):
        larger = "let other genes change as well, by a longer list or without " + either("restrict", "--restrict")
    elif parameters.get("direction", "both") != "both":
        larger = "let genes change in both directions, without " + either("direction", "--direction")
    return f"{converted} cells become {target}, but no set of genes alone does it. What to do: {larger}."


def _top_genes(table: pd.DataFrame, name: str, shown: Mapping[str, str]) -> list[list[Any]]:
    if table.empty:
        return []
    changes, more = GENE_TABLES[name]
    change = next(c for c in changes if c in table)
    top = table.head(N_GENES)
    columns = top[["gene", "direction", change, *more]].itertuples(index=False)
    is_tf = top["is_tf"].astype(str).eq("True") if "is_tf" in top else transcription_factors(top["gene"])
    factors = np.where(is_tf, "TF", "")
    return [[shown.get(gene, short(gene)), *values, tf] for (gene, *values), tf in zip(columns, factors, strict=True)]


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("n_flipped", "median_n_genes", "flipped_by_de_genes", "flipped_by_random_genes")
    return {name: None if not np.isfinite(row[name]) else float(row[name]) for name in names}
