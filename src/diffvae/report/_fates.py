"""Section "Fates": where walks from the progenitors end, on the map and by group, and the calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata.io import read_elem

from diffvae import _keys
from diffvae.pl._fates import leaning
from diffvae.pl._style import GREY
from diffvae.report._encode import packed, short
from diffvae.report._folder import DamagedError, stored_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diffvae.report._folder import Folder
    from diffvae.report._map import Cells

NONE, OTHER = 254, 255
"""Codes of progenitors that lean to no fate, and of other cells."""


def data(folder: Folder, cells: Cells, colours: Mapping[str, str]) -> dict[str, Any] | None:
    """Return calls, and fates of the drawn cells and of groups; None if no progenitors were called.

    A result of an earlier version has calls without fates.
    """
    calls = folder.table("tables/commitment")
    if calls is None:
        return None
    table = folder.table("tables/fates")
    return {
        "progenitors": _calls(calls, cells),
        "source": short(folder.summary["parameters"].get("source", "")),
        "map": None if table is None else _map(folder, cells, colours),
        "groups": [] if table is None else _groups(table, colours),
    }


def _map(folder: Folder, cells: Cells, colours: Mapping[str, str]) -> dict[str, Any]:
    """Return the fate of each drawn cell, how far it leans to it, and the colours of the fates."""
    file = folder.path / "cells.h5ad"
    with stored_in(file) as stored:
        values, about = read_elem(stored[f"obsm/{_keys.FATES}"]), read_elem(stored[f"uns/{_keys.UNS}/fates"])
    names, n = [str(name) for name in about.get("names", ())], cells.adata.n_obs
    if np.shape(values) != (n, len(names)) or not 0 < len(names) < NONE or "alpha" not in about:
        raise DamagedError(f"{str(file)!r} has fates of shape {np.shape(values)} for {n} cells and {len(names)} types")
    found = leaning(np.asarray(values, float), float(about["alpha"]))
    codes = np.where(found.fate == -2, OTHER, np.where(found.fate == -1, NONE, found.fate))
    return {
        "names": [short(name) for name in names],
        "colours": [colours.get(name, GREY) for name in names],
        "fate": packed(codes[cells.rows].astype(np.uint8)),
        "strength": packed(np.rint(255 * found.strength[cells.rows]).astype(np.uint8)),
        "unreached": int(about.get("n_unreached", 0)),
    }


def _groups(table: pd.DataFrame, colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the groups of progenitors, each with its fates, the most probable first."""
    groups = []
    for group, own in table.groupby("group", sort=False):
        own = own.sort_values("probability", ascending=False, kind="stable")
        groups.append(
            {
                "name": short(group),
                "n_cells": int(own["n_cells"].iloc[0]),
                "fates": [
                    [short(r.type), colours.get(r.type, GREY), r.probability, r.se, r.pca, r.null, r.null_sd]
                    for r in own.itertuples()
                ],
            }
        )
    return groups


def _calls(table: pd.DataFrame | None, cells: Cells) -> list[list[Any]]:
    if table is None:
        return []
    if "posterior" not in table:  # of an earlier version
        table = table.assign(posterior=table.get("confidence", np.nan))
    columns = ["progress", "call_pca", "call_links"]
    table = table.assign(**{name: np.nan if name == "progress" else "" for name in columns if name not in table})
    called = table["call"] != "uncommitted"
    table = table.assign(called=called).sort_values(["called", "posterior"], ascending=False, kind="stable")
    return [
        [int(place), short(r.cell), short(r.call), r.posterior, r.progress, short(r.call_pca), short(r.call_links)]
        for place, r in zip(cells.place(table["cell"]), table.itertuples(), strict=True)
    ]
